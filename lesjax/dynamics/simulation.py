"""Molecular dynamics with a potential: the loop on the host around compiled blocks of steps.

A block reaches to the next line of the log. If the neighbour list was too small, it returns the last good state, and
the host makes room and continues from there. The checkpoint holds the complete state, and events lie on
multiples of their intervals: a run that was killed and resumes ends like one that was not.
"""

import dataclasses
import os
import pathlib
import time

import ase
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lesjax.dynamics import records
from lesjax.dynamics.energy import allocate_pairs, make_template, plan_solver
from lesjax.dynamics.momenta import initial_momenta
from lesjax.dynamics.motion import MAX_MOVE, Block, ForceField, motion_of
from lesjax.dynamics.settings import Settings, check_structure
from lesjax.models.checks import check_solution
from lesjax.models.potential import Potential
from lesjax.neighbors.plan import NeighborPlan, grown
from lesjax.neighbors.verlet import NeighborList
from lesjax.progress import compilations


MAX_GROWTHS = 20


class SimulationError(RuntimeError):
    """The dynamics broke down; the good frames before are on disk."""


def simulate(
    potential: Potential,
    atoms: ase.Atoms,
    out: str | pathlib.Path,
    settings: Settings,
    *,
    quiet: bool | None = None,
) -> ase.Atoms:
    """Run molecular dynamics, or resume the run in the folder `out`.

    The folder gets ``settings.json``, ``log.csv``, ``trajectory.xyz`` or ``.traj``, ``checkpoint.safetensors``,
    ``final.xyz`` and ``md.png``. Velocities of `atoms` are used if it has some, without their common drift unless
    the ensemble is "langevin"; otherwise they are drawn at the temperature of the settings.

    Args:
        potential: the model.
        atoms: the first structure.
        out: folder; the same call resumes from the checkpoint there.
        settings: settings of the run.
        quiet: no progress, see `lesjax.progress.progress_bar`; by default where the output is not a terminal.

    Returns:
        The last frame.

    Raises:
        ValueError: for a structure that cannot be run, or a folder that holds another run or in which another process
            works.
        SimulationError: when energies are not finite, atoms fly apart, or atoms of a slab reach beyond the height
            of its cell; the last good frame is in the trajectory.
    """
    folder = records.run_folder(out, settings)
    with folder.locked(), compilations(quiet):
        folder.check_files()
        return Simulation(potential, atoms, out, settings).run(quiet)


