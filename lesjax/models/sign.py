"""The sign of latent charges, which energies and forces leave open: the convention, and how it is applied.

Convention: in every channel, the most electronegative element of the model is negative on average.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from lesjax.models.config import ModelConfig
from lesjax.models.potential import Potential


# Electronegativities of the elements from hydrogen to plutonium; 0 where there is none
PAULING = (
    2.20, 0.00, 0.98, 1.57, 2.04, 2.55, 3.04, 3.44, 3.98, 0.00, 0.93, 1.31, 1.61, 1.90, 2.19, 2.58, 3.16, 0.00,
    0.82, 1.00, 1.36, 1.54, 1.63, 1.66, 1.55, 1.83, 1.88, 1.91, 1.90, 1.65, 1.81, 2.01, 2.18, 2.55, 2.96, 3.00,
    0.82, 0.95, 1.22, 1.33, 1.60, 2.16, 1.90, 2.20, 2.28, 2.20, 1.93, 1.69, 1.78, 1.96, 2.05, 2.10, 2.66, 2.60,
    0.79, 0.89, 1.10, 1.12, 1.13, 1.14, 1.13, 1.17, 1.20, 1.20, 1.10, 1.22, 1.23, 1.24, 1.25, 1.10, 1.27,
    1.30, 1.50, 2.36, 1.90, 2.20, 2.20, 2.28, 2.54, 2.00, 1.62, 1.87, 2.02, 2.00, 2.20, 2.20,
    0.79, 0.90, 1.10, 1.30, 1.50, 1.38, 1.36, 1.28,
)  # fmt: skip


def most_electronegative(config: ModelConfig) -> int | None:
    """Return the atomic number of the element that is negative by the convention; None where there is but one."""
    elements = [z for z in config.short_range.elements if z <= len(PAULING)]
    return max(elements, key=lambda z: PAULING[z - 1]) if len(elements) > 1 else None


def flip(potential: Potential, signs: np.ndarray | float) -> Potential:
    """Multiply the latent charges, dipoles and quadrupoles of each channel by its sign."""
    assert potential.signs is not None
    flipped = potential.signs * jnp.asarray(signs, potential.signs.dtype)
    provenance = potential.provenance
    if provenance is not None and provenance.charges is not None:
        factors = np.broadcast_to(np.asarray(signs, float), potential.signs.shape)
        provenance = dataclasses.replace(provenance, charges=provenance.charges.flipped(factors))
    return dataclasses.replace(potential, signs=flipped, provenance=provenance)
