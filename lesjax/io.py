"""Extended-xyz files: structures and their labels under configurable keys."""

import bz2
import dataclasses
import gzip
import lzma
import os
import pathlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import ase.io
import jax
import numpy as np
from ase import Atoms as Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols as chemical_symbols
from ase.io.formats import filetype
from jaxtyping import Array, Float

from lesjax.files import atomic_path
from lesjax.validate import check, one_of, optional, parse_json


OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# Bytes of a compressed file, which is read into memory, and how many times its size that may be.
MAX_DECOMPRESSED, MAX_RATIO = 2**32, 100
BORN_ORDERS = ("polarization-first", "displacement-first")
# The first two are ours; "BEC" and "bec" are the columns of the published sets of superionic water (Zhong et al., 2025)
# and of dipeptides (King et al., 2025).
BORN_ORDER_OF_NAME = {
    "REF_born_effective_charges": "polarization-first",
    "born_effective_charges": "polarization-first",
    "BEC": "polarization-first",
    "bec": "displacement-first",
}


@dataclass(frozen=True)
class Keys:
    """Names under which a file holds its labels; the first one that a frame has is used.

    They are looked up in the comment line, in the columns, and in the results of ase's calculator, where ase
    puts some names while reading. Numbers may also come as JSON text.

    Born effective charges are nine numbers per atom, of which files of the field hold both orders, and nothing in the
    numbers tells them apart. Without `born_effective_charges_order` the names of `BORN_ORDER_OF_NAME` are read as they
    are published, and those under another name are left out with a warning.

    Attributes:
        energy: total energy, eV.
        forces: eV/Å.
        stress: eV/Å³.
        charges: e.
        dipole: dipole moment of a molecule, e Å.
        quadrupole: second moment of a molecule, e Å², see `Labels`.
        born_effective_charges: e.
        born_effective_charges_order: "polarization-first" for [atom, polarization, displacement], or
            "displacement-first" for [atom, displacement, polarization]; by the name if it is not given.
    """

    energy: tuple[str, ...] = ("REF_energy", "energy")
    forces: tuple[str, ...] = ("REF_forces", "forces", "force")
    stress: tuple[str, ...] = ("REF_stress", "stress")
    charges: tuple[str, ...] = ("REF_charges", "charges", "mbi_charges")
    dipole: tuple[str, ...] = ("REF_dipole", "dipole")
    quadrupole: tuple[str, ...] = ("REF_quadrupole", "quadrupole")
    born_effective_charges: tuple[str, ...] = ("REF_born_effective_charges", "born_effective_charges", "bec", "BEC")
    born_effective_charges_order: str | None = None

    def __post_init__(self) -> None:
        check(self, born_effective_charges_order=optional(one_of(*BORN_ORDERS)))


def label_field(*shape: int | str) -> Any:
    """Field of `Labels` with this shape, in which "n" is the number of atoms."""
    return dataclasses.field(metadata={"shape": shape})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Labels:
    """Reference values of one structure, NaN where there is none. Leading axes ``*b`` when stacked.

    Attributes:
        energy: total energy, eV.
        forces: eV/Å.
        stress: eV/Å³, ASE's sign.
        charges: e.
        dipole: dipole moment of a molecule about its centre of mass, e Å; about any point if it is neutral.
        quadrupole: second moment of a molecule about its centre of mass, sum of q x x^T over electrons and nuclei
            (no factor 3/2, as SPICE and Psi4 give it), e Å². Its trace is that of the electron cloud, which no point
            charges have: only the traceless part is compared, so that either may be given.
        born_effective_charges: [atom, polarization, displacement], e.
    """

    energy: Float[Array | np.ndarray, "*b"] = label_field()
    forces: Float[Array | np.ndarray, "*b n 3"] = label_field("n", 3)
    stress: Float[Array | np.ndarray, "*b 3 3"] = label_field(3, 3)
    charges: Float[Array | np.ndarray, "*b n"] = label_field("n")
    dipole: Float[Array | np.ndarray, "*b 3"] = label_field(3)
    quadrupole: Float[Array | np.ndarray, "*b 3 3"] = label_field(3, 3)
    born_effective_charges: Float[Array | np.ndarray, "*b n 3 3"] = label_field("n", 3, 3)

    @classmethod
    def shapes(cls, n_atoms: int) -> dict[str, tuple[int, ...]]:
        """Shape of each label of one structure."""
        return {
            f.name: tuple(n_atoms if size == "n" else size for size in f.metadata["shape"])
            for f in dataclasses.fields(cls)
        }

    @classmethod
    def missing(cls, n_atoms: int) -> "Labels":
        """Labels of a structure that has none."""
        return cls(**{name: np.full(shape, np.nan) for name, shape in cls.shapes(n_atoms).items()})

    def pad_to(self, n_atoms: int) -> "Labels":
        """Pad the rows of one structure with NaN; host only."""
        padded = self.missing(n_atoms)
        for name, value in vars(self).items():
            getattr(padded, name)[tuple(map(slice, np.shape(value)))] = value
        return padded


