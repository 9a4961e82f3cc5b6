"""Preparation of a run: structures, labels, model and data sets from a configuration."""

import dataclasses
import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from lesjax import io
from lesjax.models.config import ModelConfig
from lesjax.models.provenance import Provenance
from lesjax.runs import lesjax_version
from lesjax.system import check_ghosts, electronic_state
from lesjax.training.config import DataConfig, RunConfig
from lesjax.training.data import Dataset, is_lone, lone_atom_energies, make_dataset, reference_energies
from lesjax.training.terms import TERMS, labelled


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
    has a line about each file that was read. `provenance` is what a saved model says about its data.
    """

    model: ModelConfig
    train: Dataset
    valid: Dataset | None
    test: Dataset | None = None
    fingerprint: str | None = None
    files: tuple[str, ...] = ()
    provenance: Provenance | None = None


def prepare(config: RunConfig) -> Prepared:
    """Read, split and pad the data and complete the model's hyper-parameters.

    Raises:
        ValueError: for data that cannot be used, with the file, structure or key.
    """
    data, cutoff = config.data, config.model.short_range.cutoff
    source = _read("train", data.train, config)
    files, contents = source.files, source.contents
    if data.valid is not None:
        train, valid = source, _read("valid", data.valid, config)
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
    with train.named():
        model = model_config(config.model, data, train.frames, train.labels)
    dataset = train.dataset(model)
    model = with_mean_neighbors(model, dataset)
    prepared = Prepared(
        model,
        train=dataset,
        valid=valid.dataset(model) if valid.frames else None,
        fingerprint=fingerprint(train, valid),
        files=files,
        provenance=_provenance(model, data, train, valid, contents),
    )
    check_labels(config, prepared, train.name, valid.name)
    if data.test is None:
        return prepared
    # read now: a broken file should not show up after hours of training
    source = _read("test", data.test, config)
    test = source.dataset(model)
    if not labelled(test):
        raise ValueError(f"{source.name}: no structure has a label under the names of `data.keys`.")
    return dataclasses.replace(prepared, test=test, files=files + source.files)


@dataclass(frozen=True)
class _Source:
    """Structures of one or several files, or some of them, with their labels, weights and indices in the files.

    `files` has a line for each file, `contents` the same without its folder.
    """

    name: str
    frames: list[io.Atoms]
    labels: list[io.Labels]
    weights: list[dict[str, float]]
    indices: list[int | str]
    files: tuple[str, ...]
    pbc: bool | tuple[bool, bool, bool] | None
    epsilon_infinity: float = 1.0
    contents: tuple[str, ...] = ()

    def take(self, members: list[int]) -> "_Source":
        """Return some of the structures."""
        lists = {name: [value[i] for i in members] for name, value in vars(self).items() if isinstance(value, list)}
        return dataclasses.replace(self, **lists)

    def dataset(self, model: ModelConfig) -> Dataset:
        """Data set of the structures for the model."""
        with self.named():
            return make_dataset(
                model,
                self.frames,
                self.labels,
                self.pbc,
                self.indices,
                epsilon_infinity=self.epsilon_infinity,
                weights=self.weights,
            )

    @contextmanager
    def named(self) -> Iterator[None]:
        """Put the name of the file before an error."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error


def _read(name: str, path: str | tuple[str, ...], config: RunConfig) -> _Source:
    """Read the files of `data.train`, `valid` or `test`; the first two without what their weights leave out."""
    data, needed = config.data, _needed(config)
    files = io.find_files(path)
    pbc = None if isinstance(data.pbc, str) else data.pbc
    where = f"`data.{name}` = {path if isinstance(path, str) else list(path)!r}"
    source = _Source(where if len(files) > 1 else f"`data.{name}` = {str(files[0])!r}", [], [], [], [], (), pbc)
    lines, contents = [], []
    for file in files:
        frames = io.read(file)
        if name == "train" and data.max_frames is not None:
            frames = frames[: data.max_frames - len(source.frames)]
        one = dataclasses.replace(source, name=f"`data.{name}` = {str(file)!r}")
        with one.named():
            _check_ghosts(frames)
            chosen = io.select(frames, data.keys, mixed=data.labels, needed=needed) if frames else None
        if chosen is None:
            break
        source.indices.extend(i if len(files) == 1 else f"{i} of {str(file)!r}" for i in chosen.members)
        source.frames.extend(chosen.frames)
        source.labels.extend(chosen.labels)
        source.weights.extend(chosen.weights)
        names = ", ".join(chosen.names.values()) or "no labels"
        lines.append(f"data.{name}: {file}: {len(chosen.members)} structures; {names}")
        contents.append(f"data.{name}: {file.name}: {len(chosen.members)} structures; {names}")
    source = dataclasses.replace(
        source, files=tuple(lines), contents=tuple(contents), epsilon_infinity=data.epsilon_infinity
    )
    # no weight counts in a test; all of them are one there
    return source if name == "test" else _weighed(source)


