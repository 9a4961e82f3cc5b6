"""Exact resume: a run that was killed, at any moment, ends as one that was not."""

import dataclasses
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from safetensors.numpy import load_file

from lesjax import io
from lesjax.training import ensemble, loop, train, train_ensemble
from lesjax.training.config import Phase
from toy import CONFIG, Killed, count_deaths, log_of, make_config, make_frames, phases


X64 = jax.config.jax_enable_x64


def assert_same_run(a, b):
    """Bit for bit."""
    assert log_of(a) == log_of(b)
    for name in ("checkpoint.safetensors", "model/params.safetensors", "model-last/params.safetensors"):
        first, second = load_file(Path(a) / name), load_file(Path(b) / name)
        assert first.keys() == second.keys()
        for key in first:
            assert first[key].tobytes() == second[key].tobytes(), (name, key)


# --- resume


# the plateau, the early stop and the second phase have a memory of their own
RESUMED = (
    Phase(epochs=6, learning_rate=0.02, schedule="plateau", patience=1, weights={"energy": 10.0, "forces": 1.0}),
    Phase(epochs=5, learning_rate=0.01, weights={"energy": 1.0, "forces": 5.0}),
)


LBFGS = (
    *phases(3, weights={"energy": 10.0, "forces": 1.0}),
    *phases(4, lbfgs=True),
    *phases(4, lbfgs=True, weights={"energy": 1.0, "forces": 9.0}),
)


class TestResume:
    @pytest.mark.parametrize(
        ("model", "checkpoint_seconds", "chosen"),
        [("real", 0.0, RESUMED), ("real", 1e9, RESUMED), ("cheap", 0.0, RESUMED), ("cheap", 0.0, LBFGS)],
    )
    def test_interrupted_again_and_again(self, tmp_path, monkeypatch, request, model, checkpoint_seconds, chosen):
        """Killed in the middle of every few epochs, between a model and its checkpoint, and in the evaluation."""
        if model == "cheap":
            request.getfixturevalue("cheap_model")
        settings = {"phases": chosen, "early_stop": 4, "batch_size": 3}
        if chosen is LBFGS:
            settings |= {"batch_size": 8, "data": {"valid_fraction": 0.0}}
        config = make_config(tmp_path, output="whole", **settings)
        broken = make_config(tmp_path, output="broken", checkpoint_seconds=checkpoint_seconds, **settings)
        train(config)

        periods = (("run_epoch", 3), ("evaluate", 4), ("save_best", 5))
        assert count_deaths(lambda: train(broken), monkeypatch, *periods) >= 2
        train(broken)
        assert_same_run(config.output, broken.output)

    @pytest.mark.usefixtures("cheap_model")
    def test_killed_while_a_checkpoint_is_written(self, tmp_path, monkeypatch):
        config = make_config(tmp_path, output="whole", phases=RESUMED, checkpoint_seconds=0.0)
        broken = dataclasses.replace(config, output=str(tmp_path / "broken"))
        train(config)
        calls = itertools.count()
        replace = os.replace

        def dying_replace(source, target):
            if str(target).endswith("checkpoint.safetensors") and next(calls) == 4:
                raise Killed
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying_replace)
            with pytest.raises(Killed):
                train(broken)
        train(broken)
        assert_same_run(config.output, broken.output)


# epochs enough for the four signals, each with its checkpoint
SETTINGS = ("training.phases.0.epochs=60", "training.checkpoint_seconds=0.0", "model.short_range.max_nu=2")


def start(folder, output):
    environment = {**os.environ, "JAX_ENABLE_X64": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    # the compiled functions, so that the second process does not compile again
    cache = jax.config.jax_compilation_cache_dir
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "lesjax", "train", "config.toml", "--quiet"]
    for setting in (f"output={output}", *SETTINGS):
        command += ["--set", setting]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.skipif(not X64, reason="one dtype is enough for so many processes")
