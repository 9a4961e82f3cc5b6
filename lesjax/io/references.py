"""From frames to labels: one name for each label of a file, units, shapes and weights."""

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from lesjax.io.keys import BORN_ORDER_OF_NAME, Keys, Labels
from lesjax.io.units import factor, stated_units
from lesjax.io.values import entry, warn_of_unread_weights, warn_of_values, weights
from lesjax.validate import array, parse_json


MIXED = ("energy", "forces", "stress")
FAMILY = re.compile(r"(free_?)?energ(y|ies)|forces?|stress(es)?|virials?", re.IGNORECASE)


@dataclass(frozen=True)
class Selection:
    """The frames of a file that are used, and what they hold.

    Attributes:
        members: places in the file.
        frames: structures, with the total charge and spin multiplicity under the names that `System.from_ase` reads.
        labels: of each.
        weights: factors of each label in the loss of each frame, by the names of the labels.
        names: the name of each label that is used.
    """

    members: list[int]
    frames: list[Atoms]
    labels: list[Labels]
    weights: list[dict[str, float]]
    names: dict[str, str] = field(default_factory=dict)


def labels(atoms: Atoms, keys: Keys | None = None) -> Labels:
    """Labels of one frame, NaN where it has none.

    Warns of Born effective charges that are left out because their order is unknown, see `Keys`.

    Raises:
        ValueError: for a label of the wrong shape, one that is no number, results of another structure, or units that
            are not known.
    """
    keys = keys or Keys()
    return _labels(atoms, keys, _choose([atoms], keys, ()).names)


def all_labels(frames: Sequence[Atoms], keys: Keys | None = None) -> list[Labels]:
    """Labels of each frame of one file, each label under one name in all of them; an error names the frame."""
    return select(frames, keys).labels


def select(
    frames: Sequence[Atoms],
    keys: Keys | None = None,
    *,
    mixed: str = "error",
    needed: Collection[str] | None = None,
) -> Selection:
    """Labels and weights of the frames of one file.

    Each label is read under one name in all frames, and energy, forces and stress from one family of names: a file that
    holds the numbers of two methods does not mix them. Frames may lack a label, but may not have it under another name
    only.

    Warns of what is left out, of energies of zero or all equal, and of stresses that are too large for one.

    Args:
        frames: of one file.
        keys: names.
        mixed: "error", or "skip" to leave out frames that have a label under another name than the chosen one.
        needed: labels, and "total_charge" or "spin_multiplicity", that are asked for: an unusable one is an error, any
            other is left out. All labels if it is not given.

    Raises:
        ValueError: for frames that differ in the names of their labels, with counts; as `labels`, with the frame;
            weights that are negative or no numbers.
    """
    keys = keys or Keys()
    needed = set(Labels.shapes(0) if needed is None else needed) | keys.chosen()
    choice = _choose(frames, keys, needed)
    for text in choice.foreign:
        warnings.warn(text, stacklevel=2)
    skipped = sorted({i for places in choice.differing.values() for i in places})
    if skipped and mixed != "skip":
        counts = "; ".join(
            f"{len(places)} of {len(frames)} have no `{choice.names[kind]}` but {kind} under another name "
            f"(first: {min(places)})"
            for kind, places in choice.differing.items()
        )
        raise ValueError(
            f"The structures differ in the names of their labels, as if two methods were mixed: {counts}. Name the "
            "right ones in `data.keys` (--key on the command line), take the others out of the file, or set "
            "`data.labels` = 'skip' (`lesjax evaluate --labels skip`) to leave out structures without the names above."
        )
    if skipped:
        used = ", ".join(f"`{choice.names[kind]}`" for kind in choice.differing)
        warnings.warn(f"{len(skipped)} of {len(frames)} structures are left out, which lack {used}.", stacklevel=2)
    result, unusable = Selection([], [], [], [], choice.names), {}
    for i in sorted(set(range(len(frames))) - set(skipped)):
        try:
            result.labels.append(_labels(frames[i], keys, choice.names, needed, unusable))
            result.frames.append(_with_state(frames[i], keys, needed, unusable))
            result.weights.append(weights(frames[i], keys))
        except ValueError as error:
            raise ValueError(f"Structure {i}: {error}") from error
        result.members.append(i)
    _check_units(result, frames)
    for texts in unusable.values():
        count = f" ({len(texts)} structures)" if len(texts) > 1 else ""
        warnings.warn(f"Left out, since nothing asks for it{count}: {texts[0]}", stacklevel=2)
    _warn_of_nan(frames, keys)
    for kind in list(result.names):
        if not any(np.isfinite(getattr(label, kind)).any() for label in result.labels):
            del result.names[kind]
    warn_of_unread_weights(result.frames, keys)
    warn_of_values(result.frames, result.labels, choice.names, result.members, needed)
    return result


