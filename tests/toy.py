"""Data and models small enough to train in a test: a few ions with Lennard-Jones energies and charges of ±1."""

import contextlib
import dataclasses
import itertools
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.lj import LennardJones

from lesjax import io
from lesjax.models import CACEConfig, LatentCharges, LongRangeConfig, ModelConfig, Potential
from lesjax.runs import read_log
from lesjax.system import System
from lesjax.training import loop
from lesjax.training.config import DataConfig, Phase, RunConfig, TrainingSection


CELL = np.array([[5.0, 0.0, 0.0], [0.8, 5.2, 0.0], [-0.4, 0.6, 4.8]])
FRACTIONAL = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])

MODEL = ModelConfig(
    CACEConfig(cutoff=3.6, n_bessel=3, n_radial=2, n_embedding=1, max_l=1, max_nu=2),
    LongRangeConfig(LatentCharges(hidden=(4,)), k_cutoff=2.0),
    hidden=(4,),
)

# a configuration of the command for `train.xyz` beside it
CONFIG = """
output = "unused"
[data]
train = "train.xyz"
[model]
hidden = [4]
[model.short_range]
cutoff = 3.6
n_bessel = 3
n_radial = 2
n_embedding = 1
max_l = 1
max_nu = 1
[model.long_range]
k_cutoff = 2.0
[model.long_range.charges]
hidden = [4]
[training]
batch_size = 3
[[training.phases]]
epochs = 50
"""


def with_slow(cases: Iterable, slow: Sequence) -> list:
    """Parameters of a test or fixture, those in `slow` with the marker that leaves them out of `make test`."""
    values = [(case, case if isinstance(case, tuple) else (case,)) for case in cases]
    return [pytest.param(*value, marks=pytest.mark.slow) if case in slow else case for case, value in values]


def forces_rmse(potential: Potential, frames: list[ase.Atoms]) -> float:
    """Error of the forces of frames of equally many atoms, one after the other; in one shape, to be compiled once."""
    systems = [System.from_ase(frame, cutoff=potential.cutoff) for frame in frames]
    shape = np.max([system.shape for system in systems], axis=0).tolist()
    forces = [potential(system.pad_to(*shape)).forces for system in systems]
    return float(np.sqrt(np.mean(np.square(np.array(forces) - [frame.arrays["REF_forces"] for frame in frames]))))


def make_frame(rng: np.random.Generator, repeats: int = 1, *, pbc: bool = True) -> ase.Atoms:
    """Two Na and two Cl in a triclinic cell, displaced at random, with energy, forces, stress and charges."""
    atoms = ase.Atoms("Na2Cl2", FRACTIONAL @ CELL, cell=CELL, pbc=pbc).repeat((repeats, 1, 1))
    atoms.positions += 0.2 * rng.normal(size=(len(atoms), 3))
    atoms.calc = LennardJones(sigma=2.6, epsilon=0.2, rc=4.8, smooth=True)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    stress = atoms.get_stress(voigt=False) if pbc else None
    atoms.calc = None
    atoms.info["REF_energy"] = energy - 3.0 * repeats  # two elements, reference energies of -0.75 eV
    atoms.set_array("REF_forces", forces)
    atoms.set_array("REF_charges", np.where(atoms.symbols == "Na", 1.0, -1.0))
    if stress is not None:
        atoms.info["REF_stress"] = stress
    return atoms


def make_frames(n: int, seed: int = 0) -> list[ase.Atoms]:
    """Frames of four atoms."""
    rng = np.random.default_rng(seed)
    return [make_frame(rng) for _ in range(n)]


def make_config(folder: Path, frames: list[ase.Atoms] | None = None, **changes: Any) -> RunConfig:
    """A run in `folder` on `frames`; `changes` go to the training section, `data` and `model` to theirs."""
    path = folder / "train.xyz"
    if frames is not None or not path.exists():
        io.write(path, make_frames(8) if frames is None else frames)
    data = {"train": str(path), "valid_fraction": 0.25, **changes.pop("data", {})}
    model = changes.pop("model", MODEL)
    output = str(folder / changes.pop("output", "run"))
    training = {"batch_size": 2, "phases": (Phase(epochs=3),), **changes}
    return RunConfig(DataConfig(**data), output, model, TrainingSection(**training))


def phases(*epochs: int, **settings: Any) -> tuple[Phase, ...]:
    """Phases of these lengths that share their settings."""
    return tuple(dataclasses.replace(Phase(epochs=1, **settings), epochs=n) for n in epochs)


def log_of(folder: str | Path) -> list[dict[str, Any]]:
    """The log of a run without what a clock says."""
    return [{k: v for k, v in record.items() if k != "seconds"} for record in read_log(Path(folder) / "log.jsonl")]


class Killed(BaseException):
    """In the place of a signal."""


def killing(function: Callable, period: int, counter: Iterator[int]) -> Callable:
    """`function`, which dies at each `period`-th count, before it does anything."""

    def call(*arguments: Any, **options: Any) -> Any:
        if next(counter) % period == period - 1:
            raise Killed
        return function(*arguments, **options)

    return call


def count_deaths(run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, *periods: tuple[str, int]) -> int:
    """Run a training once for each of these methods of `Run`, which dies at each so-many-th count of all of them."""
    counter, deaths = itertools.count(), 0
    for name, period in periods:
        with monkeypatch.context() as patch:
            patch.setattr(loop.Run, name, killing(getattr(loop.Run, name), period, counter))
            try:
                run()
            except Killed:
                deaths += 1
    return deaths


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder, which is created, in which nothing can be written; for root, whom permissions do not bind, a mount."""
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o555)
    elif subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(folder)], check=False).returncode:
        pytest.skip("root may write everywhere here, and cannot mount")
    try:
        yield
    finally:
        if os.geteuid():
            folder.chmod(0o755)
        else:
            subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files cannot grow beyond a size: writing ends in the middle, as on a full disk."""
    resource = pytest.importorskip("resource")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY if hard < 0 else hard, hard))


RUN = """
output = "run"
[data]
train = "train.xyz"
valid_fraction = 0.25
{model}
[training]
batch_size = 2
[[training.phases]]
epochs = 2
"""


def write_run(folder: Path, model: str, frames: Sequence[ase.Atoms] | None = None) -> str:
    """Write frames and the configuration of a short training, with these tables of the model; returns its path."""
    io.write(folder / "train.xyz", make_frames(8) if frames is None else list(frames))
    (folder / "run.toml").write_text(RUN.format(model=model))
    return str(folder / "run.toml")


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def moved_potential(config: ModelConfig) -> Potential:
    """A potential with every parameter moved off its initial value."""
    potential = Potential.create(config, seed=1)
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda p: jnp.asarray(p + 0.1 * rng.normal(size=p.shape), p.dtype), potential.params)
    return dataclasses.replace(potential, params=params)
