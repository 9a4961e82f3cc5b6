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
# # Fit the charges of water to its density
#
# A force field of flexible water in the manner of SPC: harmonic bonds and angles, a Lennard-Jones term between
# oxygens, and charges in the Ewald sum of lesjax. One number is fitted, the scale of the charges: the density at 300 K
# and 1 bar should be the measured 0.997 g/cm³. The gradient of the mean density comes from reweighting
# (`lesjax.fitting`), and no step of the simulation is differentiated.
#
# **What this can and cannot show.** 16 molecules and some ten picoseconds show how a fit works: targets, effective
# sample size, new trajectories. They do not make a water model. The box is hardly larger than the first two shells of
# neighbours, the mean density of so short a run is uncertain by one or two per cent (the last cell computes it), and
# the charges are Gaussians of σ = 0.8 Å, which bind hydrogens less than points do. For your own model take some hundred
# molecules and nanoseconds; the code stays the same.

# %%
import os
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from lesjax import ewald, fitting
from lesjax.dynamics import Settings
from lesjax.numerics import safe_norm
from lesjax.properties import block_error


QUICK = os.environ.get("LESJAX_QUICK") == "1"  # a tiny setting, which only shows that everything runs

# %% [markdown]
# ## The force field
#
# Bonds, angles and Lennard-Jones parameters are taken from SPC/Fw (Wu, Tepper, Voth, J. Chem. Phys. 124, 024503
# (2006)). Masses have no effect on averages of positions: heavy hydrogen and light oxygen allow steps of 2 fs.
#
# In SPC the charges of one molecule do not act on each other. In the Ewald sum they do, as in LES, which makes bonds a
# few hundredths of an Å shorter. For the Lennard-Jones term all images of the neighbouring cells count up to 7 Å, and
# a uniform liquid beyond.

# %%
n_molecules = 16
KCAL = 0.0433641  # eV
BOND, BOND_CONSTANT = 1.012, 1059.162 * KCAL  # Å, eV/Å²
ANGLE, ANGLE_CONSTANT = np.radians(113.24), 75.90 * KCAL
LJ_SIGMA, LJ_DEPTH, LJ_CUTOFF = 3.165492, 0.1554253 * KCAL, 7.0
CHARGES = np.tile([-0.82, 0.41, 0.41], n_molecules)
MASSES = np.tile([10.015, 4.0, 4.0], n_molecules)
WATER = 18.015 * n_molecules  # amu, for the density
SIGMA, TEMPERATURE, PRESSURE = 0.8, 300.0, 1.0  # Å, K, bar

edge = (WATER * 1.66054 / 0.95) ** (1.0 / 3.0)  # Å, for a start at 0.95 g/cm³
cell = edge * np.eye(3)
solver = ewald.make_solver(1.05 * cell, True, n_atoms=3 * n_molecules, sigma=SIGMA, accuracy=1e-2)
images = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
# the pair of an atom with itself in its own cell
itself = np.eye(n_molecules, dtype=bool)[:, :, None] & np.all(images == 0, axis=1)


def lennard_jones(oxygens: jax.Array, cell: jax.Array) -> jax.Array:
    """Energy of all images within the cutoff, switched off over the last Å, and a uniform liquid beyond, eV."""
    fractional = (oxygens[:, None] - oxygens[None]) @ jnp.linalg.inv(cell)
    wrapped = (fractional - jnp.round(fractional)) @ cell
    vectors = wrapped[:, :, None, :] + (jnp.asarray(images, cell.dtype) @ cell)[None, None]
    r = safe_norm(vectors, jnp.asarray(~itself))
    t = jnp.clip(r - LJ_CUTOFF + 1.0, 0.0, 1.0)
    switch = jnp.where(jnp.asarray(itself), 0.0, 1.0 - 10.0 * t**3 + 15.0 * t**4 - 6.0 * t**5)
    power = (LJ_SIGMA / r) ** 6
    beyond = -8.0 / 3.0 * np.pi * LJ_DEPTH * LJ_SIGMA**6 / (LJ_CUTOFF - 0.5) ** 3
    pairs = 2.0 * LJ_DEPTH * jnp.sum(switch * (power**2 - power))
    return pairs + beyond * n_molecules**2 / jnp.abs(jnp.linalg.det(cell))


def energy(log_scale: jax.Array, frame: fitting.Frame, solver: Any) -> jax.Array:
    """Potential energy, eV, of a charge scale (its logarithm), a frame and the plan of the Ewald sum."""
    q = jnp.exp(log_scale) * jnp.asarray(CHARGES, frame.positions.dtype)
    molecules = frame.positions.reshape(n_molecules, 3, 3)
    first, second = molecules[:, 1] - molecules[:, 0], molecules[:, 2] - molecules[:, 0]
    everyone = jnp.ones(n_molecules, bool)
    a, b = safe_norm(first, everyone), safe_norm(second, everyone)
    angles = jnp.arccos(jnp.sum(first * second, axis=-1) / (a * b))
    bonds = 0.5 * BOND_CONSTANT * jnp.sum((a - BOND) ** 2 + (b - BOND) ** 2)
    bending = 0.5 * ANGLE_CONSTANT * jnp.sum((angles - ANGLE) ** 2)
    coulomb = ewald.energy(solver, frame.positions, frame.cell, q)
    return bonds + bending + lennard_jones(molecules[:, 0], frame.cell) + coulomb


