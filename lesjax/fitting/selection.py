"""Selection of configurations to label next: those on which the members of an ensemble disagree most."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array

from lesjax import io
from lesjax.dynamics import Settings, SimulationError, simulate
from lesjax.models.checks import check_solution
from lesjax.models.ensemble import Ensemble, summarize
from lesjax.models.potential import Potential, Solved
from lesjax.models.prediction import Prediction
from lesjax.system import electronic_state
from lesjax.training.config import RunConfig
from lesjax.training.data import Batch, epoch_batches, make_dataset, take
from lesjax.training.ensemble import train_ensemble
from lesjax.training.losses import predict_batch


@dataclass(frozen=True)
class Round:
    """One round of `active_learning`.

    Attributes:
        ensemble: ensemble trained on the structures of earlier rounds.
        n_train: number of structures that it was trained on, validation included if it is a fraction of them.
        largest: largest spread of the force on an atom in each sampled structure, eV/Å.
        labelled: the selected structures, with their labels.
    """

    ensemble: Ensemble
    n_train: int
    largest: np.ndarray
    labelled: list[io.Atoms]


def force_spreads(
    ensemble: Ensemble,
    frames: Sequence[io.Atoms],
    *,
    pbc: bool | tuple[bool, bool, bool] | None = None,
    batch_size: int = 8,
) -> list[np.ndarray]:
    r"""Spread of the force on each atom of each structure, eV/Å.

    .. math:: s_i = \sqrt{\sum_m |F_i^m - \bar F_i|^2 / (M - 1)}

    for the M members.

    Args:
        ensemble: the models.
        frames: structures; labels are not needed.
        pbc: overrides the periodicity of the structures.
        batch_size: structures computed at once.

    Raises:
        ValueError: for structures that the models cannot take, or whose induced or equilibrated charges have no
            solution.
    """
    empty = [io.Labels.missing(len(atoms)) for atoms in frames]
    dataset = make_dataset(ensemble.config, frames, empty, pbc)
    result: list[np.ndarray] = [np.empty(0)] * len(frames)
    for bucket, rows, mask in epoch_batches(dataset, batch_size, None):
        forces, solution = _spread(ensemble, dataset.buckets[bucket], rows, mask)
        spread = np.linalg.norm(forces, axis=-1)
        for k in np.flatnonzero(mask):
            index = int(dataset.members[bucket][rows[k]])
            try:
                check_solution(*jax.tree.map(lambda x, k=k: x[:, k], solution))
            except ValueError as error:
                raise ValueError(f"Structure {index}: {error}") from error
            result[index] = spread[k, : len(frames[index])]
    return result


@jax.jit
def _spread(ensemble: Ensemble, bucket: Batch, rows: Array, mask: Array) -> tuple[Array, Solved]:
    """Spread of the force components, and each member's induction and equilibration, [m, b, ...]."""
    batch = take(bucket, rows, mask)

    def predict_member(potential: Potential) -> Prediction:
        return predict_batch(potential, batch, with_stress=False)

    prediction = summarize(jax.vmap(predict_member)(ensemble.stacked))
    return prediction.spread.forces, (prediction.members.induction, prediction.members.equilibration)


def select_structures(largest: np.ndarray, n: int, *, minimum: float = 0.0) -> list[int]:
    """Return the indices of the `n` structures of largest spread, fewer if it does not exceed `minimum`, eV/Å.

    Raises:
        ValueError: for a spread that is not finite, or an `n` below one.
    """
    if n < 1:
        raise ValueError(f"`n` must be at least 1, got {n}.")
    if not np.all(np.isfinite(largest)):
        bad = np.flatnonzero(~np.isfinite(largest)).tolist()
        raise ValueError(f"The spread of the structures {bad[:5]} is not finite: leave them out, atoms may overlap.")
    order = np.argsort(-largest, kind="stable")[:n].tolist()
    return [i for i in order if largest[i] > minimum]


