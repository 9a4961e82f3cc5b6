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
# # KF in water: from data to dynamics
#
# A potential for K⁺ and F⁻ in water is trained on energies and forces of the shipped data set `kf_water`. Then it runs
# molecular dynamics, and radial distribution functions are compared with those of the data.
#
# The labels come from a force field (flexible SPC/Fw water with point charges), whose charges and structure are known,
# which makes it a test. With your own labels the steps are the same.

# %%
import os
import pathlib
import tempfile

import matplotlib.pyplot as plt
import numpy as np

from lesjax import datasets, dynamics, io
from lesjax.dynamics import analysis
from lesjax.training import evaluate, load_config, train


QUICK = os.environ.get("LESJAX_QUICK") == "1"  # a tiny setting, which only shows that everything runs
folder = pathlib.Path(tempfile.mkdtemp())  # name your own folder to keep the runs

# %% [markdown]
# ## Data
#
# The shipped bulk frames with two ion pairs: 64 water molecules, 2 K⁺, 2 F⁻, a cubic cell of 12.5 Å, 300 K. The frames
# of the test file come from a separate trajectory.


# %%
def bulk(name, n_pairs=2):
    """Bulk frames of a shipped file with this number of ion pairs."""
    return [a for a in datasets.load(name) if a.info["kind"] == "bulk" and a.info["n_pairs"] == n_pairs]


training, test = bulk("kf_water_train"), bulk("kf_water_test")
reference = training + test
if QUICK:
    training, test, reference = training[:6], test[:2], reference[:4]
io.write(folder / "train.xyz", training)
print(f"{len(training)} frames to train and validate, {len(test)} to test, {len(test[0])} atoms each")

# %% [markdown]
# ## Training
#
# The shipped configuration `kf_water` with a smaller model (`max_l`, `max_nu`), which is enough for a first look.
# Its `element_charges` makes the latent charges start from the electronegativities of the elements. The energy is
# stationary at charges of zero, and a training that starts there may stay close to it where the short-range part
# explains most of the forces.

# %%
settings = [f"data.train={folder}/train.xyz", f"output={folder}/model"]
settings += ["model.short_range.max_l=2", "model.short_range.max_nu=2", "training.phases.0.epochs=400"]
if QUICK:
    settings += ["training.phases.0.epochs=1", "training.phases.1.epochs=1"]
    settings += [f"model.short_range.{key}" for key in ("cutoff=3", "max_l=1", "n_radial=2")]
potential = train(load_config("kf_water", settings), quiet=True)
result = evaluate(potential, test)
print(f"forces: mean absolute error {1e3 * result.metrics['forces_mae']:.1f} meV/Å")
print(f"energy: mean absolute error {1e3 * result.metrics['energy_mae']:.2f} meV/atom")

# %% [markdown]
# ## Charges
#
# The charges in the data set are not used in training. The force field has O −0.8476, H 0.4238, K 1, F −1 e.
# Within the cutoff the short-range part can take over some of the electrostatics, so the forces determine the charges
# mainly through interactions beyond it.

# %%
colors = {"O": "#d1495b", "H": "#1f6f8b", "K": "#7b5ea7", "F": "#6a994e"}
symbols = np.concatenate([np.array(atoms.get_chemical_symbols()) for atoms in test])
charges = result.parity["charges"]
figure, axes = plt.subplots(figsize=(6.0, 3.4), layout="constrained")
bins = np.linspace(-1.4, 1.4, 141)
for element, color in colors.items():
    chosen = symbols == element
    mean, true = charges.predicted[chosen].mean(), charges.reference[chosen].mean()
    print(f"{element:2s} latent {mean:6.3f} ± {charges.predicted[chosen].std():.3f} e, force field {true:6.3f} e")
    axes.hist(charges.predicted[chosen], bins=bins, density=True, color=color, alpha=0.8, label=element)
    axes.axvline(true, color=color, linestyle="--", linewidth=1)
print(f"mean absolute error {charges.mae():.3f} e")
axes.set(xlabel="charge (e)", ylabel="density of atoms (1/e)", title="Latent charges; dashed: force field")
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# Signs and sizes are right: energies and forces of 72 frames, and of 8 on which the best epoch was chosen, give all
# charges within 3 % of the force field's. They take time to develop: in a training that is stopped early, the charges
# of water are too small.

# %% [markdown]
# ## Dynamics
#
# Constant temperature, from a frame of the test set. A single call does everything. The same call on the same folder
# resumes after an interruption.

# %%
# the forces of a model that has learned nothing can be of any size, hence the tiny step of QUICK
steps, every, timestep = (10, 5, 0.01) if QUICK else (30_000, 50, 0.5)
run = dynamics.Settings(
    ensemble="nvt", temperature=300.0, timestep=timestep, steps=steps, log_every=every, frame_every=every, seed=0
)
dynamics.simulate(potential, test[0], folder / "md", run, quiet=True)
trajectory = io.read(folder / "md" / "trajectory.xyz")
frames = trajectory[len(trajectory) // 5 :]  # the first fifth to equilibrate
temperatures = analysis.temperature(frames)
print(f"{len(frames)} frames over {1e-3 * (len(frames) - 1) * every * run.timestep:.1f} ps")
print(f"mean temperature {temperatures.mean():.0f} K")

# %% [markdown]
# ## Structure
#
# Radial distribution functions of the run and of the frames in the data set, which come from dynamics with the force
# field itself. There are two ions of each kind, so their curves are noisier. The first peaks lie in the same bin of
# 0.1 Å as those of the data and are as high within 4 %.

# %%
figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained")
for axes, (first, second) in zip(panels, [("O", "O"), ("K", "O"), ("F", "H")], strict=True):
    for label, source, style in (("data", reference, "--"), ("lesjax", frames, "-")):
        r, g = analysis.radial_distribution(source, first, second, cutoff=6.0, width=0.1)
        axes.plot(r, g, style, color="0.3" if label == "data" else colors[second], label=label)
        peak = np.argmax(g)
        print(f"{first}-{second} {label:7s} highest at {r[peak]:.2f} Å, {g[peak]:.2f}")
    axes.set(xlabel=f"{first}–{second} distance (Å)", ylabel="g(r)", xlim=(1.0, 6.0))
    axes.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Charges along the run
#
# Each frame holds the latent charges of its atoms, so they can be followed, here for the four ions.

# %%
time = [1e-3 * atoms.info["time_fs"] for atoms in trajectory]
ions = [i for i, symbol in enumerate(test[0].get_chemical_symbols()) if symbol in ("K", "F")]
followed = np.array([atoms.get_charges()[ions] for atoms in trajectory])
figure, axes = plt.subplots(figsize=(6.0, 3.0), layout="constrained")
for values, i in zip(followed.T, ions, strict=True):
    axes.plot(time, values, color=colors[test[0].symbols[i]], linewidth=0.8)
for element in ("K", "F"):
    axes.plot([], [], color=colors[element], label=f"two {element}")
axes.set(xlabel="time (ps)", ylabel="latent charge (e)")
axes.legend(frameon=False, loc="center")
plt.show()

# %% [markdown]
# ## Try
#
# - The charges: fewer or more frames (all compositions of the set), the larger model of the configuration.
# - `model.long_range.charges.element_charges=false`: what happens to the charges?
# - `model.long_range=false`: which of the curves change?
# - The slabs of the same data set: `a.info["kind"] == "interface"`, with `analysis.density_profile`.
# - Diffusion: `analysis.mean_squared_displacement` and `analysis.diffusion` of the unwrapped positions.
