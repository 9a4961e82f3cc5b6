"""Output of a simulation: settings, log, trajectory, checkpoint, plot; and its progress bar."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import ase
import ase.io
import jax
import jax.numpy as jnp
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import TrajectoryWriter
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import Array, Float

from lesjax import ewald, io
from lesjax.dynamics.settings import Settings
from lesjax.files import atomic_path, naming
from lesjax.models.potential import Potential, variables
from lesjax.models.prediction import Prediction
from lesjax.models.storage import to_files
from lesjax.neighbors.host import bring_home, complete_cell
from lesjax.neighbors.plan import NeighborPlan
from lesjax.neighbors.verlet import NeighborList
from lesjax.progress import progress_bar
from lesjax.runs import RunFolder, read_table, simulation_folder
from lesjax.system import System, electronic_info, electronic_state


# Bytes at the start of ase's binary format in which appending changes the number of frames and where their table is.
ULM_HEADER = 48
SECONDS = 5.0  # between two lines of progress


@dataclass
class MDProgress:
    """State on the host between blocks of steps; part of each checkpoint.

    Attributes:
        step: steps done.
        energy_offset: energy that changes of the Ewald plan have taken from the conserved quantity, eV.
        replanned: number of such changes.
    """

    step: int = 0
    energy_offset: float = 0.0
    replanned: int = 0


class Restored(NamedTuple):
    """State of a run at its last checkpoint.

    Attributes:
        state: state of the integrator.
        neighbor_list: neighbour list of this state.
        progress: progress of the run.
        planned_cell: cell of the plan of the long-range sum; None if the plan does not depend on the cell.
    """

    state: Any
    neighbor_list: NeighborList
    progress: MDProgress
    planned_cell: Float[np.ndarray, "3 3"] | None


def run_folder(path: str | os.PathLike, settings: Settings) -> RunFolder:
    """Return the folder of a simulation."""
    return simulation_folder(path, settings.format)


class Output:
    """Files of one run.

    Attributes:
        folder: the folder.
        trajectory: path of the trajectory.
        turns: lattice vectors that were taken from each atom at the start, [n, 3]; frames have them.
        origin: what was taken from all, Å; likewise.
        reference_energy: sum of the energies of the elements, eV, which interaction energies lack.
    """

    def __init__(
        self, folder: str | os.PathLike, settings: Settings, template: System, potential: Potential, start: ase.Atoms
    ) -> None:
        self.folder, self.settings, self.template = run_folder(folder, settings), settings, template
        self.trajectory = self.folder.path / f"trajectory.{settings.format}"
        self.masses, self.info = start.get_masses(), electronic_info(start)
        _, self.turns, self.origin = bring_home(start.positions, start.cell.array, template.pbc)
        self.reference_energy = potential.config.reference_energy(start.numbers)
        self.dtype = str(template.positions.dtype)
        self.run = dataclasses.asdict(settings) | {
            "numbers": np.asarray(template.atomic_numbers).tolist(),
            "pbc": list(template.pbc),
            "model": hashlib.sha256(b"".join(to_files(potential.config, variables(potential)).values())).hexdigest(),
            "start": digest(
                [start.positions, start.cell.array, start.get_momenta(), start.get_masses(), electronic_state(start)]
            ),
        }

    def check(self) -> None:
        """Refuse a folder of other files or another run, see `RunFolder.check`."""
        self.folder.check(self.run, dtype=self.dtype)

    def resume(self, state: Any, neighbor_list: NeighborList) -> Restored | None:
        """Return the run at the checkpoint in the folder; None and a folder without results where there is none.

        Args:
            state: a state of the same structure.
            neighbor_list: a neighbour list of the same structure.

        Raises:
            ValueError: for another run in the folder, or a damaged checkpoint.
        """
        folder, settings = self.folder, self.settings
        folder.remove_leftovers()
        checkpoint = folder.read_checkpoint()
        if checkpoint is None:
            folder.rewind(None)
            folder.write_description({"dtype": self.dtype, "run": self.run})
            return None
        host = checkpoint.host
        try:
            plan: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in host["plan"].items()}
            tree = jax.tree.structure((state, dataclasses.replace(neighbor_list, plan=NeighborPlan(**plan))))
            arrays = [jnp.asarray(checkpoint.arrays[name]) for name in sorted(checkpoint.arrays)]
            state, neighbor_list = jax.tree.unflatten(tree, arrays)
            progress = MDProgress(**host["progress"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{str(folder.checkpoint)!r} does not fit the run: {error}. Delete it to start again."
            ) from error
        if progress.step > settings.steps:
            raise ValueError(
                f"{str(folder.path)!r} holds a run of {progress.step} steps already, more than `steps` = "
                f"{settings.steps}. Raise `steps` to continue it, or choose another folder."
            )
        folder.write_description({"dtype": self.dtype, "run": self.run})
        folder.rewind(checkpoint)
        if settings.format == "traj":
            with open(self.trajectory, "rb+") as file:
                file.write(bytes.fromhex(host["trajectory_header"]))
        cell = host["planned_cell"]
        return Restored(state, neighbor_list, progress, None if cell is None else np.asarray(cell))

    def checkpoint(
        self, state: Any, neighbor_list: NeighborList, progress: MDProgress, solver: ewald.Plan | None
    ) -> None:
        """Write a checkpoint; an earlier one is replaced atomically."""
        planned = getattr(solver, "planned_cell", None)  # none for open boundaries
        host: dict[str, Any] = {
            "progress": dataclasses.asdict(progress),
            "plan": dataclasses.asdict(neighbor_list.plan),
            "planned_cell": None if planned is None else np.asarray(planned, float).tolist(),
        }
        if self.settings.format == "traj":
            with open(self.trajectory, "rb") as file:
                host["trajectory_header"] = file.read(ULM_HEADER).hex()
        leaves = jax.device_get(jax.tree.leaves((state, neighbor_list)))
        arrays = {f"{i:03d}": np.asarray(x, order="C") for i, x in enumerate(leaves)}
        self.folder.write_checkpoint(arrays, host, f"step {progress.step}")

    def log(self, progress: MDProgress, observed: dict[str, Any]) -> None:
        """Append a line with the observed numbers, see `Motion.observe`, and the energies of the elements."""
        values = {name: float(value) for name, value in jax.device_get(observed).items()}
        row = {"step": progress.step, "time_fs": progress.step * self.settings.timestep}
        row["temperature_K"] = values["temperature"]
        row["potential_energy_eV"] = values["potential_energy"] + self.reference_energy
        row["total_energy_eV"] = row["potential_energy_eV"] + values["kinetic_energy"]
        if "extra_energy" in values:
            row["conserved_energy_eV"] = row["total_energy_eV"] + values["extra_energy"] + progress.energy_offset
        for name, unit in (("pressure", "bar"), ("volume", "A3")):
            if name in values:
                row[f"{name}_{unit}"] = values[name]
        self.folder.append(row)

    def frame(
        self, step: int, position: Array, cell: Array, momentum: Array, prediction: Prediction, born: Array | None
    ) -> ase.Atoms:
        """Atoms with momenta, total charge and spin multiplicity of the start, and the potential's predictions."""
        pbc = self.template.pbc
        positions, cell_now, momenta = (np.asarray(x, float) for x in jax.device_get((position, cell, momentum)))
        positions = positions + self.turns @ cell_now + self.origin
        atoms = ase.Atoms(np.asarray(self.template.atomic_numbers), positions, cell=cell_now, pbc=pbc)
        atoms.set_array("masses", self.masses)
        atoms.set_momenta(momenta)
        energy = float(prediction.energy) + self.reference_energy
        forces = np.asarray(prediction.forces, float)
        results: dict[str, Any] = {"energy": energy, "free_energy": energy, "forces": forces}
        if prediction.stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(np.asarray(prediction.stress, float))
        atoms.info |= self.info | {"step": step, "time_fs": step * self.settings.timestep}
        if prediction.charges is not None:
            charges = np.asarray(prediction.charges, float).sum(axis=1)
            results["charges"] = charges
            if self.settings.polarization:
                dipoles = prediction.dipoles
                dipole = None if dipoles is None else np.asarray(dipoles, float).sum(axis=(0, 1))
                atoms.info |= polarization(charges, dipole, positions, cell_now, pbc)
        if born is not None:
            results["born_effective_charges"] = np.asarray(born, float)
        atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms

    def write(self, frame: ase.Atoms) -> None:
        """Append a frame to the trajectory."""
        with naming(self.trajectory):
            if self.settings.format == "xyz":
                ase.io.write(self.trajectory, as_columns(frame), format="extxyz", append=True)
            else:
                with TrajectoryWriter(self.trajectory, "a") as file:
                    file.write(frame)

    def finish(self, frame: ase.Atoms) -> None:
        """Write the last frame and the plot."""
        io.write(self.folder.path / "final.xyz", [as_columns(frame)])
        save_plot(self.folder.path / "md.png", read_table(self.folder.log))

    @contextmanager
    def progress_bar(self, done: int, quiet: bool | None) -> Iterator[Callable[..., None]]:
        """Show progress with temperature, energy and steps per second; yields the function that does it."""
        with progress_bar("step", self.settings.steps, done, quiet, SECONDS) as show:

            def report(step: int, observed: dict[str, Any], speed: float | None = None) -> None:
                energy = float(observed["potential_energy"]) + self.reference_energy
                text = f"{float(observed['temperature']):.0f} K, {energy:.6g} eV"
                show(step, text if speed is None else f"{text}, {speed:.3g} steps/s")

            yield report


