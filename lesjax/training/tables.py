"""Tables of errors, in 80 columns."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from lesjax.training.evaluation import Evaluation
from lesjax.training.groups import Groups
from lesjax.training.terms import TERMS, find


MAX_GROUPS = 12
MAX_TERMS = 5


def print_errors(title: str, result: Evaluation) -> None:
    """Print a row for each term, under the title and the number of structures."""
    # all in 80 columns, so that an ensemble leaves the squared correlation to the JSON file
    more = ("spread", "Spearman") if result.calibration else ("corr²",)
    rows = []
    for kind, pair in result.parity.items():
        term, scores = find(kind), [pair.rmse(), pair.mae(), pair.r2()]
        if result.calibration:
            scores += [result.metrics[f"{kind}_spread"], result.calibration[kind].spearman()]
        else:
            scores += [pair.corr2()]
        rows.append((term.title, term.unit, *scores))
    print(f"{title}: {result.metrics['n_structures']} structures")
    _print(("", "unit", "RMSE", "MAE", "R²", *more), rows)


def print_groups(result: Evaluation) -> None:
    """Print the root mean square errors of the groups, where there are several."""
    _print_groups("element", result.by_element)
    _print_groups("config_type", result.by_config_type)
    _print_groups("composition", result.by_composition)


def print_charges(result: Evaluation) -> None:
    """Print the latent charges by element, and their sums over structures."""
    if result.charges is not None:
        print("\n".join(result.charges.lines()))


def _print_groups(title: str, groups: Groups) -> None:
    """Print a row for each of the largest groups and a column for each term; more terms than fit go below."""
    terms = [term for term in TERMS if any(f"{term.short}_rmse" in group for group in groups.values())]
    if len(groups) < 2 or not terms:
        return
    count = next(iter(next(iter(groups.values()))))
    largest = sorted(groups, key=lambda name: groups[name][count], reverse=True)[:MAX_GROUPS]
    print(f"RMSE by {title}" + (f", the largest {MAX_GROUPS} of {len(groups)}" if len(groups) > MAX_GROUPS else ""))
    for some in (terms[i : i + MAX_TERMS] for i in range(0, len(terms), MAX_TERMS)):
        rows = [
            (name, group[count], *(group.get(f"{term.short}_rmse") for term in some))
            for name, group in groups.items()
            if name in largest
        ]
        _print((title, count.removeprefix("n_"), *(f"{term.short}\n{term.unit}" for term in some)), rows)


def _print(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for i, name in enumerate(header):
        left = i == 0 or name == "unit"
        table.add_column(name, justify="left" if left else "right", no_wrap=i > 0, overflow="fold")
    for row in rows:
        cells = ("" if x is None else f"{x:.4g}" if isinstance(x, float) else str(x) for x in row)
        table.add_row(*cells)
    Console().print(table)
