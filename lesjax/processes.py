"""Processes: forks, of which jax copies no threads, and the memory that a process of lesjax keeps."""

import ctypes
import functools
import os
import sys


# options of mallopt in malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


@functools.cache
def _first_process() -> int:
    """Id of the process that asked first; a fork inherits it."""
    return os.getpid()


def check_process() -> None:
    """Refuse to compute in a fork of a process that has computed, where jax would wait forever for threads.

    Called where models are made, loaded and used. What a parent has computed without lesjax is not known here.

    Raises:
        RuntimeError: with the remedy, in such a fork.
    """
    if _first_process() != os.getpid():
        raise RuntimeError(
            "This process was forked from one that had already computed, or imported `lesjax.dynamics`: jax would hang "
            'in it. Start processes with `multiprocessing.get_context("spawn")`, or use threads.'
        )


def keep_freed_memory() -> None:
    """Keep freed memory in this process; for commands that repeat a step, before jax has started its threads.

    XLA allocates the arrays of a step anew each time. Where glibc gives them back to the kernel in between, the kernel
    clears them page by page at the next step, which can take as long as a third of it. Does nothing with another C
    library, or where the environment has settings of malloc.
    """
    if any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in os.environ) or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # all in one heap that only grows; other threads would have heaps of at most 64 MB
        for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)):
            mallopt(option, value)
