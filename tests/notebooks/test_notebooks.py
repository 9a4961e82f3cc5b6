"""The notebooks' three forms agree: script, paired .ipynb and page. CI executes them by `make notebooks-quick`."""

import make_notebooks
import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output


SCRIPTS = make_notebooks.scripts()
each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


def test_scripts_are_found():
    assert len(SCRIPTS) > 4
    assert [path.name[:2] for path in make_notebooks.scripts(["03", "05"])] == ["03", "05"]
    with pytest.raises(SystemExit, match="no notebook '99'"):
        make_notebooks.scripts(["99"])


@each
def test_the_pair_agrees_and_has_no_outputs(script):
    paired = nbformat.read(script.with_suffix(".ipynb"), 4)
    nbformat.validate(paired)
    expected = make_notebooks.as_notebook(script)
    assert make_notebooks.cells(paired) == make_notebooks.cells(expected), "run `make_notebooks.py pair`"
    assert all(not cell.outputs and cell.execution_count is None for cell in paired.cells if cell.cell_type == "code")


@each
def test_the_page_shows_the_code_and_the_pictures(script):
    page = (make_notebooks.PAGES / f"{script.stem}.md").read_text()
    position = 0
    for text in make_notebooks.code(make_notebooks.as_notebook(script)):
        position = page.find(f"```py\n{text}\n```", position)
        assert position >= 0, f"not in the page: run `make notebooks ARGS={script.stem[:2]}`\n{text}"
    pictures = sorted(make_notebooks.PICTURES.glob(f"{script.stem}_*.png"))
    assert pictures
    assert all(f"../images/notebooks/{picture.name}" in page for picture in pictures)
    assert max(picture.stat().st_size for picture in pictures) <= make_notebooks.MAX_PICTURE
    assert script.stem in (make_notebooks.PAGES / "index.md").read_text()


def test_an_error_is_told_with_its_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(make_notebooks, "ROOT", tmp_path)
    script = tmp_path / "98_broken.py"
    script.write_text("# %% [markdown]\n# # Broken\n\n# %%\nfine = 1\n\n# %%\nworse = fine / 0\n")
    error = make_notebooks.execute(script, quick=True)
    assert "98_broken.py" in error
    assert "worse = fine / 0" in error
    assert "ZeroDivisionError" in error


def test_page(tmp_path, monkeypatch):
    monkeypatch.setattr(make_notebooks, "PICTURES", tmp_path)
    notebook = new_notebook(
        cells=[new_markdown_cell("# Title\n\nFirst."), new_code_cell("plot()"), new_markdown_cell("End")]
    )
    picture = new_output("display_data", data={"image/png": "iVBORw0KGgo="})
    printed = [new_output("stream", name=name, text=f"{name}\n") for name in ("stdout", "stderr", "stdout")]
    text = make_notebooks.page("97_page", notebook, [[*printed, picture]])
    assert text.startswith("# Title\n\nFirst.\n\n")
    assert text.endswith(
        "```py\nplot()\n```\n\n```text\nstdout\nstdout\n```\n\n"
        "![Output of the cell above](../images/notebooks/97_page_1.png)\n\nEnd\n"
    )
    assert (tmp_path / "97_page_1.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(make_notebooks, "MAX_PICTURE", 4)
    with pytest.raises(SystemExit, match="draw less"):
        make_notebooks.page("97_page", notebook, [[NotebookNode(picture)]])
