"""Settings that make no sense are refused by name, and all survive JSON."""

import json

import pytest

from lesjax.models.config import CACEConfig, LongRangeConfig, ModelConfig, from_dict, to_dict


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cutoff": 0.0}, r"`cutoff` must be positive, got 0\.0"),
        ({"cutoff_p": 0.0}, r"`cutoff_p` must be positive, got 0\.0"),
        ({"n_bessel": 0}, r"`n_bessel` must be at least 1"),
        ({"n_radial": -1}, r"`n_radial` must be at least 1, got -1"),
        ({"n_embedding": True}, r"`n_embedding` must be a whole number, got True"),
        ({"cutoff": float("inf")}, r"`cutoff` must be positive, got inf"),
        ({"n_embedding": 0}, r"`n_embedding` must be at least 1"),
        ({"elements": ()}, r"`elements` must be different atomic numbers, got \(\)"),
        ({"elements": (1, 8, 1)}, r"`elements` must be different atomic numbers"),
        ({"elements": (0, 8)}, r"`elements` must be different atomic numbers"),
        ({"cutoff_function": "step"}, r"`cutoff_function` must be 'polynomial' or 'cosine', got 'step'"),
        ({"max_l": -1}, r"`max_l` must not be negative, got -1"),
        ({"max_nu": 5}, r"`max_nu` must lie from 1 to 4, got 5"),
        ({"messages": (("M", "Br"),)}, r"`messages` takes some of .*'Bchi'.*, got \('M', 'Br'\)"),
        ({"messages": ((),)}, r"`messages` takes some of .*, got \(\)"),
    ],
)
def test_representation(settings, message):
    with pytest.raises(ValueError, match=message):
        CACEConfig(**{"elements": (1, 8), **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": 0.0}, r"`sigma` must be positive, got 0\.0"),
        ({"n_channels": 0}, r"`n_channels` must be at least 1"),
        ({"charge_scale": -0.1}, r"`charge_scale` must be positive, got -0\.1"),
        ({"charges": "fixed", "element_charges": True}, r"`charges` = 'fixed' has one number for each element"),
        ({"k_cutoff": 0.0}, r"`k_cutoff` must be positive, got 0\.0"),
        ({"k_cutoff": -1.0}, r"`k_cutoff` must be positive, got -1\.0"),
        ({"accuracy": 0.0}, r"`accuracy` must be positive, got 0\.0"),
        ({"k_cutoff": 3.0, "accuracy": 1e-3}, r"`k_cutoff` or `accuracy`, not both; got 3\.0 and 0\.001"),
    ],
)
def test_long_range(settings, message):
    with pytest.raises(ValueError, match=message):
        LongRangeConfig(**settings)


def test_model():
    representation = CACEConfig(elements=(1, 8))
    with pytest.raises(ValueError, match=r"`reference_energies` needs one value for each .*\(1, 8\), got 1"):
        ModelConfig(representation, reference_energies=(-13.6,))
    with pytest.raises(ValueError, match=r"`energy_scale` must be positive"):
        ModelConfig(representation, energy_scale=0.0)


@pytest.mark.parametrize("long_range", [None, LongRangeConfig(k_cutoff=2.0, hidden=(), charge_constraint="neutral")])
def test_survives_json(long_range):
    representation = CACEConfig(elements=(8, 1), messages=(("M", "Ar"), ("Bchi",)), bchi_shared=False)
    config = ModelConfig(representation, long_range, hidden=(8,), reference_energies=(-1.0, -2.0))
    restored = from_dict(json.loads(json.dumps(to_dict(config))))
    assert restored == config
    assert hash(restored) == hash(config)


@pytest.mark.parametrize("part", ["representation", "long_range", None])
def test_settings_of_another_version(part):
    data = to_dict(ModelConfig(CACEConfig(elements=(1,)), LongRangeConfig()))
    (data if part is None else data[part])["invented"] = 1
    with pytest.raises(ValueError, match=r"has no \['invented'\]; the model comes from another version"):
        from_dict(data)
