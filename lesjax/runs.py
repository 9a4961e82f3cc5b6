"""Folders that belong to one run, a training or a simulation.

A `RunFolder` holds a description of the run, a log and other files that grow, and a checkpoint. Each file appears whole
or not at all. A checkpoint knows the sizes of the growing files: a run that resumes cuts off what was written after it,
and writes the same again.
"""

import csv
import fnmatch
import hashlib
import json
import os
import pathlib
import re
import shutil
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lesjax.files import atomic_path, check_writable, naming, seal, sync, write_json
from lesjax.schema import flat
from lesjax.validate import differences, parse_json, read_json


try:
    import fcntl
except ImportError:  # not on Windows, where folders are not locked
    fcntl = None

# Format of description and checkpoint; others are refused.
FORMAT = 2


class Checkpoint(NamedTuple):
    """Arrays, values of the host, sizes of the growing files in bytes, and how far the run was, as "epoch 3"."""

    arrays: dict[str, np.ndarray]
    host: dict[str, Any]
    sizes: dict[str, int]
    at: str


class RunFolder:
    """A folder that belongs to one run.

    Attributes:
        path: the folder.
        description: JSON file that describes the run, with a format number and a hash of itself.
        log: JSON lines (``.jsonl``) or a table (``.csv``).
        growing: the log and other files that are only appended to.
        checkpoint: safetensors file with the state.
        names: patterns of the names of everything that the run writes.
        free: names, joined by dots, of settings that may change when the run resumes.
    """

    def __init__(
        self,
        path: str | os.PathLike, *, description: str, log: str, growing: Sequence[str] = (), others: Sequence[str] = (),
        free: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.path = pathlib.Path(path)
        self.description, self.log = self.path / description, self.path / log
        self.growing = [self.log, *(self.path / name for name in growing)]
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.names = (description, self.checkpoint.name, log, *growing, *others)
        self.free = frozenset(free)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder, which is created if needed, and removed again if it stays empty.

        The lock is on the folder itself and ends with the process, however that ends.

        Raises:
            ValueError: if another process has it, or a file its name.
        """
        new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:  # or a link to nothing
            raise ValueError(f"{str(self.path)!r} is a file: choose another folder.") from error
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
        """Remove temporary files of a run that was killed while it wrote them, also in some subfolders.

        A folder that was moved aside for its successor goes back where that did not arrive.
        """
        for folder in (self.path, *(self.path / name for name in subfolders)):
            for path in list(folder.glob(".*")):
                parts = re.fullmatch(r"\.(.+)\.\d+\.(tmp|old)", path.name)  # named by `atomic_path`, `replace_folder`
                if parts is None or not self.writes(parts[1]):
                    continue
                if parts[2] == "old" and not (folder / parts[1]).exists():
                    os.replace(path, folder / parts[1])
                elif path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def writes(self, name: str) -> bool:
        """Return whether a name is one of a file or folder that the run writes."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.names)

    def write_description(self, content: Mapping[str, Any]) -> None:
        """Describe the run: the settings that `check` compares under ``run``, and anything else for people.

        The version of lesjax is that which began the run.
        """
        begun = self.read_description() if self.checkpoint.exists() else None
        version = lesjax_version() if begun is None else begun.get("lesjax")
        content = {"lesjax": version, **content}
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
        if content.pop("hash") != _hash(content) or not isinstance(content["run"], dict):
            raise ValueError(f"{str(self.description)!r} is damaged: its content does not match its hash. {remedy}")
        return content

    def check_files(self) -> None:
        """Refuse a folder without a description that holds files, which no run of ours has written.

        Hidden files and folders of other names may be there: a run does not touch them.

        Raises:
            ValueError: with their names, for a checkpoint that has lost its description, or a damaged description.
            PermissionError: for a folder in which nothing can be written.
        """
        check_writable(self.path)
        if not self.path.is_dir() or self.read_description() is not None:
            return
        paths = [path for path in self.path.iterdir() if not path.name.startswith(".")]
        names = [path.name for path in paths if not path.is_dir() or self.writes(path.name)]
        names.sort(key=lambda name: (self.writes(name), name))
        if self.checkpoint.name in names and self.writes(names[0]):
            raise ValueError(
                f"{str(self.path)!r} has no {self.description.name} beside {self.checkpoint.name}: nothing says which "
                f"run that belongs to. Put {self.description.name} back, or choose another folder."
            )
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            raise ValueError(
                f"{str(self.path)!r} holds what this run did not write ({', '.join(names[:4])}{more}). Choose another "
                "folder, one that is empty or does not exist."
            )

    def check(self, run: Mapping[str, Any], *, dtype: str | None = None, free: Collection[str] | None = None) -> None:
        """Refuse a folder that holds other files, or a run of other settings; nothing is touched.

        Warns of a run that another version of lesjax began.

        Args:
            run: settings of this run.
            dtype: its floating-point type.
            free: names, joined by dots, in which it may differ; by default those of the folder.

        Raises:
            ValueError: with the names of files or settings, for a damaged description or checkpoint, a checkpoint
                of other settings, or files that are shorter than at the checkpoint.
        """
        self.check_files()
        if (content := self.read_description()) is None:
            return
        if dtype is not None and content.get("dtype") != dtype:
            raise ValueError(
                f"{str(self.path)!r} holds a run in {content.get('dtype')}, and this one would be in {dtype}. Set the "
                f"environment variable JAX_ENABLE_X64={int(dtype == 'float32')} to resume, or choose another folder."
            )
        free = self.free if free is None else free
        different = [name for name in differences(content["run"], json.loads(json.dumps(run))) if name not in free]
        if different:
            raise ValueError(
                f"{str(self.path)!r} holds a run with other settings ({', '.join(different[:4])}). Choose another "
                "folder, or delete it."
            )
        checkpoint = self.read_checkpoint()
        self._check_sizes(checkpoint)
        if checkpoint is not None and content.get("lesjax") != lesjax_version():
            warnings.warn(
                f"{str(self.path)!r} holds a run that lesjax {content.get('lesjax')} began, and this is "
                f"{lesjax_version()}: what follows may differ from what that version would have written.",
                stacklevel=2,
            )

    def append(self, row: Mapping[str, Any]) -> None:
        """Append a line to the log; the first one of a table is preceded by the names."""
        if self.log.suffix == ".jsonl":
            text = json.dumps(row)
        else:
            head = "" if self.log.exists() else ",".join(row) + "\n"
            text = head + ",".join(str(v) if isinstance(v, int) else f"{v:.14g}" for v in row.values())
        if not self.path.exists():
            raise self.gone(self.path)
        with naming(self.log), open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def write_checkpoint(self, arrays: Mapping[str, np.ndarray], host: Mapping[str, Any], at: str) -> None:
        """Write a checkpoint of the current state; an earlier one is replaced atomically.

        Raises:
            FileNotFoundError: if the description is gone, and so perhaps the folder.
        """
        if (description := self.read_description()) is None:
            raise self.gone(self.description)
        sizes = {}
        for path in self.growing:
            if path.exists():
                sync(path)  # on the disk before the checkpoint that counts on it
                sizes[path.name] = path.stat().st_size
        about = {"format": FORMAT, "settings": self._settings(description), "sizes": sizes, "at": at}
        about |= host
        # one entry: safetensors writes several in any order, and the same checkpoint must have the same bytes
        text = json.dumps({"hash": seal(arrays, json.dumps(about)), **about})
        with atomic_path(self.checkpoint) as temporary:
            temporary.write_bytes(save(dict(arrays), metadata={"host": text}))

    def read_checkpoint(self) -> Checkpoint | None:
        """Return the last checkpoint; None where there is none.

        Raises:
            ValueError: for a file that is damaged, of another format, or of other settings than the description.
        """
        if not self.checkpoint.exists():
            return None
        try:
            with safe_open(self.checkpoint, framework="numpy") as file:
                host = parse_json((file.metadata() or {})["host"], nonfinite=True)
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # not a dictionary
                digest = host.pop("hash", None)
                if host["format"] == FORMAT and digest != seal(arrays, json.dumps(host)):
                    raise ValueError("its content does not match its hash")
                format_number, sizes = host.pop("format"), host.pop("sizes")
                settings, at = host.pop("settings", None), host.pop("at", "")
        except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, OSError) as error:
            model = self.path / "model"
            best = f"The best model so far is in {str(model)!r}. " if model.exists() else ""
            raise ValueError(
                f"The checkpoint {str(self.checkpoint)!r} is damaged: {error}. {best}Delete the checkpoint to start "
                "again."
            ) from error
        self._check_format(self.checkpoint, format_number)
        description = self.read_description()
        if description is None:
            self.check_files()
        elif settings != self._settings(description):
            raise ValueError(
                f"The checkpoint {str(self.checkpoint)!r} is of other settings than {self.description.name} beside it. "
                "Put back the one that belongs to it, or choose another folder."
            )
        return Checkpoint(arrays, host, sizes, at)

    def _settings(self, description: Mapping[str, Any]) -> str:
        """Hash of the settings that do not change when the run resumes."""
        return _hash({name: value for name, value in flat(description["run"]).items() if name not in self.free})

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """Truncate the growing files to their sizes at a checkpoint; without one, remove them.

        Raises:
            ValueError: for a file that is shorter than at the checkpoint; nothing is touched.
        """
        sizes = self._check_sizes(checkpoint)
        for path in self.growing:
            if not sizes.get(path.name):
                path.unlink(missing_ok=True)
            else:
                os.truncate(path, sizes[path.name])

    def _check_sizes(self, checkpoint: Checkpoint | None) -> dict[str, int]:
        """Return the sizes of the growing files at a checkpoint, once all are known to be that long."""
        sizes = {} if checkpoint is None else checkpoint.sizes
        for path in self.growing:
            if (size := sizes.get(path.name, 0)) and not (path.exists() and path.stat().st_size >= size):
                raise self.incomplete(path)
        return sizes

    def kept(self) -> str:
        """Say which checkpoints a run that was stopped has left, for a message."""
        with suppress(ValueError, OSError):
            checkpoint = self.read_checkpoint()
            if checkpoint is not None:
                return f"kept in {str(self.path)!r}: all up to {checkpoint.at}; the same command resumes from there"
            if members := len(list(self.path.glob(f"members/*/{self.checkpoint.name}"))):
                return f"kept in {str(self.path)!r}: checkpoints of {members} members; the same command resumes there"
        return f"no checkpoint in {str(self.path)!r} yet: the same command starts again"

    def incomplete(self, path: pathlib.Path) -> ValueError:
        """Return the error of a file or folder that was cut or removed."""
        return ValueError(
            f"{str(path)!r} lacks what was written before the last checkpoint. Put it back, or delete "
            f"{str(self.path)!r} to start again."
        )

    def gone(self, path: pathlib.Path) -> FileNotFoundError:
        """Return the error of a file or folder that somebody removed from under the run."""
        return FileNotFoundError(f"{str(path)!r} is gone while the run works: start it anew.")

    def _check_format(self, path: pathlib.Path, format_number: object) -> None:
        if type(format_number) is not int or format_number != FORMAT:
            raise ValueError(
                f"{str(path)!r} is of format {format_number!r}, but this version of lesjax reads format {FORMAT}. "
                "Resume the run with the version that began it, or choose another folder."
            )


def simulation_folder(path: str | os.PathLike, trajectory: str = "xyz") -> RunFolder:
    """Return the folder of a simulation, with the format of its trajectory."""
    names = {"growing": [f"trajectory.{trajectory}"], "others": ("trajectory.*", "final.xyz", "md.png")}
    return RunFolder(path, description="settings.json", log="log.csv", free={"steps"}, **names)


def lesjax_version() -> str:
    """Version of lesjax that runs."""
    return sys.modules["lesjax"].__version__


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_log(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read the records of a log of JSON lines; a last line that was cut off is left out.

    Raises:
        ValueError: for a damaged line before the last one.
    """
    lines, records = pathlib.Path(path).read_text(encoding="utf-8", errors="replace").splitlines(), []
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
