"""What the tests of training share: compiled functions, and a model that compiles in no time."""

import dataclasses
import functools
import importlib

import jax.numpy as jnp
import pytest

from lesjax.models.potential import Prediction, initial_parameters
from lesjax.training import loop, step
from lesjax.training.config import Phase


# the last argument only keeps apart what was compiled with `cheap_model` and without
@functools.cache
def _step(model, section, predict):
    return step.make_step(model, section)


@functools.cache
def _lbfgs_step(model, predict):
    return step.make_lbfgs_step(model)


@functools.cache
def _evaluation(model, with_stress, predict):
    return step.make_evaluation(model, with_stress=with_stress)


_born_charges = functools.cache(step.make_born_charges)
# the package has the function under the name of the module
_evaluate = importlib.import_module("lesjax.training.evaluate")


_scaled_parameters = loop.scaled_parameters
_known_parameters = {}


def _parameters(model, seed, dataset, feature_scale):
    """The hyper-parameters hold two numbers that the data set determines: they stand for it."""
    key = (model, seed, feature_scale)
    if key not in _known_parameters:
        _known_parameters[key] = _scaled_parameters(model, seed, dataset, feature_scale)
    return _known_parameters[key]


@pytest.fixture
def compiled_once(monkeypatch):
    """Runs of the same model share what they compile, as long as they share all that the step depends on."""

    def make_step(model, section):
        plain = {"phases": (Phase(epochs=1),), "seed": 0, "checkpoint_seconds": 0.0, "early_stop": 0, "eval_every": 1}
        return _step(model, dataclasses.replace(section, **plain), step.predict)

    def make_evaluation(model, *, with_stress):
        return _evaluation(model, with_stress, step.predict)

    monkeypatch.setattr(loop, "make_step", make_step)
    monkeypatch.setattr(loop, "make_lbfgs_step", lambda model: _lbfgs_step(model, step.predict))
    monkeypatch.setattr(loop, "make_evaluation", make_evaluation)
    monkeypatch.setattr(_evaluate, "make_evaluation", make_evaluation)
    monkeypatch.setattr(_evaluate, "make_born_charges", _born_charges)
    monkeypatch.setattr(loop, "scaled_parameters", _parameters)


def cheap_predict(config, params, system, solver, *, with_stress):
    """A one-parameter potential: energy w² per atom, forces w·r, stress w, charges w of the sign of the element."""
    w = params["params"]["energy_readout"]["linear"]["bias"][0]
    mask = system.atom_mask
    count = jnp.sum(mask).astype(w.dtype)
    sign = jnp.where(system.atomic_numbers == 11, 1.0, -1.0).astype(w.dtype)
    charges = None if config.long_range is None else jnp.where(mask, w * sign, 0.0)[:, None]
    energy = w * w * count
    return Prediction(
        energy=energy,
        interaction_energy=energy,
        short_range_energy=energy,
        long_range_energy=None if charges is None else 0.0 * energy,
        forces=jnp.where(mask[:, None], w * system.positions, 0.0),
        stress=w * jnp.eye(3, dtype=w.dtype) if with_stress else None,
        charges=charges,
    )


@pytest.fixture
def cheap_model(monkeypatch):
    """Replace the model by `cheap_predict`, for tests of what surrounds it."""
    initial = functools.cache(initial_parameters)
    monkeypatch.setattr(step, "predict", cheap_predict)
    monkeypatch.setattr(loop, "scaled_parameters", lambda model, seed, *_: initial(model, seed))
