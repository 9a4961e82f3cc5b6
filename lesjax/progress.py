"""The progress bar of trainings, simulations and fits."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(unit: str, total: int, done: int, quiet: bool | None) -> Iterator[Callable[[int, str], None]]:
    """A function (how many are done, text beside the bar); it shows nothing where the output is no terminal.

    Args:
        unit: what is counted, "step" for example.
        total: how many there are.
        done: how many there are already.
        quiet: True for no bar, False for one in any case; None looks for a terminal.
    """
    if quiet or (quiet is None and not sys.stderr.isatty()):
        yield lambda completed, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(f"{unit} {{task.completed}}/{{task.total}}"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("compiling", total=total, completed=done)
        yield lambda completed, text: bar.update(task, completed=completed, description=text)
