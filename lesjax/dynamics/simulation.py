"""Molecular dynamics with a potential: the loop on the host around compiled stretches of steps.

A stretch runs in one `lax.while_loop` until the next line of the log. A step counts only when its result has passed:
finite, no atom thrown far, neighbour list complete. If the list was too small, the stretch returns the last good state,
the host makes room and goes on from there. Everything that the future depends on is in the checkpoint, and events lie
on multiples of their intervals: a run that was killed goes on as if it had not been.
"""

import dataclasses
import pathlib
import time
import warnings
from dataclasses import dataclass
from typing import Any

import ase
import ase.units
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lesjax import ewald
from lesjax.dynamics import adapter, records
from lesjax.dynamics.ensembles import (
    Ensemble,
    count_rotations,
    forces_and_virial,
    leniently,
    make_ensemble,
    maxwell_boltzmann,
    remove_drift,
    remove_rotation,
    temperature_of,
)
from lesjax.dynamics.settings import Settings, check_structure
from lesjax.io import exclusive
from lesjax.models.checks import check_solution
from lesjax.models.potential import Potential, Prediction, predict, predict_born_charges
from lesjax.neighbors.plan import NeighborPlan, grown
from lesjax.neighbors.verlet import NeighborList, crowded, renew, within_cutoff
from lesjax.numerics import determinant
from lesjax.properties import field_forces
from lesjax.system import electronic_info


# No atom moves that far in a sensible step, Å
MAX_MOVE = 0.7
MAX_GROWTHS = 20


