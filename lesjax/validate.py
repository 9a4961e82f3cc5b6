"""Checks of input: fields of frozen configurations, arrays, JSON files, and what they would cost.

A configuration calls `check` in its ``__post_init__`` with one rule for each field. A rule takes a value and returns
the requirement that it breaks, or None. The largest numbers that a field may have stand in one table, `BOUNDS`. What
needs much memory asks `check_memory` before it begins.
"""

import json
import math
import os
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


Rule = Callable[[Any], str | None]

# Smallest and largest value of fields of all configurations, by their names. Beyond them is a slip, or a computation
# that never ends.
BOUNDS: dict[str, tuple[float, float]] = {
    # models
    "cutoff": (0.1, 50.0), "cutoff_p": (1.0, 64.0), "n_bessel": (1, 64), "n_radial": (1, 128), "n_embedding": (1, 16),
    "embedding_scale": (1e-6, 1e3), "max_l": (0, 5), "message_scale": (1e-6, 1e3),
    "distance_offset": (0.0, 1e-3), "energy_scale": (1e-9, 1e6),
    "l_max": (0, 6), "num_layers": (1, 32), "num_features": (1, 1024), "num_bessels": (1, 64),
    "polynomial_cutoff_p": (1.0, 64.0), "invariant_layers": (0, 16), "invariant_neurons": (1, 4096),
    "avg_num_neighbors": (1e-3, 1e6),
    "n_channels": (1, 32), "scale": (1e-6, 1e3), "self_energies_removed": (0, 64),
    "sigma": (1e-2, 50.0), "k_cutoff": (1e-3, 100.0), "accuracy": (1e-12, 0.5), "n_atoms": (1, 10**9),
    # dynamics
    "steps": (1, 10**9), "log_every": (1, 10**9), "frame_every": (1, 10**9), "checkpoint_every": (1, 10**9),
    "timestep": (1e-6, 100.0), "temperature": (0.0, 1e7), "pressure": (-1e7, 1e7), "thermostat_time": (1e-3, 1e9),
    "barostat_time": (1e-3, 1e9), "electric_field": (-1e3, 1e3), "skin": (0.0, 20.0), "epsilon_infinity": (1e-6, 1e6),
    "seed": (0, 2**32 - 1),
    # training
    "epochs": (1, 10**7), "learning_rate": (1e-12, 1e300), "final_factor": (1e-12, 1e3), "factor": (1e-12, 1e3),
    "step_epochs": (1, 10**7), "patience": (1, 10**7), "batch_size": (1, 10**6), "weight_decay": (0.0, 1e3),
    "clip": (0.0, 1e12), "eval_every": (1, 10**7), "checkpoint_seconds": (0.0, 1e9), "early_stop": (0, 10**7),
    "ensemble": (2, 256), "max_frames": (1, 10**9),
}  # fmt: skip
MAX_LAYERS, MAX_WIDTH = 16, 4096
MAX_ELEMENT = 118
# Å; of coordinates and lattice vectors
MAX_LENGTH = 1e6
# of labels and parameters, in any unit: their squares are numbers of float32
MAX_NUMBER = 1e15
# Bound of what one array or list may need, GB, and the environment variable that sets another one
MAX_MEMORY, MEMORY_VARIABLE = 8.0, "LESJAX_MEMORY_GB"


def check(config: object, **rules: Rule) -> None:
    """Check fields of a frozen dataclass, and convert numpy numbers in them to Python's, for JSON.

    Args:
        config: the configuration, with its fields set.
        **rules: rule of each field.

    Raises:
        ValueError: for the first field that breaks its rule, with its name and value.
    """
    for name, rule in rules.items():
        value = getattr(config, name)
        if isinstance(value, np.generic):
            value = value.item()
            object.__setattr__(config, name, value)
        requirement = rule(value) or _within_bounds(name, value)
        if requirement is not None:
            raise ValueError(f"`{name}` must {requirement}, got {_shortened(value)}.")


def _within_bounds(name: str, value: Any) -> str | None:
    if name not in BOUNDS or not _is_number(value):
        return None
    low, high = BOUNDS[name]
    return None if low <= value <= high else f"lie from {low:g} to {high:g}"


