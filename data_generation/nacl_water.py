"""Rock salt, NaCl(001), in contact with SPC/Fw water: an ionic solid with a liquid.

Four layers of 18 ions and 68 water molecules fill a periodic cell, so that both faces of the crystal are wet. Force
field and labels come from `data_generation.spcfw`; the ions of the crystal are free to move. Each trajectory starts
from molecules placed at random, and whole trajectories go into the test file. ``python -m data_generation.nacl_water``
writes the set.
"""

import itertools

import numpy as np
from ase import Atoms

from data_generation import spcfw, storage


LATTICE_CONSTANT = 5.78  # Å, of this force field at 300 K and 1 bar
LAYERS, SURFACE_CELLS = 4, 3
N_WATERS = 68
WATER_HEIGHT = 16.0  # Å, between the outermost layers, at about 1 bar
TEMPERATURE = 300.0  # K
TRAJECTORIES = 5  # the last is for testing
FRAMES = 20  # frames of each trajectory
EQUILIBRATION, INTERVAL = 15.0, 3.0  # ps


def start(rng: np.random.Generator) -> Atoms:
    """Place the crystal in the middle of the cell and water at random on the sites of a grid.

    Water comes first, then Na, then Cl. Two molecules may be too close to each other.
    """
    spacing = LATTICE_CONSTANT / 2  # of the layers; the surface cell is turned by 45 degrees, with an ion of each kind
    edge = SURFACE_CELLS * LATTICE_CONSTANT / np.sqrt(2)
    cells = np.array(list(itertools.product(range(SURFACE_CELLS), range(SURFACE_CELLS), range(LAYERS))), dtype=float)
    height = (LAYERS - 1) * spacing + WATER_HEIGHT
    ions = []
    for kind in range(2):  # the kinds change places from one layer to the next
        inside = cells[:, :2] + 0.5 * ((cells[:, 2:] + kind) % 2)
        z = height / 2 + spacing * (cells[:, 2:] - (LAYERS - 1) / 2)
        ions.append(np.concatenate([inside * edge / SURFACE_CELLS, z], axis=1))
    grid = np.array(list(itertools.product(range(4), range(4), range(5)))) / (4, 4, 4)
    grid = rng.permutation(grid)[:N_WATERS]
    margin = 2.5  # Å, from the outermost layer to the first molecules
    z = (grid[:, 2] - 0.5) * (WATER_HEIGHT - 2 * margin)  # centred on the cell's boundary
    sites = np.concatenate([grid[:, :2] * edge, z[:, None]], axis=1)
    positions = np.concatenate([spcfw.random_molecules(sites, rng), *ions])
    symbols = ["O", "H", "H"] * N_WATERS + ["Na"] * len(ions[0]) + ["Cl"] * len(ions[1])
    cell = np.round([edge, edge, height], storage.POSITION_DECIMALS)
    return Atoms(symbols, positions, cell=cell, pbc=True, info={"kind": "interface"})


def generate(seed: int = 0) -> dict[str, list[Atoms]]:
    """Generate the parts of the set, "train" and "test"; `seed` is the seed of the random numbers."""
    parts: dict[str, list[Atoms]] = {"train": [], "test": []}
    for k in range(TRAJECTORIES):
        rng = np.random.default_rng([seed, k])
        frames = spcfw.sample(
            start(rng),
            FRAMES,
            temperature=TEMPERATURE,
            equilibration=EQUILIBRATION,
            interval=INTERVAL,
            seed=int(rng.integers(1, 2**31 - 1)),
        )
        parts["test" if k == TRAJECTORIES - 1 else "train"] += spcfw.label(frames)
    return parts


def main() -> None:
    """Write the set; see ``--help``."""
    arguments = storage.parser(__doc__).parse_args()
    parts = generate(arguments.seed)
    provenance = {
        "description": f"{LAYERS} layers of NaCl(001) and {N_WATERS} flexible SPC/Fw water molecules "
        "(charges of SPC/E), periodic in three directions",
        "command": "python -m data_generation.nacl_water",
        "seed": arguments.seed,
        "versions": storage.versions("openmm"),
        **spcfw.PROVENANCE,
        "sampling": f"Langevin dynamics at {TEMPERATURE} K and constant volume, {EQUILIBRATION} ps of equilibration, "
        f"{INTERVAL} ps between frames, {TRAJECTORIES} trajectories",
        "split": "the last trajectory is the test file",
    }
    storage.write_set(arguments.out, "nacl_water", parts, provenance)


if __name__ == "__main__":
    main()
