"""The invariants against contractions of Cartesian tensors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax.models.basis import angular_functions
from lesjax.models.cace.symmetrize import invariants, symmetrized_products


RTOL = 1e-10 if jax.config.jax_enable_x64 else 1e-4


def neighbourhood(rotation=None):
    """Vectors of seven neighbours, and their weights in four columns."""
    rng = np.random.default_rng(0)
    vectors, weights = rng.normal(size=(7, 3)) / 2, rng.normal(size=(7, 4))
    return (vectors if rotation is None else vectors @ rotation), weights


def atomic_basis(vectors, weights, max_l):
    return jnp.asarray(np.asarray(angular_functions(jnp.asarray(vectors, float), max_l)).T @ weights, float)


def test_contractions_of_tensors():
    """With T_l = Σ_j w_j v_j ⊗ … ⊗ v_j (l times): T_l·T_l, T_l·T_{l+m}·T_m and T_l·T_{l+m}·T_{m+n}·T_n."""
    max_l, orders = 4, range(1, 5)
    vectors, weights = neighbourhood()
    found = symmetrized_products(atomic_basis(vectors, weights, max_l), max_l, 4)
    for column, w in enumerate(weights.T):
        powers = [np.ones((7, 1))]
        for _ in orders:
            powers.append((powers[-1][:, :, None] * vectors[:, None, :]).reshape(7, -1))
        t = [w @ power for power in powers]  # 3^l entries

        def joined(l, m, t=t):
            return t[l + m].reshape(3**l, 3**m)

        expected = [t[0][0]]
        expected += [t[l] @ t[l] for l in orders]
        expected += [t[l] @ joined(l, m) @ t[m] for l in orders for m in orders if l <= m and l + m <= max_l]
        expected += [
            t[l] @ joined(l, m) @ joined(m, n) @ t[n]
            for l in orders
            for m in orders
            for n in orders
            if l <= n and l + m <= max_l and m + n <= max_l
        ]
        np.testing.assert_allclose(found[:, column], expected, rtol=RTOL, atol=RTOL * np.abs(expected).max())


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["proper", "improper"])
def test_rotation(sign):
    rotation = sign * np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    plain, rotated = (symmetrized_products(atomic_basis(*neighbourhood(r), max_l=4), 4, 4) for r in (None, rotation))
    np.testing.assert_allclose(rotated, plain, rtol=0, atol=RTOL * np.abs(plain).max())


# 3, 6 and 9 are the sizes of the published models of shared/reference
@pytest.mark.parametrize(
    ("max_l", "max_nu", "number"),
    [(0, 4, 1), (3, 1, 1), (2, 2, 3), (3, 3, 6), (4, 3, 9), (2, 4, 5), (3, 4, 10), (4, 4, 19)],
)
def test_number_of_invariants(max_l, max_nu, number):
    assert len(invariants(max_l, max_nu)) == number


@pytest.mark.parametrize("max_l", [3, 4])
def test_invariants_are_independent(max_l):
    n = len(invariants(max_l, 4))
    a = jnp.asarray(np.random.default_rng(2).normal(size=(_size(max_l), 4 * n)), float)
    assert np.linalg.matrix_rank(symmetrized_products(a, max_l, 4)) == n


def test_coefficients_are_multinomial():
    """Σ l!/(lx! ly! lz!) A²: 1 for xx, 2 for xy, so that the sum is the squared norm of the tensor."""
    assert invariants(2, 2)[2] == {(4, 4): 1.0, (5, 5): 2.0, (6, 6): 2.0, (7, 7): 1.0, (8, 8): 2.0, (9, 9): 1.0}


@pytest.mark.parametrize("max_nu", [0, 5])
def test_error(max_nu):
    with pytest.raises(ValueError, match=rf"`max_nu` must be 1, 2, 3 or 4, got {max_nu}"):
        invariants(2, max_nu)


def _size(max_l):
    return (max_l + 1) * (max_l + 2) * (max_l + 3) // 6
