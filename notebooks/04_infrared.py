# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Born effective charges and infrared spectrum
#
# A model of water trained only on energies and forces gives the Born effective charges and, from a run of molecular
# dynamics, the infrared spectrum.
#
# The Born effective charge of atom $i$ is the change of the polarization when the atom moves,
#
# $$ Z^*_{i, \alpha \beta} = V \frac{\partial P_\alpha}{\partial r_{i \beta}} , $$
#
# with the response of all latent charges to the displacement. The infrared absorption follows from the
# autocorrelation of $\dot M = \sum_i Z^*_i v_i$.

# %%
import os
import pathlib
import tempfile

import jax
import matplotlib.pyplot as plt
import numpy as np
from ase import units

import lesjax
from lesjax import datasets, dynamics, io, properties
from lesjax.training import evaluate, load_config, train


QUICK = os.environ.get("LESJAX_QUICK") == "1"  # a tiny setting, which only shows that everything runs
folder = pathlib.Path(tempfile.mkdtemp())  # name your own folder to keep the runs

# %% [markdown]
# ## Data and model
#
# The pure bulk water of the shipped set `kf_water`: 64 molecules of flexible SPC/Fw water. Its charges are fixed
# numbers, −0.8476 e for O and 0.4238 e for H, so that the true Born effective charges are these numbers times the unit
# matrix, and nothing screens them: $\varepsilon_\infty = 1$. For labels from electronic-structure calculations give the
# electronic dielectric constant of the material, 1.78 for water, as `epsilon_infinity`.

# %%
training, test = (
    [a for a in datasets.load(f"kf_water_{part}") if a.info["kind"] == "bulk" and a.info["n_pairs"] == 0]
    for part in ("train", "test")
)
if QUICK:
    training, test = training[:40], test[:2]
io.write(folder / "train.xyz", training)
settings = [f"data.train={folder}/train.xyz", f"output={folder}/model"]
settings += ["model.short_range.max_l=2", "model.short_range.max_nu=2", "training.phases.0.epochs=400"]
if QUICK:
    settings += ["training.phases.0.epochs=8", "training.phases.1.epochs=1"]
    settings += [f"model.short_range.{key}" for key in ("cutoff=3", "max_l=1", "n_radial=2")]
potential = train(load_config("kf_water", settings), quiet=True)
metrics = evaluate(potential, test).metrics
print(f"forces: mean absolute error {1e3 * metrics['forces_mae']:.1f} meV/Å")
print(f"charges: mean absolute error {metrics['charges_mae']:.3f} e")

# %% [markdown]
# ## Born effective charges of test frames

# %%
colors = {"O": "#d1495b", "H": "#1f6f8b"}
force_field = {"O": -0.8476, "H": 0.4238}
symbols = np.array(test[0].get_chemical_symbols())
systems = [lesjax.System.from_ase(atoms, cutoff=potential.cutoff) for atoms in test]
width = max(system.shape[1] for system in systems)  # one width of the neighbour arrays: compiled once
born = np.array([potential.born_effective_charges(system.pad_to(len(symbols), width)) for system in systems])
print("Z* of the first oxygen, e:")
print(np.array2string(born[0, 0], precision=3, suppress_small=True))
diagonal = np.einsum("taii->tai", born)
off_diagonal = born[:, :, ~np.eye(3, dtype=bool)]
figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.4), layout="constrained")
for element, color in colors.items():
    values, rest = diagonal[:, symbols == element].ravel(), off_diagonal[:, symbols == element].ravel()
    true = force_field[element]
    print(f"{element}: diagonal {values.mean():.3f} ± {values.std():.3f} e, true {true} e; others ± {rest.std():.3f} e")
    left.hist(values, bins=80, density=True, color=color, alpha=0.8, label=element)
    left.axvline(true, color=color, linestyle="--", linewidth=1)
    right.hist(rest, bins=80, density=True, color=color, alpha=0.6, label=element)
left.set(xlabel="diagonal elements of Z* (e)", ylabel="density (1/e)", title="Dashed: force field")
right.set(xlabel="other elements of Z* (e)", ylabel="density (1/e)", title="In the force field they are zero")
left.legend(frameon=False)
plt.show()

# %% [markdown]
# Energies and forces are enough to give Z* of both elements within 1 %. What remains is a dependence on the
# surroundings of about 0.01 e, which the force field does not have.

