"""One training step and one evaluation, compiled once per bucket."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from lesjax.models.config import ModelConfig
from lesjax.models.potential import Potential, Prediction, predict, predict_born_charges
from lesjax.models.short_range import find, name_of
from lesjax.training.config import TrainingSection
from lesjax.training.data import Batch, take
from lesjax.training.losses import Weights, error_sums, loss_of_sums, square_sums


def predict_batch(potential: Potential, batch: Batch, *, with_stress: bool) -> Prediction:
    """Predictions for stacked systems."""
    one = partial(predict, with_stress=with_stress)
    return jax.vmap(one, in_axes=(None, 0, 0))(potential, batch.system, batch.solver)


def make_optimizer(section: TrainingSection, config: ModelConfig) -> optax.GradientTransformation:
    """Direction of the update for a learning rate of one, sign included."""
    parts = [optax.clip_by_global_norm(section.clip)] if section.clip > 0 else []
    parts.append(optax.scale_by_adam())
    if section.optimizer == "adamw":
        exempt = getattr(find(name_of(type(config.short_range))).module, "no_decay", ())
        parts.append(optax.add_decayed_weights(section.weight_decay, mask=partial(_decays, exempt)))
    return optax.chain(*parts, optax.scale(-1.0))


def _decays(exempt: tuple[str, ...], params: PyTree) -> PyTree:
    """Which parameters weight decay may pull to zero: not those that the short-range model exempts by name."""

    def decays(path: tuple, _: Array) -> bool:
        names = [str(getattr(key, "key", key)) for key in path]
        return "short_range" not in names or not set(exempt) & set(names)

    return jax.tree_util.tree_map_with_path(decays, params)


def average_decay(section: TrainingSection, count: Float[Array, ""]) -> Float[Array, ""]:
    """Decay of the running average in step `count`, from one: at first the average forgets its random start."""
    return jnp.minimum(section.ema, (1.0 + count) / (10.0 + count))


def make_lbfgs() -> optax.GradientTransformationExtraArgs:
    """L-BFGS with a zoom line search."""
    return optax.lbfgs(memory_size=50, linesearch=optax.scale_by_zoom_linesearch(max_linesearch_steps=15))


def make_step(config: ModelConfig, section: TrainingSection) -> Callable:
    """Compile-on-first-use step (state, bucket, rows, mask, learning rate, weights) -> (state, loss).

    The state is a dictionary of potential, ema and optimizer, see `initial_state`.
    """
    optimizer = make_optimizer(section, config)

    @jax.jit
    def step(
        state: dict[str, PyTree], bucket: Batch, rows: Array, mask: Array, learning_rate: Array, weights: Weights
    ) -> tuple[dict[str, PyTree], Float[Array, ""]]:
        potential = state["potential"]
        loss_fn = partial(batch_loss, potential, take(bucket, rows, mask), weights)
        value, gradient = jax.value_and_grad(loss_fn)(potential.params)
        with jax.numpy_dtype_promotion("standard"):  # optax 0.2.8 mixes types
            direction, optimizer_state = optimizer.update(gradient, state["optimizer"], potential.params)
        params = jax.tree.map(lambda p, d: p + learning_rate.astype(p.dtype) * d, potential.params, direction)
        decay = average_decay(section, optax.tree.get(optimizer_state, "count").astype(value.dtype))
        ema = jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, state["ema"], params)
        potential = dataclasses.replace(potential, params=params)
        return {**state, "potential": potential, "ema": ema, "optimizer": optimizer_state}, value

    return step


def make_lbfgs_step() -> Callable:
    """Like `make_step`, with L-BFGS on one batch that is the whole training set; the learning rate is not used.

    The running average is set to the parameters: what the line search accepts needs no smoothing.
    """
    optimizer = make_lbfgs()

    @jax.jit
    def step(
        state: dict[str, PyTree], bucket: Batch, rows: Array, mask: Array, learning_rate: Array, weights: Weights
    ) -> tuple[dict[str, PyTree], Float[Array, ""]]:
        potential = state["potential"]
        loss_fn = partial(batch_loss, potential, take(bucket, rows, mask), weights)
        params = potential.params
        with jax.numpy_dtype_promotion("standard"):  # optax 0.2.8 mixes types
            value, gradient = optax.value_and_grad_from_state(loss_fn)(params, state=state["lbfgs"])
            update, memory = optimizer.update(
                gradient, state["lbfgs"], params, value=value, grad=gradient, value_fn=loss_fn
            )
        params = jax.tree.map(jnp.add, params, update)
        potential = dataclasses.replace(potential, params=params)
        return {**state, "potential": potential, "ema": params, "lbfgs": memory}, jnp.asarray(value)

    return step


def batch_loss(potential: Potential, batch: Batch, weights: Weights, params: PyTree) -> Float[Array, ""]:
    """Loss of one batch as a function of the parameters, which replace those of the potential."""
    potential = dataclasses.replace(potential, params=params)
    return loss_of_sums(batch_square_sums(potential, batch, weights), weights)


def batch_square_sums(potential: Potential, batch: Batch, weights: Weights) -> dict[str, tuple[Array, Array]]:
    """`square_sums` of one batch."""
    with_stress = weights.stress is not None and all(batch.system.pbc)
    prediction = predict_batch(potential, batch, with_stress=with_stress)
    return square_sums(prediction, batch, weights, wanted_born_charges(potential, batch, weights))


def born_charges(potential: Potential, batch: Batch) -> Float[Array, "b n 3 3"]:
    """Born effective charges of stacked systems, e."""
    assert potential.config.long_range is not None
    # without it no sum is computed
    solver = batch.solver if potential.config.long_range.charges.responds else None
    one = partial(predict_born_charges, potential)
    return jax.vmap(one)(batch.system, solver, jnp.asarray(batch.epsilon_infinity))[0]


def wanted_born_charges(potential: Potential, batch: Batch, weights: Weights) -> Float[Array, "b n 3 3"] | None:
    """Born effective charges if they have a nonzero weight, which costs up to seven passes through the model."""
    wanted = weights.born_effective_charges is not None and potential.config.long_range is not None
    return born_charges(potential, batch) if wanted else None


def make_evaluation(*, with_stress: bool) -> Callable:
    """Compile-on-first-use evaluation (potential, bucket, rows, mask, weights) -> (error sums, prediction).

    The potential comes without reference energies, see `Potential.core`.
    """

    @jax.jit
    def evaluation(
        potential: Potential, bucket: Batch, rows: Array, mask: Array, weights: Weights
    ) -> tuple[dict[str, Array], Prediction]:
        batch = take(bucket, rows, mask)
        wanted = with_stress and all(batch.system.pbc)
        prediction = predict_batch(potential, batch, with_stress=wanted)
        born = wanted_born_charges(potential, batch, weights)
        return error_sums(prediction, batch, born), prediction

    return evaluation


@jax.jit
def born_charges_of_rows(potential: Potential, bucket: Batch, rows: Array, mask: Array) -> Float[Array, "b n 3 3"]:
    """Born effective charges of some structures of a bucket, e; compiled once per shape."""
    return born_charges(potential, take(bucket, rows, mask))
