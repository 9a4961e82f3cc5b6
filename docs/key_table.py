"""Directive ``key-table``: the keys of a configuration class with type, default and meaning, from its docstring."""

import dataclasses
import importlib
import inspect
import re
import typing
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective


class KeyTable(SphinxDirective):
    """One row for each field of the first class; classes after it lend their descriptions."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Build the table as reStructuredText and parse it."""
        classes = [_load(name) for name in " ".join(self.content).split()]
        meanings: dict[str, str] = {}
        for cls in reversed(classes):
            meanings |= _attributes(cls)
        hints = typing.get_type_hints(classes[0])
        rows = []
        for field in dataclasses.fields(classes[0]):
            if dataclasses.is_dataclass(hints[field.name]) or _holds_table(hints[field.name]):
                continue  # a table of its own
            if field.name not in meanings:
                raise self.error(f"`{field.name}` of {classes[0].__name__} has no description in its docstring.")
            rows.append((f"``{field.name}``", f"``{_toml(field)}``", meanings[field.name]))
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 22 18 60", ""]
        for row in [("key", "default", "meaning"), *rows]:
            lines += [f"   {'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(row)]
        return self.parse_text_to_nodes(StringList(lines, source=self.get_source_info()[0]))


def setup(app: Any) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("key-table", KeyTable)
    return {"parallel_read_safe": True}


def _load(name: str) -> type:
    module, _, cls = name.rpartition(".")
    return getattr(importlib.import_module(module), cls)


def _attributes(cls: type) -> dict[str, str]:
    """Descriptions under ``Attributes:`` of a docstring."""
    _, _, section = inspect.getdoc(cls).partition("Attributes:\n")
    entries = re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n {5,}.*)*)", section, re.M)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def _holds_table(hint: Any) -> bool:
    return any(dataclasses.is_dataclass(argument) for argument in typing.get_args(hint))


def _toml(field: dataclasses.Field) -> str:
    """The default as it would stand in a TOML file."""
    if field.default is dataclasses.MISSING:
        return "required" if field.default_factory is dataclasses.MISSING else "{}"
    value = field.default
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(list(value)) if isinstance(value, tuple) else repr(value).replace("'", '"')
