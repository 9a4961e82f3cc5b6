"""Data sets shipped with lesjax, and their generators.

The files are extended xyz, compressed with xz, which `ase.io.read` opens directly. Energies (eV), forces (eV/Å) and,
where there are any, charges (e) are read into ase's single-point calculator, so that ``atoms.get_forces()`` works;
beside the files of each set lies a JSON file with its provenance.
"""

import pathlib
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from ase import Atoms

FOLDER = pathlib.Path(__file__).with_name("files")
SUFFIX = ".xyz.xz"


def names() -> list[str]:
    """Names of the shipped files, such as "kf_water_train"."""
    return sorted(file.name.removesuffix(SUFFIX) for file in FOLDER.glob(f"*{SUFFIX}"))


def path(name: str) -> pathlib.Path:
    """Path of a shipped file, for ``data.train`` of a config or `ase.io.read`.

    Raises:
        ValueError: for a name that is not among `names`.
    """
    if name not in names():
        raise ValueError(f"There is no shipped data set {name!r}. There are: {', '.join(names())}.")
    return FOLDER / f"{name}{SUFFIX}"


def load(name: str) -> "list[Atoms]":
    """Read all frames of a shipped file.

    Raises:
        ValueError: for a name that is not among `names`.
    """
    from lesjax import io

    return io.read(path(name))
