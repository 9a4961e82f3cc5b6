"""Properties as pure functions of energies and charges."""

from lesjax.properties.forces import energy_forces_stress as energy_forces_stress
from lesjax.properties.polarization import (
    born_effective_charges as born_effective_charges,
    dipole_moment as dipole_moment,
    field_forces as field_forces,
    quadrupole_moment as quadrupole_moment,
    traceless as traceless,
)
