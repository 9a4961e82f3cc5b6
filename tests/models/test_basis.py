"""Radial, angular and cutoff functions against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax.models import basis


RTOL = 1e-12 if jax.config.jax_enable_x64 else 1e-5
DISTANCES = np.array([0.1, 0.9, 2.3, 3.999, 4.0, 4.5])


def test_monomials_are_grouped_by_order():
    exponents = basis.monomials(4)
    orders = [sum(e) for e in exponents]
    assert orders == sorted(orders)
    assert len(set(exponents)) == len(exponents) == sum(basis.block_sizes(4))
    assert basis.block_sizes(4) == (1, 3, 6, 10, 15)
    np.testing.assert_array_equal(basis.order_of_function(4), orders)


def test_angular_functions():
    vectors = np.random.default_rng(0).normal(size=(5, 2, 3))
    found = basis.angular_functions(jnp.asarray(vectors, float), 4)
    expected = [np.prod(vectors ** np.array(exponent), axis=-1) for exponent in basis.monomials(4)]
    np.testing.assert_allclose(found, np.stack(expected, -1), rtol=10 * RTOL)


def test_bessel_functions_are_orthonormal():
    """∫ R_n R_m r² dr = δ_nm over the sphere, with frequencies nπ/r_c."""
    cutoff, n = 4.0, 2000
    r = (np.arange(n) + 0.5) * cutoff / n
    radial = np.asarray(basis.bessel_functions(jnp.asarray(r, float), jnp.arange(1.0, 6.0) * (np.pi / cutoff), cutoff))
    overlap = (radial * r[:, None] ** 2).T @ radial * cutoff / n
    np.testing.assert_allclose(overlap, np.eye(5), atol=1e-4)


@pytest.mark.parametrize("p", [5.0, 6.0, 4.5])
def test_polynomial_cutoff(p):
    x = DISTANCES / 4.0
    expected = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    found = basis.polynomial_cutoff(jnp.asarray(DISTANCES, float), 4.0, p)
    np.testing.assert_allclose(found, np.where(x < 1, expected, 0.0), atol=10 * RTOL)


def test_cosine_cutoff():
    expected = np.where(DISTANCES < 4.0, 0.5 * (1 + np.cos(np.pi * DISTANCES / 4.0)), 0.0)
    np.testing.assert_allclose(basis.cosine_cutoff(jnp.asarray(DISTANCES, float), 4.0), expected, atol=RTOL)


@pytest.mark.parametrize(
    ("function", "smooth"),
    [(basis.cosine_cutoff, 1), (basis.polynomial_cutoff, 2), (lambda r, c: basis.polynomial_cutoff(r, c, 4.5), 2)],
    ids=["cosine", "polynomial", "polynomial of any power"],
)
def test_cutoff_ends_smoothly(function, smooth):
    """Derivatives vanish on both sides, and none is NaN at the end or in the padding value one."""
    derivative = lambda r: function(r, 4.0)  # noqa: E731
    for order in range(smooth + 1):
        assert np.isfinite(derivative(jnp.asarray(1.0)))
        for r in (4.0 - 1e-5, 4.0, 4.0 + 1e-5):
            assert abs(float(derivative(jnp.asarray(r)))) < 1e-3, (order, r)
        derivative = jax.grad(derivative)
