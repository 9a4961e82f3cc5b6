r"""Static dielectric constant from the fluctuations of the dipole moment of a periodic cell.

.. math:: \varepsilon_a = \varepsilon_{\infty, a}
          + \frac{\langle M_a^2 \rangle - \langle M_a \rangle^2}{\varepsilon_0 V k_B T}, \qquad
          \varepsilon = \tfrac13 \sum_a \varepsilon_a = \varepsilon_\infty
          + \frac{\langle M^2 \rangle - \langle M \rangle^2}{3 \varepsilon_0 V k_B T}

for tin-foil boundaries, as in the sums of `lesjax.ewald`. M must be continuous in time: it is the
itinerant dipole moment of `integrate_dipole`, with atoms that are never wrapped, not one of wrapped positions. The
formula is for cells without mobile ions, whose M drifts without bound.

Source: Neumann, Mol. Phys. 50, 841 (1983).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lesjax.properties.series import block_error, check_positive, split_blocks
from lesjax.units import BOLTZMANN, VACUUM_PERMITTIVITY


class DielectricConstant(NamedTuple):
    """Static dielectric constant, and standard errors.

    Attributes:
        mean: average of the three axes.
        mean_error: its standard error.
        axes: values along x, y and z.
        axes_error: their standard errors.
    """

    mean: Float[Array, ""]
    mean_error: Float[Array, ""]
    axes: Float[Array, "3"]
    axes_error: Float[Array, "3"]


def dipole_fluctuation(
    dipole: Float[Array, "t 3"],
    volume: float | Float[np.ndarray | Array, ""],
    temperature: float | Float[np.ndarray | Array, ""],
    *,
    weights: Float[Array, " t"] | None = None,
) -> Float[Array, "3"]:
    r"""The fluctuation term of the module's formula along x, y and z: a pure function.

    Args:
        dipole: dipole moments of the cell, e Å.
        volume: volume of the cell, Å³.
        temperature: K.
        weights: weights of the samples, of sum one; equal by default.
    """
    scale = jnp.asarray(1.0 / (VACUUM_PERMITTIVITY * BOLTZMANN * volume * temperature), dipole.dtype)
    if weights is None:
        return scale * jnp.var(dipole, axis=0)
    deviations = dipole - jnp.sum(weights[:, None] * dipole, axis=0, keepdims=True)
    return scale * jnp.sum(weights[:, None] * deviations * deviations, axis=0)


def static_dielectric_constant(
    dipole: Float[np.ndarray | Array, "t 3"],
    volume: float | Float[np.ndarray | Array, ""],
    temperature: float | Float[np.ndarray | Array, ""],
    *,
    epsilon_infinity: float | Float[np.ndarray | Array, ""] | Float[np.ndarray | Array, "3"] = 1.0,
    n_blocks: int = 10,
) -> DielectricConstant:
    """Static dielectric constant of a cell at constant volume, with errors by blocks; formula in the module.

    It converges slowly: liquid water takes nanoseconds. The errors hold if a block is much longer than the relaxation
    of M (`block_error`).

    Args:
        dipole: dipole moment of the cell along a trajectory, e Å, continuous in time.
        volume: volume of the cell, Å³.
        temperature: temperature of the trajectory, K.
        epsilon_infinity: electronic dielectric constant, which the motion of the nuclei does not contain, also by axis.
        n_blocks: number of blocks for the errors.

    Raises:
        ValueError: for a volume, temperature or `epsilon_infinity` that is not positive, a series with fewer than two
            samples per block, or one that is not finite.
    """
    check_positive("volume", volume)
    check_positive("temperature", temperature)
    check_positive("epsilon_infinity", jnp.min(jnp.asarray(epsilon_infinity)))
    # relative to the first sample, so that the variance of a large dipole keeps its digits
    split_blocks("dipole", dipole, n_blocks, 2)
    series = jnp.asarray(dipole) - jnp.asarray(dipole)[:1]

    def axes(series: Array) -> Array:
        return dipole_fluctuation(series, volume, temperature)

    def everything(series: Array) -> Array:
        return jnp.concatenate([axes(series), jnp.mean(axes(series))[None]])

    values, errors = everything(series), block_error(series, everything, n_blocks=n_blocks)
    electronic = jnp.broadcast_to(jnp.asarray(epsilon_infinity, series.dtype), (3,))
    return DielectricConstant(values[3] + jnp.mean(electronic), errors[3], values[:3] + electronic, errors[:3])
