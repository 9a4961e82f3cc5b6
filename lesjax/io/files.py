"""Files of structures: reading, with what writers do otherwise than ase expects, and writing."""

import bz2
import glob
import gzip
import itertools
import lzma
import os
import pathlib
import re
import sys
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from io import StringIO
from typing import Any
from xml.etree import ElementTree

from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.formula import Formula

from lesjax.files import atomic_path
from lesjax.io.comment import parse_comment
from lesjax.io.foreign import check_foreign
from lesjax.io.units import factor, stated_units
from lesjax.system import check_cell_entries


OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# Bytes of a compressed file, which is read into memory, and how many times its size that may be.
MAX_DECOMPRESSED, MAX_RATIO = 2**32, 100


def find_files(path: str | os.PathLike | Sequence[str | os.PathLike]) -> list[pathlib.Path]:
    """Files of a path, of a pattern (``*``, ``?``, ``[...]``) in the order of their names, or of a list of both.

    One that a list names twice is there once.

    Raises:
        FileNotFoundError: for a missing file, or a pattern that none has.
    """
    if not isinstance(path, str | os.PathLike):
        files = [file for entry in path for file in find_files(entry)]
        unique: dict[pathlib.Path, pathlib.Path] = {}
        for file in files:
            unique.setdefault(file.resolve(), file)
        return list(unique.values())
    place = pathlib.Path(path).expanduser()
    found = [place] if place.exists() else [pathlib.Path(name) for name in sorted(glob.glob(str(place)))]
    if not found:
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    return found


def read(path: str | os.PathLike | Sequence[str | os.PathLike]) -> list[Atoms]:
    """Read all frames of a file that ase understands, or of several one after the other.

    Keys of the comment line of extended xyz may have any case, and its stress six numbers (xx, yy, zz, yz, xz, xy) or
    nine. A stated unit of length is converted; that of labels where they are used. Key-value pairs of a database come
    into `info`. Steps of a VASP output whose electrons did not converge are left out with a warning.

    Args:
        path: file, pattern, or a list of them, see `find_files`.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file that cannot be parsed, with the number of the frame, or has none; a format that ase does
            not read; a frame that has a cell under a name that is not read.
    """
    return [atoms for file in find_files(path) for atoms in _read(file)]


