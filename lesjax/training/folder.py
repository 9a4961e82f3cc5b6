"""Description of a training in its folder, and the check against other trainings."""

import importlib.metadata
import os
import platform

import jax
import jax.numpy as jnp

from lesjax.runs import RunFolder
from lesjax.schema import to_plain
from lesjax.training.config import RunConfig
from lesjax.training.prepare import Prepared


def run_folder(path: str | os.PathLike) -> RunFolder:
    """Return the folder of a training, or of a member of an ensemble."""
    return RunFolder(path, description="config.json", log="log.jsonl")


def has_begun(folder: RunFolder) -> bool:
    """Return whether a run has left anything in `folder` that another one would overwrite."""
    traces = ("model", folder.checkpoint.name, f"members/*/{folder.checkpoint.name}")
    return any(any(folder.path.glob(name)) for name in traces)


def check_folder(config: RunConfig, folder: RunFolder) -> None:
    """Raise ValueError if `folder` holds a run of another configuration, or a config.json of something else."""
    content = folder.read_description()
    if content is None or not has_begun(folder):
        return
    # a folder may have been moved, and `test` does not matter to the run
    free = {"output", "data.test"}
    if content["fingerprint"] is not None:  # the same files may have another path
        free |= {"data.train", "data.valid"}
    folder.check(to_plain(config), free=free)


def write_description(config: RunConfig, prepared: Prepared, folder: RunFolder) -> None:
    """Write the description of the run: settings, completed model, data, versions.

    Raises:
        ValueError: if `folder` holds a run on other data, or in another floating-point type.
    """
    dtype = str(jnp.zeros(()).dtype)
    content = folder.read_description() if has_begun(folder) else None
    if content is not None and content["dtype"] != dtype:
        raise ValueError(
            f"{str(folder.path)!r} holds a run in {content['dtype']}, and this one would be in {dtype}. Set the "
            f"environment variable JAX_ENABLE_X64={int(dtype == 'float32')} to resume, or choose another `output`."
        )
    recorded = None if content is None else content["fingerprint"]
    if None not in (recorded, prepared.fingerprint) and recorded != prepared.fingerprint:
        files = " and ".join(repr(name) for name in (config.data.train, config.data.valid) if name is not None)
        raise ValueError(
            f"{str(folder.path)!r} holds a run on other data: the content of {files} has changed since it began. "
            "Choose another `output`, or delete the folder."
        )
    packages = ("lesjax", "jax", "flax", "optax", "numpy", "ase", "vesin")
    folder.write_description(
        {
            "run": to_plain(config),
            "model": to_plain(prepared.model),
            "n_train": len(prepared.train),
            "n_valid": 0 if prepared.valid is None else len(prepared.valid),
            # data in memory have none
            "fingerprint": prepared.fingerprint or recorded,
            "shapes": [list(bucket.system.neighbors.shape) for bucket in prepared.train.buckets],
            "versions": {"python": platform.python_version(), **{p: _version(p) for p in packages}},
            "device": jax.devices()[0].device_kind,
            "dtype": dtype,
        }
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path, for example
        return "not installed"
