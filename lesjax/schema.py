"""Nested mappings (TOML, JSON) to frozen dataclasses and back; messages name the key and the nearest right one."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Kinds(NamedTuple):
    """Choices for a field that holds one of several dataclasses, told apart by an entry "kind".

    Attributes:
        default: name of the kind where none is given.
        find: class of a name; raises ValueError for unknown ones.
        name_of: name of a class.
    """

    default: str
    find: Callable[[str], type]
    name_of: Callable[[type], str]


def kinds(**classes: type) -> Kinds:
    """Choices from a fixed table, the first of which is the default."""

    def find(name: str) -> type:
        if name not in classes:
            raise ValueError(f"must be one of {', '.join(map(repr, classes))}, got {name!r}.")
        return classes[name]

    return Kinds(next(iter(classes)), find, {cls: name for name, cls in classes.items()}.__getitem__)


def choice(kinds: Kinds, **options: Any) -> Any:
    """Field of a dataclass with one of these kinds; `options` as for `dataclasses.field`."""
    return dataclasses.field(metadata={"kinds": kinds}, **options)


def to_plain(config: Any) -> Any:
    """Return a dataclass as nested dictionaries, lists and scalars for JSON; inverse of `build`."""
    if dataclasses.is_dataclass(config):
        plain = {}
        for f in dataclasses.fields(config):
            value = getattr(config, f.name)
            tag = {"kind": f.metadata["kinds"].name_of(type(value))} if "kinds" in f.metadata else {}
            plain[f.name] = {**tag, **to_plain(value)} if tag else to_plain(value)
        return plain
    if isinstance(config, Mapping):
        return {key: to_plain(value) for key, value in config.items()}
    return [to_plain(value) for value in config] if isinstance(config, (list, tuple)) else config


def flat(plain: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return the entries of nested dictionaries under their names joined by dots."""
    entries: dict[str, Any] = {}
    for key, value in plain.items():
        entries |= flat(value, f"{where}{key}.") if isinstance(value, Mapping) else {f"{where}{key}": value}
    return entries


def build(cls: type, data: Mapping[str, Any], where: str = "") -> Any:
    """Make a dataclass from a mapping, checking keys and types all the way down.

    Raises:
        ValueError: for an unknown key, a missing one, a wrong type or a value that the class refuses.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for key, value in data.items():
        if key not in fields:
            nearest = _below(cls, key) or next(iter(difflib.get_close_matches(key, fields, n=1)), "")
            hint = f"Did you mean `{where}{nearest}`?" if nearest else f"Known here: {', '.join(fields)}."
            raise ValueError(f"Unknown key `{where}{key}`. {hint}")
        field_kinds = fields[key].metadata.get("kinds")
        if field_kinds is None:
            values[key] = _convert(hints[key], value, f"{where}{key}")
        else:
            values[key] = _choose(field_kinds, value, f"{where}{key}")
    required = [
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and name not in values
    ]
    if required:
        raise ValueError(f"`{where}{required[0]}` is missing.")
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"In `{where.rstrip('.') or cls.__name__}`: {error}") from None


def _below(cls: type, key: str) -> str:
    """Path of a key in the tables of `cls`, as "short_range.cutoff" for "cutoff"; empty if none has it."""
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        chosen, hint = f.metadata.get("kinds"), hints[f.name]
        index = "[0]" if typing.get_origin(hint) is tuple else ""
        for table in (chosen.find(chosen.default),) if chosen else (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(table):
                known = key in (entry.name for entry in dataclasses.fields(table))
                path = key if known else _below(typing.cast(type, table), key)
                if path:
                    return f"{f.name}{index}.{path}"
    return ""


def _choose(kinds: Kinds, value: Any, name: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"`{name}` must be a table, got {value!r}.")
    kind = value.get("kind", kinds.default)
    if not isinstance(kind, str):
        raise ValueError(f"`{name}.kind` must be a text, got {kind!r}.")
    try:
        cls = kinds.find(kind)
    except ValueError as error:
        raise ValueError(f"`{name}.kind`: {error}") from error
    return build(cls, {key: entry for key, entry in value.items() if key != "kind"}, f"{name}.")


def _convert(hint: Any, value: Any, name: str, alternative: str = "") -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        options = [a for a in arguments if a is not type(None)]
        # TOML has no null: false stands for None
        if type(None) in arguments and (value is None or (value is False and bool not in options)):
            return None
        errors, alternative = [], " or false" if type(None) in arguments else ""
        for option in options:
            try:
                return _convert(option, value, name, alternative)
            except ValueError as error:
                errors.append(error)
        if len(options) == 1 or isinstance(value, (list, tuple, Mapping)):
            raise next((e for option, e in zip(options, errors, strict=True) if _fits(option, value)), errors[-1])
        raise ValueError(f"`{name}` must be {' or '.join(map(_describe, options))}, got {value!r}.")
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"`{name}` must be a table{alternative}, got {value!r}.")
        return build(typing.cast(type, hint), value, f"{name}.")
    if origin is tuple:
        # a single entry may stand for a list of one
        entries = value if isinstance(value, (list, tuple)) else [value]
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            arguments = (arguments[0],) * len(entries)
        if len(entries) != len(arguments):
            raise ValueError(f"`{name}` must have {len(arguments)} entries, got {value!r}.")
        converted = (_convert(a, v, f"{name}[{i}]") for i, (a, v) in enumerate(zip(arguments, entries, strict=True)))
        return tuple(converted)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"`{name}` must be a table, got {value!r}.")
        return {str(k): _convert(arguments[1], v, f"{name}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"`{name}` must be finite, got a number with hundreds of digits.") from None
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"`{name}` must be finite, got {value}.")
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"`{name}` must be {_describe(hint)}, got {value!r}.")
    return value


def _fits(hint: Any, value: Any) -> bool:
    """Return whether a list or a table is of the kind that `hint` asks for, so that the error lies inside it."""
    origin = typing.get_origin(hint)
    if isinstance(value, Mapping):
        return origin is dict or dataclasses.is_dataclass(hint)
    return origin is tuple


def _describe(hint: Any) -> str:
    names: dict[Any, str] = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}
    if typing.get_origin(hint) is tuple:
        return "a list"
    return names.get(hint, "a table")
