"""Description of a training in its folder, and the check against other trainings."""

import importlib.metadata
import os
import platform

import jax

from lesjax.models.storage import read
from lesjax.runs import RunFolder
from lesjax.schema import to_plain
from lesjax.training.config import RunConfig
from lesjax.training.prepare import Prepared


MODELS = ("model", "model-last")


def run_folder(path: str | os.PathLike) -> RunFolder:
    """Return the folder of a training, or of a member of an ensemble."""
    others = (*MODELS, "params.safetensors", "members", "metrics.json", "learning_curve.png")
    return RunFolder(
        path,
        description="config.json",
        log="log.jsonl",
        others=(*others, "parity_*.png", "calibration_*.png"),
        # a folder may have been moved, data too, and `test` does not matter to the run
        free={"output", "data.train", "data.valid", "data.test", "data.replay", "training.start_from"},
    )


def has_begun(folder: RunFolder) -> bool:
    """Return whether a run has left more than its description and a log, which another one would overwrite."""
    least = {folder.description.name, folder.log.name, "members"}
    paths = [*folder.path.glob("*"), *folder.path.glob("members/*/*")]
    return any(folder.writes(path.name) and path.name not in least for path in paths)


def check_folder(config: RunConfig, folder: RunFolder) -> None:
    """Refuse a folder of another run, of files that no run wrote, or of a run of which parts are gone.

    Raises:
        ValueError: see `RunFolder.check`; and where the models that belong to a checkpoint are gone or damaged.
    """
    folder.check_files()
    content = folder.read_description()
    if content is not None and has_begun(folder):
        # without a fingerprint nothing but its path tells the data
        free = (
            folder.free
            if content.get("fingerprint") is not None
            else folder.free - {"data.train", "data.valid", "data.replay"}
        )
        folder.check(to_plain(config), dtype=_dtype(), free=free)
        for model in (folder.path / name for name in MODELS if folder.checkpoint.exists()):
            try:
                read(model)
            except FileNotFoundError as error:
                raise folder.incomplete(model) from error


def write_description(config: RunConfig, prepared: Prepared, folder: RunFolder) -> None:
    """Write the description of the run: settings, completed model, data, versions.

    Raises:
        ValueError: if `folder` holds a run on other data.
    """
    content = folder.read_description() if has_begun(folder) else None
    recorded = None if content is None else content.get("fingerprint")
    if None not in (recorded, prepared.fingerprint) and recorded != prepared.fingerprint:
        files = " and ".join(repr(name) for name in (config.data.train, config.data.valid) if name is not None)
        raise ValueError(
            f"{str(folder.path)!r} holds a run on other data: the content of {files} has changed since it began. "
            "Choose another `output`, or delete the folder."
        )
    digest = None if prepared.start is None else prepared.start.digest
    if content is not None and content.get("start") != digest:
        raise ValueError(
            f"{str(folder.path)!r} holds a run that started from another model: the content of "
            f"{config.training.start_from!r} has changed since it began. Choose another `output`, or delete the folder."
        )
    packages = ("jax", "flax", "optax", "numpy", "ase", "vesin")
    folder.write_description(
        {
            "run": to_plain(config),
            "model": to_plain(prepared.model),
            "n_train": len(prepared.train),
            "n_valid": 0 if prepared.valid is None else len(prepared.valid),
            # data in memory have none
            "fingerprint": prepared.fingerprint or recorded,
            # hash of the model that it started from
            "start": digest,
            "shapes": [list(bucket.system.neighbors.shape) for bucket in prepared.train.buckets],
            "versions": {"python": platform.python_version(), **{p: _version(p) for p in packages}},
            "device": jax.devices()[0].device_kind,
            "dtype": _dtype(),
        }
    )


def _dtype() -> str:
    return str(jax.dtypes.canonicalize_dtype(float))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path, for example
        return "not installed"
