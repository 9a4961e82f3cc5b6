r"""Learned London dispersion: √C6 of each atom from a readout, and their :math:`-c_i c_j / r^6`.

.. math:: c_i = \sqrt{C_{6,i}} = s \operatorname{softplus}(g(B_i) + t_{Z_i}) > 0

with the readout g, a learned number t for each element and the factor s. The sum is that of `ewald.InversePower6`:
what its damping takes from atoms within the cutoff is left to the short-range model.
"""

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lesjax import ewald
from lesjax.ewald.multipoles import mask_atoms
from lesjax.models.long_range.charges import of_elements
from lesjax.models.readout import Readout
from lesjax.system import System
from lesjax.validate import check, not_both, optional, positive, widths


@dataclass(frozen=True)
class DispersionConfig:
    """London dispersion, with charges or alone; for three periodic directions and for none.

    Attributes:
        sigma: smearing width σ₆ of the sum, Å; the smaller one of the charges' width and a fifth of the cutoff, if it
            is not given. Wider ones damp the interaction beyond the cutoff, where the short-range model sees nothing: a
            fifth of the cutoff damps 0.03 % there, three eighths 31 %.
        k_cutoff: length of the largest k-vector of a periodic sum, 1/Å; exclusive with `accuracy`.
        accuracy: relative error of the forces of the sum; 1e-4 if neither is given.
        scale: factor s on the coefficients √C6, eV½ Å³. At the start they are about 0.7 times this number: those of
            elements are 2 (H) to 13 (Xe).
        hidden: widths of the hidden layers of the readout.
        linear: add a linear readout.
    """

    sigma: float | None = None
    k_cutoff: float | None = None
    accuracy: float | None = None
    scale: float = 5.0
    hidden: tuple[int, ...] = (32, 16)
    linear: bool = True

    def __post_init__(self) -> None:
        check(
            self, sigma=optional(positive), k_cutoff=optional(positive), accuracy=optional(positive), scale=positive,
            hidden=widths,
        )  # fmt: skip
        not_both(k_cutoff=self.k_cutoff, accuracy=self.accuracy)


class Dispersion(NamedTuple):
    """Energy of the dispersion and what it comes from.

    Attributes:
        energy: eV.
        coefficients: √C6 of each atom, eV½ Å³.
    """

    energy: Float[Array, ""]
    coefficients: Float[Array, " n"]


class DispersionCoefficients(nn.Module):
    """√C6 of the atoms."""

    config: DispersionConfig
    elements: tuple[int, ...]

    def setup(self) -> None:
        c = self.config
        self.readout = Readout(c.hidden, 1, c.linear)
        shape, dtype = (len(self.elements), 1), jax.dtypes.canonicalize_dtype(float)
        self.element_coefficients = self.param("element_coefficients", nn.initializers.zeros, shape, dtype)

    def __call__(self, outputs: Float[Array, "n 1"], system: System) -> Float[Array, " n"]:
        """Coefficients from the readout; zero for padded atoms."""
        total = outputs + of_elements(self.element_coefficients, self.elements, system)
        return mask_atoms(self.config.scale * jax.nn.softplus(total[:, 0]), jnp.asarray(system.atom_mask))


def dispersion_energy(coefficients: Float[Array, " n"], system: System, solver: ewald.Solver) -> Dispersion:
    """Energy of given coefficients. A pure function."""
    positions, cell, mask = (jnp.asarray(x) for x in (system.positions, system.cell, system.atom_mask))
    return Dispersion(ewald.energy(solver, positions, cell, coefficients, atom_mask=mask), coefficients)
