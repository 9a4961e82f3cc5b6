"""Directives ``key-table``: keys of a configuration class from its docstring; ``term-table``: rows of the labels."""

import dataclasses
import importlib
import inspect
import json
import re
import typing
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from lesjax.training.terms import TERMS


class KeyTable(SphinxDirective):
    """One row for each field of the first class; classes after it lend their descriptions."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Write the table as Markdown, the language of the pages, and parse it."""
        classes = [_load(name) for name in " ".join(self.content).split()]
        meanings: dict[str, str] = {}
        for cls in reversed(classes):
            meanings |= _attributes(cls)
        hints = typing.get_type_hints(classes[0])
        lines = ["| key | default | meaning |", "|---|---|---|"]
        for field in dataclasses.fields(classes[0]):
            types = (hints[field.name], *typing.get_args(hints[field.name]))
            if "kinds" in field.metadata or any(map(dataclasses.is_dataclass, types)):
                continue  # a table of its own
            if field.name not in meanings:
                raise self.error(f"`{field.name}` of {classes[0].__name__} has no description in its docstring.")
            cells = (f"`{field.name}`", _toml(field), meanings[field.name])
            lines.append("|" + "|".join(cell.replace("|", r"\|") for cell in cells) + "|")
        return self.parse_text_to_nodes("\n".join(lines))


class TermTable(SphinxDirective):
    """One row for each label that a potential is compared with."""

    def run(self) -> list[nodes.Node]:
        """Write the table as Markdown and parse it."""
        lines = ["| label | meaning | unit | structures | metrics |", "|---|---|---|---|---|"]
        for term in TERMS:
            metrics = ", ".join(f"`{name}`" for name in term.metrics())
            lines.append(f"| `{term.name}` | {term.title} | {term.unit} | {term.where} | {metrics} |")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Any) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("key-table", KeyTable)
    app.add_directive("term-table", TermTable)
    return {"parallel_read_safe": True}


def _load(name: str) -> type:
    module, _, cls = name.rpartition(".")
    return getattr(importlib.import_module(module), cls)


def _attributes(cls: type) -> dict[str, str]:
    """Descriptions under ``Attributes:`` of a docstring."""
    _, _, section = inspect.getdoc(cls).partition("Attributes:\n")
    entries = re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n {5,}.*)*)", section, re.M)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def _toml(field: dataclasses.Field) -> str:
    """The default as it would stand in a TOML file."""
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return "required"
    if isinstance(value, dict):
        return "`{" + ", ".join(f"{key} = {json.dumps(entry)}" for key, entry in value.items()) + "}`"
    if value is None:
        return "not given"
    return f"`{value:.4g}`" if isinstance(value, float) else f"`{json.dumps(value)}`"
