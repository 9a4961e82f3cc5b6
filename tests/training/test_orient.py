"""The sign of the charges after training, and steps of training for each variant of the long-range part."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import io
from lesjax.models.config import LongRangeConfig
from lesjax.models.potential import Potential
from lesjax.training.config import DataConfig, Phase, TrainingSection
from lesjax.training.data import make_dataset
from lesjax.training.initialize import _electronegativity_charges, initial_state, scaled_parameters
from lesjax.training.loop import phase_weights
from lesjax.training.orient import decisive, flip, orient
from lesjax.training.prepare import model_config
from lesjax.training.step import make_evaluation, make_step
from toy import MODEL, make_frame, make_frames


WEIGHTS = phase_weights(Phase(epochs=1))
EQUILIBRATION = {"charges": "equilibration", "element_charges": True}
LATENT = {"n_channels": 2, "dipoles": True, "quadrupoles": True}
VARIANTS = {
    "one-shot": {"dipoles": True, "induction": "one_shot", "hardness": True},
    "self-consistent": {
        "charges": "fixed", "charge_constraint": "total", "induction": "self_consistent", "polarizability": "tensor",
    },
    "equilibration": EQUILIBRATION, "element charges": {"element_charges": True, "n_channels": 2},
}  # fmt: skip


def make_model(charge=0.0, **settings):
    """Two clusters, which compile faster than crystals."""
    rng = np.random.default_rng(0)
    frames = [make_frame(rng, pbc=False) for _ in range(2)]
    for atoms in frames:
        atoms.info["charge"] = charge
    labels = io.all_labels(frames)
    needed = 2 if "quadrupoles" in settings or "polarizability" in settings else 1
    section = dataclasses.replace(MODEL, max_l=needed, max_nu=1, long_range=LongRangeConfig(hidden=(4,), **settings))
    config = model_config(section, DataConfig(train=""), frames, labels)
    return config, make_dataset(config, frames, labels)


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_training_moves_all_parameters(settings):
    """Two steps downhill, with a gradient for each kernel and each table."""
    config, dataset = make_model(**settings)
    section = TrainingSection(ema=0.0)
    state = initial_state(section, scaled_parameters(config, 0, dataset))
    step = make_step(config, section)
    start, losses = state["params"], []
    for _ in range(2):
        rows, mask = jnp.arange(2), jnp.ones(2, bool)
        state, loss = step(state, dataset.buckets[0], rows, mask, jnp.asarray(1e-4), WEIGHTS)
        losses.append(float(loss))
    assert losses[1] < losses[0]
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), start, state["params"])
    for path, distance in jax.tree_util.tree_leaves_with_path(moved):
        name = jax.tree_util.keystr(path)
        # a constant electronegativity does nothing
        assert distance > 0 or name.endswith("['bias']"), name


def test_charges_of_the_elements_start_from_the_electronegativities():
    """Neutral over the training set, the most electronegative one negative, and the model adds them."""
    config, dataset = make_model(element_charges=True)
    params = scaled_parameters(config, 0, dataset)
    table = np.asarray(params["params"]["element_charges"])[:, 0]
    numbers = np.asarray(dataset.buckets[0].system.atomic_numbers)[np.asarray(dataset.buckets[0].system.atom_mask)]
    of_atoms = table[np.searchsorted(config.representation.elements, numbers)]
    np.testing.assert_allclose(of_atoms.sum(), 0.0, atol=1e-5)
    assert of_atoms[numbers == 17].max() < -0.1 < 0.1 < of_atoms[numbers != 17].min()
    evaluation = make_evaluation(config, with_stress=False)
    without = {"params": params["params"] | {"element_charges": jnp.zeros_like(params["params"]["element_charges"])}}
    found = [
        np.asarray(evaluation(p, dataset.buckets[0], np.arange(2), np.ones(2, bool), WEIGHTS)[1].charges)
        for p in (params, without)
    ]
    added = (found[0] - found[1])[np.asarray(dataset.buckets[0].system.atom_mask)]
    np.testing.assert_allclose(added[:, 0], of_atoms, atol=1e-6)


@pytest.mark.parametrize("settings", [LATENT, EQUILIBRATION], ids=["latent", "equilibration"])
def test_most_electronegative_element_becomes_negative(settings):
    config, dataset = make_model(**settings)
    potential = Potential.create(config, seed=2)
    evaluation = make_evaluation(config, with_stress=False)
    (bucket,) = dataset.buckets

    def predict(potential):
        return evaluation(potential.params, bucket, np.arange(2), np.ones(2, bool), WEIGHTS)[1]

    def of_chlorine(prediction):
        return np.asarray(prediction.charges)[np.asarray(bucket.system.atomic_numbers) == 17].sum(axis=0)

    before = predict(potential)
    signs = np.where(of_chlorine(before) > 0, -1.0, 1.0)
    if np.all(signs > 0):  # start from the wrong sign
        potential = flip(potential, -signs)
        before, signs = predict(potential), -signs
    oriented = orient(potential, dataset, evaluation, WEIGHTS, batch_size=2)
    after = predict(oriented)
    assert np.all(of_chlorine(after) < 0)
    rtol = 1e-10 if jax.config.jax_enable_x64 else 1e-4
    np.testing.assert_allclose(after.charges, before.charges * signs[None, None], rtol=rtol)
    np.testing.assert_allclose(after.forces, before.forces, rtol=rtol, atol=rtol)
    for name in ("dipoles", "quadrupoles"):
        if (value := getattr(before, name)) is not None:
            factors = signs.reshape(1, 1, -1, *(1,) * (value.ndim - 3))
            np.testing.assert_allclose(getattr(after, name), value * factors, rtol=rtol, atol=rtol)
    assert orient(oriented, dataset, evaluation, WEIGHTS, batch_size=2) is None


def test_equilibration_starts_from_the_electronegativities():
    config, dataset = make_model(**EQUILIBRATION)
    bucket = dataset.buckets[0]
    potential = Potential(scaled_parameters(config, 0, dataset), config)
    evaluation = make_evaluation(config, with_stress=False)
    found = evaluation(potential.params, bucket, np.arange(2), np.ones(2, bool), WEIGHTS)[1]
    chlorine = np.asarray(bucket.system.atomic_numbers) == 17
    assert np.asarray(found.charges)[chlorine].mean() < -0.1


def test_charged_systems_have_a_sign():
    config, dataset = make_model(charge=1.0, charges="equilibration")
    evaluation = make_evaluation(config, with_stress=False)
    assert orient(Potential.create(config), dataset, evaluation, WEIGHTS, batch_size=2) is None


def test_structure_without_its_charge_is_named():
    config, _ = make_model(charge_constraint="total")
    frames = make_frames(1)
    with pytest.raises(ValueError, match=r"Structure 0: `total_charge` \(in e\) is needed .*atoms\.info\['charge'\]"):
        make_dataset(config, frames, io.all_labels(frames))


def test_elements_without_electronegativity_start_neutral():
    config, dataset = make_model(element_charges=True)
    with_argon = dataclasses.replace(config.representation, elements=(*config.representation.elements, 18))
    config = dataclasses.replace(config, representation=with_argon, reference_energies=())
    bucket = dataset.buckets[0]
    numbers = np.array(bucket.system.atomic_numbers)
    numbers[:, 0] = 18
    system = dataclasses.replace(bucket.system, atomic_numbers=numbers)
    dataset = dataclasses.replace(dataset, buckets=(dataclasses.replace(bucket, system=system),))
    table = np.asarray(_electronegativity_charges(config, dataset, jnp.zeros((3, 1))))[:, 0]
    assert table[-1] == 0.0
    assert table.min() < -0.1 < 0.1 < table.max()


def test_sign_is_decided_by_structures_of_all_charges():
    (_, ions), (_, neutral) = make_model(charge=1.0), make_model()
    assert decisive(ions, neutral) is ions
    assert decisive(neutral, None) is neutral
    (_, others) = make_model()
    assert decisive(neutral, others) is others
