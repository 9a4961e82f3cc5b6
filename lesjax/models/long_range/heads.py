r"""Heads: sources of the long-range part that turn with the system.

A head is a sum over the k vectors or tensors A that the short-range model has on each atom, weighted by gates that are
linear in the invariant features B:

.. math:: H_i = \frac{1}{\sqrt{K}} \sum_k g_k(B_i) \frac{A_{ik}}{\sqrt{1 + \langle |A_i|^2 \rangle}}

The denominator, with the mean over k, keeps the size of H that of the gates, however large A is.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lesjax.ewald.multipoles import mask_atoms
from lesjax.models.long_range.sources import Induction, Sources
from lesjax.models.short_range import Features
from lesjax.numerics import einsum


# Initial responses and their unit, e/V and e Å²/V (0.7 Å³ of polarizability), far from a catastrophe at σ = 1 Å; and
# of hardness and electronegativity, V/e and V per `scale`.
KAPPA_SCALE, ALPHA_SCALE, HARDNESS_SCALE = 0.02, 0.07, 10.0


class Heads(nn.Module):
    """Dipoles, quadrupoles and responses that the fields, as in `LatentCharges`, ask for."""

    n_channels: int
    scale: float
    dipoles: bool
    quadrupoles: bool
    induction: Induction | None

    @nn.compact
    def __call__(
        self, sources: Sources, invariants: Float[Array, "n f"], features: Features, mask: Array, signs: Array
    ) -> Sources:
        """Complete the sources.

        Args:
            sources: sources with the charges.
            invariants: scaled invariants of all layers.
            features: features with the vectors and tensors.
            mask: True for real atoms.
            signs: sign of each channel.
        """
        induction = self.induction
        heads: dict[str, Array] = {}
        if self.dipoles:
            heads["dipoles"] = self.scale * signs[None, :, None] * self._gated("dipoles", invariants, features.vectors)
        if self.quadrupoles:
            tensor = self._gated("quadrupoles", invariants, features.tensors)
            trace = jnp.trace(tensor, axis1=-2, axis2=-1)[..., None, None] / 3.0
            heads["quadrupoles"] = self.scale * signs[None, :, None, None] * (tensor - trace * _identity(tensor))
        if induction is not None and induction.kappa:
            heads["kappa"] = KAPPA_SCALE * self._positive("kappa", invariants)
        if induction is not None and induction.alpha != "none":
            heads["alpha"] = ALPHA_SCALE * self._positive("alpha", invariants)
        if induction is not None and induction.alpha == "tensor":
            root = self._gated("anisotropy", invariants, features.tensors)
            square = einsum("ncab,ncbd->ncad", root, root)
            heads["alpha"] = heads["alpha"][..., None, None] * _identity(square) + ALPHA_SCALE * square
        return sources._replace(**{name: mask_atoms(value, mask) for name, value in heads.items()})

    def _positive(self, name: str, invariants: Float[Array, "n f"]) -> Float[Array, "n c"]:
        return jax.nn.softplus(self._dense(self.n_channels, name, invariants))

    def _dense(self, width: int, name: str, invariants: Float[Array, "n f"]) -> Float[Array, "n _"]:
        return nn.Dense(width, name=name, param_dtype=invariants.dtype, precision="highest")(invariants)

    def _gated(
        self, name: str, invariants: Float[Array, "n f"], shapes: Float[Array, "n k *m"] | None
    ) -> Float[Array, "n c *m"]:
        """H of the vectors or tensors for each channel of charge."""
        if shapes is None:
            kind = "tensors" if name in ("quadrupoles", "anisotropy") else "vectors"
            raise ValueError(
                f"`{name}` need {kind}, which the short-range model does not have; with CACE set `max_l` to at least "
                f"{2 if kind == 'tensors' else 1}."
            )
        n, n_gates = shapes.shape[:2]
        flat = shapes.reshape(n, n_gates, -1)
        flat = flat / jnp.sqrt(1.0 + jnp.mean(jnp.sum(flat * flat, axis=-1), axis=-1))[:, None, None]
        gates = self._dense(self.n_channels * n_gates, name, invariants)
        gates = gates.reshape(n, self.n_channels, n_gates)
        return (n_gates**-0.5 * einsum("nck,nkm->ncm", gates, flat)).reshape(n, -1, *shapes.shape[2:])


def _identity(tensor: Float[Array, "n c 3 3"]) -> Float[Array, "1 1 3 3"]:
    return jnp.eye(3, dtype=tensor.dtype)[None, None]