class SimulationError(RuntimeError):
    """The dynamics broke down; what was good before is on disk."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class World:
    """What forces depend on besides the positions."""

    potential: Potential
    pairs: NeighborList
    solver: ewald.Solver | None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stretch:
    """Result of some steps.

    Attributes:
        state: after the last good step.
        pairs: of this state, unless a flag is set.
        done: number of good steps.
        attempted: positions and cell that the last step led to, good or not.
        unhealthy: the last step was not finite, or threw an atom far away.
        observed: energies and the like of `state`.
    """

    state: Any
    pairs: NeighborList
    done: Array
    attempted: tuple[Array, Array]
    unhealthy: Array
    observed: dict[str, Array]


@dataclass
class Progressed:
    """What the host keeps between stretches; part of each checkpoint.

    Attributes:
        step: steps done.
        energy_offset: energy that changes of the Ewald plan have taken from the conserved quantity, eV.
        replanned: how often that happened.
        log_size, trajectory_size: what is on disk, in bytes; frames of ase's format.
    """

    step: int = 0
    energy_offset: float = 0.0
    replanned: int = 0
    log_size: int = 0
    trajectory_size: int = 0


def simulate(
    potential: Potential,
    atoms: ase.Atoms,
    out: str | pathlib.Path,
    settings: Settings,
    *,
    quiet: bool | None = None,
) -> ase.Atoms:
    """Run molecular dynamics, or go on with the run in the folder `out`.

    The folder gets ``settings.json``, ``log.csv``, ``trajectory.xyz`` or ``.traj``, ``checkpoint.safetensors``,
    ``final.xyz`` and ``md.png``. Velocities of `atoms` are used where it has some, without their common drift unless
    the ensemble is "langevin"; otherwise they are drawn at the temperature of the settings.

    Args:
        potential: the model.
        atoms: the first structure.
        out: folder; the same call goes on from the checkpoint there.
        settings: what to run.
        quiet: no progress bar; by default where the output is no terminal.

    Returns:
        The last frame.

    Raises:
        ValueError: for a structure that cannot be run, or a folder that holds another run or in which another process
            works.
        SimulationError: when energies are not finite, atoms fly apart, or those of a slab reach beyond the height of
            its cell; the last good frame is in the trajectory.
    """
    with exclusive(out):
        return Simulation(potential, atoms, pathlib.Path(out), settings).run(quiet)


class Simulation:
    """One run in progress: compiled functions, and the state between stretches."""

    def __init__(self, potential: Potential, atoms: ase.Atoms, folder: pathlib.Path, settings: Settings) -> None:
        self.potential, self.folder, self.settings = potential, folder, settings
        self.template = adapter.make_template(potential, atoms, None)
        check_structure(settings, potential, self.template, atoms)
        self.masses = atoms.get_masses()
        self.info = electronic_info(atoms)
        dtype = self.template.positions.dtype
        self.cell = jnp.asarray(self.template.cell)
        self.reference_energy = potential.config.reference_energy(atoms.numbers)
        still = settings.angular_momentum == "zero"
        self.ensemble: Ensemble = make_ensemble(
            settings,
            len(atoms),
            self.force_virial,
            pbc=self.template.pbc,
            still_rotations=count_rotations(self.masses, atoms.positions) if still else 0,
        )
        self.stretch = leniently(jax.jit(self.run_stretch))
        self.initialize = leniently(jax.jit(self.make_state))
        self.predict = jax.jit(self.make_prediction)
        self.crowded = jax.jit(crowded)
        self.forces = leniently(jax.jit(self.force_virial))
        self.born = leniently(jax.jit(self.born_effective_charges))

        momenta = self.first_momenta(atoms)
        positions = jnp.asarray(self.template.positions)
        self.pairs = self.allocate(positions, self.cell, None)
        self.solver = adapter.plan_solver(potential, self.template, positions, self.cell)
        self.host = Progressed()
        arrays = (positions, self.cell, jnp.asarray(self.masses, dtype), jnp.asarray(momenta, dtype))
        self.state = self.initialize(self.world, *arrays)
        self.output = records.Output(folder, settings, self.template, potential, atoms)
        kept = self.output.resume(self)
        if kept is not None:
            self.host = kept

    # what is compiled ---------------------------------------------------------------------------------------------

    def force_virial(self, positions: Array, cell: Array, *, world: World) -> tuple[Array, Array]:
        """Forces and virial -dU/dε of the potential and the external field."""

        system = within_cutoff(world.pairs, self.template, positions, cell)
        forces, virial = forces_and_virial(
            Potential.energy,
            world.potential,
            system,
            solver=world.solver,
            with_virial=self.settings.constant_pressure,
        )
        if self.settings.electric_field is not None:
            born = self.born_effective_charges(world, positions, cell)
            forces += field_forces(born, jnp.asarray(self.settings.electric_field, forces.dtype))
        return forces, virial

    def born_effective_charges(self, world: World, positions: Array, cell: Array) -> Float[Array, "n 3 3"]:
        """Z* of this configuration, e."""
        system = within_cutoff(world.pairs, self.template, positions, cell)
        potential = world.potential
        epsilon_infinity = self.settings.epsilon_infinity
        return predict_born_charges(potential, system, world.solver, epsilon_infinity)[0]

    def make_state(self, world: World, positions: Array, cell: Array, masses: Array, momenta: Array) -> Any:
        """State of the integrator at these positions and momenta."""
        return self.ensemble.initialize(positions, cell, masses, momenta, world=world)

    def run_stretch(self, world: World, state: Any, cell: Array, steps: Array) -> Stretch:
        """Up to `steps` steps; fewer where a flag comes up."""
        fixed = {} if self.settings.constant_pressure else {"cell": cell}

        def go_on(carry: tuple) -> Array:
            _, pairs, done, _, unhealthy = carry
            return (done < steps) & ~unhealthy & ~pairs.overflow & ~pairs.cell_too_small

        def step(carry: tuple) -> tuple:
            state, pairs, done, _, _ = carry
            new = self.ensemble.step(state, world=dataclasses.replace(world, pairs=pairs), **fixed)
            new_cell = self.ensemble.cell(new, cell)
            moved = jnp.max(jnp.abs(new.position - state.position))
            # not `moved >= MAX_MOVE`: what is not finite is unhealthy, too
            healthy = (moved < MAX_MOVE) & jnp.all(jnp.isfinite(new.force)) & jnp.all(jnp.isfinite(new_cell))
            pairs = renew(pairs, new.position, new_cell)
            good = healthy & ~pairs.overflow & ~pairs.cell_too_small
            kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)
            return kept, pairs, done + good.astype(done.dtype), (new.position, new_cell), ~healthy

        start = (state, world.pairs, jnp.zeros((), jnp.int32), (state.position, self.ensemble.cell(state, cell)))
        carry = jax.lax.while_loop(go_on, step, (*start, jnp.zeros((), bool)))
        state, pairs, done, attempted, unhealthy = carry
        observed = self.observe(dataclasses.replace(world, pairs=pairs), state, cell)
        return Stretch(state, pairs, done, attempted, unhealthy, observed)

    def observe(self, world: World, state: Any, cell: Array) -> dict[str, Array]:
        """The numbers of a line of the log, energies without those of the elements."""
        cell = self.ensemble.cell(state, cell)
        system = within_cutoff(world.pairs, self.template, state.position, cell)
        observed = {
            "temperature": temperature_of(state.momentum, state.mass, self.ensemble.dof),
            "kinetic_energy": 0.5 * jnp.sum(state.momentum**2 / state.mass),
            "potential_energy": world.potential.energy(system, world.solver),
        }
        if self.ensemble.extra_energy is not None:
            observed["extra_energy"] = self.ensemble.extra_energy(state)
        if self.ensemble.pressure is not None:
            observed["pressure"] = self.ensemble.pressure(state) / (1e-4 * ase.units.GPa)
        if self.settings.constant_pressure:
            observed["volume"] = jnp.abs(determinant(cell))
        return observed

    def make_prediction(self, world: World, positions: Array, cell: Array) -> Prediction:
        """All that the potential says of a frame."""
        system = within_cutoff(world.pairs, self.template, positions, cell)
        with_stress = all(self.template.pbc)
        return predict(world.potential, system, world.solver, with_stress=with_stress)

    # the loop on the host -----------------------------------------------------------------------------------------

    @property
    def world(self) -> World:
        """Potential, neighbours and plan as they are now."""
        return World(self.potential.core(), self.pairs, self.solver)

    @property
    def current_cell(self) -> Array:
        """The cell as it is now."""
        return self.ensemble.cell(self.state, self.cell)

    def run(self, quiet: bool | None) -> ase.Atoms:
        """All steps that are left."""
        settings, host = self.settings, self.host
        with records.progress(settings.steps, host.step, quiet) as report:
            if host.step == 0:
                result = self.stretch(self.world, self.state, self.cell, jnp.asarray(0, jnp.int32))
                self.log(result.observed)
                self.write_frame()
            while host.step < settings.steps:
                started, before = time.perf_counter(), host.step
                intervals = (settings.log_every, settings.frame_every, settings.checkpoint_every)
                target = min([settings.steps, *((host.step // k + 1) * k for k in intervals)])
                observed = self.advance(target)
                if target % settings.log_every == 0 or target == settings.steps:
                    self.log(observed)
                if target % settings.frame_every == 0:
                    self.write_frame()
                self.replan_if_drifted()
                if target % settings.checkpoint_every == 0 or target == settings.steps:
                    self.output.checkpoint(self)
                report(host.step, (target - before) / (time.perf_counter() - started), observed, self.reference_energy)
        final = self.frame()
        self.output.finish(final)
        return final

    def advance(self, target: int) -> dict[str, np.ndarray]:
        """Go on to this step, with room made for neighbours where it is needed."""
        growths = 0
        while True:
            left = jnp.asarray(target - self.host.step, jnp.int32)
            result = self.stretch(self.world, self.state, self.cell, left)
            done, unhealthy, overflow, too_small, observed = jax.device_get(
                (result.done, result.unhealthy, result.pairs.overflow, result.pairs.cell_too_small, result.observed)
            )
            self.state, self.host.step = result.state, self.host.step + int(done)
            unhealthy = unhealthy or not np.isfinite(observed["potential_energy"])
            # forces of atoms for whose neighbours there was no room are not finite
            overflow = overflow or (unhealthy and self.crowded(result.pairs, *result.attempted))
            if unhealthy and not overflow and not too_small:
                self.stop(result)
            if not overflow and not too_small:
                self.pairs = result.pairs
                return observed
            growths = 0 if done else growths + 1
            if growths > MAX_GROWTHS:
                raise SimulationError(f"The neighbour list keeps overflowing at step {self.host.step}. Raise `skin`.")
            # sizes that suffice at both ends of the step that failed
            old = self.pairs.plan
            positions, cell = result.attempted
            plan = self.allocate(positions, cell, grown(old) if growths > 1 else old).plan
            self.pairs = self.allocate(self.state.position, self.current_cell, plan)

    def replan_if_drifted(self) -> None:
        """Plan the Ewald sum anew where the cell has left the range of the plan."""
        cell = self.current_cell
        if self.solver is None or self.solver.still_valid(cell):
            return
        before = self.potential_energy()
        self.solver = adapter.plan_solver(self.potential, self.template, self.state.position, cell)
        self.host.energy_offset += before - self.potential_energy()
        self.host.replanned += 1
        # the next step starts with forces of the new plan
        force, virial = self.forces(self.state.position, cell, world=self.world)
        self.state = dataclasses.replace(self.state, force=force, virial=virial)

    def potential_energy(self) -> float:
        """Energy of this configuration without that of the elements, eV."""
        result = self.stretch(self.world, self.state, self.cell, jnp.asarray(0, jnp.int32))
        return float(result.observed["potential_energy"])

    def stop(self, result: Stretch) -> None:
        """Keep the last good frame and raise."""
        self.pairs = self.allocate(self.state.position, self.current_cell, self.pairs.plan)
        self.write_frame()
        moved = np.abs(np.asarray(result.attempted[0]) - np.asarray(self.state.position)).max(axis=1)
        atom = int(np.argmax(np.nan_to_num(moved, nan=np.inf)))
        how = f"atom {atom} would move by {moved[atom]:.3g} Å" if moved[atom] >= MAX_MOVE else "it is not finite"
        raise SimulationError(
            f"Step {self.host.step + 1} broke down: {how}. The frame of step {self.host.step} is the last one in "
            f"{str(self.output.trajectory)!r}. Lower `timestep`, relax the structure first, or train on configurations "
            "like this one."
        )

    def log(self, observed: dict[str, Any]) -> None:
        """A line of the log."""
        values = {name: float(value) for name, value in jax.device_get(observed).items()}
        potential, extra = values.pop("potential_energy"), values.pop("extra_energy", None)
        time_fs = self.host.step * self.settings.timestep
        row = {"step": self.host.step, "time_fs": time_fs, "temperature_K": values["temperature"]}
        row["potential_energy_eV"] = potential + self.reference_energy
        row["total_energy_eV"] = row["potential_energy_eV"] + values["kinetic_energy"]
        if extra is not None:
            row["conserved_energy_eV"] = row["total_energy_eV"] + extra + self.host.energy_offset
        row |= {
            f"{name}_{unit}": values[name] for name, unit in (("pressure", "bar"), ("volume", "A3")) if name in values
        }
        self.output.log(row)

    def frame(self) -> ase.Atoms:
        """This configuration with what the potential says of it."""
        try:
            if self.solver is not None:
                positions, cell = (np.asarray(x, float) for x in (self.state.position, self.current_cell))
                self.solver.check_atoms(positions, cell)
            prediction = self.predict(self.world, self.state.position, self.current_cell)
            check_solution(prediction.induction, prediction.equilibration)
        except ValueError as error:
            raise SimulationError(f"Step {self.host.step}: {error}") from error
        born = None
        if self.settings.born_effective_charges:
            born = self.born(self.world, self.state.position, self.current_cell)
        return records.make_frame(self, prediction, born)

    def write_frame(self) -> None:
        """Append this configuration to the trajectory."""
        self.output.write(self.frame())

    # the start ----------------------------------------------------------------------------------------------------

    def allocate(self, positions: Array, cell: Array, at_least: NeighborPlan | None) -> NeighborList:
        """A list for these positions; host only."""
        return adapter.allocate_pairs(self.potential, self.template, positions, cell, self.settings.skin, at_least)

    def first_momenta(self, atoms: ase.Atoms) -> Float[np.ndarray, "n 3"]:
        """Momenta of the structure, or drawn at random."""
        momenta = atoms.get_momenta()
        still = self.settings.angular_momentum == "zero"
        if np.any(momenta):
            if self.ensemble.conserves_momentum:  # its degrees of freedom do not count a drift
                momenta = remove_drift(momenta, self.masses)
            return remove_rotation(momenta, self.masses, atoms.positions) if still else momenta
        if self.settings.temperature is None:
            raise ValueError("`temperature` is missing: the structure has no velocities to start with.")
        if self.settings.temperature == 0:
            return momenta
        for name in sorted({"vel", "velo", "velocity", "velocities"} & set(atoms.arrays)):
            warnings.warn(
                f"Velocities are drawn at random: the unit of column {name!r} is not known. To start from it, write "
                "`momenta` in ase's units, `atoms.set_velocities(...)`.",
                stacklevel=2,
            )
        rng = np.random.default_rng(self.settings.seed)
        about = atoms.positions if still else None
        return maxwell_boltzmann(self.masses, self.settings.temperature, rng, without_rotation=about)
