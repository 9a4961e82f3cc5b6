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
# # Train and look at charges
#
# A gas of ions that interact as point charges: a short-range model and a model with latent charges are trained on
# energies and forces only, and the resulting charges are compared with the true ones.
#
# The energy of the model is a sum over atoms of something local, and a long-range part,
#
# $$ E = \sum_i E_i + \frac{1}{2 \varepsilon_0 V} \sum_{0 < |k| \le k_c} \frac{e^{-\sigma^2 k^2 / 2}}{k^2}
# \left| \sum_i q_i e^{i k \cdot r_i} \right|^2 - E_\mathrm{self} . $$
#
# Both the energies $E_i$ and the charges $q_i$ are functions of the surroundings of atom $i$ within a cutoff. Nobody
# tells the model what the charges are.

# %%
import os
import pathlib
import tempfile

import matplotlib.pyplot as plt
import numpy as np

import lesjax
from lesjax import io
from lesjax.datasets import point_charges
from lesjax.training import evaluate, load_config, train


QUICK = os.environ.get("LESJAX_QUICK") == "1"  # a tiny setting, which only shows that everything runs
folder = pathlib.Path(tempfile.mkdtemp())  # name your own folder to keep the runs

# %% [markdown]
# ## Data
#
# Na⁺ and Cl⁻ at random in a box of 20 Å, +1 e and −1 e, with the exact Coulomb energy of point charges and one
# repulsive wall for all pairs. They are not equilibrated, so nothing screens them and far ions matter. The charges in
# the files are only used for the comparison at the end.

# %%
n_pairs, box, n_train, n_test = (8, 10.0, 6, 2) if QUICK else (64, 20.0, 100, 30)
frames = point_charges.generate(n_test + 20 + n_train, n_pairs=n_pairs, box=box, seed=0)
test, valid, training = frames[:n_test], frames[n_test : n_test + 20], frames[n_test + 20 :]
io.write(folder / "train.xyz", training)
io.write(folder / "valid.xyz", valid[:2] if QUICK else valid)
forces = np.concatenate([atoms.arrays["REF_forces"] for atoms in training])
print(f"{len(training)} frames to train, {len(test[0])} ions each; root mean square force {forces.std():.2f} eV/Å")

# %% [markdown]
# ## Two models
#
# The shipped configuration `point_charges`, with fewer epochs. The two runs differ in one key. In addition to the
# training frames, 20 more labelled frames are for validation: the best epoch is chosen on them.

# %%
settings = [f"data.train={folder}/train.xyz", f"data.valid={folder}/valid.xyz", "training.phases.0.epochs=60"]
if QUICK:
    settings += [f"model.short_range.{key}" for key in ("cutoff=3.5", "max_l=1", "n_radial=2")]
    settings += ["training.phases.0.epochs=1"]
potentials = {}
for name, extra in {"short range": ["model.long_range=false"], "LES": []}.items():
    config = load_config("point_charges", [*settings, f"output={folder / name}", *extra])
    potentials[name] = train(config, quiet=True)
results = {name: evaluate(potential, test) for name, potential in potentials.items()}
for name, result in results.items():
    energy, force = 1e3 * result.metrics["energy_mae"], 1e3 * result.metrics["forces_mae"]
    print(f"{name:12s} mean absolute error: {energy:7.2f} meV/atom, {force:6.1f} meV/Å")
charges = results["LES"].parity["charges"]
print(f"charges: mean absolute error {charges.mae():.4f} e")

# %% [markdown]
# ## Charges and forces on test frames
#
# Energies and forces stay the same when all charges change sign. `train` makes the charges of the more
# electronegative element negative on average.

# %%
colors = {"short range": "#d1495b", "LES": "#1f6f8b"}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.8), layout="constrained")
bins = np.linspace(-1.5, 1.5, 121)
for sign, element, color in ((1, "Na", "#1f6f8b"), (-1, "Cl", "#6a994e")):
    left.hist(charges.predicted[charges.reference == sign], bins=bins, color=color, label=f"latent, {element}")
    left.axvline(sign, color="0.3", linestyle="--", linewidth=1, label="true" if sign == 1 else None)
