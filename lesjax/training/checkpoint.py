"""Checkpoints: one safetensors file that is there whole or not at all.

The arrays are the state of the training step, and the file's metadata holds what the host keeps.
"""

import json
import os
import pathlib
from typing import Any

from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lesjax.io import atomic_path
from lesjax.models.storage import flatten, unflatten


def save_checkpoint(path: str | os.PathLike, state: PyTree, host: dict[str, Any]) -> None:
    """Write state and host values; an earlier checkpoint is replaced in one move."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(flatten(state), metadata={"host": json.dumps(host)}))


def load_checkpoint(path: str | os.PathLike, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """Read a checkpoint into the structure of `like`.

    Raises:
        ValueError: for a damaged file or one of another model.
    """
    path = pathlib.Path(path)
    try:
        with safe_open(path, framework="numpy") as file:
            host = json.loads((file.metadata() or {})["host"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # it is no dictionary
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"The checkpoint {str(path)!r} is damaged: {error}. The best model so far is in "
            f"{str(path.with_name('model'))!r}; delete the checkpoint to train from the start."
        ) from error
    return unflatten(like, arrays, str(path)), host
