r"""Forces and stress as gradients of an energy.

With the strain ε acting as r' = r (1 + ε), cell' = cell (1 + ε), the chain rule gives

.. math:: \frac{\partial E}{\partial \varepsilon_{ab}} = \sum_i r_{ia} \frac{\partial E}{\partial r_{ib}}
          + \sum_k h_{ka} \frac{\partial E}{\partial h_{kb}}, \quad \text{stress} = \frac{1}{V}
          \operatorname{sym} \frac{\partial E}{\partial \varepsilon}

with ASE's sign: positive when the system pulls its cell together.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lesjax.numerics import determinant, matmul


# (positions [n, 3], cell [3, 3]) -> (energy, anything else worth keeping)
EnergyFunction = Callable[[Array, Array], tuple[Array, PyTree]]


def energy_forces_stress(
    energy_fn: EnergyFunction, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"], *, with_stress: bool
) -> tuple[Float[Array, ""], Float[Array, "n 3"], Float[Array, "3 3"] | None, PyTree]:
    """Energy (eV), forces (eV/Å), stress (eV/Å³, None unless asked for) and the energy function's extras."""
    if not with_stress:
        (energy, extras), gradient = jax.value_and_grad(energy_fn, has_aux=True)(positions, cell)
        return energy, -gradient, None, extras
    (energy, extras), (gradient, cell_gradient) = jax.value_and_grad(energy_fn, (0, 1), has_aux=True)(positions, cell)
    strain_gradient = matmul(positions.T, gradient) + matmul(cell.T, cell_gradient)
    stress = 0.5 * (strain_gradient + strain_gradient.T) / jnp.abs(determinant(cell))
    return energy, -gradient, stress, extras
