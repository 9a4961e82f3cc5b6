"""Readouts: from the invariant features of an atom to a number."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float


class Readout(nn.Module):
    """Multilayer perceptron (SiLU) plus an optional linear map, both on the same features.

    Attributes:
        hidden: widths of the hidden layers; none gives a linear readout.
        n_outputs: length of the output.
        linear: add the linear map.
    """

    hidden: tuple[int, ...]
    n_outputs: int
    linear: bool

    @nn.compact
    def __call__(self, features: Float[Array, "n f"]) -> Float[Array, "n o"]:
        """Return the sum of both maps for each atom."""
        dtype = features.dtype
        x = features
        for i, width in enumerate(self.hidden):
            x = jax.nn.silu(nn.Dense(width, name=f"hidden{i}", param_dtype=dtype)(x))
        x = nn.Dense(self.n_outputs, name="output", param_dtype=dtype)(x)
        return x + nn.Dense(self.n_outputs, name="linear", param_dtype=dtype)(features) if self.linear else x
