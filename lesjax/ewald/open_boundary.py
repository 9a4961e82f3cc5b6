r"""Sum over all pairs of Gaussian multipoles without periodic images.

.. math:: E = \sum_{i<j} (q_i + u_i \cdot \nabla + \tfrac12 Q_i : \nabla \nabla)
              (q_j - u_j \cdot \nabla + \tfrac12 Q_j : \nabla \nabla) B_0(r_i - r_j), \quad
          B_0(r) = \frac{1}{4 \pi \varepsilon_0} \frac{\operatorname{erf}(r / (\sqrt 2 \sigma))}{r}

With :math:`B_{l+1} = -B_l' / r` the derivatives of B_0 are :math:`-r_a B_1`,
:math:`r_a r_b B_2 - \delta_{ab} B_1` and so on. In terms of the Boys function
:math:`F_l(x) = \int_0^1 t^{2l} e^{-x t^2} dt`, whose derivative is :math:`-F_{l+1}`,

.. math:: B_l = \frac{1}{4 \pi \varepsilon_0} \sqrt{\tfrac{2}{\pi}} \sigma^{-2l-1} F_l(r^2 / 2 \sigma^2),

which is smooth everywhere: two atoms in one place have finite energies and no force from each other's charge.

Source: Cheng, npj Comput. Mater. 11, 80 (2025), doi:10.1038/s41524-025-01577-7, for the charges.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lesjax.ewald.multipoles import Multipoles
from lesjax.numerics import matmul
from lesjax.units import COULOMB


def pair_energy(
    positions: Float[Array, "n 3"],
    multipoles: Multipoles,
    sigma: Float[Array, ""],
    pair_mask: Bool[Array, "n n"],
) -> Float[Array, ""]:
    """Energy of the pairs in `pair_mask`, eV, channels summed.

    Args:
        positions: Cartesian coordinates, Å.
        multipoles: with an axis of channels.
        sigma: smearing width σ, Å.
        pair_mask: symmetric and without diagonal; each pair is in it twice.
    """
    vectors = _vectors(positions, positions)
    factors = [matmul(multipoles.charges, multipoles.charges.T)]  # what multiplies B_0, B_1, … of each pair
    if multipoles.dipoles is not None or multipoles.quadrupoles is not None:
        channels = range(multipoles.charges.shape[1])
        each = [_factors(vectors, jax.tree.map(lambda values, c=c: values[:, c], multipoles)) for c in channels]
        factors += [sum(terms[1:], terms[0]) for terms in zip(*each, strict=True)]
    terms = [b * factor for b, factor in zip(_kernels(vectors, sigma, len(factors) - 1), factors, strict=True)]
    return 0.5 * jnp.sum(jnp.where(pair_mask, sum(terms[1:], terms[0]), 0.0))


def charge_energy(
    at: Float[Array, "m 3"],
    charges: Float[Array, " m"],
    positions: Float[Array, "n 3"],
    multipoles: Multipoles,
    sigma: Float[Array, ""],
    pair_mask: Bool[Array, "m n"],
) -> Float[Array, ""]:
    """Energy, eV, of charges at the places `at` with one channel of multipoles, over the pairs in `pair_mask`."""
    vectors = _vectors(at, positions)
    q, u, quadrupoles = multipoles
    factors = [q[None, :]]  # of B_0, B_1, B_2
    if u is not None or quadrupoles is not None:
        factors.append(jnp.zeros_like(factors[0]) if u is None else _dot(u.T[:, None, :], vectors))
    if quadrupoles is not None:
        q_r = [_dot(quadrupoles[:, a].T[:, None, :], vectors) for a in range(3)]
        factors[1] = factors[1] - 0.5 * jnp.trace(quadrupoles, axis1=1, axis2=2)[None, :]
        factors.append(0.5 * _dot(q_r, vectors))
    terms = [b * factor for b, factor in zip(_kernels(vectors, sigma, len(factors) - 1), factors, strict=True)]
    return jnp.sum(charges[:, None] * jnp.where(pair_mask, sum(terms[1:], terms[0]), 0.0))


def _factors(vectors: list[Float[Array, "n n"]], multipoles: Multipoles) -> list[Float[Array, "n n"]]:
    """What multiplies B_1, B_2, … in the energy of one channel, summed over i, j and j, i."""
    q, u, quadrupoles = multipoles
    u = jnp.zeros((len(q), 3), q.dtype) if u is None else u
    ui, uj = u.T[:, :, None], u.T[:, None, :]
    ui_r, uj_r = _dot(ui, vectors), _dot(uj, vectors)
    b1 = _dot(ui, uj) - 2.0 * ui_r * q[None, :]
    b2 = -ui_r * uj_r
    if quadrupoles is None:
        return [b1, b2]
    trace = jnp.trace(quadrupoles, axis1=1, axis2=2)
    qi_r = [_dot(quadrupoles[:, a].T[:, :, None], vectors) for a in range(3)]
    qj_r = [_dot(quadrupoles[:, a].T[:, None, :], vectors) for a in range(3)]
    r_qi_r, r_qj_r = _dot(qi_r, vectors), _dot(qj_r, vectors)
    flat = quadrupoles.reshape(-1, 9)
    b1 = b1 - trace[:, None] * q[None, :]
    b2 = b2 + r_qi_r * q[None, :] - trace[:, None] * uj_r - 2.0 * _dot(qi_r, uj)
    b2 = b2 + 0.25 * trace[:, None] * trace[None, :] + 0.5 * matmul(flat, flat.T)
    b3 = r_qi_r * uj_r - _dot(qi_r, qj_r) - 0.5 * r_qi_r * trace[None, :]
    return [b1, b2, b3, 0.25 * r_qi_r * r_qj_r]


def _vectors(at: Float[Array, "m 3"], positions: Float[Array, "n 3"]) -> list[Float[Array, "m n"]]:
    """The three components of all differences: apart, all that follows is fused to one pass over the pairs."""
    return [at[:, a, None] - positions[None, :, a] for a in range(3)]


def _dot(left: Any, right: Any) -> Float[Array, "m n"]:
    """Sum over the three components of the products."""
    return left[0] * right[0] + left[1] * right[1] + left[2] * right[2]


def _kernels(vectors: list[Float[Array, "m n"]], sigma: Float[Array, ""], order: int) -> list[Float[Array, "m n"]]:
    """B_0 … B_order of the module's docstring."""
    boys = boys_functions(0.5 * _dot(vectors, vectors) / sigma**2, order)
    scale = COULOMB * math.sqrt(2.0 / math.pi) / sigma
    return [scale * sigma ** (-2 * l) * function for l, function in enumerate(boys)]


