"""The training loop: phases, evaluation, checkpoints, exact resume.

Everything random in epoch e is drawn from the generator of (seed, e), and a checkpoint lies on the border of
two epochs; a run that was killed and started again therefore repeats the epochs since its last checkpoint
and goes on exactly as an uninterrupted one.
"""

import dataclasses
import importlib.metadata
import json
import math
import pathlib
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lesjax.io import atomic_path, write_json
from lesjax.models.config import to_dict
from lesjax.models.potential import Potential, check_solved
from lesjax.models.storage import load
from lesjax.training.checkpoint import load_checkpoint, save_checkpoint
from lesjax.training.config import Phase, RunConfig, TrainingSection
from lesjax.training.data import Dataset, epoch_batches
from lesjax.training.initialize import flip_charges, initial_state, scaled_parameters
from lesjax.training.losses import RESPONSE, Weights
from lesjax.training.orient import orient
from lesjax.training.prepare import Prepared, prepare
from lesjax.training.step import make_evaluation, make_lbfgs_step, make_step


class DivergedError(RuntimeError):
    """The loss is no longer finite."""


@dataclasses.dataclass
class Progressed:
    """What the host keeps between epochs; written into every checkpoint."""

    epoch: int = 0
    phase: int = 0
    epoch_in_phase: int = 0
    best_loss: float = math.inf
    evaluations_since_best: int = 0
    plateau_best: float = math.inf
    plateau_waited: int = 0
    plateau_factor: float = 1.0
    seconds: float = 0.0


def train(config: RunConfig, *, prepared: Prepared | None = None, quiet: bool | None = None) -> Potential:
    """Train a potential, or go on where the run in `config.output` stopped.

    The folder gets ``config.json``, ``log.jsonl``, ``checkpoint.safetensors`` and the models ``model``
    (best validation loss) and ``model-last``.

    Args:
        config: the run, see `load_config`.
        prepared: data that are there already, instead of reading `config.data`.
        quiet: no progress bar; by default where the output is no terminal.

    Returns:
        The potential of best validation loss.

    Raises:
        ValueError: for unusable data or a folder that holds another run.
        DivergedError: when the loss is not finite; the last good checkpoint stays.
    """
    folder = pathlib.Path(config.output)
    check_folder(config, folder)
    prepared = prepare(config) if prepared is None else prepared
    section = config.training
    check_lbfgs(section, prepared.train)
    remove_leftovers(folder)
    write_description(config, prepared, folder)
    state = initial_state(section, scaled_parameters(prepared.model, section.seed, prepared.train))
    host = Progressed()
    checkpoint = folder / "checkpoint.safetensors"
    if checkpoint.exists():
        state, kept = load_checkpoint(checkpoint, state)
        host = Progressed(**kept)
    log = folder / "log.jsonl"
    truncate_log(log, host.epoch)
    run = _Run(config, prepared, folder, state, host)
    with _bar(sum(p.epochs for p in section.phases), host, quiet) as report:
        run.run(report)
    decisive = prepared.train if prepared.valid is None else prepared.valid  # the shapes that are compiled already
    weights = phase_weights(section.phases[-1])
    labels_set_sign = any(phase_weights(phase).of_response() for phase in section.phases)
    for name in () if labels_set_sign else ("model", "model-last"):
        oriented = orient(load(folder / name), decisive, run.evaluation, weights, section.batch_size)
        if oriented is not None:
            oriented.save(folder / name)
    return load_best(folder)


def load_best(folder: str | pathlib.Path) -> Potential:
    """The potential of best validation loss of a run."""
    return load(pathlib.Path(folder) / "model")


