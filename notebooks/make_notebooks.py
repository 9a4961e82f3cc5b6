"""Pair, execute and render the notebooks of this folder, ``NN_name.py``.

    python notebooks/make_notebooks.py pair              # write NN_name.ipynb from each NN_name.py
    python notebooks/make_notebooks.py run --quick       # execute all in the small setting, as CI does
    python notebooks/make_notebooks.py run [03 05 ...]   # in the full setting, and write their pages in docs/notebooks

A notebook is written in jupytext's percent format, which reads well in diffs; the paired .ipynb is the same without
outputs. An error is shown with its cell. Executed copies go to runs/notebooks, pages to docs/notebooks and their
pictures to docs/images/notebooks. ``render`` writes the pages anew from these copies, where only text has changed.
"""

import argparse
import base64
import itertools
import os
import pathlib
import re
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

import jax
import jupytext
import nbformat
from nbformat import NotebookNode


FOLDER = pathlib.Path(__file__).resolve().parent
ROOT = FOLDER.parent
PAGES = ROOT / "docs/notebooks"
PICTURES = ROOT / "docs/images/notebooks"
MAX_PICTURE = 80_000  # bytes
TIMEOUT = 3600  # s, of one cell
COLORS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal, in tracebacks
# The small setting is nearly all compilation, so that it goes without XLA's costly passes, as in tests/conftest.py.
QUICK = {
    "LESJAX_QUICK": "1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
}
if jax.__version_info__ < (0, 11):  # newer ones do not know the flag
    QUICK["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false"
TEST_CACHE = os.environ.get("LESJAX_TEST_CACHE") or pathlib.Path.home() / ".cache/lesjax-tests"
INTRODUCTION = """\
# Notebooks

Each is a file `notebooks/NN_name.ipynb`, paired with a script `NN_name.py` by
[jupytext](https://jupytext.readthedocs.io). They need only lesjax and Jupyter, take a few minutes on two CPU cores, and
are meant to be changed. With the environment variable `LESJAX_QUICK=1` each runs in about half a minute with a tiny
model, which only shows that the code runs. The pages show the full setting (`make notebooks`).
"""


def scripts(chosen: list[str] | None = None) -> list[pathlib.Path]:
    """The scripts ``NN_name.py``, all or those whose names begin with one of `chosen`."""
    found = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
    for name in chosen or []:
        if not any(path.name.startswith(name) for path in found):
            sys.exit(f"There is no notebook {name!r}; there are: {', '.join(path.stem for path in found)}.")
    return [path for path in found if not chosen or path.name.startswith(tuple(chosen))]


def as_notebook(script: pathlib.Path) -> NotebookNode:
    """The notebook of a script, without outputs and with the same cell ids each time."""
    notebook = jupytext.read(script)
    for i, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{i}", NotebookNode()
    notebook.nbformat_minor = max(5, notebook.nbformat_minor)  # cells have ids from 4.5 on
    kernel = NotebookNode(display_name="Python 3", language="python", name="python3")
    notebook.metadata = NotebookNode(jupytext=NotebookNode(formats="ipynb,py:percent"), kernelspec=kernel)
    return notebook


def cells(notebook: NotebookNode) -> list[tuple[str, str]]:
    """Kind and text of each cell."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def executed_copy(script: pathlib.Path, quick: bool) -> pathlib.Path:
    """Path of the executed copy of a notebook."""
    return ROOT / ("runs/notebooks-quick" if quick else "runs/notebooks") / f"{script.stem}.ipynb"


def execute(script: pathlib.Path, quick: bool) -> str:
    """Execute a notebook and keep the copy; the error with its cell, or an empty text."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from traitlets.config import Config

    # without MPLBACKEND pictures go into the notebook
    environment = {name: value for name, value in os.environ.items() if name not in ("LESJAX_QUICK", "MPLBACKEND")}
    if quick:
        environment |= QUICK | {"JAX_COMPILATION_CACHE_DIR": str(TEST_CACHE)}
    target = executed_copy(script, quick)
    target.parent.mkdir(parents=True, exist_ok=True)
    notebook = as_notebook(script)
    resources = {"metadata": {"path": str(target.parent)}}
    start, error = time.monotonic(), ""
    # Sockets in a folder of their own: a TCP port that was free when it was chosen may be taken when the kernel binds.
    with tempfile.TemporaryDirectory() as sockets:
        config = Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"})
        client = NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources=resources, config=config)
        try:
            client.execute(env=environment)
        except CellExecutionError as problem:
            error = f"{script.name}: {COLORS.sub('', str(problem))}"
    nbformat.write(notebook, target)
    print(f"{script.stem}: {'failed after ' if error else ''}{time.monotonic() - start:.0f} s", flush=True)
    return error


