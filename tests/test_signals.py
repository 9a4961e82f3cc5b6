"""Signals become an exception in the block, one line and an exit status; what is ignored stays ignored."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lesjax.signals import Stopped, stopping


ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signal_is_raised_and_handlers_come_back(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as error, stopping(for_good=False):
        os.kill(os.getpid(), number)
    assert error.value.number == number
    assert str(error.value) == ("interrupted" if name == "SIGINT" else f"stopped by {name}")
    assert signal.getsignal(number) is before


def test_what_is_ignored_stays_so():
    """As by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping(for_good=False):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


HEAD = "import os, signal, sys, time; from lesjax.signals import stopping, Stopped\n"
PROGRAMS = {
    # a second signal while the first one is at work
    "second": "with stopping(for_good=True):\n try: os.kill(os.getpid(), 15)\n finally: os.kill(os.getpid(), 2)",
    # one that nobody waits for
    "late": "try:\n with stopping(for_good=True): os.kill(os.getpid(), 2)\nexcept Stopped: os.kill(os.getpid(), 2)\n"
    "print('interrupted', file=sys.stderr); sys.exit(130)",
    # in a place that exceptions do not leave
    "lost": "class A:\n def __del__(self): os.kill(os.getpid(), 2); time.sleep(0)\n"
    "try:\n with stopping(for_good=True):\n  A()\n  time.sleep(30)\n"
    "except Stopped as e: print(e, file=sys.stderr); sys.exit(130)",
}


@pytest.mark.parametrize(("program", "line", "status"), [
    ("second", "stopped by SIGTERM", 130), ("late", "interrupted", 130), ("lost", "interrupted", 130),
])  # fmt: skip
def test_one_line_in_any_case(program, line, status):
    command = [sys.executable, "-c", HEAD + PROGRAMS[program]]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (run.stderr, run.returncode) == (line + "\n", status)


# as parts in C do, which catch whatever is raised and go on, or crash
HOSTILE = "import os\ntry:\n os.kill(os.getpid(), 15); os.kill(os.getpid(), 2)\nexcept BaseException: print('caught')"


def test_nothing_is_raised_in_a_compilation():
    program = (
        "import types, sys\nmodule = types.ModuleType('jax._src.compiler')\n"
        "exec('import os\\ndef run():\\n try: os.kill(os.getpid(), 2)\\n except BaseException: pass', vars(module))\n"
        "with stopping(for_good=True) as stop:\n stop.line = lambda error: f'{error}, then'\n module.run()"
    )
    result = subprocess.run([sys.executable, "-c", HEAD + program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "interrupted, then\n")


def test_nothing_is_raised_in_an_import(tmp_path):
    (tmp_path / "hostile.py").write_text(HOSTILE)
    program = "with stopping(for_good=True) as stop:\n stop.line = lambda error: f'{error}, then'\n import hostile"
    command = [sys.executable, "-c", HEAD + program]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert (run.stdout, run.stderr, run.returncode) == ("", "stopped by SIGTERM, then\n", 143)


def catches(process, number):
    """Whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search("SigCgt:\t(.*)", status)[1], 16) >> (number - 1) & 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="nothing tells here whether signals are caught")
@pytest.mark.parametrize("words", [["info", "nothing"], ["md", "nothing", "nothing", "--out", "here"]])
def test_command_is_stopped_while_it_imports(words, tmp_path):
    """At any moment from its first handler on, and twice: one line, no traceback, no crash."""
    resumed = "" if words[0] == "info" else "; the same command resumes from the last checkpoint"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for i in range(12):
        process = subprocess.Popen(
            [sys.executable, "-m", "lesjax", *words], cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE
        )
        while not catches(process, signal.SIGTERM):
            assert process.poll() is None
        time.sleep(0.07 * i)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
        at_end = error.startswith(f"lesjax {words[0]}: ") and error.count("\n") == 1
        assert at_end or (process.returncode, error) in [(130, f"interrupted{end}\n") for end in {"", resumed}]
        assert list(tmp_path.iterdir()) == []
