"""Exact resume: a run that was killed, at any moment, ends as one that was not."""

import dataclasses
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from safetensors.numpy import load_file

from lesjax import io
from lesjax.training import loop, train
from lesjax.training.config import Phase
from toy import Killed, killing, log_of, make_config, make_frames, phases


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

        counter = itertools.count()

        deaths = 0
        for name, period in (("run_epoch", 3), ("evaluate", 4), ("save_best", 5)):
            with monkeypatch.context() as patch:
                patch.setattr(loop.Run, name, killing(getattr(loop.Run, name), period, counter))
                try:
                    train(broken)
                except Killed:
                    deaths += 1
        assert deaths >= 2
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


SCRIPT = """
import sys
from pathlib import Path
from toy import make_config
from lesjax.training import train
from lesjax.training.config import Phase
folder, output, epochs = sys.argv[1:]
phases = (Phase(epochs=int(epochs)),)
train(make_config(Path(folder), output=output, phases=phases, batch_size=3, checkpoint_seconds=0.0))
"""


def start(folder, output, epochs):
    environment = {**os.environ, "JAX_ENABLE_X64": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    # the compiled functions, so that the second process does not compile again
    cache = jax.config.jax_compilation_cache_dir
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", SCRIPT, str(folder), output, str(epochs)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(not X64, reason="one dtype is enough for three processes")
def test_kill_minus_nine_at_any_moment(tmp_path):
    """The process is killed twice, wherever it happens to be, and started again."""
    epochs = 60
    io.write(tmp_path / "train.xyz", make_frames(8))
    whole = start(tmp_path, "whole", epochs)
    _, error = whole.communicate(timeout=300)
    assert whole.returncode == 0, error
    assert error == ""
    log = tmp_path / "broken" / "log.jsonl"
    for n_lines in (5, 15):
        process = start(tmp_path, "broken", epochs)
        deadline = time.monotonic() + 300
        while not (log.exists() and log.read_text().count("\n") >= n_lines):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(random.uniform(0.0, 0.05))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    final = start(tmp_path, "broken", epochs)
    _, error = final.communicate(timeout=300)
    assert final.returncode == 0, error
    assert len(log_of(tmp_path / "broken")) == epochs
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
