"""What a simulation writes: settings, log, trajectory, checkpoint, plot; and its progress bar.

A checkpoint names how much of the log and of the trajectory belongs to it. A run that goes on cuts off what was written
after it, and writes the same again.
"""

import csv
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ase
import ase.io
import ase.units
import jax
import jax.numpy as jnp
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import TrajectoryReader, TrajectoryWriter
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import Array, Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lesjax import io
from lesjax.dynamics.settings import Settings
from lesjax.models.potential import Potential, Prediction
from lesjax.models.storage import to_files
from lesjax.neighbor_plan import NeighborPlan, complete_cell
from lesjax.progress import progress_bar
from lesjax.system import System, electronic_state


if TYPE_CHECKING:
    from lesjax.dynamics.simulation import Simulation


class Output:
    """Files of one run."""

    def __init__(
        self, folder: pathlib.Path, settings: Settings, template: System, potential: Potential, start: ase.Atoms
    ) -> None:
        self.folder, self.settings = folder, settings
        self.trajectory = folder / f"trajectory.{settings.format}"
        self.log_file = folder / "log.csv"
        self.checkpoint_file = folder / "checkpoint.safetensors"
        self.description = {
            "settings": dataclasses.asdict(settings),
            "structure": {
                "numbers": np.asarray(template.atomic_numbers).tolist(),
                "pbc": list(template.pbc),
                "dtype": str(template.positions.dtype),
            },
            "cutoff": potential.cutoff,
            "model": hashlib.sha256(b"".join(to_files(potential).values())).hexdigest(),
            "start": digest(
                [start.positions, start.cell.array, start.get_momenta(), start.get_masses(), electronic_state(start)]
            ),
        }

    def resume(self, simulation: "Simulation") -> Any:
        """Put `simulation` where the checkpoint in the folder is; None and an empty folder where there is none.

        Raises:
            ValueError: for another run in the folder, or a damaged checkpoint.
        """
        from lesjax.dynamics.simulation import Progressed

        there = self.folder / "settings.json"
        if there.exists():
            self.check_description(json.loads(there.read_text()))
        if not self.checkpoint_file.exists():
            for path in (self.log_file, self.trajectory):
                path.unlink(missing_ok=True)
            io.write_json(there, self.description)
            return None
        try:
            with safe_open(self.checkpoint_file, framework="numpy") as file:
                kept = json.loads((file.metadata() or {})["host"])
                arrays = [jnp.asarray(file.get_tensor(f"{i:03d}")) for i in range(kept["leaves"])]
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise ValueError(
                f"The checkpoint {str(self.checkpoint_file)!r} is damaged: {error}. Delete it to start again."
            ) from error
        plan: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in kept["plan"].items()}
        pairs = dataclasses.replace(simulation.pairs, plan=NeighborPlan(**plan))
        tree = jax.tree.structure((simulation.state, pairs))
        simulation.state, simulation.pairs = jax.tree.unflatten(tree, arrays)
        solver = simulation.solver
        if solver is not None and kept["planned_cell"] is not None:
            cell = jnp.asarray(kept["planned_cell"], simulation.cell.dtype)
            from lesjax.dynamics.adapter import plan_solver

            simulation.solver = plan_solver(simulation.potential, simulation.template, simulation.state.position, cell)
        host = Progressed(**kept["progressed"])
        if host.step > self.settings.steps:
            raise ValueError(
                f"{str(self.folder)!r} holds a run of {host.step} steps already, more than `steps` = "
                f"{self.settings.steps}. Raise `steps` to go on, or choose another folder."
            )
        io.write_json(there, self.description)
        self.cut(host)
        return host

    def check_description(self, there: dict[str, Any]) -> None:
        """Raise ValueError where the folder holds another run."""
        different = self.settings.differences(there.get("settings", {}))
        here = json.loads(json.dumps(self.description))
        different += [key for key in ("structure", "cutoff") if here[key] != there.get(key)]
        # an older version did not keep them
        different += [key for key in ("model", "start") if here[key] != there.get(key, here[key])]
        if different:
            raise ValueError(
                f"{str(self.folder)!r} holds a run with other settings ({', '.join(different[:4])}). Choose another "
                "folder, or delete it."
            )

    def cut(self, host: Any) -> None:
        """Drop what was written after the checkpoint.

        Raises:
            ValueError: for a log or trajectory that lacks what was written before.
        """
        sizes = {self.log_file: host.log_size}
        if self.settings.format == "xyz":
            sizes[self.trajectory] = host.trajectory_size
        for path, size in sizes.items():
            if not path.exists() or path.stat().st_size < size:
                raise self.incomplete(path)
            with open(path, "rb+") as file:
                file.truncate(size)
        if self.settings.format == "xyz":
            return
        if not self.trajectory.exists():
            raise self.incomplete(self.trajectory)
        with TrajectoryReader(self.trajectory) as old:
            if len(old) == host.trajectory_size:
                return
            if len(old) < host.trajectory_size:
                raise self.incomplete(self.trajectory)
            with io.atomic_path(self.trajectory) as temporary, TrajectoryWriter(temporary, "w") as new:
                for i in range(host.trajectory_size):
                    new.write(old[i])

    def incomplete(self, path: pathlib.Path) -> ValueError:
        """The error of a file that was cut or removed."""
        return ValueError(
            f"{str(path)!r} lacks what was written before the last checkpoint. Put it back, or delete "
            f"{str(self.folder)!r} to start again."
        )

    def checkpoint(self, simulation: "Simulation") -> None:
        """Write a checkpoint; an earlier one is replaced in one move."""
        host = simulation.host
        host.log_size = self.log_file.stat().st_size
        if self.settings.format == "xyz":
            host.trajectory_size = self.trajectory.stat().st_size
        else:
            with TrajectoryReader(self.trajectory) as written:
                host.trajectory_size = len(written)
        leaves = jax.device_get(jax.tree.leaves((simulation.state, simulation.pairs)))
        planned = getattr(simulation.solver, "planned_cell", None)  # none for open boundaries
        kept = {
            "progressed": dataclasses.asdict(host),
            "plan": dataclasses.asdict(simulation.pairs.plan),
            "planned_cell": None if planned is None else np.asarray(planned, float).tolist(),
            "leaves": len(leaves),
        }
        arrays = {f"{i:03d}": np.asarray(leaf, order="C") for i, leaf in enumerate(leaves)}
        with io.atomic_path(self.checkpoint_file) as temporary:
            temporary.write_bytes(save(arrays, metadata={"host": json.dumps(kept)}))

    def log(self, row: dict[str, Any]) -> None:
        """Append a line; the first one is preceded by the names."""
        new = not self.log_file.exists()
        with open(self.log_file, "a") as file:
            if new:
                file.write(",".join(row) + "\n")
            file.write(",".join(str(v) if isinstance(v, int) else f"{v:.14g}" for v in row.values()) + "\n")

    def write(self, frame: ase.Atoms) -> None:
        """Append a frame to the trajectory."""
        if self.settings.format == "xyz":
            ase.io.write(self.trajectory, as_columns(frame), format="extxyz", append=True)
        else:
            with TrajectoryWriter(self.trajectory, "a") as file:
                file.write(frame)

    def finish(self, frame: ase.Atoms) -> None:
        """The last frame and the plot."""
        io.write(self.folder / "final.xyz", [as_columns(frame)])
        save_plot(self.folder / "md.png", read_log(self.log_file))


