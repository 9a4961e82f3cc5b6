"""Values away from the singular point, and finite derivatives of any order at it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lesjax.numerics import cospi, determinant, inverse, matmul, safe_norm, safe_reciprocal, sinpi


def test_safe_reciprocal():
    x = jnp.asarray([2.0, 0.0, -4.0, 5.0])
    np.testing.assert_array_equal(safe_reciprocal(x, jnp.asarray([True, False, True, False])), [0.5, 0.0, -0.25, 0.0])


def test_safe_norm_is_one_where_it_is_not_wanted():
    vectors = jnp.asarray([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    np.testing.assert_allclose(safe_norm(vectors, jnp.asarray([True, False, False])), [5.0, 1.0, 1.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "zero", "one"),
    [(safe_reciprocal, 0.0, 1.0), (safe_norm, [0.0, 0.0, 0.0], [1.0, 0.0, 0.0])],
    ids=["safe_reciprocal", "safe_norm"],
)
def test_derivatives_are_finite_where_masked(function, zero, one):
    x = jnp.asarray([zero, one])
    mask = jnp.asarray([False, True])

    def total(x):
        return jnp.sum(function(x, mask))

    gradient, hessian = jax.grad(total)(x), jax.hessian(total)(x)
    assert np.all(np.isfinite(hessian))
    np.testing.assert_array_equal(gradient[0], jnp.zeros_like(gradient[0]))
    np.testing.assert_array_equal(hessian[0], jnp.zeros_like(hessian[0]))
    # the other entry has the derivative it should have
    expected = [1.0, 0.0, 0.0] if function is safe_norm else -1.0
    np.testing.assert_allclose(gradient[1], expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"] if jax.config.jax_enable_x64 else ["float32"])
def test_dtype_in_is_dtype_out(dtype):
    x = jnp.ones((4, 3), dtype)
    assert safe_norm(x, jnp.ones(4, bool)).dtype == dtype
    assert safe_reciprocal(x, jnp.ones((4, 3), bool)).dtype == dtype


@pytest.mark.parametrize(("function", "reference"), [(sinpi, np.sin), (cospi, np.cos)], ids=["sinpi", "cospi"])
def test_sine_and_cosine_of_multiples_of_pi(function, reference):
    # multiples of 1/64 are exact, far from zero too; reduced on the host in whole turns
    turns = np.arange(-(2**10), 2**10 + 1) / 64
    x = jnp.asarray(np.concatenate([turns, turns + 2**12]))
    reduced = np.pi * ((turns + 1) % 2 - 1)
    exact = reference(np.concatenate([reduced, reduced]))
    eps = np.finfo(x.dtype).eps
    np.testing.assert_allclose(function(x), exact, atol=4 * eps)
    near = jnp.linspace(-1.3, 1.7, 7)
    check_grads(jax.jit(function), (near,), order=2, modes=("fwd", "rev"))
    other = {sinpi: cospi, cospi: sinpi}[function]
    sign = 1.0 if function is sinpi else -1.0
    derivative = jax.vmap(jax.grad(function))(x)
    np.testing.assert_allclose(derivative, sign * np.pi * other(x), atol=4 * eps)


@pytest.mark.parametrize("function", [sinpi, cospi])
def test_not_a_number_and_infinity_are_not_hidden(function):
    assert np.all(np.isnan(function(jnp.asarray([np.nan, np.inf]))))


def test_matrix_products_ask_for_all_digits():
    """On a CPU nothing else can be seen: there the default has them, too."""
    a = jnp.ones((2, 2))
    assert "precision=(Precision.HIGHEST, Precision.HIGHEST)" in str(jax.make_jaxpr(matmul)(a, a))


def test_determinant_and_inverse():
    """Of several matrices at a time, left-handed ones too, and their derivatives."""
    matrices = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3, 3)))
    tolerance = 1e-12 if jax.config.jax_enable_x64 else 1e-4
    np.testing.assert_allclose(determinant(matrices), np.linalg.det(matrices), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(inverse(matrices), np.linalg.inv(matrices), rtol=tolerance, atol=10 * tolerance)
    one = matrices[0, 0]
    slope = jax.grad(determinant)(one)
    np.testing.assert_allclose(slope, np.linalg.det(one) * np.linalg.inv(one).T, rtol=10 * tolerance)
