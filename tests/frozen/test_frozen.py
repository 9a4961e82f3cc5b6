"""The redesign computes what was computed before it: energies to 1e-12, the rest to 1e-10, relative to the largest."""

import pathlib

import jax
import numpy as np
import pytest

from frozen.cases import MD, MODELS, TRAINED, atoms_of
from frozen.observed import md_states, predictions, training_losses
from lesjax.models import load


pytestmark = pytest.mark.skipif(not jax.config.jax_enable_x64, reason="the record is in float64")
FOLDER = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def record():
    with np.load(FOLDER / "record.npz") as file:
        return dict(file)


def same(found, record, prefix, tolerance):
    """Compare each array with that of the record, relative to its largest element."""
    expected = {key.removeprefix(prefix): value for key, value in record.items() if key.startswith(prefix)}
    assert set(found) == set(expected)
    for name, value in expected.items():
        limit = 1e-12 if name.endswith("energy") and tolerance < 1e-9 else tolerance
        size = max(1.0, float(np.max(np.abs(value))))
        np.testing.assert_allclose(found[name], value, rtol=0, atol=limit * size, err_msg=prefix + name)


@pytest.mark.parametrize("name", MODELS)
def test_predictions(name, record):
    same(predictions(load(FOLDER / "models" / name), atoms_of(MODELS[name])), record, f"{name}/", 1e-10)


@pytest.mark.parametrize("name", TRAINED)
def test_training_losses(name, record):
    losses = training_losses(load(FOLDER / "models" / name), MODELS[name])
    np.testing.assert_allclose(losses, record[f"training/{name}"], rtol=1e-10)


@pytest.mark.parametrize("name", MD)
def test_dynamics(name, record, tmp_path):
    """A hundred steps; rounding grows with them."""
    states = md_states(load(FOLDER / "models" / "latent"), atoms_of("bulk"), MD[name], tmp_path)
    same(states, record, f"md/{name}/", 1e-8)
