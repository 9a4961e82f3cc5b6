"""Errors of parts of the data against sums over the structures, one after the other."""

import json

import numpy as np
import pytest

from lesjax import io
from lesjax.models import CACEConfig, LatentCharges, LongRangeConfig, ModelConfig, Potential
from lesjax.models.ensemble import Ensemble
from lesjax.training import evaluate, tables
from lesjax.training.evaluation import Evaluation
from lesjax.training.parity import Parity
from toy import make_frame


CONFIG = ModelConfig(
    CACEConfig(elements=(11, 17), cutoff=3.6, n_bessel=3, n_radial=2, n_embedding=1, max_l=1, max_nu=1),
    LongRangeConfig(LatentCharges(hidden=(4,)), k_cutoff=2.0),
    hidden=(4,),
)
TYPES = ("bulk", "surface", None, "bulk", "bulk")


@pytest.fixture(scope="module")
def frames():
    """Open and periodic frames of two sizes, so that their order is not that of the buckets; labels are missing."""
    rng = np.random.default_rng(0)
    frames = [make_frame(rng, repeats, pbc=pbc) for repeats, pbc in zip((2, 1, 1, 1, 2), (1, 0, 1, 1, 0), strict=True)]
    for name, atoms in zip(TYPES, frames, strict=True):
        if name is not None:
            atoms.info["config_type"] = name
    del frames[1].arrays["REF_charges"]
    del frames[3].info["REF_energy"]
    return frames


@pytest.fixture(scope="module", params=["one", "ensemble"])
def result(request, frames):
    potentials = [Potential.create(CONFIG, seed=seed) for seed in (2, 3)]
    return evaluate(potentials[0] if request.param == "one" else Ensemble.of(potentials), frames, batch_size=2)


def errors_of(result, frames, kind):
    """Errors of one label by frame, in the shape of the label."""
    pair, start, errors = result.parity[kind], 0, []
    for atoms in frames:
        label = {"forces": atoms.arrays.get("REF_forces"), "charges": atoms.arrays.get("REF_charges")}.get(kind)
        if kind == "energy":
            label = atoms.info.get("REF_energy")
        if label is None:
            errors.append(None)
            continue
        stop = start + np.size(label)
        errors.append((pair.predicted - pair.reference)[start:stop].reshape(np.shape(label)))
        start = stop
    assert start == len(pair.reference)
    return errors


def check(group, kind, errors):
    errors = np.concatenate([np.ravel(error) for error in errors])
    assert group[f"{kind}_rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-9)
    assert group[f"{kind}_mae"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-9)


@pytest.mark.parametrize("kind", ["forces", "charges"])
def test_by_element(result, frames, kind):
    assert list(result.by_element) == ["Na", "Cl"]
    for symbol, group in result.by_element.items():
        assert group["n_atoms"] == sum(int(np.sum(atoms.symbols == symbol)) for atoms in frames)
        assert "energy_rmse" not in group
        errors = zip(frames, errors_of(result, frames, kind), strict=True)
        check(group, kind, [error[atoms.symbols == symbol] for atoms, error in errors if error is not None])


@pytest.mark.parametrize("kind", ["energy", "forces", "charges"])
def test_by_config_type_and_composition(result, frames, kind):
    sizes = [len(atoms) for atoms in frames]
    cases = (
        (result.by_config_type, {"bulk": [0, 3, 4], "surface": [1], "(none)": [2]}),
        (result.by_composition, {"NaCl×2": [i for i in range(5) if sizes[i] == 4],
                                 "NaCl×4": [i for i in range(5) if sizes[i] == 8]}),
    )  # fmt: skip
    for groups, members in cases:
        assert {name: group["n_structures"] for name, group in groups.items()} == {
            name: len(places) for name, places in members.items()
        }
        errors = errors_of(result, frames, kind)
        for name, places in members.items():
            known = [errors[i] for i in places if errors[i] is not None]
            if known:
                check(groups[name], kind, known)
            else:
                assert f"{kind}_rmse" not in groups[name]


def test_json(result, frames):
    """Metrics stay where they were; without config types there is no such entry."""
    content = json.loads(json.dumps(result.to_json()))
    assert set(content) == {
        *result.metrics,
        "charges",
        "net_charge",
        "units",
        "by_element",
        "by_config_type",
        "by_composition",
    }
    assert content["units"]["energy"] == "eV/atom"
    assert set(content["units"]) == set(result.parity)
    bare = [atoms.copy() for atoms in frames]
    for atoms in bare:
        atoms.info.pop("config_type", None)
    assert "by_config_type" not in evaluate(Potential.create(CONFIG), bare, batch_size=2).to_json()


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([8, 1, 1] * 64, "H2O×64"),
        ([8, 1, 1], "H2O"),
        ([17] * 4 + [11] * 4, "NaCl×4"),
        ([1] * 136 + [8] * 68 + [11] * 36 + [17] * 36, "Na36Cl36H136O68"),
    ],
)
def test_composition(numbers, expected):
    """A unit of many atoms would hide what it is made of."""
    assert io.composition(numbers) == expected


def test_tables_fit_into_80_columns(capsys, monkeypatch):
    """With all labels, long names and many groups, of which the largest are shown."""
    monkeypatch.delenv("COLUMNS", raising=False)
    kinds = ("energy", "forces", "stress", "charges", "dipole", "quadrupole", "bec")
    pairs = {kind: Parity(1e-4 * np.arange(3.0), 1e-4 * np.arange(3.0)[::-1]) for kind in kinds}
    errors = {f"{kind}_rmse": 1.2345e-4 for kind in kinds}
    names = {f"a config type with a rather long name {i:02d}": {"n_structures": i, **errors} for i in range(1, 16)}
    elements = {symbol: {"n_atoms": 5, "forces_rmse": 0.123} for symbol in ("H", "O")}
    result = Evaluation({"n_structures": 120}, pairs, {}, elements, names, {"H2O": {"n_structures": 120, **errors}})
    tables.print_errors("test.xyz", result)
    tables.print_groups(result)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "RMSE by config_type, the largest 12 of 15" in out
    assert "name 04" in " ".join(out.split())
    assert "name 03" not in " ".join(out.split())
    assert "RMSE by element" in out
    assert "RMSE by composition" not in out  # a single one has the errors of all