class _Run:
    """One run in progress: the compiled functions and the state between epochs."""

    def __init__(
        self, config: RunConfig, prepared: Prepared, folder: pathlib.Path, state: dict[str, PyTree], host: Progressed
    ) -> None:
        self.section, self.prepared, self.folder = config.training, prepared, folder
        self.state, self.host = state, host
        self.step = make_step(prepared.model, self.section)
        self.lbfgs_step = make_lbfgs_step(prepared.model)
        with_stress = any(phase.stress_weight > 0 for phase in self.section.phases)
        self.evaluation = make_evaluation(prepared.model, with_stress=with_stress)
        self.saved_at = time.monotonic()
        self.best: Potential | None = None
        self.best_saved = True

    def run(self, report: Any) -> None:
        host = self.host
        while host.phase < len(self.section.phases):
            phase = self.section.phases[host.phase]
            self.run_phase(phase, report)
            host.phase += 1
            host.epoch_in_phase = 0
            host.best_loss, host.evaluations_since_best = math.inf, 0  # another loss from here on
            host.plateau_best, host.plateau_waited, host.plateau_factor = math.inf, 0, 1.0
            self.reset_lbfgs()  # the next phase has another loss and gradient
            self.checkpoint()

    def run_phase(self, phase: Phase, report: Any) -> None:
        host, weights = self.host, phase_weights(phase)
        losses: list[jax.Array] = []
        started = time.monotonic() - host.seconds
        if host.epoch_in_phase == 0 and weights.of_response():
            self.choose_sign(weights)
        while host.epoch_in_phase < phase.epochs:
            losses += self.run_epoch(phase, weights)
            host.epoch += 1
            host.epoch_in_phase += 1
            last = host.epoch_in_phase == phase.epochs
            if host.epoch_in_phase % self.section.eval_every and not last:
                continue
            host.seconds = time.monotonic() - started
            stop = self.evaluate(phase, weights, float(np.mean(jax.device_get(losses))), report)
            losses = []
            if not last and time.monotonic() - self.saved_at > self.section.checkpoint_seconds:
                self.checkpoint()
            if stop:
                break

    def choose_sign(self, weights: Weights) -> None:
        """Take the sign of the latent charges, which energies leave open, that has the lower loss on the training set.

        Training would not get from one to the other: it would have to pass by charges of zero.
        """
        states = [self.state, flip_charges(self.prepared.model, self.state)]
        arguments = (self.prepared.train, self.section.batch_size, weights)
        losses = [dataset_errors(self.evaluation, state["params"], *arguments)[0] for state in states]
        if losses[1] < losses[0]:
            self.state = states[1]
            self.reset_lbfgs()

    def reset_lbfgs(self) -> None:
        """Forget the last loss, gradient and parameters of L-BFGS, if there are any."""
        if "lbfgs" in self.state:
            self.state["lbfgs"] = initial_state(self.section, self.state["params"])["lbfgs"]

    def run_epoch(self, phase: Phase, weights: Weights) -> list[jax.Array]:
        host, dataset = self.host, self.prepared.train
        rng = np.random.default_rng([self.section.seed, host.epoch])
        batches = epoch_batches(dataset, self.section.batch_size, rng)
        step = self.lbfgs_step if phase.lbfgs else self.step
        losses = []
        for i, (bucket, rows, mask) in enumerate(batches):
            rate = learning_rate(phase, host.epoch_in_phase + i / len(batches), host.plateau_factor)
            self.state, loss = step(self.state, dataset.buckets[bucket], rows, mask, jnp.asarray(rate), weights)
            losses.append(loss)
        return losses

    def evaluate(self, phase: Phase, weights: Weights, train_loss: float, report: Any) -> bool:
        """Log, keep the best model, and say whether the phase should end early."""
        host = self.host
        potential = self.current()
        valid = self.prepared.valid if self.prepared.valid is not None else self.prepared.train
        valid_loss, metrics = dataset_errors(self.evaluation, potential.params, valid, self.section.batch_size, weights)
        if not (math.isfinite(train_loss) and math.isfinite(valid_loss)):
            self.save_best()
            kept = [name for name in ("model", "checkpoint.safetensors") if (self.folder / name).exists()]
            raise DivergedError(
                f"The loss is not finite at epoch {host.epoch} (training {train_loss}, validation {valid_loss}). "
                f"Kept from before in {str(self.folder)!r}: {' and '.join(kept) or 'nothing'}. "
                "Lower `learning_rate` or `clip`, or look for wrong labels."
            )
        rate = learning_rate(phase, host.epoch_in_phase, host.plateau_factor)
        record = {"epoch": host.epoch, "phase": host.phase, "learning_rate": rate, "train_loss": train_loss}
        record |= {"valid_loss": valid_loss, **metrics, "seconds": round(host.seconds, 3)}
        with open(self.folder / "log.jsonl", "a") as file:
            file.write(json.dumps(record) + "\n")
        report(host.epoch, record)
        if valid_loss < host.best_loss:
            host.best_loss, host.evaluations_since_best = valid_loss, 0
            self.best = potential
            self.best_saved = False
        else:
            host.evaluations_since_best += 1
        if phase.schedule == "plateau":
            if valid_loss < host.plateau_best:
                host.plateau_best, host.plateau_waited = valid_loss, 0
            else:
                host.plateau_waited += 1
                if host.plateau_waited >= phase.patience:
                    host.plateau_factor = max(phase.final_factor, host.plateau_factor * phase.factor)
                    host.plateau_waited = 0
        return 0 < self.section.early_stop <= host.evaluations_since_best

    def current(self) -> Potential:
        """What is validated and saved: the running average if there is one."""
        params = self.state["ema"] if self.section.ema > 0 else self.state["params"]
        return Potential(params=params, config=self.prepared.model)

    def checkpoint(self) -> None:
        """Write the models, then the checkpoint."""
        self.save_best()
        self.current().save(self.folder / "model-last")
        save_checkpoint(self.folder / "checkpoint.safetensors", self.state, dataclasses.asdict(self.host))
        self.saved_at = time.monotonic()

    def save_best(self) -> None:
        """Write the best model if it is not on disk yet."""
        if self.best is not None and not self.best_saved:
            self.best.save(self.folder / "model")
            self.best_saved = True


