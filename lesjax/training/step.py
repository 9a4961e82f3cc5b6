"""One training step and one evaluation, compiled once per bucket."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from lesjax.models.config import ModelConfig
from lesjax.models.potential import Prediction, predict
from lesjax.training.config import TrainingSection
from lesjax.training.data import Batch, take
from lesjax.training.losses import Weights, error_sums, loss


def predict_batch(config: ModelConfig, params: PyTree, batch: Batch, *, with_stress: bool) -> Prediction:
    """Predictions for stacked systems."""
    one = partial(predict, config, with_stress=with_stress)
    return jax.vmap(one, in_axes=(None, 0, 0))(params, batch.system, batch.solver)


def make_optimizer(section: TrainingSection) -> optax.GradientTransformation:
    """Direction of the update for a learning rate of one, sign included."""
    parts = [optax.clip_by_global_norm(section.clip)] if section.clip > 0 else []
    parts.append(optax.scale_by_adam())
    if section.optimizer == "adamw":
        parts.append(optax.add_decayed_weights(section.weight_decay))
    return optax.chain(*parts, optax.scale(-1.0))


def make_step(config: ModelConfig, section: TrainingSection) -> Callable:
    """Compile-on-first-use step (state, bucket, rows, mask, learning rate, weights) -> (state, loss).

    The state is a dictionary of params, ema and optimizer; its buffers are donated.
    """
    optimizer = make_optimizer(section)

    @partial(jax.jit, donate_argnums=0)
    def step(
        state: dict[str, PyTree], bucket: Batch, rows: Array, mask: Array, learning_rate: Array, weights: Weights
    ) -> tuple[dict[str, PyTree], Float[Array, ""]]:
        batch = take(bucket, rows, mask)

        def loss_fn(params: PyTree) -> Float[Array, ""]:
            with_stress = weights.stress is not None and all(batch.system.pbc)
            return loss(predict_batch(config, params, batch, with_stress=with_stress), batch, weights)

        value, gradient = jax.value_and_grad(loss_fn)(state["params"])
        with jax.numpy_dtype_promotion("standard"):  # optax 0.2.8 mixes types
            direction, optimizer_state = optimizer.update(gradient, state["optimizer"], state["params"])
        params = jax.tree.map(lambda p, d: p + learning_rate.astype(p.dtype) * d, state["params"], direction)
        ema = jax.tree.map(lambda e, p: section.ema * e + (1.0 - section.ema) * p, state["ema"], params)
        return {"params": params, "ema": ema, "optimizer": optimizer_state}, value

    return step


def make_evaluation(config: ModelConfig, *, with_stress: bool) -> Callable:
    """Compile-on-first-use evaluation (params, bucket, rows, mask, weights) -> (loss, error sums, prediction)."""

    @jax.jit
    def evaluation(
        params: PyTree, bucket: Batch, rows: Array, mask: Array, weights: Weights
    ) -> tuple[Array, dict[str, Array], Prediction]:
        batch = take(bucket, rows, mask)
        wanted = with_stress and all(batch.system.pbc)
        prediction = predict_batch(config, params, batch, with_stress=wanted)
        return loss(prediction, batch, weights), error_sums(prediction, batch), prediction

    return evaluation


def initial_state(section: TrainingSection, params: PyTree) -> dict[str, PyTree]:
    """Parameters, their running average and the optimizer's memory."""
    own = jax.tree.map(lambda x: jnp.array(x), params)  # copies: the state is donated
    return {"params": own, "ema": jax.tree.map(jnp.array, params), "optimizer": make_optimizer(section).init(own)}
