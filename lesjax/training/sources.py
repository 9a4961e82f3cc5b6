"""Structures of a run with their labels and weights, as they are read from files."""

import dataclasses
import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from lesjax import io
from lesjax.models.config import ModelConfig
from lesjax.system import check_ghosts, electronic_state
from lesjax.training.config import ReplayConfig, RunConfig
from lesjax.training.data import Dataset, make_dataset


@dataclass(frozen=True)
class Source:
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

    def take(self, members: list[int]) -> "Source":
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


def read_source(name: str, path: str | tuple[str, ...], config: RunConfig) -> Source:
    """Read the files of `data.train`, `valid` or `test`; the first two without what their weights leave out."""
    data, needed = config.data, _needed(config)
    files = io.find_files(path)
    pbc = None if isinstance(data.pbc, str) else data.pbc
    where = f"`data.{name}` = {path if isinstance(path, str) else list(path)!r}"
    source = Source(where if len(files) > 1 else f"`data.{name}` = {str(files[0])!r}", [], [], [], [], (), pbc)
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


def _weighed(source: Source) -> Source:
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


def read_replay(entry: ReplayConfig, config: RunConfig) -> Source:
    """Structures of an earlier set, with their weight."""
    source = read_source("replay", entry.path, config)
    if not source.frames:
        raise ValueError(f"{source.name}: there is no structure. Leave it out.")
    weights = [{name: entry.weight * weight for name, weight in of_frame.items()} for of_frame in source.weights]
    return dataclasses.replace(source, weights=weights)


def joined(first: Source, *others: Source) -> Source:
    """Structures of several sources, which their indices tell apart."""
    if not others:
        return first
    sources = (first, *others)
    indices = [f"{i} of {source.name}" if isinstance(i, int) else i for source in sources for i in source.indices]
    lists = {name: [x for source in sources for x in getattr(source, name)] for name in ("frames", "labels", "weights")}
    name = " and ".join(source.name for source in sources)
    return dataclasses.replace(first, name=name, indices=indices, **lists)


def fingerprint(*sources: Source) -> str:
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
