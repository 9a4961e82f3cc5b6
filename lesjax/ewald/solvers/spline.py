r"""Spreading of point values onto a periodic mesh with B-splines, and its transpose, interpolation.

A point at u (in mesh spacings) has the weight :math:`M_p(j + 1 - f)` at the mesh points ``floor(u) + j``,
j = 0 … p - 1, with f the fractional part of u and M_p the cardinal B-spline of order p. See `adjoint` for the terms
and for how both are differentiated.

On CPU, a loop over atoms that adds the whole p×p×p window in place takes 30 ns per atom for p = 4 and 100 ns for p = 6
(10 000 atoms); a scatter of elements takes 580 ns, of windows 290 ns (p = 6). Slower were windows computed before
the loop (2 times as long), batched matrix products to contract windows (8 times, 10 000 atoms), windows of all atoms at
once instead of blocks that stay in cache (8 times, 100 000 atoms). With 100 000 atoms, visiting them by columns of the
mesh takes a third of the time of any order, and the edges folded in place instead of added as whole arrays save a
third of both passes. Other platforms scatter windows.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from lesjax.ewald.solvers.adjoint import Terms, make_adjoint_pair


# Mesh points along each axis, and the order of the splines.
Plan = tuple[tuple[int, int, int], int]

# Atoms whose windows are interpolated at once on CPU: they stay in the cache.
_BLOCK = 2048
# Edge of the columns of mesh points by which atoms are visited on CPU once the mesh outgrows the cache.
_COLUMN = 8
_CACHED_MESH = 2**18


def spread(
    scaled: Float[Array, "b n 3"],
    values: Float[Array, "b n t"],
    *,
    terms: Terms,
    shape: tuple[int, int, int],
    order: int,
) -> Float[Array, "b n1 n2 n3"]:
    """Add the weights of all points to a mesh; see the module's docstring.

    Args:
        scaled: positions in mesh spacings; any image.
        values: one factor per point and term.
        terms: how often the weight is differentiated along each axis.
        shape: mesh points along each axis, at least `order` - 1.
        order: order p of the B-spline, which has p - 2 continuous derivatives.
    """
    return _spread(scaled, values, terms=terms, plan=(shape, order))


def interpolate(
    scaled: Float[Array, "b n 3"], mesh: Float[Array, "b n1 n2 n3"], *, terms: Terms, order: int
) -> Float[Array, "b n t"]:
    """Sum the mesh with the weights of each point; the transpose of `spread`."""
    return _interpolate(scaled, mesh, terms=terms, plan=(mesh.shape[1:], order))


@functools.cache
def _coefficients(order: int, derivative: int) -> tuple[tuple[float, ...], ...]:
    """Polynomials in t = f - 1/2 of the p weights, differentiated; [power][j]."""
    if derivative >= order:
        return ((0.0,) * order,)
    pieces = []
    for j in range(order):
        # M_p(x) = Σ_l (-1)^l C(p, l) (x - l)_+^{p-1} / (p - 1)!, x = j + 1 - f = (j + 1/2) - t
        piece = np.polynomial.Polynomial([0.0])
        for l in range(j + 1):
            factor = (-1) ** l * math.comb(order, l) / math.factorial(order - 1)
            piece += factor * np.polynomial.Polynomial([j + 0.5 - l, -1.0]) ** (order - 1)
        pieces.append(piece.deriv(derivative).coef if derivative else piece.coef)
    length = order - derivative
    return tuple(
        tuple(float(piece[power]) if power < len(piece) else 0.0 for piece in pieces) for power in range(length)
    )


def _windows(
    scaled: Float[Array, "n 3"], terms: Terms, shape: tuple[int, int, int], order: int
) -> tuple[Int[Array, "n 3"], dict[int, Float[Array, "n 3 p"]]]:
    """First mesh point of each window, and the weights along each axis for each number of derivatives."""
    floor = jnp.floor(scaled)
    t = (scaled - floor - 0.5)[..., None]
    weights = {}
    for derivative in sorted({d for term in terms for d in term}):
        rows = [jnp.asarray(row, scaled.dtype)[None, None] for row in _coefficients(order, derivative)]
        value = jnp.broadcast_to(rows[-1], (*scaled.shape, order))
        for row in rows[-2::-1]:
            value = value * t + row
        weights[derivative] = value
    return jnp.mod(floor.astype(jnp.int32), jnp.asarray(shape, jnp.int32)[None]), weights


def _outer(weights: dict[int, Array], values: Array, terms: Terms) -> Array:
    """Window [..., p, p, p] of values [..., t]."""
    total = None
    for t, (a, b, c) in enumerate(terms):
        xy = (values[..., t, None] * weights[a][..., 0, :])[..., :, None] * weights[b][..., 1, None, :]
        window = xy[..., None] * weights[c][..., 2, None, None, :]
        total = window if total is None else total + window
    assert total is not None
    return total


def _contract(windows: Array, weights: dict[int, Array], terms: Terms) -> Array:
    """Values [n, t] of windows [n, p, p, p]; sums of products along one axis after the other."""
    along_z = {c: jnp.sum(windows * weights[c][:, 2, None, None, :], -1) for c in {c for _, _, c in terms}}
    along_y = {(b, c): jnp.sum(along_z[c] * weights[b][:, 1, None, :], -1) for b, c in {(b, c) for _, b, c in terms}}
    return jnp.stack([jnp.sum(along_y[b, c] * weights[a][:, 0], -1) for a, b, c in terms], -1)


def _flat(scaled: Array, terms: Terms, shape: tuple[int, int, int], order: int) -> tuple[Array, dict]:
    """Starts (system, x, y, z) and weights with systems and points on one axis."""
    b, n, _ = scaled.shape
    start, weights = _windows(scaled.reshape(b * n, 3), terms, shape, order)
    system = jnp.repeat(jnp.arange(b, dtype=jnp.int32), n)
    return jnp.concatenate([system[:, None], start], 1), weights


def _fold(extended: Array, shape: tuple[int, int, int], order: int) -> Array:
    """Add values spread beyond the end of each axis to its beginning; in place except for the final cut."""
    for axis, n in enumerate(shape, 1):
        first = lax.slice_in_dim(extended, 0, order - 1, axis=axis)
        beyond = lax.slice_in_dim(extended, n, n + order - 1, axis=axis)
        extended = lax.dynamic_update_slice_in_dim(extended, first + beyond, 0, axis)
    return extended[:, : shape[0], : shape[1], : shape[2]]


def _unfold(mesh: Array, order: int) -> Array:
    """Repeat the beginning of each axis beyond its end; the transpose of `_fold`, in place as well."""
    extended = jnp.pad(mesh, ((0, 0), *((0, order - 1),) * 3))
    for axis, n in enumerate(mesh.shape[1:], 1):
        first = lax.slice_in_dim(extended, 0, order - 1, axis=axis)
        extended = lax.dynamic_update_slice_in_dim(extended, first, n, axis)
    return extended


def _visiting_order(scaled: Array, shape: tuple[int, int, int]) -> Array:
    """Points sorted by columns of the mesh, as one sort of integers that hold the column and the point."""
    n, edge = len(scaled), _COLUMN
    while n * math.ceil(shape[0] / edge) * math.ceil(shape[1] / edge) >= 2**31:
        edge *= 2
    cell = jnp.mod(jnp.floor(scaled).astype(jnp.int32), jnp.asarray(shape, jnp.int32)[None]) // edge
    column = cell[:, 0] * math.ceil(shape[1] / edge) + cell[:, 1]
    return jnp.sort(column * n + jnp.arange(n, dtype=jnp.int32)) % n


def _spread_loop(scaled: Array, values: Array, *, terms: Terms, plan: Plan) -> Array:
    shape, order = plan
    b, n, t = values.shape
    if b == 1 and math.prod(shape) > _CACHED_MESH:
        visit = _visiting_order(scaled[0], shape)
        scaled, values = scaled[:, visit], values[:, visit]
    start, weights = _flat(scaled, terms, shape, order)
    values = values.reshape(b * n, t)
    extended = jnp.zeros((b, *(m + order - 1 for m in shape)), values.dtype)

    def add_one(i: Array, mesh: Array) -> Array:
        window = _outer({d: w[i] for d, w in weights.items()}, values[i], terms)[None]
        corner = tuple(start[i])
        return lax.dynamic_update_slice(mesh, lax.dynamic_slice(mesh, corner, window.shape) + window, corner)

    return _fold(lax.fori_loop(0, b * n, add_one, extended), shape, order)


def _spread_windows(scaled: Array, values: Array, *, terms: Terms, plan: Plan) -> Array:
    shape, order = plan
    b, n, t = values.shape
    start, weights = _flat(scaled, terms, shape, order)
    windows = _outer(weights, values.reshape(b * n, t), terms)
    extended = jnp.zeros((b, *(m + order - 1 for m in shape)), values.dtype)
    dimensions = lax.ScatterDimensionNumbers((1, 2, 3), (0,), (0, 1, 2, 3))
    added = lax.scatter_add(extended, start, windows, dimensions, mode="promise_in_bounds")
    return _fold(added, shape, order)


def _gather(extended: Array, start: Array, order: int) -> Array:
    dimensions = lax.GatherDimensionNumbers((1, 2, 3), (0,), (0, 1, 2, 3))
    return lax.gather(extended, start, dimensions, (1, order, order, order), mode="promise_in_bounds")


def _interpolate_blocks(scaled: Array, mesh: Array, *, terms: Terms, plan: Plan, block: int | None) -> Array:
    shape, order = plan
    b, n, _ = scaled.shape
    start, weights = _flat(scaled, terms, shape, order)
    extended = _unfold(mesh, order)

    def interpolate_block(start: Array, weights: dict[int, Array]) -> Array:
        return _contract(_gather(extended, start, order), weights, terms)

    if block is None or b * n <= block:
        values = interpolate_block(start, weights)
    else:
        padding = -(b * n) % block
        blocks = jax.tree.map(
            lambda x: jnp.pad(x, ((0, padding), *((0, 0),) * (x.ndim - 1))).reshape(-1, block, *x.shape[1:]),
            (start, weights),
        )
        values = lax.map(lambda arguments: interpolate_block(*arguments), blocks).reshape(-1, len(terms))[: b * n]
    return values.reshape(b, n, len(terms))


_spread, _interpolate = make_adjoint_pair(
    "spline",
    lambda plan: plan[0],
    {None: _spread_windows, "cpu": _spread_loop},
    {
        None: functools.partial(_interpolate_blocks, block=None),
        "cpu": functools.partial(_interpolate_blocks, block=_BLOCK),
    },
)
