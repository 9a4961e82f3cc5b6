"""Folders of runs: one process at a time, whole files, and a log that is cut to its checkpoint; damage is noticed."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lesjax import runs
from lesjax.files import atomic_path
from lesjax.runs import RunFolder, read_log, read_table
from toy import read_only


ARRAYS = {"w": np.arange(6.0).reshape(2, 3), "count": np.array(3, np.int32)}
HOST = {"epoch": 3, "best_loss": math.inf, "seconds": 0.1 + 0.2}


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path, description="d.json", log="log.csv", growing=["frames"], others=["model", "p_*.png"])


@pytest.fixture
def described(folder):
    folder.write_description({"run": RUN})
    return folder


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


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").write_text("")
    folder = RunFolder(tmp_path / "run", description="d.json", log="log")
    with pytest.raises(ValueError, match=r"run' is a file: choose another folder"), folder.locked():
        pass
    folder.path.unlink()
    folder.path.symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"run' is a file: choose another folder"), folder.locked():
        pass


def test_leftovers_are_removed(folder):
    """Under names of this run only; a folder that was moved aside comes back where its successor is not there."""
    theirs = ["other/.frames.12.tmp", ".frames.tmp", ".thesis.12.tmp", ".thesis.12.old", ".frames.12.bak"]
    for name in (".frames.12.tmp", ".p_a.png.3.tmp", "model/.log.csv.12.tmp", ".model.7.old", *theirs):
        (folder.path / name).mkdir(parents=True)
    (folder.path / ".d.json.7.tmp").touch()
    folder.remove_leftovers("model")
    assert sorted(p.relative_to(folder.path).as_posix() for p in folder.path.rglob(".*")) == sorted(theirs)
    (folder.path / "model").rmdir()
    (folder.path / ".model.7.old").mkdir()
    (folder.path / ".model.7.old" / "weights").touch()
    folder.remove_leftovers()
    assert (folder.path / "model" / "weights").exists()
    assert not (folder.path / ".model.7.old").exists()


@pytest.mark.parametrize("name", ["log.csv", "frames", "p_x.png", "start.xyz", "model/"])
def test_files_of_others_are_refused(folder, name):
    """Also a folder, under a name that the run writes; nothing is touched."""
    path = folder.path / name
    path.mkdir() if name.endswith("/") else path.write_text("theirs")
    for check in (folder.check_files, lambda: folder.check(RUN)):
        with pytest.raises(ValueError, match=rf"did not write \({name.strip('/')}\)\. Choose another folder, one that"):
            check()
    assert [p.name for p in folder.path.iterdir()] == [name.strip("/")]


def test_hidden_files_and_other_folders_are_no_hindrance(folder):
    (folder.path / ".git").touch()
    (folder.path / "earlier").mkdir()
    folder.check(RUN)
    folder.write_description({"run": RUN})
    (folder.path / "notes.txt").touch()  # in a folder that is ours already
    folder.check(RUN)
    for i in range(6):
        (folder.path / f"{i}.txt").touch()
    folder.description.unlink()
    for name in (folder.log.name, folder.checkpoint.name):  # names of a run, of another kind perhaps, come last
        (folder.path / name).touch()
    with pytest.raises(ValueError, match=r"did not write \(0\.txt, 1\.txt, 2\.txt, 3\.txt and 5 more\)"):
        folder.check_files()


def test_errors_name_the_file_and_not_the_temporary_one(tmp_path):
    with pytest.raises(OSError, match=r"No such file or directory: '.*/note'"), atomic_path(tmp_path / "note") as path:
        path.read_text()


def test_folder_that_is_gone(described):
    """Nothing brings it back."""
    described.write_checkpoint(ARRAYS, HOST, "step 5")
    shutil.rmtree(described.path)
    with pytest.raises(FileNotFoundError, match=r"is gone while the run works: start it anew"):
        described.append({"step": 1})
    with pytest.raises(FileNotFoundError, match=r"d\.json' is gone while the run works"):
        described.write_checkpoint(ARRAYS, HOST, "step 6")
    assert not described.path.exists()


def test_folder_that_cannot_be_written(tmp_path):
    """There or not; as on a file system that is mounted for reading only, which binds root as well."""
    with read_only(tmp_path / "there"):
        for path in (tmp_path / "there", tmp_path / "there" / "new" / "er"):
            folder = RunFolder(path, description="d.json", log="log.csv")
            for check in (folder.check_files, lambda folder=folder: folder.check(RUN)):
                with pytest.raises(PermissionError, match=r"there' cannot be written: choose another folder, or make"):
                    check()


def test_full_disk_names_the_file(folder, tmp_path):
    """/dev/full is one; other writers raise what it raises, without a name."""
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match=r"No space left on device: '.*note'"), atomic_path(tmp_path / "note"):
        raise full
    assert list(tmp_path.iterdir()) == []
    if Path("/dev/full").exists():
        folder.log.symlink_to("/dev/full")
        with pytest.raises(OSError, match=r"No space left on device: '.*log\.csv'"):
            folder.append({"step": 1})


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
        (lambda d: d.update(format=99), r"d\.json' is of format 99, but this version of lesjax reads format 2"),
        (lambda d: d.update(format=True), r"d\.json' is of format True, but"),
        (lambda d: d.update(format=2.0), r"d\.json' is of format 2\.0, but"),
        (lambda d: d.update(run=None), r"d\.json' is damaged: its content does not match its hash\. Choose"),
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


def test_description_in_words_that_fit_the_hash(folder):
    folder.write_description({"run": None})
    with pytest.raises(ValueError, match=r"d\.json' is damaged"):
        folder.check(RUN)


def test_another_dtype_or_version_is_called_that(described, monkeypatch):
    described.write_description({"run": RUN, "dtype": "float64"})
    described.check(RUN, dtype="float64")
    with pytest.raises(ValueError, match=r"holds a run in float64, and this one would be in float32\. Set .*X64=1 to"):
        described.check({**RUN, "model": {}}, dtype="float32")
    described.write_checkpoint(ARRAYS, HOST, "step 5")
    monkeypatch.setattr(runs, "lesjax_version", lambda: "99.0")
    for _ in range(2):  # whoever began it stays in the description
        with pytest.warns(UserWarning, match=r"that lesjax \d[.\d]* began, and this is 99\.0: what follows may differ"):
            described.check(RUN)
        described.write_description({"run": RUN})


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"settings": null}', '{"run": null}', "[" * 100_000])
def test_description_that_is_no_json_object(folder, text):
    folder.description.write_text(text)
    with pytest.raises(ValueError, match=r"d\.json' is damaged: .*Choose another folder"):
        folder.read_description()


# --- checkpoint, and what grows


def test_round_trip(described):
    assert described.read_checkpoint() is None
    described.write_checkpoint(ARRAYS, HOST, "step 5")
    arrays, host, sizes, at = described.read_checkpoint()
    assert (host, sizes, at) == (HOST, {}, "step 5")
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype
    assert names(described) == ["checkpoint.safetensors", "d.json"]


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_checkpoint(described, kept):
    described.write_checkpoint(ARRAYS, HOST, "step 5")
    described.checkpoint.write_bytes(described.checkpoint.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors' is damaged: .*\. Delete the checkpoint to start"):
        described.read_checkpoint()
    (described.path / "model").mkdir()
    with pytest.raises(ValueError, match=r"best model so far is in .*model'\. Delete the checkpoint"):
        described.read_checkpoint()


def test_foreign_checkpoint(described):
    save_file({"w": np.zeros(2)}, described.checkpoint)
    with pytest.raises(ValueError, match="is damaged: 'host'"):
        described.read_checkpoint()
    save_file({"w": np.zeros(2)}, described.checkpoint, metadata={"host": '{"format": 99, "sizes": {}}'})
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors' is of format 99, but this version of lesjax reads"):
        described.read_checkpoint()


def test_failed_write_keeps_the_old_checkpoint(described):
    described.write_checkpoint(ARRAYS, HOST, "step 5")
    with pytest.raises(TypeError, match="not JSON serializable"):
        described.write_checkpoint(ARRAYS, {"epoch": np.ones(2)}, "step 6")
    assert described.read_checkpoint().host == HOST
    assert names(described) == ["checkpoint.safetensors", "d.json"]


def test_checkpoint_belongs_to_its_settings(tmp_path):
    """Its description gone, or that of another run beside it; what may change is no hindrance."""
    folder = RunFolder(tmp_path, description="d.json", log="log.csv", free={"steps"})
    with pytest.raises(FileNotFoundError, match=r"d\.json' is gone while the run works"):
        folder.write_checkpoint(ARRAYS, HOST, "step 5")
    folder.write_description({"run": RUN})
    folder.write_checkpoint(ARRAYS, HOST, "step 5")
    folder.write_description({"run": {**RUN, "steps": 20}})
    folder.check({**RUN, "steps": 30})
    other = {**RUN, "model": {"cutoff": 4.0}}
    folder.write_description({"run": other})
    for read in (folder.read_checkpoint, lambda: folder.check(other)):
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors' is of other settings than d\.json beside it"):
            read()
    folder.description.unlink()
    for read in (folder.read_checkpoint, lambda: folder.check(RUN), folder.check_files):
        with pytest.raises(ValueError, match=r"has no d\.json beside checkpoint\.safetensors: nothing says which run"):
            read()
    assert names(folder) == ["checkpoint.safetensors"]


def test_what_grows_is_on_the_disk_before_its_checkpoint(described, monkeypatch):
    synced, sync = [], os.fsync

    def watching_sync(handle):
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        sync(handle)

    if not Path("/proc/self/fd").exists():
        pytest.skip("no names of open files here")
    described.append({"step": 1})
    (described.path / "frames").write_text("abc")
    monkeypatch.setattr(os, "fsync", watching_sync)
    described.write_checkpoint(ARRAYS, HOST, "step 1")
    assert [name.split(".")[-1] for name in synced[:3]] == ["csv", "frames", "tmp"]
    assert synced[3:] == [described.path.name]


def test_what_was_kept(described):
    assert described.kept() == f"no checkpoint in {str(described.path)!r} yet: the same command starts again"
    described.write_checkpoint(ARRAYS, HOST, "step 5")
    assert described.kept() == f"kept in {str(described.path)!r}: all up to step 5; the same command resumes from there"


def test_files_are_cut_to_the_checkpoint(described):
    frames = described.path / "frames"
    for step in range(3):
        described.append({"step": step, "energy": step / 3.0})
    frames.write_text("abc")
    described.write_checkpoint(ARRAYS, HOST, "step 5")
    at_checkpoint = described.log.read_bytes()
    np.testing.assert_array_equal(read_table(described.log)["step"], [0, 1, 2])
    assert at_checkpoint.splitlines()[:3] == [b"step,energy", b"0,0", b"1,0.33333333333333"]
    described.append({"step": 3, "energy": 1.0})
    with open(described.log, "a") as file:
        file.write("half a li")
    frames.write_text("abcdef")
    described.rewind(described.read_checkpoint())
    assert described.log.read_bytes() == at_checkpoint
    assert frames.read_text() == "abc"
    frames.write_text("ab")
    with open(described.log, "a") as file:
        file.write("3,1.0")
    for refuse in (lambda: described.check(RUN), lambda: described.rewind(described.read_checkpoint())):
        with pytest.raises(ValueError, match=r"frames' lacks what was written before the last checkpoint\. Put it"):
            refuse()
    assert described.log.read_bytes() == at_checkpoint + b"3,1.0"  # nothing is touched
    described.rewind(None)
    assert names(described) == ["checkpoint.safetensors", "d.json"]


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


def test_same_checkpoints_have_the_same_bytes(described):
    contents = set()
    for _ in range(12):
        described.write_checkpoint({"w": np.linspace(1.0, 2.0, 7), "v": np.zeros(2)}, HOST, "step 5")
        contents.add(described.checkpoint.read_bytes())
    assert len(contents) == 1


def test_a_bit_of_a_checkpoint(described):
    """The number stays finite, but is another one."""
    described.write_checkpoint({"w": np.linspace(1.0, 2.0, 7)}, HOST, "step 5")
    data = bytearray(described.checkpoint.read_bytes())
    data[-8] ^= 1
    described.checkpoint.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged: its content does not match its hash"):
        described.read_checkpoint()
