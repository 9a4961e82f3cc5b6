"""One step: what it learns from, what clips it, how often it compiles."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lesjax.models import Potential
from lesjax.models.cace.symmetrize import invariants
from lesjax.training import initialize, loop, losses, step as step_module
from lesjax.training.config import TrainingSection
from lesjax.training.data import whole_set
from lesjax.training.initialize import initial_state, scaled_potential
from lesjax.training.prepare import prepare
from lesjax.training.step import adam_step, average_decay, lbfgs_step, make_optimizer, update_rule
from toy import MODEL, make_config, make_frame, make_frames, phases


SECTION = TrainingSection(ema=0.9)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Four frames, all for training."""
    config = make_config(tmp_path_factory.mktemp("step"), make_frames(4), data={"valid_fraction": 0.0})
    return prepare(config)


@pytest.fixture(scope="module")
def potential(small):
    return scaled_potential(small.model, 0, small.train)


def test_features_start_at_a_root_mean_square_of_one(small, potential, monkeypatch):
    c, own = small.model.short_range, potential.params["short_range"]
    start = Potential.create(small.model, 0)

    def sizes(potential):
        """Root mean square of the scaled features."""
        (size,) = initialize._root_mean_squares(c, own, small.train)
        return size * potential.params["energy"]["feature_scale"]["layer0"]

    np.testing.assert_allclose(sizes(potential), 1.0, rtol=1e-4)
    together = sizes(scaled_potential(small.model, 0, small.train, "all"))
    assert np.mean(together**2) == pytest.approx(1.0, rel=1e-4)
    assert together.max() > 3.0 * together.min()
    single, *products = together.reshape(len(c.messages) + 1, len(invariants(c.max_l, c.max_nu)), -1)[0]
    assert np.sqrt(np.mean(np.square(products))) < 0.5 * np.sqrt(np.mean(single**2))
    np.testing.assert_allclose(sizes(scaled_potential(small.model, 0, small.train, "none")), sizes(start), rtol=1e-6)
    n_atoms, noise = small.train.buckets[0].system.atom_mask.shape[1], jnp.asarray([2.0, 1e-19, 0.0])
    monkeypatch.setattr(initialize, "_layers", lambda *_: (jnp.broadcast_to(noise, (4, n_atoms, 3)),))
    np.testing.assert_allclose(initialize._root_mean_squares(c, own, small.train)[0], [2.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="`feature_scale` must be 'each', 'all' or 'none', got 'both'"):
        TrainingSection(feature_scale="both")


WEIGHTS = {kind: {"energy": 0.0, "forces": 0.0, "stress": 0.0} for kind in ("energy", "forces", "stress")}
WEIGHTS["energy"]["energy"], WEIGHTS["forces"]["forces"], WEIGHTS["stress"]["stress"] = 1.0, 1.0, 1e3
RATE = 1e-3


def step(state, small, kind, rows=(0, 1, 2, 3), mask=(True,) * 4):
    bucket = small.train.buckets[0]
    arguments = (bucket, np.array(rows), np.array(mask), jnp.asarray(RATE), WEIGHTS[kind])
    return adam_step(update_rule(SECTION), state, *arguments)


def test_groups_have_rates_of_their_own(small, potential):
    """One held, one at half of the rate, the others as with one rate for all."""
    state = initial_state(SECTION, potential)
    arguments = (small.train.buckets[0], np.arange(4), np.ones(4, bool))
    rates = {name: jnp.asarray(RATE) for name in potential.params} | {"charges": jnp.asarray(0.0)}
    rates["energy"] = jnp.asarray(0.5 * RATE)
    (all_alike, _), (own, _) = (
        adam_step(update_rule(SECTION), state, *arguments, rate, WEIGHTS["forces"])
        for rate in (jnp.asarray(RATE), rates)
    )
    moves = [
        {name: jax.tree.map(jnp.subtract, after["potential"].params[name], potential.params[name]) for name in rates}
        for after in (all_alike, own)
    ]
    for name, factor in {"short_range": 1.0, "energy": 0.5, "charges": 0.0}.items():
        assert any(np.any(leaf) for leaf in jax.tree.leaves(moves[0][name]))
        expected = jax.tree.map(lambda move, factor=factor: factor * move, moves[0][name])
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-12), moves[1][name], expected)


def test_lbfgs_compiles_once(small, potential):
    """Its first state has the types of the later ones."""
    section = dataclasses.replace(SECTION, phases=phases(1, lbfgs=True))
    state, parts, before = initial_state(section, potential), whole_set(small.train, 4), lbfgs_step._cache_size()
    for _ in range(2):
        state, _ = lbfgs_step(update_rule(section), state, parts, WEIGHTS["forces"])
    assert lbfgs_step._cache_size() == before + 1


@pytest.mark.parametrize("kind", WEIGHTS)
def test_steps_lower_the_loss_they_are_told_to(small, potential, kind, monkeypatch):
    traces, known = [], losses.predict
    monkeypatch.setattr(losses, "predict", lambda *x, **options: traces.append(0) or known(*x, **options))
    state = initial_state(SECTION, potential)
    values = []
    for _ in range(12):
        state, loss = step(state, small, kind)
        values.append(float(loss))
    assert values[1] < values[0]
    assert values[-1] < 0.9 * values[0]
    assert len(traces) <= 1  # weights and rate are arguments; none where another kind was compiled before


