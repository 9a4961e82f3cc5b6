"""Ensembles: models that differ only in their seeds, trained at once.

Member i is the run of a single model with seed `seed` + i on the training and validation sets of `seed`: it has its own
parameters at the start and its own order of the batches, and a folder of its own, ``members/i``, with all that a single
run keeps there. All share the compiled functions.

On CPUs each core trains one member at a time: the arrays of one model fit into its cache, those of all do not. On
accelerators all members take a step together, by `vmap` over their states and batches; there, where the structures are
of several padded shapes, all take the shapes in one order, in which a member then differs from the single run.
"""

import dataclasses
import os
import pathlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lesjax.models.ensemble import Ensemble
from lesjax.progress import compilations
from lesjax.runs import RunFolder
from lesjax.training.config import Phase, RunConfig
from lesjax.training.folder import check_folder, run_folder, write_description
from lesjax.training.loop import (
    Run,
    bar,
    load_best,
    start,
    warn_of_charges,
)
from lesjax.training.prepare import Prepared, prepare
from lesjax.training.sign import align, decisive
from lesjax.training.step import adam_step, lbfgs_step, update_rule
from lesjax.training.validation import labels_set_sign, phase_weights, validated


def train_ensemble(
    config: RunConfig, *, prepared: Prepared | None = None, quiet: bool | None = None, together: bool | None = None
) -> Ensemble:
    """Train `config.training.ensemble` models, or resume the run in `config.output`.

    The folder gets ``config.json``, the runs of the single models in ``members``, and at the end the ensemble ``model``
    of the members' best models. The latent charges of all members have the signs that fit the first member's.

    Args:
        config: the run, see `load_config`.
        prepared: data in memory, instead of reading `config.data`.
        quiet: no progress, see `lesjax.progress.progress_bar`; by default where the output is not a terminal.
        together: one step of all members at once, by `vmap`, instead of one member on each core; by default where
            JAX does not run on CPUs.

    Raises:
        ValueError: for a run without `training.ensemble`, unusable data, or a folder that holds another run or in which
            another process works.
        DivergedError: when the loss of a member is not finite; the last good checkpoints stay.
    """
    if config.training.ensemble is None:
        raise ValueError("`training.ensemble` is missing: give the number of models, or use `train` for a single one.")
    folder = run_folder(config.output)
    check_folder(config, folder)
    prepared = prepare(config) if prepared is None else prepared
    with folder.locked(), compilations(quiet):
        ensemble = _train_members(config, prepared, folder, quiet, together)
    warn_of_charges(ensemble.members())
    return ensemble


def _train_members(
    config: RunConfig, prepared: Prepared, folder: RunFolder, quiet: bool | None, together: bool | None
) -> Ensemble:
    """Train all members, then save the ensemble of them."""
    folder.remove_leftovers("model")
    check_folder(config, folder)
    write_description(config, prepared, folder)
    members = [member_config(config, i) for i in range(config.training.ensemble or 0)]
    runs = [start(member, prepared) for member in members]
    together = jax.default_backend() != "cpu" if together is None else together
    run_all = _run_together if together else _run_on_cores
    with bar(len(runs) * sum(phase.epochs for phase in config.training.phases), epochs_of(runs), quiet) as report:
        run_all(runs, lambda _, record: report(epochs_of(runs), record))
    for run in runs:
        run.finish_models()
    potentials = [load_best(run.folder.path) for run in runs]
    if not labels_set_sign(config.training):
        names = validated(phase_weights(config.training.phases[-1]))
        potentials = align(potentials, decisive(prepared.train, prepared.valid), names, config.training.batch_size)
    ensemble = Ensemble.of(potentials)
    ensemble.save(folder.path / "model")
    return ensemble


def member_config(config: RunConfig, index: int) -> RunConfig:
    """Configuration of the single run that is this member of an ensemble."""
    training = dataclasses.replace(config.training, seed=config.training.seed + index, ensemble=None)
    output = pathlib.Path(config.output) / "members" / str(index)
    return dataclasses.replace(config, output=str(output), training=training)


def epochs_of(runs: Sequence[Run]) -> int:
    """Number of epochs that all runs together have done."""
    return sum(run.progress.epoch for run in runs)


def _run_on_cores(runs: list[Run], report: Any) -> None:
    """Run each by itself, as many at a time as there are cores."""
    stopped = threading.Event()

    def work(run: Run) -> None:
        while run.phase is not None and not stopped.is_set():
            run.run_stretch(report, stopped.is_set)

    with ThreadPoolExecutor(available_cores()) as pool:
        try:
            for future in as_completed([pool.submit(work, run) for run in runs]):
                future.result()
        except BaseException:  # of one run, or from the keyboard: all stop
            stopped.set()
            raise


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_together(runs: list[Run], report: Any) -> None:
    """Take one step of all runs at a time; runs that are behind go first."""
    section = runs[0].section
    rule = update_rule(section)
    adam = jax.jit(jax.vmap(partial(adam_step, rule), in_axes=(0, None, 0, 0, 0, None)))
    lbfgs = jax.jit(jax.vmap(partial(lbfgs_step, rule), in_axes=(0, None, None)))
    stack = jax.jit(lambda states: jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
    unstack = jax.jit(lambda state: [jax.tree.map(itemgetter(i), state) for i in range(len(runs))])
    while active := [run for run in runs if run.phase is not None]:
        earliest = min((run.progress.phase, run.progress.epoch_in_phase) for run in active)
        now = [run for run in active if (run.progress.phase, run.progress.epoch_in_phase) == earliest]
        phase = now[0].phase
        assert phase is not None
        for run in now:
            run.begin_stretch()
        # repeat the last one where there are fewer, so that nothing is recompiled
        filled = [*now, *now[-1:] * (len(runs) - len(now))]
        state = stack([run.state for run in filled])
        losses = []
        for _ in range(now[0].stretch_epochs()):
            if phase.lbfgs:
                state, loss = lbfgs(state, runs[0].whole_set, phase_weights(phase))
                losses.append(loss)
            else:
                rng = np.random.default_rng([section.seed, now[0].progress.phase, now[0].progress.epoch_in_phase])
                state, step_losses = _epoch(adam, state, filled, phase, rng)
                losses += step_losses
            for run in now:
                run.epoch_done()
        means = np.mean(jax.device_get(losses), axis=0)
        for run, run_state, mean in zip(now, unstack(state), means, strict=False):
            run.state = run_state
            run.end_stretch(float(mean), report)


def _epoch(step: Callable, state: Any, runs: list[Run], phase: Phase, rng: np.random.Generator) -> tuple[Any, list]:
    """Return the state after an epoch of all runs, and the losses of each step."""
    buckets = runs[0].prepared.train.buckets
    batches = [sorted(run.batches(), key=lambda batch: batch[0]) for run in runs]  # stable: keeps their order
    by_bucket = [[batch for batch in zip(*batches, strict=True) if batch[0][0] == i] for i in range(len(buckets))]
    sequence = rng.permutation(np.repeat(np.arange(len(buckets)), [len(group) for group in by_bucket])).tolist()
    losses = []
    for i, bucket in enumerate(sequence):
        _, rows, masks = zip(*by_bucket[bucket].pop(0), strict=True)
        of_runs = [run.learning_rates(phase, i / len(sequence)) for run in runs]
        rates = {name: jnp.asarray([rates[name] for rates in of_runs]) for name in of_runs[0]}
        state, loss = step(state, buckets[bucket], np.stack(rows), np.stack(masks), rates, phase_weights(phase))
        losses.append(loss)
    return state, losses
