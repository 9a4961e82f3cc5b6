"""Settings that make no sense are refused by name, and all survive JSON."""

import json

import pytest

from lesjax.models import (
    CACEConfig,
    EquilibratedCharges,
    FixedCharges,
    Induction,
    LatentCharges,
    LongRangeConfig,
    ModelConfig,
)
from lesjax.schema import build, to_plain


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cutoff": 0.0}, r"`cutoff` must be positive, got 0\.0"),
        ({"cutoff_p": 0.0}, r"`cutoff_p` must be positive, got 0\.0"),
        ({"n_bessel": 0}, r"`n_bessel` must be at least 1, got 0"),
        ({"n_radial": -1}, r"`n_radial` must be at least 1, got -1"),
        ({"n_embedding": 0}, r"`n_embedding` must be at least 1, got 0"),
        ({"n_embedding": True}, r"`n_embedding` must be a whole number, got True"),
        ({"cutoff": float("inf")}, r"`cutoff` must be positive, got inf"),
        ({"embedding_scale": 0.0}, r"`embedding_scale` must be positive, got 0\.0"),
        ({"elements": (1, 8, 1)}, r"`elements` must be different atomic numbers"),
        ({"elements": (0, 8)}, r"`elements` must be different atomic numbers"),
        ({"cutoff_function": "step"}, r"`cutoff_function` must be 'polynomial' or 'cosine', got 'step'"),
        ({"max_l": -1}, r"`max_l` must not be negative, got -1"),
        ({"max_nu": 5}, r"`max_nu` must lie from 1 to 4, got 5"),
        ({"messages": (("M", "Br"),)}, r"`messages` takes some of .*'Bchi'.*, got \('M', 'Br'\)"),
        ({"messages": ((),)}, r"`messages` takes some of .*, got \(\)"),
    ],
)
def test_cace(settings, message):
    with pytest.raises(ValueError, match=message):
        CACEConfig(**{"elements": (1, 8), **settings})


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (LongRangeConfig, {"sigma": 0.0}, r"`sigma` must be positive, got 0\.0"),
        (LongRangeConfig, {"k_cutoff": 0.0}, r"`k_cutoff` must be positive, got 0\.0"),
        (LongRangeConfig, {"k_cutoff": -1.0}, r"`k_cutoff` must be positive, got -1\.0"),
        (LongRangeConfig, {"accuracy": 0.0}, r"`accuracy` must be positive, got 0\.0"),
        (
            LongRangeConfig, {"k_cutoff": 3.0, "accuracy": 1e-3},
            r"`k_cutoff` or `accuracy`, not both; got 3\.0 and 0\.001",
        ),
        (
            LongRangeConfig, {"charges": FixedCharges(), "separate_features": True},
            r"`separate_features` is for charges that are read out, but fixed ones",
        ),
        (LatentCharges, {"n_channels": 0}, r"`n_channels` must be at least 1, got 0"),
        (LatentCharges, {"scale": -0.1}, r"`scale` must be positive, got -0\.1"),
        (LatentCharges, {"hidden": (4, 0)}, r"`hidden` must have at most 16 whole widths from 1 to 4096, got \(4, 0\)"),
        (LatentCharges, {"constraint": "held"}, r"`constraint` must be 'free', 'neutral' or 'total', got 'held'"),
        (LatentCharges, {"dipoles": True, "self_energies_removed": 2.0}, r"`self_energies_removed` = 2\.0 is for publ"),
        (
            LatentCharges, {"induction": Induction(kappa=True), "constraint": "total"},
            r"`induction\.kappa` induces charges .* `constraint` must be 'free', got 'total'.*'equilibrated'",
        ),
        (FixedCharges, {"induction": Induction(kappa=True), "constraint": "neutral"}, r"must be 'free', got 'neutral'"),
        (FixedCharges, {"constraint": "held"}, r"`constraint` must be 'free', 'neutral' or 'total', got 'held'"),
        (FixedCharges, {"values": (("H", 1.0),), "n_channels": 2}, r"`values` are the charges of one channel, .* = 2"),
        (EquilibratedCharges, {"scale": 0.0}, r"`scale` must be positive, got 0\.0"),
        (EquilibratedCharges, {"hidden": (0,)}, r"`hidden` must have at most 16 whole widths from 1"),
        (Induction, {"alpha": "none"}, r"`induction` needs `kappa` = true or an `alpha`"),
        (Induction, {"alpha": "cubic"}, r"`alpha` must be 'none', 'isotropic' or 'tensor', got 'cubic'"),
    ],
)  # fmt: skip
def test_long_range(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        cls(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reference_energies": (-13.6,)}, r"`reference_energies` needs one value for each .*\(1, 8\), got 1"),
        ({"energy_scale": 0.0}, r"`energy_scale` must be positive"),
        ({"hidden": (0,)}, r"`hidden` must have at most 16 whole widths from 1"),
        ({"state_inputs": ("spin",)}, r"`state_inputs` takes some of .*'spin_multiplicity'.*, got \('spin',\)"),
        ({"state_inputs": ("total_charge",) * 2}, r"`state_inputs` takes some of"),
        (
            {"long_range": LongRangeConfig(FixedCharges(values=(("Na", 1.0),)))},
            r"`values` of fixed charges needs one for each of H, O, got Na",
        ),
    ],
)
def test_model(settings, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(CACEConfig(elements=(1, 8)), **settings)


def test_values_may_come_before_the_elements():
    """Training fills in the elements; then they are compared."""
    long_range = LongRangeConfig(FixedCharges(values=(("Na", 1.0), ("Cl", -1.0))))
    assert ModelConfig(CACEConfig(), long_range).short_range.elements == ()


EVERY = {
    "short-range": None,
    "latent": LongRangeConfig(LatentCharges(hidden=(), constraint="neutral"), k_cutoff=2.0),
    "induced": LongRangeConfig(LatentCharges(dipoles=True, induction=Induction(kappa=True, alpha="tensor"))),
    "fixed": LongRangeConfig(FixedCharges(values=(("O", -2.0), ("H", 1.0))), background=True),
    "equilibrated": LongRangeConfig(EquilibratedCharges(element_charges=True), separate_features=True),
}


@pytest.mark.parametrize("long_range", EVERY.values(), ids=EVERY)
def test_survives_json(long_range):
    cace = CACEConfig(elements=(8, 1), messages=(("M", "Ar"), ("Bchi",)), bchi_shared=False)
    config = ModelConfig(cace, long_range, hidden=(8,), reference_energies=(-1.0, -2.0))
    restored = build(ModelConfig, json.loads(json.dumps(to_plain(config))))
    assert restored == config
    assert hash(restored) == hash(config)


@pytest.mark.parametrize("place", [(), ("short_range",), ("long_range",), ("long_range", "charges")], ids=str)
def test_settings_of_another_version(place):
    data = to_plain(ModelConfig(CACEConfig(elements=(1,)), LongRangeConfig()))
    table = data
    for name in place:
        table = table[name]
    table["invented"] = 1
    with pytest.raises(ValueError, match=rf"Unknown key `{'.'.join((*place, 'invented'))}`\. Known here: "):
        build(ModelConfig, data)


def test_kinds_of_charges():
    table = {"charges": {"kind": "equilibrated", "scale": 0.2}}
    assert build(LongRangeConfig, table).charges == EquilibratedCharges(scale=0.2)
    assert build(LongRangeConfig, {"charges": {"n_channels": 2}}).charges == LatentCharges(n_channels=2)
    with pytest.raises(ValueError, match=r"`charges\.kind`: must be one of 'latent', 'fixed', .*, got 'mulliken'"):
        build(LongRangeConfig, {"charges": {"kind": "mulliken"}})
    with pytest.raises(ValueError, match=r"Unknown key `charges\.dipoles`\. Known here: "):
        build(LongRangeConfig, {"charges": {"kind": "equilibrated", "dipoles": True}})
    with pytest.raises(ValueError, match=r"`charges` must be a table, got 'latent'"):
        build(LongRangeConfig, {"charges": "latent"})
