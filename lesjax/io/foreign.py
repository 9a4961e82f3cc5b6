"""Formats of other programs that ase does not read, refused with the lines that convert them."""

import pathlib
import textwrap


NPZ = """
import ase, ase.io, numpy as np
data = np.load({path!r})            # the names of the arrays are those of your file: print(data.files)
frames = [ase.Atoms(data["z"], r, info={{"REF_energy": e}}) for r, e in zip(data["R"], data["E"].ravel())]
for atoms, forces in zip(frames, data["F"]):
    atoms.set_array("REF_forces", forces)
ase.io.write("data.xyz", frames, format="extxyz")      # energies in eV, forces in eV/Å
"""
HDF5 = """
import ase, ase.io, h5py
with h5py.File({path!r}) as data:   # the names of the data sets are those of your file: data.visit(print)
    frames = [ase.Atoms(data["z"][:], r, info={{"REF_energy": e}}) for r, e in zip(data["R"], data["E"][:].ravel())]
    for atoms, forces in zip(frames, data["F"]):
        atoms.set_array("REF_forces", forces)
ase.io.write("data.xyz", frames, format="extxyz")      # energies in eV, forces in eV/Å
"""
MTP = """
import ase, ase.io, numpy as np, pathlib
frames, symbols = [], ["Na", "Cl"]  # your elements in the order of the types
for text in pathlib.Path({path!r}).read_text().split("BEGIN_CFG")[1:]:
    rows = [line.split() for line in text.splitlines() if line.strip()]
    row = {{words[0].rstrip(":"): i for i, words in enumerate(rows)}}
    columns, n = rows[row["AtomData"]][1:], int(rows[row["Size"] + 1][0])
    table = dict(zip(columns, np.array(rows[row["AtomData"] + 1 : row["AtomData"] + 1 + n], float).T))
    atoms = ase.Atoms([symbols[int(t)] for t in table["type"]], np.stack([table["cartes_" + x] for x in "xyz"], 1))
    if "Supercell" in row:
        atoms.set_cell(np.array(rows[row["Supercell"] + 1 : row["Supercell"] + 4], float))
        atoms.pbc = True
    atoms.info["REF_energy"] = float(rows[row["Energy"] + 1][0])
    if "PlusStress" in row:         # a virial in eV: xx, yy, zz, yz, xz, xy
        atoms.info["REF_virial"] = np.array(rows[row["PlusStress"] + 1], float)
    atoms.set_array("REF_forces", np.stack([table["f" + x] for x in "xyz"], 1))
    frames.append(atoms)
ase.io.write("data.xyz", frames, format="extxyz")
"""
DEEPMD = """
import ase.io, dpdata               # pip install dpdata
frames = dpdata.LabeledSystem({path!r}, fmt="deepmd/npy").to("ase/structure")   # or fmt="deepmd/raw"
ase.io.write("data.xyz", frames, format="extxyz")
"""
FORMATS = {
    "npz": ("arrays of numpy", NPZ),
    "hdf5": ("HDF5", HDF5),
    "mtp": ("configurations of MLIP (MTP)", MTP),
    "deepmd": ("data of DeePMD-kit", DEEPMD),
}
SUFFIXES = {".npz": "npz", ".npy": "npz", ".h5": "hdf5", ".hdf5": "hdf5", ".hdf": "hdf5", ".raw": "deepmd"}


def check_foreign(path: pathlib.Path) -> None:
    """Raise ValueError for formats that ase does not read, with lines that convert them, FileNotFoundError for folders.

    A folder of DeePMD-kit is such a format.
    """
    kind = SUFFIXES.get(path.suffix.lower())
    if path.is_dir():
        if not any(any(path.glob(pattern)) for pattern in ("**/type.raw", "**/set.*", "*.npy")):
            raise FileNotFoundError(f"{str(path)!r} is a folder. Name its files, as {str(path / '*.xyz')!r}.")
        kind = "deepmd"
    elif path.is_file():
        with open(path, "rb") as file:
            head = file.read(4096)
        if head.startswith(b"\x89HDF"):
            kind = "hdf5"
        elif head.startswith(b"\x93NUMPY") or (head.startswith(b"PK") and b".npy" in head):
            kind = "npz"
        elif b"BEGIN_CFG" in head:
            kind = "mtp"
    if kind is not None:
        content, lines = FORMATS[kind]
        lines = textwrap.indent(lines.format(path=str(path)), "    ").rstrip()
        raise ValueError(
            f"{str(path)!r} holds {content}, which ase does not read. Convert them to extended xyz:\n{lines}"
        )