def make_frame(simulation: "Simulation", prediction: Prediction, born: Array | None) -> ase.Atoms:
    """Atoms with momenta, total charge and spin multiplicity as the start has them, and what the potential says."""
    settings, template, state = simulation.settings, simulation.template, simulation.state
    position, cell, momentum = (
        np.asarray(x, float) for x in jax.device_get((state.position, simulation.current_cell, state.momentum))
    )
    atoms = ase.Atoms(np.asarray(template.atomic_numbers), position, cell=cell, pbc=template.pbc)
    atoms.set_array("masses", simulation.masses)
    atoms.set_momenta(momentum)
    energy = float(prediction.interaction_energy) + simulation.reference_energy
    results: dict[str, Any] = {"energy": energy, "free_energy": energy, "forces": np.asarray(prediction.forces, float)}
    if prediction.stress is not None:
        results["stress"] = full_3x3_to_voigt_6_stress(np.asarray(prediction.stress, float))
    atoms.info |= simulation.info
    atoms.info["step"] = simulation.host.step
    atoms.info["time_fs"] = simulation.host.step * settings.timestep
    if prediction.charges is not None:
        charges = np.asarray(prediction.charges, float).sum(axis=1)
        results["charges"] = charges
        if settings.polarization:
            own = None if prediction.dipoles is None else np.asarray(prediction.dipoles, float).sum(axis=(0, 1))
            atoms.info |= polarization(charges, own, position, cell, template.pbc)
    if born is not None:
        results["born_effective_charges"] = np.asarray(born, float)
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def digest(arrays: Sequence[Any]) -> str:
    """Hash of the values of arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.asarray(array).tobytes())
    return found.hexdigest()


def as_columns(frame: ase.Atoms) -> ase.Atoms:
    """The frame with Born effective charges as nine columns, polarization by displacement, for a text file.

    `lesjax.io.labels` reads this name in this order.
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
    r"""Polarization of a frame, by charges and the sum `dipole` of their dipoles, under the names of its comment line.

    ``dipole``, e Å, without periodic directions. With one, ``latent_dipole``, e Å, that of the dipoles, and
    ``polarization_real`` and ``polarization_imag``: the phase
    :math:`P_a = \sum_i q_i e^{2 \pi i s_{ia}} / (2 \pi i)` along each periodic lattice direction, in e, and
    :math:`\sum_i q_i s_{ia}` along others.
    """
    if not any(pbc):
        return {"dipole": charges @ positions + (0.0 if dipole is None else dipole)}
    fractional = positions @ np.linalg.inv(complete_cell(cell, pbc))
    phase = np.exp(2j * np.pi * fractional) / (2j * np.pi)
    total = charges @ np.where(pbc, phase, fractional)
    of_charges = {"polarization_real": np.real(total), "polarization_imag": np.imag(total)}
    return of_charges if dipole is None else of_charges | {"latent_dipole": dipole}


