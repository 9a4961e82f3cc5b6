"""Learning curves and parity plots. Matplotlib is imported when a plot is drawn."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lesjax.files import atomic_path
from lesjax.io import chemical_symbols
from lesjax.training.evaluation import Calibration
from lesjax.training.parity import Parity
from lesjax.training.terms import TERMS, find


if TYPE_CHECKING:
    from matplotlib.axes import Axes


COLORS = ("#1f6f8b", "#d1495b", "#edae49", "#6a994e")
PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1.5}
# of the elements of a plot, in the order of the periodic table
ELEMENT_COLORS = (*COLORS, "#7b4b94", "#8c6d46", "#e07a9f", "#4c4c4c", "#4fb3bf", "#a4a71e")


def learning_curve(axes: "Axes", records: Sequence[Mapping[str, Any]], label: str = "", color: str = COLORS[0]) -> None:
    """Validation errors of the forces, or of the first term in the records, against the epoch."""
    terms = sorted(TERMS, key=lambda term: term.name != "forces")
    term = next(term for term in terms if f"{term.short}_rmse" in records[-1])
    epochs = [record["epoch"] for record in records]
    errors = [record[f"{term.short}_rmse"] for record in records]
    plot = axes.semilogy if max(errors) > 0.0 else axes.plot  # forces of lone atoms are exact
    plot(epochs, errors, color=color, label=label)
    axes.set(xlabel="epoch", ylabel=f"validation RMSE of the {term.title} ({term.unit})")
    axes.grid(alpha=0.3, which="both")


def parity(axes: "Axes", kind: str, pair: Parity, label: str = "", color: str | None = None) -> None:
    """Predicted against reference values with the diagonal; the legend has errors, R² and the number of frames.

    Without a `color`, labels of atoms are drawn in a color of their element, the most frequent element first.
    """
    term, values = find(kind), np.concatenate([pair.reference, pair.predicted])
    text = "\n".join(filter(None, [label, *_scores(pair, term.unit)]))
    margin = 0.05 * np.ptp(values) or 1.0
    limits = (values.min() - margin, values.max() + margin)
    axes.plot(limits, limits, color="0.6", linewidth=1, zorder=0)
    elements = []
    if color is None and pair.numbers is not None:
        elements, counts = np.unique(pair.numbers, return_counts=True)
        colors = _element_colors(len(elements))
        for i in np.argsort(-counts, kind="stable"):
            _points(axes, pair.take(pair.numbers == elements[i]), colors[i], chemical_symbols[elements[i]])
    else:
        _points(axes, pair, color or COLORS[0], text)
    if color is None:
        axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", fontsize=8, linespacing=1.4, bbox=PAPER)
    if color is not None or len(elements):
        place, n_columns = ("upper left", 1) if color is not None else ("lower right", 1 + (len(elements) > 5))
        legend = axes.legend(loc=place, ncols=n_columns, fontsize=8, handletextpad=0.3, edgecolor="none")
        for line in legend.get_lines():
            line.set(alpha=1.0, markersize=8)
    axes.set(xlim=limits, ylim=limits)
    axes.set(xlabel=f"reference {term.title} ({term.unit})", ylabel=f"predicted {term.title} ({term.unit})")
    axes.locator_params(nbins=6)
    axes.set_aspect("equal")


def _element_colors(n: int) -> Sequence[Any]:
    if n <= len(ELEMENT_COLORS):
        return ELEMENT_COLORS
    from matplotlib import colormaps

    return list(colormaps["turbo"](np.linspace(0.0, 1.0, n)))


def _points(axes: "Axes", pair: Parity, color: Any, label: str) -> None:
    """Points that stay apart where there are many; as pixels, so that every point can be drawn."""
    crowding = np.sqrt(len(pair.reference))
    alpha, size = float(np.clip(25.0 / crowding, 0.1, 0.8)), float(np.clip(60.0 / crowding, 3.0, 7.0))
    style = {"markersize": size, "markeredgewidth": 0, "alpha": alpha, "color": color}
    axes.plot(pair.reference, pair.predicted, ".", label=label, rasterized=True, **style)


def _scores(pair: Parity, unit: str) -> list[str]:
    """MAE, RMSE, R² and number of frames, a line for each that is known."""
    lines = [f"MAE {pair.mae():.3g} {unit}", f"RMSE {pair.rmse():.3g} {unit}"]
    if np.isfinite(r2 := pair.r2()):
        lines.append(f"R² {r2:.4f}")
    return lines + ([f"{n} frames" if n > 1 else "1 frame"] if (n := pair.n_structures()) else [])


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
    title, unit = term.title, term.unit
    positive = (pair.spread > 0) & (pair.error > 0)
    spread, error = pair.spread[positive], pair.error[positive]
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
