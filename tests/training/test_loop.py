"""The loop: schedules, phases, early stopping, what is left of a run that fails."""

import dataclasses
import itertools
import json
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from lesjax.models import ModelConfig, load
from lesjax.system import System
from lesjax.training import DivergedError, loop, losses, train, train_ensemble
from lesjax.training.config import Phase
from lesjax.training.folder import run_folder
from lesjax.training.loop import learning_rate, phase_weights, sets_sign, validated
from lesjax.training.prepare import prepare
from lesjax.training.terms import TERMS
from toy import log_of, make_config, make_frame, make_frames, phases
from toy_model import ToyConfig


X64 = jax.config.jax_enable_x64


# --- schedules and weights


def test_schedules():
    def rates(epochs, plateau_factor=1.0, **settings):
        phase = Phase(epochs=10, learning_rate=2.0, **settings)
        return [learning_rate(phase, epoch, plateau_factor) for epoch in epochs]

    assert rates([0, 5, 10], schedule="constant") == [2.0, 2.0, 2.0]
    np.testing.assert_allclose(rates([0, 2.5, 5, 10], final_factor=0.1), [2.0, 1.7363961, 1.1, 0.2])
    assert rates([0, 2.9, 3, 5.5, 6], schedule="step", step_epochs=3, factor=0.5) == [2.0, 2.0, 1.0, 1.0, 0.5]
    assert rates([0, 9], plateau_factor=0.25, schedule="plateau") == [0.5, 0.5]


def test_weights_of_a_phase():
    """Those that are zero are left out, and costly terms without one are not validated."""
    phase = Phase(epochs=1, weights={"energy": 0.0, "forces": 2.0})
    assert phase_weights(phase) == {"forces": 2.0}
    assert validated(phase_weights(phase)) == ("energy", "forces", "charges", "dipole", "quadrupole")
    stress = Phase(epochs=1, weights={"stress": 3.0})
    assert "stress" in validated(phase_weights(stress))
    assert not sets_sign(stress)
    for name in ("charges", "dipole", "quadrupole", "born_effective_charges"):
        assert sets_sign(Phase(epochs=1, weights={"stress": 3.0, name: 5.0}))


@pytest.fixture
def huber(monkeypatch):
    """Huber's penalty of the forces, which is linear from 0.05 eV/Å on."""
    rows = [
        dataclasses.replace(term, penalty=partial(optax.losses.huber_loss, delta=0.05))
        if term.name == "forces"
        else term
        for term in TERMS
    ]
    monkeypatch.setattr(losses, "TERMS", tuple(rows))
    jax.clear_caches()  # functions that were compiled for squares
    yield
    jax.clear_caches()


def test_another_penalty_trains_and_validates_on_the_same_number(huber, tmp_path):
    """The whole set in one batch, without an average: its loss in a step is that of the validation before."""
    frames = make_frames(4)
    del frames[1].arrays["REF_forces"]
    model = ModelConfig(ToyConfig(), None, hidden=(), energy_scale=1.0)
    settings = {"batch_size": 4, "ema": 0.0, "data": {"valid_fraction": 0.0}}
    weights = {"energy": 0.5, "forces": 2.0}
    train(make_config(tmp_path, frames, phases=phases(4, weights=weights), model=model, **settings))
    log = log_of(tmp_path / "run")
    for before, record in itertools.pairwise(log):
        assert record["train_loss"] == pytest.approx(before["valid_loss"], rel=1e-5)
        squares = 0.5 * before["energy_rmse"] ** 2 + 2.0 * before["forces_rmse"] ** 2
        assert before["valid_loss"] < 0.7 * squares  # Huber's is half of the square at most


@pytest.fixture
def falling_losses(monkeypatch):
    """Let the validation loss be what the test says, epoch by epoch."""

    def use(values):
        values = iter(values)
        monkeypatch.setattr(loop, "dataset_errors", lambda *_: (next(values), {"forces_rmse": 1.0}))

    return use


