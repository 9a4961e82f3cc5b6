"""Readouts: from the invariant features of an atom to a number."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lesjax.numerics import matmul


class Layer(nn.Module):
    """Kernel and bias of a dense layer, without the product."""

    width: int

    @nn.compact
    def __call__(self, n_inputs: int, dtype: jnp.dtype) -> tuple[Float[Array, "i o"], Float[Array, " o"]]:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (n_inputs, self.width), dtype)
        return kernel, self.param("bias", nn.initializers.zeros, (self.width,), dtype)


class LayerReadout(nn.Module):
    """Multilayer perceptron (SiLU) plus an optional linear map, both on the features of one layer.

    Calling it returns the matrix of the first layer, with the linear map beside it, and the function from the
    product to the output, so that several readouts share one product with the features.

    Attributes:
        hidden: widths of the hidden layers; none gives a linear readout.
        n_outputs: length of the output.
        linear: add the linear map.
    """

    hidden: tuple[int, ...]
    n_outputs: int
    linear: bool

    @nn.compact
    def __call__(self, n_features: int, dtype: jnp.dtype) -> tuple[Array, Callable[[Array], Array]]:
        """Return the first matrix [features, columns] and the rest, [n, columns] -> [n, outputs]."""
        widths = (*self.hidden, self.n_outputs)
        names = [f"hidden{i}" for i in range(len(self.hidden))] + ["output"]
        n_inputs = (n_features, *self.hidden)
        layers = [Layer(w, name=name)(i, dtype) for w, name, i in zip(widths, names, n_inputs, strict=True)]
        linear = Layer(self.n_outputs, name="linear")(n_features, dtype) if self.linear else None
        first = layers[0][0] if linear is None else jnp.concatenate([layers[0][0], linear[0]], axis=1)

        def rest(product: Array) -> Array:
            x = product[:, : widths[0]] + layers[0][1][None, :]
            for kernel, bias in layers[1:]:
                x = matmul(jax.nn.silu(x), kernel) + bias[None, :]
            return x if linear is None else x + product[:, widths[0] :] + linear[1][None, :]

        return first, rest


class Readout(nn.Module):
    """One `LayerReadout` for each layer of a short-range model, the outputs of which are added."""

    hidden: tuple[int, ...]
    n_outputs: int
    linear: bool

    @nn.compact
    def __call__(self, widths: Sequence[int], dtype: jnp.dtype) -> list[tuple[Array, Callable[[Array], Array]]]:
        return [
            LayerReadout(self.hidden, self.n_outputs, self.linear, name=f"layer{i}")(width, dtype)
            for i, width in enumerate(widths)
        ]


class FeatureScale(nn.Module):
    """Factors on the features of each layer, trained like the rest.

    A run starts them at one over the root mean square of each feature, see `lesjax.training.initialize`.
    """

    @nn.compact
    def __call__(self, layers: Sequence[Float[Array, "n _"]]) -> list[Float[Array, "n _"]]:
        return [
            x * self.param(f"layer{i}", nn.initializers.ones, x.shape[1:], x.dtype)[None, :]
            for i, x in enumerate(layers)
        ]


def read_out(layers: Sequence[Float[Array, "n _"]], readouts: Sequence[Readout]) -> list[Float[Array, "n _"]]:
    """Outputs of several readouts of the same features, the first products of each layer as one."""
    widths, dtype = [x.shape[1] for x in layers], layers[0].dtype
    of_readouts = [readout(widths, dtype) for readout in readouts]
    total: list[Array] = []
    for features, *parts in zip(layers, *of_readouts, strict=True):
        product = matmul(features, jnp.concatenate([first for first, _ in parts], axis=1))
        ends = np.cumsum([first.shape[1] for first, _ in parts])[:-1]
        outputs = [rest(columns) for (_, rest), columns in zip(parts, jnp.split(product, ends, axis=1), strict=True)]
        total = [a + b for a, b in zip(total, outputs, strict=True)] if total else outputs
    return total
