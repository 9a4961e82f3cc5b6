"""Folders that belong to one run, a training or a simulation, and its progress bar.

A `RunFolder` holds a description of the run, a log and other files that grow, and a checkpoint. Each file appears whole
or not at all. A checkpoint knows the sizes of the growing files: a run that resumes cuts off what was written after it,
and writes the same again.
"""

import csv
import hashlib
import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lesjax.validate import differences, parse_json, read_json


try:
    import fcntl
except ImportError:  # not on Windows, where folders are not locked
    fcntl = None

# Format of description and checkpoint; others are refused.
FORMAT = 1


class Checkpoint(NamedTuple):
    """Content of a checkpoint: arrays, values of the host, and the sizes of the growing files in bytes."""

    arrays: dict[str, np.ndarray]
    host: dict[str, Any]
    sizes: dict[str, int]


class RunFolder:
    """A folder that belongs to one run.

    Attributes:
        path: the folder.
        description: JSON file that describes the run, with a format number and a hash of itself.
        log: JSON lines (``.jsonl``) or a table (``.csv``).
        growing: the log and other files that are only appended to.
        checkpoint: safetensors file with the state.
    """

    def __init__(self, path: str | os.PathLike, *, description: str, log: str, growing: Sequence[str] = ()) -> None:
        self.path = pathlib.Path(path)
        self.description, self.log = self.path / description, self.path / log
        self.growing = [self.log, *(self.path / name for name in growing)]
        self.checkpoint = self.path / "checkpoint.safetensors"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder, which is created if needed, and removed again if it stays empty.

        The lock is on the folder itself and ends with the process, however that ends.

        Raises:
            ValueError: if another process holds the lock.
        """
        new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        handle = None if fcntl is None else os.open(self.path, os.O_RDONLY)
        try:
            if fcntl is not None and handle is not None:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise ValueError(
                        f"Another process is working in {str(self.path)!r}: wait for it, stop it, or choose another "
                        "folder."
                    ) from None
                except OSError:  # a file system without locks
                    pass
            yield
        finally:
            if handle is not None:
                os.close(handle)
            if new:
                with suppress(OSError):
                    self.path.rmdir()

    def remove_leftovers(self, *subfolders: str) -> None:
        """Remove temporary files of a run that was killed while it wrote them, also in some subfolders."""
        for folder in (self.path, *(self.path / name for name in subfolders)):
            for path in list(folder.glob(".*.tmp")):
                if re.fullmatch(r"\..+\.\d+\.tmp", path.name) is None:  # named as `atomic_path` does
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    # the description ----------------------------------------------------------------------------------------------

    def write_description(self, content: Mapping[str, Any]) -> None:
        """Describe the run: the settings that `check` compares under ``run``, and anything else for people."""
        write_json(self.description, {"format": FORMAT, "hash": _hash(content), **content})

    def read_description(self) -> dict[str, Any] | None:
        """Return the content of the description; None where there is none.

        Raises:
            ValueError: for a file that is damaged, was edited, or is of another format.
        """
        if not self.description.exists():
            return None
        remedy = "Choose another folder, or delete it."
        content = read_json(self.description, remedy=remedy)
        if not isinstance(content, dict) or not {"format", "hash", "run"} <= content.keys():
            raise ValueError(f"{str(self.description)!r} is damaged: it does not describe a run. {remedy}")
        self._check_format(self.description, content.pop("format"))
        if content.pop("hash") != _hash(content):
            raise ValueError(f"{str(self.description)!r} is damaged: its content does not match its hash. {remedy}")
        return content

    def check(self, run: Mapping[str, Any], *, free: Collection[str] = ()) -> None:
        """Refuse a folder whose description has other settings under ``run``.

        Args:
            run: settings of this run.
            free: names, joined by dots, in which it may differ.

        Raises:
            ValueError: with the names of the settings, or for a damaged description.
        """
        content = self.read_description()
        if content is None:
            return
        different = [name for name in differences(content["run"], json.loads(json.dumps(run))) if name not in free]
        if different:
            raise ValueError(
                f"{str(self.path)!r} holds a run with other settings ({', '.join(different[:4])}). Choose another "
                "folder, or delete it."
            )

    # growing files -------------------------------------------------------------------------------------------------

    def append(self, row: Mapping[str, Any]) -> None:
        """Append a line to the log; the first one of a table is preceded by the names."""
        lines = []
        if self.log.suffix == ".jsonl":
            lines.append(json.dumps(row))
        else:
            if not self.log.exists():
                lines.append(",".join(row))
            lines.append(",".join(str(v) if isinstance(v, int) else f"{v:.14g}" for v in row.values()))
        with open(self.log, "a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def write_checkpoint(self, arrays: Mapping[str, np.ndarray], host: Mapping[str, Any]) -> None:
        """Write a checkpoint of the current state; an earlier one is replaced atomically."""
        sizes = {}
        for path in self.growing:
            if path.exists():
                with open(path, "rb") as file:  # on the disk before the checkpoint that counts on it
                    os.fsync(file.fileno())
                sizes[path.name] = path.stat().st_size
        content = json.dumps({"format": FORMAT, "sizes": sizes, **host})
        with atomic_path(self.checkpoint) as temporary:
            temporary.write_bytes(save(dict(arrays), metadata={"host": content}))

    def read_checkpoint(self) -> Checkpoint | None:
        """Return the last checkpoint; None where there is none.

        Raises:
            ValueError: for a file that is damaged or of another format.
        """
        if not self.checkpoint.exists():
            return None
        try:
            with safe_open(self.checkpoint, framework="numpy") as file:
                host = parse_json((file.metadata() or {})["host"], nonfinite=True)
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # not a dictionary
                format_number, sizes = host.pop("format"), host.pop("sizes")
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            model = self.path / "model"
            best = f"The best model so far is in {str(model)!r}. " if model.exists() else ""
            raise ValueError(
                f"The checkpoint {str(self.checkpoint)!r} is damaged: {error}. {best}Delete the checkpoint to start "
                "again."
            ) from error
        self._check_format(self.checkpoint, format_number)
        return Checkpoint(arrays, host, sizes)

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """Truncate the growing files to their sizes at a checkpoint; without one, remove them.

        Raises:
            ValueError: for a file that is shorter than at the checkpoint.
        """
        for path in self.growing:
            size = 0 if checkpoint is None else checkpoint.sizes.get(path.name, 0)
            if size == 0:
                path.unlink(missing_ok=True)
                continue
            if not path.exists() or path.stat().st_size < size:
                raise self.incomplete(path)
            with open(path, "rb+") as file:
                file.truncate(size)

    def incomplete(self, path: pathlib.Path) -> ValueError:
        """Return the error of a file that was cut or removed."""
        return ValueError(
            f"{str(path)!r} lacks what was written before the last checkpoint. Put it back, or delete "
            f"{str(self.path)!r} to start again."
        )

    def _check_format(self, path: pathlib.Path, format_number: object) -> None:
        if format_number != FORMAT:
            raise ValueError(
                f"{str(path)!r} is of format {format_number!r}, but this version of lesjax reads format {FORMAT}. "
                "Resume the run with the version that began it, or choose another folder."
            )


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_log(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read the records of a log of JSON lines; a last line that was cut off is left out.

    Raises:
        ValueError: for a damaged line before the last one.
    """
    lines, records = pathlib.Path(path).read_text(encoding="utf-8").splitlines(), []
    for i, line in enumerate(lines):
        try:
            records.append(parse_json(line, nonfinite=True))
        except ValueError as error:
            if i + 1 < len(lines):
                raise ValueError(f"Line {i + 1} of {str(path)!r} is damaged: {error}. Delete it.") from error
    return records