# %% [markdown]
# ## Dynamics
#
# `born_effective_charges=True` writes Z* into each frame of the trajectory. Frames every 2.5 fs resolve frequencies up
# to 6600 cm⁻¹. The thermostat is slow, so it does not disturb the vibrations.

# %%
# the forces of a model that has learned nothing can be of any size, hence the tiny step of QUICK
steps, every, timestep = (100, 5, 0.01) if QUICK else (16_000, 5, 0.5)
run = dynamics.Settings(
    ensemble="nvt", temperature=300.0, thermostat_time=500.0, timestep=timestep, steps=steps, frame_every=every,
    log_every=steps // 10, checkpoint_every=steps, born_effective_charges=True, format="traj",
)  # fmt: skip
dynamics.simulate(potential, test[0], folder / "md", run, quiet=True)
trajectory = io.read(folder / "md" / "trajectory.traj")[1:]
frames = trajectory[len(trajectory) // 6 :]  # the first sixth to equilibrate
velocities = np.array([atoms.get_velocities() for atoms in frames]) * units.fs  # Å/fs
charges = np.array([atoms.calc.results["born_effective_charges"] for atoms in frames])
temperature = np.mean([atoms.get_temperature() for atoms in frames])
print(f"{len(frames)} frames over {1e-3 * len(frames) * every * run.timestep:.1f} ps at {temperature:.0f} K")

# %% [markdown]
# ## Spectrum
#
# The absorption from the model's Z* and from the charges of the force field, for the same velocities, so that
# only the charges differ. The shading is one standard error from blocks. Below, the vibrational density of states shows
# where anything moves at all.

# %%
options = {"resolution": 100_000.0, "n_blocks": 2} if QUICK else {"resolution": 40.0, "n_blocks": 6}
fixed = np.array([force_field[s] for s in symbols])
rates = {
    "lesjax": properties.dipole_rate(charges, velocities),
    "charges of the force field": np.einsum("n,tni->ti", fixed, velocities),
}
interval, volume = every * run.timestep, test[0].get_volume()
figure, (top, bottom) = plt.subplots(2, 1, figsize=(6.4, 5.2), sharex=True, layout="constrained")
bands = {"libration": (300, 1100), "bend": (1200, 2000), "stretch": (2800, 4200)}
for (label, rate), color, style in zip(rates.items(), ("#1f6f8b", "0.2"), ("-", "--"), strict=True):
    spectrum = jax.device_get(properties.infrared_spectrum(rate, interval, volume, temperature, **options))
    wavenumber, intensity, error = spectrum
    top.fill_between(wavenumber, intensity - error, intensity + error, color=color, alpha=0.2, linewidth=0)
    top.plot(wavenumber, intensity, style, color=color, label=label)
    found = []
    for band, (low, high) in bands.items():
        fine = np.arange(low, high)
        found.append(f"{band} {fine[np.argmax(np.interp(fine, wavenumber, intensity))]}")
    print(f"{label}: maxima at {', '.join(found)} cm⁻¹")
masses = test[0].get_masses()
states = jax.device_get(properties.vibrational_density_of_states(velocities, masses, interval, **options))
bottom.plot(states.wavenumber, states.intensity, color="#6a994e")
top.set(xlim=(0, 4500), ylabel="n α (cm⁻¹)", title="Infrared absorption")
bottom.set(xlabel="wavenumber (cm⁻¹)", ylabel="states per cm⁻¹", title="Vibrational density of states")
top.legend(frameon=False)
plt.show()

# %% [markdown]
# Positions and heights of the bands agree with those from the force field's charges. That demands more of a model than
# good forces: absorption goes with the square of the charges, and their response to the motion is different for each
# band. A training that is stopped early has charges that are too small, and a spectrum that is too weak.

# %% [markdown]
# ## Try
#
# - `training.phases.0.epochs=100`: what happens to Z* and to the heights of the bands?
# - A set labelled by density-functional theory: `benchmarks/water_infrared.py` does so and compares with measured
#   bands.
# - `run`: a longer run makes the errors smaller, a lower temperature sharpens the bands.
# - `model.long_range.charges.dipoles=true` adds latent dipoles, which Z* includes.
# - `properties.static_dielectric_constant` of the dipole moments, which takes nanoseconds to converge.
