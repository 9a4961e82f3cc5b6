"""Latent Ewald sums on plain arrays."""

from lesjax.ewald.accuracy import force_error as force_error
from lesjax.ewald.equilibration import (
    Equilibration as Equilibration,
    check_equilibration as check_equilibration,
    equilibrate as equilibrate,
)
from lesjax.ewald.induction import (
    Induction as Induction,
    check_induction as check_induction,
    one_shot_induction as one_shot_induction,
    self_consistent_induction as self_consistent_induction,
)
from lesjax.ewald.solver import Solver as Solver, make_solver as make_solver, stack_solvers as stack_solvers
from lesjax.ewald.sums import energy as energy, field as field, potential as potential, self_energy as self_energy
