"""Models on disk: a folder with JSON and safetensors. Nothing in it is executed when it is loaded."""

import json
import os
import pathlib
import shutil
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError
from safetensors.numpy import load_file, save as to_bytes

from lesjax.models.config import ModelConfig
from lesjax.runs import atomic_path
from lesjax.schema import build, to_plain
from lesjax.validate import read_json


FORMAT = 2
FILES = ("config.json", "params.safetensors")


def save(config: ModelConfig, variables: PyTree, path: str | os.PathLike) -> None:
    """Write a potential to the folder `path`; an earlier one there is replaced as a whole.

    Raises:
        ValueError: if `path` holds something else.
    """
    path = pathlib.Path(path)
    # a path ending in dots has no name to put a temporary folder beside
    path = path if path.name not in ("", "..") else path.resolve()
    contents = to_files(config, variables)
    if path.exists():
        # names with a dot may be left from a killed process
        if not path.is_dir() or {f.name for f in path.iterdir() if not f.name.startswith(".")} - set(FILES):
            raise ValueError(f"There is something other than a lesjax model at {str(path)!r}. Choose another path.")
        config_file = path / "config.json"
        if not config_file.exists() or config_file.read_bytes() == contents["config.json"]:
            # writing only the parameters is one move: the model exists at every moment
            for name in FILES[1:] if config_file.exists() else FILES[::-1]:
                with atomic_path(path / name) as temporary:
                    temporary.write_bytes(contents[name])
            return
    replace_folder(path, contents)


def to_files(config: ModelConfig, variables: PyTree) -> dict[str, bytes]:
    """Return the files of a potential by their names."""
    description = json.dumps({"format": FORMAT, "config": to_plain(config)}, indent=2) + "\n"
    return dict(zip(FILES, (description.encode(), to_bytes(flatten(variables))), strict=True))


def replace_folder(path: pathlib.Path, contents: Mapping[str, bytes]) -> None:
    """Atomically replace the folder at `path` by one with these files (names below it)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, replaced = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        for name, content in contents.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_bytes(content)
        if path.exists():
            os.replace(path, replaced)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if replaced.exists() and not path.exists():
            os.replace(replaced, path)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def is_ensemble(path: str | os.PathLike) -> bool:
    """Return whether `path` is a folder with potentials in folders ``0``, ``1``, …"""
    path = pathlib.Path(path)
    return all((path / "0" / name).is_file() for name in FILES) and not (path / FILES[0]).exists()


def read(path: str | os.PathLike) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Read the configuration and the flat parameters of a potential that `save` wrote.

    Raises:
        FileNotFoundError: if `path` is not such a folder.
        ValueError: for an ensemble, a damaged file, or one from a version that this one cannot read.
    """
    path = pathlib.Path(path)
    description, parameters = path / "config.json", path / "params.safetensors"
    missing = [file.name for file in (description, parameters) if not file.is_file()]
    if missing and is_ensemble(path):
        raise ValueError(
            f"{str(path)!r} is an ensemble: read it with `lesjax.models.load_ensemble`, or one member, "
            f"as {str(path / '0')!r}."
        )
    if missing:
        hint = f" That of this training is {str(path / 'model')!r}." if (path / "model").is_dir() else ""
        raise FileNotFoundError(f"{str(path)!r} is not a lesjax model: it has no {' and no '.join(missing)}.{hint}")
    data = read_json(description, remedy="Take another copy of the model.")
    version = data.get("format") if isinstance(data, dict) else None
    if version != FORMAT:
        raise ValueError(
            f"{str(description)!r} is of format {version!r}, but this version of lesjax reads format {FORMAT}: load it "
            "with the version that saved it, or train the model again."
        )
    try:
        config = build(ModelConfig, data["config"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{str(description)!r} does not describe a model: {error}") from error
    try:
        return config, load_file(parameters)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{str(parameters)!r} is damaged: {error}. Take another copy of the model.") from error


def flatten(tree: PyTree) -> dict[str, np.ndarray]:
    """Arrays of a pytree under the names of their paths."""
    # a numpy array that shares or reverses memory would be written as it lies there
    return {jax.tree_util.keystr(p): np.asarray(x, order="C") for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten(like: PyTree, arrays: dict[str, np.ndarray], source: str) -> PyTree:
    """Inverse of `flatten` for a tree of the structure, shapes and dtypes of `like`, arrays or their shapes.

    Raises:
        ValueError: for arrays that are missing, left over, or of another shape.
    """
    leaves = jax.tree_util.tree_leaves_with_path(like)
    names = [jax.tree_util.keystr(p) for p, _ in leaves]
    wrong = sorted(set(names) ^ set(arrays))
    wrong += [n for n, (_, x) in zip(names, leaves, strict=True) if n in arrays and arrays[n].shape != x.shape]
    if wrong:
        raise ValueError(f"{source!r} does not fit the model in {wrong[:3]}: it belongs to another configuration.")
    values = [jnp.asarray(arrays[n], dtype=x.dtype) for n, (_, x) in zip(names, leaves, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(like), values)