def active_learning(
    config: RunConfig,
    label: Callable[[io.Atoms], io.Atoms],
    *,
    rounds: int,
    n_new: int,
    sample: Callable[[Ensemble, Sequence[io.Atoms], pathlib.Path], Sequence[io.Atoms]] | Settings,
    minimum: float = 0.0,
    quiet: bool | None = None,
) -> list[Round]:
    """Train an ensemble, sample with it, label the structures with its largest uncertainty, and train again.

    Each round has a folder ``round-0``, ``round-1``, … in `config.output` with its ``train.xyz``, the files of
    training, ``labelled.xyz`` and, for `Settings`, the simulation ``md``. A last training follows the last round.

    The same call resumes a stopped one; structures in ``labelled.xyz`` are not labelled again. For
    other data or labels choose another `output`.

    Args:
        config: the training, see `load_config`, with `training.ensemble`; the first round starts from `data.train`.
        label: function that gives a structure its energy, forces, …, under the names of `data.keys` in `info` and
            `arrays`, or as the results of a calculator.
        rounds: number of selections.
        n_new: largest number of structures that each round adds.
        sample: settings of a simulation with the first member, from a structure of the training set that is drawn by
            the seed of the training, without its velocities; or a function of the ensemble, the structures trained on,
            and its own folder that returns structures to choose from, the same ones when a call resumes. A simulation
            that breaks down is used up to that point.
        minimum: smallest spread of the force on an atom, eV/Å, of structures to label. The loop ends if no structure
            exceeds it.
        quiet: no progress, see `lesjax.progress.progress_bar`; by default where the output is not a terminal.

    Returns:
        The rounds with their ensembles; the last has no selection.

    Raises:
        ValueError: for a configuration without an ensemble, a sample without structures, a label that is missing, or a
            folder of a round that was trained on other data.
    """
    if config.training.ensemble is None:
        raise ValueError("`training.ensemble` is missing: structures are chosen by the spread of an ensemble.")
    for name, value in (("rounds", rounds), ("n_new", n_new)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    frames = io.read(config.data.train)[: config.data.max_frames]
    if isinstance(sample, Settings) and any(atoms.constraints for atoms in frames):
        raise ValueError(
            f"`data.train` = {config.data.train!r} has structures with constraints, which `Settings` cannot simulate: "
            "give a function as `sample`, or take them out of the file."
        )
    pbc = None if isinstance(config.data.pbc, str) else config.data.pbc
    names = io.select(frames, config.data.keys, mixed=config.data.labels, needed=()).names
    result: list[Round] = []
    for number in range(rounds + 1):
        folder = pathlib.Path(config.output) / f"round-{number}"
        io.write(folder / "train.xyz", frames)
        data = dataclasses.replace(config.data, train=str(folder / "train.xyz"), max_frames=None)
        ensemble = train_ensemble(dataclasses.replace(config, data=data, output=str(folder)), quiet=quiet)
        n_train = len(frames)
        if number == rounds:
            result.append(Round(ensemble, n_train, np.empty(0), []))
            break
        if isinstance(sample, Settings):
            start = int(np.random.default_rng([config.training.seed, number]).integers(len(frames)))
            candidates = sample_trajectory(ensemble, frames[start], folder / "md", sample, pbc=pbc, quiet=quiet)
        else:
            candidates = list(sample(ensemble, frames, folder / "sample"))
        if not candidates:
            raise ValueError(
                f"`sample` gave no structure in round {number}. A simulation gives one each `frame_every` steps up to "
                "where it breaks down: lower `frame_every` or `timestep`, or begin with more data."
            )
        largest = np.array([spread.max() for spread in force_spreads(ensemble, candidates, pbc=pbc)])
        selected = select_structures(largest, n_new, minimum=minimum)
        labelled = _label_all(label, [candidates[i] for i in selected], folder / "labelled.xyz", config)
        result.append(Round(ensemble, n_train, largest, labelled))
        if not selected:
            break
        frames = frames + [_renamed(atoms, names, config.data.keys) for atoms in labelled]
    return result


def _renamed(atoms: io.Atoms, names: Mapping[str, str], keys: io.Keys) -> io.Atoms:
    """Return the structure with its labels under the names of the training file, which has one for each label."""
    copy = atoms.copy()
    for label, value in vars(io.labels(atoms, keys)).items():
        if not np.all(np.isfinite(value)):
            continue
        name = names.get(label, f"REF_{label}")
        if label == "born_effective_charges":
            order = keys.born_effective_charges_order or io.BORN_ORDER_OF_NAME.get(name)
            value = (value.swapaxes(1, 2) if order == "displacement-first" else value).reshape(len(atoms), 9)
        per_atom = io.Labels.shapes(0)[label][:1] == (0,)
        (copy.arrays if per_atom else copy.info)[name] = value
    return copy


def sample_trajectory(
    ensemble: Ensemble,
    start: io.Atoms,
    folder: pathlib.Path,
    settings: Settings,
    *,
    pbc: bool | tuple[bool, bool, bool] | None = None,
    quiet: bool | None = None,
) -> list[io.Atoms]:
    """Frames of a simulation with the first member, without the start; up to where it broke down, if it did.

    Velocities of `start` are not used, since those next to a breakdown would lead there again. `pbc` overrides its
    periodicity.
    """
    start = start.copy()  # without its labels as the results of a calculator
    start.arrays.pop("momenta", None)
    if pbc is not None:
        start.pbc = pbc
    try:
        simulate(ensemble[0], start, folder, settings, quiet=quiet)
    except SimulationError:
        pass
    # by their steps, since a breakdown writes the last frame again, which may be the start
    frames = {atoms.info["step"]: atoms for atoms in io.read(folder / f"trajectory.{settings.format}")}
    return [atoms for step, atoms in frames.items() if step > 0]


def _label_all(
    label: Callable[[io.Atoms], io.Atoms], structures: Sequence[io.Atoms], path: pathlib.Path, config: RunConfig
) -> list[io.Atoms]:
    """Label the structures; labels in the file `path` are used again, and each new one is saved there at once."""
    on_disk = io.read(path) if path.exists() else []
    result = []
    for atoms in structures:
        labelled = next((other for other in on_disk if _same_structure(atoms, other)), None)
        if labelled is None:
            labelled = _labelled(label, atoms, config)
            on_disk.append(labelled)
            io.write(path, on_disk)
        result.append(labelled)
    return result


def _same_structure(a: io.Atoms, b: io.Atoms) -> bool:
    """Return whether two structures are equal for a model, up to the digits of a file."""
    if not (np.array_equal(a.numbers, b.numbers) and np.array_equal(a.pbc, b.pbc)):
        return False
    pairs = (
        (a.positions, b.positions),
        (a.cell.array, b.cell.array),
        (electronic_state(a), electronic_state(b)),
    )
    return all(np.allclose(x, y, rtol=0.0, atol=1e-6, equal_nan=True) for x, y in pairs)


def _labelled(label: Callable[[io.Atoms], io.Atoms], atoms: io.Atoms, config: RunConfig) -> io.Atoms:
    """Return a structure with the labels that the training uses, without predictions of the models.

    Raises:
        ValueError: if one is missing.
    """
    bare = atoms.copy()
    names = {name for kind in io.Labels.shapes(0) for name in config.data.keys.names(kind)}
    for values in (bare.info, bare.arrays):
        for name in names & set(values):
            del values[name]
    result = label(bare)
    if result is None or len(result) != len(atoms):
        raise ValueError("`label` must return the structure that it was given, with labels.")
    result = io.frozen(result)  # all structures may share one calculator
    labels = io.labels(result, config.data.keys)
    for kind in ("energy", "forces"):
        weighed = any(phase.weights.get(kind, 0.0) > 0 for phase in config.training.phases)
        if weighed and not np.all(np.isfinite(getattr(labels, kind))):
            expected = ", ".join(getattr(config.data.keys, kind))
            raise ValueError(f"`label` gave no finite {kind}: looked for {expected}. Set it in `info` or `arrays`.")
    return result
