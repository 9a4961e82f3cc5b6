"""The model that a training starts from: reading it, and which settings it leaves open."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lesjax.models.config import ModelConfig
from lesjax.models.potential import Potential, load
from lesjax.models.storage import FILES
from lesjax.published import convert_with_report
from lesjax.schema import flat, to_plain


# parts of a model that may be added to one without them
ADDED = (
    "long_range",
    "dispersion",
    "long_range.charges.dipoles",
    "long_range.charges.quadrupoles",
    "long_range.charges.induction",
)
ELEMENTS = "short_range.elements"  # of which there may be more
MAX_LINES = 20


@dataclass(frozen=True)
class Start:
    """A model that a training starts from.

    Attributes:
        path: where it was read.
        potential: the model.
        digest: SHA-256 hash of its files.
        has_reference_energies: False for a published file without them.
    """

    path: str
    potential: Potential
    digest: str
    has_reference_energies: bool = True

    def model(self, model: ModelConfig) -> ModelConfig:
        """Return the settings of the new model; `model` at its defaults stands for those of the start.

        Raises:
            ValueError: for settings that contradict those of the start, with both.
        """
        config = dataclasses.replace(self.potential.config, reference_energies=())
        if model == ModelConfig():
            return config
        ours, theirs = to_plain(model), to_plain(config)
        flat_ours, flat_theirs = flat(ours), flat(theirs)
        # tables that one of them does not have
        names = {**dict.fromkeys(flat_theirs), **dict.fromkeys(flat_ours)}
        different = [name for name in names if _entry(ours, name) != _entry(theirs, name)]
        # a table that is missing, or a kind, comes before what follows from it
        different.sort(key=lambda name: (name.count("."), not name.endswith("kind")))
        for name in different:
            added = any(f"{name}.".startswith(f"{part}.") and not _entry(theirs, part) for part in ADDED)
            added |= name == "reference_energies"  # of which the data decide
            added |= name == ELEMENTS and set(_entry(theirs, name)) <= set(_entry(ours, name))
            if not added:
                raise ValueError(
                    f"`model.{name}` = {_shown(_entry(ours, name))}, but the model of `training.start_from` = "
                    f"{self.path!r} has {_shown(_entry(theirs, name))}: leave it out, or train without `start_from`."
                )
        return model

    def lines(self) -> tuple[str, ...]:
        """The model and what it was trained on, for the provenance of the new one; without its folder."""
        path, provenance = pathlib.Path(self.path), self.potential.provenance
        # the models of trainings are all named model
        name = path.name if path.is_file() else "/".join(path.absolute().parts[-2:])
        earlier = () if provenance is None else (*provenance.data, *provenance.start)
        return (f"{name}, SHA-256 {self.digest}", *(f"  {line.strip()}" for line in earlier[: MAX_LINES - 1]))


def read_start(path: str | os.PathLike) -> Start:
    """Read a model folder or a published file.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        ValueError: for an ensemble, a damaged model, or a file that `lesjax.convert` refuses.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        potential = load(path)
        return Start(str(path), potential, _digest(*(path / name for name in FILES)))
    potential = convert_with_report(path).potential
    provenance = potential.provenance
    known = provenance is not None and "none" not in provenance.reference_energies.values()
    return Start(str(path), potential, _digest(path), known)


def overlay(start: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a start, as nested dictionaries, with those that a file gives in their place."""
    merged = dict(start)
    for key, value in given.items():
        below = start.get(key)
        merged[key] = value
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            # a table of another kind has other entries
            of_kind = value.get("kind", below.get("kind")) == below.get("kind")
            merged[key] = overlay(below, value) if of_kind else value
    return merged


def _entry(plain: Any, name: str) -> Any:
    """Entry under a name joined by dots; None where it or a table above it is missing."""
    for part in name.split("."):
        plain = plain.get(part) if isinstance(plain, Mapping) else None
    return plain


def _shown(value: Any) -> str:
    """A setting in a message."""
    return "none" if value is None else "a table" if isinstance(value, Mapping) else repr(value)


def _digest(*paths: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
