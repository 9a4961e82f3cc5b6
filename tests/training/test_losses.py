"""The loss against plain numpy, for labels of which some are missing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import io
from lesjax.models import ModelConfig, Potential
from lesjax.models.prediction import Prediction
from lesjax.system import System
from lesjax.training import losses, terms
from lesjax.training.data import Batch
from lesjax.training.losses import loss_of_sums
from lesjax.training.terms import TERMS


B, N = 3, 4
SIZES = (4, 2, 3)
DTYPE = jax.dtypes.canonicalize_dtype(float)


def make_batch(pbc=(True, True, True), **labels):
    """Three systems of 4, 2 and 3 atoms, padded to 4, with random labels of all kinds."""
    rng = np.random.default_rng(0)
    mask = np.arange(N) < np.array(SIZES)[:, None]
    system = System(
        positions=rng.normal(size=(B, N, 3)).astype(DTYPE),
        cell=np.zeros((B, 3, 3), DTYPE),
        atomic_numbers=mask.astype(np.int32),
        atom_mask=mask,
        neighbors=np.zeros((B, N, 1), np.int32),
        cell_shifts=np.zeros((B, N, 1, 3), np.int32),
        neighbor_mask=np.zeros((B, N, 1), bool),
        pbc=pbc,
    )
    shapes = io.Labels.shapes(N)
    values = {name: labels.get(name, rng.normal(size=(B, *shape))) for name, shape in shapes.items()}
    values["forces"] = np.where(mask[:, :, None], values["forces"], np.nan)
    values["charges"] = np.where(mask, values["charges"], np.nan)
    values = {name: value.astype(DTYPE) for name, value in values.items()}
    origins, epsilon = rng.normal(size=(B, 3)).astype(DTYPE), np.ones(B, DTYPE)
    return jax.device_put(Batch(system, None, io.Labels(**values), origins, epsilon, np.ones(B, bool)))


def make_prediction():
    rng = np.random.default_rng(1)
    mask = np.arange(N) < np.array(SIZES)[:, None]
    energy = rng.normal(size=B)
    values = {
        "energy": energy,
        "total_energy": None,
        "short_range_energy": energy,
        "long_range_energy": energy,
        "forces": np.where(mask[:, :, None], rng.normal(size=(B, N, 3)), 0.0),
        "stress": rng.normal(size=(B, 3, 3)),
        "charges": np.where(mask[:, :, None], rng.normal(size=(B, N, 2)), 0.0),
    }
    return Prediction(**{name: None if value is None else jnp.asarray(value, DTYPE) for name, value in values.items()})


OPEN = (False, False, False)
PREDICTION = make_prediction()
BORN = jnp.asarray(np.random.default_rng(3).normal(size=(B, N, 3, 3)), DTYPE)
ALL = {"energy": 2.0, "forces": 3.0, "stress": 5.0, "charges": 7.0}
POTENTIAL = Potential({}, None, ModelConfig())  # Born effective charges, which alone would need it, are given


@pytest.fixture(autouse=True)
def given_born_charges(monkeypatch):
    rows = [dataclasses.replace(t, predicted=lambda *_: BORN) if t.name == terms.BORN.name else t for t in TERMS]
    monkeypatch.setattr(losses, "TERMS", tuple(rows))


def sums(prediction, batch, names):
    return losses.sums(losses.pairs(POTENTIAL, prediction, batch, names))


def loss(prediction, batch, weights):
    return jnp.asarray(loss_of_sums(sums(prediction, batch, weights), weights))


def expected(prediction, batch, weights, systems=range(B)):
    """The same in numpy, with the labels that are there written out one by one."""
    total = 0.0
    for name, weight in weights.items():
        squares = []
        for i in systems:
            n = SIZES[i]
            q = np.asarray(prediction.charges[i, :n].sum(axis=1), float)
            x = np.asarray(batch.system.positions[i, :n], float) - np.asarray(batch.origins[i], float)
            second = np.einsum("n,na,nb->ab", q, x, x)
            label, value = {
                "energy": (batch.labels.energy[i] / n, prediction.energy[i] / n),
                "forces": (batch.labels.forces[i, :n], prediction.forces[i, :n]),
                "stress": (batch.labels.stress[i], prediction.stress[i]),
                "charges": (batch.labels.charges[i, :n], q),
                "dipole": (batch.labels.dipole[i], q @ x),
                "quadrupole": (batch.labels.quadrupole[i], second - np.trace(second) / 3.0 * np.eye(3)),
                "born_effective_charges": (batch.labels.born_effective_charges[i, :n], BORN[i, :n]),
            }[name]
            error = np.ravel(np.asarray(value, float) - np.asarray(label, float))
            squares += (error[np.isfinite(error)] ** 2).tolist()
        total += weight * (np.mean(squares) if squares else 0.0)
    return total


@pytest.mark.parametrize(
    "weights",
    [ALL, *({name: 2.0} for name in ALL)],
    ids=["all", *ALL],
)
def test_loss_is_the_weighted_mean_square(weights):
    batch = make_batch()
    np.testing.assert_allclose(loss(PREDICTION, batch, weights), expected(PREDICTION, batch, weights), rtol=1e-5)


@pytest.mark.parametrize("name", ["dipole", "quadrupole", "born_effective_charges"])
def test_loss_of_the_response(name):
    """With labels missing of one structure and in a single component of another."""
    value = np.random.default_rng(4).normal(size=getattr(make_batch().labels, name).shape)
    value[1] = np.nan
    value[2].flat[0] = np.nan
    batch, weights = make_batch(OPEN, **{name: value}), {name: 2.0}
    found, gradient = jax.value_and_grad(loss)(PREDICTION, batch, weights)
    np.testing.assert_allclose(found, expected(PREDICTION, batch, weights), rtol=1e-5)
    assert np.isfinite(gradient.charges).all()
    if name != "born_effective_charges":  # of cells that are periodic there are no moments
        assert loss(PREDICTION, make_batch(**{name: value}), weights) == 0.0


def partly_labelled():
    rng = np.random.default_rng(2)
    energy = np.array([1.0, np.nan, -2.0])
    forces = rng.normal(size=(B, N, 3))
    forces[0] = np.nan
    forces[1, 1] = np.nan
    stress = np.full((B, 3, 3), np.nan)
    return make_batch(energy=energy, forces=forces, stress=stress)


def test_loss_of_partly_labelled_structures_is_that_of_the_labelled_part():
    batch = partly_labelled()
    np.testing.assert_allclose(loss(PREDICTION, batch, ALL), expected(PREDICTION, batch, ALL), rtol=1e-5)


def test_missing_labels_have_no_gradient():
    batch = partly_labelled()
    gradient = jax.grad(loss)(PREDICTION, batch, ALL)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    np.testing.assert_array_equal(gradient.energy != 0, [True, False, True])
    assert not gradient.forces[0].any()
    assert not gradient.forces[1, 1].any()
    assert gradient.forces[1, 0].all()
    assert not gradient.stress.any()


def test_no_label_at_all_is_a_loss_of_zero():
    nothing = {"energy": np.full(B, np.nan), "forces": np.full((B, N, 3), np.nan)}
    nothing |= {"stress": np.full((B, 3, 3), np.nan), "charges": np.full((B, N), np.nan)}
    value, gradient = jax.value_and_grad(loss)(PREDICTION, make_batch(**nothing), ALL)
    assert value == 0.0
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_filled_up_rows_count_for_nothing():
    batch = make_batch()
    masked = dataclasses.replace(batch, system_mask=jnp.array([True, False, True]))
    np.testing.assert_allclose(
        loss(PREDICTION, masked, ALL), expected(PREDICTION, batch, ALL, systems=(0, 2)), rtol=1e-5
    )


def test_what_a_model_does_not_predict_is_left_out():
    short = dataclasses.replace(PREDICTION, stress=None, charges=None)
    batch = make_batch()
    np.testing.assert_allclose(
        loss(short, batch, ALL), loss(PREDICTION, batch, {"energy": 2.0, "forces": 3.0}), rtol=1e-6
    )
    assert set(sums(short, batch, ALL)) == {"energy", "forces"}


def test_sums_of_errors():
    batch = partly_labelled()
    found = sums(PREDICTION, batch, ALL)
    known = np.isfinite(np.asarray(batch.labels.forces))
    errors = np.asarray(PREDICTION.forces - batch.labels.forces)[known]
    wanted = [np.sum(errors**2), np.sum(errors**2), np.sum(np.abs(errors)), known.sum()]
    np.testing.assert_allclose(found["forces"], wanted, rtol=1e-5)
    assert found["energy"].number == 2
    assert list(found["stress"]) == [0.0, 0.0, 0.0, 0.0]


def test_sums_add_up_over_batches():
    """The loss of a batch is that of the sums over its parts, not the mean of their losses."""
    batch = partly_labelled()
    masks = ([True, False, True], [False, True, False])
    parts = [dataclasses.replace(batch, system_mask=jnp.array(mask)) for mask in masks]
    totals = jax.tree.map(jnp.add, *(sums(PREDICTION, part, ALL) for part in parts))
    np.testing.assert_allclose(loss_of_sums(totals, ALL), loss(PREDICTION, batch, ALL), rtol=1e-6)
    on_the_host = jax.tree.map(lambda *x: np.sum(x, dtype=float), *(sums(PREDICTION, part, ALL) for part in parts))
    np.testing.assert_allclose(loss_of_sums(on_the_host, ALL), loss(PREDICTION, batch, ALL), rtol=1e-6)


def test_penalty_of_a_row(monkeypatch):
    """One that is not zero for an error of zero, so that padded labels would show."""
    rows = [dataclasses.replace(term, penalty=lambda x: jnp.abs(x) + 1.0) for term in TERMS if term.name == "forces"]
    monkeypatch.setattr(losses, "TERMS", tuple(rows))
    batch = partly_labelled()
    known = np.isfinite(np.asarray(batch.labels.forces))
    errors = np.asarray(PREDICTION.forces - batch.labels.forces)[known]
    np.testing.assert_allclose(loss(PREDICTION, batch, {"forces": 3.0}), 3.0 * np.mean(abs(errors) + 1.0), rtol=1e-5)


def test_weights_of_structures():
    """They multiply the penalties; the number of labels and the errors that are reported stay."""
    batch = make_batch()
    factors = {"energy": jnp.asarray([2.0, 0.5, 1.0], DTYPE), "forces": jnp.asarray([0.0, 3.0, 1.0], DTYPE)}
    weighed = sums(PREDICTION, dataclasses.replace(batch, weights=factors), ("energy", "forces", "charges"))
    plain = sums(PREDICTION, batch, ("energy", "forces", "charges"))
    for name in ("energy", "forces", "charges"):
        pair = losses.pairs(POTENTIAL, PREDICTION, batch, (name,))[name]
        squares = np.where(pair.known, (np.asarray(pair.predicted) - np.asarray(pair.reference)) ** 2, 0.0)
        own = np.asarray(factors.get(name, np.ones(B)), float)
        expected = np.sum(own * squares.reshape(B, -1).sum(axis=1))
        np.testing.assert_allclose(weighed[name].penalties, expected, rtol=1e-5)
        for part in ("squares", "magnitudes", "number"):
            assert getattr(weighed[name], part) == getattr(plain[name], part)
