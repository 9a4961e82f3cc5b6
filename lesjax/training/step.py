"""Training steps and evaluation of a batch, compiled once per model and padded shape in a process."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from lesjax.models.config import ModelConfig
from lesjax.models.potential import Potential, Solved
from lesjax.models.prediction import Prediction
from lesjax.models.short_range import module_of
from lesjax.training.config import TrainingSection
from lesjax.training.data import Batch, Part, take
from lesjax.training.losses import Pair, Sums, batch_loss, compare, sums, whole_loss
from lesjax.training.terms import Weights


class UpdateRule(NamedTuple):
    """Settings of a training step that are compiled into it; see `TrainingSection`."""

    optimizer: str
    weight_decay: float
    clip: float
    ema: float
    freeze: tuple[str, ...] = ()


def update_rule(section: TrainingSection) -> UpdateRule:
    """The update rule of a run."""
    return UpdateRule(section.optimizer, section.weight_decay, section.clip, section.ema, section.freeze)


def trained(rule: UpdateRule, params: dict[str, PyTree]) -> dict[str, PyTree]:
    """The groups of parameters that are not frozen; nothing is derived with respect to the others."""
    return {name: group for name, group in params.items() if name not in rule.freeze}


def make_optimizer(rule: UpdateRule, config: ModelConfig) -> optax.GradientTransformation:
    """Direction of the update for a learning rate of one, sign included."""
    parts = [optax.clip_by_global_norm(rule.clip)] if rule.clip > 0 else []
    parts.append(optax.scale_by_adam())
    if rule.optimizer == "adamw":
        exempt = getattr(module_of(config.short_range), "no_decay", ())
        parts.append(optax.add_decayed_weights(rule.weight_decay, mask=partial(_decays, exempt)))
    return optax.chain(*parts, optax.scale(-1.0))


def _decays(exempt: tuple[str, ...], params: PyTree) -> PyTree:
    """Mark the parameters that weight decay may pull to zero: all but those the short-range model exempts by name."""

    def decays(path: tuple, _: Array) -> bool:
        names = [str(getattr(key, "key", key)) for key in path]
        return "short_range" not in names or not set(exempt) & set(names)

    return jax.tree_util.tree_map_with_path(decays, params)


def average_decay(rule: UpdateRule, count: Float[Array, ""]) -> Float[Array, ""]:
    """Decay of the running average in step `count`, from one: at first the average forgets its random start."""
    return jnp.minimum(rule.ema, (1.0 + count) / (10.0 + count))


def make_lbfgs() -> optax.GradientTransformationExtraArgs:
    """L-BFGS with a zoom line search."""
    return optax.lbfgs(memory_size=50, linesearch=optax.scale_by_zoom_linesearch(max_linesearch_steps=15))


@partial(jax.jit, static_argnums=0)
def adam_step(
    rule: UpdateRule,
    state: dict[str, PyTree],
    bucket: Batch,
    rows: Array,
    mask: Array,
    learning_rate: Array | dict[str, Array],
    weights: Weights,
) -> tuple[dict[str, PyTree], Float[Array, ""]]:
    """Take one step on some rows of a bucket; returns state and loss. Compiled once per model, rule and shape.

    The state is a dictionary of potential, ema and optimizer, see `initial_state`; `learning_rate` is one for
    all parameters, or one for each group of them.
    """
    potential = state["potential"]
    before, ema = trained(rule, potential.params), trained(rule, state["ema"])
    loss_fn = partial(batch_loss, potential, take(bucket, rows, mask), weights)
    value, gradient = jax.value_and_grad(loss_fn)(before)
    with jax.numpy_dtype_promotion("standard"):  # optax 0.2.8 mixes types
        optimizer = make_optimizer(rule, potential.config)
        direction, optimizer_state = optimizer.update(gradient, state["optimizer"], before)
    rates = learning_rate if isinstance(learning_rate, dict) else dict.fromkeys(before, learning_rate)
    params = {
        name: jax.tree.map(
            lambda p, d, rate=rates[name]: p + rate.astype(p.dtype) * d, group, cast(dict, direction)[name]
        )
        for name, group in before.items()
    }
    decay = average_decay(rule, optax.tree.get(optimizer_state, "count").astype(value.dtype))
    ema = jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p, ema, params)
    potential = dataclasses.replace(potential, params={**potential.params, **params})
    return {**state, "potential": potential, "ema": {**state["ema"], **ema}, "optimizer": optimizer_state}, value


@partial(jax.jit, static_argnums=0)
def lbfgs_step(
    rule: UpdateRule, state: dict[str, PyTree], parts: Sequence[Part], weights: Weights
) -> tuple[dict[str, PyTree], Float[Array, ""]]:
    """Take one step of L-BFGS on the whole training set, see `whole_set`; returns state and loss.

    It has no learning rate. The running average is set to the parameters: results of a line search need no smoothing.
    """
    potential = state["potential"]
    loss_fn = partial(whole_loss, potential, parts, weights)
    params = trained(rule, potential.params)
    with jax.numpy_dtype_promotion("standard"):  # optax 0.2.8 mixes types
        value, gradient = optax.value_and_grad_from_state(loss_fn)(params, state=state["lbfgs"])
        update, memory = make_lbfgs().update(
            gradient, state["lbfgs"], params, value=value, grad=gradient, value_fn=loss_fn
        )
    params = {**potential.params, **jax.tree.map(jnp.add, params, update)}
    potential = dataclasses.replace(potential, params=params)
    return {**state, "potential": potential, "ema": params, "lbfgs": memory}, jnp.asarray(value)


@partial(jax.jit, static_argnums=4)
def evaluate_rows(
    potential: Potential, bucket: Batch, rows: Array, mask: Array, names: tuple[str, ...]
) -> tuple[dict[str, Sums], Prediction]:
    """Sums of these terms and predictions for some rows of a bucket; compiled once per model and shape.

    The potential comes without reference energies, see `Potential.core`.
    """
    pairs, prediction = compare(potential, take(bucket, rows, mask), names)
    return sums(pairs), prediction


@partial(jax.jit, static_argnums=4)
def compare_rows(
    potential: Potential, bucket: Batch, rows: Array, mask: Array, names: tuple[str, ...]
) -> tuple[dict[str, Pair], Solved, Array | None]:
    """Values of these terms for some rows of a bucket, flags of induced or equilibrated charges, and the charges."""
    pairs, prediction = compare(potential, take(bucket, rows, mask), names)
    return pairs, (prediction.induction, prediction.equilibration), prediction.charges
