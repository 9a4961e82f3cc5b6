"""Short-range models: their interface to lesjax, and the registry of their kinds.

A short-range model is a Flax module with one field, its frozen configuration, that maps a `System` to `Features`.
Energies, latent charges and heads are read out of these by lesjax, so that every kind of model has them all. The kind
is the name in configurations and in saved models: ``[model.short_range] kind = "cace"``.
"""

import dataclasses
import importlib
import importlib.metadata
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float, Int

from lesjax.schema import Kinds


class Features(NamedTuple):
    """Descriptors of n atoms. Entries of padded atoms have no meaning, but must be finite.

    Attributes:
        layers: invariants [n, f] of each layer; every layer gets its own readouts.
        vectors: k polar vectors of each atom, for latent dipoles.
        tensors: k symmetric tensors of each atom, for quadrupoles and anisotropic polarizabilities.
        energy: atomic energies that the model itself adds, eV.
    """

    layers: tuple[Float[Array, "n _"], ...]
    vectors: Float[Array, "n k 3"] | None = None
    tensors: Float[Array, "n k 3 3"] | None = None
    energy: Float[Array, " n"] | None = None


@runtime_checkable
class ShortRangeConfig(Protocol):
    """Hyper-parameters of a short-range model: a frozen dataclass with at least these fields.

    All others need defaults. `elements` is filled in by training; before that it may be empty. So is a field
    `avg_num_neighbors` of None, by the mean of the training set.
    """

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that the model knows."""
        ...

    @property
    def cutoff(self) -> float:
        """Range of the neighbourhood, Å."""
        ...


@dataclass(frozen=True)
class Kind:
    """A kind of short-range model.

    Attributes:
        module: Flax module with the configuration as its first field; its class attribute `no_decay` names parameters
            without weight decay, and `feature_scale`, "each" where it has none, says how its features are scaled for a
            training, see `lesjax.training.config.TrainingSection`.
        config: class of its configuration.
    """

    module: type[nn.Module]
    config: type


# The only registry of lesjax. Shipped kinds are imported when they are first used.
_KINDS: dict[str, Kind | str] = {
    "cace": "lesjax.models.cace",
    "mace": "lesjax.models.mace",
    "nequip": "lesjax.models.nequip",
}
ENTRY_POINTS = "lesjax.short_range"


def register(name: str, module: type[nn.Module], config: type) -> None:
    """Make a short-range model known under a name, for configurations, training and saved models.

    Registering a class of the same qualified name again, as by running a notebook cell twice, replaces it.
    A package can instead declare the entry point ``name = "package.module:KIND"`` in the group ``lesjax.short_range``,
    with a `Kind`.

    Args:
        name: name of the kind.
        module: see `Kind`.
        config: see `ShortRangeConfig`.

    Raises:
        ValueError: for a name that another model has.
        TypeError: for a configuration that is not a frozen dataclass or lacks a field.
    """
    parameters = getattr(config, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise TypeError(f"`config` must be a frozen dataclass, got {config!r}. Decorate it: @dataclass(frozen=True).")
    fields = {field.name: field for field in dataclasses.fields(config)}
    missing = sorted({"elements", "cutoff"} - set(fields))
    if missing:
        raise TypeError(f"`config` lacks the fields {missing}, which every short-range model has: add them.")
    without = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    if without:
        raise TypeError(f"`config` needs a default for each field, got none for {without}; `elements` may be ().")
    registered = _KINDS.get(name)
    if isinstance(registered, str) or (registered is not None and _path(registered.module) != _path(module)):
        raise ValueError(f"`name` = {name!r} is the name of another short-range model already. Choose another one.")
    _KINDS[name] = Kind(module, config)


def find(name: str) -> Kind:
    """Return the kind of this name.

    Raises:
        ValueError: for a name that is neither registered nor an entry point of an installed package.
        TypeError: for an entry point that is not a `Kind`.
    """
    kind = _KINDS.get(name)
    if kind is None:
        entries = tuple(importlib.metadata.entry_points(group=ENTRY_POINTS, name=name))
        if not entries:
            raise ValueError(
                f"There is no short-range model {name!r}; known: {', '.join(sorted(_KINDS))}. Import the module that "
                "registers it with `lesjax.models.register`, or install the package that provides it."
            )
        kind = entries[0].load()
        if not isinstance(kind, Kind):
            raise TypeError(
                f"The entry point {name!r} = {entries[0].value} of the group {ENTRY_POINTS!r} must be a `Kind`, got "
                f"{kind!r}. Correct the package that declares it."
            )
    if isinstance(kind, str):
        kind = importlib.import_module(kind).KIND
        assert isinstance(kind, Kind)
    _KINDS[name] = kind
    return kind


def name_of(config: type) -> str:
    """Return the name under which a class of configurations is registered.

    Raises:
        ValueError: if it is not.
    """
    for name in tuple(_KINDS):
        if find(name).config is config:
            return name
    # a class that was imported before its kind was used: only its own package is searched
    package = config.__module__.partition(".")[0]
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if entry.module.partition(".")[0] == package and find(entry.name).config is config:
            return entry.name
    raise ValueError(f"{config.__name__} belongs to no registered short-range model: see `lesjax.models.register`.")


def module_of(config: ShortRangeConfig) -> type[nn.Module]:
    """Return the class of the Flax module of a configuration."""
    return find(name_of(type(config))).module


def make_module(config: ShortRangeConfig, name: str | None = None) -> Any:
    """Make the Flax module of a configuration."""
    return module_of(config)(config, name=name)  # pyright: ignore[reportCallIssue]


def species_index(elements: tuple[int, ...]) -> Int[np.ndarray, " z"]:
    """Position in `elements` by atomic number; padded and unknown atoms get the first."""
    table = np.zeros(128, np.int32)
    table[list(elements)] = np.arange(len(elements))
    return table


def _path(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


SHORT_RANGE_KINDS = Kinds("cace", lambda name: find(name).config, name_of)
