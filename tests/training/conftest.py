"""A model that compiles in no time, for tests of what surrounds it."""

import pytest

import toy
import toy_model
from lesjax.models import LatentCharges, LongRangeConfig, ModelConfig


CHEAP = ModelConfig(
    toy_model.ToyConfig(), LongRangeConfig(LatentCharges(hidden=()), k_cutoff=2.0), hidden=(), energy_scale=1.0
)


@pytest.fixture
def cheap_model(monkeypatch):
    """Let `toy.make_config` take the toy model where a test does not give one."""
    monkeypatch.setattr(toy, "MODEL", CHEAP)
