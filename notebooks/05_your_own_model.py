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
# # Your own short-range model with latent charges
#
# Latent charges need no particular model. Anything that gives each atom an energy and a charge will do. Here it is a
# small network on a descriptor of Gaussians of the distances, written from scratch in 30 lines; lesjax provides the
# neighbours and the long-range sum, and JAX the forces.
#
# $$ E = \sum_i E(d_i) + E_\mathrm{Ewald}(q(d_1), \ldots, q(d_n)), \qquad
# d_{i, g s} = \sum_{j \in s} e^{-(r_{ij} - c_g)^2 / 2 w^2} f(r_{ij}) $$

# %%
import dataclasses
import os
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import lesjax
from lesjax.datasets import point_charges
from lesjax.models import Features, LongRangeConfig, ModelConfig, Potential, register
from lesjax.neighbors.batching import stack_systems
from lesjax.numerics import safe_norm


QUICK = os.environ.get("LESJAX_QUICK") == "1"  # a tiny setting, which only shows that everything runs
CUTOFF = 5.0  # Å
ELEMENTS = jnp.array([11, 17])
n_train, n_test, n_steps, batch_size = (8, 2, 5, 4) if QUICK else (100, 30, 6000, 4)

# %% [markdown]
# ## Data
#
# The gas of point charges of the first notebook in a smaller box. A `System` holds positions, cell and a padded list of
# neighbours. All of one shape are stacked along a leading axis.

# %%
n_pairs, box = (8, 10.0) if QUICK else (32, 15.9)
frames = point_charges.generate(n_train + n_test, n_pairs=n_pairs, box=box, seed=0)
systems = jax.device_put(stack_systems([lesjax.System.from_ase(a, cutoff=CUTOFF) for a in frames]))
energies = jnp.array([a.info["REF_energy"] for a in frames])
forces = jnp.array([a.arrays["REF_forces"] for a in frames])
solver = lesjax.ewald.make_solver(frames[0].cell.array, True, n_atoms=len(frames[0]), sigma=1.0, accuracy=1e-3)
print(f"{n_train} frames of {len(frames[0])} ions to train; root mean square force {forces.std():.2f} eV/Å")

# %% [markdown]
# ## The model
#
# A descriptor, and a network with two outputs. This is the part to replace with your own.


# %%
def descriptor(system):
    """Gaussians of the distances to the neighbours of each element, and the element itself, [n, features]."""
    neighbors = system.neighborhood()
    distances = safe_norm(neighbors.vectors, neighbors.mask)  # 1 where there is no neighbour
    envelope = jnp.where(neighbors.mask, (1.0 - jnp.minimum(distances / CUTOFF, 1.0) ** 2) ** 3, 0.0)
    centres, width = jnp.linspace(2.0, CUTOFF, 12), 0.4
    radial = jnp.exp(-0.5 * ((distances[..., None] - centres) / width) ** 2) * envelope[..., None]
    elements = (system.atomic_numbers[:, None] == ELEMENTS).astype(distances.dtype)
    summed = jnp.einsum("nmg,nms->ngs", radial, neighbors.gather(elements))
    return jnp.concatenate([summed.reshape(len(summed), -1), elements], axis=1)


class Network(nn.Module):
    """Energy (eV) and latent charge (e) of each atom from its descriptor."""

    @nn.compact
    def __call__(self, features):
        for _ in range(2):
            features = nn.silu(nn.Dense(48)(features))
        return nn.Dense(1)(features)[:, 0], nn.Dense(1)(features)[:, 0]


# %% [markdown]
# ## Energy and forces
#
# The long-range energy is one line. Forces are the gradient of the sum, including the dependence of the charges on the
# positions.


# %%
def energy(params, system, long_range):
    """Energy (eV) and latent charges (e) of one system."""
    atomic, charges = Network().apply(params, descriptor(system))
    total = jnp.sum(atomic)
    if long_range:
        total += lesjax.ewald.energy(solver, system.positions, system.cell, charges)
    return total, charges


def predict(params, system, long_range):
    """Energy, forces and charges of one system."""

    def moved(positions):
        return energy(params, dataclasses.replace(system, positions=positions), long_range)

    (total, charges), gradient = jax.value_and_grad(moved, has_aux=True)(system.positions)
    return total, -gradient, charges


# %% [markdown]
# ## Training
#
# A loss, Adam and a loop. Two models are trained, with and without the long-range energy.


# %%
def loss(params, batch, long_range):
    """Squared errors of the energy per atom and of the force components."""
    system, true_energy, true_forces = batch
    found_energy, found_forces, _ = jax.vmap(lambda s: predict(params, s, long_range))(system)
    per_atom = (found_energy - true_energy) / true_forces.shape[1]
    return 10.0 * jnp.mean(per_atom**2) + jnp.mean((found_forces - true_forces) ** 2)


optimizer = optax.chain(
    optax.clip_by_global_norm(10.0), optax.adam(optax.cosine_decay_schedule(5e-3, n_steps, alpha=1e-3))
)


@partial(jax.jit, static_argnames="long_range")
def step(params, state, rows, long_range):
    """One step of the optimizer on these rows of the data."""
    batch = jax.tree.map(lambda x: x[rows], (systems, energies, forces))
    value, gradient = jax.value_and_grad(loss)(params, batch, long_range)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, value