def test_ema_follows_the_parameters(small, potential):
    state = initial_state(SECTION, potential)
    expected = jax.tree.map(np.array, state["ema"])
    for decay in (2 / 11, 3 / 12):  # (1 + t) / (10 + t) in step t, until it is 0.9
        state, _ = step(state, small, "forces")
        new = jax.tree.map(np.array, state["potential"].params)
        expected = jax.tree.map(lambda a, b, d=decay: d * a + (1 - d) * b, expected, new)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state["ema"], expected)
    rule = update_rule(SECTION)
    np.testing.assert_allclose([average_decay(rule, jnp.asarray(t)) for t in (80.0, 81.0, 1000.0)], [0.9, 0.9, 0.9])
    assert average_decay(update_rule(TrainingSection(ema=0.0)), jnp.asarray(5.0)) == 0.0


def test_rows_that_fill_up_do_not_count(small, potential):
    """Two rows, filled up to four."""
    mask = (True, True, False, False)
    states = [
        step(initial_state(SECTION, potential), small, "forces", rows, mask)[0] for rows in ([0, 1, 2, 3], [0, 1, 3, 2])
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), *states)


def test_terms_without_a_weight_cost_nothing(small, potential):
    """The gradient of the loss of energies has no second derivatives."""

    def cost(weights):
        loss = partial(losses.batch_loss, potential, small.train.buckets[0], weights)
        return jax.jit(jax.grad(loss)).lower(potential.params).compile().cost_analysis()["flops"]

    assert cost({"energy": 1.0}) < 0.6 * cost({"energy": 1.0, "forces": 1.0})


def gradient_of(values):
    return {"w": jnp.asarray(values)}


def optimizer_of(**settings):
    return make_optimizer(update_rule(TrainingSection(**settings)), MODEL)


def first_moment(gradient, **settings):
    """What Adam remembers of its first gradient, over 1 - β₁ = 0.1."""
    optimizer = optimizer_of(**settings)
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update(gradient, optimizer.init(gradient), gradient)
    (moments,) = (part for part in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(part))
    return np.asarray(moments.mu["w"]) / 0.1


def is_adam(part):
    return isinstance(part, optax.ScaleByAdamState)


def test_clipping():
    gradient = gradient_of([30.0, 40.0])
    np.testing.assert_allclose(first_moment(gradient, clip=10.0), [6.0, 8.0], rtol=1e-5)
    np.testing.assert_allclose(first_moment(gradient, clip=100.0), [30.0, 40.0], rtol=1e-5)
    np.testing.assert_allclose(first_moment(gradient, clip=0.0), [30.0, 40.0], rtol=1e-5)


def test_weight_decay_belongs_to_adamw():
    parameters, gradient = gradient_of([2.0, -4.0]), gradient_of([0.0, 0.0])

    def update(**settings):
        optimizer = optimizer_of(**settings)
        with jax.numpy_dtype_promotion("standard"):
            return np.asarray(optimizer.update(gradient, optimizer.init(parameters), parameters)[0]["w"])

    np.testing.assert_allclose(update(optimizer="adam", weight_decay=0.1), [0.0, 0.0])
    np.testing.assert_allclose(update(optimizer="adamw", weight_decay=0.1), [-0.2, 0.4], rtol=1e-6)
    parameters["short_range"] = {"bessel_frequencies": parameters["w"], "other": parameters["w"]}
    gradient["short_range"] = {"bessel_frequencies": gradient["w"], "other": gradient["w"]}
    optimizer = optimizer_of(optimizer="adamw", weight_decay=0.1)
    with jax.numpy_dtype_promotion("standard"):
        moved = optimizer.update(gradient, optimizer.init(parameters), parameters)[0]
    np.testing.assert_allclose(moved["short_range"]["bessel_frequencies"], 0.0)
    np.testing.assert_allclose(moved["short_range"]["other"], [-0.2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(moved["w"], [-0.2, 0.4], rtol=1e-6)


@pytest.mark.usefixtures("cheap_model")
def test_many_sizes_compile_at_most_three_times(tmp_path, monkeypatch):
    """Structures of 16, 20 … 52 atoms, with their neighbours and k-grids of many shapes."""
    rng = np.random.default_rng(0)
    frames = [make_frame(rng, repeats) for repeats in range(4, 14) for _ in range(2)]
    traces = []
    for name in ("batch_loss", "compare"):  # of a step, and of an evaluation
        known = getattr(step_module, name)
        monkeypatch.setattr(step_module, name, lambda *x, name=name, known=known: traces.append(name) or known(*x))
    config = make_config(tmp_path, frames, phases=phases(3, 2, learning_rate=1e-3))
    loop.train(config)
    assert 1 <= traces.count("batch_loss") <= 3
    assert 1 <= traces.count("compare") <= 3
