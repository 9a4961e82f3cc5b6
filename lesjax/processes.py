"""Forked processes: jax computes with threads, and a fork copies none of them."""

import functools
import os


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