def _check_units(selection: Selection, frames: Sequence[Atoms]) -> None:
    """Raise ValueError where only some of the structures state the unit of a label that they have, if it is another."""
    stated = {i: stated_units(frames[i].info) for i in selection.members}
    for kind, name in selection.names.items() if any(stated.values()) else ():
        holders = [i for i in stated if _has(frames[i], name)]
        silent = [i for i in holders if kind not in stated[i]]
        speaking = [i for i in holders if kind in stated[i] and factor(stated[i], kind) != 1.0]
        if silent and speaking:
            key, text = stated[speaking[0]][kind]
            raise ValueError(
                f"`{key}` = {text!r} is stated in {len(speaking)} of {len(holders)} structures with {kind} (first: "
                f"{speaking[0]}), and no unit in {len(silent)} others (first: {silent[0]}). State it in all of them."
            )


class _Choice(NamedTuple):
    """Names of the labels of a file, frames that have others only, and sentences about labels of another family."""

    names: dict[str, str]
    differing: dict[str, list[int]]
    foreign: list[str]


def _choose(frames: Sequence[Atoms], keys: Keys, needed: Collection[str]) -> _Choice:
    """Choose one name for each label: the first one that any frame has, of one family for energy, forces and stress."""
    holders: dict[str, list[int]] = {}
    for i, atoms in enumerate(frames):
        results = getattr(atoms.calc, "results", None) or {}
        for name in {*atoms.info, *atoms.arrays, *results}:
            holders.setdefault(name, []).append(i)
    places: dict[str, dict[str, list[int]]] = {}
    for kind in Labels.shapes(0):
        known = keys.names(kind)
        spelled = [
            other for name in known for other in (name, *sorted(holders))
            if other in holders and (other == name or (other.lower() == name.lower() and other not in known))
        ]  # fmt: skip
        places[kind] = {name: [i for i in holders[name] if _has(frames[i], name)] for name in dict.fromkeys(spelled)}
    present = {kind: [name for name, where in by_name.items() if where] for kind, by_name in places.items()}
    names, foreign = {}, []
    family = None
    for kind, candidates in present.items():
        if not candidates:
            continue
        names[kind] = candidates[0]
        if kind not in MIXED:
            continue
        if family is None:
            family = _family(candidates[0])
        own = [name for name in candidates if _family(name) == family]
        if own:
            names[kind] = own[0]
            continue
        # of a family that has a label of its own where another one is used: numbers of another method
        rivals = [
            name for other, chosen in names.items() if other != kind and other in MIXED
            for name in dict.fromkeys((*present[other], *Keys().names(other)))
            if name in holders and name != chosen and _family(name) == _family(candidates[0])
        ]  # fmt: skip
        if rivals and kind not in keys.chosen():
            used = _listed({other: name for other, name in names.items() if other != kind})
            foreign.append(
                f"The {kind} `{candidates[0]}` is left out: it belongs with `{rivals[0]}`, while {used} is used. Name "
                f"it in `data.keys.{kind}` if it is of the same method."
            )
            del names[kind]
    if not {"energy", "forces"} & keys.chosen():
        foreign += _other_methods(holders, names)
    differing = {}
    for kind, name in names.items():
        if kind not in needed:
            continue
        others = {i for other, where in places[kind].items() if other != name for i in where}
        if missing := sorted(others - set(places[kind][name])):
            differing[kind] = missing
    return _Choice(names, differing, foreign)


