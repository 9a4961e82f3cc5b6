"""Repulsion of atoms that come close: universally screened nuclei.

Source: Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Solids (1985); constants and envelope of
mace-torch.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lesjax.io import covalent_radii
from lesjax.models.basis import polynomial_cutoff
from lesjax.neighbors import Dense


SCREENING = ((0.1818, 3.2), (0.5099, 0.9423), (0.2802, 0.4028), (0.02817, 0.2016))
EXPONENT, PREFACTOR, BOHR, COULOMB = 0.300, 0.4543, 0.529, 14.3996


def nuclear_repulsion(
    atomic_numbers: Int[Array, " n"], neighbors: Dense, distances: Float[Array, "n m"], p: float
) -> Float[Array, " n"]:
    r"""Sum of half of the energies of each atom's pairs, eV, with a cutoff at the sum of their covalent radii.

    .. math:: E_{ij} = \frac{e^2}{4 \pi \varepsilon_0} \frac{Z_i Z_j}{r} \varphi(r / a) f(r / (R_i + R_j)),
              \quad a = \frac{0.240\ \text{Å}}{Z_i^{0.3} + Z_j^{0.3}}

    Args:
        atomic_numbers: Z of each atom.
        neighbors: those of each atom.
        distances: to the neighbours, Å; one for padded ones.
        p: exponent of the polynomial envelope f.
    """
    charge = atomic_numbers.astype(distances.dtype)
    radius = jnp.asarray(np.nan_to_num(covalent_radii), distances.dtype)[atomic_numbers]
    of_atom = jnp.stack([charge, charge**EXPONENT, radius], axis=1)
    of_neighbor = neighbors.gather(of_atom)
    z, power, reach = jnp.moveaxis(of_neighbor, 2, 0)
    length = PREFACTOR * BOHR / (jnp.where(neighbors.mask, power + of_atom[:, None, 1], 1.0))
    screening = sum(c * jnp.exp(-b * distances / length) for c, b in SCREENING)
    reach = jnp.where(neighbors.mask, reach + of_atom[:, None, 2], 1.0)
    pairs = COULOMB * z * of_atom[:, None, 0] / distances * screening * polynomial_cutoff(distances / reach, 1.0, p)
    return neighbors.sum(0.5 * pairs)
