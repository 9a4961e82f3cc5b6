"""Ensembles: their members are single trainings, both ways to train them, restarts, and what they predict."""

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.stats import spearmanr

from lesjax.models import Ensemble, load, load_ensemble
from lesjax.models.sign import flip
from lesjax.system import System
from lesjax.training import (
    DivergedError,
    ensemble as ensemble_module,
    evaluate,
    loop,
    losses,
    plots,
    train,
    train_ensemble,
)
from lesjax.training.config import Phase
from lesjax.training.ensemble import member_config
from lesjax.training.evaluation import Calibration, spearman
from lesjax.training.folder import run_folder
from lesjax.training.prepare import prepare
from lesjax.training.sign import align
from toy import count_deaths, log_of, make_config, make_frame, make_frames, moved_potential, phases


X64 = jax.config.jax_enable_x64
RTOL = 1e-8 if X64 else 1e-3
WAYS = pytest.mark.parametrize("together", [False, True], ids=["cores", "together"])
# members on cores are single trainings one after the other
WAYS_THAT_TAKE_LONG = pytest.mark.parametrize(
    "together", [pytest.param(False, marks=pytest.mark.slow), True], ids=["cores", "together"]
)


@pytest.fixture(autouse=True)
def three_cores(monkeypatch):
    """Members take turns wherever the tests run."""
    monkeypatch.setattr(ensemble_module, "available_cores", lambda: 3)


def checkpoint(run):
    return load_file(Path(run) / "checkpoint.safetensors")


def members(config):
    return [Path(config.output) / "members" / str(i) for i in range(config.training.ensemble)]


def assert_same(a, b, *, exactly):
    """Two runs: their states and logs, bit for bit or to rounding."""
    first, second = checkpoint(a), checkpoint(b)
    assert first.keys() == second.keys()
    for name in first:
        if exactly:
            assert first[name].tobytes() == second[name].tobytes(), name
        else:
            size = np.abs(second[name]).max(initial=0.0)
            np.testing.assert_allclose(first[name], second[name], rtol=RTOL, atol=RTOL * size, err_msg=name)
    for one, other in zip(log_of(a), log_of(b), strict=True):
        assert one == (other if exactly else pytest.approx(other, rel=RTOL))


@WAYS
class TestTraining:
    def test_member_is_a_single_training_of_its_seed(self, tmp_path, together):
        config = make_config(tmp_path, phases=phases(3), seed=3, ensemble=2)
        prepared = prepare(config)
        ensemble = train_ensemble(config, prepared=prepared, together=together)
        for i, run in enumerate(members(config)):
            single = dataclasses.replace(member_config(config, i), output=str(tmp_path / "single" / str(i)))
            assert single.training.seed == 3 + i
            potential = train(single, prepared=prepared)
            assert_same(run, single.output, exactly=not together)
            # also of the sign of its charges, before all members get that of the first
            member = load(run / "model")
            for own, expected in zip(*map(jax.tree.leaves, (member.params, potential.params)), strict=True):
                np.testing.assert_allclose(own, expected, rtol=RTOL, atol=RTOL)
        first = load(members(config)[0] / "model").params
        jax.tree.map(np.testing.assert_array_equal, ensemble[0].params, first)
        last = [log_of(run)[-1]["valid_loss"] for run in members(config)]
        assert last[0] != pytest.approx(last[1], rel=1e-2)
        assert len(load_ensemble(Path(config.output) / "model")) == 2

    @pytest.mark.usefixtures("cheap_model")
    def test_one_diverges(self, tmp_path, together, monkeypatch):
        config = make_config(tmp_path, phases=phases(40), ensemble=3)
        known = loop.dataset_errors

        def errors(*arguments):
            loss, metrics = known(*arguments)
            return (np.nan if len(calls) == 4 else loss), calls.append(0) or metrics

        calls = []
        monkeypatch.setattr(loop, "dataset_errors", errors)
        with pytest.raises(DivergedError, match="members"):
            train_ensemble(config, together=together)
        assert len(calls) < 20
        assert not (Path(config.output) / "model").exists()


@pytest.mark.slow
@WAYS
@pytest.mark.usefixtures("cheap_model")
def test_plateau_early_stop_and_lbfgs_are_those_of_each_member(tmp_path, together):
    """Members that stop at other epochs, and a line search of each."""
    plateau = Phase(epochs=9, learning_rate=0.3, schedule="plateau", patience=1)
    chosen = (
        plateau,
        *phases(3, lbfgs=True),
        *phases(2, learning_rate=0.1, weights={"energy": 1.0, "forces": 5.0}),
    )
    settings = {"batch_size": 8, "ema": 0.0, "early_stop": 2, "data": {"valid_fraction": 0.0}}
    config = make_config(tmp_path, phases=chosen, ensemble=3, **settings)
    train_ensemble(config, together=together)
    for i, run in enumerate(members(config)):
        single = dataclasses.replace(member_config(config, i), output=str(tmp_path / "single" / str(i)))
        train(single)
        assert_same(run, single.output, exactly=not together)


