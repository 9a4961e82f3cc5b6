"""Preparation of a run: structures, labels, model and data sets from a configuration."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from lesjax import io
from lesjax.models.config import ModelConfig
from lesjax.models.provenance import Provenance
from lesjax.runs import lesjax_version
from lesjax.system import electronic_state
from lesjax.training.config import DataConfig, RunConfig
from lesjax.training.data import Dataset, is_lone, lone_atom_energies, reference_energies, with_reference_energies
from lesjax.training.sources import Source, fingerprint, joined, read_replay, read_source
from lesjax.training.start import Start, read_start
from lesjax.training.terms import TERMS, labelled
from lesjax.training.transfer import corrected_references, initial_potential, new_elements


# files that a saved model names
MAX_FILES = 20
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

    `fingerprint` identifies the training and validation data, see `fingerprint`; None where it is not known. `files`
    has a line about each file that was read. `provenance` is what a saved model says about its data. `start` is the
    model that the training starts from. `replay` has the structures of earlier sets, which are among those of `train`.
    """

    model: ModelConfig
    train: Dataset
    valid: Dataset | None
    test: Dataset | None = None
    fingerprint: str | None = None
    files: tuple[str, ...] = ()
    provenance: Provenance | None = None
    start: Start | None = None
    replay: Dataset | None = None


def prepare(config: RunConfig) -> Prepared:
    """Read, split and pad the data and complete the model's hyper-parameters.

    Raises:
        ValueError: for data that cannot be used, with the file, structure or key.
    """
    data, start = config.data, None
    if config.training.start_from is not None:
        start = read_start(config.training.start_from)
        config = dataclasses.replace(config, model=start.model(config.model))
    cutoff = config.model.short_range.cutoff
    source = read_source("train", data.train, config)
    files, contents = source.files, source.contents
    if data.valid is not None:
        train, valid = source, read_source("valid", data.valid, config)
        files, contents = files + valid.files, contents + valid.contents
    else:
        # lone atoms fix the reference energies, and are no sample of anything
        drawn = np.array([i for i, atoms in enumerate(source.frames) if not is_lone(atoms, cutoff, source.pbc)], int)
        n_valid = round(data.valid_fraction * len(drawn))
        order = drawn[np.random.default_rng(config.training.seed).permutation(len(drawn))].tolist()
        chosen = set(order[:n_valid])
        train, valid = (
            source.take([i for i in range(len(source.frames)) if i not in chosen]),
            source.take(sorted(chosen)),
        )
        valid = dataclasses.replace(valid, name=f"{source.name}, of which some were drawn to validate on")
    if not train.frames:
        raise ValueError(f"`data.valid_fraction` = {data.valid_fraction} leaves no structure to train on.")
    replays = [read_replay(entry, config) for entry in data.replay]
    files += tuple(line for replay in replays for line in replay.files)
    contents += tuple(line for replay in replays for line in replay.contents)
    train = joined(train, *replays)
    with train.named():
        model = model_config(config.model, data, train.frames, train.labels, start)
    dataset = train.dataset(model)
    if start is None:
        model, dataset = with_mean_neighbors(model, dataset)
    else:
        model, dataset = _with_references(model, config, dataset, train, start)
        files += _start_lines(model, config, start)
    prepared = Prepared(
        model,
        train=dataset,
        valid=valid.dataset(model) if valid.frames else None,
        fingerprint=fingerprint(train, valid),
        files=files,
        provenance=_provenance(model, data, train, valid, contents, start),
        start=start,
        replay=joined(*replays).dataset(model) if replays else None,
    )
    check_labels(config, prepared, train.name, valid.name)
    if data.test is None:
        return prepared
    # read now: a broken file should not show up after hours of training
    source = read_source("test", data.test, config)
    test = source.dataset(model)
    if not labelled(test):
        raise ValueError(f"{source.name}: no structure has a label under the names of `data.keys`.")
    return dataclasses.replace(prepared, test=test, files=files + source.files)


def _with_references(
    model: ModelConfig, config: RunConfig, dataset: Dataset, train: Source, start: Start
) -> tuple[ModelConfig, Dataset]:
    """Fit reference energies to what the start leaves of the energies, as the configuration asks for."""
    wanted, known = config.data.reference_energies, start.potential.config.short_range.elements
    held = known if wanted == "keep" else ()
    if wanted not in ("fit", "refit", "keep") or set(model.short_range.elements) <= set(held):
        return model, dataset
    potential = initial_potential(model, config.training, dataset, start)
    references = corrected_references(
        potential, dataset, train.frames, train.labels, batch_size=config.training.batch_size, pbc=train.pbc, held=held
    )
    model = dataclasses.replace(model, reference_energies=references)
    return model, with_reference_energies(dataset, model, train.frames, train.labels)


def _start_lines(model: ModelConfig, config: RunConfig, start: Start) -> tuple[str, ...]:
    """Lines about the model that a run starts from, and how new elements start."""
    symbols, copied = io.chemical_symbols, config.training.new_elements == "nearest"
    elements = ", ".join(
        f"{symbols[z]} from {symbols[other] if copied else 'scratch'}"
        for z, other in new_elements(start.potential.config, model).items()
    )
    new = f"; new elements: {elements}" if elements else ""
    return (f"training.start_from: {start.path}{new}",)