def _needed(config: RunConfig) -> set[str]:
    """What weights and model ask of the files; unusable labels of other kinds are left out."""
    needed = {name for phase in config.training.phases for name, weight in phase.weights.items() if weight > 0}
    needed |= {"total_charge"} if config.model.needs_total_charge else set()
    return needed | set(config.model.state_inputs)


def _check_ghosts(frames: list[io.Atoms]) -> None:
    for i, atoms in enumerate(frames):
        try:
            check_ghosts(atoms.numbers)
        except ValueError as error:
            raise ValueError(f"Structure {i}: {error}") from error


def _weighed(source: _Source) -> _Source:
    """The structures without labels of weight 0, and without those that are left with none."""
    labels, kept = [], []
    for i, (label, weights) in enumerate(zip(source.labels, source.weights, strict=True)):
        known = {name for name, value in vars(label).items() if np.isfinite(value).any()}
        void = {name for name in known if weights[name] == 0.0}
        labels.append(dataclasses.replace(label, **{name: np.full_like(vars(label)[name], np.nan) for name in void}))
        if not void or void < known:
            kept.append(i)
    if len(kept) < len(labels):
        number = len(labels) - len(kept)
        warnings.warn(f"{source.name}: {number} structures of weight 0 are left out.", stacklevel=2)
    if labels and not kept:
        raise ValueError(f"{source.name}: all {len(labels)} structures have the weight 0. Leave one a weight.")
    return dataclasses.replace(source, labels=labels).take(kept)


def fingerprint(*sources: _Source) -> str:
    """Hash of structures and labels in their order, as they are read: padding, dtype and settings do not matter.

    A kind of label counts only where a structure has it.
    """
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{len(source.frames)} structures\n".encode())
        for atoms, labels, weights in zip(source.frames, source.labels, source.weights, strict=True):
            values = {"numbers": atoms.numbers, "positions": atoms.positions, "cell": atoms.cell.array}
            values |= {"pbc": atoms.pbc, "electronic_state": electronic_state(atoms), **vars(labels)}
            if any(weight != 1.0 for weight in weights.values()):
                values["weights"] = list(weights.values())
            for name, value in values.items():
                array = np.asarray(value, float)
                if not np.isnan(array).all():
                    digest.update(f"{name} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()


def _provenance(
    model: ModelConfig, data: DataConfig, train: _Source, valid: _Source, contents: tuple[str, ...]
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
    rest = len(contents) - MAX_FILES
    return Provenance(
        lesjax_version(),
        data=contents if rest <= 0 else (*contents[:MAX_FILES], f"{rest} more files"),
        fingerprint=fingerprint(train, valid),
        n_train=len(train.frames),
        n_valid=len(valid.frames),
        reference_energies=dict(zip((io.chemical_symbols[z] for z in elements), how, strict=True)),
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
    if by_element is None and model.state_inputs:
        by_element = any(len(atoms) == 1 and abs(electronic_state(atoms)[0]) > 0 for atoms in frames) or None
    return dataclasses.replace(
        model,
        short_range=short_range,
        energy_scale=scale,
        reference_energies=references,
        state_by_element=by_element,
    )


def with_mean_neighbors(model: ModelConfig, dataset: Dataset) -> ModelConfig:
    """Fill in the mean number of neighbours of the training set, for a short-range model that asks for it.

    That is one with a field `avg_num_neighbors`, where it is None.
    """
    fields = {field.name: getattr(model.short_range, field.name) for field in dataclasses.fields(model.short_range)}  # pyright: ignore[reportArgumentType]
    if fields.get("avg_num_neighbors", 1.0) is not None:
        return model
    n_atoms = sum(int(np.sum(bucket.system.atom_mask)) for bucket in dataset.buckets)
    n_pairs = sum(int(np.sum(bucket.system.neighbor_mask)) for bucket in dataset.buckets)
    mean = round(n_pairs / n_atoms, 3) if n_pairs else 1.0
    short_range = dataclasses.replace(model.short_range, avg_num_neighbors=mean)  # pyright: ignore[reportArgumentType]
    return dataclasses.replace(model, short_range=short_range)


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
