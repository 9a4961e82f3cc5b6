"""Properties as pure functions of energies and charges."""

from lesjax.properties.dielectric import (
    DielectricConstant as DielectricConstant,
    static_dielectric_constant as static_dielectric_constant,
)
from lesjax.properties.forces import (
    Energy as Energy,
    Frame as Frame,
    energy_forces_stress as energy_forces_stress,
)
from lesjax.properties.phonons import (
    Modes as Modes,
    mode_frequencies as mode_frequencies,
    mode_table as mode_table,
    nonanalytic_vector as nonanalytic_vector,
    normal_modes as normal_modes,
    write_force_constants as write_force_constants,
)
from lesjax.properties.polarization import (
    born_effective_charges as born_effective_charges,
    dipole_moment as dipole_moment,
    field_forces as field_forces,
    quadrupole_moment as quadrupole_moment,
    traceless as traceless,
)
from lesjax.properties.second_derivatives import (
    elastic_constants as elastic_constants,
    hessian as hessian,
    hessian_vector_product as hessian_vector_product,
)
from lesjax.properties.series import block_error as block_error
from lesjax.properties.spectra import (
    Spectrum as Spectrum,
    autocorrelation as autocorrelation,
    dipole_rate as dipole_rate,
    infrared_spectrum as infrared_spectrum,
    integrate_dipole as integrate_dipole,
    vibrational_density_of_states as vibrational_density_of_states,
)
