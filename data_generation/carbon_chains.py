"""Carbon chains C10H2 and C10H3+ labelled with GFN1-xTB: a proton at one end is felt at the other, 12 Å away.

After Ko, Finkler, Goedecker, Behler, Nat. Commun. 12, 398 (2021), doi:10.1038/s41467-020-20427-2, there with DFT.
``python -m data_generation.carbon_chains`` writes the set.
"""

import numpy as np
from ase import Atoms

from data_generation import storage
from data_generation.clusters import Sampling, State, generate, write_set


N_CARBON = 10
TRIPLE, SINGLE, CH = 1.22, 1.36, 1.06  # Å, bonds before relaxation
SAMPLING = Sampling(
    temperatures=(300, 600), trajectories=6, test=5, frames=25, time_step=0.8, equilibration=200, interval=30
)


def chain(protonated: bool) -> Atoms:
    """Make the unrelaxed chain along z, with triple and single bonds in turn; a CH2 group ends the protonated one."""
    bonds = [TRIPLE if i % 2 == 0 else SINGLE for i in range(N_CARBON - 1)]
    z = np.concatenate([[0.0], np.cumsum(bonds)])
    positions = [[0.0, 0.0, height] for height in z] + [[0.0, 0.0, -CH]]
    if protonated:
        positions += [[sign * 0.93, 0.0, z[-1] + 0.53] for sign in (1, -1)]
    else:
        positions += [[0.0, 0.0, z[-1] + CH]]
    return Atoms(["C"] * N_CARBON + ["H"] * (len(positions) - N_CARBON), np.array(positions))


STATES = (State("C10H2", chain(False), 0, 0), State("C10H3+", chain(True), 1, 0))


def main() -> None:
    """Write the set; see ``--help``."""
    arguments = storage.parser(__doc__).parse_args()
    parts, facts = generate(STATES, SAMPLING, arguments.seed)
    description = "C10H2 (charge 0) and C10H3+ (charge +1 e), closed shells, open boundaries"
    write_set(arguments.out, "carbon_chains", description, arguments.seed, parts, facts)


if __name__ == "__main__":
    main()
