r"""Functions of one edge: radial, angular and cutoff functions, which all models share.

Convention: an edge points from the receiver i to the sender j, r = r_j - r_i. Angular functions are the
monomials x^lx y^ly z^lz of the unit vector, grouped by l = lx + ly + lz.

References:
    Cheng, npj Comput. Mater. 10, 157 (2024), doi:10.1038/s41524-024-01332-4 (CACE).
    Gasteiger, Gross, Günnemann, ICLR 2020, arXiv:2003.03123 (Bessel functions and polynomial envelope).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lesjax.numerics import cospi, sinpi


def monomials(max_l: int) -> tuple[tuple[int, int, int], ...]:
    """Exponents (lx, ly, lz) of the angular functions, ordered by l = 0 … `max_l`."""
    return tuple(
        (lx, ly, l - lx - ly) for l in range(max_l + 1) for lx in range(l, -1, -1) for ly in range(l - lx, -1, -1)
    )


def block_sizes(max_l: int) -> tuple[int, ...]:
    """Number of angular functions of each l, (l + 1)(l + 2) / 2."""
    return tuple((l + 1) * (l + 2) // 2 for l in range(max_l + 1))


def order_of_function(max_l: int) -> np.ndarray:
    """The l of each angular function, in the order of `monomials`."""
    return np.repeat(np.arange(max_l + 1), block_sizes(max_l))


def angular_functions(unit_vectors: Float[Array, "*e 3"], max_l: int) -> Float[Array, "*e a"]:
    """Monomials of the unit vectors up to `max_l`; each one is a lower one times one component."""
    exponents = monomials(max_l)
    components = [unit_vectors[..., axis] for axis in range(3)]
    functions = {(0, 0, 0): jnp.ones_like(components[0])}
    for exponent in exponents[1:]:
        axis = next(axis for axis in range(3) if exponent[axis] > 0)
        lx, ly, lz = (power - (k == axis) for k, power in enumerate(exponent))
        functions[exponent] = functions[lx, ly, lz] * components[axis]
    return jnp.stack([functions[exponent] for exponent in exponents], axis=-1)


def first_frequencies(_: Array, shape: tuple[int, float], dtype: jnp.dtype) -> Float[Array, " k"]:
    """Frequencies nπ/r_c that Bessel functions start from, 1/Å; `shape` holds their number and the cutoff."""
    n_bessel, cutoff = shape
    return jnp.arange(1, n_bessel + 1).astype(dtype) * (np.pi / cutoff)


def bessel_functions(
    distances: Float[Array, "*e"], frequencies: Float[Array, " k"], cutoff: float
) -> Float[Array, "*e k"]:
    r"""Radial functions :math:`\sqrt{2 / r_c} \sin(b_n r) / r` with trainable frequencies b_n in 1/Å.

    `distances` must be positive: the caller replaces those of padded edges by one.
    """
    r = distances[..., None]
    shape = (1,) * distances.ndim + frequencies.shape
    return (2.0 / cutoff) ** 0.5 * sinpi(r * (frequencies / np.pi).reshape(shape)) / r


def polynomial_cutoff(distances: Float[Array, "*e"], cutoff: float, p: float = 6.0) -> Float[Array, "*e"]:
    r"""Envelope that falls from one to zero at the cutoff with two vanishing derivatives.

    .. math:: f(x) = 1 - \tfrac{(p+1)(p+2)}{2} x^p + p (p+2) x^{p+1} - \tfrac{p (p+1)}{2} x^{p+2},
              \quad x = r / r_c < 1
    """
    x = distances / cutoff
    # an integer exponent multiplies; a float one would call pow on every edge
    power = x ** (int(p) if float(p).is_integer() else p)
    f = 1.0 - power * ((p + 1) * (p + 2) / 2 - x * (p * (p + 2) - x * (p * (p + 1) / 2)))
    return jnp.where(x < 1.0, f, 0.0)


def cosine_cutoff(distances: Float[Array, "*e"], cutoff: float) -> Float[Array, "*e"]:
    r"""Envelope :math:`\tfrac12 (1 + \cos(\pi r / r_c))` inside the cutoff, zero outside."""
    return jnp.where(distances < cutoff, 0.5 * (1.0 + cospi(distances / cutoff)), 0.0)
