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
# # Correct a potential with a measured lattice constant
#
# A potential cannot be better than the calculations that it was trained on. Density functionals miss lattice constants
# by one or two per cent, and a potential inherits this error. Here a small potential with a latent charge is trained on
# the energies and forces of one "level of theory", and then corrected with one measured number, without forgetting its
# data. The derivative of the lattice constant with respect to all parameters is the derivative of the minimum
# (`lesjax.fitting.relax`): no step of the minimization is differentiated.
#
# **What is invented here.** The theory is an exp-6 crystal of point charges that looks like NaCl, not a density
# functional, and the "measured" lattice constant is 1.5 % below its own. With a trained potential,
# `lesjax.Potential.energy` takes the place of the function `model` below, and the potential the place of its
# parameters.

# %%
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.flatten_util import ravel_pytree

from lesjax import ewald, fitting, properties
from lesjax.units import GIGAPASCAL


jax.config.update("jax_enable_x64", True)  # minima and second derivatives need the digits
UNIT = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]) / 2
SIGNS = jnp.array([1.0] * 4 + [-1.0] * 4)
MASSES = np.repeat([22.990, 35.453], 4)
CUTOFF = 5.0

# %% [markdown]
# ## Theory and model
#
# Both are functions of parameters, a crystal and the plan of its Ewald sum. All pairs that could come within the
# cutoff are listed once, so that the energy is smooth. The theory has charges of ±1 e, the repulsion of Born and
# Mayer, and a dispersion. The model has one latent charge and a flexible pair function for like and for unlike
# ions: 17 parameters.

# %%
shifts = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
apart = UNIT[None, :, None] - UNIT[:, None, None] + shifts[None, None]
first, second, image = np.nonzero((np.linalg.norm(apart, axis=-1) > 1e-6) & (np.linalg.norm(apart, axis=-1) < 1.2))
unlike = jnp.asarray(SIGNS[first] * SIGNS[second] < 0)


def distances(crystal):
    apart = crystal.positions[second] - crystal.positions[first]
    vectors = apart + jnp.asarray(shifts[image], float) @ crystal.cell
    return jnp.sqrt(jnp.sum(vectors**2, axis=1))


# %%
cell = 5.7 * np.eye(3)
narrow = ewald.make_solver(cell, True, n_atoms=8, sigma=0.5, k_cutoff=8.0)
wide = ewald.make_solver(cell, True, n_atoms=8, sigma=1.0, k_cutoff=4.0)


def theory(_, crystal, solver):
    r = distances(crystal)
    pairs = jnp.where(unlike, 1300.0 * jnp.exp(-r / 0.317), 0.0) - jnp.where(unlike, 10.0, 40.0) / r**6
    return 0.5 * jnp.sum(pairs) + ewald.energy(solver, crystal.positions, crystal.cell, SIGNS)


def model(params, crystal, solver):
    r = distances(crystal)
    window = jnp.where(r < CUTOFF, 1.0 - (jnp.minimum(r, CUTOFF) / CUTOFF) ** 2, 0.0) ** 3
    basis = jnp.exp(-((r[:, None] - jnp.linspace(1.8, 4.6, 8)[None]) ** 2) / 0.5) * window[:, None]
    pairs = jnp.where(unlike, basis @ params["unlike"], basis @ params["like"])
    coulomb = ewald.energy(solver, crystal.positions, crystal.cell, params["charge"] * SIGNS)
    return 0.5 * jnp.sum(pairs) + coulomb


# %% [markdown]
# ## Training
#
# Frames of displaced ions in cells of different size. The residuals are errors of energies and forces, in units of
# 2 meV/atom and 0.05 eV/Å, and a few Gauss-Newton steps minimize their squares.

# %%
rng = np.random.default_rng(0)
frames = []
for scale in np.linspace(0.96, 1.04, 24):
    frames.append((UNIT @ cell * scale + 0.12 * rng.normal(size=(8, 3)), scale * cell))
crystals = fitting.Frame(*(jnp.asarray(np.stack(x)) for x in zip(*frames, strict=True)))


def labels(energy, params, solver):
    def one(crystal):
        return properties.energy_forces_stress(energy, params, crystal, solver=solver, with_stress=False)[:2]

    energies, forces = jax.vmap(one)(crystals)
    return jnp.concatenate([(energies - jnp.mean(energies)) / 8 / 0.002, forces.ravel() / 0.05])


start = {"charge": jnp.asarray(0.8), "like": jnp.zeros(8), "unlike": jnp.zeros(8)}
flat, unravel = ravel_pytree(start)
target = jax.jit(labels, static_argnums=0)(theory, None, narrow)
residuals = jax.jit(lambda flat: labels(model, unravel(flat), wide) - target)
jacobian = jax.jit(jax.jacfwd(lambda flat: labels(model, unravel(flat), wide) - target))


