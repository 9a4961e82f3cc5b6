"""Progress of a run: a bar on a terminal, lines on the standard output elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


# parts of a compilation that jax reports, in their order; the first one also for functions inside others
TRACE, LOWER, COMPILE = (
    f"/jax/core/compile/{name}_duration" for name in ("jaxpr_trace", "jaxpr_to_mlir_module", "backend_compile")
)


def has_lines(quiet: bool | None) -> bool:
    """Return whether progress is shown as lines: on request, where the output is not a terminal."""
    return quiet is False and not sys.stderr.isatty()


@contextmanager
def progress_bar(
    unit: str, total: int, done: int, quiet: bool | None, seconds: float = 0.0
) -> Iterator[Callable[[int, str], None]]:
    """Yield a function of (number done, text) that moves a bar on a terminal, and prints a line elsewhere.

    Args:
        unit: name of the counted things, for example "step".
        total: their number.
        done: number that is done already.
        quiet: True for nothing, False for a bar or lines, None for a bar or nothing.
        seconds: shortest time between two lines but the first and the last one.
    """
    if has_lines(quiet):
        printed_at = -seconds

        def show(completed: int, text: str) -> None:
            nonlocal printed_at
            if completed >= total or time.monotonic() - printed_at >= seconds:
                printed_at = time.monotonic()
                print(f"{unit} {completed}/{total}: {text}", flush=True)

        yield show
        return
    if quiet or not sys.stderr.isatty():
        yield lambda completed, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    counts, text = TextColumn(f"{unit} {{task.completed}}/{{task.total}}"), TextColumn("{task.description}")
    columns = (counts, BarColumn(bar_width=10), text)
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("compiling", total=total, completed=done)
        yield lambda completed, text: bar.update(task, completed=completed, description=text)


@contextmanager
def compilations(quiet: bool | None, longest_silent: float = 1.0) -> Iterator[None]:
    """Print a line at the start and one for each function that takes longer than this to compile, s."""
    if not has_lines(quiet):
        yield
        return
    from jax import monitoring

    active, spent = True, {}

    def listen(event: str, duration_secs: float, **names: Any) -> None:
        thread = threading.get_ident()
        if not active or event not in (TRACE, LOWER, COMPILE):
            return
        spent[thread] = duration_secs + (0.0 if event == TRACE else spent.get(thread, 0.0))
        if event == COMPILE and (took := spent.pop(thread)) > longest_silent:
            name = str(names.get("fun_name", "a function")).removeprefix("jit_").removeprefix("jit(").removesuffix(")")
            print(f"compiled {name} in {took:.1f} s", flush=True)

    print("compiling …", flush=True)
    monitoring.register_event_duration_secs_listener(listen)
    try:
        yield
    finally:
        active = False  # not every version of jax can unregister
