"""Signals that stop a command: Ctrl-C, SIGTERM, SIGHUP. They become an exception, so that files are closed first."""

import _thread
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any


NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # the last one is not everywhere

# modules that call C, which calls Python
FRAGILE = ("importlib._bootstrap", "jax._src.compiler", "jax._src.interpreters.mlir", "jaxlib.")


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
        for_good: the program ends with it.
        line: what is said of a signal that ends the program at once.
    """

    def __init__(self, *, for_good: bool) -> None:
        self.error: Stopped | None = None
        self.for_good = for_good
        self.line: Callable[[Stopped], str] = str

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Raise `Stopped`; at the second signal, or while something is imported or compiled, the program ends at once.

        Imports and compilers have nothing to close, but parts in C, some of which crash on an exception.
        """
        if self.error is not None or (self.for_good and _is_fragile(frame)):
            ignore()
            with suppress(OSError, RuntimeError):  # the terminal may be gone
                sys.stdout.flush()
            with suppress(OSError), open(2, "w", closefd=False) as out:
                cursor = "\x1b[?25h" if out.isatty() else ""  # which a progress bar hides
                out.write(f"{cursor}{self.line(self.error or Stopped(number))}\n")
            os._exit(128 + number)
        self.error = Stopped(number)
        raise self.error


def ignore() -> None:
    """Ignore further signals, before the last line is written."""
    for number in _numbers():
        signal.signal(number, signal.SIG_IGN)


def _numbers() -> list[int]:
    """Signals of this system; none in a thread that cannot handle them."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


def _is_fragile(frame: FrameType | None) -> bool:
    """Return whether a frame of Python is part of an import or of a compilation."""
    while frame is not None and not str(frame.f_globals.get("__name__")).startswith(FRAGILE):
        frame = frame.f_back
    return frame is not None


def _wake(number: int) -> None:
    """Send a signal to the main thread, also where it waits."""
    if hasattr(signal, "pthread_kill"):
        ident = threading.main_thread().ident
        assert ident is not None
        signal.pthread_kill(ident, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


@contextmanager
def stopping(*, for_good: bool) -> Iterator[Stop]:
    """Stop at a signal in the block, in the main thread, see `Stop`; those that are ignored, as by nohup, stay so.

    Args:
        for_good: the program ends with the block, and ignores further signals then.
    """
    stop, hook = Stop(for_good=for_good), sys.unraisablehook

    def unraisable(arguments: Any) -> None:
        # Raised in a callback of the garbage collector, where no exception gets out: once more, a little later.
        if isinstance(arguments.exc_value, Stopped):
            stop.error = None
            threading.Timer(0.01, _wake, [arguments.exc_value.number]).start()
        else:
            hook(arguments)

    handlers = {n: h for n in _numbers() if (h := signal.getsignal(n)) not in (signal.SIG_IGN, None)}
    for number in handlers:
        signal.signal(number, stop)
    sys.unraisablehook = unraisable
    try:
        yield stop
    finally:
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_IGN if for_good else handler)
