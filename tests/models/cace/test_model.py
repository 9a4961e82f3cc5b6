"""The sums over the edges of CACE against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax.models import basis
from lesjax.models.cace.model import sum_filtered


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("n_bessel", "n_filters"), [(5, 2), (3, 4)])
def test_filtered_sum(n_bessel, n_filters, shared):
    """Both ways to sum, with filters of each order and of all orders."""
    max_l, n, m = 2, 3, 4
    order = basis.order_of_function(max_l)
    rng = np.random.default_rng(0)
    shapes = [(n, m, len(order)), (n, m, n_bessel), (n, m, 1 if shared else max_l + 1, n_filters)]
    angular, radial, filters = (rng.normal(size=shape) for shape in shapes)
    of_function = filters[:, :, np.zeros_like(order) if shared else order]
    expected = np.einsum("nma,nmb,nmac->nabc", angular, radial, of_function)
    found = sum_filtered(*(jnp.asarray(x, float) for x in (angular, radial, filters)), max_l)
    np.testing.assert_allclose(found, expected, atol=1e-12 if jax.config.jax_enable_x64 else 1e-5)
