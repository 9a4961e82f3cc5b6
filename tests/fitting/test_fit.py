"""The loop of a fit: it finds a known spring, draws frames where it must, keeps to data, and says what is wrong."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lesjax import fitting, units
from lesjax.runs import read_log
from lesjax.training.loop import DivergedError


X64 = jax.config.jax_enable_x64
KT = units.BOLTZMANN * 300.0
SQUARE = fitting.Observable(lambda params, frame, solver: jnp.mean(frame.positions**2))
FIXED_SQUARE = fitting.Observable(lambda frames: np.mean(frames.positions**2, axis=(1, 2)), fixed=True)


def asarray(values):
    return jnp.asarray(values, float)


def springs(params, frame, solver):
    return 0.5 * jnp.exp(params["log_k"]) * jnp.sum(frame.positions**2)


def sample(params, number, start):
    """The user's sampler, exact."""
    rng = np.random.default_rng(number)
    positions = math.sqrt(KT / float(jnp.exp(params["log_k"]))) * rng.normal(size=(400, 8, 3))
    return fitting.Frame(asarray(positions), jnp.zeros((400, 3, 3)))


START = {"log_k": asarray(0.0)}


def reweighting(observable=SQUARE, k=3.0, uncertainty=0.02, **given):
    trajectory = fitting.make_trajectory(springs, START, sample(START, 0, None), temperature=300.0, batch_size=400)
    target = fitting.Target("square", observable, KT / k, uncertainty * KT / k)
    return fitting.Reweighting(springs, trajectory, [target], batch_size=400, **given)


@pytest.mark.parametrize("observable", [SQUARE, FIXED_SQUARE], ids=["traced", "fixed"])
def test_fit_finds_the_spring_with_frames_drawn_on_its_way(observable, tmp_path):
    log = tmp_path / "fit.jsonl"
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 60), b1=0.8, b2=0.9)
    result = fitting.fit(
        START, [reweighting(observable, sampler=sample)], steps=60, optimizer=optimizer, log=log, quiet=True
    )
    # the relative error of the mean square of 9600 normal numbers is 1.4 %
    assert float(result.params["log_k"]) == pytest.approx(math.log(3.0), abs=0.05)
    last = result.history[-1]
    assert last["draws"][0] >= 2
    assert all(record["effective"][0] >= 0.5 for record in result.history)
    assert last["square"] == pytest.approx(KT / 3.0, rel=0.02)
    assert last["loss"] < 1.0 < result.history[0]["loss"]
    assert read_log(log) == result.history
    assert len(result.history) == 60


def test_targets_of_parameters_and_other_losses_add_up():
    target = fitting.Target("sum", lambda params: params["a"] + params["b"], 3.0, 0.1)
    result = fitting.fit(
        {"a": asarray(0.0), "b": asarray(0.0)},
        targets=[target],
        losses={"other": lambda params: 100.0 * (params["a"] - 1.0) ** 2},
        steps=200,
        optimizer=optax.adam(0.1),
        quiet=True,
    )
    assert float(result.params["a"]) == pytest.approx(1.0, abs=1e-3)
    assert float(result.params["b"]) == pytest.approx(2.0, abs=1e-3)
    first = result.history[0]
    assert first["loss"] == pytest.approx(first["sum_loss"] + first["other_loss"])
    assert first["sum_loss"] == pytest.approx(900.0, rel=1e-5)


def test_a_direct_target_from_an_observable():
    frame = fitting.Frame(asarray([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]]), jnp.zeros((3, 3)))
    moment = fitting.dipole_moment(lambda q, frame, solver: q * asarray([-1.0, 1.0])).at(frame)
    result = fitting.fit(
        asarray(0.2),
        targets=[fitting.Target("dipole", moment, [0.0, 0.0, 0.6], 0.01)],
        steps=100,
        optimizer=optax.adam(0.02),
        quiet=True,
    )
    assert float(result.params) == pytest.approx(0.4, abs=1e-3)