left.set(xlabel="charge (e)", ylabel="ions", title="Charges")
left.legend(frameon=False)
for name, result in results.items():
    pair, shown = result.parity["forces"], slice(None, None, 10)
    right.plot(pair.reference[shown], pair.predicted[shown], ".", markersize=3, color=colors[name], label=name)
right.axline((0, 0), slope=1, color="0.6", linewidth=1)
right.set(xlabel="true force component (eV/Å)", ylabel="predicted (eV/Å)", title="Forces")
right.legend(frameon=False, markerscale=3)
plt.show()


# %% [markdown]
# ## What a short-range model cannot see
#
# Exchange a Na⁺ with its nearest Cl⁻: that reverses a dipole. The forces on ions farther than twice the cutoff from
# both change by the field of that dipole, and only by it. A model without long range and without message passing cannot
# see this: its change is exactly zero. The same is done for all test frames.


# %%
def exchanged(atoms):
    """Exchange the first Na with the nearest Cl; the new frame, and which ions are far from both."""
    distances = atoms.get_all_distances(mic=True)
    chlorides = np.flatnonzero(atoms.numbers == 17)
    pair = [0, chlorides[np.argmin(distances[0, chlorides])]]
    swapped = atoms.copy()
    swapped.positions[pair] = atoms.positions[pair[::-1]]
    return swapped, distances[pair].min(axis=0) > 2 * potentials["LES"].cutoff


def true_forces(atoms):
    """Forces of the point charges and the wall, eV/Å."""
    q = np.where(atoms.numbers == 11, 1.0, -1.0)
    return point_charges.ewald(atoms.positions, q, box)[1] + point_charges.repulsion(atoms.positions, box)[1]


def predicted_forces(atoms, potential):
    """Forces of a model, with room for neighbours, so that it is compiled once."""
    system = lesjax.System.from_ase(atoms, cutoff=potential.cutoff)
    return np.asarray(potential(system.pad_to(len(atoms), 30)).forces)


changes = {"true": [], **{name: [] for name in potentials}}
for atoms in test:
    swapped, far = exchanged(atoms)
    changes["true"].append((true_forces(swapped) - true_forces(atoms))[far])
    for name, potential in potentials.items():
        difference = predicted_forces(swapped, potential) - predicted_forces(atoms, potential)
        changes[name].append(difference[far])
changes = {name: np.concatenate(change).ravel() for name, change in changes.items()}
size = np.sqrt(np.mean(changes["true"] ** 2)) if changes["true"].size else np.nan
for name in potentials:
    error = np.sqrt(np.mean((changes[name] - changes["true"]) ** 2)) if changes["true"].size else np.nan
    print(f"{name}: error of the change {1e3 * error:.1f} meV/Å; the change itself {1e3 * size:.1f} meV/Å")

# %%
figure, axes = plt.subplots(figsize=(4.2, 4.0), layout="constrained")
for name in potentials:
    shown = 1e3 * np.array([changes["true"], changes[name]])[:, ::5]
    axes.plot(*shown, ".", markersize=3, color=colors[name], label=name)
axes.axline((0, 0), slope=1, color="0.6", linewidth=1)
axes.set(xlabel="true change (meV/Å)", ylabel="predicted change (meV/Å)", title="Forces beyond twice the cutoff")
axes.legend(frameon=False, markerscale=3)
plt.show()

# %% [markdown]
# ## Try
#
# - The number of training frames: with 10 (and the 20 for validation), the short-range model gets worse. And the
#   charges?
# - Message passing, `model.short_range.messages=[["Bchi"]]`, lets the short-range model see farther, but not
#   arbitrarily far.
# - Other charges: write your own frames with `point_charges.ewald`, for example +2 e and −1 e.
