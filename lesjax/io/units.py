"""Units that a file states for its numbers, as `energy-unit=hartree`, converted to eV, Å and e."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ase import units


class Unit(NamedTuple):
    """A unit: its value in those of the program, and the powers of energy, length and charge in it."""

    value: float
    energy: int = 0
    length: int = 0
    charge: int = 0


HARTREE, BOHR = Unit(units.Hartree, energy=1), Unit(units.Bohr, length=1)
ELEMENTARY, PASCAL = Unit(1.0, charge=1), Unit(units.Pascal, energy=1, length=-3)
UNITS = {
    "ev": Unit(1.0, energy=1), "electronvolt": Unit(1.0, energy=1), "mev": Unit(1e-3, energy=1),
    "hartree": HARTREE, "ha": HARTREE, "eh": HARTREE,
    "rydberg": Unit(units.Rydberg, energy=1), "ry": Unit(units.Rydberg, energy=1),
    "kcal": Unit(units.kcal, energy=1), "kj": Unit(units.kJ, energy=1), "mol": Unit(units.mol),
    "angstrom": Unit(1.0, length=1), "ang": Unit(1.0, length=1), "a": Unit(1.0, length=1), "å": Unit(1.0, length=1),
    "bohr": BOHR, "a0": BOHR, "nm": Unit(units.nm, length=1), "pm": Unit(1e-2, length=1),
    "pa": PASCAL, "gpa": Unit(units.GPa, energy=1, length=-3), "mpa": Unit(1e-3 * units.GPa, energy=1, length=-3),
    "bar": Unit(units.bar, energy=1, length=-3), "kbar": Unit(1e3 * units.bar, energy=1, length=-3),
    "e": ELEMENTARY, "debye": Unit(units.Debye, length=1, charge=1),
}  # fmt: skip
# powers of energy, length and charge of each kind of number
POWERS = {
    "energy": (1, 0, 0), "forces": (1, -1, 0), "stress": (1, -3, 0), "virial": (1, 0, 0), "length": (0, 1, 0),
    "charges": (0, 0, 1), "born_effective_charges": (0, 0, 1), "dipole": (0, 1, 1), "quadrupole": (0, 2, 1),
}  # fmt: skip
# what a key speaks of, without "unit", marks between words and a prefix such as REF
KINDS = {
    "energy": r"(total|free|potential)?energ(y|ies)", "forces": "forces?", "stress": "stress(es)?|pressure",
    "virial": "virials?", "charges": "charges?", "dipole": "dipoles?", "quadrupole": "quadrupoles?",
    "length": "lengths?|distances?|positions?|pos|coord(inate)?s?|lattice|cell",
}  # fmt: skip
# names of systems of units whose energies, lengths and charges are those of the program
OWN_SYSTEMS = ("metal", "ase", "ev", "ev/a", "ev/å", "ev/ang", "ev/angstrom", "ev,a", "ev,ang", "ev,angstrom")


def stated_units(info: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Key and text of the unit that is stated for each kind of number; "all" for one that names no kind."""
    found = {}
    for key, text in info.items():
        words = re.sub("[^a-z]", "", str(key).lower())
        rest, count = re.subn("^units?|units?$", "", words, count=1)
        kinds = [kind for kind, pattern in KINDS.items() if re.fullmatch(f"(ref|dft|qm)?({pattern})", rest)]
        if count:
            found |= dict.fromkeys(kinds if rest else ["all"], (str(key), str(text)))
    return found


def factor(stated: Mapping[str, tuple[str, str]], kind: str) -> float:
    """Factor that converts a label, or a "length", of this kind.

    Raises:
        ValueError: for a unit that is not known, or where units of other labels are stated and not that of this one.
    """
    if kind in stated:
        return unit_value(stated[kind][1], kind, stated[kind][0])
    others = {name: entry for name, entry in stated.items() if name not in ("all", "length")}
    if kind != "length" and any(factor({name: entry}, name) != 1.0 for name, entry in others.items()):
        names = ", ".join(f"`{key}` = {text!r}" for key, text in others.values())
        raise ValueError(f"{names} is stated, but not the unit of its {kind}: add `{kind}-unit`.")
    key, text = stated.get("all", ("", OWN_SYSTEMS[0]))
    if text.strip().lower().replace(" ", "") not in OWN_SYSTEMS:
        raise ValueError(
            f"`{key}` = {text!r} does not say the unit of which numbers: give `energy-unit`, `force-unit` and "
            "`length-unit`, or convert them to eV and Å and delete the entry."
        )
    return 1.0


def unit_value(text: str, kind: str, key: str) -> float:
    """Value of a unit such as "kcal/mol/Å" or "eV/Angstrom^3" in those of the program.

    Raises:
        ValueError: for a unit that is not known, or is none of this kind.
    """
    powers = POWERS[kind]
    plain = text.strip().lower().replace("**", "^").replace("·", "*").replace(" ", "")
    if plain in ("a.u.", "au", "atomic", "atomicunits", "atomic_units"):
        return HARTREE.value ** powers[0] * BOHR.value ** powers[1]
    plain = re.sub(r"/\(([^()]*)\)", lambda group: "/" + group[1].replace("*", "/"), plain)
    token = rf"({'|'.join(sorted(UNITS, key=len, reverse=True))})s?(?:\^?(-?\d+))?"
    known = re.fullmatch(rf"{token}([*/]{token})*", plain) is not None
    value, total = 1.0, (0, 0, 0)
    for sign, name, power in re.findall(rf"([*/]?){token}", plain) if known else ():
        unit, exponent = UNITS[name], int(power or 1) * (-1 if sign == "/" else 1)
        value *= unit.value**exponent
        total = tuple(t + exponent * p for t, p in zip(total, unit[1:], strict=True))
    if not known or total != powers:
        raise ValueError(
            f"`{key}` = {text!r} is no known unit of {kind}. Known are {', '.join(UNITS)}, and products of them "
            "such as hartree/bohr and kcal/mol/Å. Convert the numbers to eV and Å, or correct the entry."
        )
    return value
