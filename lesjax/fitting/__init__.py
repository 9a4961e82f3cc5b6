"""Fitting: what is learned from more than energies and forces, and which data to learn from."""

from lesjax.fitting.fit import Fit as Fit, fit as fit
from lesjax.fitting.minimum import (
    PotentialEnergy as PotentialEnergy,
    Relaxed as Relaxed,
    potential_energy as potential_energy,
    relax as relax,
)
from lesjax.fitting.newton import MinimumError as MinimumError
from lesjax.fitting.observables import (
    Observable as Observable,
    born_charges as born_charges,
    density as density,
    dielectric_constant as dielectric_constant,
    dipole as dipole,
    pressure as pressure,
    radial_distribution as radial_distribution,
)
from lesjax.fitting.reweighting import (
    Frame as Frame,
    ReweightingError as ReweightingError,
    Trajectory as Trajectory,
    averages as averages,
    effective_fraction as effective_fraction,
    make_trajectory as make_trajectory,
    observable_values as observable_values,
    weights as weights,
)
from lesjax.fitting.sampling import (
    Sampler as Sampler,
    make_sampler as make_sampler,
    potential_sampler as potential_sampler,
)
from lesjax.fitting.selection import (
    Round as Round,
    active_learning as active_learning,
    force_spreads as force_spreads,
    select as select,
)
from lesjax.fitting.targets import (
    Reweighting as Reweighting,
    Target as Target,
    data_loss as data_loss,
    target_loss as target_loss,
)
