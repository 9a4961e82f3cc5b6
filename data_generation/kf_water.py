"""Potassium fluoride in SPC/Fw water, 0 to 2 mol/L, in bulk and with an interface to its vapour.

Long-range electrostatics in a liquid with known charges: see `data_generation.spcfw` for the force field and how
the labels are made. 64 water molecules and 0, 1 or 2 ion pairs, in a cubic cell or as a slab in a cell of
three times its height, periodic in all directions. Each trajectory starts from ions and molecules placed at
random, and whole trajectories go into the test file. ``python -m data_generation.kf_water`` writes the set, in
about half an hour; with ``--work`` trajectories are saved, and an interrupted run resumes.
"""

import itertools
import pathlib
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from data_generation import spcfw, storage


N_WATERS = 64
PAIRS = (0, 1, 2)
VOLUME_WATER, VOLUME_PAIR = 29.9, 13.0  # Å³, at 300 K; apparent volume of KF in dilute solution
HEIGHT = 3  # height of the cell with an interface, over that of the slab
TEMPERATURE = 300.0  # K
TRAJECTORIES = 5  # trajectories of each system; the last is for testing
FRAMES = {"bulk": 20, "interface": 14}  # frames of each trajectory
EQUILIBRATION, INTERVAL = 15.0, 3.0  # ps


def start(kind: str, n_pairs: int, rng: np.random.Generator) -> Atoms:
    """Place water and ions at random on the sites of a grid, some of them too close to each other.

    Args:
        kind: "bulk" or "interface".
        n_pairs: number of ions of each sign.
        rng: source of the random numbers.

    Raises:
        ValueError: for another `kind`, or more ions than sites.
    """
    if kind not in FRAMES:
        raise ValueError(f"`kind` must be one of {', '.join(FRAMES)}, got {kind!r}.")
    sites = np.array(list(itertools.product(range(4), range(4), range(5)))) / (4, 4, 5)
    if not 0 <= n_pairs <= (len(sites) - N_WATERS) // 2:
        raise ValueError(f"`n_pairs` must be from 0 to {(len(sites) - N_WATERS) // 2}, got {n_pairs}.")
    edge = (N_WATERS * VOLUME_WATER + n_pairs * VOLUME_PAIR) ** (1 / 3)
    sites = edge * rng.permutation(sites)[: N_WATERS + 2 * n_pairs]
    symbols = ["O", "H", "H"] * N_WATERS + ["K"] * n_pairs + ["F"] * n_pairs
    positions = np.concatenate([spcfw.random_molecules(sites[:N_WATERS], rng), sites[N_WATERS:]])
    cell = [edge, edge, edge * (HEIGHT if kind == "interface" else 1)]
    atoms = Atoms(symbols, positions, cell=np.round(cell, storage.POSITION_DECIMALS), pbc=True)
    atoms.info = {"kind": kind, "n_pairs": n_pairs}
    return atoms


def trajectory(kind: str, n_pairs: int, k: int, seed: int, work: pathlib.Path | None) -> Sequence[Atoms]:
    """Return the labelled frames of trajectory `k`, saved as a file in `work` if that is given."""
    saved = work / f"kf_water_{kind}_{n_pairs}_{k}_{seed}{storage.SUFFIX}" if work else None
    if saved is not None and saved.exists():
        return storage.read(saved)
    rng = np.random.default_rng([seed, list(FRAMES).index(kind), n_pairs, k])
    frames = spcfw.sample(
        start(kind, n_pairs, rng),
        FRAMES[kind],
        temperature=TEMPERATURE,
        equilibration=EQUILIBRATION,
        interval=INTERVAL,
        seed=int(rng.integers(1, 2**31 - 1)),
    )
    frames = spcfw.label(frames)
    if saved is not None:
        storage.write_frames(saved, frames)
    return frames


def generate(seed: int = 0, work: pathlib.Path | None = None) -> dict[str, list[Atoms]]:
    """Generate the parts of the set: "train" and "test".

    Args:
        seed: seed of the random numbers.
        work: folder where finished trajectories are saved and looked for.
    """
    parts: dict[str, list[Atoms]] = {"train": [], "test": []}
    for kind, n_pairs, k in itertools.product(FRAMES, PAIRS, range(TRAJECTORIES)):
        parts["test" if k == TRAJECTORIES - 1 else "train"] += trajectory(kind, n_pairs, k, seed, work)
    return parts


def main() -> None:
    """Write the set; see ``--help``."""
    parser = storage.parser(__doc__)
    parser.add_argument("--work", type=pathlib.Path, help="folder for finished trajectories")
    arguments = parser.parse_args()
    parts = generate(arguments.seed, arguments.work)
    provenance = {
        "description": f"{N_WATERS} flexible SPC/Fw water molecules (charges of SPC/E) and {PAIRS} pairs K+, F-, bulk "
        "(kind=bulk) and slab (kind=interface), periodic in three directions",
        "command": "python -m data_generation.kf_water",
        "seed": arguments.seed,
        "versions": storage.versions("openmm"),
        **spcfw.PROVENANCE,
        "sampling": f"Langevin dynamics at {TEMPERATURE} K and constant volume, {EQUILIBRATION} ps of equilibration, "
        f"{INTERVAL} ps between frames, {TRAJECTORIES} trajectories of each system",
        "split": "the last trajectory of each system is in the test file",
    }
    storage.write_set(arguments.out, "kf_water", parts, provenance)


if __name__ == "__main__":
    main()