def read_table(path: str | os.PathLike) -> dict[str, Float[np.ndarray, " t"]]:
    """Read the columns of a log that is a table (CSV), by their names.

    Raises:
        ValueError: for a log without a line.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{str(path)!r} has no line.")
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


class atomic_path:
    """Yield a temporary path beside `path`, and move it to `path` when the block ends without an error."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = pathlib.Path(path)
        self.temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> pathlib.Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.temporary.unlink(missing_ok=True)
            return
        try:
            with open(self.temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(self.temporary, self.path)
        except BaseException:
            self.temporary.unlink(missing_ok=True)
            raise


def write_json(path: str | os.PathLike, content: object) -> None:
    """Write JSON; the file appears whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def progress_bar(unit: str, total: int, done: int, quiet: bool | None) -> Iterator[Callable[[int, str], None]]:
    """Yield a function of (number done, text beside the bar), which shows nothing if the output is not a terminal.

    Args:
        unit: name of the counted things, for example "step".
        total: their number.
        done: number that is done already.
        quiet: True for no bar, False for a bar in any case, None for a bar on a terminal.
    """
    if quiet or (quiet is None and not sys.stderr.isatty()):
        yield lambda completed, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(f"{unit} {{task.completed}}/{{task.total}}"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("compiling", total=total, completed=done)
        yield lambda completed, text: bar.update(task, completed=completed, description=text)
