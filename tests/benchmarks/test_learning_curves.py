"""The learning curves: which frames, how long, which settings; and the quick form on a tiny gas."""

import functools
import itertools
import json
import sys
from collections import Counter

import jax
import learning_curves as curves
import pytest

from lesjax.datasets import point_charges
from lesjax.models import EquilibratedCharges
from lesjax.training import load_config


def test_every_beginning_of_the_frames_has_its_share_of_each_composition():
    parts = curves.shipped("kf_water")(300, 48, 102)
    assert [len(parts[name]) for name in ("train", "valid", "test")] == [300, 48, 102]
    for frames, fewest in ((parts["train"][:10], 1), (parts["train"][:100], 13), (parts["valid"], 6)):
        counts = Counter((atoms.info["kind"], atoms.info["n_pairs"]) for atoms in frames)
        assert len(counts) == 6
        assert min(counts.values()) >= fewest
        # four trajectories of 20 frames in bulk, of 14 with an interface
        bulk = sum(n for (kind, _), n in counts.items() if kind == "bulk")
        assert bulk / len(frames) == pytest.approx(20 / 34, abs=0.12)


def test_parts_share_no_frame_and_small_sets_lie_in_large_ones():
    parts, small = (curves.shipped("nacl_water")(n, 10, 20) for n in (70, 30))
    energies = {name: [atoms.get_potential_energy() for atoms in frames] for name, frames in parts.items()}
    assert len({energy for found in energies.values() for energy in found}) == 100
    assert [atoms.get_potential_energy() for atoms in small["train"]] == energies["train"][:30]
    with pytest.raises(ValueError, match="must be at most 70, got 71"):
        curves.shipped("nacl_water")(71, 10, 20)


@pytest.mark.parametrize("study", curves.STUDIES.values(), ids=curves.STUDIES)
def test_all_sizes_have_about_the_same_number_of_steps(study):
    for steps, size, batch_size in itertools.product(study.steps, study.sizes, (2, 4)):
        batches = -(-size // batch_size)
        assert curves.epochs_for(steps, size, batch_size) * batches == pytest.approx(steps, rel=0.02)
    assert curves.epochs_for(10, 300, 4) == 1


@pytest.mark.parametrize("model", curves.MODELS)
def test_settings_of_each_model_are_accepted(model, tmp_path):
    file = tmp_path / "train.xyz"
    file.touch()
    data = [f"data.{part}={file}" for part in ("train", "valid", "test")]
    for study in curves.STUDIES.values():
        config = load_config(study.config, [*data, *curves.MODELS[model][1], *curves.QUICK])
        long_range = config.model.long_range
        assert (long_range is None) == (model in ("short_range", "message_passing"))
        assert bool(config.model.short_range.messages) == (model == "message_passing")
        if long_range is not None:
            assert getattr(long_range.charges, "dipoles", False) == (model == "les_dipoles")
            assert isinstance(long_range.charges, EquilibratedCharges) == (model == "equilibration")
        assert not any("charges" in phase.weights for phase in config.training.phases)
        assert len(config.training.phases) == len(study.steps)  # a phase without steps would keep its own epochs


@pytest.mark.slow  # `make results-quick` runs the command
def test_quick_form_trains_evaluates_and_draws(tmp_path, monkeypatch, capsys):
    """Six ions in a box of 10 Å; a second call takes what is there."""
    tiny = functools.partial(point_charges.generate, n_pairs=3, box=10.0)
    monkeypatch.setattr(curves.point_charges, "generate", tiny)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
    results, figure = tmp_path / "results.json", tmp_path / "curves.png"
    arguments = ["learning_curves.py", "gas", "--quick", "--models", "les", "--sizes", "4"]
    arguments += ["--set", "model.short_range.max_nu=1", "--work", str(tmp_path / "work")]
    arguments += ["--json", str(results), "--plot", str(figure)]
    monkeypatch.setattr(sys, "argv", arguments)
    curves.main()
    content = json.loads(results.read_text())
    run = content["runs"]["gas_5_les_4"]
    assert (run["system"], run["cutoff"], run["model"], run["n_train"]) == ("gas", 5.0, "les", 4)
    assert run["epochs"] == curves.QUICK_STEPS
    assert run["metrics"]["test"]["n_structures"] == curves.QUICK_HELD_OUT
    assert {"forces_mae", "forces_rmse", "energy_mae", "energy_rmse", "charges_mae"} <= set(run["metrics"]["test"])
    assert content["command"].startswith("JAX_ENABLE_X64=1 python benchmarks/learning_curves.py gas --quick")
    assert figure.read_bytes().startswith(b"\x89PNG")

    def fail(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(curves, "train", fail)
    curves.main()
    assert json.loads(results.read_text())["runs"] == content["runs"]
    assert capsys.readouterr().out.count("gas_5_les_4: MAE of forces") == 2
