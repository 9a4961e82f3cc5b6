"""Signals become an exception in the block, one line and an exit status; what is ignored stays ignored."""

import os
import signal
import subprocess
import sys

import pytest

from lesjax.signals import Stopped, stopping


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
