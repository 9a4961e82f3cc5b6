"""Division and square root with finite gradients at zero: the only home of the double `where`."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def safe_reciprocal(x: Float[Array, "*shape"], where: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return ``1 / x`` where `where` holds and zero elsewhere, with finite gradients.

    Both branches of `jnp.where` are differentiated, so the operand is replaced *before*
    the division: one `where` alone gives NaN gradients at ``x == 0``.
    """
    return jnp.where(where, 1.0 / jnp.where(where, x, 1.0), 0.0)


def safe_norm(vectors: Float[Array, "*shape 3"], where: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return the length of `vectors` where `where` holds and one elsewhere, with finite gradients.

    One, not zero: what follows divides by it, and the caller masks the result.
    """
    squared = jnp.sum(vectors * vectors, axis=-1)
    return jnp.where(where, jnp.sqrt(jnp.where(where, squared, 1.0)), 1.0)
