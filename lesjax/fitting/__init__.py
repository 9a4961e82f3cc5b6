"""Fitting: what is learned from more than energies and forces, and which data to learn from."""

from lesjax.fitting.minimum import (
    PotentialEnergy as PotentialEnergy,
    Relaxed as Relaxed,
    potential_energy as potential_energy,
    relax as relax,
)
from lesjax.fitting.newton import MinimumError as MinimumError
from lesjax.fitting.selection import (
    Round as Round,
    active_learning as active_learning,
    force_spreads as force_spreads,
    select as select,
)