def check_bounds(values: Mapping[str, Any]) -> None:
    """Check numbers, and lists of them, by their rows of `BOUNDS`: before what checks the rest takes seconds to import.

    Raises:
        ValueError: for the first one beyond them, with its name.
    """
    for name, value in values.items():
        for entry in value if isinstance(value, list) else [value]:
            requirement = _within_bounds(name, entry)
            if requirement is not None:
                raise ValueError(f"`{name}` must {requirement}, got {_shortened(entry)}.")


def _shortened(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no numbers of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}…"


def positive(value: Any) -> str | None:
    """A finite number above zero."""
    return None if _is_number(value) and 0 < value < math.inf else "be positive"


def not_negative(value: Any) -> str | None:
    """A finite number from zero on."""
    return None if _is_number(value) and 0 <= value < math.inf else "not be negative"


def finite(value: Any) -> str | None:
    """A number that is neither infinite nor NaN."""
    return None if _is_number(value) and -math.inf < value < math.inf else "be finite"


def fraction(value: Any) -> str | None:
    """A number from 0 to 1, without 1."""
    return None if _is_number(value) and 0 <= value < 1 else "lie in [0, 1)"


def flag(value: Any) -> str | None:
    """True or False."""
    return None if isinstance(value, bool) else "be True or False"


def whole(low: int, high: int | None = None) -> Rule:
    """An integer from `low` to `high`, both included; True and False do not count."""

    def rule(value: Any) -> str | None:
        if not isinstance(value, int) or isinstance(value, bool):
            return "be a whole number"
        if high is not None and not low <= value <= high:
            return f"lie from {low} to {high}"
        return None if value >= low else "not be negative" if low == 0 else f"be at least {low}"

    return rule


def one_of(*values: Any) -> Rule:
    """One of some values."""
    names = [repr(value) for value in values]
    return lambda value: None if value in values else f"be {', '.join(names[:-1])} or {names[-1]}"


def widths(value: Any) -> str | None:
    """Widths of hidden layers; there may be none."""
    if len(value) > MAX_LAYERS or any(whole(1, MAX_WIDTH)(width) is not None for width in value):
        return f"have at most {MAX_LAYERS} whole widths from 1 to {MAX_WIDTH}"
    return None


def elements(value: Any) -> str | None:
    """Different atomic numbers; there may be none."""
    fit = all(isinstance(z, int) and not isinstance(z, bool) and 1 <= z <= MAX_ELEMENT for z in value)
    return None if fit and len(set(value)) == len(value) else f"be different atomic numbers from 1 to {MAX_ELEMENT}"


def energies(value: Any) -> str | None:
    """Finite numbers, eV."""
    return None if all(_is_number(e) and abs(e) <= 1e9 for e in value) else "be finite numbers, at most 1e9 eV"


def optional(rule: Rule) -> Rule:
    """None, or a value that the rule accepts."""
    return lambda value: None if value is None else rule(value)


def not_both(**values: object) -> None:
    """Refuse two arguments that contradict each other.

    Args:
        **values: the two by name, None where one is not given.

    Raises:
        ValueError: if both are given.
    """
    if all(value is not None for value in values.values()):
        names, texts = " or ".join(f"`{name}`" for name in values), " and ".join(map(str, values.values()))
        raise ValueError(f"Give {names}, not both; got {texts}.")


def number(name: str, value: Any, rule: Rule, *, bounded: bool = False) -> float:
    """Take a number from outside, of Python or numpy, that keeps a rule, and where `bounded` its row of `BOUNDS`.

    Raises:
        ValueError: for one that does not, with its name.
    """
    if isinstance(value, np.generic) or (hasattr(value, "item") and np.shape(value) == ()):  # arrays of jax, too
        value = value.item()
    requirement = rule(value) or ("be finite" if abs(value) > sys.float_info.max else None)
    if requirement is None and bounded:
        requirement = _within_bounds(name, value)
    if requirement is not None:
        raise ValueError(f"`{name}` must {requirement}, got {_shortened(value)}.")
    return float(value)


