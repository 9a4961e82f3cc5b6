"""Time series of a simulation: the error of an average by blocks, and checks of the input."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float


def _mean(series: Array) -> Array:
    return jnp.mean(series, axis=0)


def block_error(
    series: Float[np.ndarray | Array, "t ..."],
    statistic: Callable[[Array], Array] = _mean,
    *,
    n_blocks: int = 10,
) -> Float[Array, "..."]:
    r"""Standard error of a statistic of a correlated series, by the jackknife over blocks.

    .. math:: \sqrt{\frac{B - 1}{B} \sum_b (\theta_b - \bar\theta)^2}

    with :math:`\theta_b` the statistic of all but block b; for the mean this is the standard error of the block means.
    It holds where a block is much longer than the correlation time, and is too small otherwise: the error should not
    grow when `n_blocks` is halved. With B blocks the error itself has the relative error :math:`1 / \sqrt{2 (B - 1)}`.

    Args:
        series: samples along the first axis; the oldest ones that do not fill a block are left out.
        statistic: statistic of a series, the mean by default.
        n_blocks: number of blocks, 2 or more.

    Raises:
        ValueError: for a series that is shorter than `n_blocks`, or not finite (where it has values).

    References:
        Flyvbjerg, Petersen, J. Chem. Phys. 91, 461 (1989); Künsch, Ann. Statist. 17, 1217 (1989).
    """
    blocks = split_blocks("series", series, n_blocks, 1)
    block_indices = jnp.asarray([[c for c in range(n_blocks) if c != b] for b in range(n_blocks)])
    left_out = jax.lax.map(lambda indices: statistic(blocks[indices].reshape(-1, *blocks.shape[2:])), block_indices)
    deviations = left_out - jnp.mean(left_out, axis=0, keepdims=True)
    return jnp.sqrt((n_blocks - 1) / n_blocks * jnp.sum(deviations * deviations, axis=0))


def split_blocks(
    name: str, series: Float[np.ndarray | Array, "t ..."], n_blocks: int, shortest: int, *, advice: str = ""
) -> Float[Array, "b l ..."]:
    """Split the last samples into `n_blocks` blocks on a new leading axis; `advice` ends the error of a short series.

    Raises:
        ValueError: for a series that is not finite, or blocks of fewer than `shortest` samples.
    """
    if n_blocks < 2:
        raise ValueError(f"`n_blocks` must be 2 or more, got {n_blocks}: one block has no error.")
    length = len(series) // n_blocks
    if length < shortest:
        raise ValueError(
            f"`{name}` is too short: its {len(series)} samples give {n_blocks} blocks of {length}, and a block needs "
            f"at least {shortest}. Give a longer run, or fewer `n_blocks`{advice}."
        )
    check_finite(name, series)
    values = jnp.asarray(series)[len(series) - n_blocks * length :]
    return values.reshape(n_blocks, length, *values.shape[1:])


def check_finite(name: str, series: Float[np.ndarray | Array, "t ..."]) -> None:
    """Refuse NaN and infinity, naming the first sample; a traced series is not checked."""
    if isinstance(series, Tracer):
        return
    finite = np.isfinite(np.asarray(series)).reshape(len(series), -1)
    bad = np.flatnonzero(~finite.all(axis=1))
    if len(bad):
        raise ValueError(
            f"`{name}` is not finite in {len(bad)} of {len(series)} samples, first in sample {bad[0]}. "
            "Did the simulation blow up?"
        )


def check_positive(name: str, value: float | Float[np.ndarray | Array, ""]) -> None:
    """Refuse a value that is not a positive number; a traced one is not checked."""
    if not isinstance(value, Tracer) and not 0.0 < float(value) < np.inf:
        raise ValueError(f"`{name}` must be positive, got {float(value)}.")
