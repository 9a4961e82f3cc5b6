"""Comment lines of extended xyz, which writers spell in more ways than ase reads."""

import itertools
import re
from typing import Any

import numpy as np

from lesjax.validate import parse_json


DELIMITERS = {"'": "'", '"': '"', "{": "}", "[": "]"}
# as ase spells them; it makes matrices of nine numbers of the last two, and refuses six
SPELLINGS = {"lattice": "Lattice", "properties": "Properties", "pbc": "pbc"}
MATRICES = ("stress", "virial")
COLUMNS = {"species": "species", "pos": "pos", "positions": "pos", "z": "Z", "symbols": "species"}
TRUTH = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}


def parse_comment(line: str) -> dict[str, Any]:
    """Entries of a comment line as ase reads them, with keys of any case and stresses of six or nine numbers.

    Raises:
        ValueError: for a key or a column that is there twice, or periodic directions that are neither true nor false.
    """
    from ase.io.extxyz import key_val_str_to_dict

    pieces, end, seen = [], 0, {}
    places = _keys(line)
    for (start, stop), (after, _) in itertools.zip_longest(places, places[1:], fillvalue=(len(line), 0)):
        key, value = line[start:stop], line[stop:after].strip()
        lower = key.lower()
        spelling = SPELLINGS.get(lower, f"\0{lower}" if lower in MATRICES else key)
        # another entry may be there twice if both say the same
        if spelling in seen and (spelling != key or lower in SPELLINGS or seen[spelling] != value):
            raise ValueError(f"`{spelling.lstrip(chr(0))}` is in the comment line twice: delete one.")
        seen[spelling] = value
        pieces += [line[end:start], spelling]
        end = stop
    text = "".join([*pieces, line[end:]])
    try:
        info = key_val_str_to_dict(text)
    except ValueError as error:
        if "Lattice" not in str(error):
            raise
        raise ValueError(
            '`Lattice` must be the nine numbers of three lattice vectors, `Lattice="ax ay az bx by bz cx cy cz"`.'
        ) from error
    for name in MATRICES:
        if (value := info.pop(f"\0{name}", None)) is not None:
            info[name] = np.reshape(value, (3, 3), order="F") if np.shape(value) == (9,) else value
    for name in ("stress", "dipole"):  # ase reads arrays there and nothing else
        if name in info and not isinstance(info[name], np.ndarray):
            info[name] = _array(info[name])
    if "pbc" in info:
        info["pbc"] = _periodic(info["pbc"])
    if isinstance(info.get("Properties"), str):
        fields = info["Properties"].split(":")
        fields[::3] = [COLUMNS.get(name.lower(), name) for name in fields[::3]]
        info["Properties"] = ":".join(fields)
        widths = fields[2::3]
        if any(not width.isdecimal() or len(width) > 4 for width in widths):  # ase would make a name for each number
            raise ValueError(
                f"`Properties` has a column of {max(widths, key=len)[:20]!r} numbers, at most 9999 are read."
            )
        if repeated := [name for name in fields[::3] if fields[::3].count(name) > 1]:
            raise ValueError(f"`Properties` has the column `{repeated[0]}` twice: rename one.")
    return info


def _keys(line: str) -> list[tuple[int, int]]:
    """Where the keys of a comment line begin and end: words outside of quotes and brackets that no = comes before."""
    found: list[tuple[int, int]] = []
    closing, start, is_value, i = "", -1, False, 0
    while i <= len(line):
        character = line[i] if i < len(line) else " "
        if closing:
            closing = "" if character == closing else closing
            i += character == "\\"
        elif character in DELIMITERS:
            closing, start = DELIMITERS[character], -1
        elif character == "=" or character.isspace():
            if start >= 0 and not is_value and line[i:].lstrip().startswith("="):
                found.append((start, i))
            if start >= 0 or (character.isspace() and i and line[i - 1] in DELIMITERS.values()):
                is_value = False  # the value, or the key, has ended
            is_value = is_value or character == "="
            start = -1
        elif start < 0:
            start = i
        i += 1
    return found


def _array(value: Any) -> np.ndarray:
    """Numbers of an entry, as JSON text too; a single infinity, which no label takes, for anything else."""
    try:
        return np.asarray(parse_json(value, nonfinite=True) if isinstance(value, str) else value, float)
    except (ValueError, TypeError):
        return np.full(1, np.inf)


def _periodic(value: Any) -> Any:
    words = re.findall(r"[^\s,\[\]]+", value) if isinstance(value, str) else np.ravel(value).tolist()
    flags = [TRUTH.get(str(word).lower()) for word in words]
    if len(flags) not in (1, 3) or None in flags:
        raise ValueError(f"`pbc` must be T or F, or three of them, got {value!r}.")
    return flags if len(flags) == 3 else flags[0]
