"""The training loop: phases, evaluation, checkpoints, exact resume.

Everything random in epoch e is drawn from the generator of (seed, e), and a checkpoint lies on the border of
two epochs; a run that was killed and started again therefore repeats the epochs since its last checkpoint
and continues exactly like an uninterrupted one.
"""

import dataclasses
import math
import pathlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lesjax.models.potential import Potential, load
from lesjax.models.provenance import collapse_text, has_collapsed, has_learned_charges
from lesjax.models.sign import flip
from lesjax.models.storage import flatten, unflatten
from lesjax.progress import compilations, progress_bar
from lesjax.runs import RunFolder
from lesjax.training.charges import charge_size, charges_of
from lesjax.training.config import Phase, RunConfig, TrainingSection
from lesjax.training.data import Part, epoch_batches, whole_set
from lesjax.training.finish import finish
from lesjax.training.folder import MODELS, check_folder, run_folder, write_description
from lesjax.training.initialize import initial_state
from lesjax.training.prepare import Prepared, prepare
from lesjax.training.step import adam_step, lbfgs_step, update_rule
from lesjax.training.terms import Weights
from lesjax.training.transfer import initial_potential
from lesjax.training.validation import dataset_errors, phase_weights, sets_sign, validated


class DivergedError(RuntimeError):
    """The loss is no longer finite."""


@dataclasses.dataclass
class TrainProgress:
    """State on the host between epochs, written into every checkpoint."""

    epoch: int = 0
    phase: int = 0
    epoch_in_phase: int = 0
    best_loss: float = math.inf
    evaluations_since_best: int = 0
    plateau_best: float = math.inf
    plateau_waited: int = 0
    plateau_factor: float = 1.0
    seconds: float = 0.0
    initial_charges: float | None = None
    charges_collapsed: bool = False


def train(config: RunConfig, *, prepared: Prepared | None = None, quiet: bool | None = None) -> Potential:
    """Train a potential, or resume the run in `config.output`.

    The folder gets ``config.json``, ``log.jsonl``, ``checkpoint.safetensors`` and the models ``model``
    (best validation loss) and ``model-last``.

    Args:
        config: the run, see `load_config`.
        prepared: data in memory, instead of reading `config.data`.
        quiet: no progress, see `lesjax.progress.progress_bar`; by default where the output is not a terminal.

    Returns:
        The potential with the best validation loss.

    Raises:
        ValueError: for unusable data, or a folder that holds another run or in which another process works.
        DivergedError: when the loss is not finite; the last good checkpoint stays.
    """
    if config.training.ensemble is not None:
        raise ValueError(
            f"`training.ensemble` = {config.training.ensemble} asks for several models: use `train_ensemble`, or leave "
            "it out for a single one."
        )
    folder = run_folder(config.output)
    check_folder(config, folder)
    prepared = prepare(config) if prepared is None else prepared
    with folder.locked(), compilations(quiet):
        run = start(config, prepared)
        with bar(sum(p.epochs for p in config.training.phases), run.progress.epoch, quiet) as report:
            run.run(report)
        run.finish_models()
    potential = load_best(folder.path)
    warn_of_charges([potential])
    return potential


def warn_of_charges(potentials: Iterable[Potential]) -> None:
    """Warn of the charges of trained models that are not as they should be: of the first with each kind of fault."""
    texts: dict[str, str] = {}
    for potential in potentials:
        if potential.provenance is not None and potential.provenance.charges is not None:
            texts = potential.provenance.charges.warnings(potential.config) | texts
    for text in texts.values():
        warnings.warn(text, stacklevel=3)


def load_best(folder: str | pathlib.Path) -> Potential:
    """Read the potential with the best validation loss of a run."""
    return load(pathlib.Path(folder) / "model")


def start(config: RunConfig, prepared: Prepared) -> "Run":
    """Return a run at its start, or at the last checkpoint in its folder.

    Raises:
        ValueError: for a folder that holds another run.
    """
    folder, section = run_folder(config.output), config.training
    if section.start_from is not None and prepared.start is None:
        raise ValueError(
            f"`training.start_from` = {section.start_from!r}, but `prepared` has no `start`: make it with "
            "`lesjax.training.prepare.prepare`, or set `Prepared.start`."
        )
    folder.remove_leftovers(*MODELS)
    check_folder(config, folder)
    write_description(config, prepared, folder)
    potential = initial_potential(prepared.model, section, prepared.train, prepared.start)
    state = initial_state(section, potential)
    progress = TrainProgress()
    checkpoint = folder.read_checkpoint()
    if checkpoint is None and has_learned_charges(prepared.model):
        valid, names = prepared.train if prepared.valid is None else prepared.valid, phase_weights(section.phases[0])
        size = charge_size(charges_of(potential, valid, validated(names), section.batch_size))
        progress.initial_charges = size if math.isfinite(size) else None
    elif checkpoint is not None:
        state = unflatten(state, checkpoint.arrays, str(folder.checkpoint))
        progress = TrainProgress(**checkpoint.host)
    folder.rewind(checkpoint)
    return Run(section, prepared, folder, state, progress)


