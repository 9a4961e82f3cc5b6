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
# # Dimers and binding curves
#
# Two molecules are pulled apart. Models are trained where they are close, and predict the interaction energy at larger
# distances, beyond the cutoff, where only a long-range model can know anything.
#
# Between charged molecules the energy falls off as $1/r$, between a charge and a dipole as $1/r^2$. Latent charges do
# not know which molecules they belong to. They have to find both laws from energies and forces.

# %%
import os
import pathlib
import tempfile

import jax
import matplotlib.pyplot as plt
import numpy as np

import lesjax
from lesjax import datasets, io
from lesjax.training import load_config, train


jax.config.update("jax_enable_x64", True)  # L-BFGS wants float64
QUICK = os.environ.get("LESJAX_QUICK") == "1"  # a tiny setting, which only shows that everything runs
folder = pathlib.Path(tempfile.mkdtemp())  # name your own folder to keep the runs

# %% [markdown]
# ## Data
#
# Shipped dimers in open boundaries, labelled with GFN2-xTB: one pair of a class in one orientation, C for charged and P
# for polar molecules. Distances of 3 to 9 Å are for training, 9.5 to 15 Å for the test. The label `inter_energy` is the
# energy minus the energies of the two isolated molecules.


# %%
def first_pair(dimer_class, part):
    """The frames of the first pair and orientation of a class."""
    frames = datasets.load(f"dimers_{dimer_class}_{part}")
    first = frames[0].info
    return [a for a in frames if a.info["pair"] == first["pair"] and a.info["orientation"] == first["orientation"]]


classes = ["CC"] if QUICK else ["CC", "CP"]
parts = {c: {part: first_pair(c, part) for part in ("train", "test")} for c in classes}
for c, both in parts.items():
    if QUICK:
        both["train"], both["test"] = both["train"][::5], both["test"][::6]
    io.write(folder / f"{c}.xyz", both["train"])
    distances = [a.info["distance"] for a in both["train"]]
    print(f"{c}: {both['train'][0].info['pair']}, {len(distances)} frames from {min(distances)} to {max(distances)} Å")

# %% [markdown]
# ## Training
#
# The shipped configurations `dimers_les` and `dimers_short_range`, with a smaller model and fewer epochs: Adam, then
# L-BFGS on the same few frames.

# %%
settings = ["model.short_range.max_l=2", "model.short_range.max_nu=2"]
settings += ["training.phases.0.epochs=500", "training.phases.1.epochs=1000"]
if QUICK:
    small = ("max_l=1", "max_nu=2", "n_radial=2", "n_embedding=1")
    settings = ["model.hidden=[4]", *(f"model.short_range.{key}" for key in small)]
    settings += ["training.phases.0.epochs=2", "training.phases.1.epochs=2"]
names = {"short_range": "short range", "les": "LES"}
potentials = {}
for c in classes:
    data = [f"data.train={folder}/{c}.xyz", f"training.batch_size={len(parts[c]['train'])}"]
    for model in names:
        config = load_config(f"dimers_{model}", [*data, *settings, f"output={folder}/{c}_{model}"])
        potentials[c, model] = train(config, quiet=True)

# %% [markdown]
# ## Binding curves
#
# The right panel shows the error of the energy beyond the cutoff, in per cent of the interaction energy.


# %%
def interaction_energy(potential, atoms):
    """Interaction energy of the molecules, eV: the total energy of the model, as the labels are."""
    return float(potential(lesjax.System.from_ase(atoms, cutoff=potential.cutoff)).total_energy)


colors = {"short_range": "#d1495b", "les": "#1f6f8b"}
for c in classes:
    frames = parts[c]["train"] + parts[c]["test"]
    distances = np.array([a.info["distance"] for a in frames])
    true = np.array([a.info["inter_energy"] for a in frames])
    tested = np.arange(len(frames)) >= len(parts[c]["train"])
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")
    left.plot(distances[~tested], true[~tested], "o", color="0.2", label="GFN2-xTB, training")
    left.plot(distances[tested], true[tested], "o", color="0.2", mfc="none", label="GFN2-xTB, test")
    for model, name in names.items():
        predicted = np.array([interaction_energy(potentials[c, model], a) for a in frames])
        error = 100.0 * np.abs(predicted - true) / np.abs(true)
        left.plot(distances, predicted, color=colors[model], label=name)
        right.semilogy(distances[tested], error[tested], "o-", color=colors[model], label=name)
        rmse = 1e3 * np.sqrt(np.mean((predicted - true)[tested] ** 2))
        print(f"{c} {name:12s} test: RMSE {rmse:8.2f} meV, largest error {error[tested].max():6.1f} %")
    left.set(xlabel="distance of the molecules (Å)", ylabel="interaction energy (eV)", title=frames[0].info["pair"])
    left.legend(frameon=False)
    right.axhline(5.0, color="0.6", linestyle=":", linewidth=1)
    right.set(xlabel="distance of the molecules (Å)", ylabel="error (%)", title="Test frames; dotted: 5 %")
    right.legend(frameon=False)
    plt.show()

# %% [markdown]
# Where no atom of one molecule is within the cutoff of the other, the short-range model is flat. For the charged pair
# LES continues as it should, up to 15 Å. For the ion and water the energies are a hundred times smaller. The absolute
# error of LES is about as small as before, but not the relative one: nothing in the model says that the molecules have
# the charges 1 e and 0, or that the energy at infinite distance is zero.

# %% [markdown]
# ## Charges of the molecules
#
# The latent charges of each molecule add up to a net charge in each channel. The energy between distant molecules is
# $\sum_c q_A^c q_B^c / r$ with the products of these charges, so it determines the sum of the products: −1 e² for a
# cation and an anion, and 0 where one molecule is neutral.

# %%
for c in classes:
    last = parts[c]["test"][-1]
    potential, at = potentials[c, "les"], int(last.info["indexB"])
    charges = np.asarray(potential(lesjax.System.from_ase(last, cutoff=potential.cutoff)).charges)
    product = np.sum(charges[:at].sum(axis=0) * charges[at:].sum(axis=0))
    true = last.info["chargeA"] * last.info["chargeB"]
    print(f"{c}: sum over channels of the product of the net charges {product:.3f} e², true {true} e²")

# %% [markdown]
# ## Try
#
# - Other classes and pairs: CC, CP, PP, CA, PA, AA, each with four or fewer pairs in three orientations.
# - One channel of charges: `model.long_range.charges.n_channels=1`. Does it still fit a charge and a dipole?
# - The full configurations, as in `benchmarks/dimers.py`, take 4 to 8 minutes for each run.
