"""Forked and spawned processes. All run in a process of their own, with a limit of time: what hangs is killed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import ase.io
import jax
import pytest

from lesjax.models import CACEConfig, ModelConfig
from toy import make_frames, moved_potential


PAGE = Path(__file__).parents[1] / "docs/howto/processes.md"
CONFIG = ModelConfig(
    CACEConfig(elements=(11, 17), cutoff=3.6, n_bessel=3, n_radial=2, n_embedding=1, max_l=1, max_nu=2),
    None,
    hidden=(4,),
)

FORK = """
import multiprocessing
import ase.io
import lesjax


def load(_):
    return energy(lesjax.load("runs/my/model"))


def energy(potential):
    return float(potential(lesjax.System.from_ase(ase.io.read("test.xyz"), cutoff=potential.cutoff)).energy)


def import_dynamics(_):
    import lesjax.dynamics


def attempt(function, argument):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        try:
            print(pool.map(function, [argument]))
        except RuntimeError as error:
            print("refused:", error)


attempt(load, None)                     # this process has computed nothing
potential = lesjax.load("runs/my/model")
print(energy(potential))
attempt(load, None)
attempt(energy, potential)
attempt(import_dynamics, None)
"""


def run(script, folder):
    """Lines that a script prints, in a folder with a model and structures."""
    moved_potential(CONFIG).save(folder / "runs/my/model")
    ase.io.write(folder / "test.xyz", make_frames(2), format="extxyz")
    (folder / "script.py").write_text(script)
    # jax warns of any fork
    command = [sys.executable, "-W", "ignore:os.fork", "script.py"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_forked_process_is_refused_where_it_would_hang(tmp_path):
    before, parent, *refused = run(FORK, tmp_path)
    assert before == f"[{parent}]"
    assert len(refused) == 3
    for line in refused:
        assert re.match(r'refused: .*would hang.*get_context\("spawn"\)', line)


@pytest.mark.slow
def test_pool_of_the_page(tmp_path):
    (script,) = re.findall(r"^```\{code-block\} python\n:caption: .*?\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    (line,) = run(script, tmp_path)
    assert len(line.strip("[]").split(", ")) == 2


ALLOCATE = """
import resource
from lesjax.processes import keep_freed_memory

keep_freed_memory()
for step in range(21):
    if step == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 10**7
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
@pytest.mark.parametrize(("setting", "kept"), [({}, True), ({"MALLOC_ARENA_MAX": "4"}, False)])
def test_freed_memory_is_kept(setting, kept):
    """10 MB are 2400 pages; those of the first time are used again, unless the environment says something of malloc."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATE], env=environment | setting, capture_output=True, text=True, timeout=120
    )
    assert (int(done.stdout) < 2000) == kept, done.stderr