def digest(arrays: Sequence[Any]) -> str:
    """Hash of the values of arrays."""
    hasher = hashlib.sha256()
    for array in arrays:
        hasher.update(np.asarray(array).tobytes())
    return hasher.hexdigest()


def as_columns(frame: ase.Atoms) -> ase.Atoms:
    """Return the frame with Born effective charges as nine columns, polarization by displacement, for a text file.

    `lesjax.io.references` reads this name in this order.
    """
    results = dict(frame.calc.results) if frame.calc is not None else {}
    if "born_effective_charges" not in results:
        return frame
    copy = frame.copy()
    copy.set_array("born_effective_charges", results.pop("born_effective_charges").reshape(len(frame), 9))
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def polarization(
    charges: Float[np.ndarray, " n"], dipole: Float[np.ndarray, "3"] | None, positions: Float[np.ndarray, "n 3"],
    cell: Float[np.ndarray, "3 3"], pbc: tuple[bool, bool, bool],
) -> dict[str, np.ndarray]:  # fmt: skip
    r"""Polarization of a frame, from charges and the sum `dipole` of dipoles, under the names of its comment line.

    ``dipole``, e Å, without periodic directions. With one, ``latent_dipole``, e Å, the sum of the dipoles, and
    ``polarization_real`` and ``polarization_imag``: the phase :math:`P_a = \sum_i q_i e^{2 \pi i s_{ia}} / (2 \pi i)`
    along each periodic lattice direction, in e, and :math:`\sum_i q_i s_{ia}` along others.
    """
    if not any(pbc):
        return {"dipole": charges @ positions + (0.0 if dipole is None else dipole)}
    fractional = positions @ np.linalg.inv(complete_cell(cell, pbc))
    phase = np.exp(2j * np.pi * fractional) / (2j * np.pi)
    total = charges @ np.where(pbc, phase, fractional)
    of_charges = {"polarization_real": np.real(total), "polarization_imag": np.imag(total)}
    return of_charges if dipole is None else of_charges | {"latent_dipole": dipole}


def save_plot(path: pathlib.Path, log: dict[str, Float[np.ndarray, " t"]]) -> None:
    """Plot temperature, potential and conserved energy over time, and the pressure if it was logged."""
    from matplotlib.figure import Figure

    panels = [("temperature_K", "temperature (K)"), ("potential_energy_eV", "potential energy (eV)")]
    panels += [(name, label) for name, label in MORE_PANELS if name in log]
    figure = Figure(figsize=(4.0 * len(panels), 3.2), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        values = log[name]
        if name == "conserved_energy_eV":
            values, label = values - values[0], "conserved energy,\nchange (eV)"
        axes.plot(1e-3 * log["time_fs"], values, color="#1f6f8b", linewidth=1)
        axes.set(xlabel="time (ps)", ylabel=label)
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


MORE_PANELS = (("conserved_energy_eV", ""), ("pressure_bar", "pressure (bar)"), ("volume_A3", "volume (Å³)"))
