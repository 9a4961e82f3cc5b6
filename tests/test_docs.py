"""The examples in README and documentation run: every ``python`` block of a page, one after the other.

A page finds data, a start and a trained model in the current folder under the names that it uses. Blocks that need what
is not there are written as ``{code-block} python`` and are not run. A block that begins with ``# needs PACKAGE`` is run
where that package is installed. The page of jax-md, whose steps need a stable model, is run by its own test
(tests/dynamics/test_jax_md.py).
"""

import importlib.util
import re
from pathlib import Path

import ase.io
import jax
import pytest

from lesjax.models import CACEConfig, LatentCharges, LongRangeConfig, ModelConfig
from lesjax.training.config import Phase, TrainingSection
from toy import MODEL, make_frames, moved_potential


ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
NEEDS = re.compile(r"# needs (\w+)\n")
PAGES = [
    page
    for page in sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
    if page.stem != "jax_md" and BLOCK.search(page.read_text())
]

CONFIG = ModelConfig(
    CACEConfig(elements=(11, 17), cutoff=3.6, n_bessel=3, n_radial=2, n_embedding=1, max_l=1, max_nu=2),
    LongRangeConfig(LatentCharges(hidden=(4,), scale=0.5), k_cutoff=2.6),
    hidden=(4,),
)


def test_pages_are_found():
    assert len(PAGES) > 5


@pytest.mark.usefixtures("jax_md_leniency")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = make_frames(8)
    # the same structure last, so that pages share what is compiled
    for name, content in {"my.xyz": frames, "test.xyz": frames[1::-1], "start.xyz": frames[:1]}.items():
        ase.io.write(name, content, format="extxyz")
    moved_potential(CONFIG).save("runs/my/model")
    names = {
        "atoms": frames[0],
        "tiny_model": MODEL,
        "tiny_training": TrainingSection(batch_size=2, phases=(Phase(epochs=1),)),
    }
    text = page.read_text()
    with jax.numpy_rank_promotion("allow"):
        for block in BLOCK.finditer(text):
            needed = NEEDS.match(block.group(1))
            if needed and importlib.util.find_spec(needed.group(1)) is None:
                continue
            # lines of an error are those of the page
            code = "\n" * text.count("\n", 0, block.start(1)) + block.group(1)
            exec(compile(code, str(page), "exec"), names)
