"""The joined model: one representation, a short-range energy and latent charges from it."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from lesjax.models.cace import CACE
from lesjax.models.config import ModelConfig
from lesjax.models.readout import Readout, read_out
from lesjax.system import System


class LesModel(nn.Module):
    """Atomic short-range energies and latent charges of a system."""

    config: ModelConfig

    @nn.compact
    def __call__(self, system: System) -> tuple[Float[Array, " n"], Float[Array, "n c"] | None]:
        """Return the short-range energy of each atom (eV) and its latent charges (e), None without long range.

        Padded atoms have energy and charges zero.
        """
        c = self.config
        mask = jnp.asarray(system.atom_mask)
        features = CACE(c.representation, name="representation")(system)
        energy_readout = Readout(c.hidden, 1, c.linear, name="energy_readout")
        if c.long_range is None:
            (atomic,) = read_out(features, [energy_readout])
            return jnp.where(mask, c.energy_scale * atomic[:, 0], 0.0), None
        long_range = c.long_range
        charge_readout = Readout(long_range.hidden, long_range.n_channels, long_range.linear, name="charge_readout")
        if long_range.separate_representation:
            (atomic,) = read_out(features, [energy_readout])
            features = CACE(c.representation, name="charge_representation")(system)
            (latent,) = read_out(features, [charge_readout])
        else:
            atomic, latent = read_out(features, [energy_readout, charge_readout])
        energies = jnp.where(mask, c.energy_scale * atomic[:, 0], 0.0)
        charges = jnp.where(mask[:, None], long_range.charge_scale * latent, 0.0)
        if long_range.neutral:
            excess = jnp.sum(charges, axis=0) / jnp.sum(mask).astype(charges.dtype)
            charges = jnp.where(mask[:, None], charges - excess[None, :], 0.0)
        return energies, charges
