"""The constants against the CODATA values that scipy has, which may be those of another year."""

import math

import pytest
from scipy import constants

from lesjax import units


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (units.COULOMB, constants.e / (4.0 * constants.pi * constants.epsilon_0) * 1e10),
        (units.VACUUM_PERMITTIVITY, constants.epsilon_0 / constants.e * 1e-10),
        (units.BOLTZMANN, constants.value("Boltzmann constant in eV/K")),
        (units.SPEED_OF_LIGHT, constants.c * 1e10 * 1e-15),
        (units.AMU, constants.atomic_mass * (1e-10 / 1e-15) ** 2 / constants.e),
        (units.WAVENUMBER, 1.0 / (constants.c * 100.0 * 1e-15)),
        (units.BAR, constants.bar * constants.angstrom**3 / constants.e),
        (units.GIGAPASCAL, 1e9 * constants.angstrom**3 / constants.e),
        (units.FEMTOSECOND, 1e-15 / (constants.angstrom * math.sqrt(constants.atomic_mass / constants.e))),
        (units.AMU_PER_A3, constants.atomic_mass * 1e3 / (1e2 * constants.angstrom) ** 3),
    ],
    ids=[
        "COULOMB",
        "VACUUM_PERMITTIVITY",
        "BOLTZMANN",
        "SPEED_OF_LIGHT",
        "AMU",
        "WAVENUMBER",
        "BAR",
        "GIGAPASCAL",
        "FEMTOSECOND",
        "AMU_PER_A3",
    ],
)
def test_codata(value, expected):
    assert value == pytest.approx(expected, rel=2e-9)
