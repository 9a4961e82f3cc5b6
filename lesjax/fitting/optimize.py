r"""Fit parameters to targets: averages over ensembles, properties of structures, and the training data.

The loss is a sum of pure functions of the parameters,

.. math:: L(\theta) = \sum_\text{targets} \operatorname{mean} \Bigl[ \Bigl(
          \frac{O(\theta) - O_\text{target}}{\delta} \Bigr)^2 \Bigr] + \sum_\text{others} L(\theta)

with uncertainties δ: a target that is met within its uncertainty contributes about one. The parameters are any pytree,
`lesjax.Potential` among them. The signs of its latent charges are not parameters and stay.
"""

import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, PyTree

from lesjax.fitting.observables import Observable
from lesjax.fitting.targets import Loss, Reweighting, Target, check_coverage, make_evaluation, redraw, with_measured
from lesjax.models.potential import Potential
from lesjax.progress import progress_bar
from lesjax.training.loop import DivergedError


@dataclass(frozen=True)
class Fit:
    """Result of `fit`.

    Attributes:
        params: the new parameters, of the type of the initial ones.
        history: the records of the log, one for each step.
        reweightings: ensembles with their last trajectories.
    """

    params: Any
    history: list[dict[str, Any]] = field(repr=False)
    reweightings: tuple[Reweighting, ...] = field(repr=False)


def fit(
    params: Any,
    reweightings: Sequence[Reweighting] = (),
    *,
    targets: Sequence[Target] = (),
    losses: Mapping[str, Loss] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    steps: int = 100,
    log: str | pathlib.Path | None = None,
    quiet: bool | None = None,
) -> Fit:
    """Change parameters to meet the targets: steps of an optimizer, with new trajectories where needed.

    Args:
        params: any pytree of arrays, or a `Potential`. Freeze some with `optax.masked` or `optax.multi_transform`.
        reweightings: ensembles with their targets.
        targets: functions only of the parameters. All are compiled except those with `compiled=False`, which compute on
            the host at each step.
        losses: further terms by name, pure functions of the parameters, such as `data_loss`.
        optimizer: Adam with a learning rate of 0.01 and a short memory (b1 = 0.8, b2 = 0.9) by default: far from the
            targets the loss is steep.
        steps: number of steps.
        log: JSON-lines file with a record for each step; an older one is replaced.
        quiet: no progress, see `lesjax.progress.progress_bar`; by default where the output is not a terminal.

    Returns:
        Parameters after the last step, history, and the ensembles with their last trajectories.

    Raises:
        ValueError: for nothing to fit, names that are not unique, or a target outside the range of a trajectory
            without a sampler.
        ReweightingError: for an effective sample size that is too small, without a sampler or after `max_draws`.
        DivergedError: for a loss or gradient that is not finite.
    """
    losses, reweightings = dict(losses or {}), list(reweightings)
    names = [t.name for r in reweightings for t in r.targets] + [t.name for t in targets] + list(losses)
    if not names:
        raise ValueError("There is nothing to fit: give `reweightings`, `targets` or `losses`.")
    if len(set(names)) < len(names):
        raise ValueError(f"Targets and losses need names of their own, got {names}.")
    for target in targets:
        if isinstance(target.observable, Observable):
            raise TypeError(
                f"Target {target.name!r} is an average: put it into a `Reweighting`, or take `observable.at(frame)`."
            )
    for i, reweighting in enumerate(reweightings):
        reweightings[i] = with_measured(reweighting)
        if reweighting.sampler is None:
            check_coverage(reweightings[i])
    optimizer = optax.adam(1e-2, b1=0.8, b2=0.9) if optimizer is None else optimizer
    evaluate = make_evaluation(reweightings, targets, losses)

    @jax.jit
    def update(gradient: PyTree, state: PyTree, params: PyTree) -> tuple[PyTree, PyTree]:
        with jax.numpy_dtype_promotion("standard"):  # optax 0.2.8 mixes types
            direction, state = optimizer.update(gradient, state, params)
            return with_signs(optax.apply_updates(params, direction), params), state

    state = optimizer.init(params)
    draws = [0] * len(reweightings)
    history: list[dict[str, Any]] = []
    started = time.monotonic()
    with _bar(steps, quiet) as report, _log(log) as write:
        for step in range(steps):
            drawn = False
            while True:
                trajectories = [r.trajectory for r in reweightings]
                (loss, (terms, predictions, effective)), gradient = evaluate(params, trajectories)
                check_finite(step, loss, terms, gradient)
                low = [i for i, e in enumerate(effective) if not float(e) >= reweightings[i].min_effective]
                if not low or drawn:  # new frames have equal weights
                    break
                for i in low:
                    draws[i] += 1
                    reweightings[i] = redraw(reweightings[i], params, draws[i], float(effective[i]), step)
                drawn = True
            record = {"step": step, "loss": float(loss), **{f"{k}_loss": float(v) for k, v in terms.items()}}
            record |= {name: float(value) for name, value in predictions.items() if np.ndim(value) == 0}
            if reweightings:
                record |= {"effective": [float(e) for e in effective], "draws": list(draws)}
            record["seconds"] = round(time.monotonic() - started, 3)
            history.append(record)
            write(record)
            report(step, record)
            params, state = update(gradient, state, params)
    return Fit(params, history, tuple(reweightings))


def with_signs(params: PyTree, before: PyTree) -> PyTree:
    """Return the parameters with the signs that potentials in them had before: a weight decay would change them."""

    def restore(new: Any, old: Any) -> Any:
        return replace(new, signs=old.signs) if isinstance(new, Potential) else new

    return jax.tree.map(restore, params, before, is_leaf=lambda node: isinstance(node, Potential))


def check_finite(step: int, loss: Array, terms: Mapping[str, Array], gradient: PyTree) -> None:
    """Raise DivergedError for a loss or gradient that is not finite."""
    bad = [name for name, value in terms.items() if not np.isfinite(value)]
    if bad or not np.isfinite(loss):
        raise DivergedError(f"The loss is not finite at step {step}, in {bad}. Lower the learning rate.")
    if not all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(gradient)):
        raise DivergedError(f"The gradient is not finite at step {step}, though the loss is {float(loss):.3g}.")


@contextmanager
def _log(path: str | pathlib.Path | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that appends a record to the file."""
    if path is None:
        yield lambda record: None
        return
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:

        def write(record: dict[str, Any]) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()

        yield write


@contextmanager
def _bar(steps: int, quiet: bool | None) -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """Progress bar with the loss and time left."""
    with progress_bar("step", steps, 0, quiet) as show:

        def report(step: int, record: dict[str, Any]) -> None:
            text = f"loss {record['loss']:.3g}"
            if record.get("effective"):
                text += f", effective {100 * min(record['effective']):.0f} %, draws {sum(record['draws'])}"
            show(step + 1, text)

        yield report
