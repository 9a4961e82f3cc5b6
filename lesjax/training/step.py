"""One training step and one evaluation, compiled once per bucket."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr
from jaxtyping import Array, Float, PyTree

from lesjax.models.config import ModelConfig
from lesjax.models.potential import Prediction, predict, predict_born_charges
from lesjax.training.config import TrainingSection
from lesjax.training.data import Batch, take
from lesjax.training.losses import Weights, error_sums, loss_of_sums, square_sums


def predict_batch(config: ModelConfig, params: PyTree, batch: Batch, *, with_stress: bool) -> Prediction:
    """Predictions for stacked systems."""
    one = partial(predict, config, with_stress=with_stress)
    return jax.vmap(one, in_axes=(None, 0, 0))(params, batch.system, batch.solver)


def make_optimizer(section: TrainingSection) -> optax.GradientTransformation:
    """Direction of the update for a learning rate of one, sign included."""
    parts = [optax.clip_by_global_norm(section.clip)] if section.clip > 0 else []
    parts.append(optax.scale_by_adam())
    if section.optimizer == "adamw":
        parts.append(optax.add_decayed_weights(section.weight_decay, mask=_decays))
    return optax.chain(*parts, optax.scale(-1.0))


def _decays(params: PyTree) -> PyTree:
    """Which parameters weight decay may pull to zero: not the frequencies of the radial basis."""
    return jax.tree_util.tree_map_with_path(lambda path, _: "bessel_frequencies" not in keystr(path), params)


def average_decay(section: TrainingSection, count: Float[Array, ""]) -> Float[Array, ""]:
    """Decay of the running average in step `count`, from one: at first the average forgets its random start."""
    return jnp.minimum(section.ema, (1.0 + count) / (10.0 + count))


def make_lbfgs() -> optax.GradientTransformationExtraArgs:
    """L-BFGS with a zoom line search."""
    return optax.lbfgs(memory_size=50, linesearch=optax.scale_by_zoom_linesearch(max_linesearch_steps=15))


def make_step(config: ModelConfig, section: TrainingSection) -> Callable:
    """Compile-on-first-use step (state, bucket, rows, mask, learning rate, weights) -> (state, loss).

    The state is a dictionary of params, ema and optimizer, see `initial_state`.
    """
    optimizer = make_optimizer(section)

    @jax.jit
    def step(
        state: dict[str, PyTree], bucket: Batch, rows: Array, mask: Array, learning_rate: Array, weights: Weights
    ) -> tuple[dict[str, PyTree], Float[Array, ""]]:
        loss_fn = partial(batch_loss, config, take(bucket, rows, mask), weights)
        value, gradient = jax.value_and_grad(loss_fn)(state["params"])
        with jax.numpy_dtype_promotion("standard"):  # optax 0.2.8 mixes types
            direction, optimizer_state = optimizer.update(gradient, state["optimizer"], state["params"])
        params = jax.tree.map(lambda p, d: p + learning_rate.astype(p.dtype) * d, state["params"], direction)
        decay = average_decay(section, optax.tree.get(optimizer_state, "count").astype(value.dtype))
        ema = jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, state["ema"], params)
        return {**state, "params": params, "ema": ema, "optimizer": optimizer_state}, value

    return step


def make_lbfgs_step(config: ModelConfig) -> Callable:
    """Like `make_step`, with L-BFGS on one batch that is the whole training set; the learning rate is not used.

    The running average is set to the parameters: what the line search accepts needs no smoothing.
    """
    optimizer = make_lbfgs()

    @jax.jit
    def step(
        state: dict[str, PyTree], bucket: Batch, rows: Array, mask: Array, learning_rate: Array, weights: Weights
    ) -> tuple[dict[str, PyTree], Float[Array, ""]]:
        loss_fn = partial(batch_loss, config, take(bucket, rows, mask), weights)
        params = state["params"]
        with jax.numpy_dtype_promotion("standard"):  # optax 0.2.8 mixes types
            value, gradient = optax.value_and_grad_from_state(loss_fn)(params, state=state["lbfgs"])
            update, memory = optimizer.update(
                gradient, state["lbfgs"], params, value=value, grad=gradient, value_fn=loss_fn
            )
        params = jax.tree.map(jnp.add, params, update)
        return {**state, "params": params, "ema": params, "lbfgs": memory}, jnp.asarray(value)

    return step


def batch_loss(config: ModelConfig, batch: Batch, weights: Weights, params: PyTree) -> Float[Array, ""]:
    """Loss of one batch as a function of the parameters."""
    return loss_of_sums(batch_square_sums(config, batch, weights, params), weights)


def batch_square_sums(
    config: ModelConfig, batch: Batch, weights: Weights, params: PyTree
) -> dict[str, tuple[Array, Array]]:
    """`square_sums` of one batch as a function of the parameters."""
    with_stress = weights.stress is not None and all(batch.system.pbc)
    prediction = predict_batch(config, params, batch, with_stress=with_stress)
    return square_sums(prediction, batch, weights, wanted_born_charges(config, params, batch, weights))


def born_charges(config: ModelConfig, params: PyTree, batch: Batch) -> Float[Array, "b n 3 3"]:
    """Born effective charges of stacked systems, e."""
    assert config.long_range is not None
    # without it no sum is computed
    solver = batch.solver if config.long_range.responds else None
    one = partial(predict_born_charges, config, params)
    return jax.vmap(one)(batch.system, solver, jnp.asarray(batch.epsilon_infinity))[0]


def wanted_born_charges(
    config: ModelConfig, params: PyTree, batch: Batch, weights: Weights
) -> Float[Array, "b n 3 3"] | None:
    """Born effective charges if they weigh in, which costs up to seven passes through the model; else None."""
    wanted = weights.born_effective_charges is not None and config.long_range is not None
    return born_charges(config, params, batch) if wanted else None


def make_evaluation(config: ModelConfig, *, with_stress: bool) -> Callable:
    """Compile-on-first-use evaluation (params, bucket, rows, mask, weights) -> (error sums, prediction)."""

    @jax.jit
    def evaluation(
        params: PyTree, bucket: Batch, rows: Array, mask: Array, weights: Weights
    ) -> tuple[dict[str, Array], Prediction]:
        batch = take(bucket, rows, mask)
        wanted = with_stress and all(batch.system.pbc)
        prediction = predict_batch(config, params, batch, with_stress=wanted)
        born = wanted_born_charges(config, params, batch, weights)
        return error_sums(prediction, batch, born), prediction

    return evaluation


def make_born_charges(config: ModelConfig) -> Callable:
    """Compile-on-first-use Born effective charges (params, bucket, rows, mask) -> [b, n, 3, 3], e."""
    return jax.jit(lambda params, bucket, rows, mask: born_charges(config, params, take(bucket, rows, mask)))
