"""Physical constants in eV, Å, e, fs and amu, from CODATA 2018."""

import math


# e^2 / (4 pi eps0) in eV Å, from the CODATA 2018 values of e and eps0
# (scipy.constants: e / (4 pi epsilon_0) * 1e10 gives it with eps0 = 8.8541878128e-12 F/m).
COULOMB = 14.399645478425668

# vacuum electric permittivity eps0, e/(V Å): the same two values
VACUUM_PERMITTIVITY = 1.0 / (4.0 * math.pi * COULOMB)

# Boltzmann constant in eV/K, 1.380649e-23 J/K over e = 1.602176634e-19 C (both exact)
BOLTZMANN = 8.617333262145179e-5

# pressures of 1 bar and 1 GPa, eV/Å³: 1e5 J/m³ over e (exact)
BAR = 1e5 * 1e-30 / 1.602176634e-19
GIGAPASCAL = 1e4 * BAR

# speed of light in vacuum 299792458 m/s (exact), Å/fs
SPEED_OF_LIGHT = 2997.92458

# atomic mass constant 1.66053906660e-27 kg in eV fs²/Å²: masses in amu and velocities in Å/fs to energies in eV
AMU = 1.66053906660e-27 * 1e10 / 1.602176634e-19

# wavenumber of the frequency 1/fs, cm^-1
WAVENUMBER = 1e8 / SPEED_OF_LIGHT

# atomic mass constant over Å³ in g/cm³: masses in amu and volumes in Å³ to densities
AMU_PER_A3 = 1.66053906660e-24 / 1e-24

# 1 fs in Å (amu/eV)^(1/2), the time of ASE and of jax-md: with it momenta and masses give energies in eV as they are
FEMTOSECOND = 1.0 / math.sqrt(AMU)
