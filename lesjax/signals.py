"""Signals that stop a command: Ctrl-C, SIGTERM, SIGHUP. They become an exception, so that files are closed first."""

import _thread
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # the last one is not everywhere


class Stopped(KeyboardInterrupt):
    """A signal that ends the program.

    Attributes:
        number: of the signal; a program ends with 128 plus it.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = int(number)

    def __str__(self) -> str:
        return "interrupted" if self.number == signal.SIGINT else f"stopped by {signal.Signals(self.number).name}"


class Stop:
    """Whether a signal has come.

    Attributes:
        error: raised for the signal; None as long as there was none.
    """

    error: Stopped | None = None

    def __call__(self, number: int, _: Any) -> None:
        """Raise `Stopped`; at the second signal the program ends at once."""
        if self.error is not None:
            with open(2, "w", closefd=False) as out:
                out.write(f"{self.error}\n")
            os._exit(128 + number)
        self.error = Stopped(number)
        raise self.error


@contextmanager
def stopping(*, for_good: bool) -> Iterator[Stop]:
    """Raise `Stopped` in the main thread at a signal, in the block; those that are ignored, as by nohup, stay so.

    Args:
        for_good: the program ends with the block, and ignores further signals then.
    """
    stop, handlers, hook = Stop(), {}, sys.unraisablehook

    def unraisable(arguments: Any) -> None:
        # Raised in a callback of the garbage collector, where no exception gets out: once more, a little later.
        if isinstance(arguments.exc_value, Stopped):
            stop.error = None
            threading.Timer(0.01, _thread.interrupt_main, [arguments.exc_value.number]).start()
        else:
            hook(arguments)

    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
        handlers = {n: h for n in numbers if (h := signal.getsignal(n)) not in (signal.SIG_IGN, None)}
    for number in handlers:
        signal.signal(number, stop)
    sys.unraisablehook = unraisable
    try:
        yield stop
    finally:
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_IGN if for_good else handler)
