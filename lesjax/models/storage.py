"""Models on disk: a folder with JSON and safetensors. Nothing in it is executed when it is loaded."""

import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lesjax.models import config as configuration
from lesjax.models.potential import Potential, initial_parameters


FORMAT = 1


def save(potential: Potential, path: str | os.PathLike) -> None:
    """Write a potential to the folder `path`; an earlier one there is replaced as a whole."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    description = {"format": FORMAT, "config": configuration.to_dict(potential.config)}
    (temporary / "config.json").write_text(json.dumps(description, indent=2) + "\n")
    save_file(flatten(potential.params), temporary / "params.safetensors")
    replaced = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        os.replace(path, replaced)
    os.replace(temporary, path)
    shutil.rmtree(replaced, ignore_errors=True)


def load(path: str | os.PathLike) -> Potential:
    """Read a potential that `save` wrote, in JAX's default floating-point type.

    Raises:
        FileNotFoundError: if `path` is no such folder.
        ValueError: for a damaged file, or one from a version that this one cannot read.
    """
    path = pathlib.Path(path)
    description, parameters = path / "config.json", path / "params.safetensors"
    missing = [file.name for file in (description, parameters) if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"{str(path)!r} is not a lesjax model: it has no {' and no '.join(missing)}.")
    try:
        data = json.loads(description.read_text())
    except ValueError as error:
        raise ValueError(f"{str(description)!r} is damaged: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"{str(description)!r} is not of format {FORMAT}, which this version of lesjax reads.")
    config = configuration.from_dict(data["config"])
    try:
        arrays = load_file(parameters)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{str(parameters)!r} is damaged: {error}. Take another copy of the model.") from error
    return Potential(params=unflatten(initial_parameters(config, seed=0), arrays, str(parameters)), config=config)


def flatten(tree: PyTree) -> dict[str, np.ndarray]:
    """Arrays of a pytree under the names of their paths."""
    # a numpy array that shares or reverses memory would be written as it lies there
    return {jax.tree_util.keystr(p): np.ascontiguousarray(x) for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def unflatten(like: PyTree, arrays: dict[str, np.ndarray], source: str) -> PyTree:
    """Inverse of `flatten` for a tree of the structure, shapes and dtypes of `like`.

    Raises:
        ValueError: for arrays that are missing, left over, or of another shape.
    """
    leaves = jax.tree_util.tree_leaves_with_path(like)
    names = [jax.tree_util.keystr(p) for p, _ in leaves]
    wrong = sorted(set(names) ^ set(arrays))
    wrong += [n for n, (_, x) in zip(names, leaves, strict=True) if n in arrays and arrays[n].shape != np.shape(x)]
    if wrong:
        raise ValueError(f"{source!r} does not fit the model in {wrong[:3]}: it belongs to another configuration.")
    values = [jnp.asarray(arrays[n], dtype=jnp.asarray(x).dtype) for n, (_, x) in zip(names, leaves, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(like), values)
