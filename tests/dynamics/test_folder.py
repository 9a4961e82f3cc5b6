"""Folders of simulations: what is not ours is refused before anything is computed, and what is ours is whole."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import jax
import pytest

from lesjax import cli
from lesjax.dynamics import Settings, records, simulate
from lesjax.dynamics.simulation import Simulation
from toy import contents, largest_file, read_only


X64 = jax.config.jax_enable_x64
SHORT = Settings("nve", steps=10, temperature=100.0, log_every=5, frame_every=5, checkpoint_every=5)


def run(potential, atoms, folder, **changes):
    return simulate(potential, atoms, folder, dataclasses.replace(SHORT, **changes), quiet=True)


@pytest.mark.parametrize("name", ["trajectory.xyz", "log.csv", "md.png", "final.xyz", "start.xyz"])
def test_files_of_others_are_refused_first(name, ions, small_potential, tmp_path, capsys, monkeypatch):
    """By the command, before it looks for the model, and by `simulate`, before anything is planned."""
    folder = tmp_path / "d"
    folder.mkdir()
    ase.io.write(folder / name, ions, format="extxyz")
    before = (folder / name).read_bytes()
    start = str(folder / name)
    assert cli.main(["md", str(tmp_path / "no-model"), start, "--out", str(folder)]) == 1
    assert capsys.readouterr().err.startswith(f"lesjax md: {str(folder)!r} holds what this run did not write ({name}).")
    (folder / "settings.json").write_text("[]")
    assert cli.main(["md", str(tmp_path / "no-model"), start, "--out", str(folder)]) == 1
    assert "settings.json' is damaged: it does not describe a run. Choose another" in capsys.readouterr().err
    (folder / "settings.json").unlink()
    monkeypatch.setattr("lesjax.dynamics.simulation.make_template", None)
    with pytest.raises(ValueError, match=rf"did not write \({name}\)"):
        run(small_potential, ions, folder)
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [(name, before)]


def test_checkpoint_without_its_settings(ions, small_potential, tmp_path, monkeypatch):
    """Of a partial `rm -rf`, or beside those of another run; nothing is computed, nothing is written."""
    run(small_potential, ions, tmp_path / "cold")
    run(small_potential, ions, tmp_path / "warm", temperature=300.0, steps=5)
    settings = tmp_path / "cold" / "settings.json"
    text = settings.read_bytes()
    monkeypatch.setattr("lesjax.dynamics.simulation.motion_of", None)
    settings.unlink()
    with pytest.raises(ValueError, match=r"has no settings\.json beside checkpoint\.safetensors: nothing says which"):
        run(small_potential, ions, tmp_path / "cold")
    settings.write_bytes((tmp_path / "warm" / "settings.json").read_bytes())
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors' is of other settings than settings\.json beside"):
        run(small_potential, ions, tmp_path / "cold", temperature=300.0)
    for damaged in ("", "[]", '{"settings": null}'):
        settings.write_text(damaged)
        with pytest.raises(ValueError, match=r"settings\.json' is damaged: .*Choose another folder, or delete it"):
            run(small_potential, ions, tmp_path / "cold")
    # another dtype is called that, although model and start differ by it as well
    content = json.loads(text)
    other = {"float32": "float64", "float64": "float32"}[content["dtype"]]
    content = {key: value for key, value in content.items() if key not in ("format", "hash")} | {"dtype": other}
    settings.unlink()
    folder = records.run_folder(tmp_path / "cold", SHORT)
    checkpoint = folder.checkpoint.rename(tmp_path / "away")
    folder.write_description(content)
    checkpoint.rename(folder.checkpoint)
    with pytest.raises(ValueError, match=rf"holds a run in {other}, and this one would be in float"):
        run(small_potential, ions, tmp_path / "cold")


def test_binary_trajectory_is_cut_by_bytes(ions, small_potential, tmp_path, monkeypatch):
    """The file is that of an unbroken run, whatever had been appended; one that was cut is refused."""
    changes = {"format": "traj", "steps": 20, "frame_every": 1, "checkpoint_every": 10}
    run(small_potential, ions, tmp_path / "whole", **changes)
    replan = Simulation.replan_if_drifted

    def die(self):
        if self.progress.step == 17:
            raise KeyboardInterrupt
        replan(self)

    with monkeypatch.context() as patch:
        patch.setattr(Simulation, "replan_if_drifted", die)
        with pytest.raises(KeyboardInterrupt):
            run(small_potential, ions, tmp_path / "broken", **changes)
    trajectory = tmp_path / "broken" / "trajectory.traj"
    assert len(ase.io.read(trajectory, ":")) == 18
    with open(trajectory, "ab") as file:
        file.write(b"half a frame")
    run(small_potential, ions, tmp_path / "broken", **changes)
    assert trajectory.read_bytes() == (tmp_path / "whole" / "trajectory.traj").read_bytes()
    assert [frame.info["step"] for frame in ase.io.read(trajectory, ":")] == [*range(21)]
    os.truncate(trajectory, trajectory.stat().st_size - 500)
    with pytest.raises(ValueError, match=r"trajectory\.traj' lacks what was written before the last checkpoint"):
        run(small_potential, ions, tmp_path / "broken", **{**changes, "steps": 30})


@pytest.mark.parametrize("name", ["trajectory.xyz", "log.csv"])
@pytest.mark.parametrize("change", ["cut", "emptied", "gone"])
def test_text_that_was_cut_is_refused_first(name, change, ions, small_potential, tmp_path, monkeypatch):
    """Before anything is compiled; nothing is touched."""
    run(small_potential, ions, tmp_path)
    path = tmp_path / name
    path.unlink() if change == "gone" else os.truncate(path, path.stat().st_size - 50 if change == "cut" else 0)
    before = contents(tmp_path)
    monkeypatch.setattr("lesjax.dynamics.simulation.motion_of", None)
    with pytest.raises(ValueError, match=rf"{name}' lacks what was written before the last checkpoint\. Put it back"):
        run(small_potential, ions, tmp_path, steps=15)
    assert contents(tmp_path) == before


def test_longer_run_has_the_log_of_an_unbroken_one(ions, small_potential, tmp_path):
    """No line of the step at which a shorter one ended, which had one."""
    run(small_potential, ions, tmp_path / "whole")
    run(small_potential, ions, tmp_path / "parts", steps=1)
    log = (tmp_path / "parts" / "log.csv").read_bytes()
    assert [line.split(b",")[0] for line in log.splitlines()] == [b"step", b"0", b"1"]
    run(small_potential, ions, tmp_path / "parts", steps=1)  # finished already: as it was
    assert (tmp_path / "parts" / "log.csv").read_bytes() == log
    run(small_potential, ions, tmp_path / "parts")
    steps = [line.split(b",")[0] for line in (tmp_path / "parts" / "log.csv").read_bytes().splitlines()]
    assert steps == [b"step", b"0", b"5", b"10"]


def test_leftovers_and_full_disks(ions, small_potential, tmp_path, monkeypatch):
    """Files of a run that was killed are removed by the next one, and an error of the disk names the file."""
    run(small_potential, ions, tmp_path, steps=5)
    left = [".final.xyz.7.tmp", ".md.png.7.tmp", ".checkpoint.safetensors.7.tmp", ".settings.json.7.tmp"]
    for name in left:
        (tmp_path / name).touch()
    (tmp_path / ".notes.7.tmp").touch()
    run(small_potential, ions, tmp_path, steps=5)
    assert [path.name for path in tmp_path.glob(".*")] == [".notes.7.tmp"]

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ase.io, "write", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*trajectory\.xyz'"):
        run(small_potential, ions, tmp_path)
    monkeypatch.undo()
    run(small_potential, ions, tmp_path)
    assert len(ase.io.read(tmp_path / "trajectory.xyz", ":")) == 3


def test_disk_that_fills_up(ions, small_potential, tmp_path):
    """Wherever writing ends, in whichever file: a message with its name, and what was good resumes bit for bit."""
    changes = {"steps": 40, "frame_every": 1}
    run(small_potential, ions, tmp_path / "whole", **changes)
    whole = contents(tmp_path / "whole")
    largest, named = max(len(whole[name]) for name in whole if name != "md.png"), set()
    for fraction in (0.01, 0.9):
        folder = tmp_path / str(fraction)
        with (
            largest_file(int(fraction * largest)),
            pytest.raises(OSError, match=f"File too large: '{folder}/") as error,
        ):
            run(small_potential, ions, folder, **changes)
        named.add(Path(error.value.filename).name)
        run(small_potential, ions, folder, **changes)
        found = contents(folder)
        assert found.keys() == whole.keys()
        assert [name for name in whole if found[name] != whole[name]] == []
    assert named == {"settings.json", "trajectory.xyz"}


@pytest.mark.parametrize(
    ("form", "event"), [("xyz", "log_every"), ("traj", "frame_every"), ("xyz", "checkpoint_every")]
)
def test_folder_that_vanishes(form, event, ions, small_potential, tmp_path, monkeypatch):
    """An error that names it; nothing comes back in its place."""
    folder, advance = tmp_path / "run", Simulation.advance

    def vanish(self, target):
        if target == 7:
            shutil.rmtree(folder)
        return advance(self, target)

    monkeypatch.setattr(Simulation, "advance", vanish)
    with pytest.raises(FileNotFoundError, match=r"run(' is gone while the run works|/settings\.json' is gone|/traj)"):
        run(small_potential, ions, folder, format=form, **{event: 7})
    assert list(tmp_path.iterdir()) == []


def test_folder_at_work_or_read_only_is_refused(ions, small_potential, tmp_path, capsys):
    """By the command; nothing is lost."""
    folder = tmp_path / "run"
    run(small_potential, ions, folder)
    small_potential.save(tmp_path / "model")
    ase.io.write(tmp_path / "ions.xyz", ions)
    words = ["md", str(tmp_path / "model"), str(tmp_path / "ions.xyz"), "--out"]
    before = contents(folder)
    with records.run_folder(folder, SHORT).locked():
        assert cli.main([*words, str(folder)]) == 1
    assert f"Another process is working in {str(folder)!r}: wait" in capsys.readouterr().err
    assert contents(folder) == before
    words[1] = "no-model"  # is not looked for
    with read_only(tmp_path / "read"):
        for out in (tmp_path / "read", tmp_path / "read" / "new"):
            assert cli.main([*words, str(out)]) == 1
            assert f"{str(tmp_path / 'read')!r} cannot be written: choose another" in capsys.readouterr().err


def start(*words):
    environment = {**os.environ, "JAX_ENABLE_X64": str(int(X64)), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    command = [sys.executable, "-m", "lesjax", "md", *map(str, words)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.skipif(not X64 or not Path("/proc/self/maps").exists(), reason="one dtype is enough for processes")
def test_signals_say_what_was_kept(ions, small_potential, tmp_path):
    """Ctrl-C during the imports, SIGTERM in the run; one line each, and the end is that of an unbroken run."""
    small_potential.save(tmp_path / "model")
    ase.io.write(tmp_path / "ions.xyz", ions)
    settings = Settings("csvr", temperature=300.0, steps=400, log_every=5, frame_every=10, checkpoint_every=10)
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    words = [tmp_path / "model", tmp_path / "ions.xyz", "--out", broken, "--ensemble", "csvr", "--temperature", 300]
    words += ["--steps", 400, "--log-every", 5, "--frame-every", 10, "--checkpoint-every", 10]
    process = start(*words)
    while "numpy" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert out.count("\n") <= 1
    assert process.returncode == 130
    assert error.startswith("interrupted; ")
    assert error.count("\n") == 1
    process = start(*words)
    while not (broken / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 143
    lines = out.splitlines()
    assert lines[0] == f"{words[0]} from {words[1]}; results in {broken}/"
    assert lines.index("compiling …") < lines.index(next(line for line in lines if line.startswith("step 0/400: ")))
    assert error.startswith(f"stopped by SIGTERM; kept in {str(broken)!r}: all up to step ")
    assert error.endswith("; the same command resumes from there\n")
    assert error.count("\n") == 1
    atoms = ase.io.read(tmp_path / "ions.xyz")
    for folder in (whole, broken):
        simulate(small_potential, atoms, folder, settings, quiet=True)
    for name in ("log.csv", "trajectory.xyz", "final.xyz"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    assert not list(broken.glob(".*"))
