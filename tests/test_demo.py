"""The demo, with a few small boxes and next to no training: it runs through and writes what it says."""

import dataclasses
import functools
import json

import pytest

import toy_model
from lesjax import demo, io
from lesjax.runs import read_log
from lesjax.training.config import Phase, TrainingSection


@pytest.fixture
def tiny(monkeypatch):
    """Six ions in a box of 10 Å, the smallest that the repulsion allows, and a tiny model."""
    for name, number in (("N_TRAIN", 4), ("N_VALID", 2), ("N_TEST", 3)):
        monkeypatch.setattr(demo, name, number)
    generate = functools.partial(demo.point_charges.generate, n_pairs=3, box=10.0)
    monkeypatch.setattr(demo.point_charges, "generate", generate)
    monkeypatch.setattr(demo, "SHORT_RANGE", toy_model.ToyConfig(cutoff=4.0))
    charges = dataclasses.replace(demo.LONG_RANGE.charges, hidden=(4,))
    monkeypatch.setattr(demo, "LONG_RANGE", dataclasses.replace(demo.LONG_RANGE, charges=charges, accuracy=0.1))
    return TrainingSection(batch_size=4, phases=(Phase(epochs=2, learning_rate=1e-3),))


def test_demo_writes_table_results_and_figure(tmp_path, capsys, tiny):
    folder = tmp_path / "demo"
    metrics = demo.run(folder, tiny)
    assert json.loads((folder / "results.json").read_text()) == metrics
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert [len(io.read(folder / f"{name}.xyz")) for name in ("train", "valid", "test")] == [4, 2, 3]
    for name in ("short_range", "LES"):
        assert (folder / name / "model" / "params.safetensors").is_file()
        assert len(read_log(folder / name / "log.jsonl")) == 2
    assert "charges_mae" not in metrics["short range"]
    assert {"forces_mae", "energy_mae", "charges_mae", "charges_r2"} <= set(metrics["LES"])
    assert metrics["LES"]["n_structures"] == 3
    captured = capsys.readouterr()
    assert captured.err == ""
    for expected in ("Training the short range model", "Training the LES model", "mean absolute error", "charges (e)"):
        assert expected in captured.out
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train.xyz").write_text("theirs")
    with pytest.raises(ValueError, match=r"other' holds what this run did not write \(train\.xyz\)"):
        demo.run(tmp_path / "other", tiny)
    # no charge has been learned from: the set has them for the comparison alone
    phases = [phase for run in demo.configurations(folder).values() for phase in run.training.phases]
    assert not any("charges" in phase.weights for phase in phases)
