"""One step: what it learns from, what clips it, how often it compiles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lesjax.models.cace.symmetrize import invariants
from lesjax.training import initialize, loop
from lesjax.training.config import TrainingSection
from lesjax.training.initialize import initial_state, scaled_parameters
from lesjax.training.losses import Weights
from lesjax.training.prepare import prepare
from lesjax.training.step import average_decay, make_evaluation, make_optimizer, make_step
from toy import MODEL, make_config, make_frame, make_frames, phases


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Four frames, all for training."""
    config = make_config(tmp_path_factory.mktemp("step"), make_frames(4), data={"valid_fraction": 0.0})
    return prepare(config)


@pytest.fixture(scope="module")
def step(small):
    return make_step(small.model, TrainingSection(ema=0.9))


@pytest.fixture(scope="module")
def parameters(small):
    return scaled_parameters(small.model, 0, small.train)


def test_features_start_at_a_root_mean_square_of_one(small, parameters, monkeypatch):
    def sizes(parameters):
        return initialize._root_mean_square(small.model, parameters["params"]["representation"], small.train)

    np.testing.assert_allclose(sizes(parameters), 1.0, rtol=1e-4)
    together = sizes(scaled_parameters(small.model, 0, small.train, "all"))
    assert np.mean(together**2) == pytest.approx(1.0, rel=1e-4)
    assert together.max() > 3.0 * together.min()
    c = small.model.representation
    single, *products = together.reshape(len(c.messages) + 1, len(invariants(c.max_l, c.max_nu)), -1)[0]
    assert np.sqrt(np.mean(np.square(products))) < 0.5 * np.sqrt(np.mean(single**2))
    n_atoms, noise = small.train.buckets[0].system.atom_mask.shape[1], jnp.asarray([2.0, 1e-19, 0.0])
    monkeypatch.setattr(initialize, "_features", lambda *_: jnp.broadcast_to(noise, (4, n_atoms, 3)))
    np.testing.assert_allclose(sizes(parameters), [2.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="`feature_scale` must be each or all, got 'none'"):
        TrainingSection(feature_scale="none")


WEIGHTS = {
    "energy": Weights(1.0, 0.0, stress=0.0),
    "forces": Weights(0.0, 1.0, stress=0.0),
    "stress": Weights(0.0, 0.0, stress=1e3),
}
RATE = 1e-3


@pytest.mark.parametrize("kind", WEIGHTS)
def test_steps_lower_the_loss_they_are_told_to(small, step, parameters, kind):
    state = initial_state(TrainingSection(ema=0.9), parameters)
    losses = []
    for _ in range(12):
        state, loss = step(
            state, small.train.buckets[0], np.arange(4), np.ones(4, bool), jnp.asarray(RATE), WEIGHTS[kind]
        )
        losses.append(float(loss))
    assert losses[1] < losses[0]
    assert losses[-1] < 0.9 * losses[0]
    assert step._cache_size() == 1  # weights and rate are arguments


def test_ema_follows_the_parameters(small, step, parameters):
    state = initial_state(TrainingSection(ema=0.9), parameters)
    before = jax.tree.map(np.array, state["ema"])
    arguments = (small.train.buckets[0], np.arange(4), np.ones(4, bool), jnp.asarray(RATE), WEIGHTS["forces"])
    expected = before
    for decay in (2 / 11, 3 / 12):  # (1 + t) / (10 + t) in step t, until it is 0.9
        state, _ = step(state, *arguments)
        new = jax.tree.map(np.array, state["params"])
        expected = jax.tree.map(lambda a, b, d=decay: d * a + (1 - d) * b, expected, new)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state["ema"], expected)
    section = TrainingSection(ema=0.9)
    np.testing.assert_allclose([average_decay(section, jnp.asarray(t)) for t in (80.0, 81.0, 1000.0)], [0.9, 0.9, 0.9])
    assert average_decay(TrainingSection(ema=0.0), jnp.asarray(5.0)) == 0.0


def test_rows_that_fill_up_do_not_count(small, step, parameters):
    """Two rows, filled up to four."""
    states = []
    for rows in ([0, 1, 2, 3], [0, 1, 3, 2]):
        state = initial_state(TrainingSection(ema=0.9), parameters)
        mask = np.array([True, True, False, False])
        states.append(
            step(state, small.train.buckets[0], np.array(rows), mask, jnp.asarray(RATE), WEIGHTS["forces"])
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), states[0], states[1])


def gradient_of(values):
    return {"w": jnp.asarray(values)}


def first_moment(section, gradient):
    """What Adam remembers of its first gradient, over 1 - β₁ = 0.1."""
    optimizer = make_optimizer(section)
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update(gradient, optimizer.init(gradient), gradient)
    (moments,) = (part for part in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(part))
    return np.asarray(moments.mu["w"]) / 0.1


def is_adam(part):
    return isinstance(part, optax.ScaleByAdamState)


def test_clipping():
    gradient = gradient_of([30.0, 40.0])
    np.testing.assert_allclose(first_moment(TrainingSection(clip=10.0), gradient), [6.0, 8.0], rtol=1e-5)
    np.testing.assert_allclose(first_moment(TrainingSection(clip=100.0), gradient), [30.0, 40.0], rtol=1e-5)
    np.testing.assert_allclose(first_moment(TrainingSection(clip=0.0), gradient), [30.0, 40.0], rtol=1e-5)


def test_weight_decay_belongs_to_adamw():
    parameters, gradient = gradient_of([2.0, -4.0]), gradient_of([0.0, 0.0])

    def update(**settings):
        optimizer = make_optimizer(TrainingSection(**settings))
        with jax.numpy_dtype_promotion("standard"):
            return np.asarray(optimizer.update(gradient, optimizer.init(parameters), parameters)[0]["w"])

    np.testing.assert_allclose(update(optimizer="adam", weight_decay=0.1), [0.0, 0.0])
    np.testing.assert_allclose(update(optimizer="adamw", weight_decay=0.1), [-0.2, 0.4], rtol=1e-6)
    parameters["bessel_frequencies"], gradient["bessel_frequencies"] = parameters["w"], gradient["w"]
    optimizer = make_optimizer(TrainingSection(optimizer="adamw", weight_decay=0.1))
    with jax.numpy_dtype_promotion("standard"):
        moved = optimizer.update(gradient, optimizer.init(parameters), parameters)[0]
    np.testing.assert_allclose(moved["bessel_frequencies"], 0.0)
    np.testing.assert_allclose(moved["w"], [-0.2, 0.4], rtol=1e-6)


@pytest.mark.usefixtures("cheap_model")
def test_many_sizes_compile_at_most_three_times(tmp_path, monkeypatch):
    """Structures of 16, 20 … 52 atoms, with their neighbours and k-grids of many shapes."""
    rng = np.random.default_rng(0)
    frames = [make_frame(rng, repeats) for repeats in range(4, 14) for _ in range(2)]
    made = []

    def counted(maker):
        def make(*arguments, **options):
            made.append(maker(*arguments, **options))
            return made[-1]

        return make

    monkeypatch.setattr(loop, "make_step", counted(make_step))
    monkeypatch.setattr(loop, "make_evaluation", counted(make_evaluation))
    config = make_config(tmp_path, frames, phases=phases(3, 2, learning_rate=1e-3), model=dataclasses.replace(MODEL))
    loop.train(config)
    step, evaluation = made
    assert step._cache_size() <= 3
    assert evaluation._cache_size() <= 3