class Run:
    """One run in progress: the state between epochs."""

    def __init__(
        self,
        section: TrainingSection,
        prepared: Prepared,
        folder: RunFolder,
        state: dict[str, PyTree],
        progress: TrainProgress,
    ) -> None:
        self.section, self.prepared, self.folder = section, prepared, folder
        self.state, self.progress = state, progress
        self.started: float | None = None
        self.saved_at = time.monotonic()
        self.best: Potential | None = None
        self.best_saved = True

    @property
    def phase(self) -> Phase | None:
        """Next phase; None at the end of the run."""
        return self.section.phases[self.progress.phase] if self.progress.phase < len(self.section.phases) else None

    def run(self, report: Any) -> None:
        """Run all remaining epochs."""
        while self.phase is not None:
            self.run_stretch(report)

    def run_stretch(self, report: Any, stopped: Callable[[], bool] = lambda: False) -> None:
        """Run the epochs up to the next evaluation, and evaluate; nothing is kept once `stopped` returns True."""
        phase = self.phase
        assert phase is not None
        self.begin_stretch()
        losses = []
        for _ in range(self.stretch_epochs()):
            if stopped():
                return
            losses += self.run_epoch(phase)
        self.end_stretch(float(np.mean(jax.device_get(losses))), report)

    def begin_stretch(self) -> None:
        """Prepare the epochs up to the next evaluation."""
        phase = self.phase
        assert phase is not None
        if self.started is None:
            self.started = time.monotonic() - self.progress.seconds
        if self.progress.epoch_in_phase == 0 and sets_sign(phase):
            self.choose_sign(phase_weights(phase))

    def stretch_epochs(self) -> int:
        """Number of epochs up to the next evaluation."""
        assert self.phase is not None
        every, done = self.section.eval_every, self.progress.epoch_in_phase
        return min(every - done % every, self.phase.epochs - done)

    def end_stretch(self, train_loss: float, report: Any) -> None:
        """Evaluate, log, checkpoint; advance to the next phase if this one is finished."""
        progress, phase = self.progress, self.phase
        assert phase is not None
        assert self.started is not None
        progress.seconds = time.monotonic() - self.started
        stop = self.evaluate(phase, phase_weights(phase), train_loss, report)
        if stop or progress.epoch_in_phase == phase.epochs:
            progress.phase += 1
            progress.epoch_in_phase = 0
            progress.best_loss, progress.evaluations_since_best = math.inf, 0  # another loss from here on
            progress.plateau_best, progress.plateau_waited, progress.plateau_factor = math.inf, 0, 1.0
            self.reset_lbfgs()  # the next phase has another loss and gradient
            self.checkpoint()
        elif time.monotonic() - self.saved_at > self.section.checkpoint_seconds:
            self.checkpoint()

    def choose_sign(self, weights: Weights) -> None:
        """Take the sign of the latent charges, which energies leave open, that has the lower loss on the training set.

        Training would not change it: the charges would have to pass through zero.
        """
        potentials = [self.state["potential"], flip(self.state["potential"], -1.0)]
        arguments = (self.prepared.train, self.section.batch_size, weights)
        losses = [dataset_errors(potential, *arguments)[0] for potential in potentials]
        if losses[1] < losses[0]:
            self.state = {**self.state, "potential": potentials[1]}
            self.reset_lbfgs()

    def reset_lbfgs(self) -> None:
        """Forget the last loss, gradient and parameters of L-BFGS, if there are any."""
        if "lbfgs" in self.state:
            self.state["lbfgs"] = initial_state(self.section, self.state["potential"])["lbfgs"]

    @cached_property
    def whole_set(self) -> tuple[Part, ...]:
        """The training set as the batches of each bucket, for L-BFGS."""
        return whole_set(self.prepared.train, self.section.batch_size)

    def batches(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Batches of the next epoch, as (bucket, rows, mask of real rows)."""
        rng = np.random.default_rng([self.section.seed, self.progress.epoch])
        return epoch_batches(self.prepared.train, self.section.batch_size, rng)

    def learning_rates(self, phase: Phase, fraction: float) -> dict[str, float]:
        """Learning rate of each group of parameters after a fraction of the next epoch."""
        rate = learning_rate(phase, self.progress.epoch_in_phase + fraction, self.progress.plateau_factor)
        return {name: rate * phase.rates.get(name, 1.0) for name in self.state["potential"].params}

    def epoch_done(self) -> None:
        """Count a finished epoch."""
        self.progress.epoch += 1
        self.progress.epoch_in_phase += 1

    def run_epoch(self, phase: Phase) -> list[jax.Array]:
        """Run one epoch and return the losses of its steps."""
        weights, rule, losses = phase_weights(phase), update_rule(self.section), []
        if phase.lbfgs:
            self.state, loss = lbfgs_step(rule, self.state, self.whole_set, weights)
            self.epoch_done()
            return [loss]
        batches = self.batches()
        for i, (bucket, rows, mask) in enumerate(batches):
            rates = jax.tree.map(jnp.asarray, self.learning_rates(phase, i / len(batches)))
            self.state, loss = adam_step(
                rule, self.state, self.prepared.train.buckets[bucket], rows, mask, rates, weights
            )
            losses.append(loss)
        self.epoch_done()
        return losses

    def evaluate(self, phase: Phase, weights: Weights, train_loss: float, report: Any) -> bool:
        """Log, keep the best model, and return whether the phase should end early."""
        progress = self.progress
        potential = self.current()
        valid = self.prepared.valid if self.prepared.valid is not None else self.prepared.train
        arguments = (potential.core(), valid, self.section.batch_size, weights)
        try:
            valid_loss, metrics = dataset_errors(*arguments)
        except ValueError as error:
            self.save_best()
            raise DivergedError(
                f"The model has no solution at epoch {progress.epoch} (training loss {train_loss}): {error} If this "
                "came with large steps, lower `learning_rate` or `clip`."
            ) from error
        if not (math.isfinite(train_loss) and math.isfinite(valid_loss)):
            self.save_best()
            saved = [name for name in ("model", self.folder.checkpoint.name) if (self.folder.path / name).exists()]
            raise DivergedError(
                f"The loss is not finite at epoch {progress.epoch} (training {train_loss}, validation {valid_loss}). "
                f"Kept from before in {str(self.folder.path)!r}: {' and '.join(saved) or 'nothing'}. "
                "Lower `learning_rate` or `clip`, or look for wrong labels."
            )
        rate = learning_rate(phase, progress.epoch_in_phase, progress.plateau_factor)
        record = {"epoch": progress.epoch, "phase": progress.phase, "learning_rate": rate, "train_loss": train_loss}
        record |= {"valid_loss": valid_loss, **metrics, "seconds": round(progress.seconds, 3)}
        self.folder.append(record)
        report(progress.epoch, record)
        size = metrics.get("charges_size", math.inf)
        if not progress.charges_collapsed and has_collapsed(potential.config, size, progress.initial_charges):
            progress.charges_collapsed = True
            text = collapse_text(potential.config, size, progress.initial_charges)
            warnings.warn(f"Epoch {progress.epoch}: {text}", stacklevel=2)
        if valid_loss < progress.best_loss:
            progress.best_loss, progress.evaluations_since_best = valid_loss, 0
            self.best = potential
            self.best_saved = False
        else:
            progress.evaluations_since_best += 1
        if phase.schedule == "plateau":
            if valid_loss < progress.plateau_best:
                progress.plateau_best, progress.plateau_waited = valid_loss, 0
            else:
                progress.plateau_waited += 1
                if progress.plateau_waited >= phase.patience:
                    progress.plateau_factor = max(phase.final_factor, progress.plateau_factor * phase.factor)
                    progress.plateau_waited = 0
        return 0 < self.section.early_stop <= progress.evaluations_since_best

    def current(self) -> Potential:
        """Potential to validate and save: with the running average of the parameters if there is one."""
        potential = self.state["potential"]
        params = self.state["ema"] if self.section.ema > 0 else potential.params
        return Potential(params, potential.signs, self.prepared.model, self.prepared.provenance)

    def checkpoint(self) -> None:
        """Write the models, then the checkpoint."""
        self.save_best()
        self.current().save(self.folder.path / "model-last")
        host, at = dataclasses.asdict(self.progress), f"epoch {self.progress.epoch}"
        self.folder.write_checkpoint(flatten(self.state), host, at)
        self.saved_at = time.monotonic()

    def save_best(self) -> None:
        """Write the best model if it is not on disk yet."""
        if self.best is not None and not self.best_saved:
            self.best.save(self.folder.path / "model")
            self.best_saved = True

    def finish_models(self) -> None:
        """Give the models on disk the sign of the convention, unless labels have set it, and their provenance."""
        for name in MODELS:
            potential = load(self.folder.path / name)
            finished = finish(potential, self.prepared, self.section, self.progress.initial_charges)
            if finished is not potential:
                finished.save(self.folder.path / name)


def learning_rate(phase: Phase, epoch: int | float, plateau_factor: float) -> float:
    """Learning rate of a phase after `epoch` epochs of it."""
    if phase.schedule == "cosine":
        fraction = min(1.0, epoch / phase.epochs)
        factor = phase.final_factor + (1.0 - phase.final_factor) * 0.5 * (1.0 + math.cos(math.pi * fraction))
    elif phase.schedule == "step":
        factor = phase.factor ** int(epoch // phase.step_epochs)
    else:
        factor = plateau_factor if phase.schedule == "plateau" else 1.0
    return phase.learning_rate * factor


@contextmanager
def bar(total: int, done: int, quiet: bool | None) -> Iterator[Any]:
    """Progress with the validation loss and the error of the forces."""
    with progress_bar("epoch", total, done, quiet) as show:

        def report(epoch: int, record: dict[str, Any]) -> None:
            text = f"validation loss {record['valid_loss']:.3g}"  # with the forces just in 80 columns
            if "forces_rmse" in record:
                text += f", forces {record['forces_rmse']:.3g} eV/Å"
            show(epoch, text)

        yield report
