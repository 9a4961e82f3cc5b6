r"""Infrared and vibrational spectra of a trajectory, by Fourier transforms of autocorrelation functions.

The absorption coefficient α times the refractive index n of a classical system is (S.I.)

.. math:: n(\omega)\, \alpha(\omega) = \frac{1}{3 c\, \varepsilon_0 V k_B T} \int_0^\infty
          \langle \dot M(0) \cdot \dot M(t) \rangle \cos \omega t \; dt, \qquad \dot M = \sum_i Z^*_i v_i .

This is also the quantum result with the correction factor :math:`\beta \hbar \omega / (1 - e^{-\beta \hbar \omega})`
that is exact for harmonic vibrations. For particles with fixed charges it obeys the sum rule

.. math:: \int_0^\infty n \alpha\, d\omega = \frac{\pi}{2 c\, \varepsilon_0 V} \sum_i \frac{q_i^2}{m_i}.

The autocorrelation is multiplied by the Hann window :math:`\cos^2 (\pi t / 2 T)` and cut at T, which broadens a sharp
line to a full width at half maximum of :math:`1 / T` and keeps its integral; T follows from the requested
width. Frequencies are wavenumbers :math:`\tilde\nu = \omega / 2 \pi c`, cm⁻¹.

Source: McQuarrie, Statistical Mechanics, ch. 21; Ramírez et al., J. Chem. Phys. 121, 3973 (2004) for the
correction factor.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from lesjax.numerics import einsum
from lesjax.properties.series import block_error, check_finite, check_positive, split_blocks
from lesjax.units import BOLTZMANN, SPEED_OF_LIGHT, VACUUM_PERMITTIVITY, WAVENUMBER


class Spectrum(NamedTuple):
    """A spectrum with standard errors.

    Attributes:
        wavenumber: cm⁻¹, in even steps from zero.
        intensity: in the unit of the function that made it.
        error: standard error of the intensity, from blocks.
    """

    wavenumber: Float[Array, " f"]
    intensity: Float[Array, " f"]
    error: Float[Array, " f"]


def dipole_rate(
    born_charges: Float[np.ndarray | Array, "t n 3 3"], velocities: Float[np.ndarray | Array, "t n 3"]
) -> Float[Array, "t 3"]:
    r"""Rate of the dipole moment, :math:`\dot M_\alpha = \sum_{i \beta} Z^*_{i, \alpha \beta} v_{i \beta}`, e Å/fs.

    It needs no positions, so that wrapped atoms do not matter. Where the charges do not obey the acoustic sum rule
    (:math:`\sum_i Z^*_i = 0`) it contains the drift of the centre of mass.

    Args:
        born_charges: from `born_effective_charges`, e: [time, atom, polarization, displacement].
        velocities: Å/fs.
    """
    return einsum("tnad,tnd->ta", born_charges, velocities)


def integrate_dipole(
    rate: Float[np.ndarray | Array, "t 3"], time_step: float | Float[np.ndarray | Array, ""]
) -> Float[Array, "t 3"]:
    r"""Itinerant dipole moment :math:`M(t) - M(0) = \int_0^t \dot M dt'` by the trapezoidal rule, e Å.

    Args:
        rate: from `dipole_rate`, e Å/fs.
        time_step: time between the samples, fs.

    Raises:
        ValueError: for a time step that is not positive, or a rate that is not finite.
    """
    check_positive("time_step", time_step)
    check_finite("rate", rate)
    values = jnp.asarray(rate)
    steps = jnp.asarray(0.5 * time_step, values.dtype) * (values[1:] + values[:-1])
    return jnp.concatenate([jnp.zeros_like(values[:1]), jnp.cumsum(steps, axis=0)])


def infrared_spectrum(
    rate: Float[np.ndarray | Array, "t 3"],
    time_step: float,
    volume: float | Float[np.ndarray | Array, ""],
    temperature: float | Float[np.ndarray | Array, ""],
    *,
    resolution: float = 30.0,
    n_blocks: int = 5,
) -> Spectrum:
    """Infrared absorption n(ω) α(ω) of a periodic cell, cm⁻¹ (absorption per length); formula in the module.

    Divide by a refractive index for α. For a gas take the volume per molecule.

    Args:
        rate: rate of the dipole moment at equal steps of time, from `dipole_rate`, e Å/fs.
        time_step: time between the samples, fs; frequencies reach to 16678/`time_step` cm⁻¹.
        volume: volume of the cell, Å³.
        temperature: temperature of the trajectory, K.
        resolution: full width at half maximum that a sharp line gets, cm⁻¹.
        n_blocks: number of blocks for the average and its errors.

    Raises:
        ValueError: for a volume, temperature, time step or resolution that is not positive, a series too short for
            `resolution` and `n_blocks`, or one that is not finite.
    """
    check_positive("volume", volume)
    check_positive("temperature", temperature)
    # from 1/Å to 1/cm
    scale = 1e8 / (6.0 * SPEED_OF_LIGHT * VACUUM_PERMITTIVITY * BOLTZMANN * volume * temperature)
    wavenumber, power = _block_spectra("rate", rate, time_step, resolution, n_blocks)
    scale = jnp.asarray(scale, power.dtype)
    return Spectrum(wavenumber, scale * jnp.mean(power, axis=0), scale * block_error(power, n_blocks=n_blocks))


def vibrational_density_of_states(
    velocities: Float[np.ndarray | Array, "t n 3"],
    masses: Float[np.ndarray | Array, " n"],
    time_step: float,
    *,
    resolution: float = 30.0,
    n_blocks: int = 5,
) -> Spectrum:
    """Power spectrum of the velocities weighted by mass, in states per cm⁻¹: its integral is 3n.

    Args:
        velocities: velocities at equal steps of time, in any unit.
        masses: masses in any unit; zero leaves an atom's motion out, and all are counted among the n.
        time_step: time between the samples, fs.
        resolution: full width at half maximum that a sharp line gets, cm⁻¹.
        n_blocks: number of blocks for the average and its errors.

    Raises:
        ValueError: as `infrared_spectrum`, or for velocities that are all zero.
    """
    weighted = jnp.asarray(velocities) * jnp.sqrt(jnp.asarray(masses))[None, :, None]
    flat = weighted.reshape(len(weighted), -1)
    wavenumber, power = _block_spectra("velocities", flat, time_step, resolution, n_blocks)
    # integral of a spectrum over all positive wavenumbers, with the trapezoidal rule that is exact for it
    total = jnp.trapezoid(jnp.mean(power, axis=0), wavenumber)
    if not isinstance(total, Tracer) and not float(total) > 0.0:
        raise ValueError("`velocities` are all zero, or have no mass: there is no density of states.")
    scale = flat.shape[1] / total
    return Spectrum(wavenumber, scale * jnp.mean(power, axis=0), scale * block_error(power, n_blocks=n_blocks))


def autocorrelation(series: Float[Array, "t m"], n_lags: int) -> Float[Array, " l"]:
    r"""Autocorrelation :math:`\sum_m \langle x_m(0) x_m(k) \rangle` for lags k = 0 to `n_lags` < t, by two FFTs.

    Each lag is averaged over the t - k pairs of the series that are that far apart.
    """
    length = len(series)
    assert n_lags < length
    # zeros behind the series, so that its end does not meet its beginning
    size = 2 ** math.ceil(math.log2(length + n_lags))
    transformed = jnp.fft.rfft(series, n=size, axis=0)
    power = jnp.sum(jnp.real(transformed) ** 2 + jnp.imag(transformed) ** 2, axis=1)
    lags = jnp.fft.irfft(power, n=size)[: n_lags + 1]
    return lags / (length - jnp.arange(n_lags + 1)).astype(series.dtype)


def _block_spectra(
    name: str, series: Float[np.ndarray | Array, "t m"], time_step: float, resolution: float, n_blocks: int
) -> tuple[Float[Array, " f"], Float[Array, "b f"]]:
    """Wavenumbers and, for each block, the integral of the windowed autocorrelation times cos ωt over all times."""
    check_positive("time_step", time_step)
    check_positive("resolution", resolution)
    n_lags = math.ceil(WAVENUMBER / (resolution * time_step))
    advice = f", or a larger `resolution` than {resolution} cm⁻¹"
    blocks = split_blocks(name, series, n_blocks, n_lags + 1, advice=advice)
    window = jnp.cos(0.5 * math.pi * jnp.arange(n_lags + 1).astype(blocks.dtype) / n_lags) ** 2

    def spectrum(block: Array) -> Array:
        windowed = window * autocorrelation(block, n_lags)
        return time_step * jnp.real(jnp.fft.rfft(jnp.concatenate([windowed, windowed[-2:0:-1]])))

    steps = jnp.arange(n_lags + 1).astype(blocks.dtype)
    return WAVENUMBER / (2 * n_lags * time_step) * steps, jax.lax.map(spectrum, blocks)
