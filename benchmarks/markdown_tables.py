"""Numbers and tables in Markdown."""

from collections.abc import Iterable, Mapping, Sequence


def number(x: float | int | None, digits: int = 3) -> str:
    """Format a number in `digits` digits, not as a power of ten; a dash for None."""
    if x is None:
        return "–"
    text = f"{x:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text else text


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    return [*lines, *(f"| {' | '.join(x if isinstance(x, str) else number(x) for x in row)} |" for row in rows), ""]


def errors(metrics: Mapping[str, float]) -> list[str]:
    """MAE and RMSE of forces (meV/Å) and energy (meV/atom), and MAE of the charges (e)."""
    scaled = {key: 1e3 * value for key, value in metrics.items() if key.startswith(("forces", "energy"))}
    keys = ("forces_mae", "forces_rmse", "energy_mae", "energy_rmse")
    return [*(number(scaled.get(key)) for key in keys), number(metrics.get("charges_mae"))]


ERRORS = ["forces MAE (meV/Å)", "forces RMSE", "energy MAE (meV/atom)", "energy RMSE", "charges MAE (e)"]
