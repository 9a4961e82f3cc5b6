"""Initial state of a run: parameters, their average, and the memory of the optimizers."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lesjax.models.config import ModelConfig
from lesjax.models.potential import Potential
from lesjax.models.short_range import ShortRangeConfig, make_module, module_of
from lesjax.models.sign import PAULING
from lesjax.system import System
from lesjax.training.config import TrainingSection
from lesjax.training.data import Dataset
from lesjax.training.step import make_lbfgs, make_optimizer, trained, update_rule


# structures of each bucket from which the size of the features is computed
MAX_STRUCTURES = 64
# e per unit of Pauling's scale: two thirds of what force fields have for water and salts; charges grow slowly where
# the short-range part explains most of the forces
CHARGE_PER_ELECTRONEGATIVITY = 0.6


def scaled_potential(config: ModelConfig, seed: int, dataset: Dataset, feature_scale: str | None = None) -> Potential:
    """A fresh potential with the features scaled to a root mean square of one over the training set.

    In CACE products of two and three factors spread over three orders of magnitude, on which Adam stalls unless each
    feature has its own scale; see `TrainingSection.feature_scale`. Charges of the elements (`element_charges`) start
    from the electronegativities.
    """
    potential = Potential.create(config, seed)
    params = dict(potential.params)
    # the features of the energy, and separate ones of the charges
    subtrees = [("energy", params.get("short_range", {}))]  # a model may have no parameters
    if config.long_range is not None and config.long_range.separate_features:
        subtrees.append(("charges", params["charges"].get("short_range", {})))
    feature_scale = feature_scale or getattr(module_of(config.short_range), "feature_scale", "each")
    for name, subtree in subtrees if feature_scale != "none" else []:
        sizes = _root_mean_squares(config.short_range, subtree, dataset)
        if feature_scale == "all":
            joined = np.sqrt(np.mean(np.concatenate(sizes) ** 2))
            sizes = [np.full_like(size, joined) for size in sizes]
        scale = {f"layer{i}": jnp.asarray(1.0 / size) for i, size in enumerate(sizes)}
        params[name] = {**params[name], "feature_scale": scale}
    if config.long_range is not None and getattr(config.long_range.charges, "element_charges", False):
        table = _electronegativity_charges(config, dataset, params["charges"]["element_charges"])
        params["charges"] = {**params["charges"], "element_charges": table}
    return dataclasses.replace(potential, params=params)


def _electronegativity_charges(config: ModelConfig, dataset: Dataset, table: Array) -> Array:
    """Charges of the elements in the first channel, e, that add up to zero over the training set."""
    buckets = [bucket.system for bucket in dataset.buckets]
    numbers = np.concatenate([np.asarray(x.atomic_numbers)[np.asarray(x.atom_mask)] for x in buckets])
    scale = {z: value for z, value in enumerate(PAULING, start=1) if value > 0}  # elements without one stay neutral
    electronegativities = [scale[int(z)] for z in numbers if int(z) in scale]
    mean = np.mean(electronegativities) if electronegativities else 0.0
    charges = [CHARGE_PER_ELECTRONEGATIVITY * (mean - scale.get(z, mean)) for z in config.short_range.elements]
    return table.at[:, 0].set(jnp.asarray(np.array(charges), table.dtype))


def _root_mean_squares(config: ShortRangeConfig, params: PyTree, dataset: Dataset) -> list[np.ndarray]:
    """Root mean square of each feature of each layer over real atoms; 1 for features that vanish.

    Symmetry makes some vanish in ideal crystals: their values are rounding errors, which must not be scaled up.
    """
    layers = []
    for bucket in dataset.buckets:
        systems = jax.tree.map(lambda x: x[:MAX_STRUCTURES], bucket.system)
        real = np.asarray(systems.atom_mask)
        layers.append([np.asarray(layer, np.float64)[real] for layer in _layers(config, params, systems)])
    sizes = [np.sqrt(np.mean(np.concatenate(parts) ** 2, axis=0)) for parts in zip(*layers, strict=True)]
    noise = float(jnp.finfo(jnp.zeros(()).dtype).eps) * max(size.max() for size in sizes)
    return [np.where(size > noise, size, 1.0).astype(jnp.zeros(()).dtype) for size in sizes]


@partial(jax.jit, static_argnums=0)
def _layers(config: ShortRangeConfig, params: PyTree, systems: System) -> tuple[Array, ...]:
    """Features of all atoms of stacked systems."""
    return jax.vmap(lambda system: make_module(config).apply({"params": params}, system).layers)(systems)


def initial_state(section: TrainingSection, potential: Potential) -> dict[str, PyTree]:
    """The potential, the running average of its parameters and the memory of the optimizers that the phases use."""
    params, rule = potential.params, update_rule(section)
    optimizer = make_optimizer(rule, potential.config).init(trained(rule, params))
    state = {"potential": potential.core(), "ema": params, "optimizer": optimizer}
    if any(phase.lbfgs for phase in section.phases):
        with jax.numpy_dtype_promotion("standard"):
            memory = make_lbfgs().init(trained(rule, params))
        # of the types that a step returns: weak ones would compile it twice
        state["lbfgs"] = jax.tree.map(lambda x: jnp.asarray(x, x.dtype), memory)
    return state