@pytest.mark.slow
@WAYS
@pytest.mark.usefixtures("cheap_model")
def test_killed_again_and_again(tmp_path, together, monkeypatch):
    """Structures of two shapes; deaths between the checkpoints of two members as well."""

    rng = np.random.default_rng(0)
    frames = [make_frame(rng, repeats, pbc=False) for repeats in (1, 1, 1, 2, 2, 1, 2, 1)]
    settings = {"phases": phases(6, 4, learning_rate=0.05), "ensemble": 3, "early_stop": 4}
    whole = make_config(tmp_path, frames, output="whole", **settings)
    broken = make_config(tmp_path, output="broken", checkpoint_seconds=0.0, **settings)
    train_ensemble(whole, together=together)
    periods = (("checkpoint", 5), ("evaluate", 7), ("save_best", 4), ("checkpoint", 8))
    assert count_deaths(lambda: train_ensemble(broken, together=together), monkeypatch, *periods) >= 3
    train_ensemble(broken, together=together)
    for a, b in zip(members(whole), members(broken), strict=True):
        assert_same(a, b, exactly=True)


@WAYS_THAT_TAKE_LONG
@pytest.mark.usefixtures("cheap_model")
def test_compiled_once_for_all_members(tmp_path, monkeypatch, together):
    """On cores the members share what a single model has compiled; together, their step is compiled once."""
    traces, known = [], losses.predict

    def counted(*arguments, **options):
        traces.append(0)
        return known(*arguments, **options)

    monkeypatch.setattr(losses, "predict", counted)
    jax.clear_caches()
    train(make_config(tmp_path, output="single"))
    single = len(traces)
    train_ensemble(make_config(tmp_path, ensemble=4), together=together)
    assert single > 0
    assert len(traces) - single == (1 if together else 0)


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match="`ensemble` must be at least 2, got 1"):
        make_config(tmp_path, ensemble=1)
    with pytest.raises(ValueError, match=r"`training\.ensemble` = 2 asks for several models: use `train_ensemble`"):
        train(make_config(tmp_path, ensemble=2))
    with pytest.raises(ValueError, match=r"`training\.ensemble` is missing: .* or use `train`"):
        train_ensemble(make_config(tmp_path))
    config = make_config(tmp_path, phases=phases(1), ensemble=2)
    single = dataclasses.replace(config, training=dataclasses.replace(config.training, ensemble=None))
    loop.write_description(single, prepare(single), run_folder(config.output))
    (Path(config.output) / "model").mkdir()
    with pytest.raises(ValueError, match=r"holds a run with other settings \(training.ensemble\)"):
        train_ensemble(config)


# --- predictions


@pytest.fixture(scope="module")
def potentials(tmp_path_factory):
    model = prepare(make_config(tmp_path_factory.mktemp("models"))).model
    first = moved_potential(model)
    rng = np.random.default_rng(5)

    def moved(leaf):
        return jnp.asarray(leaf + 0.05 * rng.normal(size=leaf.shape), leaf.dtype)

    return [first, *(dataclasses.replace(first, params=jax.tree.map(moved, first.params)) for _ in range(2))]


def test_mean_and_spread_are_those_of_single_predictions(potentials, tmp_path):
    Ensemble.of(potentials).save(tmp_path / "model")
    ensemble = load_ensemble(tmp_path / "model")
    (atoms,) = make_frames(1)
    system = System.from_ase(atoms, cutoff=ensemble.cutoff)
    found = ensemble(system)
    singles = [load(tmp_path / "model" / str(i))(system) for i in range(3)]
    for name in ("energy", "total_energy", "long_range_energy", "forces", "stress", "charges"):
        values = np.array([getattr(single, name) for single in singles], float)
        size = np.abs(values).max()
        parts = {"mean": values.mean(axis=0), "spread": values.std(axis=0, ddof=1)}
        if name == "total_energy":  # its spread is that of the energy
            del parts["spread"]
        for part, expected in parts.items():
            actual = getattr(getattr(found, part), name)
            np.testing.assert_allclose(actual, expected, rtol=1e-9 if X64 else 1e-3, atol=1e-6 * size, err_msg=name)
        np.testing.assert_allclose(getattr(found.members, name), values, rtol=1e-9 if X64 else 1e-3, atol=1e-6 * size)
    assert found.spread.forces.max() > 1e-3
    assert [len(ensemble), len(list(ensemble))] == [3, 3]


