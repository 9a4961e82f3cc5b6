"""A reader of torch files (``.pth``, ``.model``, ``.ckpt``) without torch, which runs nothing that a file names.

A torch file is a zip of one pickle, ``data.pkl``, read by `lesjax.published.unpickle`, and raw arrays.
"""

import os
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lesjax.published.unpickle import Global as Global, Interpreter, Record as Record


# Limits. Published models have pickles of 0.3 MB.
MAX_PICKLE = 2**26
MAX_DIRECTORY = 2**22
MAX_MODULES = 20_000

_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


@dataclass(frozen=True)
class TorchFile:
    """What a file holds.

    Attributes:
        path: of the file.
        root: the saved object: a `Record`, or a dictionary of arrays and records.
        names: names of all classes and functions in it, with their modules.
    """

    path: str
    root: Any
    names: frozenset[str]


def read(path: str | os.PathLike) -> TorchFile:
    """Read a torch file; arrays are read-only views with the strides of the file.

    Raises:
        ValueError: for a file that is not a whole zip of torch, or asks for anything that a model has no use for.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            _check_signature(file, name)
            with zipfile.ZipFile(file) as archive:
                return _read(archive, name, os.fstat(file.fileno()).st_size)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, struct.error) as error:
        raise ValueError(f"{name!r} is damaged or not a torch file ({error}). Copy it once more.") from error


def walk(root: Record) -> Iterator[tuple[str, Record]]:
    """Yield the dotted path and the module of a tree of torch modules, ``""`` for the root.

    Raises:
        ValueError: for a tree without end.
    """
    stack = [("", root)]
    for _ in range(MAX_MODULES):
        if not stack:
            return
        path, module = stack.pop()
        yield path, module
        below = [(f"{path}.{name}" if path else str(name), child) for name, child in module.children().items()]
        if len(path) > 1000:
            raise ValueError("The modules of the file are nested without end.")
        stack.extend(reversed(below))
    raise ValueError(f"The file has more than {MAX_MODULES} modules.")


def state_dict(root: Record) -> dict[str, np.ndarray]:
    """Parameters and buffers of a tree of torch modules by their dotted names, as torch's ``state_dict``."""
    found = {}
    for path, module in walk(root):
        for table in ("_parameters", "_buffers"):
            values = module.attributes.get(table)
            for name, value in values.items() if isinstance(values, dict) else ():
                if isinstance(value, np.ndarray):
                    found[f"{path}.{name}" if path else str(name)] = value
    return found


def _check_signature(file: Any, name: str) -> None:
    start = file.read(len(_LEGACY))
    if start == _LEGACY:
        raise ValueError(
            f"{name!r} has the format of torch before 1.6, which is not read. "
            "Save it again: `torch.save(torch.load(FILE), NEW)` in a present torch."
        )
    if not start.startswith(b"PK\x03\x04"):
        raise ValueError(f"{name!r} is not a torch file: it is no zip archive.")
    file.seek(-min(22, file.seek(0, os.SEEK_END)), os.SEEK_END)
    end = file.read(22)
    if len(end) == 22 and end.startswith(b"PK\x05\x06") and struct.unpack("<I", end[12:16])[0] > MAX_DIRECTORY:
        raise ValueError(f"{name!r} has too many entries for a torch file.")


def _read(archive: zipfile.ZipFile, name: str, size: int) -> TorchFile:
    entries = archive.infolist()
    for entry in entries:
        if entry.flag_bits & 1:
            raise ValueError(f"{name!r}: the entry {entry.filename!r} is encrypted, which torch never writes.")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name!r}: the entry {entry.filename!r} is compressed, which torch never writes.")
    if len({entry.filename for entry in entries}) < len(entries):
        raise ValueError(f"{name!r} has two entries of one name.")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError(f"{name!r} claims entries of more bytes than the file has.")
    by_name = {entry.filename: entry for entry in entries}
    if any("/code/" in entry for entry in by_name):
        raise ValueError(
            f"{name!r} is a compiled (TorchScript) model, which has lost its hyper-parameters. "
            "Convert the file that it was compiled from."
        )
    pickles = [entry for entry in by_name if entry.count("/") == 1 and entry.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{name!r} is a zip archive, but not one of torch: it has no single 'NAME/data.pkl'.")
    prefix = pickles[0].removesuffix("data.pkl")
    if by_name[pickles[0]].file_size > MAX_PICKLE:
        raise ValueError(f"{name!r}: 'data.pkl' has {by_name[pickles[0]].file_size} bytes, too many for a model.")
    order = archive.read(f"{prefix}byteorder") if f"{prefix}byteorder" in by_name else b"little"
    if order != b"little":
        raise ValueError(f"{name!r} has the byte order {order[:20]!r}; only b'little' is read.")

    def storage(key: str, dtype: str, n: int) -> np.ndarray:
        entry = by_name.get(f"{prefix}data/{key}")
        if entry is None:
            raise ValueError(f"{name!r} lacks the array data/{key[:80]}.")
        if n * np.dtype(dtype).itemsize != entry.file_size:
            raise ValueError(f"{name!r}: data/{key} has {entry.file_size} bytes, not {n} elements of {dtype}.")
        return np.frombuffer(archive.read(entry), dtype)

    reader = Interpreter(storage)
    try:
        root = reader.run(archive.read(by_name[pickles[0]]))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, UnicodeError) as error:
        raise ValueError(f"{name!r}: its pickle is not one of a torch model: {error}") from error
    return TorchFile(name, root, frozenset(reader.names))
