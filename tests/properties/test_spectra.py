"""Spectra of oscillators that are known, sum rules, dielectric fluctuations, errors by blocks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import properties, units


# float32 sums of squares of some thousand numbers
RTOL = 1e-10 if jax.config.jax_enable_x64 else 1e-4
VOLUME, TEMPERATURE, MASS, CHARGE, TIME_STEP = 500.0, 300.0, 2.0, 0.7, 0.5


def arrays(values):
    return jnp.asarray(values, float)


def oscillator(wavenumber, steps=8000):
    """Velocities of a charge on three equal springs at TEMPERATURE, the three directions a third of a turn apart."""
    omega = 2.0 * math.pi * wavenumber / units.WAVENUMBER
    turns = omega * TIME_STEP * np.arange(steps)[:, None] + np.array([[0.0, 2.0, 4.0]]) * math.pi / 3.0
    speed = math.sqrt(2.0 * units.BOLTZMANN * TEMPERATURE / (MASS * units.AMU))
    return -speed * np.sin(turns), speed / omega * (np.cos(turns) - np.cos(turns[:1]))


def test_a_charge_on_a_spring_absorbs_at_its_frequency():
    velocities, positions = oscillator(1640.0)
    born = np.broadcast_to(CHARGE * np.eye(3), (len(velocities), 1, 3, 3))
    rate = properties.dipole_rate(arrays(born), arrays(velocities[:, None]))
    found = properties.infrared_spectrum(rate, TIME_STEP, VOLUME, TEMPERATURE, resolution=60.0)
    wavenumber, intensity = np.asarray(found.wavenumber), np.asarray(found.intensity)
    line = wavenumber[np.argmax(intensity)]
    assert abs(line - 1640.0) <= wavenumber[1]
    above_half = wavenumber[intensity > 0.5 * intensity.max()]
    assert abs(np.ptp(above_half) - 60.0) <= 2.0 * wavenumber[1]
    # the square of the plasma frequency, in SI: integral of n α over the angular frequency = π ω_p² / 2 c
    plasma = (CHARGE * 1.602176634e-19) ** 2 / (8.8541878128e-12 * MASS * 1.66053906660e-27 * VOLUME * 1e-30)
    area = np.trapezoid(intensity, wavenumber)
    # α in 1/m and wavenumbers in 1/m: dω = 2 π c dν
    np.testing.assert_allclose(area * 1e4, plasma / (4.0 * 299792458.0**2), rtol=100 * RTOL if RTOL < 1e-6 else RTOL)
    # all blocks are alike
    assert np.max(np.asarray(found.error)) < 0.02 * intensity.max()
    moment = properties.integrate_dipole(rate, TIME_STEP)
    size = np.abs(positions).max() * CHARGE
    np.testing.assert_allclose(moment, CHARGE * positions, rtol=0, atol=0.01 * size)


def test_sum_rule_of_any_motion():
    rng = np.random.default_rng(0)
    rate = arrays(rng.normal(size=(2000, 3)))
    found = properties.infrared_spectrum(rate, TIME_STEP, VOLUME, TEMPERATURE, resolution=500.0, n_blocks=4)
    area = np.trapezoid(np.asarray(found.intensity), np.asarray(found.wavenumber))
    square = np.mean(np.sum(np.asarray(rate) ** 2, axis=1))
    constants = units.SPEED_OF_LIGHT**2 * units.VACUUM_PERMITTIVITY * units.BOLTZMANN
    np.testing.assert_allclose(area, 1e16 * square / (12.0 * constants * VOLUME * TEMPERATURE), rtol=RTOL)


def test_errors_of_white_noise_cover_its_flat_spectrum():
    rate = arrays(np.random.default_rng(1).normal(size=(6400, 3)))
    found = properties.infrared_spectrum(rate, TIME_STEP, VOLUME, TEMPERATURE, resolution=1000.0, n_blocks=16)
    # inside, away from zero and the highest frequency, where the transform is real
    intensity, error = (np.asarray(x)[2:-2] for x in (found.intensity, found.error))
    deviation = (intensity - intensity.mean()) / error
    assert 0.6 < np.sqrt(np.mean(deviation**2)) < 1.5


def test_density_of_states_counts_them():
    first, second = oscillator(500.0)[0], oscillator(2500.0)[0]
    velocities = arrays(np.stack([first, second], 1))
    found = properties.vibrational_density_of_states(velocities, arrays([MASS, 1.0]), TIME_STEP, resolution=100.0)
    wavenumber, states = np.asarray(found.wavenumber), np.asarray(found.intensity)
    np.testing.assert_allclose(np.trapezoid(states, wavenumber), 6.0, rtol=RTOL)
    low = wavenumber < 1500.0
    share = np.trapezoid(states[low], wavenumber[low]) / 6.0
    np.testing.assert_allclose(share, MASS / (MASS + 1.0), rtol=1e-3)


def test_autocorrelation_is_the_average_over_pairs():
    series = np.random.default_rng(2).normal(size=(50, 2))
    expected = [np.mean(np.sum(series[: 50 - k] * series[k:], axis=1)) for k in range(11)]
    np.testing.assert_allclose(properties.autocorrelation(arrays(series), 10), expected, atol=100 * RTOL * 1e-2)


def correlated(steps, memory, columns, seed):
    """x' = memory x + noise, with variance 1."""
    rng = np.random.default_rng(seed)
    x = np.empty((steps, columns))
    x[0] = rng.normal(size=columns)
    noise = math.sqrt(1.0 - memory**2) * rng.normal(size=(steps, columns))
    for i in range(1, steps):
        x[i] = memory * x[i - 1] + noise[i]
    return x


