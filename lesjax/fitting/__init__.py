"""Fitting: learning from more than energies and forces, and selection of data to learn from."""

from lesjax.fitting.minimum import Relaxed as Relaxed, relax as relax
from lesjax.fitting.newton import MinimumError as MinimumError
from lesjax.fitting.observables import (
    Observable as Observable,
    born_effective_charges as born_effective_charges,
    density as density,
    dielectric_constant as dielectric_constant,
    dipole_moment as dipole_moment,
    pressure as pressure,
    radial_distribution as radial_distribution,
)
from lesjax.fitting.optimize import Fit as Fit, fit as fit
from lesjax.fitting.reweighting import (
    ReweightingError as ReweightingError,
    Trajectory as Trajectory,
    boltzmann_weights as boltzmann_weights,
    effective_fraction as effective_fraction,
    ensemble_averages as ensemble_averages,
    make_trajectory as make_trajectory,
    observable_values as observable_values,
)
from lesjax.fitting.sampling import (
    Sampler as Sampler,
    make_sampler as make_sampler,
    potential_sampler as potential_sampler,
    stack_frames as stack_frames,
)
from lesjax.fitting.selection import (
    Round as Round,
    active_learning as active_learning,
    force_spreads as force_spreads,
    select_structures as select_structures,
)
from lesjax.fitting.targets import (
    Reweighting as Reweighting,
    Target as Target,
    data_loss as data_loss,
    target_loss as target_loss,
)
from lesjax.properties import Frame as Frame