# %% [markdown]
# ## A sampler
#
# `make_sampler` makes one compiled run of molecular dynamics out of an energy, here at constant pressure. Molecules on
# a lattice, in random orientations, first lose the energy of this start at constant volume.

# %%
settings = Settings(
    ensemble="npt",
    steps=200 if QUICK else 25_000,
    timestep=2.0,
    temperature=TEMPERATURE,
    pressure=PRESSURE,
    thermostat_time=100.0,
    barostat_time=500.0,
    frame_every=50,
)
sampler = fitting.make_sampler(energy, MASSES, settings, solver=solver, equilibration=100 if QUICK else 5000)

rng = np.random.default_rng(0)
corners = np.stack(np.meshgrid(*[[0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
sites = np.concatenate([corners, corners + 0.5]) / 2  # body-centred cubic
half = ANGLE / 2
molecule = BOND * np.array([[0, 0, 0], [np.cos(half), np.sin(half), 0], [np.cos(half), -np.sin(half), 0]])
rotations = np.linalg.qr(rng.normal(size=(n_molecules, 3, 3)))[0]
positions = (molecule @ rotations + (sites @ cell)[:, None]).reshape(-1, 3)
start = fitting.Frame(jnp.asarray(positions, float), jnp.asarray(cell, float))

log_scale = jnp.log(jnp.asarray(1.4))  # smeared charges must be larger than points to bind as well
slow = replace(settings, ensemble="langevin", timestep=1.0, steps=100 if QUICK else 4000, frame_every=50)
settle = fitting.make_sampler(energy, MASSES, slow, solver=solver)
settled = jax.tree.map(lambda leaf: leaf[-1], settle(log_scale, 0, start))
frames = sampler(log_scale, 0, settled)

# %% [markdown]
# ## The fit
#
# The trajectory keeps the energies of its frames. For another charge scale each frame gets a weight from the change
# of its energy, and the mean density follows. `pressure` says that the frames were drawn at constant pressure.

# %%
density = fitting.density([WATER])
trajectory = fitting.make_trajectory(
    energy,
    log_scale,
    frames,
    solver=solver,
    temperature=TEMPERATURE,
    pressure=PRESSURE,
    observables={"density": density},
)
target = fitting.Target("density", density, value=0.997, uncertainty=0.01)
ensemble = fitting.Reweighting(energy, trajectory, [target], sampler=sampler, min_effective=0.4)
n_steps = 2 if QUICK else 30
optimizer = optax.adam(optax.cosine_decay_schedule(0.01, n_steps), b1=0.8, b2=0.9)
result = fitting.fit(log_scale, [ensemble], optimizer=optimizer, steps=n_steps)

# %%
steps = [record["step"] for record in result.history]
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
left.plot(steps, [record["density"] for record in result.history])
left.axhline(0.997, color="k", linewidth=0.8)
left.set(xlabel="step", ylabel="density (g/cm³)")
right.plot(steps, [record["effective"][0] for record in result.history], label="effective fraction")
right.axhline(ensemble.min_effective, color="k", linewidth=0.8)
right.set(xlabel="step", ylabel="effective fraction")
plt.show()

# %% [markdown]
# At each jump of the effective fraction a new trajectory was drawn; the density jumps there by the error of the old one
# and the reweighting. How far to trust the result: the error of the mean density of the last trajectory from blocks,
# and through the derivative of the density what this error means for the charge.

# %%
(last,) = result.reweightings
drawn = np.asarray(last.trajectory.measured["density"])
error = float(block_error(drawn, n_blocks=2 if QUICK else 8))


def mean_density(log_scale: jax.Array) -> jax.Array:
    """Mean density, g/cm³, of the last trajectory under another charge scale."""
    return fitting.ensemble_averages(energy, log_scale, last.trajectory, {"density": density})[0]["density"]


mean, slope = jax.jit(jax.value_and_grad(mean_density))(result.params)
scale = float(jnp.exp(result.params))
print(f"density {float(mean):.3f} ± {error:.3f} g/cm³, target 0.997")
print(f"charge of oxygen {-0.82 * scale:.3f} ± {abs(error / float(slope)) * 0.82 * scale:.3f} e, in this small box")

# %% [markdown]
# ## Try
#
# - More molecules and steps, until the error of the last cell is what you need.
# - A second target, `fitting.dielectric_constant(charges_fn, temperature)`, which takes nanoseconds to converge.
# - Other parameters: `log_scale` may be any pytree, or a `lesjax.Potential`; see "Fitting to measured properties" in
#   the documentation.