def force_error(flat):
    return 0.05 * float(jnp.sqrt(jnp.mean(residuals(flat)[len(frames) :] ** 2)))


def gauss_newton(flat, rows=None, steps=5):
    """Least squares of the data, or of their forces and of more rows (residuals, derivatives), with a weak tether."""
    data = slice(0, None) if rows is None else slice(len(frames), None)
    for _ in range(steps):
        more, slopes = (jnp.zeros(0), jnp.zeros((0, 17))) if rows is None else rows(flat)
        matrix = jnp.concatenate([jacobian(flat)[data], slopes, 1e-2 * jnp.eye(17)])
        right = jnp.concatenate([residuals(flat)[data], more, 1e-2 * flat])
        flat = flat - jnp.linalg.lstsq(matrix, right)[0]
    return flat


trained = gauss_newton(flat)
forces = 0.05 * target[len(frames) :]
print(f"forces: root mean square {jnp.std(forces):.2f} eV/Å, error of the model {force_error(trained):.3f} eV/Å")

# %% [markdown]
# ## What it says about the crystal
#
# Lattice constant, bulk modulus, and the optical modes at Γ, where the longitudinal one has the field of the
# Born effective charges. The charges of the model are latent, and √ε∞ is one here.


# %%
perfect = fitting.Frame(jnp.asarray(UNIT @ cell), jnp.asarray(cell))


def relaxed(params):
    return fitting.relax(model, params, perfect, solver=wide, strain="isotropic").system


@jax.jit
def response(params, crystal):
    elastic = properties.elastic_constants(model, params, crystal, solver=wide)
    hessian = properties.hessian(model, params, crystal, solver=wide)
    born = params["charge"] * SIGNS[:, None, None] * jnp.eye(3)[None]
    field = properties.nonanalytic_vector(born, 1.0, crystal.cell, jnp.array([0.0, 0.0, 1.0]))
    modes = properties.normal_modes(hessian, MASSES, nonanalytic=field)
    # how much of each mode is a motion of the two sublattices against each other: the optical modes at Γ
    optical = jnp.sum(jnp.sum(modes.vectors * SIGNS[None, :, None], axis=1) ** 2, axis=1)
    return elastic, modes.frequencies[jnp.argsort(-optical)[:3]]


def describe(flat):
    params = unravel(flat)
    crystal = relaxed(params)
    elastic, optical = response(params, crystal)
    bulk = (elastic[0, 0] + 2 * elastic[0, 1]) / 3 / GIGAPASCAL
    print(
        f"a = {crystal.cell[0, 0]:.4f} Å, B = {bulk:.1f} GPa, TO {jnp.min(optical):.0f} and LO {jnp.max(optical):.0f} "
        f"cm⁻¹; charge {params['charge']:.3f} e; force error {force_error(flat):.3f} eV/Å"
    )


describe(trained)
measured = 0.985 * float(relaxed(unravel(trained)).cell[0, 0])
print(f"measured: a = {measured:.4f} Å")

# %% [markdown]
# ## The correction
#
# One more row of the least squares: the lattice constant, in units of a tolerance, with its derivatives. The forces of
# the training data are kept; their energies are not, as the energies of cells of different size are just what the
# measurement contradicts. The tighter the tolerance, the closer the lattice constant, at the cost of a larger force
# error. For comparison, the smallest change of the parameters that gives the measured value, without any data.


# %%
def lattice_constant(flat):
    return relaxed(unravel(flat)).cell[0, 0]


def correct(tolerance):
    def row(flat):
        value, gradient = jax.value_and_grad(lattice_constant)(flat)
        return (value - measured)[None] / tolerance, gradient[None] / tolerance

    return gauss_newton(trained, row, steps=3)


tolerances = (0.03, 0.01, 0.003, 0.0003)
corrected = {tolerance: correct(tolerance) for tolerance in tolerances}
describe(corrected[0.0003])

alone = trained
for _ in range(4):
    value, gradient = jax.value_and_grad(lattice_constant)(alone)
    alone = alone + (measured - value) / jnp.sum(gradient**2) * gradient
print("without the data:")
describe(alone)

# %%
figure, axis = plt.subplots(figsize=(5, 3.5))
curve = [trained, *corrected.values()]
axis.plot([float(lattice_constant(x)) for x in curve], [1e3 * force_error(x) for x in curve], "o-", label="with data")
axis.plot(float(lattice_constant(alone)), 1e3 * force_error(alone), "s", label="without data")
axis.axvline(measured, color="gray", ls=":", label="measured")
axis.set(xlabel="lattice constant / Å", ylabel="force error / meV/Å")
axis.legend(frameon=False)
figure.tight_layout()
plt.show()
