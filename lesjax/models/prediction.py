"""`Prediction`: what a potential predicts for a system."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Float

from lesjax import response


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prediction:
    r"""Values that a potential predicts for a system. Entries that do not exist for it are None.

    Attributes:
        energy: energy of interaction, eV: without the reference energies of the elements. It keeps its digits in
            float32.
        total_energy: energy with the reference energies, eV, in float64; on the host only, None where the elements are
            traced.
        short_range_energy: short-range part of the interaction, eV.
        long_range_energy: part of the charges and multipoles, eV; None for a model without.
        forces: eV/Å.
        stress: eV/Å³, ASE's sign; None unless all directions are periodic (a slab has no volume of its own).
        charges: latent charges of each channel, e, induced ones included, from which dipole moments and Born effective
            charges are computed; None for a short-range model. Energies leave the sign of each channel open: training
            sets it, see `lesjax.training.sign`.
        dipoles: latent dipoles of each channel, e Å, induced ones included; None without latent and induced dipoles.
        quadrupoles: latent quadrupoles of each channel, e Å².
        dipole_moment: dipole moment of all charges and dipoles, channels summed, about the origin of the coordinates as
            they were given, e Å: :math:`\sum_i q_i r_i + u_i`. Only without periodic directions, None with any, where
            the polarization is no single number, see `lesjax.properties`. With a net charge it depends on the origin:
            shifted by d, the atoms have a moment that is larger by :math:`d \sum_i q_i`.
        induction: the induced part of charges and dipoles, with the flags of its solution.
        equilibration: the solution for equilibrated charges, with its flag.
        dispersion_energy: part of the learned dispersion, eV; None for a model without.
        dispersion_coefficients: √C6 of each atom, eV½ Å³.
    """

    energy: Float[Array, "*b"]
    total_energy: Float[np.ndarray, "*b"] | None
    short_range_energy: Float[Array, "*b"]
    long_range_energy: Float[Array, "*b"] | None
    forces: Float[Array, "*b n 3"]
    stress: Float[Array, "*b 3 3"] | None
    charges: Float[Array, "*b n c"] | None = None
    dipoles: Float[Array, "*b n c 3"] | None = None
    quadrupoles: Float[Array, "*b n c 3 3"] | None = None
    dipole_moment: Float[Array, "*b 3"] | None = None
    induction: response.InducedMultipoles | None = None
    equilibration: response.Equilibration | None = None
    dispersion_energy: Float[Array, "*b"] | None = None
    dispersion_coefficients: Float[Array, "*b n"] | None = None
