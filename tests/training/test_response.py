"""Charges, moments and Born effective charges: evaluation, the gradient of their losses, the sign of the charges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import io
from lesjax.models import CACEConfig, LatentCharges, LongRangeConfig, ModelConfig, Potential
from lesjax.models.sign import flip
from lesjax.system import System
from lesjax.training import evaluate, loop
from lesjax.training.config import TrainingSection
from lesjax.training.data import make_dataset
from lesjax.training.folder import run_folder
from lesjax.training.initialize import initial_state
from lesjax.training.losses import batch_loss, compare
from lesjax.training.prepare import Prepared
from lesjax.training.step import adam_step, update_rule
from toy import make_config, make_frame


X64 = jax.config.jax_enable_x64
SMALL = {"elements": (11, 17), "cutoff": 3.6, "n_bessel": 3, "n_radial": 2, "n_embedding": 1, "max_l": 1, "max_nu": 1}
CONFIG = ModelConfig(
    CACEConfig(**SMALL), LongRangeConfig(LatentCharges(hidden=(4,), n_channels=2, scale=1.0), k_cutoff=2.0), hidden=(4,)
)
ORDER = io.Keys(born_effective_charges_order="displacement-first")
KINDS = ("charges", "dipole", "quadrupole", "bec")


@pytest.fixture(scope="module")
def potential():
    return Potential.create(CONFIG, seed=2)


def label(potential, frames, pbc, sign):
    """Labels that the potential agrees with, with its sign or the other one."""
    for atoms in frames:
        n = len(atoms)
        system = System.from_ase(atoms, cutoff=potential.cutoff, pbc=pbc).pad_to(4, 20)  # compiled once
        charges = sign * np.asarray(potential(system).charges, float)[:n].sum(axis=1)
        born = sign * np.asarray(potential.born_effective_charges(system), float)[:n]
        x = atoms.positions - atoms.get_center_of_mass()
        atoms.arrays["REF_charges"] = charges
        atoms.info["REF_dipole"] = charges @ x
        # the trace says nothing of the charges
        atoms.info["REF_quadrupole"] = np.einsum("n,na,nb->ab", charges, x, x) - 30.0 * np.eye(3)
        atoms.arrays["bec"] = born.swapaxes(1, 2).reshape(n, 9)
    return frames


def make_frames(n=3):
    """Frames of four atoms, one of which lacks its last."""
    frames = [make_frame(np.random.default_rng(seed)) for seed in range(n)]
    if n > 1:
        del frames[1][3]
    return frames


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("pbc", [True, False])
def test_evaluation_finds_what_labels_agree_with(potential, pbc, sign):
    frames = label(potential, make_frames(), pbc, sign)
    frames[2].arrays["bec"][1] = np.nan
    result = evaluate(potential, frames, keys=ORDER, pbc=pbc, batch_size=2)
    kinds = ("charges", "bec") if pbc else KINDS
    assert {name for name in KINDS if f"{name}_rmse" in result.metrics} == set(kinds)
    for name in kinds:
        assert result.metrics[f"{name}_rmse"] < (1e-7 if X64 else 1e-3)
    for name in (*kinds, "bec_diagonal", "bec_off_diagonal"):
        assert result.metrics[f"{name}_r2"] > 0.999
        assert result.metrics[f"{name}_corr2"] > 0.999
    assert len(result.parity["bec"].reference) == 9 * (4 + 3 + 3)


def test_one_sign_for_all(potential):
    """Dipoles that contradict the charges do not get a sign of their own: the better statement wins."""
    frames = label(potential, make_frames(), False, -1.0)
    for atoms in frames:
        atoms.info["REF_dipole"] = -atoms.info["REF_dipole"] + 0.3
        del atoms.arrays["bec"]
    metrics = evaluate(potential, frames, pbc=False).metrics
    assert metrics["charges_r2"] > 0.999
    assert metrics["dipole_r2"] < 0.0


def test_epsilon_infinity(potential):
    frames = label(potential, make_frames(), True, -1.0)
    for atoms in frames:
        atoms.arrays["bec"] *= 1.5
    metrics = evaluate(potential, frames, keys=ORDER, epsilon_infinity="fit").metrics
    assert metrics["epsilon_infinity"] == pytest.approx(2.25, rel=1e-4)
    assert metrics["bec_r2"] > 0.999
    given = evaluate(potential, frames, keys=ORDER, epsilon_infinity=2.25).metrics
    assert given["bec_r2"] > 0.999
    assert "epsilon_infinity" not in given
    for value in (0.0, float("inf"), "many"):
        with pytest.raises(ValueError, match=rf"`epsilon_infinity` must be .*positive.*, got {value!r}"):
            evaluate(potential, frames, epsilon_infinity=value)
    for atoms in frames:  # the charges decide, and the Born charges contradict them
        born = atoms.arrays["bec"]
        atoms.arrays["bec"] = 0.1 * born.std() * np.sin(np.arange(born.size)).reshape(born.shape) - born
    with pytest.raises(ValueError, match="finds no positive factor"):
        evaluate(potential, frames, keys=ORDER, epsilon_infinity="fit")


@pytest.fixture(scope="module", params=[True, False], ids=["periodic", "open"])
def batch(request, potential):
    """Two structures of four and three atoms with random Born effective charges, some of which are missing."""
    frames, rng = make_frames(2), np.random.default_rng(5)
    for atoms in frames:
        atoms.arrays["bec"] = rng.normal(size=(len(atoms), 9))
    frames[0].arrays["bec"][2, 4] = np.nan
    labels = io.all_labels(frames, ORDER)
    (bucket,) = make_dataset(CONFIG, frames, labels, request.param, max_buckets=1, epsilon_infinity=2.0).buckets
    return frames, request.param, bucket


def test_born_charges_of_a_padded_batch_are_those_of_the_structures(potential, batch):
    frames, pbc, bucket = batch
    pairs = jax.jit(lambda potential: compare(potential, bucket, ["born_effective_charges"])[0])(potential)
    found = pairs["born_effective_charges"].predicted
    system = System.from_ase(frames[1], cutoff=potential.cutoff, pbc=pbc)
    expected = potential.born_effective_charges(system, epsilon_infinity=2.0)
    np.testing.assert_allclose(found[1, :3], expected, atol=1e-10 if X64 else 1e-4)
    np.testing.assert_array_equal(found[1, 3:], 0.0)


@pytest.mark.skipif(not X64, reason="finite differences")
def test_gradient_of_the_loss_of_born_charges(potential, batch):
    """In random directions of all parameters, against central differences."""
    bucket, weights = batch[2], {"born_effective_charges": 1.0}
    value_and_grad = jax.jit(jax.value_and_grad(lambda params: batch_loss(potential, bucket, weights, params)))
    value, gradient = value_and_grad(potential.params)
    assert value > 0.1
    rng, h = np.random.default_rng(6), 1e-5
    for _ in range(2):
        direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), potential.params)
        sides = [
            float(value_and_grad(jax.tree.map(lambda p, d, s=s: p + s * d, potential.params, direction))[0])
            for s in (h, -h)
        ]
        products = jax.tree.map(lambda g, d: float(jnp.sum(g * d)), gradient, direction)
        assert sum(jax.tree.leaves(products)) == pytest.approx((sides[0] - sides[1]) / (2 * h), rel=1e-6, abs=1e-7)


def test_flipped_potential_has_the_energy_of_the_other(potential):
    system = System.from_ase(make_frames(1)[0], cutoff=potential.cutoff)
    before, after = potential(system), flip(potential, -1.0)(system)
    np.testing.assert_array_equal(after.charges, -before.charges)
    np.testing.assert_array_equal(after.energy, before.energy)


def test_step_on_energies_and_forces_does_not_see_the_sign(potential):
    """Parameters and Adam's memory move alike from both signs, so that it can be set at any time."""
    frames = make_frames(1)
    (bucket,) = make_dataset(CONFIG, frames, io.all_labels(frames)).buckets
    section = TrainingSection(batch_size=1)
    rest = (bucket, np.arange(1), np.ones(1, bool), jnp.asarray(1e-2), {"forces": 1.0})
    state = initial_state(section, potential)
    states = [state, {**state, "potential": flip(state["potential"], -1.0)}]
    for _ in range(2):
        states = [adam_step(update_rule(section), state, *rest)[0] for state in states]
    readouts = [x["potential"].params["charges"]["readout"]["layer0"]["output"]["kernel"] for x in (states[0], state)]
    assert not np.allclose(*readouts)
    np.testing.assert_array_equal(states[1]["potential"].signs, -states[0]["potential"].signs)
    for name in ("ema", "optimizer"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), *(x[name] for x in states))
    params = [x["potential"].params for x in states]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), *params)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_phase_starts_with_the_sign_of_the_labels(potential, tmp_path, sign):
    frames = label(potential, make_frames(), False, sign)
    for atoms in frames:
        atoms.arrays["REF_charges"][0] = np.nan
    config = make_config(tmp_path, frames)
    dataset = make_dataset(CONFIG, frames, io.all_labels(frames, ORDER), False, max_buckets=1)
    prepared = Prepared(CONFIG, dataset, None)
    state = initial_state(config.training, potential)
    run = loop.Run(config.training, prepared, run_folder(tmp_path), state, loop.TrainProgress())
    run.choose_sign({"charges": 1.0, "dipole": 1.0, "quadrupole": 1.0})
    np.testing.assert_array_equal(run.state["potential"].signs, sign * potential.signs)
