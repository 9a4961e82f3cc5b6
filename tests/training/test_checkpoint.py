"""Checkpoints: all that goes in comes out, and damage is noticed."""

import math

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from lesjax.training.checkpoint import load_checkpoint, save_checkpoint


DTYPE = jax.dtypes.canonicalize_dtype(float)
STATE = {"params": {"w": np.arange(6, dtype=DTYPE).reshape(2, 3).T}, "count": np.array(3, np.int32)}
HOST = {"epoch": 3, "best_loss": math.inf, "seconds": 0.1 + 0.2}


def test_round_trip(tmp_path):
    save_checkpoint(tmp_path / "c.safetensors", STATE, HOST)
    state, host = load_checkpoint(tmp_path / "c.safetensors", STATE)
    assert host == HOST
    assert jax.tree.structure(state) == jax.tree.structure(STATE)
    for found, expected in zip(jax.tree.leaves(state), jax.tree.leaves(STATE), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_file(tmp_path, kept):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, STATE, HOST)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"c\.safetensors' is damaged.*best model so far is in .*model'"):
        load_checkpoint(path, STATE)


def test_foreign_file(tmp_path):
    path = tmp_path / "c.safetensors"
    save_file({"w": np.zeros(2)}, path)
    with pytest.raises(ValueError, match="is damaged: 'host'"):
        load_checkpoint(path, STATE)


def test_checkpoint_of_another_model(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, STATE, HOST)
    with pytest.raises(ValueError, match=r"does not fit the model in .*\['w'\].*another configuration"):
        load_checkpoint(path, {**STATE, "params": {"w": np.zeros((3, 3))}})
    with pytest.raises(ValueError, match=r"does not fit the model in .*\['v'\]"):
        load_checkpoint(path, {**STATE, "params": {"v": np.zeros((3, 2))}})


def test_failed_write_keeps_the_old_one(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, STATE, HOST)
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_checkpoint(path, STATE, {"epoch": np.ones(2)})
    assert load_checkpoint(path, STATE)[1] == HOST
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]
