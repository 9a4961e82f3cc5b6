"""Sphinx configuration; `make docs` builds the pages into docs/_build, with warnings as errors.

Formulas become MathML while the pages are built: nothing is loaded from a network when they are read, and a formula
that cannot be parsed is a warning here instead of red text there.
"""

import pathlib
import sys
from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.domains.python import PyObject
from sphinx.util import logging

import lesjax


sys.path.insert(0, str(pathlib.Path(__file__).parent))

project = "lesjax"
author = "the lesjax authors"
release = lesjax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "key_table"]
exclude_patterns = ["_build"]
nitpicky = False  # single backticks in docstrings name arguments as well as objects
default_role = "py:obj"

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 90
add_module_names = False

html_theme = "furo"
html_title = f"lesjax {release}"
html_math_renderer = "mathml"
html_show_copyright = False


def _mathml(block: bool) -> Any:
    def visit(translator: Any, node: Any) -> None:
        try:
            formula = tex2mathml(node.astext(), as_block=block)
        except MathError as error:
            logging.getLogger(__name__).warning(f"formula: {error}", location=node)
            formula = ""
        translator.body.append(f'<div class="math">{formula}</div>' if block else formula)
        raise SkipNode

    return visit, None


def _shorten(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Array without the module that jax keeps it in; defaults made by a factory in a form that can be parsed."""
    short = (text and text.replace("jaxlib._jax.", "").replace("<factory>", "...") for text in (signature, returns))
    return next(short), next(short)


def setup(app: Any) -> None:
    """Register the renderer of formulas and the names as they are written in the code."""
    app.add_html_math_renderer("mathml", inline_renderers=_mathml(False), block_renderers=_mathml(True))
    app.connect("autodoc-process-signature", _shorten)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