def check_lbfgs(section: TrainingSection, dataset: Dataset) -> None:
    """Raise ValueError if a phase of L-BFGS would get more than one batch."""
    n_batches = len(epoch_batches(dataset, section.batch_size, None))
    for i, phase in enumerate(section.phases):
        if phase.lbfgs and n_batches > 1:
            raise ValueError(
                f"`training.phases[{i}].lbfgs` needs the training set in one batch, but it has {n_batches}: "
                "raise `training.batch_size`, or leave L-BFGS to sets whose structures have about one size."
            )


def phase_weights(phase: Phase) -> Weights:
    """The weights of a phase; all but energy and forces are left out where they weigh nothing."""
    optional = {name: getattr(phase, f"{name}_weight") or None for name in ("stress", *RESPONSE)}
    return Weights(energy=phase.energy_weight, forces=phase.forces_weight, **optional)


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


def dataset_errors(
    evaluation: Any, params: PyTree, dataset: Dataset, batch_size: int, weights: Weights
) -> tuple[float, dict[str, float]]:
    """Mean loss, and RMSE and MAE of each kind of label that the data set has.

    Raises:
        ValueError: for induced or equilibrated charges that have no solution.
    """
    losses, sizes, sums = [], [], []
    for bucket, rows, mask in epoch_batches(dataset, batch_size, None):
        loss, errors, prediction = evaluation(params, dataset.buckets[bucket], rows, mask, weights)
        check_solved(prediction)
        losses.append(loss)
        sizes.append(int(mask.sum()))
        sums.append(errors)
    losses, sums = jax.device_get((losses, sums))
    metrics = {}
    for name in dict.fromkeys(name for errors in sums for name in errors):
        squares, magnitudes, count = np.sum([errors[name] for errors in sums if name in errors], axis=0, dtype=float)
        if count:
            short = "bec" if name == "born_effective_charges" else name
            metrics[f"{short}_rmse"] = math.sqrt(squares / count)
            metrics[f"{short}_mae"] = magnitudes / count
    return float(np.average(losses, weights=sizes)), metrics


def check_folder(config: RunConfig, folder: pathlib.Path) -> None:
    """Raise ValueError if `folder` holds a run of another configuration."""
    description = folder / "config.json"
    if not description.exists():
        return
    try:
        there = json.loads(description.read_text())["run"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(description)!r} is damaged ({error}). Choose another `output`.") from error
    here = json.loads(json.dumps(dataclasses.asdict(config)))
    different = _differences(there, here)
    if different:
        raise ValueError(
            f"{str(folder)!r} holds a run with other settings ({', '.join(different[:3])}). "
            "Choose another `output`, or delete the folder."
        )


def remove_leftovers(folder: pathlib.Path) -> None:
    """Remove temporary files of a run that was killed while it wrote them."""
    for path in list(folder.rglob(".*.tmp")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _differences(a: Any, b: Any, where: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(set(a) | set(b))
        return [d for k in keys for d in _differences(a.get(k), b.get(k), f"{where}.{k}" if where else k)]
    return [] if a == b else [where]


def write_description(config: RunConfig, prepared: Prepared, folder: pathlib.Path) -> None:
    """Write what the run is: settings, completed model, data, versions."""
    packages = ("lesjax", "jax", "flax", "optax", "numpy", "ase", "vesin")
    description = {
        "run": dataclasses.asdict(config),
        "model": to_dict(prepared.model),
        "n_train": len(prepared.train_frames),
        "n_valid": len(prepared.valid_frames),
        "shapes": [list(bucket.system.neighbors.shape) for bucket in prepared.train.buckets],
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in packages}},
        "device": jax.devices()[0].device_kind,
        "dtype": str(jnp.zeros(()).dtype),
    }
    write_json(folder / "config.json", description)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path, for example
        return "not installed"


def read_log(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """Records of a JSON-lines log; a last line that was cut off is left out."""
    records = []
    for line in pathlib.Path(path).read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def truncate_log(path: pathlib.Path, epoch: int) -> None:
    """Drop what was logged after the checkpoint: the run repeats it."""
    if path.exists():
        kept = [json.dumps(record) + "\n" for record in read_log(path) if record["epoch"] <= epoch]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(kept))


@contextmanager
def _bar(total: int, host: Progressed, quiet: bool | None) -> Iterator[Any]:
    """Progress bar with losses and time left; nothing where the output is no terminal."""
    if quiet or (quiet is None and not sys.stderr.isatty()):
        yield lambda epoch, record: None
        return
    from rich.console import Console

    columns = (TextColumn("epoch {task.completed}/{task.total}"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("compiling", total=total, completed=host.epoch)

        def report(epoch: int, record: dict[str, Any]) -> None:
            text = f"loss {record['train_loss']:.3g}, validation {record['valid_loss']:.3g}"
            if "forces_rmse" in record:
                text += f", forces {1e3 * record['forces_rmse']:.3g} meV/Å"
            progress.update(task, completed=epoch, description=text)

        yield report