def read(path: str | os.PathLike) -> list[Atoms]:
    """Read all frames of a file that ase understands.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file that cannot be parsed, with the number of the frame, or has none.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    frames: list[Atoms] = []
    try:
        # frame by frame, so that the message can say which one is broken
        kind = filetype(str(path))
        source = _decompressed(path) if kind == "extxyz" else path
        frames.extend(ase.io.iread(source, index=":", format=kind, do_not_split_by_at_sign=True))
    except Exception as error:
        raise ValueError(f"{str(path)!r} cannot be read at frame {len(frames)} (counted from 0): {error!r}") from error
    if kind == "extxyz":
        _check_blank_lines(path, source)
    if not frames:
        raise ValueError(f"{str(path)!r} contains no structure.")
    return frames


def _decompressed(path: pathlib.Path) -> pathlib.Path | StringIO:
    """A compressed file in memory, any other as it is.

    ase goes back and forth in extended xyz, which decompresses it from its start for each frame.
    """
    opener = OPENERS.get(path.suffix)
    if opener is None:
        return path
    limit = min(MAX_DECOMPRESSED, MAX_RATIO * path.stat().st_size + 2**20)
    with opener(path, "rb") as file:
        text = file.read(limit + 1)
    if len(text) > limit:
        raise ValueError(f"it has more than {limit} bytes when decompressed: decompress it first, if that is right")
    return StringIO(text.decode(), newline=None)


def _check_blank_lines(path: pathlib.Path, source: pathlib.Path | StringIO) -> None:
    """Raise ValueError for a blank line before a frame of extended xyz, where ase ends reading without a word."""
    if isinstance(source, StringIO):
        source.seek(0)
    with source if isinstance(source, StringIO) else open(path, encoding="utf-8", errors="replace") as file:
        lines, blank = enumerate(file, start=1), None
        for number, line in lines:
            if not line.strip():
                blank = number
            elif blank is not None:
                raise ValueError(f"Line {blank} of {str(path)!r} is blank, and more follows. Delete the line.")
            elif line.strip().isdigit():
                for _ in range(int(line) + 1):  # comment and atoms
                    next(lines, None)


def write(path: str | os.PathLike, frames: Sequence[Atoms]) -> None:
    """Write extended xyz; the file appears whole or not at all."""
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


def element_names(atomic_numbers: Iterable[int]) -> str:
    """Symbols of the elements, as "H, O" for a message."""
    return ", ".join(chemical_symbols[z] for z in sorted(set(atomic_numbers)))


def labels(atoms: Atoms, keys: Keys | None = None) -> Labels:
    """Labels of one frame, NaN where it has none.

    Warns of Born effective charges that are left out for want of their order, see `Keys`.

    Raises:
        ValueError: for a label of the wrong shape, one that is no number, or results of another structure.
    """
    _check_results(atoms)
    keys = keys or Keys()
    values = {"stress": _stress(atoms, keys.stress), "born_effective_charges": _born_effective_charges(atoms, keys)}
    for name, shape in Labels.shapes(len(atoms)).items():
        if name not in values:
            values[name] = _find(atoms, getattr(keys, name), shape)
    return Labels(**values)


def all_labels(frames: Sequence[Atoms], keys: Keys | None = None) -> list[Labels]:
    """Labels of each frame; an error names the frame."""
    result = []
    for i, atoms in enumerate(frames):
        try:
            result.append(labels(atoms, keys))
        except ValueError as error:
            raise ValueError(f"Structure {i}: {error}") from error
    return result


def _check_results(atoms: Atoms) -> None:
    """Refuse the results of a calculator that has gone on to another structure."""
    results, check = getattr(atoms.calc, "results", None), getattr(atoms.calc, "check_state", None)
    if results and check is not None and not isinstance(atoms.calc, SinglePointCalculator) and check(atoms):
        raise ValueError(
            "The calculator of this structure has last computed another one. Keep the results of each with "
            "`lesjax.io.frozen(atoms)` right after it was computed."
        )


def _lookup(atoms: Atoms, names: Sequence[str]) -> tuple[str, np.ndarray] | None:
    results = getattr(atoms.calc, "results", None) or {}
    for name in names:
        for place in (atoms.info, atoms.arrays, results):
            if place.get(name) is not None:
                value = place[name]
                try:
                    if isinstance(value, str) and value.lstrip().startswith("["):
                        value = parse_json(value, nonfinite=True)
                    return name, np.asarray(value, dtype=np.float64)
                except (ValueError, TypeError) as error:
                    raise ValueError(f"`{name}` must hold numbers, got {str(value)[:60]!r}.") from error
    return None


def _find(atoms: Atoms, names: Sequence[str], shape: tuple[int, ...]) -> np.ndarray:
    found = _lookup(atoms, names)
    if found is None:
        return np.full(shape, np.nan)
    name, value = found
    # ASE keeps a matrix in a comment line as [1, 3, 3] at times, and a single number may come as a list of one; such a
    # line may also hold forces as one long list
    squeezed = tuple(k for k in value.shape if k != 1)
    if squeezed != tuple(k for k in shape if k != 1) and (value.ndim > 1 or value.size != int(np.prod(shape))):
        raise ValueError(
            f"`{name}` has shape {value.shape} where {shape} is needed. If it is something else, give another name "
            "for this label (`data.keys`, or --key on the command line)."
        )
    return value.reshape(shape)


def _born_effective_charges(atoms: Atoms, keys: Keys) -> np.ndarray:
    """[atom, polarization, displacement] from nine numbers per atom, as one row or a matrix."""
    n = len(atoms)
    found = _lookup(atoms, keys.born_effective_charges)
    if found is None:
        return np.full((n, 3, 3), np.nan)
    name, value = found
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
        return np.full((n, 3, 3), np.nan)
    value = value.reshape(n, 3, 3)
    return value.swapaxes(1, 2) if order == "displacement-first" else value


def _stress(atoms: Atoms, names: Sequence[str]) -> np.ndarray:
    """A 3x3 matrix from nine numbers or from six in Voigt order (xx, yy, zz, yz, xz, xy)."""
    found = _lookup(atoms, names)
    if found is None:
        return np.full((3, 3), np.nan)
    name, value = found
    if value.size == 6:
        xx, yy, zz, yz, xz, xy = value.ravel()
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    if value.size != 9:
        raise ValueError(f"`{name}` has shape {value.shape}; a stress has 6 (Voigt) or 9 numbers.")
    return value.reshape(3, 3)