IMAGES = asarray([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def lennard_jones(params, frame, solver):
    """One atom and its nearest images in a cube."""
    attraction = (params["size"] ** 2 / jnp.sum((IMAGES @ frame.cell) ** 2, axis=1)) ** 3
    return 4.0 * jnp.exp(params["log_depth"]) * jnp.sum(attraction**2 - attraction)


def lattice_constant(params):
    start = fitting.Frame(jnp.zeros((1, 3)), 3.0 * jnp.eye(3))
    return fitting.relax(lennard_jones, params, start, strain="isotropic").system.cell[0, 0]


def test_a_relaxed_lattice_constant_is_fitted():
    """a = 2^(1/6) size, so that a step of half of the inverse curvature leads there; beside a compiled target."""
    slope = 2.0 ** (1.0 / 6.0)
    params = {"size": asarray(2.6), "log_depth": asarray(0.0)}
    edge = fitting.Target("edge", lattice_constant, 3.2, 1.0 / slope, compiled=False)
    depth = fitting.Target("depth", lambda params: params["log_depth"], 0.5, slope**-2)
    rate = optax.sgd(0.5 * slope**-4)
    result = fitting.fit(params, targets=[edge, depth], steps=3, optimizer=rate, quiet=True)
    assert float(result.params["size"]) == pytest.approx(3.2 / slope, rel=1e-6 if X64 else 1e-3)
    assert float(result.params["log_depth"]) == pytest.approx(0.5, rel=1e-6)
    first = result.history[0]
    assert first["edge"] == pytest.approx(2.6 * slope, rel=1e-3)
    assert first["loss"] == pytest.approx(first["edge_loss"] + first["depth_loss"])
    assert first["depth_loss"] == pytest.approx(0.25 * slope**4)
    alone = fitting.fit(params, targets=[edge], steps=2, optimizer=rate, quiet=True)
    assert float(alone.params["size"]) == pytest.approx(3.2 / slope, rel=1e-6 if X64 else 1e-3)
    with pytest.raises(TypeError, match=r"outside of jit and vmap.*`Target` of a fit.*`compiled=False`"):
        fitting.fit(params, targets=[replace(edge, compiled=True)], steps=1, quiet=True)


def test_too_few_effective_frames():
    fast = optax.adam(1.0)
    with pytest.raises(fitting.ReweightingError, match=r"effective sample size is .* of 400 frames.*Give a `sampler`"):
        fitting.fit(START, [reweighting()], steps=5, optimizer=fast, quiet=True)
    away = reweighting(sampler=lambda params, number, start: sample(START, number, start), max_draws=2)
    with pytest.raises(fitting.ReweightingError, match="re-sampling does not help: 2 new trajectories"):
        fitting.fit(START, [away], steps=50, optimizer=optax.adam(1.0), quiet=True)


def test_target_outside_of_the_frames():
    with pytest.raises(ValueError, match="'square' is outside of what the trajectory covers"):
        fitting.fit(START, [reweighting(FIXED_SQUARE, k=50.0)], quiet=True)
    histogram = fitting.Observable(lambda frames: np.zeros((len(frames.positions), 3)), fixed=True)
    with pytest.raises(ValueError, match=r"`value` has shape \(\), the observable gives \(3,\)"):
        fitting.fit(START, [reweighting(histogram)], quiet=True)
    # what parameters change may lie anywhere, and a sampler may get there
    for allowed in (reweighting(SQUARE, k=50.0), reweighting(FIXED_SQUARE, k=50.0, sampler=sample)):
        fitting.fit(START, [allowed], steps=1, quiet=True)


def test_what_cannot_be_fitted():
    def target(name="a", observable=lambda p: p["log_k"], value=1.0, uncertainty=1.0):
        return fitting.Target(name, observable, value, uncertainty)

    with pytest.raises(ValueError, match="nothing to fit"):
        fitting.fit(START)
    with pytest.raises(ValueError, match="names of their own"):
        fitting.fit(START, targets=[target(), target()])
    with pytest.raises(ValueError, match="`uncertainty` must be positive"):
        target(uncertainty=0.0)
    with pytest.raises(ValueError, match="`value` must be finite"):
        target(value=np.nan)
    with pytest.raises(ValueError, match=r"`value` has shape \(2,\), the observable gives \(\)"):
        fitting.fit(START, targets=[target(value=[1.0, 2.0])], steps=1, quiet=True)
    with pytest.raises(TypeError, match="is an average"):
        fitting.fit(START, targets=[target(observable=SQUARE)])
    with pytest.raises(TypeError, match="needs an `Observable`"):
        fitting.Reweighting(springs, reweighting().trajectory, [target()])
    with pytest.raises(ValueError, match="averages are always compiled"):
        fitting.Reweighting(springs, reweighting().trajectory, [replace(target(observable=SQUARE), compiled=False)])
    with pytest.raises(ValueError, match="`min_effective`"):
        reweighting(min_effective=1.5)
    with pytest.raises(DivergedError, match=r"not finite at step 0, in \['a'\]"):
        fitting.fit(START, targets=[target(observable=lambda p: jnp.log(p["log_k"] - 1.0))], steps=1, quiet=True)
    with pytest.raises(DivergedError, match="gradient is not finite"):
        fitting.fit(START, targets=[target(observable=lambda p: jnp.sqrt(p["log_k"]))], steps=1, quiet=True)
