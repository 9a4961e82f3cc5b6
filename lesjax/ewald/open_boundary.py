r"""Sum over all pairs of Gaussian charges without periodic images.

.. math:: E = \sum_{i<j} \frac{1}{4 \pi \varepsilon_0} q_i q_j
              \frac{\operatorname{erf}(r_{ij} / (\sqrt 2 \sigma))}{r_{ij}}

Source: Cheng, npj Comput. Mater. 11, 80 (2025), doi:10.1038/s41524-025-01577-7.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lesjax.numerics import safe_norm
from lesjax.units import COULOMB


def pair_form(
    left_positions: Float[Array, "n 3"],
    right_positions: Float[Array, "n 3"],
    left_charges: Float[Array, "n c"],
    right_charges: Float[Array, "n c"],
    sigma: Float[Array, ""],
    pair_mask: Bool[Array, "n n"],
) -> Float[Array, ""]:
    """Interaction of two sets of charges over the pairs in `pair_mask`, each pair counted as given there.

    The energy is half of it for two equal sets and a mask without diagonal.
    """
    vectors = left_positions[:, None, :] - right_positions[None, :, :]
    r = safe_norm(vectors, pair_mask)
    kernel = jnp.where(pair_mask, COULOMB * jax.scipy.special.erf(r / (math.sqrt(2.0) * sigma)) / r, 0.0)
    products = jnp.einsum("ic,jc->ij", left_charges, right_charges, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(kernel * products)
