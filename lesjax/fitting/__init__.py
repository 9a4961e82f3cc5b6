"""Fitting of potentials to observables: what was measured, not only energies and forces."""

from lesjax.fitting.minimum import (
    PotentialEnergy as PotentialEnergy,
    Relaxed as Relaxed,
    potential_energy as potential_energy,
    relax as relax,
)
from lesjax.fitting.newton import MinimumError as MinimumError
