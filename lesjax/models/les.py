"""The joined model: a short-range model, its energy, and latent charges and multipoles from its features."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lesjax.models.config import ModelConfig
from lesjax.models.long_range.charges import EquilibratedCharges
from lesjax.models.long_range.dispersion import DispersionCoefficients
from lesjax.models.long_range.heads import Heads
from lesjax.models.long_range.sources import Sources
from lesjax.models.readout import FeatureScale, Readout, read_out
from lesjax.models.short_range import make_module, species_index
from lesjax.system import System


class LesModel(nn.Module):
    """Atomic short-range energies and the sources of the sums of a system.

    Parameters are in ``short_range`` (the model's own), ``energy`` (scales of the features, readout), ``charges``
    (readout and element charges, and separate features), ``heads`` and ``dispersion`` (readout and coefficients of
    elements). The signs of the channels of charge are in the collection ``signs``.
    """

    config: ModelConfig

    def setup(self) -> None:
        c = self.config
        self.short_range = make_module(c.short_range)
        self.energy = EnergyReadout(c)
        if c.dispersion is not None:
            self.dispersion = DispersionCoefficients(c.dispersion, c.short_range.elements)
        if c.long_range is not None:
            charges = c.long_range.charges
            separate = c.short_range if c.long_range.separate_features else None
            self.charges = charges.module(c.short_range.elements, separate)
            dtype = jax.dtypes.canonicalize_dtype(float)
            self.signs = self.variable("signs", "channels", jnp.ones, (charges.n_channels,), dtype)
            if not isinstance(charges, EquilibratedCharges) and charges.has_heads:
                self.heads = Heads(
                    charges.n_channels, charges.scale, charges.dipoles, charges.quadrupoles, charges.induction
                )

    def __call__(self, system: System) -> tuple[Float[Array, " n"], Sources | None, Float[Array, " n"] | None]:
        """Return the short-range energy of each atom (eV), the sources of the charges and the √C6, None without them.

        All values of padded atoms are zero.
        """
        c, long_range = self.config, self.config.long_range
        features = self.short_range(system)
        layers = self._with_state(self.energy.feature_scale(features.layers), system)
        outputs: Array | None = None
        readouts = [self.energy.readout]
        if long_range is not None and not long_range.separate_features and long_range.charges.n_outputs:
            readouts.append(self.charges.readout)
        if c.dispersion is not None:
            readouts.append(self.dispersion.readout)
        energies, *others = read_out(layers, readouts)
        coefficients = None if c.dispersion is None else self.dispersion(others.pop(), system)
        if others:
            (outputs,) = others
        energies = (1.0 if c.energy_scale is None else c.energy_scale) * energies[:, 0]
        if features.energy is not None:
            energies = energies + features.energy
        mask = jnp.asarray(system.atom_mask)
        energies = jnp.where(mask, energies, 0.0)
        if long_range is None:
            return energies, None, coefficients
        if long_range.separate_features:
            features = self.charges.short_range(system)
            layers = self._with_state(self.charges.feature_scale(features.layers), system)
            if long_range.charges.n_outputs:
                (outputs,) = read_out(layers, [self.charges.readout])
        signs = self.signs.value
        sources = self.charges(outputs, system, signs)
        if long_range.charges.has_heads:
            sources = self.heads(sources, jnp.concatenate(layers, axis=1), features, mask, signs)
        return energies, sources, coefficients

    def _with_state(self, layers: list[Float[Array, "n _"]], system: System) -> list[Float[Array, "n _"]]:
        """Append total charge and number of unpaired electrons to the features, where the model takes them in."""
        states = []
        for name in self.config.state_inputs:
            value = jnp.asarray(getattr(system, name)).astype(layers[0].dtype)
            states.append(value - 1.0 if name == "spin_multiplicity" else value)
        if not states:
            return layers
        columns = jnp.broadcast_to(jnp.stack(states)[None, :], (layers[0].shape[0], len(states)))
        if self.config.state_by_element:
            elements = self.config.short_range.elements
            species = jnp.asarray(species_index(elements))[jnp.asarray(system.atomic_numbers)]
            own = species[:, None] == jnp.arange(len(elements), dtype=species.dtype)[None, :]
            columns = jnp.where(own[:, :, None], columns[:, None, :], 0.0).reshape(len(columns), -1)
        return [jnp.concatenate([layer, columns], axis=1) for layer in layers]


class EnergyReadout(nn.Module):
    """Scales of the features and the readout of the atomic energies."""

    config: ModelConfig

    def setup(self) -> None:
        self.feature_scale = FeatureScale()
        self.readout = Readout(self.config.hidden, 1, self.config.linear)
