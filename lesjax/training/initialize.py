"""Where a run starts: parameters, their average, and the memory of the optimizers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lesjax.models.cace import CACE
from lesjax.models.config import ModelConfig
from lesjax.models.potential import initial_parameters
from lesjax.system import System
from lesjax.training.config import TrainingSection
from lesjax.training.data import Dataset
from lesjax.training.orient import PAULING, SIGNED, sign_factors
from lesjax.training.step import make_lbfgs, make_optimizer


# structures of each bucket that the size of the features is taken from
MAX_STRUCTURES = 64
# e per unit of Pauling's scale: two thirds of what force fields have for water and salts; charges grow slowly where
# the short-range part explains most of the forces
CHARGE_PER_ELECTRONEGATIVITY = 0.6
# of the element embeddings where all features have one scale: makes products of three factors a tenth of single ones,
# and messages smaller still, as in trained models; from one on they would be ten times as large, and overfit
EMBEDDING_SIZE = 0.3


def scaled_parameters(config: ModelConfig, seed: int, dataset: Dataset, feature_scale: str = "each") -> PyTree:
    """Fresh parameters with the features scaled to a root mean square of one over the training set.

    Products of two and three factors spread over three orders of magnitude, on which Adam stalls, if not each feature
    has a scale of its own; see `TrainingSection.feature_scale`. Charges of the elements (`element_charges`) start from
    the electronegativities.
    """
    params = dict(initial_parameters(config, seed)["params"])
    for name in ("representation", "charge_representation"):
        if name in params:
            if feature_scale == "all":
                embeddings = ("sender_embedding", "receiver_embedding")
                params[name] = {**params[name], **{key: EMBEDDING_SIZE * params[name][key] for key in embeddings}}
            size = _root_mean_square(config, params[name], dataset)
            if feature_scale == "all":
                size = np.full_like(size, np.sqrt(np.mean(size**2)))
            scale = 1.0 / size
            params[name] = {**params[name], "feature_scale": jnp.asarray(scale, params[name]["feature_scale"].dtype)}
    if "element_charges" in params:
        params["element_charges"] = _electronegativity_charges(config, dataset, params["element_charges"])
    return {"params": params}


def _electronegativity_charges(config: ModelConfig, dataset: Dataset, table: Array) -> Array:
    """Charges of the elements in the first channel, e, that add up to zero over the training set."""
    buckets = [bucket.system for bucket in dataset.buckets]
    numbers = np.concatenate([np.asarray(x.atomic_numbers)[np.asarray(x.atom_mask)] for x in buckets])
    scale = {z: value for z, value in enumerate(PAULING, start=1) if value > 0}  # elements without one stay neutral
    known = [scale[int(z)] for z in numbers if int(z) in scale]
    mean = np.mean(known) if known else 0.0
    charges = [CHARGE_PER_ELECTRONEGATIVITY * (mean - scale.get(z, mean)) for z in config.representation.elements]
    return table.at[:, 0].set(jnp.asarray(np.array(charges), table.dtype))


def _root_mean_square(config: ModelConfig, params: PyTree, dataset: Dataset) -> np.ndarray:
    """Of each feature over the real atoms; one for a feature that is zero throughout, up to rounding.

    Symmetry makes some vanish in ideal crystals: what is left of them is noise, which must not be scaled up.
    """
    features = []
    for bucket in dataset.buckets:
        systems = jax.tree.map(lambda x: x[:MAX_STRUCTURES], bucket.system)
        features.append(np.asarray(_features(config, params, systems), np.float64)[np.asarray(systems.atom_mask)])
    size = np.sqrt(np.mean(np.concatenate(features) ** 2, axis=0))
    noise = float(jnp.finfo(params["feature_scale"].dtype).eps) * size.max()
    return np.where(size > noise, size, 1.0)


@partial(jax.jit, static_argnums=0)
def _features(config: ModelConfig, params: PyTree, systems: System) -> Array:
    """Of each atom of stacked systems."""
    return jax.vmap(lambda system: jnp.asarray(CACE(config.representation).apply({"params": params}, system)))(systems)


def initial_state(section: TrainingSection, params: PyTree) -> dict[str, PyTree]:
    """Parameters, their running average and the memory of the optimizers that the phases use."""
    state = {"params": params, "ema": params, "optimizer": make_optimizer(section).init(params)}
    if any(phase.lbfgs for phase in section.phases):
        with jax.numpy_dtype_promotion("standard"):
            state["lbfgs"] = make_lbfgs().init(params)
    return state


def flip_charges(config: ModelConfig, state: dict[str, PyTree]) -> dict[str, PyTree]:
    """The state of a training with the latent charges and multipoles of the other sign, which have the same energy.

    What reads them out changes sign, in the parameters, in their average and in the direction that Adam remembers. The
    memory of L-BFGS is not changed.
    """
    signs = -np.ones(1 if config.long_range is None else config.long_range.n_channels)

    def flip(path: tuple, leaf: Array) -> Array:
        names = {str(getattr(key, "key", getattr(key, "name", key))) for key in path}
        if names & {"nu", "lbfgs"} or not names & SIGNED:
            return leaf
        return leaf * jnp.asarray(sign_factors(config, jax.tree_util.keystr(path), signs, leaf), leaf.dtype)

    return jax.tree_util.tree_map_with_path(flip, state)