def test_stopped_by_any_signal_at_any_moment(tmp_path):
    """By each signal, wherever the process happens to be, and started again; it says what it has kept."""
    io.write(tmp_path / "train.xyz", make_frames(8))
    (tmp_path / "config.toml").write_text(CONFIG)
    whole = start(tmp_path, "whole")
    _, error = whole.communicate(timeout=300)
    assert whole.returncode == 0, error
    assert error == ""
    log = tmp_path / "broken" / "log.jsonl"
    signals = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number, n_lines in zip(signals, (5, 15, 25, 35), strict=True):
        process = start(tmp_path, "broken")
        deadline = time.monotonic() + 300
        while not (log.exists() and log.read_text().count("\n") >= n_lines):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(random.uniform(0.0, 0.05))
        process.send_signal(number)
        _, error = process.communicate()
        if number == signal.SIGKILL:
            assert (process.returncode, error) == (-number, "")
            continue
        assert process.returncode == 128 + number
        how = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
        kept = re.fullmatch(f"{how}; kept in 'broken': all up to epoch (\\d+); the same command .*\n", error)
        assert kept is not None, error
        assert int(kept[1]) >= n_lines - 1
    for name in (".model.7.tmp", ".model.7.old"):
        shutil.copytree(tmp_path / "broken" / "model", tmp_path / "broken" / name)
    (tmp_path / "broken" / ".log.jsonl.7.tmp").touch()
    final = start(tmp_path, "broken")
    _, error = final.communicate(timeout=300)
    assert final.returncode == 0, error
    assert len(log_of(tmp_path / "broken")) == 60
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    assert not list((tmp_path / "broken").rglob(".*"))


# --- folders


@pytest.mark.parametrize("run", [train, train_ensemble])
@pytest.mark.parametrize("name", ["model/", "model-last/", "metrics.json", "checkpoint.safetensors", "thesis.tex"])
def test_files_of_others_are_refused_first(run, name, tmp_path, monkeypatch):
    """Before any data are read; nothing is touched."""
    config = make_config(tmp_path, ensemble=2 if run is train_ensemble else None)
    path = Path(config.output) / name
    path.parent.mkdir(parents=True)
    path.mkdir() if name.endswith("/") else path.write_text("theirs")
    for module in (loop, ensemble):
        monkeypatch.setattr(module, "prepare", None)
    with pytest.raises(ValueError, match=rf"run' (holds .* did not write \({name.strip('/')}\)|has no config)"):
        run(config)
    assert [p.name for p in Path(config.output).iterdir()] == [name.strip("/")]


@pytest.mark.usefixtures("cheap_model")
def test_parts_of_a_run_that_are_gone(tmp_path, monkeypatch):
    """Each is named with what to do; nothing is computed."""
    config = make_config(tmp_path)
    train(config)
    other = make_config(tmp_path, seed=1, output="other")
    train(other)
    folder, foreign = Path(config.output), Path(other.output)
    for name, message in (
        ("log.jsonl", r"log\.jsonl' lacks what was written before .*\. Put it back, or delete '.*run'"),
        ("model", r"run/model' lacks what was written before the last checkpoint\. Put it back"),
        ("model-last", r"run/model-last' lacks what"),
        ("model/params.safetensors", r"run/model' lacks what"),
        ("model-last/config.json", r"run/model-last' lacks what"),
        ("config.json", r"run' has no config\.json beside checkpoint\.safetensors: nothing says which run"),
    ):
        (folder / name).rename(tmp_path / "away")
        with monkeypatch.context() as patch:
            patch.setattr(loop.Run, "run", None)
            with pytest.raises(ValueError, match=message):
                train(config)
        (tmp_path / "away").rename(folder / name)
    parameters = folder / "model" / "params.safetensors"
    whole = parameters.read_bytes()
    parameters.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"run/model/params\.safetensors' is damaged: .* Take another copy"):
        train(config)
    parameters.write_bytes(whole)
    shutil.copy(foreign / "config.json", folder)
    before = (folder / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors' is of other settings than config\.json beside it"):
        train(dataclasses.replace(other, output=config.output))
    assert (folder / "config.json").read_bytes() == before
    for damaged in ("", "[]", "null", '{"run": null}'):
        (folder / "config.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"config\.json' is damaged: .*Choose another folder, or delete it"):
            train(config)


@pytest.mark.usefixtures("cheap_model")
def test_results_without_a_checkpoint_bind_to_their_settings(tmp_path):
    """Of a partial `rm -rf`: a model, a table or a plot of another run is not overwritten; nothing but a log is."""
    config = make_config(tmp_path, phases=phases(1))
    train(config)
    folder, other = Path(config.output), make_config(tmp_path, seed=1, phases=phases(1))
    for name in ("checkpoint.safetensors", "model/params.safetensors", "model/config.json"):
        (folder / name).unlink()
    (folder / "model").rmdir()
    log = (folder / "log.jsonl").read_bytes()
    for left in ("model-last", "metrics.json", "learning_curve.png"):
        if left != "model-last":
            (folder / left).touch()
        with pytest.raises(ValueError, match=r"run' holds a run with other settings \(training\.seed\)"):
            train(other)
        assert (folder / "log.jsonl").read_bytes() == log
        shutil.rmtree(folder / left) if left == "model-last" else (folder / left).unlink()
    train(other)
