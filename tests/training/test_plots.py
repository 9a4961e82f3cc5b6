"""Plots are written as PNG files, whatever kinds of labels there are."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from lesjax.training import plots
from lesjax.training.evaluation import Calibration
from lesjax.training.parity import Parity
from lesjax.training.terms import TERMS, find


PNG = b"\x89PNG"


def make_records(kind):
    return [
        {"epoch": epoch, "train_loss": 1.0 / epoch, "valid_loss": 2.0 / epoch, f"{kind}_rmse": 0.1} for epoch in (1, 2)
    ]


@pytest.mark.parametrize("kind", [term.short for term in TERMS])
def test_learning_curve(tmp_path, kind):
    plots.save_learning_curve(tmp_path / "curve.png", make_records(kind))
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG)
    axes = Figure().subplots()
    plots.learning_curve(axes, make_records(kind))
    assert f"RMSE of the {find(kind).title} (" in axes.get_ylabel()


def test_learning_curve_without_errors(tmp_path):
    """Forces on lone atoms are exact; a logarithmic axis would warn."""
    records = [{**record, "forces_rmse": 0.0} for record in make_records("forces")]
    plots.save_learning_curve(tmp_path / "curve.png", records)
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG)


def test_parity_of_every_kind(tmp_path):
    rng = np.random.default_rng(0)
    pairs = {kind: Parity(rng.normal(size=10), rng.normal(size=10)) for kind in [term.short for term in TERMS]}
    pairs["energy"] = Parity(np.ones(1), np.ones(1))  # a single point has no extent
    plots.save_parity(tmp_path / "new" / "parity.png", pairs)
    assert (tmp_path / "new" / "parity.png").read_bytes().startswith(PNG)


def test_format_is_that_of_the_name(tmp_path):
    plots.save_learning_curve(tmp_path / "curve.pdf", make_records("forces"))
    assert (tmp_path / "curve.pdf").read_bytes().startswith(b"%PDF")


def test_ensemble_without_spread(tmp_path):
    """Charges that are given are the same in all members."""
    pairs = {"charges": Calibration(error=np.ones(4), spread=np.zeros(4))}
    plots.save_calibration(tmp_path / "plot.png", pairs)
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)


def test_all_points_are_drawn_and_scored():
    rng = np.random.default_rng(0)
    pair = Parity(rng.normal(size=20_000), rng.normal(size=20_000), np.arange(20_000) // 400)
    axes = Figure().subplots()
    plots.parity(axes, "forces", pair, label="LES", color="C0")
    points = axes.get_lines()[1]
    assert len(points.get_xdata()) == 20_000
    assert points.get_rasterized()
    lines = ["LES", f"MAE {pair.mae():.3g} eV/Å", f"RMSE {pair.rmse():.3g} eV/Å", f"R² {pair.r2():.4f}", "50 frames"]
    assert points.get_label().splitlines() == lines
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["\n".join(lines)]


@pytest.mark.parametrize("n_elements", [2, 12])
def test_elements_have_their_colors(n_elements):
    """The most frequent element is at the bottom; the scores are of all."""
    numbers = np.repeat(np.arange(1, n_elements + 1), np.arange(1, n_elements + 1))
    pair = Parity(0.1 * numbers, 0.2 * numbers, np.zeros(len(numbers), int), numbers)
    axes = Figure().subplots()
    plots.parity(axes, "charges", pair)
    points = axes.get_lines()[1:]
    assert len({tuple(np.atleast_1d(line.get_color())) for line in points}) == n_elements
    assert [len(line.get_xdata()) for line in points] == list(range(n_elements, 0, -1))
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names[-2:] == ["He", "H"]
    (scores,) = axes.texts
    assert scores.get_text().splitlines() == [
        f"MAE {pair.mae():.3g} e", f"RMSE {pair.rmse():.3g} e", f"R² {pair.r2():.4f}", "1 frame"
    ]  # fmt: skip
    assert axes.get_xlabel() == "reference charges (e)"
