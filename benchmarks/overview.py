"""The table of the README: all models on the systems with known or reference charges, from the result files."""

import pathlib
from collections.abc import Iterator, Mapping

import learning_curves
from markdown_tables import number, table

from lesjax.io import atomic_path


BEGIN = "<!-- written by benchmarks/tables.py -->"
END = "<!-- end of what is written -->"
# of the learning curves: system and number of training frames
SHOWN = (("gas", 100), ("kf_water", 180), ("nacl_water", 70))
CLUSTERS = "Na₈Cl₈⁺, Na₉Cl₈⁺"
OF_CLUSTERS = {
    "charge_transfer_short_range": "short_range",
    "charge_transfer_equilibration": "equilibration",
    "charge_transfer": "les",
}
HEADER = (
    "system, training frames", "model", "forces (meV/Å)", "energy (meV/atom)", "charges (e)", "min",
    "forces, published",
)  # fmt: skip


def overview(results: Mapping[str, dict]) -> list[str]:
    """Lines of the table: MAE, with the RMSE in brackets."""
    return table(HEADER, [*_of_learning_curves(results), *_of_clusters(results)])


def _of_learning_curves(results: Mapping[str, dict]) -> Iterator[list[str]]:
    runs = results.get("learning_curves", {}).get("runs", {})
    for system, size in SHOWN:
        study = learning_curves.STUDIES[system]
        published = learning_curves.PUBLISHED.get((system, study.cutoff), {})
        found = {m: runs.get(learning_curves.key_of(system, study.cutoff, m, size)) for m in learning_curves.MODELS}
        title = f"{study.title}, {size}"
        for model, run in found.items():
            if run is not None and learning_curves.is_current(run):
                yield _row(title, model, run["metrics"]["test"], run["seconds"], published.get(model, {}).get(size))
                title = ""


def _of_clusters(results: Mapping[str, dict]) -> Iterator[list[str]]:
    runs = results.get("real_data", {}).get("runs", {})
    title = CLUSTERS
    for name, model in OF_CLUSTERS.items():
        if name in runs:
            run = runs[name]
            title = title and f"{title}, {run['metrics']['training']['n_structures']}"
            yield _row(title, model, run["metrics"]["test"], run["seconds"], None)
            title = ""


def _row(title: str, model: str, metrics: Mapping[str, float], seconds: float, published: float | None) -> list[str]:
    pairs = [
        f"{number(1e3 * metrics[f'{kind}_mae'])} ({number(1e3 * metrics[f'{kind}_rmse'])})"
        for kind in ("forces", "energy")
    ]
    cost = [number(metrics.get("charges_mae"), 2), number(seconds / 60, 2), number(published)]
    return [title, learning_curves.MODELS[model][0], *pairs, *cost]


def with_overview(text: str, results: Mapping[str, dict]) -> str:
    """The text of a README with its table written anew.

    Raises:
        ValueError: where the lines are missing between which the table stands.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"The README has no place for the table: the lines {BEGIN!r} and {END!r} are missing.")
    return "\n".join([before + BEGIN, "", *overview(results), END + after])


def update_readme(path: pathlib.Path, results: Mapping[str, dict]) -> None:
    """Write the table of a README anew."""
    text = with_overview(path.read_text(), results)
    with atomic_path(path) as temporary:
        temporary.write_text(text)