def run(chosen: list[pathlib.Path], quick: bool, jobs: int) -> None:
    """Execute notebooks in processes of their own, then render them; exits with the errors."""
    start = time.monotonic()
    with ProcessPoolExecutor(jobs) as pool:
        errors = [error for error in pool.map(execute, chosen, itertools.repeat(quick)) if error]
    print(f"{len(chosen)} notebooks in {time.monotonic() - start:.0f} s")
    if errors:
        sys.exit("\n\n".join(errors))
    if not quick:
        render(chosen)


def render(chosen: list[pathlib.Path]) -> None:
    """Write the pages of executed notebooks, and the index of all that have one."""
    PAGES.mkdir(parents=True, exist_ok=True)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for script in chosen:
        copy, notebook = executed_copy(script, False), as_notebook(script)
        if not copy.exists():
            sys.exit(f"{script.stem} was not executed in the full setting yet: run it first.")
        executed = nbformat.read(copy, 4)
        if code(notebook) != code(executed):
            sys.exit(f"{script.stem}: its code has changed since it was executed: run it again.")
        for old in PICTURES.glob(f"{script.stem}_*.png"):
            old.unlink()
        outputs = [cell.outputs for cell in executed.cells if cell.cell_type == "code"]
        (PAGES / f"{script.stem}.md").write_text(page(script.stem, notebook, outputs))
    (PAGES / "index.md").write_text(index())


def code(notebook: NotebookNode) -> list[str]:
    """The code of each code cell."""
    return [text for kind, text in cells(notebook) if kind == "code"]


def page(name: str, notebook: NotebookNode, outputs: list[list[NotebookNode]]) -> str:
    """Markdown of a notebook with its outputs; pictures are written as files.

    Code is marked as ``py``: the tests run what the pages mark as ``python``.
    """
    remaining, parts, numbers = iter(outputs), [], itertools.count(1)
    for kind, text in cells(notebook):
        parts.append(f"```py\n{text}\n```" if kind == "code" else text)
        if len(parts) == 1:
            parts.append(f"*This page is the notebook {{download}}`{name}.ipynb <../../notebooks/{name}.ipynb>`.*")
        if kind != "code":
            continue
        for output in next(remaining):
            if "data" in output and "image/png" in output.data:
                picture = PICTURES / f"{name}_{next(numbers)}.png"
                picture.write_bytes(base64.b64decode(output.data["image/png"]))
                if picture.stat().st_size > MAX_PICTURE:
                    sys.exit(f"{picture.name} has {picture.stat().st_size} bytes, more than {MAX_PICTURE}: draw less.")
                parts.append(f"![Output of the cell above](../images/notebooks/{picture.name})")
            elif output.get("name") == "stdout" and parts[-1].startswith("```text\n"):  # it comes in pieces
                parts[-1] = f"{parts[-1].removesuffix('```')}{output.text.rstrip()}\n```"
            elif output.get("name") == "stdout":
                parts.append(f"```text\n{output.text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def index() -> str:
    """Title, first paragraph and first picture of each page."""
    parts = [INTRODUCTION]
    names = [path.stem for path in sorted(PAGES.glob("[0-9][0-9]_*.md"))]
    for name in names:
        title, first, *_ = (PAGES / f"{name}.md").read_text().split("\n\n")
        parts.append(f"## [{title.removeprefix('# ')}]({name}.md)\n\n{first}\n")
        pictures = sorted(PICTURES.glob(f"{name}_*.png"))
        if pictures:
            alt = re.sub(r"[^\w ,-]", "", title).strip()
            parts.append(f"![{alt}](../images/notebooks/{pictures[0].name})\n")
    parts.append("```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("pair", "run", "render"))
    parser.add_argument("names", nargs="*", help="beginnings of names, such as 03; all by default")
    parser.add_argument("--quick", action="store_true", help="the small setting; no pages are written")
    parser.add_argument("--jobs", type=int, default=None, help="notebooks at once: 2 in the small setting, else 1")
    arguments = parser.parse_intermixed_args()
    chosen = scripts(arguments.names)
    if arguments.command == "pair":
        for script in chosen:
            nbformat.write(as_notebook(script), script.with_suffix(".ipynb"))
    elif arguments.command == "run":
        run(chosen, arguments.quick, arguments.jobs or (2 if arguments.quick else 1))
    else:
        render(chosen)


if __name__ == "__main__":
    main()
