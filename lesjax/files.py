"""Files that appear whole or not at all, and errors that name them."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import numpy as np


class atomic_path:
    """Give a temporary path beside `path`, and move it there when the block ends without an error."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = pathlib.Path(path)
        self.temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> pathlib.Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        with naming(self.path):
            try:
                if error is not None:
                    if isinstance(error, OSError) and str(error.filename) == str(self.temporary):
                        error.filename = str(self.path)
                    raise error
                sync(self.temporary)
                os.replace(self.temporary, self.path)
            except BaseException:
                self.temporary.unlink(missing_ok=True)
                raise
        with suppress(OSError):  # folders cannot be opened everywhere
            sync(self.path.parent)


@contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Put the path into errors of the system that have none, as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_writable(folder: pathlib.Path) -> None:
    """Raise PermissionError for a folder, there or to be made, in which nothing can be written."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        raise PermissionError(f"{str(place)!r} cannot be written: choose another folder, or make it writable.")


def sync(path: pathlib.Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: str | os.PathLike, content: object) -> None:
    """Write JSON; the file appears whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def seal(arrays: Mapping[str, np.ndarray], text: str) -> str:
    """Return the hash of arrays and a text, by which damage shows that leaves the numbers finite."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
