"""Na8Cl8+ and Na9Cl8+ clusters labelled with GFN1-xTB: a charge that depends on a far end.

In Na9Cl8+ all ions are closed-shell; taking a sodium atom from one end leaves Na8Cl8+ with a hole that spreads
over the chlorines, including those at the other end. A sodium atom at that other end then feels a different
energy surface in the same surroundings, which no model of local environments can tell apart: the test of
Ko, Finkler, Goedecker, Behler, Nat. Commun. 12, 398 (2021), doi:10.1038/s41467-020-20427-2, there with DFT.

In some thermal frames, the sodium atom `MOVED` is then displaced. The file ``path`` holds no thermal frames: the
relaxed clusters with `MOVED` displaced in even steps along the long axis, the rest fixed.
``python -m data_generation.charge_transfer`` writes the set.
"""

import numpy as np
from ase import Atoms

from data_generation import storage
from data_generation.clusters import Sampling, State, generate, write_set


SPACING = 2.7  # Å, between neighbours of the unrelaxed clusters
MOVED = 0  # index of the sodium atom at the end z = 0
DISPLACEMENTS = (-0.4, 2.0)  # Å, of `MOVED` outwards along z
PATH = np.linspace(*DISPLACEMENTS, 49)
SAMPLING = Sampling(
    temperatures=(300, 600), trajectories=10, test=5, frames=25, time_step=6.0, equilibration=50, interval=12
)


def cluster(formula: str) -> Atoms:
    """Make the unrelaxed cluster: 2 x 2 x 4 ions of rock salt, Na first, the long axis along z.

    Na9Cl8 has one more sodium atom, the last, on top of a chlorine of the end at large z.

    Raises:
        ValueError: for another formula.
    """
    if formula not in ("Na8Cl8", "Na9Cl8"):
        raise ValueError(f"`formula` must be one of Na8Cl8, Na9Cl8, got {formula!r}.")
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


# 63 and 64 valence electrons
STATES = (State("Na8Cl8+", cluster("Na8Cl8"), 1, 1), State("Na9Cl8+", cluster("Na9Cl8"), 1, 0))


def displace(atoms: Atoms, distance: float) -> Atoms:
    """Return a copy with atom `MOVED` shifted outwards, to negative z, by a distance in Å."""
    result = atoms.copy()
    result.positions[MOVED, 2] -= distance
    result.info["displacement"] = round(float(distance), storage.POSITION_DECIMALS)
    return result


def displace_at_random(atoms: Atoms, rng: np.random.Generator) -> list[Atoms]:
    """Return one copy with atom `MOVED` displaced."""
    return [displace(atoms, rng.uniform(*DISPLACEMENTS))]


def path(state: State) -> list[Atoms]:
    """Displace `MOVED` of the relaxed cluster in even steps."""
    relaxed = state.relax()
    relaxed.info = {}
    return state.label([displace(relaxed, distance) for distance in PATH])


def main() -> None:
    """Write the set; see ``--help``."""
    arguments = storage.parser(__doc__).parse_args()
    parts, facts = generate(STATES, SAMPLING, arguments.seed, displace_at_random)
    parts["path"] = [frame for state in STATES for frame in path(state)]
    facts["sampling"] += (
        f"; every other frame also with atom {MOVED} displaced by {DISPLACEMENTS} Å; path: relaxed clusters, that "
        "atom displaced"
    )
    description = "Na8Cl8+ (one unpaired electron) and Na9Cl8+ (closed shell), open boundaries, charge +1 e"
    write_set(arguments.out, "charge_transfer", description, arguments.seed, parts, facts)


if __name__ == "__main__":
    main()
