"""Latent Ewald sums on plain arrays."""

from lesjax.ewald.accuracy import force_error as force_error
from lesjax.ewald.interaction import (
    Coulomb as Coulomb,
    Interaction as Interaction,
    InversePower6 as InversePower6,
    SlabCoulomb as SlabCoulomb,
)
from lesjax.ewald.solver import (
    DEFAULT_ACCURACY as DEFAULT_ACCURACY,
    Plan as Plan,
    Solver as Solver,
    Solvers as Solvers,
    cutoff_for_accuracy as cutoff_for_accuracy,
    make_solver as make_solver,
    plan_bucket as plan_bucket,
    stack_solvers as stack_solvers,
)
from lesjax.ewald.solvers import (
    DirectSolver as DirectSolver,
    MeshSolver as MeshSolver,
    NufftSolver as NufftSolver,
    OpenSolver as OpenSolver,
)
from lesjax.ewald.sums import energy as energy, field as field, potential as potential, self_energy as self_energy