def read_log(path: pathlib.Path) -> dict[str, Float[np.ndarray, " t"]]:
    """Columns of a log.

    Raises:
        ValueError: for a file without a line.
    """
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{str(path)!r} has no line.")
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def save_plot(path: pathlib.Path, log: dict[str, Float[np.ndarray, " t"]]) -> None:
    """Temperature, potential and conserved energy over time, and the pressure where it is there."""
    from matplotlib.figure import Figure

    panels = [("temperature_K", "temperature (K)"), ("potential_energy_eV", "potential energy (eV)")]
    panels += [(name, label) for name, label in MORE_PANELS if name in log]
    figure = Figure(figsize=(4.0 * len(panels), 3.2), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        values = log[name]
        if name == "conserved_energy_eV":
            values, label = 1e3 * (values - values[0]), "conserved energy,\nchange (meV)"
        axes.plot(1e-3 * log["time_fs"], values, color="#1f6f8b", linewidth=1)
        axes.set(xlabel="time (ps)", ylabel=label)
        axes.grid(alpha=0.3)
    with io.atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


MORE_PANELS = (("conserved_energy_eV", ""), ("pressure_bar", "pressure (bar)"), ("volume_A3", "volume (Å³)"))


@contextmanager
def progress(steps: int, done: int, quiet: bool | None) -> Iterator[Any]:
    """Progress bar with temperature, energy, steps per second and time left."""
    with progress_bar("step", steps, done, quiet) as show:

        def report(step: int, speed: float, observed: dict[str, Any], reference: float) -> None:
            energy = float(observed["potential_energy"]) + reference
            show(step, f"{float(observed['temperature']):.0f} K, {energy:.6g} eV, {speed:.3g} steps/s")

        yield report
