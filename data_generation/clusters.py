"""Sampling of molecules and clusters in a given electronic state, shared by the charge-transfer sets."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.optimize import BFGS

from data_generation import smoothness, storage
from data_generation.xtb import XTB, NotConverged, label, singlepoint


# GFN1-xTB: the energy surface of GFN2-xTB has steps for salt clusters, see `smoothness`
METHOD = "GFN1-xTB"
FRICTION = 0.01  # 1/fs


@dataclass(frozen=True)
class State:
    """A cluster in one electronic state.

    Attributes:
        name: of the cluster and its state.
        atoms: unrelaxed structure.
        charge: total charge, e.
        unpaired: number of unpaired electrons.
    """

    name: str
    atoms: Atoms
    charge: int
    unpaired: int

    def calculator(self) -> XTB:
        """The method for this state."""
        return XTB(self.charge, self.unpaired, METHOD)

    def relax(self) -> Atoms:
        """Relax the cluster, forces below 5 meV/Å.

        Raises:
            RuntimeError: if it is not reached.
        """
        atoms = self.atoms.copy()
        atoms.calc = self.calculator()
        if not BFGS(atoms, logfile=None).run(fmax=0.005, steps=500):
            raise RuntimeError(f"{self.name} is not relaxed after 500 steps.")
        return atoms

    def label(self, frames: Sequence[Atoms]) -> list[Atoms]:
        """Label the frames; those without a self-consistent field are left out."""
        result = []
        for frame in frames:
            try:
                labelled = label(frame, self.charge, self.unpaired, METHOD)
            except NotConverged:
                continue  # counted by the caller
            labelled.info |= {"config_type": self.name, "spin_multiplicity": self.unpaired + 1}
            result.append(labelled)
        return result

    def forces(self, atoms: Atoms) -> np.ndarray:
        """Forces of one structure, eV/Å."""
        return singlepoint(atoms, self.charge, self.unpaired, METHOD)["forces"]


@dataclass(frozen=True)
class Sampling:
    """How frames are drawn: Langevin dynamics on the surface of the method itself.

    Attributes:
        temperatures: K.
        trajectories: independent ones of each state and temperature; see `test`.
        test: number of the trajectory that is for testing, of each state and temperature.
        frames: thermal frames of each trajectory.
        time_step: fs.
        equilibration: steps before the first frame.
        interval: steps between frames.
    """

    temperatures: tuple[int, ...]
    trajectories: int
    test: int
    frames: int
    time_step: float
    equilibration: int
    interval: int


Change = Callable[[Atoms, np.random.Generator], list[Atoms]]


def trajectory(
    start: Atoms, state: State, sampling: Sampling, temperature: float, rng: np.random.Generator, change: Change
) -> list[Atoms]:
    """Thermal frames of a Langevin run, and after every other one what `change` makes of it; without labels."""
    atoms = start.copy()
    atoms.calc = state.calculator()
    widths = np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None]
    atoms.set_momenta(widths * rng.standard_normal((len(atoms), 3)))
    dynamics = Langevin(
        atoms,
        sampling.time_step * units.fs,
        temperature_K=temperature,
        friction=FRICTION / units.fs,
        rng=rng,
        fixcm=False,  # the correct ensemble
    )
    dynamics.run(sampling.equilibration)
    frames = []
    for i in range(sampling.frames):
        dynamics.run(sampling.interval)
        frame = atoms.copy()
        frame.info = {"temperature": temperature}
        frames.append(frame)
        if i % 2 == 1:
            frames += change(frame, rng)
    return frames


def unchanged(_: Atoms, __: np.random.Generator) -> list[Atoms]:
    """Make nothing of a frame."""
    return []


def generate(
    states: Sequence[State], sampling: Sampling, seed: int, change: Change = unchanged
) -> tuple[dict[str, list[Atoms]], dict]:
    """Return the parts "train" and "test", labelled, and the facts about them for the provenance."""
    parts: dict[str, list[Atoms]] = {"train": [], "test": []}
    dropped, rough = 0, {}
    for i, state in enumerate(states):
        relaxed = state.relax()
        for temperature in sampling.temperatures:
            for k in range(sampling.trajectories):
                rng = np.random.default_rng([seed, i, temperature, k])
                run = trajectory(relaxed, state, sampling, temperature, rng, change)
                frames = state.label(run)
                dropped += len(run) - len(frames)
                parts["test" if k == sampling.test else "train"] += frames
        own = [atoms for atoms in parts["train"] if atoms.info["config_type"] == state.name]
        rough[state.name] = smoothness.check(state.name, smoothness.roughness(own, state.forces))
    facts = {
        "labels": f"{METHOD}, electronic temperature 300 K; charges: Mulliken",
        "smoothness": {"unit": "meV/Å", "what": smoothness.WHAT, **rough},
        "sampling": f"Langevin dynamics at {sampling.temperatures} K, {sampling.interval * sampling.time_step:g} fs "
        "between frames",
        "split": "one trajectory of each state and temperature is the test file",
        "dropped": dropped,
        "versions": storage.versions("tblite"),
    }
    return parts, facts


def write_set(folder: pathlib.Path, name: str, description: str, seed: int, parts: Mapping, facts: Mapping) -> None:
    """Write the parts of a set, and its provenance with the facts of `generate`."""
    provenance = {"description": description, "command": f"python -m data_generation.{name}", "seed": seed, **facts}
    storage.write_set(folder, name, parts, provenance)
