"""A short-range model of another package, in thirty lines: radial functions of each element, learned widths."""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from lesjax.models import Features, register
from lesjax.numerics import safe_norm


@dataclass(frozen=True)
class ToyConfig:
    elements: tuple[int, ...] = ()
    cutoff: float = 3.6
    n_widths: int = 2


class Toy(nn.Module):
    config: ToyConfig
    no_decay: ClassVar[tuple[str, ...]] = ("widths",)

    @nn.compact
    def __call__(self, system):
        c, neighbors = self.config, system.neighborhood()
        widths = self.param("widths", lambda _, shape: 1.0 + jnp.arange(1.0, 1.0 + shape[0]), (c.n_widths,))
        distances = safe_norm(neighbors.vectors, neighbors.mask)
        envelope = jnp.where(distances < c.cutoff, (1.0 - (distances / c.cutoff) ** 2) ** 3, 0.0)
        radial = envelope[..., None] * jnp.exp(-((distances[..., None] / widths[None, None, :]) ** 2))
        species = (system.atomic_numbers[:, None] == jnp.asarray(c.elements, jnp.int32)[None, :]).astype(radial.dtype)
        pairs = radial[..., None] * neighbors.gather(species)[..., None, :]
        sums = neighbors.sum(pairs).reshape(len(species), -1)
        vectors = neighbors.sum(radial[..., None] * neighbors.vectors[..., None, :])
        return Features((jnp.concatenate([species, sums], axis=1),), vectors=vectors)


register("toy", Toy, ToyConfig)
