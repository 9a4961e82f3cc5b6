"""Folders of runs: one process at a time, whole files, and a log that is cut to its checkpoint; damage is noticed."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from lesjax.runs import RunFolder, atomic_path, read_log, read_table


ARRAYS = {"w": np.arange(6.0).reshape(2, 3), "count": np.array(3, np.int32)}
HOST = {"epoch": 3, "best_loss": math.inf, "seconds": 0.1 + 0.2}


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path, description="d.json", log="log.csv", growing=["frames"])


def names(folder):
    return sorted(path.name for path in folder.path.iterdir())


# --- lock and whole files


def test_atomic_path_replaces_at_the_end(tmp_path):
    path = tmp_path / "note"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:  # noqa: PT012 (the block is the test)
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_for_one_process(tmp_path):
    """Refused while another process has it, free once that is killed, and gone where nothing was written."""
    folder = RunFolder(tmp_path / "run", description="d.json", log="log")
    program = "import sys, time; from lesjax.runs import RunFolder\n"
    program += "folder = RunFolder(sys.argv[1], description='d', log='l')\n"
    program += "with folder.locked(): print('in', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", program, str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        message = r"Another process is working in '.*run': wait for it"
        with pytest.raises(ValueError, match=message), folder.locked():
            pass
        other.kill()
    with folder.locked():
        pass
    folder.path.rmdir()  # it was there before, and so it stays
    with folder.locked():
        assert folder.path.is_dir()
    assert not folder.path.exists()
    with folder.locked():
        folder.log.touch()
    assert folder.log.exists()


def test_leftovers_are_removed(folder):
    for name in (".a.12.tmp", "model/.b.12.tmp", "other/.c.12.tmp", ".notes.tmp"):
        (folder.path / name).mkdir(parents=True)
    (folder.path / ".d.7.tmp").touch()
    folder.remove_leftovers("model")
    assert sorted(path.name for path in folder.path.rglob(".*")) == [".c.12.tmp", ".notes.tmp"]


# --- description


RUN = {"steps": 10, "field": (0.0, 1.0), "model": {"cutoff": 5.0}}


def test_description(folder):
    assert folder.read_description() is None
    folder.check(RUN)
    folder.write_description({"run": RUN, "versions": {"jax": "1"}})
    assert folder.read_description()["versions"] == {"jax": "1"}
    folder.check(RUN)
    folder.check({**RUN, "steps": 20}, free={"steps"})
    with pytest.raises(ValueError, match=r"holds a run with other settings \(model\.cutoff, steps\)\. Choose another"):
        folder.check({**RUN, "steps": 20, "model": {"cutoff": 4.0}})
    with pytest.raises(ValueError, match=r"other settings \(new\)"):
        folder.check({**RUN, "new": 1}, free={"steps"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["run"].update(steps=11), r"d\.json' is damaged: its content does not match its hash\. Choose"),
        (lambda d: d.update(format=99), r"d\.json' is of format 99, but this version of lesjax reads format 1"),
        (lambda d: d.pop("format"), r"d\.json' is damaged: it does not describe a run"),
        (lambda d: d.pop("run"), r"d\.json' is damaged: it does not describe a run"),
    ],
)
def test_description_that_cannot_be_used(folder, change, message):
    folder.write_description({"run": RUN})
    content = json.loads(folder.description.read_text())
    change(content)
    folder.description.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        folder.check(RUN)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_description_that_is_no_json_object(folder, text):
    folder.description.write_text(text)
    with pytest.raises(ValueError, match=r"d\.json' is damaged: .*Choose another folder"):
        folder.read_description()


# --- checkpoint, and what grows


def test_round_trip(folder):
    assert folder.read_checkpoint() is None
    folder.write_checkpoint(ARRAYS, HOST)
    arrays, host, sizes = folder.read_checkpoint()
    assert (host, sizes) == (HOST, {})
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype
    assert names(folder) == ["checkpoint.safetensors"]


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_checkpoint(folder, kept):
    folder.write_checkpoint(ARRAYS, HOST)
    folder.checkpoint.write_bytes(folder.checkpoint.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors' is damaged: .*\. Delete the checkpoint to start"):
        folder.read_checkpoint()
    (folder.path / "model").mkdir()
    with pytest.raises(ValueError, match=r"best model so far is in .*model'\. Delete the checkpoint"):
        folder.read_checkpoint()


def test_foreign_checkpoint(folder):
    save_file({"w": np.zeros(2)}, folder.checkpoint)
    with pytest.raises(ValueError, match="is damaged: 'host'"):
        folder.read_checkpoint()
    save_file({"w": np.zeros(2)}, folder.checkpoint, metadata={"host": '{"format": 99, "sizes": {}}'})
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors' is of format 99, but this version of lesjax reads"):
        folder.read_checkpoint()


def test_failed_write_keeps_the_old_checkpoint(folder):
    folder.write_checkpoint(ARRAYS, HOST)
    with pytest.raises(TypeError, match="not JSON serializable"):
        folder.write_checkpoint(ARRAYS, {"epoch": np.ones(2)})
    assert folder.read_checkpoint().host == HOST
    assert names(folder) == ["checkpoint.safetensors"]


def test_files_are_cut_to_the_checkpoint(folder):
    frames = folder.path / "frames"
    for step in range(3):
        folder.append({"step": step, "energy": step / 3.0})
    frames.write_text("abc")
    folder.write_checkpoint(ARRAYS, HOST)
    at_checkpoint = folder.log.read_bytes()
    np.testing.assert_array_equal(read_table(folder.log)["step"], [0, 1, 2])
    assert at_checkpoint.splitlines()[:3] == [b"step,energy", b"0,0", b"1,0.33333333333333"]
    folder.append({"step": 3, "energy": 1.0})
    with open(folder.log, "a") as file:
        file.write("half a li")
    frames.write_text("abcdef")
    folder.rewind(folder.read_checkpoint())
    assert folder.log.read_bytes() == at_checkpoint
    assert frames.read_text() == "abc"
    frames.write_text("ab")
    with pytest.raises(ValueError, match=r"frames' lacks what was written before the last checkpoint\. Put it back"):
        folder.rewind(folder.read_checkpoint())
    folder.rewind(None)
    assert names(folder) == ["checkpoint.safetensors"]


def test_log_of_json_lines(tmp_path):
    folder = RunFolder(tmp_path, description="d.json", log="log.jsonl")
    records = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": math.inf}]
    for record in records:
        folder.append(record)
    with open(folder.log, "a") as file:
        file.write('{"epo')
    assert read_log(folder.log) == records
    folder.log.write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(ValueError, match=r"Line 2 of '.*log\.jsonl' is damaged: .*\. Delete it\."):
        read_log(folder.log)


def test_table_without_a_line(folder):
    folder.log.write_text("step,energy\n")
    with pytest.raises(ValueError, match=r"log\.csv' has no line"):
        read_table(folder.log)
