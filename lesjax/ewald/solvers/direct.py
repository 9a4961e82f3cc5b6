r"""Direct reciprocal-space sum over Gaussian multipoles in product form.

.. math:: E = \frac{C}{2 V} \sum_{|k| \le k_c} \varphi(k) |S(k)|^2, \quad S(k) = \sum_i q_i e^{i k \cdot r_i}

With fractional coordinates s the phase of k = n · (reciprocal vectors) factorises,
e^{ik·r} = e^{2πi n1 s1} e^{2πi n2 s2} e^{2πi n3 s3}. The trigonometric structure factor ::

    T[p1, n1, p2, n2, p3, n3] = Σ_i q_i f_p1(2π n1 s1) f_p2(2π n2 s2) f_p3(2π n3 s3),  f_0 = cos, f_1 = sin,

over n >= 0 only is one real matrix product; S for all four relative signs of (n1, n2, n3) is recombined from
its entries, and (n1, n2, n3) and its negative have the same \|S\|². There is never an array of atoms times
k-vectors, and the largest one (atoms times n1 n2) is cut into blocks of atoms that are recomputed backwards.
Dipoles and quadrupoles replace q_i by the operator q_i + u_i·∇ + ½ Q_i:∇∇, whose terms are products as well.

Source: Cheng, npj Comput. Mater. 11, 80 (2025), doi:10.1038/s41524-025-01577-7.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lesjax.ewald.multipoles import Multipoles
from lesjax.ewald.solvers.periodic import SIGNS, Grid, Periodic, fractional_coordinates
from lesjax.numerics import cospi, sinpi


# Atoms are summed in blocks once the largest intermediate would exceed this number of elements.
_MAX_INTERMEDIATE = 2**24
# TF32, the default of some GPUs, would lose three digits
_HIGHEST = jax.lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class DirectSolver(Periodic):
    """The sum itself; see `Periodic`."""

    def grid(self, cell: Float[Array, "3 3"]) -> Grid:
        """Return the arrays that depend on the cell."""
        return self.half_grid(cell)

    def factor(
        self, grid: Grid, positions: Float[Array, "n 3"], multipoles: Multipoles
    ) -> Float[Array, "2 n1 2 n2 2 n3"]:
        """Return the trigonometric structure factor T of one channel of multipoles."""
        return structure_factor(positions, multipoles, grid.inverse_cell, self.k_shape)

    def square(self, grid: Grid, factor: Float[Array, "2 n1 2 n2 2 n3"]) -> Float[Array, ""]:
        r"""Return Σ_k w(k) \|S(k)\|², the energy, eV, with the self-interaction of each atom."""
        real, imag = _complex_parts(factor)
        return jnp.sum(grid.weights * (real * real + imag * imag))

    def product(
        self, grid: Grid, left: Float[Array, "2 n1 2 n2 2 n3"], right: Float[Array, "2 n1 2 n2 2 n3"]
    ) -> Float[Array, ""]:
        """Return 2 Σ_k w(k) Re[S_left(k)* S_right(k)], the energy of the two with each other, eV."""
        (real_l, imag_l), (real_r, imag_r) = _complex_parts(left), _complex_parts(right)
        return 2.0 * jnp.sum(grid.weights * (real_l * real_r + imag_l * imag_r))


def structure_factor(
    positions: Float[Array, "n 3"],
    multipoles: Multipoles,
    inverse_cell: Float[Array, "3 3"],
    shape: tuple[int, int, int],
) -> Float[Array, "2 n1 2 n2 2 n3"]:
    """Trigonometric structure factor T of the module's docstring, for 0 <= n < `shape`.

    Args:
        positions: Cartesian coordinates, Å.
        multipoles: multipoles of one channel; zero for padded atoms. With dipoles the sum takes about twice the time,
            with symmetric quadrupoles three times.
        inverse_cell: inverse of the lattice vectors as rows, 1/Å.
        shape: numbers of k-grid points along each reciprocal vector, zero included.
    """
    charges, dipoles, quadrupoles = multipoles
    fractional = fractional_coordinates(positions, inverse_cell)
    # dipoles and quadrupoles become derivatives with respect to fractional coordinates
    if quadrupoles is not None:
        quadrupoles = jnp.einsum("nab,ai,bj->nij", quadrupoles, inverse_cell, inverse_cell, precision=_HIGHEST)
        dipoles = jnp.zeros_like(positions) if dipoles is None else dipoles
    if dipoles is not None:
        dipoles = jnp.matmul(dipoles, inverse_cell, precision=_HIGHEST)
    atoms = (fractional, charges, dipoles, quadrupoles)
    n_powers = 1 if dipoles is None else 2 if quadrupoles is None else 3

    def summed(
        fractional: Float[Array, "n 3"],
        charges: Float[Array, " n"],
        dipoles: Float[Array, "n 3"] | None,
        quadrupoles: Float[Array, "n 3 3"] | None,
    ) -> Float[Array, "x z"]:
        f1, f2, f3 = (_cos_sin(fractional[:, axis], shape[axis]) for axis in range(3))
        # Σ_i (left_0 + left_1 d/ds3 + left_2 d²/ds3²) f3, where the derivatives are taken after the sum. Atoms come
        # last: every product runs over long rows, and the sum takes half the time of the other order
        terms = [
            jnp.einsum("xn,zn->xz", left.reshape(-1, len(charges)), f3, precision=_HIGHEST)
            for left in _pair_products(f1, f2, charges, dipoles, quadrupoles)
        ]
        for power in range(len(terms) - 1, 0, -1):
            terms[power - 1] = terms[power - 1] + _derivative(terms[power].T).T
        return terms[0]

    n = len(charges)
    block = max(1, _MAX_INTERMEDIATE // (4 * shape[0] * shape[1] * n_powers))
    if n <= block:
        total = summed(*atoms)
    else:
        n_blocks = math.ceil(n / block)
        padding = n_blocks * math.ceil(n / n_blocks) - n

        def in_blocks(values: Float[Array, "n ..."]) -> Float[Array, "blocks m ..."]:
            padded = jnp.pad(values, ((0, padding), *((0, 0),) * (values.ndim - 1)))
            return padded.reshape(n_blocks, -1, *values.shape[1:])

        one_block = jax.checkpoint(lambda carry, block: (carry + summed(*block), None))
        zeros = jnp.zeros((4 * shape[0] * shape[1], 2 * shape[2]), positions.dtype)
        total, _ = jax.lax.scan(one_block, zeros, jax.tree.map(in_blocks, atoms))
    return total.reshape(2, shape[0], 2, shape[1], 2, shape[2])


def _pair_products(
    f1: Float[Array, "x n"],
    f2: Float[Array, "y n"],
    charges: Float[Array, " n"],
    dipoles: Float[Array, "n 3"] | None,
    quadrupoles: Float[Array, "n 3 3"] | None,
) -> list[Float[Array, "x y n"]]:
    """Apply q + u·∇ + ½ Q:∇∇ to f1 f2 f3: the factors of f3, of its first and of its second derivative."""

    def product(weights: Float[Array, " n"], left: Float[Array, "x n"], right: Float[Array, "y n"]) -> Array:
        return (left * weights[None, :])[:, None, :] * right[None, :, :]

    if dipoles is None:
        return [product(charges, f1, f2)]
    d1, d2 = _derivative(f1), _derivative(f2)
    u1, u2, u3 = dipoles.T
    zeroth = product(charges, f1, f2) + product(u1, d1, f2) + product(u2, f1, d2)
    first = product(u3, f1, f2)
    if quadrupoles is None:
        return [zeroth, first]
    q11, q12, q13, _, q22, q23, _, _, q33 = quadrupoles.reshape(-1, 9).T
    zeroth = zeroth + product(q12, d1, d2)
    zeroth = zeroth + 0.5 * (product(q11, _derivative(d1), f2) + product(q22, f1, _derivative(d2)))
    first = first + product(q13, d1, f2) + product(q23, f1, d2)
    return [zeroth, first, 0.5 * product(q33, f1, f2)]


def _complex_parts(
    t: Float[Array, "2 n1 2 n2 2 n3"],
) -> tuple[Float[Array, "4 n1 n2 n3"], Float[Array, "4 n1 n2 n3"]]:
    """Real and imaginary part of S(n1, ±n2, ±n3) by the addition theorems."""
    ccc, ccs, csc, css = t[0, :, 0, :, 0], t[0, :, 0, :, 1], t[0, :, 1, :, 0], t[0, :, 1, :, 1]
    scc, scs, ssc, sss = t[1, :, 0, :, 0], t[1, :, 0, :, 1], t[1, :, 1, :, 0], t[1, :, 1, :, 1]
    real = [ccc - s2 * ssc - s3 * scs - s2 * s3 * css for s2, s3 in SIGNS]
    imag = [scc + s2 * csc + s3 * ccs - s2 * s3 * sss for s2, s3 in SIGNS]
    return jnp.stack(real), jnp.stack(imag)


def _cos_sin(fractional: Float[Array, " n"], size: int) -> Float[Array, "two_size n"]:
    half_turns = 2.0 * jnp.arange(size).astype(fractional.dtype)[:, None] * fractional[None, :]
    return jnp.concatenate([cospi(half_turns), sinpi(half_turns)])


def _derivative(values: Float[Array, "two_size m"]) -> Float[Array, "two_size m"]:
    """Derivative with respect to s of sums of (cos | sin)(2πn s), in the layout of `_cos_sin`."""
    cos, sin = jnp.split(values, 2)
    frequency = 2.0 * math.pi * jnp.arange(len(cos)).astype(values.dtype)[:, None]
    return jnp.concatenate([-frequency * sin, frequency * cos])
