"""The shipped model: loaded by its name, with the errors that its provenance says."""

import pytest

import lesjax
from lesjax import datasets
from lesjax.cli import main
from lesjax.models import storage
from lesjax.training import evaluate


MEGABYTES = 2.0


@pytest.fixture(scope="module")
def potential():
    return lesjax.load("kf_water")


def test_models_are_small_and_say_where_they_come_from(potential):
    assert storage.shipped() == ["kf_water"]
    files = [file for file in storage.SHIPPED.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < MEGABYTES * 2**20
    provenance = potential.provenance
    assert provenance.data == ("data.train: kf_water_train.xyz.xz: 408 structures; energy, forces, charges",)
    assert provenance.n_train + provenance.n_valid == 408
    assert provenance.errors["n_structures"] == 102
    assert provenance.errors["forces_mae"] < 0.015
    assert provenance.errors["charges_mae"] < 0.08


def test_errors_on_some_test_frames(potential):
    """Bulk and interface, with 0, 1, 2 pairs of ions: errors of a few frames scatter around those of all."""
    frames = {(atoms.info["kind"], atoms.info["n_pairs"]): atoms for atoms in datasets.load("kf_water_test")}
    assert len(frames) == 6
    metrics = evaluate(potential, list(frames.values())).metrics
    errors = potential.provenance.errors
    for name in ("forces_mae", "forces_rmse", "charges_mae"):
        assert metrics[name] == pytest.approx(errors[name], rel=0.15)
    assert metrics["energy_mae"] < 3.0 * errors["energy_mae"]


def test_names_and_folders(potential, tmp_path, monkeypatch, capsys):
    """A folder of that name is preferred; the command line knows the name; others are told the names."""
    monkeypatch.chdir(tmp_path)
    assert main(["info", "kf_water"]) == 0
    assert "forces_mae on other structures" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match=r"'water' is not a lesjax model: .* Shipped with lesjax: kf_water\."):
        lesjax.load("water")
    potential.save("kf_water")
    (tmp_path / "kf_water/params.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no params\.safetensors"):
        lesjax.load("kf_water")