def boys_functions(x: Float[Array, "*shape"], order: int) -> list[Float[Array, "*shape"]]:
    r"""F_0 … F_order of :math:`F_l(x) = \int_0^1 t^{2l} e^{-x t^2} dt`, x >= 0, to the rounding of the dtype.

    Near zero the Taylor series of the highest order and the recursion downwards, elsewhere the error function
    and the recursion upwards; each is used where its terms do not cancel, also after three derivatives.
    """
    # charges alone change over close to zero, where a short series is as fast as none: at 0.04 σ their forces
    # lose three digits, of a force that is zero at contact
    threshold, n_terms = (1e-3, 5) if order == 0 else (1.0, 19)
    near = x < threshold
    small, large = jnp.where(near, x, 0.0), jnp.where(near, threshold, x)
    series = jnp.zeros_like(x)
    for k in reversed(range(n_terms)):
        series = series * small + (-1) ** k / (math.factorial(k) * (2 * k + 2 * order + 1))
    root = jnp.sqrt(large)
    downwards, upwards = [series], [0.5 * math.sqrt(math.pi) * jax.scipy.special.erf(root) / root]
    if order:
        exp_small, exp_large = jnp.exp(-small), jnp.exp(-large)
        for l in range(order):
            upwards.append(((2 * l + 1) * upwards[-1] - exp_large) / (2.0 * large))
        for l in range(order, 0, -1):
            downwards.insert(0, (2.0 * small * downwards[0] + exp_small) / (2 * l - 1))
    return [jnp.where(near, a, b) for a, b in zip(downwards, upwards, strict=True)]
