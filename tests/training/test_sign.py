"""The sign of the charges after training, and steps of training for each variant of the long-range part."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import io
from lesjax.models import EquilibratedCharges, FixedCharges, Induction, LatentCharges, LongRangeConfig, Potential
from lesjax.models.sign import flip
from lesjax.training.config import DataConfig, Phase, TrainingSection
from lesjax.training.data import make_dataset
from lesjax.training.initialize import _electronegativity_charges, initial_state, scaled_potential
from lesjax.training.loop import phase_weights, validated
from lesjax.training.prepare import model_config
from lesjax.training.sign import decisive, orient
from lesjax.training.step import adam_step, evaluate_rows, update_rule
from toy import MODEL, make_frame, make_frames


WEIGHTS = phase_weights(Phase(epochs=1))
NAMES = validated(WEIGHTS)
EQUILIBRATION = EquilibratedCharges(element_charges=True, hidden=(4,))
LATENT = LatentCharges(n_channels=2, dipoles=True, quadrupoles=True, hidden=(4,))
VARIANTS = {
    "one pass": LatentCharges(dipoles=True, induction=Induction(kappa=True, alpha="none"), hidden=(4,)),
    "self-consistent": FixedCharges(constraint="total", induction=Induction(alpha="tensor", self_consistent=True)),
    "equilibration": EQUILIBRATION,
    "element charges": LatentCharges(element_charges=True, n_channels=2, hidden=(4,)),
}


def make_model(charges, charge=0.0):
    """Two clusters, which compile faster than crystals."""
    rng = np.random.default_rng(0)
    frames = [make_frame(rng, pbc=False) for _ in range(2)]
    for atoms in frames:
        atoms.info["charge"] = charge
    labels = io.all_labels(frames)
    needed = 2 if charges in (LATENT, VARIANTS["self-consistent"]) else 1
    short_range = dataclasses.replace(MODEL.short_range, max_l=needed, max_nu=1)
    model = dataclasses.replace(MODEL, short_range=short_range, long_range=LongRangeConfig(charges))
    config = model_config(model, DataConfig(train="none.xyz"), frames, labels)
    return config, make_dataset(config, frames, labels)


def predict(potential, dataset):
    return evaluate_rows(potential.core(), dataset.buckets[0], np.arange(2), np.ones(2, bool), NAMES)[1]


@pytest.mark.parametrize("charges", VARIANTS.values(), ids=VARIANTS)
def test_training_moves_all_parameters(charges):
    """Two steps downhill, with a gradient for each kernel and each table."""
    config, dataset = make_model(charges)
    section = TrainingSection(ema=0.0)
    state = initial_state(section, scaled_potential(config, 0, dataset))
    start, losses = state["potential"].params, []
    for _ in range(2):
        arguments = (jnp.arange(2), jnp.ones(2, bool), jnp.asarray(1e-4), WEIGHTS)
        state, loss = adam_step(update_rule(section), state, dataset.buckets[0], *arguments)
        losses.append(float(loss))
    assert losses[1] < losses[0]
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), start, state["potential"].params)
    for path, distance in jax.tree_util.tree_leaves_with_path(moved):
        name = jax.tree_util.keystr(path)
        # a constant electronegativity does nothing
        assert distance > 0 or name.endswith("['bias']"), name


def test_charges_of_the_elements_start_from_the_electronegativities():
    """Neutral over the training set, the most electronegative one negative, and the model adds them."""
    config, dataset = make_model(LatentCharges(element_charges=True, hidden=(4,)))
    potential = scaled_potential(config, 0, dataset)
    table = np.asarray(potential.params["charges"]["element_charges"])[:, 0]
    mask = np.asarray(dataset.buckets[0].system.atom_mask)
    numbers = np.asarray(dataset.buckets[0].system.atomic_numbers)[mask]
    of_atoms = table[np.searchsorted(config.short_range.elements, numbers)]
    np.testing.assert_allclose(of_atoms.sum(), 0.0, atol=1e-5)
    assert of_atoms[numbers == 17].max() < -0.1 < 0.1 < of_atoms[numbers != 17].min()
    none = {
        **potential.params["charges"],
        "element_charges": jnp.zeros_like(potential.params["charges"]["element_charges"]),
    }
    without = dataclasses.replace(potential, params={**potential.params, "charges": none})
    found = [np.asarray(predict(x, dataset).charges)[mask] for x in (potential, without)]
    np.testing.assert_allclose((found[0] - found[1])[:, 0], of_atoms, atol=1e-6)


@pytest.mark.parametrize("charges", [LATENT, EQUILIBRATION], ids=["latent", "equilibration"])
def test_most_electronegative_element_becomes_negative(charges):
    config, dataset = make_model(charges)
    potential = Potential.create(config, seed=2)

    def of_chlorine(prediction):
        chlorine = np.asarray(dataset.buckets[0].system.atomic_numbers) == 17
        return np.asarray(prediction.charges)[chlorine].sum(axis=0)

    before = predict(potential, dataset)
    signs = np.where(of_chlorine(before) > 0, -1.0, 1.0)
    if np.all(signs > 0):  # start from the wrong sign
        potential = flip(potential, -signs)
        before, signs = predict(potential, dataset), -signs
    oriented = orient(potential, dataset, NAMES, batch_size=2)
    after = predict(oriented, dataset)
    assert np.all(of_chlorine(after) < 0)
    rtol = 1e-10 if jax.config.jax_enable_x64 else 1e-4
    np.testing.assert_allclose(after.charges, before.charges * signs[None, None], rtol=rtol)
    np.testing.assert_allclose(after.forces, before.forces, rtol=rtol, atol=rtol)
    for name in ("dipoles", "quadrupoles"):
        if (value := getattr(before, name)) is not None:
            factors = signs.reshape(1, 1, -1, *(1,) * (value.ndim - 3))
            np.testing.assert_allclose(getattr(after, name), value * factors, rtol=rtol, atol=rtol)
    assert orient(oriented, dataset, NAMES, batch_size=2) is None


def test_equilibration_starts_from_the_electronegativities():
    config, dataset = make_model(EQUILIBRATION)
    found = predict(scaled_potential(config, 0, dataset), dataset)
    chlorine = np.asarray(dataset.buckets[0].system.atomic_numbers) == 17
    assert np.asarray(found.charges)[chlorine].mean() < -0.1


def test_charged_systems_have_a_sign():
    config, dataset = make_model(EquilibratedCharges(), charge=1.0)
    assert orient(Potential.create(config), dataset, NAMES, batch_size=2) is None


def test_structure_without_its_charge_is_named():
    config, _ = make_model(LatentCharges(constraint="total"))
    frames = make_frames(1)
    with pytest.raises(ValueError, match="Structure 0: the model needs its total charge, got nan"):
        make_dataset(config, frames, io.all_labels(frames))


def test_elements_without_electronegativity_start_neutral():
    config, dataset = make_model(LatentCharges(element_charges=True))
    with_argon = dataclasses.replace(config.short_range, elements=(*config.short_range.elements, 18))
    config = dataclasses.replace(config, short_range=with_argon, reference_energies=())
    bucket = dataset.buckets[0]
    numbers = np.array(bucket.system.atomic_numbers)
    numbers[:, 0] = 18
    system = dataclasses.replace(bucket.system, atomic_numbers=numbers)
    dataset = dataclasses.replace(dataset, buckets=(dataclasses.replace(bucket, system=system),))
    table = np.asarray(_electronegativity_charges(config, dataset, jnp.zeros((3, 1))))[:, 0]
    assert table[-1] == 0.0
    assert table.min() < -0.1 < 0.1 < table.max()


def test_sign_is_decided_by_structures_of_all_charges():
    (_, ions), (_, neutral) = make_model(LatentCharges(), charge=1.0), make_model(LatentCharges())
    assert decisive(ions, neutral) is ions
    assert decisive(neutral, None) is neutral
    (_, others) = make_model(LatentCharges())
    assert decisive(neutral, others) is others