def train(long_range, seed=0):
    """Train a model; returns its parameters and the losses."""
    one = jax.tree.map(lambda x: x[0], systems)
    params = Network().init(jax.random.key(seed), descriptor(one))
    state, losses, rng = optimizer.init(params), [], np.random.default_rng(seed)
    for _ in range(n_steps):
        rows = rng.choice(n_train, batch_size, replace=False)
        params, state, value = step(params, state, rows, long_range)
        losses.append(value)
    return params, np.array(jax.device_get(losses))


trained = {"short range": train(False), "with latent charges": train(True)}

# %% [markdown]
# ## Results
#
# The common sign of all charges is undetermined, as the energy contains only products of charges. It is chosen here so
# that Na is positive.

# %%
test = jax.tree.map(lambda x: x[n_train:], systems)
colors = {"short range": "#d1495b", "with latent charges": "#1f6f8b"}
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11.0, 3.6), layout="constrained")
for name, (params, losses) in trained.items():
    smooth = losses[: len(losses) // 50 * 50].reshape(-1, 50).mean(axis=1) if len(losses) > 50 else losses
    left.semilogy(np.linspace(0, n_steps, len(smooth)), smooth, color=colors[name], label=name)
    found = jax.jit(jax.vmap(lambda s, p=params, n=name: predict(p, s, n != "short range")))(test)
    error = float(jnp.abs(found[1] - forces[n_train:]).mean())
    print(f"{name}: mean absolute error of the forces on test frames {1e3 * error:.1f} meV/Å")
    shown = slice(None, None, 5)
    middle.plot(
        forces[n_train:].ravel()[shown], found[1].ravel()[shown], ".", markersize=3, color=colors[name], label=name
    )
charges, is_na = np.asarray(found[2]), np.asarray(test.atomic_numbers) == 11
charges = charges * np.sign(charges[is_na].mean())
true = np.where(is_na, 1.0, -1.0)
print(f"charges: mean absolute error {np.abs(charges - true).mean():.4f} e")
for element, chosen, color in (("Na", is_na, "#1f6f8b"), ("Cl", ~is_na, "#6a994e")):
    right.hist(charges[chosen], bins=np.linspace(-1.5, 1.5, 121), color=color, label=f"latent, {element}")
left.set(xlabel="step", ylabel="loss", title="Training")
middle.axline((0, 0), slope=1, color="0.6", linewidth=1)
middle.set(xlabel="true force component (eV/Å)", ylabel="predicted (eV/Å)", title="Forces on test frames")
right.set(xlabel="charge (e)", ylabel="ions", title="Charges on test frames; true ±1 e")
left.legend(frameon=False)
right.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Born effective charges
#
# Any model that gives charges as a function of positions has Born effective charges, too. For fixed point charges they
# are the charges times the unit matrix.

# %%
params = trained["with latent charges"][0]
system = jax.tree.map(lambda x: x[0], test)


def charges_at(positions):
    """Latent charges, with Na positive, as a function of the positions."""
    moved = dataclasses.replace(system, positions=positions)
    return np.sign(found[2][is_na].mean()) * energy(params, moved, True)[1]


born = lesjax.properties.born_effective_charges(charges_at, system.positions, system.cell, system.pbc)
exact = np.where(np.asarray(system.atomic_numbers) == 11, 1.0, -1.0)[:, None, None] * np.eye(3)
print("Z* of the first ion, e:")
print(np.array2string(np.asarray(born[0]), precision=3, suppress_small=True))
print(f"root mean square error of all elements {np.sqrt(np.mean((born - exact) ** 2)):.4f} e")

# %% [markdown]
# ## In lesjax
#
# The notebook has done by hand what lesjax does for any short-range model that is registered. Such a model gives
# features and no energies; lesjax adds readouts, charges and their sign, dipoles, training, storage and dynamics. In
# the file of `lesjax train` it is selected by `[model.short_range] kind = "descriptor"`. See *Extend lesjax* in the
# documentation.


# %%
@dataclass(frozen=True)
class DescriptorConfig:
    """Hyper-parameters; training fills in the elements."""

    elements: tuple[int, ...] = ()
    cutoff: float = CUTOFF


class Descriptor(nn.Module):
    """The descriptor as a short-range model; it has no parameters."""

    config: DescriptorConfig

    def __call__(self, system):
        return Features(layers=(descriptor(system),))


register("descriptor", Descriptor, DescriptorConfig)
potential = Potential.create(ModelConfig(DescriptorConfig(elements=(11, 17)), LongRangeConfig(accuracy=1e-3)))
prediction = potential(system)
print("forces", prediction.forces.shape, "charges", prediction.charges.shape)

# %% [markdown]
# ## Try
#
# - The descriptor: angles, or another package's equivariant features. It must be a smooth function of the positions
#   that vanishes at the cutoff.
# - Two channels of charges: let the network return [n, 2]; `lesjax.ewald.energy` adds the channels up.
# - Dipoles: pass a vector for each atom as `dipoles=`.
# - Dynamics: `energy` is a function of positions, so any integrator in JAX can run it with a neighbour list that is
#   renewed.
