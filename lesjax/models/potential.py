"""`Potential`: parameters and configuration of a trained model, with its energy as a pure function."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PyTree

from lesjax import ewald, response
from lesjax.models.cace import species_index
from lesjax.models.config import LongRangeConfig, ModelConfig
from lesjax.models.heads import Latent
from lesjax.models.les import LesModel
from lesjax.models.long_range import Parts, Solution, check_solution, long_range_parts, warn_if_charged
from lesjax.numerics import check_volume
from lesjax.processes import check_process
from lesjax.properties import born_effective_charges, energy_forces_stress
from lesjax.system import System


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prediction:
    """What a potential says of a system. Entries that do not exist for it are None.

    Attributes:
        energy: total energy with the reference energies of the elements, eV.
        interaction_energy: total energy without them, eV; it keeps its digits in float32.
        short_range_energy: short-range part of it, eV.
        long_range_energy: Ewald part of it, eV; None for a short-range model.
        forces: eV/Å.
        stress: eV/Å³, ASE's sign; None unless all directions are periodic (a slab has no volume of its own).
        charges: latent charges of each channel, e, induced ones included: those that dipole moments and Born
            effective charges are made of; None for a short-range model. Energies leave the sign of each channel open:
            training sets it, see `lesjax.training.orient`.
        dipoles: latent dipoles of each channel, e Å, induced ones included; None without latent and induced dipoles.
        quadrupoles: latent quadrupoles of each channel, e Å².
        induction: the induced part of charges and dipoles, with the flags of its solution.
        equilibration: the solution for equilibrated charges, with its flag.
    """

    energy: Float[Array, "*b"]
    interaction_energy: Float[Array, "*b"]
    short_range_energy: Float[Array, "*b"]
    long_range_energy: Float[Array, "*b"] | None
    forces: Float[Array, "*b n 3"]
    stress: Float[Array, "*b 3 3"] | None
    charges: Float[Array, "*b n c"] | None
    dipoles: Float[Array, "*b n c 3"] | None = None
    quadrupoles: Float[Array, "*b n c 3 3"] | None = None
    induction: response.Induction | None = None
    equilibration: response.Equilibration | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Potential:
    """A model with its parameters.

    Calling it gives everything; `energy` is the pure function to differentiate, compile and map.

    Attributes:
        params: parameters as a plain pytree.
        config: hyper-parameters; static.
    """

    params: PyTree
    config: ModelConfig = field(metadata={"static": True})

    @classmethod
    def create(cls, config: ModelConfig, seed: int = 0) -> "Potential":
        """A potential with fresh parameters."""
        return cls(params=initial_parameters(config, seed), config=config)

    @property
    def cutoff(self) -> float:
        """Range of the short-range model, Å, for `System.from_ase`."""
        return self.config.representation.cutoff

    def make_solver(self, system: System) -> ewald.Solver | None:
        """Plan the long-range sum for the cell of `system`; host only. None for a short-range model.

        Raises:
            ValueError: for a cell that cannot be summed, or a slab whose atoms reach over more than its height.
        """
        return make_solver(self.config, system)

    def energy(self, system: System, solver: ewald.Solver | None = None) -> Float[Array, ""]:
        """Total energy, eV: a pure function of the potential and the system.

        Args:
            system: one structure.
            solver: from `make_solver`. It can be left out while the cell of `system` has values; where the cell
                itself is traced, plan before and pass it.

        Raises:
            ValueError: for elements that the model does not know, or a total charge that it needs and the system has
                not (where they have values).
            TypeError: where the solver is missing and the cell is traced.
        """
        return self.interaction_energy(system, solver) + reference_energy(self.config, system)

    def interaction_energy(self, system: System, solver: ewald.Solver | None = None) -> Float[Array, ""]:
        """As `energy`, without the reference energies of the elements."""
        solver = checked_solver(self.config, system, solver)
        return energy_parts(self.config, self.params, system, solver)[0]

    def __call__(self, system: System, solver: ewald.Solver | None = None) -> Prediction:
        """Energy, forces, stress and charges of one structure; compiled once per shape. See `energy`.

        Warns, once in a process, where the latent charges of a periodic cell do not add up to zero and no `background`
        compensates them.

        Raises:
            ValueError: as `energy`; for induced or equilibrated charges that have no solution (see `check_solved`).
            RuntimeError: in a fork of a process that has already computed.
        """
        solver = checked_solver(self.config, system, solver)
        prediction = check_solved(_predict(self, system, solver))
        warn_if_charged(self.config.long_range, system, prediction.charges)
        return prediction

    def born_effective_charges(
        self,
        system: System,
        *,
        epsilon_infinity: float | Float[Array, ""] = 1.0,
        acoustic_sum_rule: bool = False,
        direction: int | None = None,
    ) -> Float[Array, "n 3 3"] | Float[Array, "n 3"]:
        """Born effective charges of the latent charges and dipoles, e: [atom, polarization, displacement].

        Induced and equilibrated ones included, with their response to the displacement. They add up to zero over the
        atoms but in ions without periodic directions whose total charge the model holds. Arguments as in
        `lesjax.properties.born_effective_charges`. Their sign is that of the latent charges, which energies and
        forces leave open; training sets it (see `lesjax.training.orient`).

        Raises:
            ValueError: for a short-range model, elements that the model does not know, a total charge that it needs
                and the system has not, an `epsilon_infinity` that is not positive, or induced or equilibrated charges
                that have no solution.
        """
        if self.config.long_range is None:
            raise ValueError("`potential` is a short-range model: it has no latent charges, and no Born charges.")
        check_system(self.config, system)
        if any(system.pbc):
            check_volume(jnp.asarray(system.cell))
        solver = self.make_solver(system) if self.config.long_range.responds else None
        options = (float(epsilon_infinity), acoustic_sum_rule, direction)
        result, solution = _born_effective_charges(self, jax.tree.map(jnp.asarray, system), solver, *options)
        check_solution(solution)
        return result

    def save(self, path: str | pathlib.Path) -> None:
        """Write the potential to a folder: JSON for the configuration, safetensors for the parameters."""
        from lesjax.models import storage

        storage.save(self, path)


def checked_solver(config: ModelConfig, system: System, solver: ewald.Solver | None) -> ewald.Solver | None:
    """Check a system, and plan its sum where no plan is given; see `Potential.energy`."""
    check_system(config, system)
    if solver is not None or config.long_range is None:
        return solver
    if isinstance(system.cell, Tracer):
        raise TypeError(
            "`solver` is needed where `system.cell` is traced (inside jit, vmap or a derivative with respect to "
            "the cell): plan it outside with `solver = potential.make_solver(system)` and pass it."
        )
    return make_solver(config, system)


def make_solver(config: ModelConfig, system: System) -> ewald.Solver | None:
    """Plan the long-range sum of a model; host only. Plans are kept for cells seen before."""
    if config.long_range is None:
        return None
    cell, mask = np.asarray(system.cell, np.float64), np.asarray(system.atom_mask)
    key = cell.tobytes() if any(system.pbc) else b""
    solver = _planned(config.long_range, key, system.pbc, int(np.sum(mask)))
    solver.check_atoms(np.asarray(system.positions, np.float64)[mask], cell)
    return solver


def plan_bucket(config: ModelConfig, systems: Sequence[System]) -> list[ewald.Solver] | None:
    """Plan the sums of systems that are stacked, with one kind of solver and the same sizes; host only.

    Raises:
        ValueError: as `make_solver`.
    """
    if config.long_range is None:
        return None
    pbc, masks = systems[0].pbc, [np.asarray(system.atom_mask) for system in systems]
    cells = [np.asarray(system.cell, np.float64) for system in systems]
    n_atoms = [int(np.sum(mask)) for mask in masks]
    solvers = ewald.plan_bucket(cells, pbc, n_atoms=n_atoms, **_settings(config.long_range, pbc))
    for solver, system, mask, cell in zip(solvers, systems, masks, cells, strict=True):
        solver.check_atoms(np.asarray(system.positions, np.float64)[mask], cell)
    return solvers


@functools.lru_cache(maxsize=64)
def _planned(long_range, cell: bytes, pbc: tuple[bool, bool, bool], n_atoms: int) -> ewald.Solver:
    array = np.frombuffer(cell).reshape(3, 3) if cell else np.zeros((3, 3))
    return ewald.make_solver(array, pbc, n_atoms=n_atoms, **_settings(long_range, pbc))


def _settings(long_range: LongRangeConfig, pbc: tuple[bool, bool, bool]) -> dict[str, Any]:
    return {
        "sigma": long_range.sigma, "k_cutoff": long_range.k_cutoff, "accuracy": long_range.accuracy,
        "interaction": ewald.Coulomb(background=long_range.background and all(pbc)),
    }  # fmt: skip


def energy_parts(
    config: ModelConfig, params: PyTree, system: System, solver: ewald.Solver | None
) -> tuple[Float[Array, ""], Parts]:
    """Interaction energy, eV, and its parts with the charges and all else. A pure function."""
    atomic, latent = _apply(config, params, system)
    short_range = jnp.sum(atomic)
    if latent is None:
        return short_range, Parts(short_range)
    assert solver is not None
    assert config.long_range is not None
    found = long_range_parts(config.long_range, latent, system, solver)
    long_range = found["long_range_energy"]
    return short_range + long_range, Parts(short_range, **found)


def _apply(config: ModelConfig, params: PyTree, system: System) -> tuple[Array, Latent | None]:
    return cast(tuple[Array, Latent | None], LesModel(config).apply(params, system))


def predict(
    config: ModelConfig, params: PyTree, system: System, solver: ewald.Solver | None, *, with_stress: bool
) -> Prediction:
    """All outputs for one system as a pure function; map it over stacked systems with `jax.vmap`."""

    def energy_fn(positions: Array, cell: Array) -> tuple[Array, Parts]:
        moved = dataclasses.replace(system, positions=positions, cell=cell)
        return energy_parts(config, params, moved, solver)

    energy, forces, stress, parts = energy_forces_stress(
        energy_fn, jnp.asarray(system.positions), jnp.asarray(system.cell), with_stress=with_stress
    )
    return Prediction(
        energy=energy + reference_energy(config, system),
        interaction_energy=energy,
        forces=forces,
        stress=stress,
        **parts._asdict(),
    )


@jax.jit
def _predict(potential: Potential, system: System, solver: ewald.Solver | None) -> Prediction:
    return predict(potential.config, potential.params, system, solver, with_stress=all(system.pbc))


def predict_born_charges(
    config: ModelConfig,
    params: PyTree,
    system: System,
    solver: ewald.Solver | None = None,
    epsilon_infinity: float | Float[Array, ""] = 1.0,
    acoustic_sum_rule: bool = False,
    direction: int | None = None,
) -> tuple[Float[Array, "n 3 3"] | Float[Array, "n 3"], Solution]:
    """Born effective charges of one system, e, as a pure function, and the flags of induced or equilibrated charges.

    See `Potential.born_effective_charges`. Without `responds` in the configuration the solver is not needed.
    """
    assert config.long_range is not None
    responds = config.long_range.responds
    assert solver is not None or not responds

    def find(positions: Array) -> Parts:
        moved = dataclasses.replace(system, positions=positions)
        if responds:
            return energy_parts(config, params, moved, solver)[1]
        atomic, latent = _apply(config, params, moved)
        assert latent is not None
        return Parts(atomic, charges=latent.charges, dipoles=latent.dipoles)

    def moments(positions: Array) -> Array | tuple[Array, Array]:
        parts = find(positions)
        assert parts.charges is not None
        return parts.charges if parts.dipoles is None else (parts.charges, parts.dipoles)

    positions, cell, mask = (jnp.asarray(x) for x in (system.positions, system.cell, system.atom_mask))
    # the charge of an ion is its own: it feels the field
    remove_mean = any(system.pbc) or not config.long_range.holds_charge
    result = born_effective_charges(
        moments, positions, cell, system.pbc, atom_mask=mask, epsilon_infinity=epsilon_infinity,
        remove_mean=remove_mean, acoustic_sum_rule=acoustic_sum_rule, direction=direction,
    )  # fmt: skip
    if not responds:
        return result, (None, None)
    parts = find(positions)
    return result, (parts.induction, parts.equilibration)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _born_effective_charges(
    potential: Potential,
    system: System,
    solver: ewald.Solver | None,
    epsilon_infinity: float,
    acoustic_sum_rule: bool,
    direction: int | None,
) -> tuple[Float[Array, "n 3 3"] | Float[Array, "n 3"], Solution]:
    options = (epsilon_infinity, acoustic_sum_rule, direction)
    return predict_born_charges(potential.config, potential.params, system, solver, *options)


def reference_energy(config: ModelConfig, system: System) -> Float[Array, ""]:
    """Sum of the reference energies of the elements over the real atoms, eV."""
    dtype = system.positions.dtype
    if not config.reference_energies:
        return jnp.zeros((), dtype)
    species = jnp.asarray(species_index(config.representation.elements))[system.atomic_numbers]
    per_atom = jnp.asarray(np.asarray(config.reference_energies), dtype)[species]
    return jnp.sum(jnp.where(system.atom_mask, per_atom, 0.0))


def check_elements(elements: tuple[int, ...], atomic_numbers: np.ndarray) -> None:
    """Raise ValueError for real atoms of an element that the model was not trained on."""
    unknown = sorted(set(np.unique(atomic_numbers).tolist()) - {0, *elements})
    if unknown:
        raise ValueError(
            f"`system` contains elements with atomic numbers {unknown}, but the model knows only {sorted(elements)}. "
            "Train on structures that contain them."
        )


def check_system(config: ModelConfig, system: System) -> None:
    """Raise ValueError for what the model cannot take, as far as it has values; see `check_elements`, `check_state`.

    Every call of a potential comes through here, and is refused in a forked process that would hang.
    """
    check_process()
    if not isinstance(system.atomic_numbers, Tracer):
        check_elements(config.representation.elements, np.asarray(system.atomic_numbers))
    check_state(config, system.total_charge, system.spin_multiplicity)


def check_state(config: ModelConfig, total_charge: ArrayLike, spin_multiplicity: ArrayLike) -> None:
    """Raise ValueError where the model needs a total charge or spin multiplicity that is NaN, or none."""
    needed = []
    if config.needs_total_charge:
        needed.append(("total_charge", total_charge, "in e", "charge", -1))
    if "spin_multiplicity" in config.state_inputs:
        needed.append(("spin_multiplicity", spin_multiplicity, "2S + 1", "spin", 2))
    for name, value, meaning, key, example in needed:
        if isinstance(value, Tracer):
            continue
        wanted = np.isfinite(value) if name == "total_charge" else np.greater_equal(value, 1.0)
        if not np.all(wanted):
            raise ValueError(
                f"`{name}` ({meaning}) is needed by this model, got {np.asarray(value).tolist()} (nan: not given). Set "
                f"`atoms.info[{key!r}] = {example}`, for example, before `System.from_ase`, or give `{name}` to "
                "`System.from_arrays`."
            )


def check_solved(prediction: Prediction) -> Prediction:
    """Return `prediction` if its induced or equilibrated charges were found. Does nothing while it is traced.

    Raises:
        ValueError: for a polarization catastrophe or a solution that did not converge, with the way out.
    """
    check_solution((prediction.induction, prediction.equilibration))
    return prediction


def initial_parameters(config: ModelConfig, seed: int) -> PyTree:
    """Fresh parameters; their shapes depend on the configuration alone."""
    check_process()
    number = config.representation.elements[0]
    positions = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    system = System.from_arrays(
        positions, np.zeros((3, 3)), np.full(2, number), (False, False, False), cutoff=config.representation.cutoff
    )
    return _initial_parameters(config, jax.random.key(seed), jax.tree.map(jnp.asarray, system))


@functools.partial(jax.jit, static_argnums=0)
def _initial_parameters(config: ModelConfig, key: Array, system: System) -> PyTree:
    """Compiled, what the energy would cost is left out."""
    return LesModel(config).init(key, system)
