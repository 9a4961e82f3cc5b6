"""Compiled functions of a simulation: forces, blocks of steps, and the numbers and predictions of a state.

A block runs in one `lax.while_loop`. A step counts only when its result has passed: finite, no atom thrown far,
neighbour list complete. Otherwise the block ends and returns the last good state.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ase
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lesjax import ewald
from lesjax.dynamics.energy import forces_and_virial
from lesjax.dynamics.integrators import with_mixed_dtypes
from lesjax.dynamics.momenta import temperature_of
from lesjax.dynamics.settings import Settings, make_integrator
from lesjax.models.potential import Potential, predict, predict_born_charges
from lesjax.models.prediction import Prediction
from lesjax.neighbors.verlet import NeighborList, crowded, renew, within_cutoff
from lesjax.numerics import determinant
from lesjax.properties import field_forces
from lesjax.system import System
from lesjax.units import BAR


# No atom moves this far in a sensible step, Å
MAX_MOVE = 0.7
MAX_KEPT = 4  # runs whose compiled functions are kept
# what of a system changes from state to state
OF_A_STATE = ("positions", "cell", "neighbors", "cell_shifts", "neighbor_mask", "pairs")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ForceField:
    """Arguments of the force function other than positions and cell."""

    potential: Potential
    neighbor_list: NeighborList
    solver: ewald.Plan | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Block:
    """Result of some steps.

    Attributes:
        state: state after the last good step.
        neighbor_list: neighbour list of this state, unless a flag is set.
        done: number of good steps.
        attempted: positions and cell that the last step led to, good or not.
        unhealthy: the last step was not finite, or threw an atom far away.
        observed: energies and other numbers of `state`.
    """

    state: Any
    neighbor_list: NeighborList
    done: Int[Array, ""]
    attempted: tuple[Array, Array]
    unhealthy: Bool[Array, ""]
    observed: dict[str, Array]


class compiled:
    """Method that is compiled once for each object, and may mix dtypes as jax-md does."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        function = with_mixed_dtypes(jax.jit(self.function.__get__(instance)))
        instance.__dict__[self.name] = function  # shadows this descriptor from now on
        return function


