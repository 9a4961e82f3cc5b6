"""Engines in processes of their own: a benchmark asks in lines, the engine answers in lines of JSON."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO


class Worker:
    """A process that calls `serve`; `reply` is its first answer. What it writes to standard error is shown."""

    def __init__(self, command: Sequence[object], environment: Mapping[str, str]) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(list(map(str, command)), **pipes, text=True, env={**os.environ, **environment})
        self.reply = self._read()

    def ask(self, line: str) -> Any:
        """Send a line and wait for the answer."""
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)
        return self._read()

    def close(self) -> Any:
        """End the process; returns the first reply."""
        self.process.communicate()
        return self.reply

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        status = self.process.wait()
        killed = f"killed by signal {-status}, out of memory"
        return {"error": killed if status < 0 else f"the process ended with status {status}"}


def open_replies() -> TextIO:
    """Standard output for replies; what libraries print goes to standard error instead."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return replies


def serve(replies: TextIO, reply: dict, call: Callable[[], object] | None = None, before: float = 0.0) -> None:
    """Send the first reply; then answer a number of calls by the ms of one, and "end" by the memory.

    Args:
        replies: where to.
        reply: the first one.
        call: what to time.
        before: MB, what the libraries take.
    """
    print(json.dumps(reply), file=replies)
    for line in sys.stdin:
        if line.strip() == "end" or call is None:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(json.dumps({"peak_mb": round(peak), "above_start_mb": round(max(peak - before, 0.0))}), file=replies)
            return
        repeats = int(line)
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        print(json.dumps(1e3 * (time.perf_counter() - start) / repeats), file=replies)


def resident() -> float:
    """Current memory of this process, MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20
