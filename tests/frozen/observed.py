"""What the frozen record holds of a potential: the only place that follows the names of the redesign."""

import dataclasses
import pathlib

import ase
import jax
import jax.numpy as jnp
import numpy as np

from frozen.cases import atoms_of
from lesjax import System, io
from lesjax.dynamics import Settings, simulate
from lesjax.models import Potential
from lesjax.runs import read_table
from lesjax.training.config import Phase, TrainingSection
from lesjax.training.data import make_dataset
from lesjax.training.initialize import initial_state
from lesjax.training.loop import phase_weights
from lesjax.training.step import adam_step, update_rule


def predictions(potential: Potential, atoms: ase.Atoms) -> dict[str, np.ndarray]:
    """Energies, forces, stress, charges and Born effective charges; what there is of them."""
    system = System.from_ase(atoms, cutoff=potential.cutoff)
    out = potential(system)
    renamed = {"energy": "total_energy", "interaction_energy": "energy"}
    names = ("energy", "interaction_energy", "long_range_energy", "forces", "stress", "charges", "dipoles")
    found = {name: getattr(out, renamed.get(name, name)) for name in names}
    if potential.config.long_range is not None:
        found["born_effective_charges"] = potential.born_effective_charges(system)
    return {name: np.asarray(value) for name, value in found.items() if value is not None}


def training_losses(potential: Potential, kind: str) -> np.ndarray:
    """Losses of ten steps on four rattled structures, from the stored parameters."""
    rng = np.random.default_rng(5)
    frames = []
    for _ in range(4):
        atoms = atoms_of(kind)
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        atoms.info["REF_energy"] = -24.0 + rng.normal()
        atoms.set_array("REF_forces", rng.normal(size=atoms.positions.shape))
        atoms.set_array("REF_charges", np.where(atoms.numbers == 11, 0.8, -0.8))
        frames.append(atoms)
    dataset = make_dataset(potential.config, frames, io.all_labels(frames), max_buckets=1)
    charges_weight = 0.0 if potential.config.long_range is None else 0.3
    weights = {"energy": 2.0, "forces": 1.0, "charges": charges_weight}
    phase = Phase(epochs=1, learning_rate=1e-2, weights=weights)
    section = TrainingSection(batch_size=2, phases=(phase,), weight_decay=1e-3, ema=0.9)
    state = initial_state(section, potential)
    losses = []
    for step in range(10):
        rows, mask = np.array([step % 4, (step + 1) % 4]), np.array([True, True])
        rate = jnp.asarray(1e-2)
        state, loss = adam_step(update_rule(section), state, dataset.buckets[0], rows, mask, rate, phase_weights(phase))
        losses.append(loss)
    return np.asarray(jax.device_get(losses))


def md_states(
    potential: Potential, atoms: ase.Atoms, settings: Settings, folder: str | pathlib.Path
) -> dict[str, np.ndarray]:
    """The last frame and the log of a run."""
    final = simulate(potential, atoms, folder, dataclasses.replace(settings), quiet=True)
    log = read_table(pathlib.Path(folder) / "log.csv")
    columns = {name.removesuffix("_eV"): np.asarray(values) for name, values in log.items()}
    return {"positions": final.positions, "momenta": final.get_momenta(), "cell": final.cell.array, **columns}
