"""Preparation of a run: structures, labels, model and data sets from a configuration."""

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from lesjax import io
from lesjax.models.config import ModelConfig
from lesjax.system import electronic_state
from lesjax.training.config import DataConfig, RunConfig
from lesjax.training.data import Dataset, make_dataset, reference_energies
from lesjax.training.terms import TERMS, labelled


# reason why no structure has a label, by `Term.where`
NOWHERE = {
    "any": "no structure has it. Leave it out.",
    "periodic": "no structure is periodic in all directions. Leave it out.",
    "open": "all structures are periodic, and a cell has no moments of its own. Leave it out, or set "
    "`data.pbc` = false for molecules in a box.",
}


@dataclass(frozen=True)
class Prepared:
    """Data and model of a run; `valid` and `test` are None where there is no such set.

    `fingerprint` identifies the training and validation data, see `fingerprint`; None where it is not known.
    """

    model: ModelConfig
    train: Dataset
    valid: Dataset | None
    test: Dataset | None = None
    fingerprint: str | None = None


def prepare(config: RunConfig) -> Prepared:
    """Read, split and pad the data and complete the model's hyper-parameters.

    Raises:
        ValueError: for data that cannot be used, with the file, structure or key.
    """
    data = config.data
    source = _read("train", data.train, data)
    if data.valid is not None:
        train, valid = source, _read("valid", data.valid, data)
    else:
        n_valid = round(data.valid_fraction * len(source.frames))
        order = np.random.default_rng(config.training.seed).permutation(len(source.frames)).tolist()
        train, valid = source.take(sorted(order[n_valid:])), source.take(sorted(order[:n_valid]))
        valid = dataclasses.replace(valid, name=f"{source.name}, of which some were drawn to validate on")
    if not train.frames:
        raise ValueError(f"`data.valid_fraction` = {data.valid_fraction} leaves no structure to train on.")
    model = model_config(config.model, data, train.frames, train.labels)
    prepared = Prepared(
        model,
        train=train.dataset(model),
        valid=valid.dataset(model) if valid.frames else None,
        fingerprint=fingerprint(train, valid),
    )
    check_labels(config, prepared, train.name, valid.name)
    if data.test is None:
        return prepared
    # read now: a broken file should not show up after hours of training
    source = _read("test", data.test, data)
    test = source.dataset(model)
    if not labelled(test):
        raise ValueError(f"{source.name}: no structure has a label under the names of `data.keys`.")
    return dataclasses.replace(prepared, test=test)


