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
ENERGIES = ("energy", "forces", "stress", "virial")
# what a key speaks of, without "unit", marks between words and a prefix such as REF
KINDS = {
    "energy": r"(total|free|potential)?energ(y|ies)", "forces": "forces?", "stress": "stress(es)?|pressure",
    "virial": "virials?", "charges": "charges?", "dipole": "dipoles?", "quadrupole": "quadrupoles?",
    "length": "lengths?|distances?|positions?|pos|coord(inate)?s?|lattice|cell",
}  # fmt: skip
ATOMIC = ("a.u.", "au", "atomic", "atomicunits", "atomic*units", "atomic_units")
SUPERSCRIPTS = {ord("⁻"): "^-", ord("¹"): "1", ord("²"): "^2", ord("³"): "^3"}
# names of systems of units whose energies, lengths and charges are those of the program
OWN_SYSTEMS = ("metal", "ase", "ev", "ev/a", "ev/å", "ev/ang", "ev/angstrom", "ev,a", "ev,ang", "ev,angstrom")


def stated_units(info: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Key and text of the unit that is stated for each kind of number; "all" for one that names no kind.

    Those of other things, as of temperature and time, do not count.
    """
    found = {}
    for key, text in info.items():
        words = re.findall("[a-z]+", re.sub("([a-z])([A-Z])", r"\1_\2", str(key)).lower())
        others = [word for word in words if word not in ("unit", "units")]
        rest, count = "".join(others), len(words) - len(others)
        if not count:  # energyunit, in one word
            rest, count = re.subn("^units?|units?$", "", rest, count=1)
        if not count:
            continue
        kinds = [kind for kind, pattern in KINDS.items() if re.fullmatch(f"(ref|dft|qm)?({pattern})", rest)]
        if rest in ("", "system", "style") or (not kinds and len(rest) < 3 and _scale(str(text)) not in (None, 1.0)):
            kinds = ["all"]  # as units, unit_system, e_unit
        found |= dict.fromkeys(kinds, (str(key), str(text)))
    return found


def factor(stated: Mapping[str, tuple[str, str]], kind: str) -> float:
    """Factor that converts a label, or a "length", of this kind.

    Raises:
        ValueError: for a unit that is not known, or where units of other labels are stated and not that of this one.
    """
    if kind in stated:
        return unit_value(stated[kind][1], kind, stated[kind][0])
    others = {name: entry for name, entry in stated.items() if (name in ENERGIES) == (kind in ENERGIES)}
    others = {name: entry for name, entry in others.items() if name not in ("all", "length")}
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
    if _plain(text) in ATOMIC:
        return HARTREE.value ** powers[0] * BOHR.value ** powers[1]
    parsed = _parse(text)
    if parsed is None or parsed[1:] != powers:
        raise ValueError(
            f"`{key}` = {text!r} is no known unit of {kind}. Known are {', '.join(UNITS)}, and products of them "
            "such as hartree/bohr and kcal/mol/Å. Convert the numbers to eV and Å, or correct the entry."
        )
    return parsed.value


def _plain(text: str) -> str:
    """The text in one spelling: lower case, no blanks but * between words."""
    plain = text.strip().lower().translate(SUPERSCRIPTS)
    for written, meant in (("**", "^"), ("·", "*"), (" per ", "/"), ("e_h", "eh"), ("a_0", "a0")):
        plain = plain.replace(written, meant)
    plain = re.sub(r"\s*([*/^()])\s*", r"\1", plain)
    plain = re.sub(r"(?<=[a-zå0-9])\s+(?=[a-zå])", "*", plain)
    return re.sub(r"/\(([^()]*)\)", lambda group: "/" + group[1].replace("*", "/"), plain)


def _parse(text: str) -> Unit | None:
    """Value of a unit with its powers; None for one that is not known."""
    plain = _plain(text)
    token = rf"({'|'.join(sorted(UNITS, key=len, reverse=True))})s?(?:\^?(-?\d+))?"
    if re.fullmatch(rf"{token}([*/]{token})*", plain) is None:
        return None
    total = Unit(1.0)
    for sign, name, power in re.findall(rf"([*/]?){token}", plain):
        unit, exponent = UNITS[name], int(power or 1) * (-1 if sign == "/" else 1)
        powers = (t + exponent * p for t, p in zip(total[1:], unit[1:], strict=True))
        total = Unit(total.value * unit.value**exponent, *powers)
    return total


def _scale(text: str) -> float | None:
    """Value of a unit that has energy or length in it, of atomic units NaN; None for any other."""
    if _plain(text) in ATOMIC:
        return float("nan")
    unit = _parse(text)
    return None if unit is None or not (unit.energy or unit.length) else unit.value
