"""Learning curves and parity plots. Matplotlib is imported when a plot is drawn."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lesjax.files import atomic_path
from lesjax.training.evaluation import Calibration, Parity
from lesjax.training.terms import TERMS, find


if TYPE_CHECKING:
    from matplotlib.axes import Axes


COLORS = ("#1f6f8b", "#d1495b", "#edae49", "#6a994e")


def learning_curve(axes: "Axes", records: Sequence[Mapping[str, Any]], label: str = "", color: str = COLORS[0]) -> None:
    """Validation errors of the forces, or of the first term in the records, against the epoch."""
    terms = sorted(TERMS, key=lambda term: term.name != "forces")
    term = next(term for term in terms if f"{term.short}_rmse" in records[-1])
    epochs = [record["epoch"] for record in records]
    errors = [term.table_scale * record[f"{term.short}_rmse"] for record in records]
    plot = axes.semilogy if max(errors) > 0.0 else axes.plot  # forces of lone atoms are exact
    plot(epochs, errors, color=color, label=label)
    axes.set(xlabel="epoch", ylabel=f"validation RMSE of the {term.title} ({term.table_unit})")
    axes.grid(alpha=0.3, which="both")


def parity(axes: "Axes", kind: str, pair: Parity, label: str = "", color: str = COLORS[0]) -> None:
    """Predicted against reference values with the diagonal."""
    term = find(kind)
    title, unit, factor = term.title, term.table_unit, term.table_scale
    reference, predicted = factor * pair.reference, factor * pair.predicted
    if len(reference) > 5000:  # every point would be a large file that shows no more
        subset = np.random.default_rng(0).choice(len(reference), 5000, replace=False)
        reference, predicted = reference[subset], predicted[subset]
    low, high = min(reference.min(), predicted.min()), max(reference.max(), predicted.max())
    margin = 0.05 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color="0.6", linewidth=1, zorder=0)
    text = f"{label + ', ' if label else ''}RMSE {factor * pair.rmse():.3g} {unit}"
    axes.plot(reference, predicted, ".", markersize=3, alpha=0.5, color=color, label=text)
    axes.set(xlim=limits, ylim=limits, xlabel=f"reference {title} ({unit})", ylabel=f"predicted {title} ({unit})")
    axes.set_aspect("equal")
    axes.legend(loc="upper left", frameon=False, fontsize=8)


def save_learning_curve(path: str | pathlib.Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Losses and validation errors of one run."""
    figure, (left, right) = _subplots(2)
    epochs = [record["epoch"] for record in records]
    left.semilogy(epochs, [record["train_loss"] for record in records], color=COLORS[0], label="training")
    left.semilogy(epochs, [record["valid_loss"] for record in records], color=COLORS[1], label="validation")
    left.set(xlabel="epoch", ylabel="loss")
    left.grid(alpha=0.3, which="both")
    left.legend(frameon=False)
    learning_curve(right, records)
    save(figure, path)


def save_parity(path: str | pathlib.Path, pairs: Mapping[str, Parity]) -> None:
    """One parity plot for each kind of label."""
    figure, axes = _subplots(len(pairs))
    for panel, (kind, pair) in zip(axes, pairs.items(), strict=True):
        parity(panel, kind, pair)
    save(figure, path)


def calibration(axes: "Axes", kind: str, pair: Calibration, color: str = COLORS[0]) -> None:
    """Error against spread, with the root mean square error in ten groups of equal size and the line of equal size."""
    term = find(kind)
    title, unit, factor = term.title, term.table_unit, term.table_scale
    positive = (pair.spread > 0) & (pair.error > 0)
    spread, error = factor * pair.spread[positive], factor * pair.error[positive]
    axes.loglog(spread, error, ".", markersize=3, alpha=0.3, color=color)
    groups = np.array_split(np.argsort(spread), min(10, len(spread))) if len(spread) else []
    means = [[np.sqrt(np.mean(x[group] ** 2)) for group in groups] for x in (spread, error)]
    axes.loglog(*means, "o-", color=COLORS[1], label=f"root mean square, Spearman {pair.spearman():.2f}")
    ends = [spread.min(), spread.max()] if len(spread) else [1.0, 10.0]
    axes.loglog(ends, ends, color="0.6", linewidth=1)
    axes.tick_params(axis="x", which="minor", labelsize=6, rotation=45)
    axes.set(xlabel=f"spread of the {title} ({unit})", ylabel=f"error of the {title} ({unit})")
    axes.legend(loc="upper left", frameon=False, fontsize=8)


def save_calibration(path: str | pathlib.Path, pairs: Mapping[str, Calibration]) -> None:
    """Error against spread of an ensemble, one plot for each kind of label."""
    figure, axes = _subplots(len(pairs))
    for panel, (kind, pair) in zip(axes, pairs.items(), strict=True):
        calibration(panel, kind, pair)
    save(figure, path)


def _subplots(n: int) -> tuple[Any, Any]:
    """A figure with `n` axes, at most four in a row."""
    from matplotlib.figure import Figure

    n_columns = min(n, 4)
    n_rows = -(-n // n_columns)
    figure = Figure(figsize=(4.2 * n_columns, 3.8 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for empty in axes[n:]:
        empty.set_axis_off()
    return figure, axes[:n]


def save(figure: Any, path: str | pathlib.Path) -> None:
    """Write a figure in the format that its name ends with, or PNG; the file appears whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=pathlib.Path(path).suffix[1:].lower() or "png", dpi=150)
