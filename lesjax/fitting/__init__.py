"""Fitting of potentials to observables: what was measured, not only energies and forces."""

from lesjax.fitting.fit import Fit as Fit, fit as fit
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
from lesjax.fitting.targets import (
    Reweighting as Reweighting,
    Target as Target,
    data_loss as data_loss,
    target_loss as target_loss,
)
