"""`Ensemble`: models of one configuration with different parameters, whose spread measures their reliability."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lesjax import ewald
from lesjax.models import storage
from lesjax.models.checks import check_solution, warn_if_charged
from lesjax.models.config import ModelConfig
from lesjax.models.potential import Potential, load, predict, variables
from lesjax.models.prediction import Prediction
from lesjax.models.provenance import Provenance
from lesjax.schema import to_plain
from lesjax.system import System
from lesjax.validate import differences


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EnsemblePrediction:
    r"""Prediction of an ensemble for a system.

    Attributes:
        mean: mean over the members.
        spread: standard deviation over the m members, :math:`s^2 = \sum_i (x_i - \bar x)^2 / (m - 1)`, of each
            number, in its unit: three for the force on each atom. Total energies have the spread of `energy`.
        members: predictions of all members, along a leading axis.

    `induction` and `equilibration` are those of the members, and None in `mean` and `spread`.
    """

    mean: Prediction
    spread: Prediction
    members: Prediction


@partial(jax.tree_util.register_dataclass, data_fields=("stacked",), meta_fields=(), drop_fields=("provenances",))
@dataclass(frozen=True)
class Ensemble:
    """Potentials of one configuration; a sequence of them, and one function that calls all at once.

    Attributes:
        stacked: the members, their parameters and signs stacked along a leading axis.
        provenances: where each member comes from; no part of the pytree, see `Potential`.
    """

    stacked: Potential
    provenances: tuple[Provenance | None, ...] = ()

    @classmethod
    def of(cls, potentials: Sequence[Potential]) -> "Ensemble":
        """Join potentials of one configuration.

        Raises:
            ValueError: for fewer than two, or different configurations.
        """
        if len(potentials) < 2:
            raise ValueError(f"`potentials` must be at least two, got {len(potentials)}: a single one has no spread.")
        first = potentials[0].config
        for i, potential in enumerate(potentials):
            if potential.config != first:
                names = differences(to_plain(first), to_plain(potential.config))[:3]
                raise ValueError(
                    f"`potentials` must share their configuration, but number {i} differs from number 0 in "
                    f"{', '.join(f'`{name}`' for name in names)}. Train them on the same data with the same settings."
                )
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *potentials)
        return cls(stacked, tuple(potential.provenance for potential in potentials))

    def __len__(self) -> int:
        return jax.tree.leaves(self.stacked)[0].shape[0]

    def __getitem__(self, index: int) -> Potential:
        """Return one member, an ordinary potential."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be a number from 0 to {len(self) - 1}, got {index}.")
        member = jax.tree.map(lambda leaf: leaf[index], self.stacked)
        return dataclasses.replace(member, provenance=self.provenances[index] if self.provenances else None)

    def members(self) -> list[Potential]:
        """Return all members."""
        return [self[i] for i in range(len(self))]

    @property
    def config(self) -> ModelConfig:
        """Hyper-parameters of each member."""
        return self.stacked.config

    @property
    def cutoff(self) -> float:
        """Range of the short-range model, Å, for `System.from_ase`."""
        return self.stacked.cutoff

    def make_solver(self, system: System) -> ewald.Plan | None:
        """Plan the long-range sum, as `Potential.make_solver`."""
        return self.stacked.make_solver(system)

    def __call__(self, system: System, solver: ewald.Plan | None = None) -> EnsemblePrediction:
        """Mean and spread of energy, forces, stress and charges of one structure; compiled once per shape.

        Arguments and errors as for a `Potential`. Latent charges have the signs of the members, which
        `lesjax.training.train_ensemble` aligns. Several channels mix freely between members, so that charges have
        a mean only for a single channel.
        """
        solver = self.stacked.checked_solver(system, solver)
        prediction = _predict(self.stacked.core(), system, solver)
        members = prediction.members
        check_solution(members.induction, members.equilibration)
        warn_if_charged(self.config, system, members.charges)
        with_total = self.stacked.with_total_energy
        return dataclasses.replace(
            prediction, mean=with_total(prediction.mean, system), members=with_total(members, system)
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write a folder with a potential in each of the folders ``0``, ``1``, …; an earlier ensemble is replaced.

        Raises:
            ValueError: if `path` holds something else.
        """
        path = pathlib.Path(path)
        if path.exists() and not _holds_members_alone(path):
            raise ValueError(f"There is something other than an ensemble at {str(path)!r}. Choose another path.")
        contents = {}
        for i in range(len(self)):
            files = storage.to_files(self.config, variables(self[i]), self[i].provenance)
            contents |= {f"{i}/{name}": content for name, content in files.items()}
        storage.replace_folder(path, contents)


def _holds_members_alone(path: pathlib.Path) -> bool:
    """Return whether a folder holds only potentials in numbered folders."""
    members = [m for m in path.iterdir() if not m.name.startswith(".")] if storage.is_ensemble(path) else []
    return bool(members) and all(
        m.is_dir() and m.name.isdecimal() and {f.name for f in m.iterdir()} <= set(storage.FILES) for m in members
    )


def load_ensemble(path: str | os.PathLike) -> Ensemble:
    """Read an ensemble that `Ensemble.save` wrote.

    Raises:
        FileNotFoundError: if `path` is not such a folder.
        ValueError: for a single potential, members of different configurations, or damaged files.
    """
    path = pathlib.Path(path)
    if (path / storage.FILES[0]).is_file():
        raise ValueError(f"{str(path)!r} is a single potential, not an ensemble: read it with `lesjax.load`.")
    if not storage.is_ensemble(path):
        raise FileNotFoundError(f"{str(path)!r} is not an ensemble: it has no potential in a folder '0'.")
    numbers = {int(folder.name) for folder in path.iterdir() if folder.name.isdecimal()}
    if numbers != set(range(len(numbers))):
        raise ValueError(f"{str(path)!r} has the members {sorted(numbers)}: some are missing. Take another copy.")
    try:
        return Ensemble.of([load(path / str(i)) for i in range(len(numbers))])
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error


@jax.jit
def _predict(stacked: Potential, system: System, solver: ewald.Plan | None) -> EnsemblePrediction:
    def predict_member(potential: Potential) -> Prediction:
        return predict(potential, system, solver, with_stress=all(system.pbc))

    return summarize(jax.vmap(predict_member)(stacked))


def summarize(members: Prediction) -> EnsemblePrediction:
    """Mean and spread of predictions that are stacked along a leading axis."""
    numbers = dataclasses.replace(members, induction=None, equilibration=None)
    mean = jax.tree.map(lambda x: jnp.mean(x, axis=0), numbers)
    spread = jax.tree.map(_standard_deviation, numbers)
    return EnsemblePrediction(mean, spread, members)


def _standard_deviation(x: Array) -> Array:
    deviations = x - jnp.mean(x, axis=0, keepdims=True)
    return jnp.sqrt(jnp.sum(deviations**2, axis=0) / (x.shape[0] - 1))
