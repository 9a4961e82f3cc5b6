"""Targets of a fit, their losses, pure functions that are added, and whether a trajectory covers them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from lesjax.fitting.observables import Observable, mean
from lesjax.fitting.reweighting import (
    BATCH_SIZE,
    ReweightingError,
    Trajectory,
    effective_fraction,
    ensemble_averages,
    make_trajectory,
    measure,
)
from lesjax.fitting.sampling import Sampler
from lesjax.models.potential import Potential
from lesjax.properties import Energy
from lesjax.training.data import Dataset, epoch_batches, take
from lesjax.training.losses import Sums, batch_sums, loss_of_sums
from lesjax.training.terms import Weights, check_weights


Loss = Callable[[Any], Array]


@dataclass(frozen=True)
class Target:
    """Value that the fit aims at.

    Attributes:
        name: name in log and messages.
        observable: an `Observable` for an average over an ensemble; for a direct target a pure function of the
            parameters, for example ``observable.at(structure)``.
        value: value to reach, in the observable's unit.
        uncertainty: uncertainty of this value, in the same unit; its inverse square is the weight of the target. One
            number, or one for each entry.
        compiled: False for a direct target that computes on the host, for example with `relax`.
    """

    name: str
    observable: Observable | Loss
    value: ArrayLike | Sequence
    uncertainty: ArrayLike | Sequence
    compiled: bool = True

    def __post_init__(self) -> None:
        if not np.all(np.isfinite(np.asarray(self.value))):
            raise ValueError(f"Target {self.name!r}: `value` must be finite, got {self.value}.")
        if not np.all(np.asarray(self.uncertainty) > 0):
            raise ValueError(f"Target {self.name!r}: `uncertainty` must be positive, got {self.uncertainty}.")


@dataclass(frozen=True)
class Reweighting:
    """Targets that are averages over one ensemble, with the trajectory that they are computed from.

    Attributes:
        energy_fn: see `lesjax.properties.Energy`; `Potential.energy` for a potential.
        trajectory: frames of the ensemble, see `make_trajectory`.
        targets: averages.
        sampler: draws new frames when the old ones no longer represent the ensemble, see `Sampler`; without one, this
            is an error.
        min_effective: smallest `effective_fraction` of the frames.
        max_draws: number of draws after which the fit gives up.
        batch_size: frames that are computed at once.
    """

    energy_fn: Energy
    trajectory: Trajectory
    targets: Sequence[Target]
    sampler: Sampler | None = None
    min_effective: float = 0.5
    max_draws: int = 50
    batch_size: int = BATCH_SIZE

    def __post_init__(self) -> None:
        if not 0.0 < self.min_effective < 1.0:
            raise ValueError(f"`min_effective` must lie between 0 and 1, got {self.min_effective}.")
        for target in self.targets:
            if not isinstance(target.observable, Observable):
                raise TypeError(
                    f"Target {target.name!r} of an ensemble needs an `Observable`, got {target.observable!r}. A "
                    "function of only the parameters goes into `targets` of `fit`."
                )
            if not target.compiled:
                raise ValueError(
                    f"Target {target.name!r}: averages are always compiled, got `compiled=False`. What numpy computes "
                    "of the frames is an `Observable` with `fixed=True`."
                )

    @property
    def observables(self) -> dict[str, Observable]:
        """Observables of the targets, by name."""
        return {t.name: cast(Observable, t.observable) for t in self.targets}


def target_loss(target: Target, prediction: Float[Array, "..."]) -> Float[Array, ""]:
    """Mean over the entries of the squared deviation in units of the uncertainty.

    Raises:
        ValueError: for a value of another shape than the observable's.
    """
    dtype, shape = prediction.dtype, prediction.shape
    value, uncertainty = (jnp.asarray(np.asarray(x), dtype) for x in (target.value, target.uncertainty))
    check_shape(target, shape)
    return jnp.mean(jnp.square((prediction - value) / jnp.broadcast_to(uncertainty, shape)))


def check_shape(target: Target, predicted: tuple[int, ...]) -> None:
    """Raise ValueError for a value of another shape than the observable's."""
    shape = np.shape(target.value)
    if shape != predicted:
        raise ValueError(f"Target {target.name!r}: `value` has shape {shape}, the observable gives {predicted}.")