def _other_methods(holders: Mapping[str, list[int]], names: Mapping[str, str]) -> list[str]:
    """Say where energy and forces are of two families, or have plain names beside those of a method."""
    if "energy" not in names or "forces" not in names:
        return []
    energy, forces = names["energy"], names["forces"]
    if _family(energy) != _family(forces):
        return [f"The energy `{energy}` and the forces `{forces}` have names of two methods; they should be of one."]
    others: dict[str, dict[str, str]] = {}
    for name in holders if not _family(energy) else ():
        for kind, pattern in (("energy", "energ(y|ies)"), ("forces", "forces?")):
            if re.search(f"(^|[_.-]){pattern}($|[_.-])", name, re.IGNORECASE) and _family(name):
                others.setdefault(_family(name), {})[kind] = name
    return [
        f"`{kinds['energy']}` and `{kinds['forces']}` are in the file, too, but {_listed(names)} are used. Name the "
        "right ones in `data.keys` (--key on the command line)."
        for kinds in others.values() if len(kinds) == 2
    ]  # fmt: skip


def _listed(names: Mapping[str, str]) -> str:
    return ", ".join(f"`{name}`" for kind, name in names.items() if kind in MIXED) or "none"


def _family(name: str) -> str:
    return FAMILY.sub("", name).strip("_-. ").lower()


def _find(atoms: Atoms, name: str) -> Any:
    """Value under this name in the comment line, the columns or the results."""
    results = getattr(atoms.calc, "results", None) or {}
    return next((p[name] for p in (atoms.info, atoms.arrays, results) if p.get(name) is not None), None)


def _has(atoms: Atoms, name: str) -> bool:
    """Whether there is anything under this name but NaN."""
    value = _find(atoms, name)
    if value is None:
        return False
    try:
        return not np.all(np.isnan(np.asarray(value, float))) or np.size(value) == 0
    except (ValueError, TypeError, OverflowError):
        return True


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = parse_json(value, nonfinite=True)
        return np.asarray(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"`{name}` must hold numbers, got {str(value)[:60]!r}.") from error


def _labels(
    atoms: Atoms,
    keys: Keys,
    names: Mapping[str, str],
    needed: Collection[str] | None = None,
    unusable: dict[str, list[str]] | None = None,
) -> Labels:
    """Labels under these names; texts about unusable ones that are not needed go into `unusable`."""
    _check_results(atoms)
    stated = stated_units(atoms.info)
    values = {}
    for kind, shape in Labels.shapes(len(atoms)).items():
        values[kind] = np.full(shape, np.nan)
        name = names.get(kind)
        value = None if name is None else _find(atoms, name)
        if name is None or value is None:
            continue
        try:
            number = _numbers(name, value)
            if kind == "stress":
                is_virial = name.lower() in {virial.lower() for virial in keys.virial}
                number = _stress(atoms, name, number, is_virial=is_virial)
                values[kind] = number * factor(stated, "virial" if is_virial else kind)
            else:
                number = _born(name, number, keys, shape) if "born" in kind else _shaped(name, number, shape)
                values[kind] = np.asarray(number * factor(stated, kind))
        except ValueError as error:
            if unusable is None or needed is None or kind in needed:
                raise
            unusable.setdefault(kind, []).append(str(error))
    return Labels(**{name: array(name, value, missing=True) for name, value in values.items()})


def _check_results(atoms: Atoms) -> None:
    """Refuse the results of a calculator that has computed another structure since."""
    results, check = getattr(atoms.calc, "results", None), getattr(atoms.calc, "check_state", None)
    if results and check is not None and not isinstance(atoms.calc, SinglePointCalculator) and check(atoms):
        raise ValueError(
            "The calculator of this structure has last computed another one. Keep the results of each with "
            "`lesjax.io.frozen(atoms)` right after it was computed."
        )


