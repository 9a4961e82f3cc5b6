"""The command ``lesjax convert``."""

import argparse

from rich.console import Console
from rich.table import Table

from lesjax import io
from lesjax.published.conversion import convert_with_report
from lesjax.published.family import Options


def run(arguments: argparse.Namespace) -> int:
    """Convert a file, save the potential, and print what the file says and what it does not."""
    options = Options(
        reference_energies(arguments.reference_energies),
        None if arguments.norm_factor is None else _number("--norm-factor", arguments.norm_factor),
        _truth(arguments.self_interaction),
    )
    structures = None if arguments.orient is None else io.read(arguments.orient)
    conversion = convert_with_report(arguments.file, options, structures)
    conversion.potential.save(arguments.out)
    table = Table("in the file", "value")
    for row in conversion.rows:
        table.add_row(*row)
    print(arguments.file)
    Console().print(table)
    for note in conversion.notes:
        print(f"- {note}")
    print(f"model: {arguments.out}")
    return 0


def reference_energies(text: str | None) -> dict[str, float] | None:
    """Energies by symbol from ``H=-13.6,O=-2043.1``.

    Raises:
        ValueError: for anything else.
    """
    if text is None:
        return None
    energies = {}
    for assignment in text.split(","):
        symbol, _, value = (part.strip() for part in assignment.partition("="))
        if symbol not in io.chemical_symbols or symbol in energies:
            raise ValueError(f"`--reference-energies` takes SYMBOL=ENERGY, each once, with commas, got {assignment!r}.")
        energies[symbol] = _number("--reference-energies", value)
    return energies


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"`{name}` takes numbers, got {text!r}.") from None


def _truth(text: str | None) -> bool | None:
    if text not in (None, "true", "false"):
        raise ValueError(f"`--self-interaction` must be true or false, got {text!r}.")
    return None if text is None else text == "true"