def data_loss(dataset: Dataset, weights: Weights, *, batch_size: int = 8) -> Callable[[Potential], Float[Array, ""]]:
    """Make the energy-and-force loss of training, a pure function of a `Potential`, so that a fit keeps to its data.

    It is the loss of one batch with all structures: a mean over all labels of a kind. Each step costs a pass over all
    of them: select some, if there are many.

    Args:
        dataset: from `lesjax.training.make_dataset`.
        weights: factors of the terms by the names of the labels, as in `lesjax.training.config.Phase`; multiply them
            all to weigh data against targets.
        batch_size: structures that are computed at once, which bounds the memory and does not change the value.
    """
    if len(dataset) == 0:
        raise ValueError("`dataset` is empty.")
    check_weights(weights)
    stacked: dict[int, tuple[Array, Array]] = {}
    batches = epoch_batches(dataset, batch_size, None)
    for bucket in range(len(dataset.buckets)):
        rows = np.stack([rows for b, rows, _ in batches if b == bucket])
        masks = np.stack([mask for b, _, mask in batches if b == bucket])
        stacked[bucket] = (jnp.asarray(rows), jnp.asarray(masks))

    def loss(potential: Potential) -> Float[Array, ""]:
        totals: dict[str, Sums] = {}
        for bucket, all_rows in stacked.items():

            def sums_of_rows(rows: tuple[Array, Array], bucket: int = bucket) -> dict[str, Sums]:
                return batch_sums(potential, take(dataset.buckets[bucket], *rows), weights.keys())

            for name, values in jax.lax.map(jax.checkpoint(sums_of_rows), all_rows).items():
                total = jax.tree.map(jnp.sum, values)
                totals[name] = jax.tree.map(jnp.add, totals[name], total) if name in totals else total
        return jnp.asarray(loss_of_sums(totals, weights), float)

    return loss


def make_loss(
    reweightings: Sequence[Reweighting], targets: Sequence[Target], losses: Mapping[str, Loss]
) -> Callable[[Any, Sequence[Trajectory]], tuple[Array, tuple[dict[str, Array], dict[str, Array], list[Array]]]]:
    """Make the total loss, a function (params, trajectories) -> loss, (terms, predictions, effective fractions)."""

    def loss(params: Any, trajectories: Sequence[Trajectory]):
        terms: dict[str, Array] = {}
        predictions: dict[str, Array] = {}
        effective = []
        for reweighting, trajectory in zip(reweightings, trajectories, strict=True):
            energy_fn, size = reweighting.energy_fn, reweighting.batch_size
            observables = reweighting.observables
            values, weights = ensemble_averages(energy_fn, params, trajectory, observables, batch_size=size)
            predictions |= values
            terms |= {target.name: target_loss(target, values[target.name]) for target in reweighting.targets}
            effective.append(effective_fraction(weights))
        for target in targets:
            assert not isinstance(target.observable, Observable)
            predictions[target.name] = target.observable(params)
            terms[target.name] = target_loss(target, predictions[target.name])
        terms |= {name: function(params) for name, function in losses.items()}
        return jnp.sum(jnp.stack(list(terms.values()))), (terms, predictions, effective)

    return loss


