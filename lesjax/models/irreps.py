"""Irreducible representations of rotations: spherical harmonics and their couplings, which are constants of numpy.

Real spherical harmonics of order l have 2 l + 1 components in the order m = -l, …, l about the y axis, so that those of
order 1 are x, y, z; this is the convention of e3nn and of the published models.
"""

from functools import cache
from math import factorial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lesjax.models import basis
from lesjax.numerics import einsum, matmul


@cache
def coupling(l1: int, l2: int, l3: int) -> np.ndarray:
    r"""Real Clebsch-Gordan coefficients C[m1, m2, m3] with :math:`\sum C^2 = 1`.

    Rotations of the first two orders rotate :math:`\sum_{m_1 m_2} C u_{m_1} v_{m_2}` as order l3.

    Raises:
        ValueError: for orders that do not couple.
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"`l3` = {l3} is not between |l1 - l2| and l1 + l2 for l1 = {l1} and l2 = {l2}.")
    complex_basis = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            complex_basis[l1 + m1, l2 + m2, l3 + m1 + m2] = _racah(l1, m1, l2, m2, l3)
    to_real = (_real_basis(l1), _real_basis(l2), _real_basis(l3).conj())
    real = np.einsum("abc,ai,bj,ck->ijk", complex_basis, *to_real)
    assert abs(real.imag).max() < 1e-10
    return real.real / np.linalg.norm(real.real)


def _racah(l1: int, m1: int, l2: int, m2: int, l3: int) -> float:
    """Clebsch-Gordan coefficient <l1 m1 l2 m2 | l3 m1+m2>, up to a factor that depends only on the orders.

    Racah's formula, e.g. Edmonds, Angular Momentum in Quantum Mechanics, eq. (3.6.11).
    """
    f, m3 = factorial, m1 + m2
    norm = f(l1 + m1) * f(l1 - m1) * f(l2 + m2) * f(l2 - m2) * f(l3 + m3) * f(l3 - m3)
    total = 0.0
    for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
        denominator = f(k) * f(l1 + l2 - l3 - k) * f(l1 - m1 - k) * f(l2 + m2 - k)
        total += (-1) ** k / (denominator * f(l3 - l2 + m1 + k) * f(l3 - l1 - m2 + k))
    return total * norm**0.5


@cache
def _real_basis(l: int) -> np.ndarray:
    """Columns are the real harmonics in the complex ones: (Y_l^-m ± Y_l^m)/√2, phases such that couplings are real."""
    basis = np.zeros((2 * l + 1, 2 * l + 1), complex)
    basis[l, l] = 1.0
    for m in range(1, l + 1):
        sign = (-1) ** m
        basis[[l - m, l + m], l + m] = np.array([1.0, sign]) * 0.5**0.5
        basis[[l - m, l + m], l - m] = np.array([1j, -1j * sign]) * 0.5**0.5
    return 1j**l * basis


@cache
def harmonic_polynomials(l: int) -> np.ndarray:
    """Coefficients [monomial, component] of the harmonics of order l in the monomials of this degree.

    Monomials are in the order x^l, x^(l-1) y, x^(l-1) z, …, z^l. The mean square of each component over the sphere
    is one: Y_1 = √3 (x, y, z).
    """
    if l == 0:
        return np.ones((1, 1))
    lower, table = harmonic_polynomials(l - 1), {p: i for i, p in enumerate(_powers(l))}
    product = np.zeros((len(table), 2 * l - 1, 3))
    for i, powers in enumerate(_powers(l - 1)):
        for axis in range(3):
            x, y, z = (p + (axis == j) for j, p in enumerate(powers))
            product[table[x, y, z], :, axis] += lower[i]
    result = np.einsum("kab,abm->km", product, coupling(l - 1, 1, l))
    pole = result[table[0, l, 0]]  # at the y axis only the middle component is left: √(2 l + 1)
    return result * ((2 * l + 1) ** 0.5 / pole[l])


def _powers(l: int) -> list[tuple[int, int, int]]:
    return [(i, j, l - i - j) for i in range(l, -1, -1) for j in range(l - i, -1, -1)]


def symmetric_tensors(features: Float[Array, "n 5 c"]) -> Float[Array, "n c 3 3"]:
    """Features of order two as symmetric tensors without trace."""
    return einsum("nmc,abm->ncab", features, jnp.asarray(coupling(1, 1, 2), features.dtype))


def element_matrices(
    x: Float[Array, "a b c"], matrices: Float[Array, "z c d"], elements: Float[Array, "#a #b z"]
) -> Float[Array, "a b d"]:
    """Product with the matrix of each atom's element, of which `elements` has the one-hot vectors.

    That with all matrices is cheaper than gathered ones, which take more memory than all features.
    """
    n_elements, n_inputs, n_outputs = matrices.shape
    of_all = matmul(x, matrices.swapaxes(0, 1).reshape(n_inputs, -1))
    of_all = of_all.reshape(*x.shape[:2], n_elements, n_outputs)
    return jnp.sum(of_all * elements[..., None], axis=2)


def spherical_harmonics(unit_vectors: Float[Array, "*e 3"], max_l: int) -> list[Float[Array, "*e _"]]:
    """Real harmonics of each order up to `max_l`, of mean square one, as one matrix on the monomials."""
    sizes = [2 * l + 1 for l in range(max_l + 1)]
    rows = basis.block_sizes(max_l)
    matrix = np.zeros((sum(rows), sum(sizes)))
    for l in range(max_l + 1):
        matrix[sum(rows[:l]) : sum(rows[: l + 1]), sum(sizes[:l]) : sum(sizes[: l + 1])] = harmonic_polynomials(l)
    monomials = basis.angular_functions(unit_vectors, max_l)
    return list(jax.lax.split(matmul(monomials, jnp.asarray(matrix, monomials.dtype)), sizes, axis=monomials.ndim - 1))