@dataclass(frozen=True)
class _Source:
    """Structures of one file, or some of them, with their labels and their indices in the file."""

    name: str
    frames: list[io.Atoms]
    labels: list[io.Labels]
    indices: list[int]
    pbc: bool | tuple[bool, bool, bool] | None
    epsilon_infinity: float = 1.0

    def take(self, members: list[int]) -> "_Source":
        """Return some of the structures."""
        frames, labels = [self.frames[i] for i in members], [self.labels[i] for i in members]
        return dataclasses.replace(self, frames=frames, labels=labels, indices=[self.indices[i] for i in members])

    def dataset(self, model: ModelConfig) -> Dataset:
        """Data set of the structures for the model."""
        with self.named():
            return make_dataset(
                model, self.frames, self.labels, self.pbc, self.indices, epsilon_infinity=self.epsilon_infinity
            )

    @contextmanager
    def named(self) -> Iterator[None]:
        """Put the name of the file before an error."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error


def _read(name: str, path: str, data: DataConfig) -> _Source:
    frames = io.read(path)
    if name == "train":
        frames = frames[: data.max_frames]
    pbc = None if isinstance(data.pbc, str) else data.pbc
    source = _Source(f"`data.{name}` = {path!r}", frames, [], list(range(len(frames))), pbc, data.epsilon_infinity)
    with source.named():
        return dataclasses.replace(source, labels=io.all_labels(frames, data.keys))


def fingerprint(*sources: _Source) -> str:
    """Hash of structures and labels in their order, as they are read: padding, dtype and settings do not matter.

    A kind of label counts only where a structure has it.
    """
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{len(source.frames)} structures\n".encode())
        for atoms, labels in zip(source.frames, source.labels, strict=True):
            values = {"numbers": atoms.numbers, "positions": atoms.positions, "cell": atoms.cell.array}
            values |= {"pbc": atoms.pbc, "electronic_state": electronic_state(atoms), **vars(labels)}
            for name, value in values.items():
                array = np.asarray(value, float)
                if not np.isnan(array).all():
                    digest.update(f"{name} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()


def check_labels(config: RunConfig, prepared: Prepared, train_name: str, valid_name: str) -> None:
    """Raise ValueError where a phase has a weight for a label that no structure has or that cannot be computed."""
    train, valid = labelled(prepared.train), labelled(prepared.valid) if prepared.valid is not None else None
    for i, phase in enumerate(config.training.phases):
        terms = [term for term in TERMS if phase.weights.get(term.name, 0.0) > 0]
        for term in terms:
            key = f"`training.phases[{i}].weights.{term.name}`"
            if not any(term.applies(bucket.system.pbc) for bucket in prepared.train.buckets):
                raise ValueError(f"{key} is positive, but {NOWHERE[term.where]}")
            if term.name not in train:
                kind = "" if term.where == "any" else f"{term.where} "
                names = ", ".join(getattr(config.data.keys, term.name, ()))
                order = f"{term.name}_order"
                order = f", their order in `data.keys.{order}`," if hasattr(config.data.keys, order) else ""
                raise ValueError(
                    f"{key} is positive, but no {kind}structure of {train_name} has {term.name}; looked for {names}. "
                    f"Name the key in `data.keys.{term.name}`{order} or leave the weight out."
                )
            if "charges" in term.needs and config.model.long_range is None:
                raise ValueError(f"{key} is positive, but `model.long_range` = false leaves no charges. Leave it out.")
        if valid is not None and not any(term.name in valid for term in terms):
            names = " or ".join(term.name for term in terms)
            raise ValueError(
                f"No structure to validate on, of {valid_name}, has {names}, which `training.phases[{i}]` trains on. "
                "Give a `data.valid` with labels, or `data.valid_fraction` = 0."
            )


def model_config(model: ModelConfig, data: DataConfig, frames: list[io.Atoms], labels: list[io.Labels]) -> ModelConfig:
    """Complete the hyper-parameters from the training set: elements, reference energies, scale."""
    data_elements = {int(z) for atoms in frames for z in atoms.numbers}
    elements = model.short_range.elements or tuple(sorted(data_elements))
    if not data_elements <= set(elements):
        raise ValueError(
            f"`model.short_range.elements` lacks {io.element_names(data_elements - set(elements))} of the training "
            "set: add them, or leave it out."
        )
    if model.reference_energies:
        raise ValueError("`model.reference_energies` belong to the data: give `data.reference_energies`.")
    if data.reference_energies == "none":
        references: tuple[float, ...] = (0.0,) * len(elements)
    elif isinstance(data.reference_energies, dict):
        references = _references_from_table(elements, data.reference_energies)
    else:
        references = reference_energies(elements, frames, labels)
    scale = model.energy_scale
    if scale is None:
        forces = np.concatenate([label.forces.ravel() for label in labels])
        forces = forces[np.isfinite(forces)]
        scale = float(np.sqrt(np.mean(forces**2))) if forces.size and np.any(forces != 0) else 1.0
    short_range = dataclasses.replace(model.short_range, elements=elements)  # pyright: ignore[reportArgumentType]
    return dataclasses.replace(model, short_range=short_range, energy_scale=scale, reference_energies=references)


def _references_from_table(elements: tuple[int, ...], table: dict[str, float]) -> tuple[float, ...]:
    symbols = [io.chemical_symbols[z] for z in elements]
    unknown = sorted(set(table) - set(io.chemical_symbols))
    missing = [symbol for symbol in symbols if symbol not in table]
    if unknown or missing:
        raise ValueError(
            f"`data.reference_energies` needs one energy for each of {', '.join(symbols)}"
            + (f"; {', '.join(missing)} missing" if missing else "")
            + (f"; {', '.join(unknown)} are not elements" if unknown else "")
            + "."
        )
    return tuple(table[symbol] for symbol in symbols)
