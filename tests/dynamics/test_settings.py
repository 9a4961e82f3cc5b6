"""Settings that cannot be run are refused by name, and numbers of numpy become those of Python."""

import dataclasses
import json

import numpy as np
import pytest

from lesjax.dynamics import Settings


SHORT = Settings("nve", steps=20, temperature=100.0, pressure=2e4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ensemble": "nvp"}, r"`ensemble` must be 'nvt', 'nve', 'nose-hoover', 'csvr', .* got 'nvp'"),
        ({"ensemble": "npt", "temperature": None}, r"`temperature` is missing: ensemble 'npt' needs one, in K"),
        ({"timestep": 0.0}, r"`timestep` must be positive, got 0\.0"),
        ({"steps": 0}, r"`steps` must be at least 1, got 0"),
        ({"temperature": 0.0, "ensemble": "nvt"}, r"`temperature` must be positive, got 0\.0"),
        ({"angular_momentum": "none"}, r"`angular_momentum` must be 'keep' or 'zero', got 'none'"),
        ({"format": "dcd"}, r"`format` must be 'xyz' or 'traj', got 'dcd'"),
        ({"ensemble": "npt", "electric_field": (0.0, 0.0, 1.0)}, r"`electric_field` needs a fixed cell"),
        ({"electric_field": (0.0, 1.0)}, r"`electric_field` must be three finite numbers, got \(0\.0, 1\.0\)"),
        ({"pressure": float("nan")}, r"`pressure` must be finite"),
        ({"temperature": -1.0}, r"`temperature` must not be negative"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SHORT, **changes)


def test_settings_take_numbers_of_numpy():
    given = Settings(temperature=np.float64(300.0), electric_field=np.array([0.0, 0.0, 1.0]))
    assert given == Settings(temperature=300.0, electric_field=(0.0, 0.0, 1.0))
    assert given == Settings(temperature=300.0, electric_field=[0.0, 0.0, 1.0])
    json.dumps(dataclasses.asdict(given))