def _provenance(
    model: ModelConfig,
    data: DataConfig,
    train: Source,
    valid: Source,
    contents: tuple[str, ...],
    start: Start | None,
) -> Provenance:
    """What a saved model says about its data, the same for the same data in any folder."""
    elements = model.short_range.elements
    if isinstance(data.reference_energies, dict):
        how = ["given"] * len(elements)
    elif data.reference_energies == "none":
        how = ["none"] * len(elements)
    else:
        lone = lone_atom_energies(elements, train.frames, train.labels, cutoff=model.short_range.cutoff, pbc=train.pbc)
        how = ["fitted" if np.isnan(energy) else "lone atom" for energy in lone]
    if start is not None and data.reference_energies == "keep":
        known = start.potential.config.short_range.elements
        how = ["kept" if z in known else way for z, way in zip(elements, how, strict=True)]
    rest = len(contents) - MAX_FILES
    return Provenance(
        lesjax_version(),
        data=contents if rest <= 0 else (*contents[:MAX_FILES], f"{rest} more files"),
        fingerprint=fingerprint(train, valid),
        n_train=len(train.frames),
        n_valid=len(valid.frames),
        reference_energies=dict(zip((io.chemical_symbols[z] for z in elements), how, strict=True)),
        start=() if start is None else start.lines(),
    )


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
                names = ", ".join(config.data.keys.names(term.name))
                virial = " (a virial: in `data.keys.virial`)" if term.name == "stress" else ""
                order = f"{term.name}_order"
                order = f", their order in `data.keys.{order}`," if hasattr(config.data.keys, order) else ""
                raise ValueError(
                    f"{key} is positive, but no {kind}structure of {train_name} has {term.name}; looked for {names}. "
                    f"Name the key in `data.keys.{term.name}`{virial}{order} or leave the weight out."
                )
            if "charges" in term.needs and config.model.long_range is None:
                raise ValueError(f"{key} is positive, but `model.long_range` = false leaves no charges. Leave it out.")
        if valid is not None and not any(term.name in valid for term in terms):
            names = " or ".join(term.name for term in terms)
            raise ValueError(
                f"No structure to validate on, of {valid_name}, has {names}, which `training.phases[{i}]` trains on. "
                "Give a `data.valid` with labels, or `data.valid_fraction` = 0."
            )


def model_config(
    model: ModelConfig,
    data: DataConfig,
    frames: list[io.Atoms],
    labels: list[io.Labels],
    start: Start | None = None,
) -> ModelConfig:
    """Complete the hyper-parameters from the training set: elements, reference energies, scale.

    With a model to start from, its elements come first and its settings stay; reference energies are its own, and zero
    for new elements, unless they are given.
    """
    data_elements = {int(z) for atoms in frames for z in atoms.numbers}
    elements = model.short_range.elements or tuple(sorted(data_elements))
    if start is not None:
        known = start.potential.config.short_range.elements
        elements = (*known, *sorted((data_elements | set(elements)) - set(known)))
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
    elif start is not None:
        references = _references_of(start, elements, data.reference_energies)
    else:
        pbc = None if isinstance(data.pbc, str) else data.pbc
        references = reference_energies(elements, frames, labels, cutoff=model.short_range.cutoff, pbc=pbc)
    scale = model.energy_scale
    if scale is None:
        forces = np.concatenate([label.forces.ravel() for label in labels])
        forces = forces[np.isfinite(forces)]
        scale = float(np.sqrt(np.mean(forces**2))) if forces.size and np.any(forces != 0) else 1.0
    short_range = dataclasses.replace(model.short_range, elements=elements)  # pyright: ignore[reportArgumentType]
    # lone atoms have no features: what sets the energies of ions of one charge apart is their element
    by_element = model.state_by_element
    if by_element is None and model.state_inputs and start is None:
        by_element = any(len(atoms) == 1 and abs(electronic_state(atoms)[0]) > 0 for atoms in frames) or None
    return dataclasses.replace(
        model,
        short_range=short_range,
        energy_scale=scale,
        reference_energies=references,
        state_by_element=by_element,
    )


def _references_of(start: Start, elements: tuple[int, ...], wanted: str) -> tuple[float, ...]:
    """Reference energies of the start, zero for new elements."""
    if wanted == "keep" and not start.has_reference_energies:
        raise ValueError(
            f"`data.reference_energies` = 'keep', but {start.path!r} has none. Take 'refit' or a table, or convert it "
            "with `lesjax convert --reference-energies` before."
        )
    config = start.potential.config
    table = dict(zip(config.short_range.elements, config.reference_energies, strict=False))
    return tuple(table.get(z, 0.0) for z in elements)


def with_mean_neighbors(model: ModelConfig, dataset: Dataset) -> tuple[ModelConfig, Dataset]:
    """Fill in the mean number of neighbours of the training set, for a short-range model that asks for it.

    Returns the model and the set, which belongs to it.

    That is one with a field `avg_num_neighbors`, where it is None.
    """
    fields = {field.name: getattr(model.short_range, field.name) for field in dataclasses.fields(model.short_range)}  # pyright: ignore[reportArgumentType]
    if fields.get("avg_num_neighbors", 1.0) is not None:
        return model, dataset
    n_atoms = sum(int(np.sum(bucket.system.atom_mask)) for bucket in dataset.buckets)
    n_pairs = sum(int(np.sum(bucket.system.neighbor_mask)) for bucket in dataset.buckets)
    mean = round(n_pairs / n_atoms, 3) if n_pairs else 1.0
    short_range = dataclasses.replace(model.short_range, avg_num_neighbors=mean)  # pyright: ignore[reportArgumentType]
    model = dataclasses.replace(model, short_range=short_range)
    return model, dataclasses.replace(dataset, config=model)


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