def make_evaluation(
    reweightings: Sequence[Reweighting], targets: Sequence[Target], losses: Mapping[str, Loss]
) -> Callable[[Any, Sequence[Trajectory]], tuple[tuple[Array, Any], Any]]:
    """Make the loss of `make_loss` with its gradient, compiled except for targets with `compiled=False`."""

    def with_gradient(*terms: Any) -> Callable[[Any, Sequence[Trajectory]], tuple[tuple[Array, Any], Any]]:
        return jax.value_and_grad(make_loss(*terms), has_aux=True)

    eager = [target for target in targets if not target.compiled]
    compiled_targets = [target for target in targets if target.compiled]
    on_host = with_gradient((), eager, {})
    if not (reweightings or compiled_targets or losses):
        return on_host
    compiled = jax.jit(with_gradient(reweightings, compiled_targets, losses))
    if not eager:
        return compiled

    def evaluate(params: Any, trajectories: Sequence[Trajectory]) -> tuple[tuple[Array, Any], Any]:
        (loss, (terms, predictions, effective)), gradient = compiled(params, trajectories)
        (more, (more_terms, more_predictions, _)), more_gradient = on_host(params, ())
        aux = terms | more_terms, predictions | more_predictions, effective
        return (loss + more, aux), jax.tree.map(jnp.add, gradient, more_gradient)

    return evaluate


def with_measured(reweighting: Reweighting) -> Reweighting:
    """Return a copy with the fixed observables of its targets measured in the trajectory, once."""
    trajectory, observables = reweighting.trajectory, reweighting.observables
    absent = {
        name: measure(name, observable, trajectory.frames)
        for name, observable in observables.items()
        if observable.fixed and name not in trajectory.measured
    }
    # only the observables of targets, so that all trajectories have one structure
    measured = {name: o for name, o in {**trajectory.measured, **absent}.items() if name in observables}
    return replace(reweighting, trajectory=replace(trajectory, measured=measured))


def check_coverage(reweighting: Reweighting) -> None:
    """Raise ValueError for a target of an average that no weights of these frames can reach.

    For observables that no parameter changes: the value must lie between the smallest and the largest one of the
    frames, or within its uncertainty of them.
    """
    for target in reweighting.targets:
        observable = target.observable
        assert isinstance(observable, Observable)
        if not observable.fixed or observable.reduce is not mean:
            continue
        values = np.asarray(reweighting.trajectory.measured[target.name])
        check_shape(target, values.shape[1:])
        low, high = values.min(axis=0), values.max(axis=0)
        value, margin = np.asarray(target.value), np.asarray(target.uncertainty)
        outside = np.asarray((value < low - margin) | (value > high + margin))
        if outside.any():
            worst = tuple(np.argwhere(outside)[0])
            where = f" (entry {', '.join(map(str, worst))})" if worst else ""
            raise ValueError(
                f"Target {target.name!r} is outside of what the trajectory covers: {value[worst]:.6g}{where}, but its "
                f"frames have values from {low[worst]:.6g} to {high[worst]:.6g}, and no weights lead beyond them. Give "
                "a `sampler`, or a trajectory that comes closer."
            )


def redraw(reweighting: Reweighting, params: Any, number: int, effective: float, step: int) -> Reweighting:
    """Draw a new trajectory with these parameters, from the last frame of the old one.

    Raises:
        ReweightingError: without a sampler, or after too many draws.
    """
    old = reweighting.trajectory
    size = f"{effective * len(old):.3g} of {len(old)} frames"
    problem = f"Step {step}: the effective sample size is {size}, below `min_effective` = {reweighting.min_effective}"
    if reweighting.sampler is None:
        raise ReweightingError(
            f"{problem}: the parameters have gone too far from those that the trajectory was drawn with. Give a "
            "`sampler` that draws new frames, or lower the learning rate or the number of steps."
        )
    if number > reweighting.max_draws:
        raise ReweightingError(
            f"{problem}, and re-sampling does not help: {reweighting.max_draws} new trajectories are used up. Lower "
            "the learning rate, or raise `max_draws`."
        )
    last = jax.tree.map(lambda leaf: leaf[-1], old.frames)
    trajectory = make_trajectory(
        reweighting.energy_fn,
        params,
        reweighting.sampler(params, number, last),
        temperature=float(old.temperature),
        pressure=None if old.pressure is None else float(old.pressure),
        observables=reweighting.observables,
        solver=old.solver,
        batch_size=reweighting.batch_size,
    )
    return replace(reweighting, trajectory=trajectory)
