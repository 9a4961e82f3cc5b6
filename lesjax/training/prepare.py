"""From a configuration to structures, labels, model and data sets."""

import dataclasses
from dataclasses import dataclass

import ase
import ase.data
import numpy as np

from lesjax import io
from lesjax.models.config import CACEConfig, ModelConfig
from lesjax.training.config import DataConfig, ModelSection, RunConfig
from lesjax.training.data import Dataset, make_dataset, reference_energies


@dataclass(frozen=True)
class Prepared:
    """Everything that a run works on; `valid` is None where there is no validation set."""

    model: ModelConfig
    train: Dataset
    valid: Dataset | None
    train_frames: list[ase.Atoms]
    valid_frames: list[ase.Atoms]


def prepare(config: RunConfig) -> Prepared:
    """Read, split and pad the data and complete the model's hyper-parameters.

    Raises:
        ValueError: for data that cannot be used, with the file, structure or key.
    """
    data = config.data
    frames = io.read(data.train)[: data.max_frames]
    if data.valid is not None:
        train_frames, valid_frames = frames, io.read(data.valid)
    else:
        n_valid = round(data.valid_fraction * len(frames))
        order = np.random.default_rng(config.training.seed).permutation(len(frames))
        valid_frames = [frames[i] for i in sorted(order[:n_valid])]
        train_frames = [frames[i] for i in sorted(order[n_valid:])]
    if not train_frames:
        raise ValueError(f"`data.valid_fraction` = {data.valid_fraction} leaves no structure to train on.")
    train_labels = [io.labels(atoms, data.keys) for atoms in train_frames]
    valid_labels = [io.labels(atoms, data.keys) for atoms in valid_frames]
    check_labels(config, train_labels)
    model = model_config(config.model, data, train_frames, train_labels)
    pbc = None if isinstance(data.pbc, str) else data.pbc
    try:
        train = make_dataset(model, train_frames, train_labels, pbc)
    except ValueError as error:
        raise ValueError(f"`data.train`: {error}") from error
    try:
        valid = make_dataset(model, valid_frames, valid_labels, pbc) if valid_frames else None
    except ValueError as error:
        raise ValueError(f"validation data: {error}") from error
    return Prepared(model, train, valid, train_frames, valid_frames)


def check_labels(config: RunConfig, labels: list[io.Labels]) -> None:
    """Raise ValueError where a phase weighs labels of which the training set has none."""
    for i, phase in enumerate(config.training.phases):
        for name in ("energy", "forces", "stress", "charges"):
            missing = not any(np.isfinite(getattr(label, name)).any() for label in labels)
            if getattr(phase, f"{name}_weight") > 0 and missing:
                raise ValueError(
                    f"`training.phases[{i}].{name}_weight` is positive, but no structure of `data.train` has {name}; "
                    f"looked for {', '.join(getattr(config.data.keys, name))}. Name the key in "
                    f"`data.keys.{name}` or set the weight to 0."
                )


def model_config(
    section: ModelSection, data: DataConfig, frames: list[ase.Atoms], labels: list[io.Labels]
) -> ModelConfig:
    """Complete the hyper-parameters by what the training set says: elements, reference energies, scale."""
    elements = tuple(sorted({int(z) for atoms in frames for z in atoms.numbers}))
    given = dataclasses.asdict(section)
    names = {f.name for f in dataclasses.fields(CACEConfig)} - {"elements"}
    representation = CACEConfig(elements=elements, **{name: given[name] for name in names})
    if data.reference_energies == "none":
        references: tuple[float, ...] = (0.0,) * len(elements)
    elif isinstance(data.reference_energies, dict):
        references = _references_from_table(elements, data.reference_energies)
    else:
        references = reference_energies(elements, frames, labels)
    scale = section.energy_scale
    if scale is None:
        forces = np.concatenate([label.forces.ravel() for label in labels])
        forces = forces[np.isfinite(forces)]
        scale = float(np.sqrt(np.mean(forces**2))) if forces.size and np.any(forces != 0) else 1.0
    return ModelConfig(
        representation=representation,
        long_range=section.long_range,
        hidden=section.hidden,
        linear=section.linear,
        energy_scale=scale,
        reference_energies=references,
    )


def _references_from_table(elements: tuple[int, ...], table: dict[str, float]) -> tuple[float, ...]:
    symbols = [ase.data.chemical_symbols[z] for z in elements]
    unknown = sorted(set(table) - set(ase.data.chemical_symbols))
    missing = [symbol for symbol in symbols if symbol not in table]
    if unknown or missing:
        raise ValueError(
            f"`data.reference_energies` needs one energy for each of {', '.join(symbols)}"
            + (f"; {', '.join(missing)} missing" if missing else "")
            + (f"; {', '.join(unknown)} are no elements" if unknown else "")
            + "."
        )
    return tuple(table[symbol] for symbol in symbols)