class Motion:
    """Compiled functions of a run, see `motion_of`.

    Attributes:
        settings: the run.
        template: elements, periodicity and dtype of the system.
        integrator: integrator of its ensemble.
        dof: degrees of freedom.
    """

    def __init__(self, settings: Settings, template: System, start: ase.Atoms) -> None:
        self.settings, self.template = settings, template
        self.integrator, self.dof = make_integrator(
            settings, start.get_masses(), self.force_virial, pbc=template.pbc, positions=start.positions
        )

    def energy(self, force_field: ForceField, positions: Array, cell: Array) -> Float[Array, ""]:
        """Interaction energy, eV."""
        system = within_cutoff(force_field.neighbor_list, self.template, positions, cell)
        return force_field.potential.energy(system, force_field.solver)

    @compiled
    def born_effective_charges(self, force_field: ForceField, positions: Array, cell: Array) -> Float[Array, "n 3 3"]:
        """Z* of a configuration, e."""
        system = within_cutoff(force_field.neighbor_list, self.template, positions, cell)
        potential, epsilon_infinity = force_field.potential, self.settings.epsilon_infinity
        return predict_born_charges(potential, system, force_field.solver, epsilon_infinity)[0]

    @compiled
    def force_virial(
        self, positions: Array, cell: Array, *, force_field: ForceField
    ) -> tuple[Float[Array, "n 3"], Float[Array, "3 3"]]:
        """Forces, eV/Å, and virial -dU/dε, eV, of the potential and the external field."""
        system = within_cutoff(force_field.neighbor_list, self.template, positions, cell)
        forces, virial = forces_and_virial(
            Potential.energy,
            force_field.potential,
            system,
            solver=force_field.solver,
            with_virial=self.settings.constant_pressure,
        )
        if self.settings.electric_field is not None:
            born_effective_charges = self.born_effective_charges(force_field, positions, cell)
            forces += field_forces(born_effective_charges, jnp.asarray(self.settings.electric_field, forces.dtype))
        return forces, virial

    @compiled
    def initialize(self, force_field: ForceField, positions: Array, cell: Array, masses: Array, momenta: Array) -> Any:
        """State of the integrator at these positions and momenta."""
        return self.integrator.initialize(positions, cell, masses, momenta, force_field=force_field)

    @compiled
    def run_block(self, force_field: ForceField, state: Any, cell: Array, steps: Array) -> Block:
        """Run up to `steps` steps; fewer where a flag comes up."""
        integrator = self.integrator
        fixed = {} if self.settings.constant_pressure else {"cell": cell}

        def good_so_far(carry: tuple) -> Array:
            _, neighbor_list, done, _, unhealthy = carry
            return (done < steps) & ~unhealthy & ~neighbor_list.overflow & ~neighbor_list.cell_too_small

        def step(carry: tuple) -> tuple:
            state, neighbor_list, done, _, _ = carry
            new = integrator.step(
                state, force_field=dataclasses.replace(force_field, neighbor_list=neighbor_list), **fixed
            )
            new_cell = integrator.cell(new, cell)
            moved = jnp.max(jnp.abs(new.position - state.position))
            # not `moved >= MAX_MOVE`: NaN is unhealthy, too
            healthy = (moved < MAX_MOVE) & jnp.all(jnp.isfinite(new.force)) & jnp.all(jnp.isfinite(new_cell))
            neighbor_list = renew(neighbor_list, new.position, new_cell)
            good = healthy & ~neighbor_list.overflow & ~neighbor_list.cell_too_small
            state = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)
            return state, neighbor_list, done + good.astype(done.dtype), (new.position, new_cell), ~healthy

        attempted = (state.position, integrator.cell(state, cell))
        start = (state, force_field.neighbor_list, jnp.zeros((), jnp.int32), attempted, jnp.zeros((), bool))
        state, neighbor_list, done, attempted, unhealthy = jax.lax.while_loop(good_so_far, step, start)
        observed = self.observe(dataclasses.replace(force_field, neighbor_list=neighbor_list), state, cell)
        return Block(state, neighbor_list, done, attempted, unhealthy, observed)

    def observe(self, force_field: ForceField, state: Any, cell: Array) -> dict[str, Array]:
        """Numbers of a line of the log; the energy is the interaction energy."""
        integrator = self.integrator
        cell = integrator.cell(state, cell)
        observed = {
            "temperature": temperature_of(state.momentum, state.mass, self.dof),
            "kinetic_energy": 0.5 * jnp.sum(state.momentum**2 / state.mass),
            "potential_energy": self.energy(force_field, state.position, cell),
        }
        if integrator.extra_energy is not None:
            observed["extra_energy"] = integrator.extra_energy(state)
        if integrator.pressure is not None:
            observed["pressure"] = integrator.pressure(state) / BAR
        if self.settings.constant_pressure:
            observed["volume"] = jnp.abs(determinant(cell))
        return observed

    @compiled
    def predict(self, force_field: ForceField, positions: Array, cell: Array) -> Prediction:
        """All that the potential predicts for a frame."""
        system = within_cutoff(force_field.neighbor_list, self.template, positions, cell)
        potential, with_stress = force_field.potential, all(self.template.pbc)
        return predict(potential, system, force_field.solver, with_stress=with_stress)

    @compiled
    def crowded(self, neighbor_list: NeighborList, positions: Array, cell: Array) -> Bool[Array, ""]:
        """Return whether a list lacks room for the neighbours within the cutoff at these positions."""
        return crowded(neighbor_list, positions, cell)


_kept: dict[tuple, Motion] = {}


def motion_of(settings: Settings, template: System, start: ase.Atoms) -> Motion:
    """The functions of a run; those of the last runs are kept, so that one that goes on compiles nothing again."""
    # the number of steps, positions, cell and neighbours are arguments of what is compiled
    fixed = {f.name: getattr(template, f.name) for f in dataclasses.fields(System) if f.name not in OF_A_STATE}
    at_rest = [start.positions] if settings.angular_momentum == "zero" else []  # see `make_integrator`
    arrays = map(np.asarray, [*fixed.values(), start.get_masses(), *at_rest])
    contents = tuple((x.dtype.str, x.shape, x.tobytes()) for x in arrays)
    key = (dataclasses.replace(settings, steps=Settings.steps), template.positions.dtype, contents)
    motion = _kept.pop(key, None) or Motion(settings, template, start)
    _kept[key] = motion
    while len(_kept) > MAX_KEPT:
        del _kept[next(iter(_kept))]
    return motion