def test_block_error_of_a_correlated_series():
    """The error of the mean is sqrt((1 + memory) / (1 - memory) / t) (Flyvbjerg and Petersen)."""
    series = correlated(4000, 0.9, 40, 3)
    errors = np.asarray(properties.block_error(arrays(series), n_blocks=20))
    np.testing.assert_allclose(np.sqrt(np.mean(errors**2)), math.sqrt(1.9 / 0.1 / 4000), rtol=0.12)
    blocks = series.reshape(20, 200, 40).mean(axis=1)
    expected = blocks.std(axis=0, ddof=1) / math.sqrt(20)
    np.testing.assert_allclose(errors, expected, rtol=1e-2 if RTOL > 1e-6 else 1e-9)


def test_dielectric_constant_of_known_fluctuations():
    """Axes of standard deviations 1, 2 and 3 e Å about a mean that does not matter."""
    series = correlated(20000, 0.5, 3, 4) * np.array([[1.0, 2.0, 3.0]]) + np.array([[5.0, -7.0, 100.0]])
    found = properties.static_dielectric_constant(
        arrays(series), VOLUME, TEMPERATURE, epsilon_infinity=arrays([1.5, 2.0, 2.5]), n_blocks=20
    )
    # in SI: e Å = 1.602176634e-29 C m
    si = 8.8541878128e-12 * 1.380649e-23 * TEMPERATURE * VOLUME * 1e-30
    expected = np.array([1.5, 2.0, 2.5]) + np.array([1.0, 4.0, 9.0]) * 1.602176634e-29**2 / si
    assert np.all(np.abs(found.axes - expected) < 3.0 * found.axes_error)
    assert np.all(found.axes_error < 0.05 * expected)
    np.testing.assert_allclose(found.mean, np.mean(found.axes), rtol=1e-5)
    assert abs(found.mean - expected.mean()) < 3.0 * found.mean_error
    same = properties.static_dielectric_constant(arrays(series[:, :1].repeat(3, 1)), VOLUME, TEMPERATURE)
    np.testing.assert_allclose(same.mean, same.axes[1], rtol=1e-5)


def test_functions_compile():
    rate = arrays(np.random.default_rng(0).normal(size=(200, 3)))
    found = jax.jit(lambda r, v: properties.infrared_spectrum(r, TIME_STEP, v, TEMPERATURE, resolution=2000.0))(
        rate, arrays(VOLUME)
    )
    assert found.intensity.dtype == found.error.dtype == found.wavenumber.dtype == rate.dtype
    constant = jax.jit(properties.static_dielectric_constant)(rate, arrays(VOLUME), arrays(TEMPERATURE))
    assert constant.mean_error.dtype == rate.dtype


RATE = np.zeros((100, 3))
BROKEN = np.where(np.arange(100)[:, None] == 40, np.nan, np.ones((1, 3)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: properties.static_dielectric_constant(RATE, -1.0, 300.0), r"`volume` must be positive, got -1\.0"),
        (lambda: properties.static_dielectric_constant(RATE, 1.0, -300.0), r"`temperature` must be .*, got -300\.0"),
        (lambda: properties.static_dielectric_constant(RATE, 1.0, math.nan), r"`temperature` must be .*, got nan"),
        (
            lambda: properties.static_dielectric_constant(RATE, 1.0, 300.0, epsilon_infinity=0.0),
            r"`epsilon_infinity` must be positive, got 0\.0",
        ),
        (
            lambda: properties.static_dielectric_constant(RATE[:15], 1.0, 300.0),
            r"`dipole` is too short: its 15 samples give 10 blocks of 1, .* at least 2\. Give a longer run",
        ),
        (
            lambda: properties.static_dielectric_constant(BROKEN, 1.0, 300.0),
            r"`dipole` is not finite in 1 of 100 samples, first in sample 40\. Did the simulation blow up",
        ),
        (lambda: properties.infrared_spectrum(RATE, 1.0, 0.0, 300.0), r"`volume` must be positive, got 0\.0"),
        (lambda: properties.infrared_spectrum(RATE, 1.0, 1.0, 0.0), r"`temperature` must be positive, got 0\.0"),
        (lambda: properties.infrared_spectrum(RATE, 0.0, 1.0, 300.0), r"`time_step` must be positive, got 0\.0"),
        (
            lambda: properties.infrared_spectrum(RATE, 1.0, 1.0, 300.0, resolution=0.0),
            r"`resolution` must be positive, got 0\.0",
        ),
        (
            lambda: properties.infrared_spectrum(RATE, 1.0, 1.0, 300.0),
            r"`rate` is too short: its 100 samples give 5 blocks of 20, .* or a larger `resolution` than 30\.0 cm",
        ),
        (
            lambda: properties.infrared_spectrum(BROKEN, 1.0, 1.0, 300.0, resolution=5000.0),
            r"`rate` is not finite in 1 of 100 samples",
        ),
        (lambda: properties.integrate_dipole(BROKEN, 1.0), r"`rate` is not finite in 1 of 100 samples"),
        (lambda: properties.integrate_dipole(RATE, -1.0), r"`time_step` must be positive, got -1\.0"),
        (
            lambda: properties.vibrational_density_of_states(RATE[:, None], np.ones(1), 1.0, resolution=5000.0),
            r"`velocities` are all zero, or have no mass",
        ),
        (lambda: properties.block_error(RATE, n_blocks=1), r"`n_blocks` must be 2 or more, got 1"),
        (lambda: properties.block_error(RATE[:5]), r"`series` is too short: its 5 samples"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