@pytest.mark.usefixtures("cheap_model")
class TestHostLogic:
    """With a model that compiles in no time."""

    def test_early_stop(self, tmp_path, falling_losses):
        falling_losses([5.0, 4.0, 4.5, 4.0, 3.9, 9.0, 9.0, 9.0, 1.0])
        config = make_config(tmp_path, phases=phases(20), early_stop=3)
        train(config)
        assert [record["epoch"] for record in log_of(config.output)] == list(range(1, 9))

    def test_early_stop_ends_a_phase_not_the_run(self, tmp_path, falling_losses):
        falling_losses([1.0, 2.0, 8.0, 9.0, 7.0, 6.0])
        config = make_config(tmp_path, phases=phases(9, 3), early_stop=1)
        train(config)
        assert [(record["epoch"], record["phase"]) for record in log_of(config.output)] == [
            (1, 0), (2, 0), (3, 1), (4, 1)
        ]  # fmt: skip

    def test_plateau(self, tmp_path, falling_losses):
        falling_losses([5.0, 6.0, 6.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0])
        settings = {"schedule": "plateau", "patience": 2, "factor": 0.5, "final_factor": 0.2, "learning_rate": 1.0}
        config = make_config(tmp_path, phases=phases(9, **settings))
        train(config)
        # the rate that an epoch ended with; it changes after the evaluation
        rates = [record["learning_rate"] for record in log_of(config.output)]
        assert rates == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.2]

    def test_best_model_is_that_of_the_lowest_validation_loss(self, tmp_path, falling_losses, monkeypatch):
        seen = []
        errors = iter([5.0, 3.0, 4.0, 3.5])

        def evaluate(potential, *_):
            seen.append(jax.tree.map(np.array, potential.params))
            return next(errors), {"forces_rmse": 1.0}

        monkeypatch.setattr(loop, "dataset_errors", evaluate)
        config = make_config(tmp_path, phases=phases(4))
        best = train(config)
        jax.tree.map(np.testing.assert_array_equal, best.params, seen[1])
        jax.tree.map(np.testing.assert_array_equal, load(Path(config.output) / "model-last").params, seen[3])

    @pytest.mark.parametrize("ema", [0.0, 0.9])
    def test_average_is_validated_and_saved(self, tmp_path, ema):
        config = make_config(tmp_path, phases=phases(2, learning_rate=0.1), ema=ema)
        train(config)
        state = load_file(Path(config.output) / "checkpoint.safetensors")
        last = load_file(Path(config.output) / "model-last" / "params.safetensors")
        (name,) = (name for name in last if name.endswith("['energy']['readout']['layer0']['linear']['kernel']"))
        place = name.removeprefix("['params']")
        average, parameters = state[f"['ema']{place}"], state[f"['potential'].params{place}"]
        np.testing.assert_array_equal(last[name], average if ema else parameters)
        assert np.array_equal(average, parameters) == (ema == 0.0)

    def test_phases_use_their_own_weights(self, tmp_path):
        """First charges, then energies, each of which lets go of the other."""
        first = Phase(epochs=40, learning_rate=0.1, weights={"charges": 1.0})
        second = dataclasses.replace(first, epochs=30, weights={"energy": 1.0})
        config = make_config(tmp_path, phases=(first, second), ema=0.0, data={"reference_energies": "none"})
        train(config)
        log = log_of(config.output)
        assert [record["phase"] for record in log] == [0] * 40 + [1] * 30
        assert log[39]["charges_rmse"] < 0.2 * log[0]["charges_rmse"]
        assert log[39]["charges_rmse"] < log[69]["charges_rmse"]
        assert log[69]["energy_rmse"] < 0.5 * log[39]["energy_rmse"]
        assert log[39]["valid_loss"] == pytest.approx(log[39]["charges_rmse"] ** 2)
        assert log[69]["valid_loss"] == pytest.approx(log[69]["energy_rmse"] ** 2)

    def test_lbfgs_forgets_the_loss_of_the_phase_before(self, tmp_path):
        """The loss at its start is that of its own weights and parameters, of another optimizer or not."""
        chosen = (
            *phases(2, lbfgs=True),
            *phases(2, lbfgs=True, weights={"energy": 100.0, "forces": 1.0}),
            *phases(3, learning_rate=0.1),
            *phases(2, lbfgs=True),
        )
        train(make_config(tmp_path, phases=chosen, batch_size=8, ema=0.0, data={"valid_fraction": 0.0}))
        log = log_of(tmp_path / "run")
        for before, record in itertools.pairwise(log):
            if before["phase"] == record["phase"]:  # the training set in one batch is the validation set
                assert record["train_loss"] == pytest.approx(before["valid_loss"])
        weighted = 100.0 * log[1]["energy_rmse"] ** 2 + log[1]["forces_rmse"] ** 2
        assert log[2]["train_loss"] == pytest.approx(weighted)
        assert log[7]["train_loss"] == pytest.approx(log[6]["valid_loss"])

    @pytest.mark.slow
    @pytest.mark.usefixtures("cheap_model")
    def test_lbfgs_is_the_same_in_batches_of_any_size(self, tmp_path):
        """Structures of two periodicities, and so of two shapes."""
        rng = np.random.default_rng(0)
        frames = [make_frame(rng, pbc=pbc) for pbc in (False, True, False, True, True)]
        logs = []
        for size in (2, 8):
            config = make_config(
                tmp_path, frames, output=f"run{size}", batch_size=size, data={"valid_fraction": 0.0},
                phases=phases(4, lbfgs=True),
            )  # fmt: skip
            train(config)
            logs.append([record["train_loss"] for record in log_of(config.output)])
        assert logs[0][-1] < 0.5 * logs[0][0]
        np.testing.assert_allclose(logs[0], logs[1], rtol=1e-3)

    def test_eval_every(self, tmp_path):
        config = make_config(tmp_path, phases=phases(7), eval_every=3)
        train(config)
        assert [record["epoch"] for record in log_of(config.output)] == [3, 6, 7]

    def test_no_validation_set(self, tmp_path):
        config = make_config(tmp_path, data={"valid_fraction": 0.0})
        train(config)
        assert len(log_of(config.output)) == 3

    def test_metrics_of_mixed_periodicity(self, tmp_path):
        """The open structures come first, and have no stress."""
        rng = np.random.default_rng(0)
        frames = [make_frame(rng, pbc=pbc) for pbc in (False, True, False, True)]
        config = make_config(
            tmp_path, frames, phases=phases(1, weights={"energy": 1.0, "stress": 1.0}), data={"valid_fraction": 0.0}
        )
        train(config)
        (record,) = log_of(config.output)
        stress = np.array([atoms.info["REF_stress"] for atoms in frames if "REF_stress" in atoms.info])
        potential = load(Path(config.output) / "model-last")
        systems = [System.from_ase(atoms, cutoff=potential.cutoff) for atoms in frames if "REF_stress" in atoms.info]
        predicted = np.array([potential(system).stress for system in systems])
        assert record["stress_rmse"] == pytest.approx(np.sqrt(np.mean((predicted - stress) ** 2)), rel=1e-5)

    def test_what_is_written(self, tmp_path):
        config = make_config(tmp_path)
        train(config)
        folder = Path(config.output)
        expected = ["checkpoint.safetensors", "config.json", "log.jsonl", "model", "model-last"]
        assert sorted(path.name for path in folder.iterdir()) == expected
        description = json.loads((folder / "config.json").read_text())
        assert description["n_train"] == 6
        assert description["versions"]["jax"] == jax.__version__
        assert set(log_of(folder)[0]) >= {"epoch", "phase", "learning_rate", "train_loss", "valid_loss", "forces_mae"}

    def test_quiet_without_a_terminal(self, tmp_path, capsys):
        train(make_config(tmp_path))
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", "")

    def test_progress(self, tmp_path, capsys, monkeypatch):
        """Lines without a terminal, and a bar on one."""
        train(make_config(tmp_path), quiet=False)
        captured = capsys.readouterr()
        lines = captured.out.splitlines()
        assert lines[0] == "compiling …"
        shown = [line.partition(": validation loss ")[0] for line in lines if line.startswith("epoch")]
        assert shown == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
        assert "meV" not in captured.out
        assert captured.err == ""
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        train(make_config(tmp_path, output="bar"), quiet=False)
        assert "epoch 3/3" in capsys.readouterr().err
        train(make_config(tmp_path, output="other"), quiet=True)
        assert capsys.readouterr().err == ""

    def test_finished_run_is_not_repeated(self, tmp_path, monkeypatch):
        config = make_config(tmp_path)
        first = train(config)
        log = (Path(config.output) / "log.jsonl").read_bytes()
        monkeypatch.setattr(loop.Run, "run_epoch", None)
        moved = Path(config.output).rename(tmp_path / "elsewhere")
        second = train(dataclasses.replace(config, output=str(moved)))
        jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
        assert (moved / "log.jsonl").read_bytes() == log

    def test_other_settings_are_refused(self, tmp_path):
        train(make_config(tmp_path))
        for changes, name in (
            ({"seed": 1}, r"training\.seed"),
            ({"phases": phases(5)}, r"training\.phases"),
            ({"data": {"valid_fraction": 0.5}}, r"data\.valid_fraction"),
        ):
            with pytest.raises(ValueError, match=rf"run' holds a run with other settings \({name}\)\. Choose another"):
                train(make_config(tmp_path, **changes))

    @pytest.mark.parametrize("content", ["{", "[]", "{}"])
    def test_damaged_description(self, tmp_path, content):
        config = make_config(tmp_path)
        Path(config.output).mkdir()
        (Path(config.output) / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config\.json' is damaged: .* Choose another folder"):
            train(config)

    def test_truncated_checkpoint(self, tmp_path):
        config = make_config(tmp_path)
        best = train(config)
        path = Path(config.output) / "checkpoint.safetensors"
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors' is damaged.*best model so far is in '.*model'"):
            train(config)
        jax.tree.map(np.testing.assert_array_equal, load(Path(config.output) / "model").params, best.params)
        path.unlink()  # as the message says
        train(config)
        assert [record["epoch"] for record in log_of(config.output)] == [1, 2, 3]

    @pytest.mark.parametrize("run", [train, train_ensemble])
    def test_two_at_a_time_are_refused(self, run, tmp_path):
        config = make_config(tmp_path, ensemble=2 if run is train_ensemble else None)
        message = "Another process is working in"
        with run_folder(config.output).locked(), pytest.raises(ValueError, match=message):
            run(config)
        assert not Path(config.output).exists()

    def test_leftovers_of_a_killed_run_are_removed(self, tmp_path):
        config = make_config(tmp_path)
        folder = Path(config.output)
        (folder / ".model.123.tmp").mkdir(parents=True)
        (folder / ".model.123.tmp" / "config.json").touch()
        (folder / ".checkpoint.safetensors.123.tmp").touch()
        (folder / "other").mkdir()
        (folder / "other" / ".model.123.tmp").touch()  # of another run, which may be at it
        (folder / ".notes.tmp").touch()
        train(config)
        assert sorted(path.name for path in folder.rglob(".*")) == [".model.123.tmp", ".notes.tmp"]


def test_other_data_are_refused(tmp_path):
    frames = make_frames(8)
    config = make_config(tmp_path, frames)
    folder = Path(config.output)
    loop.write_description(config, prepare(config), run_folder(folder))
    (folder / "model").mkdir()
    before = (folder / "config.json").read_bytes()
    frames[5].positions[0, 0] += 0.01
    make_config(tmp_path, frames)
    with pytest.raises(ValueError, match=r"run' holds a run on other data: the content of '.*train\.xyz' has changed"):
        train(config)
    assert (folder / "config.json").read_bytes() == before


# --- divergence


class TestDivergence:
    def test_learning_rate_too_large(self, tmp_path):
        """The second phase blows up: model and checkpoint of the first stay."""
        good = Phase(epochs=2, learning_rate=1e-3)
        bad = Phase(epochs=50, learning_rate=1e300 if X64 else 1e30)
        config = make_config(tmp_path, phases=(good, bad), batch_size=3)
        message = r"loss is not finite at epoch \d+ \(training .*\)\. Kept from before in '.*run': model and checkpoint"
        with pytest.raises(DivergedError, match=message):
            train(config)
        folder = Path(config.output)
        kept = load_file(folder / "checkpoint.safetensors")
        assert all(np.isfinite(array).all() for array in kept.values())
        log = log_of(folder)
        assert all(np.isfinite(record["train_loss"]) for record in log)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(load(folder / "model").params))
        with pytest.raises(DivergedError):  # starts from the checkpoint and gets no further
            train(config)

    def test_label_too_large(self, tmp_path):
        """Its square would overflow: it is refused where it is read."""
        frames = make_frames(4)
        frames[2].info["REF_energy"] = 1e200
        with pytest.raises(ValueError, match=r"Structure 2: `energy` must .* up to 1e\+15, got 1e\+200"):
            train(make_config(tmp_path, frames, data={"reference_energies": "none", "valid_fraction": 0.0}))

    @pytest.mark.usefixtures("cheap_model")
    def test_best_model_is_saved_when_a_later_epoch_diverges(self, tmp_path, falling_losses):
        falling_losses([3.0, 2.0, float("nan")])
        config = make_config(tmp_path, checkpoint_seconds=1e9)
        with pytest.raises(DivergedError, match=r"validation nan\)\. Kept from before in '.*': model\. Lower"):
            train(config)
        load(Path(config.output) / "model")
