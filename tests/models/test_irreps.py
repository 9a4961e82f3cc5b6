"""Couplings and spherical harmonics: what defines them, and their convention against e3nn."""

import math

import numpy as np
import pytest

from lesjax.models.basis import monomials
from lesjax.models.irreps import coupling, harmonic_polynomials


ORDERS = [(a, b, c) for a in range(4) for b in range(4) for c in range(abs(a - b), min(a + b, 4) + 1)]


def harmonics(vectors, l):
    exponents = [e for e in monomials(l) if sum(e) == l]
    return np.stack([np.prod(vectors ** np.array(e), axis=-1) for e in exponents], axis=-1) @ harmonic_polynomials(l)


def directions(n, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rotation(l, turn):
    """The matrix D of order l with Y(v @ turn) = Y(v) @ D."""
    points = directions(30)
    return np.linalg.lstsq(harmonics(points, l), harmonics(points @ turn, l), rcond=None)[0]


@pytest.fixture(scope="module")
def turn():
    q = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    return q * np.sign(np.linalg.det(q))


@pytest.mark.parametrize("l", range(6))
def test_harmonics_are_orthonormal(l):
    """Over the sphere, by a rule that is exact for polynomials of degree 11: Gauss-Legendre times equal angles."""
    z, weights = np.polynomial.legendre.leggauss(6)
    phi = 2.0 * np.pi * np.arange(12) / 12
    ring = np.sqrt(1.0 - z**2)[:, None]
    points = np.stack(
        [ring * np.cos(phi), ring * np.sin(phi), np.broadcast_to(z[:, None], (6, 12))], axis=-1
    ).reshape(-1, 3)  # fmt: skip
    y = harmonics(points, l)
    gram = np.einsum("pa,pb,p->ab", y, y, np.repeat(weights / 2.0, 12) / 12)
    np.testing.assert_allclose(gram, np.eye(2 * l + 1), atol=1e-12)


def test_first_order_is_the_vector():
    np.testing.assert_allclose(harmonic_polynomials(1), math.sqrt(3.0) * np.eye(3), atol=1e-14)


@pytest.mark.parametrize(("l1", "l2", "l3"), ORDERS)
def test_couplings_rotate(l1, l2, l3, turn):
    """And those of one pair of orders are orthogonal."""
    c = coupling(l1, l2, l3)
    d1, d2, d3 = (rotation(l, turn) for l in (l1, l2, l3))
    np.testing.assert_allclose(np.einsum("ijk,ai,bj->abk", c, d1, d2), np.einsum("abm,mk->abk", c, d3), atol=1e-10)
    gram = np.einsum("abi,abj->ij", c, c) * (2 * l3 + 1)
    np.testing.assert_allclose(gram, np.eye(2 * l3 + 1), atol=1e-12)


def test_couplings_of_other_orders_are_refused():
    with pytest.raises(ValueError, match=r"`l3` = 3 is not between \|l1 - l2\| and l1 \+ l2"):
        coupling(1, 1, 3)


@pytest.fixture(scope="module")
def e3nn():
    return pytest.importorskip("e3nn_jax")


@pytest.mark.parametrize(("l1", "l2", "l3"), ORDERS)
def test_couplings_are_those_of_e3nn(e3nn, l1, l2, l3):
    expected = np.asarray(e3nn.clebsch_gordan(l1, l2, l3), np.float64)
    np.testing.assert_allclose(coupling(l1, l2, l3), expected / np.linalg.norm(expected), atol=1e-6)


@pytest.mark.parametrize("l", range(5))
def test_harmonics_are_those_of_e3nn(e3nn, l):
    import jax

    points = directions(5)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        vectors = e3nn.IrrepsArray("1o", jax.numpy.asarray(points))
        expected = e3nn.spherical_harmonics([l], vectors, normalize=True, normalization="component").array
    np.testing.assert_allclose(harmonics(points, l), expected, atol=1e-12 if jax.config.jax_enable_x64 else 1e-5)
