"""Elementary functions that JAX lacks or evaluates slowly or inexactly.

Division and square root with finite gradients at zero (the only home of the double `where`), sine and cosine of
multiples of π, products of matrices to the rounding of their dtype, determinant and inverse of 3 × 3 matrices, and
the check that a cell has a volume.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float


# Taylor coefficients of sin(πy) / y and cos(πy) in y²; at |y| = 1/2 the first one left out is below 1e-16.
_SIN = [(-1) ** k * math.pi ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(11)]
_COS = [(-1) ** k * math.pi ** (2 * k) / math.factorial(2 * k) for k in range(11)]


def safe_reciprocal(x: Float[Array, "*shape"], where: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return ``1 / x`` where `where` holds and zero elsewhere, with finite gradients.

    Both branches of `jnp.where` are differentiated, so the operand is replaced *before* the division: a single `where`
    gives NaN gradients at ``x == 0``.
    """
    return jnp.where(where, 1.0 / jnp.where(where, x, 1.0), 0.0)


def safe_norm(vectors: Float[Array, "*shape 3"], where: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the length of `vectors` where `where` holds and one elsewhere, with finite gradients.

    One, not zero: the caller divides by it and masks the result.
    """
    squared = jnp.sum(vectors * vectors, axis=-1)
    return jnp.where(where, jnp.sqrt(jnp.where(where, squared, 1.0)), 1.0)


def matmul(left: ArrayLike, right: ArrayLike) -> Array:
    """Return ``left @ right`` to the rounding of the dtype.

    TF32, the default of some GPUs, would misplace atoms by 1e-3 of the cell.
    """
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def einsum(subscripts: str, *operands: ArrayLike) -> Array:
    """`jnp.einsum` to the rounding of the dtype, as `matmul`."""
    return jnp.einsum(subscripts, *operands, precision=jax.lax.Precision.HIGHEST)


def determinant(matrix: Float[Array, "*b 3 3"]) -> Float[Array, "*b"]:
    """Return the determinant in closed form: the signed volume of a cell.

    `jnp.linalg.det` factorizes, which is a library call for nine numbers, and on a GPU one that waits for the others.
    """
    first, second, third = (matrix[..., i, :] for i in range(3))
    return jnp.sum(first * jnp.cross(second, third), axis=-1)


def inverse(matrix: Float[Array, "*b 3 3"]) -> Float[Array, "*b 3 3"]:
    """Return the inverse in closed form; its columns are cross products of two rows over the determinant."""
    first, second, third = (matrix[..., i, :] for i in range(3))
    columns = jnp.stack([jnp.cross(second, third), jnp.cross(third, first), jnp.cross(first, second)], axis=-1)
    return columns / determinant(matrix)[..., None, None]


def check_volume(cell: Float[Array, "3 3"]) -> None:
    """Refuse a cell without volume; a traced cell is not checked.

    Raises:
        ValueError: for lattice vectors that are zero, in a plane, or not finite.
    """
    if isinstance(cell, Tracer):
        return
    vectors = np.asarray(cell, float)
    if not abs(np.linalg.det(vectors)) > 1e-6 * np.prod(np.linalg.norm(vectors, axis=1)):
        raise ValueError(
            f"`cell` has no volume, got {vectors.tolist()}. A periodic system needs three independent lattice vectors, "
            "also a slab; set `pbc` to False for a molecule."
        )


@jax.custom_jvp
def sinpi(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return sin(πx).

    XLA calls the scalar function of the C library for each sine on a CPU; this polynomial runs in vector registers and
    is thirty times faster. The reduction to abs(y) <= 1/2 is exact.
    """
    sign, y = _half_turns(x)
    return sign * y * jnp.polyval(jnp.asarray(_SIN[::-1], x.dtype), y * y, unroll=len(_SIN))


@jax.custom_jvp
def cospi(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return cos(πx); see `sinpi`."""
    sign, y = _half_turns(x)
    return sign * jnp.polyval(jnp.asarray(_COS[::-1], x.dtype), y * y, unroll=len(_COS))


sinpi.defjvps(lambda tangent, _, x: math.pi * cospi(x) * tangent)
cospi.defjvps(lambda tangent, _, x: -math.pi * sinpi(x) * tangent)


def _half_turns(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Sign (-1)^h and remainder y = x - h for the nearest integer h."""
    h = jnp.round(x)
    return 1.0 - 2.0 * jnp.abs(h - 2.0 * jnp.round(0.5 * h)), x - h