def _read(path: pathlib.Path) -> list[Atoms]:
    import ase.io  # half a second, which a command that reads no structure need not take
    from ase.io.formats import UnknownFileTypeError, filetype

    check_foreign(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    frames: list[Atoms] = []
    kind, source = "", path
    options: dict[str, Any] = {}
    try:
        # frame by frame, so that the message can say which one is broken
        kind = filetype(str(path))
        if path.suffix in OPENERS and kind != "extxyz":
            deque(_blocks(path), maxlen=0)  # ase reads these without a limit
        if kind == "extxyz":
            source, options = _decompressed(path), {"properties_parser": parse_comment}
            _check_lines(path, source)  # ase would count to the number of atoms in a header, whatever follows
        if kind in ("db", "json"):
            frames.extend(_rows(path))
        else:
            frames.extend(ase.io.iread(source, index=":", format=kind, do_not_split_by_at_sign=True, **options))
    except _LinesError:
        raise
    except Exception as error:
        reason = str(error) if type(error) is ValueError else repr(error)
        if isinstance(error, KeyError) and kind in ("extxyz", "xyz"):
            symbol, atom = error.args[0], _atom_of(source, len(frames), error.args[0])
            reason = f"unknown species {symbol!r}{atom}, which is no symbol of an element"
        if isinstance(error, UnknownFileTypeError):
            reason += ". ase does not know the format: convert it to extended xyz (.xyz)."
        raise ValueError(f"{str(path)!r} cannot be read at frame {len(frames)} (counted from 0): {reason}") from error
    if not frames:
        raise ValueError(f"{str(path)!r} contains no structure.")
    is_stated = ["length" in stated_units(atoms.info) for atoms in frames]
    for i, atoms in enumerate(frames):
        try:
            check_cell_entries(atoms)
            _convert_length(atoms)
            if any(is_stated) and not is_stated[i]:
                raise ValueError(
                    f"states no unit of length, and structure {is_stated.index(True)} does: state it in all."
                )
        except ValueError as error:
            raise ValueError(f"{str(path)!r}: Structure {i}: {error}") from error
    return _converged(path, kind, frames)


def _atom_of(source: pathlib.Path | StringIO, frame: int, symbol: str) -> str:
    """Say which atom of a frame has this symbol, which ase spells with one capital letter."""
    lines = iter(
        (source.getvalue() if isinstance(source, StringIO) else source.read_text(errors="replace")).splitlines()
    )
    atoms: list[str] = []
    for _ in range(frame + 1):
        number = next(lines, "")
        if not number.strip().isdigit():
            return ""
        _, *atoms = itertools.islice(lines, int(number) + 1)
    places = [i for i, line in enumerate(atoms) if str(symbol).lower() in line.lower().split()]
    return f" of atom {places[0]}" if places else ""


def _rows(path: pathlib.Path) -> Iterable[Atoms]:
    """Rows of a database of ase with their key-value pairs and arrays in `info`."""
    import ase.db

    for row in ase.db.connect(path, serial=True).select():
        atoms = row.toatoms()
        atoms.info.update({**dict(row.data or {}), **row.key_value_pairs})
        yield atoms


def _decompressed(path: pathlib.Path) -> pathlib.Path | StringIO:
    """Return a compressed file in memory, any other as its path.

    ase seeks back and forth in extended xyz, which would decompress it from the start for each frame.
    """
    if path.suffix not in OPENERS:
        return path
    return StringIO(b"".join(_blocks(path)).decode(), newline=None)


def _blocks(path: pathlib.Path) -> Iterator[bytes]:
    """Yield the content of a compressed file.

    Raises:
        ValueError: for far more than its size lets expect.
    """
    limit, size = min(MAX_DECOMPRESSED, MAX_RATIO * path.stat().st_size + 2**20), 0
    with OPENERS[path.suffix](path, "rb") as file:
        while block := file.read(2**20):
            size += len(block)
            if size > limit:
                raise ValueError(
                    f"it has more than {limit} bytes when decompressed: decompress it first, if that is right"
                )
            yield block


class _LinesError(ValueError):
    """Lines of a file that are no frames, with their numbers."""


def _check_lines(path: pathlib.Path, source: pathlib.Path | StringIO) -> None:
    """Raise ValueError where the lines of extended xyz are no frames.

    A blank line before a frame, where ase silently stops reading, or fewer lines than atoms.
    """
    in_memory = isinstance(source, StringIO)
    opened = StringIO(source.getvalue()) if in_memory else open(source, encoding="utf-8", errors="replace")
    with opened as file:
        lines, blank, frames = enumerate(file, start=1), None, 0
        for number, line in lines:
            if not line.strip():
                blank = number
            # what is no frame at all is for ase to refuse
            elif blank is not None and (frames or line.strip().isdigit()):
                raise _LinesError(f"Line {blank} of {str(path)!r} is blank, and more follows. Delete the line.")
            elif line.strip().isdigit():
                n, frames = int(line), frames + 1
                read = sum(1 for _ in itertools.islice(lines, min(n, sys.maxsize - 1) + 1))  # comment and atoms
                if read < n + 1:
                    raise _LinesError(
                        f"{str(path)!r} cannot be read at frame {frames - 1} (counted from 0): line {number} "
                        f"announces {n} atoms, but {max(read - 1, 0)} lines of atoms follow. The file was cut, or the "
                        "number is wrong."
                    )


def _convert_length(atoms: Atoms) -> None:
    """Bring positions and cell into Å where the frame states another unit."""
    length = factor(stated_units(atoms.info), "length")
    if length != 1.0:
        atoms.set_cell(length * atoms.cell.array)
        atoms.positions *= length
        for key in [key for key in atoms.info if "length" in stated_units({key: atoms.info[key]})]:
            del atoms.info[key]


def _converged(path: pathlib.Path, kind: str, frames: list[Atoms]) -> list[Atoms]:
    """Frames whose electronic steps converged, as far as an output of VASP tells."""
    converged: list[bool] = []
    opener = OPENERS.get(path.suffix, open)
    if kind == "vasp-out":
        with opener(path, "rt", encoding="utf-8", errors="replace") as file:
            ends = re.findall(r"aborting loop[^\n]*EDIFF[^\n]*", file.read())
        converged = ["not reached" not in end for end in ends]
    elif kind == "vasp-xml":
        limit = None
        with opener(path, "rb") as file, suppress(ElementTree.ParseError):  # a run that was cut off
            for _, element in ElementTree.iterparse(file):
                if element.get("name") == "NELM" and limit is None:
                    limit = int(str(element.text))
                elif element.tag == "calculation":
                    converged.append(limit is None or len(element.findall("scstep")) < max(limit, 2))
    converged = converged[: len(frames)]  # the last step may have been cut off
    if len(converged) < len(frames) or all(converged):
        return frames
    number = len(frames) - sum(converged)
    if number == len(frames):
        raise ValueError(f"{str(path)!r}: in none of the {number} steps did the electrons converge.")
    warnings.warn(
        f"{str(path)!r}: {number} of {len(frames)} structures are left out, in which the electrons did not converge.",
        stacklevel=2,
    )
    return [atoms for atoms, is_converged in zip(frames, converged, strict=True) if is_converged]


def write(path: str | os.PathLike, frames: Sequence[Atoms]) -> None:
    """Write extended xyz; the file appears whole or not at all."""
    import ase.io

    with atomic_path(path) as temporary:
        ase.io.write(temporary, list(frames), format="extxyz")


def frozen(atoms: Atoms) -> Atoms:
    """A copy with the results of its calculator as they are now: the calculator may go on to other structures.

    Results that ase has no name for are left out, as `write` leaves them out.
    """
    copy = atoms.copy()
    results = getattr(atoms.calc, "results", None)
    if results:
        copy.calc = SinglePointCalculator(copy, **{name: results[name] for name in all_properties if name in results})
    return copy


def composition(atomic_numbers: Iterable[int]) -> str:
    """Formula unit and how many of them there are, as "H2O×64"; the whole formula where no unit is that small."""
    formula = Formula.from_dict(Counter(chemical_symbols[z] for z in atomic_numbers))
    unit, number = formula.reduce()
    small = number > 1 and max(unit.count().values()) < 10
    return f"{unit:metal}×{number}" if small else f"{formula:metal}"


def element_names(atomic_numbers: Iterable[int]) -> str:
    """Symbols of the elements, as "H, O" for a message."""
    names = dict(enumerate(chemical_symbols))
    return ", ".join(names.get(z, str(z)) for z in sorted(set(atomic_numbers)))
