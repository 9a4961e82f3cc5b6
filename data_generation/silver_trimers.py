"""Ag3+ and Ag3- labelled with GFN1-xTB: one composition in two charge states.

A model that is not told the charge cannot tell the states apart where their structures overlap. After Ko, Finkler,
Goedecker, Behler, Nat. Commun. 12, 398 (2021), doi:10.1038/s41467-020-20427-2, there with DFT.
``python -m data_generation.silver_trimers`` writes the set.
"""

from ase import Atoms

from data_generation import storage
from data_generation.clusters import Sampling, State, generate, write_set


SAMPLING = Sampling(
    temperatures=(300, 600), trajectories=8, test=7, frames=25, time_step=8.0, equilibration=100, interval=25
)
TRIANGLE = Atoms("Ag3", [[0.0, 0.0, 0.0], [2.75, 0.0, 0.0], [1.375, 2.38, 0.0]])  # unrelaxed, Å
STATES = (State("Ag3+", TRIANGLE, 1, 0), State("Ag3-", TRIANGLE, -1, 0))


def main() -> None:
    """Write the set; see ``--help``."""
    arguments = storage.parser(__doc__).parse_args()
    parts, facts = generate(STATES, SAMPLING, arguments.seed)
    description = "Ag3+ and Ag3-, closed shells, open boundaries"
    write_set(arguments.out, "silver_trimers", description, arguments.seed, parts, facts)


if __name__ == "__main__":
    main()
