"""What a run keeps in its folder besides models and checkpoint: its description and its log."""

import dataclasses
import importlib.metadata
import json
import pathlib
import platform
import re
import shutil
from typing import Any

import jax
import jax.numpy as jnp

from lesjax.io import atomic_path, write_json
from lesjax.schema import build, differences, to_plain
from lesjax.training.config import RunConfig
from lesjax.training.prepare import Prepared


def has_begun(folder: pathlib.Path) -> bool:
    """Whether a run has left anything in `folder` that another one would overwrite."""
    checkpoint = "checkpoint.safetensors"
    return any(any(folder.glob(name)) for name in ("model", checkpoint, f"members/*/{checkpoint}"))


def check_folder(config: RunConfig, folder: pathlib.Path) -> None:
    """Raise ValueError if `folder` holds a run of another configuration, or a config.json that is not ours."""
    description = folder / "config.json"
    if not description.exists():
        return
    try:
        content = json.loads(description.read_text())
        # keys that an older version did not know get their defaults; a folder may have been moved
        there = build(RunConfig, {**content["run"], "output": config.output})
        # the same files may have another path, and `test` does not matter to the run
        same = {"test": config.data.test}
        if content.get("fingerprint") is not None:
            same |= {"train": config.data.train, "valid": config.data.valid}
        there = dataclasses.replace(there, data=dataclasses.replace(there.data, **same))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(description)!r} is damaged ({error}). Choose another `output`.") from error
    different = differences(to_plain(there), to_plain(config))
    if different and has_begun(folder):
        raise ValueError(
            f"{str(folder)!r} holds a run with other settings ({', '.join(different[:3])}). "
            "Choose another `output`, or delete the folder."
        )


def remove_leftovers(folder: pathlib.Path) -> None:
    """Remove temporary files of a run that was killed while it wrote them, named as `lesjax.io.atomic_path` does."""
    for place in (folder, folder / "model", folder / "model-last"):
        for path in list(place.glob(".*.tmp")):
            if re.fullmatch(r"\..+\.\d+\.tmp", path.name) is None:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def write_description(config: RunConfig, prepared: Prepared, folder: pathlib.Path) -> None:
    """Write what the run is: settings, completed model, data, versions.

    Raises:
        ValueError: if `folder` holds a run on other data, or in another floating-point type.
    """
    path, dtype = folder / "config.json", str(jnp.zeros(()).dtype)
    there = json.loads(path.read_text()) if path.exists() and has_begun(folder) else {}
    if there.get("dtype", dtype) != dtype:
        raise ValueError(
            f"{str(folder)!r} holds a run in {there['dtype']}, and this one would be in {dtype}. Set the environment "
            f"variable JAX_ENABLE_X64={int(dtype == 'float32')} to go on, or choose another `output`."
        )
    # a run of an older version has no fingerprint
    if there.get("fingerprint") is not None and prepared.fingerprint not in (None, there["fingerprint"]):
        files = " and ".join(repr(name) for name in (config.data.train, config.data.valid) if name is not None)
        raise ValueError(
            f"{str(folder)!r} holds a run on other data: the content of {files} is not what it was when it began. "
            "Choose another `output`, or delete the folder."
        )
    packages = ("lesjax", "jax", "flax", "optax", "numpy", "ase", "vesin")
    description = {
        "run": to_plain(config),
        "model": to_plain(prepared.model),
        "n_train": len(prepared.train),
        "n_valid": 0 if prepared.valid is None else len(prepared.valid),
        "fingerprint": prepared.fingerprint,
        "shapes": [list(bucket.system.neighbors.shape) for bucket in prepared.train.buckets],
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in packages}},
        "device": jax.devices()[0].device_kind,
        "dtype": dtype,
    }
    write_json(path, description)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path, for example
        return "not installed"


def read_log(path: str | pathlib.Path) -> list[dict[str, Any]]:
    """Records of a JSON-lines log; a last line that was cut off is left out."""
    records = []
    for line in pathlib.Path(path).read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def truncate_log(path: pathlib.Path, epoch: int) -> None:
    """Drop what was logged after the checkpoint: the run repeats it."""
    if path.exists():
        kept = [json.dumps(record) + "\n" for record in read_log(path) if record["epoch"] <= epoch]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(kept))