def array(
    name: str, value: Any, *, largest: float | int = MAX_NUMBER, integer: bool = False, missing: bool = False
) -> np.ndarray:
    """Take an array from outside: real numbers, finite, and not larger than makes sense.

    Args:
        name: of the argument, for messages.
        value: anything that numpy makes an array of.
        largest: largest magnitude of an entry.
        integer: ask for whole numbers, which may come as floats.
        missing: let NaN pass, which stands for no value.

    Returns:
        The array with its dtype; int64 for whole numbers.

    Raises:
        ValueError: for another kind of entries, masked ones, or one that is too large or not finite, with its place.
    """
    if np.ma.is_masked(value):
        raise ValueError(f"`{name}` must be real numbers, got masked entries: leave them out, or fill them.")
    try:
        values = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"`{name}` must be an array of numbers: {error}.") from error
    if values.dtype.kind not in "iuf" and values.size:
        kind = "complex numbers" if values.dtype.kind == "c" else f"entries of type {values.dtype}"
        raise ValueError(f"`{name}` must be real numbers, got {kind}.")
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(values.astype(float)) <= largest)
        if integer:
            wrong |= values != np.round(values)
        if missing:
            wrong &= ~np.isnan(values)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        requirement = "whole numbers" if integer else "finite numbers"
        where = f" at {list(place)}" if place else ""
        raise ValueError(f"`{name}` must be {requirement} up to {largest:g}, got {values[place]}{where}.")
    return values.astype(np.int64) if integer else values


def directions(pbc: Any) -> tuple[bool, bool, bool]:
    """Take periodic directions: True or False, or three of them.

    Raises:
        ValueError: for anything else: a text, None, NaN, or another number than 0 and 1.
    """
    entries = np.asarray(pbc, dtype=object)
    known = all(isinstance(p, bool | np.bool_ | int | np.integer) and p in (0, 1) for p in entries.ravel())
    if not known or entries.shape not in ((), (3,)):
        raise ValueError(f"`pbc` must be True, False or three of them, got {pbc!r}.")
    x, y, z = (bool(p) for p in np.broadcast_to(entries, 3))
    return x, y, z


def check_memory(what: str, needed: float | int, remedy: str) -> None:
    """Refuse what would not fit into memory, before it begins.

    Args:
        what: it is, with its numbers: the start of the message.
        needed: bytes, about.
        remedy: what to do, the end of the message.

    Raises:
        ValueError: for more than the bound, 8 GB unless the environment variable ``LESJAX_MEMORY_GB`` has another one.
    """
    text = os.environ.get(MEMORY_VARIABLE, "")
    try:
        bound = float(text or MAX_MEMORY)
    except ValueError:
        bound = math.nan
    if not bound > 0:
        raise ValueError(f"The environment variable {MEMORY_VARIABLE} must be a positive number of GB, got {text!r}.")
    if not needed <= 1e9 * bound:
        raise ValueError(
            f"{what} would take about {needed / 1e9:.3g} GB, more than the bound of {bound:g} GB. {remedy}, or set "
            f"another bound with the environment variable {MEMORY_VARIABLE}."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def differences(a: object, b: object, where: str = "") -> list[str]:
    """Names, joined by dots, of the entries in which two nested dictionaries differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(set(a) | set(b))
        return [d for k in keys for d in differences(a.get(k), b.get(k), f"{where}.{k}" if where else k)]
    return [] if a == b else [where]


def read_json(path: str | os.PathLike, *, remedy: str = "", nonfinite: bool = False) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        remedy: last sentence of the message: what to do with a damaged file.
        nonfinite: take NaN and infinite numbers, which JSON does not have but Python writes.

    Raises:
        OSError: if there is no file that can be read.
        ValueError: for a damaged file, with its path.
    """
    try:
        return parse_json(pathlib.Path(path).read_text(encoding="utf-8"), nonfinite=nonfinite)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}. {remedy}".rstrip()) from error


def parse_json(text: str, *, nonfinite: bool = False) -> Any:
    """Read JSON from a text; arguments as for `read_json`.

    Raises:
        ValueError: for a text that is not JSON, an object with the same key twice, or numbers that are not finite.
    """

    def number(text: str) -> float:
        value = float(text)
        if not nonfinite and not math.isfinite(value):
            raise ValueError(f"it has the number {text}, which is not finite")
        return value

    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=number, parse_float=number)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"it has the key {repeated[:100]!r} twice")
    return result
