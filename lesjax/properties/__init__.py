"""Properties as pure functions of energies and charges."""

from lesjax.properties.forces import energy_forces_stress as energy_forces_stress