class Simulation:
    """One run in progress: the state between blocks of steps.

    Attributes:
        potential: the model.
        settings: settings of the run.
        template: the system whose positions, cell and neighbours change.
        motion: compiled functions.
        cell: cell at the start, Å; see `current_cell`.
        state: state of the integrator.
        neighbor_list: neighbour list of this state.
        solver: plan of the long-range sum.
        progress: progress of the run.
        output: files of the run.
    """

    def __init__(self, potential: Potential, atoms: ase.Atoms, folder: str | os.PathLike, settings: Settings) -> None:
        self.potential, self.settings = potential, settings
        self.template = make_template(potential, atoms, None)
        self.output = records.Output(folder, settings, self.template, potential, atoms)
        self.output.check()
        check_structure(settings, potential, self.template, atoms)
        self.motion = motion_of(settings, self.template, atoms)
        momenta = initial_momenta(
            atoms,
            settings.temperature,
            settings.seed,
            without_rotation=settings.angular_momentum == "zero",
            conserves_momentum=settings.scheme(self.template.pbc).conserves_momentum,
        )

        dtype = self.template.positions.dtype
        positions, self.cell = jnp.asarray(self.template.positions), jnp.asarray(self.template.cell)
        self.neighbor_list = self.allocate(positions, self.cell, None)
        self.solver = plan_solver(potential, self.template, positions, self.cell)
        arrays = (positions, self.cell, jnp.asarray(atoms.get_masses(), dtype), jnp.asarray(momenta, dtype))
        self.state = self.motion.initialize(self.force_field, *arrays)
        self.progress = records.MDProgress()
        restored = self.output.resume(self.state, self.neighbor_list)
        if restored is not None:
            self.state, self.neighbor_list, self.progress, planned_cell = restored
            if planned_cell is not None:
                planned_cell = jnp.asarray(planned_cell, dtype)
                self.solver = plan_solver(potential, self.template, self.state.position, planned_cell)

    @property
    def force_field(self) -> ForceField:
        """Current potential, neighbours and plan."""
        return ForceField(self.potential.core(), self.neighbor_list, self.solver)

    @property
    def current_cell(self) -> Array:
        """Current cell, Å."""
        return self.motion.integrator.cell(self.state, self.cell)

    def allocate(self, positions: Array, cell: Array, at_least: NeighborPlan | None) -> NeighborList:
        """Make a neighbour list for these positions."""
        return allocate_pairs(self.potential, self.template, positions, cell, self.settings.skin, at_least)

    def run_block(self, steps: int) -> Block:
        """Run up to `steps` steps from here, without keeping the result."""
        return self.motion.run_block(self.force_field, self.state, self.cell, jnp.asarray(steps, jnp.int32))

    def run(self, quiet: bool | None) -> ase.Atoms:
        """Run all remaining steps."""
        settings, progress, output = self.settings, self.progress, self.output
        compiled = progress.step == 0
        with output.progress_bar(progress.step, quiet) as report:
            if progress.step == 0:
                observed = self.run_block(0).observed
                output.log(progress, observed)
                output.write(self.frame())
                report(0, observed)
            while progress.step < settings.steps:
                started, before = time.perf_counter(), progress.step
                intervals = (settings.log_every, settings.frame_every, settings.checkpoint_every)
                target = min([settings.steps, *((progress.step // k + 1) * k for k in intervals)])
                observed = self.advance(target)
                if target % settings.log_every == 0:
                    output.log(progress, observed)
                if target % settings.frame_every == 0:
                    output.write(self.frame())
                self.replan_if_drifted()
                if target % settings.checkpoint_every == 0 or target == settings.steps:
                    output.checkpoint(self.state, self.neighbor_list, progress, self.solver)
                speed = (target - before) / (time.perf_counter() - started)
                report(progress.step, observed, speed if compiled else None)
                compiled = True
        if settings.steps % settings.log_every:  # after the checkpoint: a longer run has no such line
            output.log(progress, self.run_block(0).observed)
        final = self.frame()
        output.finish(final)
        return final

    def advance(self, target: int) -> dict[str, np.ndarray]:
        """Run to this step, making room for neighbours where needed; returns the numbers observed there."""
        growths = 0
        while True:
            block = self.run_block(target - self.progress.step)
            done, unhealthy, overflow, too_small, observed = jax.device_get(
                (block.done, block.unhealthy, block.neighbor_list.overflow, block.neighbor_list.cell_too_small,
                 block.observed)
            )  # fmt: skip
            self.state, self.progress.step = block.state, self.progress.step + int(done)
            unhealthy = unhealthy or not np.isfinite(observed["potential_energy"])
            # forces of atoms without room for their neighbours are not finite
            overflow = overflow or (unhealthy and self.motion.crowded(block.neighbor_list, *block.attempted))
            if unhealthy and not overflow and not too_small:
                self.stop(block)
            if not overflow and not too_small:
                self.neighbor_list = block.neighbor_list
                return observed
            growths = 0 if done else growths + 1
            if growths > MAX_GROWTHS:
                raise SimulationError(
                    f"The neighbour list keeps overflowing at step {self.progress.step}. Raise `skin`."
                )
            # sizes that suffice at both ends of the step that failed
            old = self.neighbor_list.plan
            plan = self.allocate(*block.attempted, grown(old) if growths > 1 else old).plan
            self.neighbor_list = self.allocate(self.state.position, self.current_cell, plan)

    def replan_if_drifted(self) -> None:
        """Plan the Ewald sum again where the cell has left the range of the plan."""
        cell = self.current_cell
        if self.solver is None or self.solver.still_valid(cell):
            return
        before = self.potential_energy()
        self.solver = plan_solver(self.potential, self.template, self.state.position, cell)
        self.progress.energy_offset += before - self.potential_energy()
        self.progress.replanned += 1
        # the next step starts with forces of the new plan
        force, virial = self.motion.force_virial(self.state.position, cell, force_field=self.force_field)
        self.state = dataclasses.replace(self.state, force=force, virial=virial)

    def potential_energy(self) -> float:
        """Interaction energy of this configuration, eV."""
        return float(self.run_block(0).observed["potential_energy"])

    def stop(self, block: Block) -> None:
        """Keep the last good frame and raise."""
        self.neighbor_list = self.allocate(self.state.position, self.current_cell, self.neighbor_list.plan)
        self.output.write(self.frame())
        moved = np.abs(np.asarray(block.attempted[0]) - np.asarray(self.state.position)).max(axis=1)
        atom, step = int(np.argmax(np.nan_to_num(moved, nan=np.inf))), self.progress.step
        how = f"atom {atom} would move by {moved[atom]:.3g} Å" if moved[atom] >= MAX_MOVE else "it is not finite"
        raise SimulationError(
            f"Step {step + 1} broke down: {how}. The frame of step {step} is the last one in "
            f"{str(self.output.trajectory)!r}. Lower `timestep`, relax the structure first, or train on configurations "
            "like this one."
        )

    def frame(self) -> ase.Atoms:
        """This configuration with the potential's predictions.

        Raises:
            SimulationError: for a configuration without a prediction.
        """
        configuration = (self.state.position, self.current_cell)
        try:
            if self.solver is not None:
                self.solver.check_atoms(*(np.asarray(x, float) for x in configuration))
            prediction = self.motion.predict(self.force_field, *configuration)
            check_solution(prediction.induction, prediction.equilibration)
        except ValueError as error:
            raise SimulationError(f"Step {self.progress.step}: {error}") from error
        born_effective_charges = None
        if self.settings.born_effective_charges:
            born_effective_charges = self.motion.born_effective_charges(self.force_field, *configuration)
        momenta = self.state.momentum
        return self.output.frame(self.progress.step, *configuration, momenta, prediction, born_effective_charges)
