"""Symmetric products: number of paths, symmetry, equivariance, and the products written out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax.models.basis import monomials
from lesjax.models.irreps import harmonic_polynomials
from lesjax.models.mace.contraction import couplings, n_paths, paths, start_sizes, symmetric_products


X64 = jax.config.jax_enable_x64


def harmonics(vectors, max_l):
    blocks = []
    for l in range(max_l + 1):
        exponents = [e for e in monomials(l) if sum(e) == l]
        rows = np.stack([np.prod(vectors ** np.array(e), axis=1) for e in exponents], axis=1)
        blocks.append(rows @ harmonic_polynomials(l))
    return np.concatenate(blocks, axis=1)


@pytest.mark.parametrize(
    ("max_ell", "order", "numbers"),
    [(3, 0, [1, 5, 13]), (3, 1, [1, 4, 16]), (3, 2, [1, 6, 20]), (2, 0, [1, 4, 9]), (0, 0, [1, 2, 3])],
)
def test_number_of_paths(max_ell, order, numbers):
    assert [n_paths(max_ell, nu, order) for nu in (1, 2, 3)] == numbers


def test_weights_start_the_smaller_the_more_paths_have_as_many_factors():
    np.testing.assert_allclose(start_sizes(3, 3, 0), [1.0] + 4 * [1 / 4] + 8 * [1 / 8])
    np.testing.assert_allclose(start_sizes(1, 2, 1), [1.0, 1.0])


def test_couplings_are_symmetric_and_orthonormal():
    for order in range(3):
        for path, n in paths(3, 3, order):
            tensors = couplings(path, order)
            gram = np.einsum("pmx,qmx->pqm", *(2 * [tensors.reshape(n, 2 * order + 1, -1)]))
            np.testing.assert_allclose(gram, np.eye(n)[:, :, None] * np.ones(2 * order + 1), atol=1e-12)
            for i, j in itertools.combinations(range(len(path)), 2):
                if path[i] == path[j]:
                    np.testing.assert_allclose(tensors, tensors.swapaxes(2 + i, 2 + j), atol=1e-12)


@pytest.mark.parametrize(("max_ell", "correlation"), [(2, 3), (1, 4), (3, 1)])
def test_products_are_those_of_the_couplings(max_ell, correlation):
    rng, orders = np.random.default_rng(0), tuple(range(max_ell + 1))
    features = rng.normal(size=((max_ell + 1) ** 2, 3))
    ends = np.cumsum([0] + [2 * l + 1 for l in orders])
    blocks = [features[a:b] for a, b in itertools.pairwise(ends)]
    found = symmetric_products(jnp.asarray(features), max_ell, correlation, orders)
    letters = "abcd"
    for order, products in zip(orders, found, strict=True):
        expected = []
        for path, _ in paths(max_ell, correlation, order):
            factors = ",".join(f"{x}z" for x in letters[: len(path)])
            tensor = couplings(path, order)
            expected.append(np.einsum(f"pm{letters[: len(path)]},{factors}->mpz", tensor, *(blocks[l] for l in path)))
        np.testing.assert_allclose(products, np.concatenate(expected, axis=1), atol=1e-11 if X64 else 1e-4)


def test_products_rotate():
    """Products of density-like features of a turned cloud of points, by the matrix that turns the harmonics."""
    rng = np.random.default_rng(1)
    turn = -np.linalg.qr(rng.normal(size=(3, 3)))[0]
    points = rng.normal(size=(40, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    weights = rng.normal(size=(3, 40)) / 5.0
    one, two = (
        symmetric_products(jnp.asarray((weights @ harmonics(p, 3)).T), 3, 3, (0, 1, 2)) for p in (points, points @ turn)
    )
    for l in range(3):
        block = slice(l**2, (l + 1) ** 2)
        y, turned = harmonics(points, 3)[:, block], harmonics(points @ turn, 3)[:, block]
        matrix = np.linalg.lstsq(y, turned, rcond=None)[0]
        expected = np.einsum("mpz,mk->kpz", one[l], matrix)
        assert np.abs(two[l]).max() > 0.1
        np.testing.assert_allclose(two[l], expected, atol=1e-11 if X64 else 1e-4)