def test_folders_that_are_no_ensemble(potentials, tmp_path):
    with pytest.raises(ValueError, match="`potentials` must be at least two, got 1"):
        Ensemble.of(potentials[:1])
    other = dataclasses.replace(potentials[1].config, energy_scale=9.0)
    mixed = [potentials[0], dataclasses.replace(potentials[1], config=other)]
    with pytest.raises(ValueError, match="number 1 differs from number 0 in `energy_scale`"):
        Ensemble.of(mixed)
    Ensemble.of(potentials).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"is an ensemble: read it with `lesjax.models.load_ensemble`"):
        load(tmp_path / "model")
    with pytest.raises(ValueError, match="is a single potential"):
        load_ensemble(tmp_path / "model" / "0")
    with pytest.raises(FileNotFoundError, match="is not an ensemble"):
        load_ensemble(tmp_path)
    with pytest.raises(ValueError, match="something other than an ensemble"):
        Ensemble.of(potentials).save(tmp_path)
    (tmp_path / "members" / "0").mkdir(parents=True)
    (tmp_path / "members" / "0" / "config.json").write_text("{}")  # as in the folder of a run
    with pytest.raises(FileNotFoundError, match="is not a lesjax model"):
        load(tmp_path / "members")
    notes = tmp_path / "model" / "0" / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(ValueError, match="something other than an ensemble"):
        Ensemble.of(potentials).save(tmp_path / "model")
    notes.unlink()
    Ensemble.of(potentials[:2]).save(tmp_path / "model")
    assert len(load_ensemble(tmp_path / "model")) == 2  # none of the old members is left
    shutil.rmtree(tmp_path / "model" / "1")
    potentials[2].save(tmp_path / "model" / "2")
    with pytest.raises(ValueError, match=r"has the members \[0, 2\]: some are missing"):
        load_ensemble(tmp_path / "model")
    mixed[1].save(tmp_path / "model" / "1")
    with pytest.raises(ValueError, match=r"model.*number 1 differs"):
        load_ensemble(tmp_path / "model")


def test_aligned_charges(potentials, tmp_path):
    """Members of the other sign come back, with the same forces."""
    prepared = prepare(make_config(tmp_path))
    arguments = (prepared.train, loop.validated(loop.phase_weights(Phase(epochs=1))), 4)
    expected = align(potentials, *arguments)
    found = align([potentials[0], *(flip(potential, -np.ones(1)) for potential in potentials[1:])], *arguments)
    for one, other in zip(found, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, (one.params, one.signs), (other.params, other.signs))
    assert found[0] is potentials[0]


# --- calibration


def test_rank_correlation():
    rng = np.random.default_rng(0)
    a = np.round(rng.normal(size=60), 1)  # with ties
    b = np.round(a + rng.normal(size=60), 1)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman(a, np.exp(a)) == pytest.approx(1.0)
    assert np.isnan(spearman(a, np.ones(60)))
    assert Calibration(np.array([3.0, 4.0]), np.array([1.0, 2.0])).ratio() == pytest.approx(np.sqrt(5.0))


def test_errors_of_the_mean_and_its_spread(potentials, tmp_path):
    frames = make_frames(3)
    frames[1].info.pop("REF_energy")
    result = evaluate(Ensemble.of(potentials), frames, batch_size=2)
    singles = [evaluate(potential, frames, batch_size=2) for potential in potentials]
    for kind in ("energy", "forces", "stress"):
        values = np.array([single.parity[kind].predicted for single in singles])
        spread = values.std(axis=0, ddof=1)
        error = values.mean(axis=0) - singles[0].parity[kind].reference
        assert result.metrics[f"{kind}_rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
        assert result.metrics[f"{kind}_spread"] == pytest.approx(np.sqrt(np.mean(spread**2)))
        if kind == "forces":
            error, spread = (np.linalg.norm(x.reshape(-1, 3), axis=1) for x in (error, spread))
        expected = spearmanr(np.abs(error), spread).statistic
        assert result.metrics[f"{kind}_spearman"] == pytest.approx(expected)
        np.testing.assert_allclose(result.calibration[kind].spread, spread)
    assert not singles[0].calibration
    plots.save_calibration(tmp_path / "c.png", result.calibration)
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_missing_forces_leave_out_atoms(potentials):
    frames = make_frames(2)
    for atoms in frames:
        del atoms.arrays["REF_charges"]
    frames[0].arrays["REF_forces"][1] = np.nan
    result = evaluate(Ensemble.of(potentials), frames)
    assert len(result.calibration["forces"].error) == 7
    assert "charges" not in result.calibration
