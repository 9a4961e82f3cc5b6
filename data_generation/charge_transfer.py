"""Na8Cl8+ and Na9Cl8+ clusters labelled with GFN2-xTB: a charge that depends on a far end.

In Na9Cl8+ all ions are closed-shell; taking a sodium atom from one end leaves Na8Cl8+ with a hole that spreads
over the chlorines, including those at the other end. A sodium atom at that other end then feels a different
energy surface in the same surroundings, which no model of local environments can tell apart: the test of
Ko, Finkler, Goedecker, Behler, Nat. Commun. 12, 398 (2021), doi:10.1038/s41467-020-20427-2, there with DFT.

The frames come from Langevin dynamics on the surface of GFN2-xTB itself; in some, the sodium atom `MOVED` is
then displaced. Each trajectory is independent, and whole trajectories go into the test file. The file ``path``
holds no thermal frames: the relaxed clusters with `MOVED` displaced in even steps along the long axis, the rest
fixed. ``python -m data_generation.charge_transfer`` writes the set.
"""

from collections.abc import Sequence

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.optimize import BFGS

from data_generation import storage
from data_generation.xtb import GFN2, NotConverged, label


CHARGE = 1
# 63 and 64 valence electrons.
UNPAIRED = {"Na8Cl8": 1, "Na9Cl8": 0}
SPACING = 2.7  # Å, between neighbours of the unrelaxed clusters
MOVED = 0  # index of the sodium atom at the end z = 0
TEMPERATURES = (300, 600)  # K
TRAJECTORIES = 6  # trajectories of each cluster and temperature; the last is for testing
TIME_STEP = 6.0  # fs
FRICTION = 0.01  # 1/fs
EQUILIBRATION, INTERVAL = 50, 12  # steps before the first frame and between frames
DISPLACEMENTS = (-0.4, 2.0)  # Å, of `MOVED` outwards along z
PATH = np.linspace(*DISPLACEMENTS, 49)


def cluster(formula: str) -> Atoms:
    """Make the unrelaxed cluster: 2 x 2 x 4 ions of rock salt, Na first, the long axis along z.

    Na9Cl8 has one more sodium atom, the last, on top of a chlorine of the end at large z.

    Raises:
        ValueError: for another formula.
    """
    if formula not in UNPAIRED:
        raise ValueError(f"`formula` must be one of {', '.join(UNPAIRED)}, got {formula!r}.")
    sites = np.stack(np.meshgrid(np.arange(2), np.arange(2), np.arange(4), indexing="ij"), axis=-1).reshape(-1, 3)
    sites = sites[np.argsort(sites[:, 2], kind="stable")]
    even = sites.sum(axis=1) % 2 == 0
    sodium, chlorine = sites[even], sites[~even]
    symbols = ["Na"] * 8 + ["Cl"] * 8
    sites = np.concatenate([sodium, chlorine])
    if formula == "Na9Cl8":
        top = chlorine[chlorine[:, 2] == 3][0] + [0, 0, 1]
        sites, symbols = np.concatenate([sites, [top]]), [*symbols, "Na"]
    return Atoms(symbols, SPACING * sites)


def displace(atoms: Atoms, distance: float) -> Atoms:
    """Return a copy with atom `MOVED` shifted outwards, to negative z, by a distance in Å."""
    result = atoms.copy()
    result.positions[MOVED, 2] -= distance
    result.info["displacement"] = round(float(distance), storage.POSITION_DECIMALS)
    return result


def relax(formula: str) -> Atoms:
    """Relax the cluster to a minimum of GFN2-xTB, forces below 5 meV/Å.

    Raises:
        RuntimeError: if it is not reached.
    """
    atoms = cluster(formula)
    atoms.calc = GFN2(CHARGE, UNPAIRED[formula])
    if not BFGS(atoms, logfile=None).run(fmax=0.005, steps=500):
        raise RuntimeError(f"{formula}+ is not relaxed after 500 steps.")
    return atoms


def trajectory(start: Atoms, formula: str, temperature: float, n_frames: int, rng: np.random.Generator) -> list[Atoms]:
    """Thermal frames of a Langevin run; after every other one, a copy with `MOVED` displaced at random.

    Args:
        start: the relaxed cluster.
        formula: key of `UNPAIRED`.
        temperature: K.
        n_frames: number of thermal frames.
        rng: source of all random numbers.

    Returns:
        Frames without labels.
    """
    atoms = start.copy()
    atoms.calc = GFN2(CHARGE, UNPAIRED[formula])
    widths = np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None]
    atoms.set_momenta(widths * rng.standard_normal((len(atoms), 3)))
    dynamics = Langevin(
        atoms,
        TIME_STEP * units.fs,
        temperature_K=temperature,
        friction=FRICTION / units.fs,
        rng=rng,
        fixcm=False,  # the correct ensemble; rotation stays below 0.2 rad in a trajectory
    )
    dynamics.run(EQUILIBRATION)
    frames = []
    for i in range(n_frames):
        dynamics.run(INTERVAL)
        frame = atoms.copy()
        frame.info = {"temperature": temperature}
        frames.append(frame)
        if i % 2 == 1:
            frames.append(displace(frame, rng.uniform(*DISPLACEMENTS)))
    return frames


def labelled(frames: Sequence[Atoms], formula: str) -> list[Atoms]:
    """Label the frames; those without a self-consistent field are left out."""
    result = []
    for frame in frames:
        try:
            result.append(label(frame, CHARGE, UNPAIRED[formula]))
        except NotConverged:
            pass  # counted by the caller
    return result


def generate(seed: int = 0, n_frames: int = 25) -> tuple[dict[str, list[Atoms]], int]:
    """Generate all parts of the set; also returns the number of frames left out because they did not converge.

    Args:
        seed: seed of the random numbers.
        n_frames: thermal frames of each trajectory.
    """
    parts: dict[str, list[Atoms]] = {"train": [], "test": [], "path": []}
    dropped = 0
    for i, formula in enumerate(UNPAIRED):
        relaxed = relax(formula)
        runs = {"path": [[displace(relaxed, distance) for distance in PATH]], "train": [], "test": []}
        for temperature in TEMPERATURES:
            for k in range(TRAJECTORIES):
                rng = np.random.default_rng([seed, i, temperature, k])
                run = trajectory(relaxed, formula, temperature, n_frames, rng)
                runs["test" if k == TRAJECTORIES - 1 else "train"].append(run)
        for part, trajectories in runs.items():
            for run in trajectories:
                frames = labelled(run, formula)
                dropped += len(run) - len(frames)
                parts[part] += frames
    return parts, dropped


def main() -> None:
    """Write the set; see ``--help``."""
    arguments = storage.parser(__doc__).parse_args()
    parts, dropped = generate(arguments.seed)
    provenance = {
        "description": "Na8Cl8+ (one unpaired electron) and Na9Cl8+ (closed shell), open boundaries, charge +1 e",
        "command": "python -m data_generation.charge_transfer",
        "seed": arguments.seed,
        "versions": storage.versions("tblite"),
        "labels": "GFN2-xTB, electronic temperature 300 K; charges: Mulliken",
        "sampling": f"Langevin dynamics at {TEMPERATURES} K, {INTERVAL * TIME_STEP} fs between frames; every other "
        f"frame also with atom {MOVED} displaced by {DISPLACEMENTS} Å; path: relaxed clusters, that atom displaced",
        "split": "the last trajectory of each cluster and temperature is the test file",
        "dropped": dropped,
    }
    storage.write_set(arguments.out, "charge_transfer", parts, provenance)


if __name__ == "__main__":
    main()