def _shaped(name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    # ASE keeps a matrix in a comment line as [1, 3, 3] at times, and a single number may come as a list of one; such a
    # line may also hold forces as one long list
    squeezed = tuple(k for k in value.shape if k != 1)
    if squeezed != tuple(k for k in shape if k != 1) and (value.ndim > 1 or value.size != int(np.prod(shape))):
        raise ValueError(
            f"`{name}` has shape {value.shape} where {shape} is needed. If it is something else, give another name "
            "for this label (`data.keys`, or --key on the command line)."
        )
    return value.reshape(shape)


def _born(name: str, value: np.ndarray, keys: Keys, shape: tuple[int, ...]) -> np.ndarray:
    """[atom, polarization, displacement] from nine numbers per atom, as one row or a matrix."""
    n = shape[0]
    if value.shape not in ((n, 9), (n, 3, 3), (9 * n,)):
        raise ValueError(f"`{name}` has shape {value.shape} where {(n, 9)} or {(n, 3, 3)} is needed.")
    order = keys.born_effective_charges_order or BORN_ORDER_OF_NAME.get(name)
    if order is None:
        warnings.warn(
            f"The Born effective charges `{name}` are left out: say whether each atom has them as [polarization, "
            "displacement] or [displacement, polarization], with `keys.born_effective_charges_order` = "
            "'polarization-first' or 'displacement-first' (--born-order on the command line).",
            stacklevel=2,
        )
        return np.full(shape, np.nan)
    value = value.reshape(shape)
    return value.swapaxes(1, 2) if order == "displacement-first" else value


def _stress(atoms: Atoms, name: str, value: np.ndarray, *, is_virial: bool) -> np.ndarray:
    """A 3x3 matrix from nine numbers or from six in Voigt order (xx, yy, zz, yz, xz, xy); NaN for an open virial."""
    if value.size not in (6, 9):
        raise ValueError(f"`{name}` has shape {value.shape}; a stress has 6 (Voigt) or 9 numbers.")
    if value.size == 6:
        xx, yy, zz, yz, xz, xy = value.ravel()
        value = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    value = value.reshape(3, 3)
    if not is_virial:
        return value
    return -value / atoms.cell.volume if atoms.cell.rank == 3 else np.full((3, 3), np.nan)


def _with_state(atoms: Atoms, keys: Keys, needed: Collection[str], unusable: dict[str, list[str]]) -> Atoms:
    """The structure with total charge and spin multiplicity under the first of their usual names.

    Entries that are no numbers are taken out, unless they are needed.
    """
    changed = {}
    for kind, usual in (("total_charge", Keys.total_charge), ("spin_multiplicity", Keys.spin_multiplicity)):
        name, value = entry(atoms, getattr(keys, kind))
        number = np.asarray(np.nan if value is None else value)
        if value is not None and (number.size != 1 or number.dtype.kind not in "iuf" or not np.isfinite(number).all()):
            text = f"`{name}` must be a number ({kind}), got {str(value)[:60]!r}; its key is set by `data.keys.{kind}`."
            if kind in needed:
                raise ValueError(text)
            unusable.setdefault(kind, []).append(text)
            changed |= dict.fromkeys({*usual, name}, None)
        elif (value is not None and name not in usual) or getattr(keys, kind) != usual:
            changed |= {**dict.fromkeys(usual, None), usual[0]: None if value is None else number.item()}
    if not any(value is not None or key in atoms.info for key, value in changed.items()):
        return atoms
    copy = atoms.copy()
    copy.calc = atoms.calc
    copy.info = {key: value for key, value in copy.info.items() if key not in changed}
    copy.info |= {key: value for key, value in changed.items() if value is not None}
    return copy


def _warn_of_nan(frames: Sequence[Atoms], keys: Keys) -> None:
    """Say which labels have entries that are NaN, which stands for none."""
    for name in dict.fromkeys(name for kind in Labels.shapes(0) for name in keys.names(kind)):
        places = [i for i, atoms in enumerate(frames) if _has_nan(_find(atoms, name))]
        if places:
            text = f"`{name}` has NaN in {len(places)} of {len(frames)} structures (first: {places[0]})"
            warnings.warn(f"{text}, which counts as no label.", stacklevel=3)


def _has_nan(value: Any) -> bool:
    try:
        return value is not None and bool(np.isnan(_numbers("", value)).any())
    except ValueError:
        return False
