"""The joined model: one representation, a short-range energy and latent charges and multipoles from it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lesjax.ewald.multipoles import mask_atoms
from lesjax.io import chemical_symbols
from lesjax.models.cace import CACE, species_index
from lesjax.models.config import LongRangeConfig, ModelConfig
from lesjax.models.heads import HARDNESS_SCALE, Heads, Latent
from lesjax.models.readout import Readout, read_out
from lesjax.system import System


class LesModel(nn.Module):
    """Atomic short-range energies and latent charges of a system."""

    config: ModelConfig

    @nn.compact
    def __call__(self, system: System) -> tuple[Float[Array, " n"], Latent | None]:
        """Return the short-range energy of each atom (eV) and what goes into the long-range part, None without it.

        Padded atoms have energy, charges and all else zero.
        """
        c = self.config
        mask = jnp.asarray(system.atom_mask)
        features, basis = CACE(c.representation, name="representation").with_basis(system)
        features = self._with_state(features, system)
        energy_readout = Readout(c.hidden, 1, c.linear, name="energy_readout")
        long_range = c.long_range
        latent: Array | None = None
        if long_range is None or long_range.separate_representation or long_range.charges == "fixed":
            (atomic,) = read_out(features, [energy_readout])
        else:
            atomic, latent = read_out(features, [energy_readout, self._charge_readout(long_range)])
        energies = jnp.where(mask, c.energy_scale * atomic[:, 0], 0.0)
        if long_range is None:
            return energies, None
        if long_range.separate_representation:
            features, basis = CACE(c.representation, name="charge_representation").with_basis(system)
            features = self._with_state(features, system)
            if long_range.charges != "fixed":
                (latent,) = read_out(features, [self._charge_readout(long_range)])
        if long_range.charges == "equilibration":
            assert latent is not None
            electronegativity = HARDNESS_SCALE * long_range.charge_scale * latent[:, 0]
            if long_range.element_charges:  # large charges where it is small
                elements = self._of_elements("element_charges", nn.initializers.zeros, system)
                electronegativity -= HARDNESS_SCALE * elements[:, 0]
            # The scale itself at the start, and as slow as the electronegativity from there: in the first steps, which
            # lower all forces of charges, it would run ahead and leave these near zero.
            varied = long_range.charge_scale * latent[:, 1]
            hardness = HARDNESS_SCALE * jax.nn.softplus(varied + np.log(np.e - 1.0).item())
            return energies, Latent(
                electronegativity=mask_atoms(electronegativity, mask), hardness=mask_atoms(hardness, mask)
            )
        charges = self._fixed_charges(system) if latent is None else long_range.charge_scale * latent
        if long_range.element_charges:
            charges = charges + self._of_elements("element_charges", nn.initializers.zeros, system)
        charges = _constrain(jnp.where(mask[:, None], charges, 0.0), mask, system, long_range.charge_constraint)
        if not long_range.has_multipoles and long_range.induction == "none":
            return energies, Latent(charges=charges)
        heads = Heads(long_range, name="heads")(features, basis)
        return energies, Latent(charges=charges, **{name: mask_atoms(value, mask) for name, value in heads.items()})

    def _charge_readout(self, long_range: LongRangeConfig) -> Readout:
        n_outputs = 2 if long_range.charges == "equilibration" else long_range.n_channels
        return Readout(long_range.hidden, n_outputs, long_range.linear, name="charge_readout")

    def _with_state(self, features: Float[Array, "n f"], system: System) -> Float[Array, "n _"]:
        """The features, and total charge and number of unpaired electrons where the model takes them in."""
        states = []
        for name in self.config.state_inputs:
            value = jnp.asarray(getattr(system, name)).astype(features.dtype)
            states.append(value - 1.0 if name == "spin_multiplicity" else value)
        if not states:
            return features
        columns = jnp.broadcast_to(jnp.stack(states)[None, :], (features.shape[0], len(states)))
        return jnp.concatenate([features, columns], axis=1)

    def _fixed_charges(self, system: System) -> Float[Array, "n c"]:
        long_range, elements = self.config.long_range, self.config.representation.elements
        assert long_range is not None
        dtype = system.positions.dtype
        if not long_range.fixed_charges:
            # not zero, where the energy is stationary
            return self._of_elements("fixed_charges", nn.initializers.normal(long_range.charge_scale), system)
        table = dict(long_range.fixed_charges)
        of_element = jnp.asarray([[table[chemical_symbols[z]]] for z in elements], dtype)
        return of_element[jnp.asarray(species_index(elements))[system.atomic_numbers]]

    def _of_elements(
        self, name: str, initializer: nn.initializers.Initializer, system: System
    ) -> Float[Array, "n c"]:
        """Parameters of each element and channel, for each atom."""
        elements, long_range = self.config.representation.elements, self.config.long_range
        assert long_range is not None
        table = self.param(name, initializer, (len(elements), long_range.n_channels), system.positions.dtype)
        return table[jnp.asarray(species_index(elements))[system.atomic_numbers]]


def _constrain(
    charges: Float[Array, "n c"], mask: Bool[Array, " n"], system: System, constraint: str
) -> Float[Array, "n c"]:
    """Shift the charges of all atoms so that each channel adds up to zero, or to its part of the total charge."""
    if constraint == "free":
        return charges
    excess = jnp.sum(charges, axis=0)
    if constraint == "total":
        excess = excess - jnp.asarray(system.total_charge).astype(charges.dtype) / charges.shape[1]
    excess = excess / jnp.sum(mask).astype(charges.dtype)
    return jnp.where(mask[:, None], charges - excess[None, :], 0.0)
