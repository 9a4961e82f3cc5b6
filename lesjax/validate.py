"""Checks of input: fields of frozen configurations, and JSON files.

A configuration calls `check` in its ``__post_init__`` with one rule for each field. A rule takes a value and returns
the requirement that it breaks, or None.
"""

import json
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np


Rule = Callable[[Any], str | None]


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
        requirement = rule(value)
        if requirement is not None:
            raise ValueError(f"`{name}` must {requirement}, got {value!r}.")


def positive(value: Any) -> str | None:
    """A finite number above zero."""
    return None if _is_number(value) and 0 < value < math.inf else "be positive"


def not_negative(value: Any) -> str | None:
    """A finite number from zero on."""
    return None if _is_number(value) and 0 <= value < math.inf else "not be negative"


def finite(value: Any) -> str | None:
    """A number that is neither infinite nor NaN."""
    return None if _is_number(value) and math.isfinite(value) else "be finite"


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
    return None if all(whole(1)(width) is None for width in value) else "have whole widths of at least 1"


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
        keys = [key for key, _ in pairs]
        raise ValueError(f"it has the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return result
