"""Models on disk: a folder with JSON and safetensors. Nothing in it is executed when it is loaded."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save as to_bytes

from lesjax.files import atomic_path, naming, sync
from lesjax.models.config import ModelConfig
from lesjax.models.provenance import Provenance
from lesjax.schema import build, to_plain
from lesjax.validate import parse_json, read_json


SHIPPED = pathlib.Path(__file__).with_name("shipped")  # made by `python -m data_generation.models`
FORMAT = 2
FILES = ("config.json", "params.safetensors")
DTYPES = ("F32", "F64")
# Bytes; those of all elements with their energies, and their charges in 32 channels, take half.
MAX_DESCRIPTION = 2**19


def save(config: ModelConfig, variables: PyTree, path: str | os.PathLike, provenance: Provenance | None = None) -> None:
    """Write a potential to the folder `path`; an earlier one there is replaced as a whole.

    Raises:
        ValueError: if `path` holds something else.
    """
    path = pathlib.Path(path)
    # a path ending in dots has no name to put a temporary folder beside
    path = path if path.name not in ("", "..") else path.resolve()
    contents = to_files(config, variables, provenance)
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


def to_files(config: ModelConfig, variables: PyTree, provenance: Provenance | None = None) -> dict[str, bytes]:
    """Return the files of a potential by their names."""
    content = {"format": FORMAT, "config": to_plain(config)}
    if provenance is not None:
        content["provenance"] = to_plain(provenance)
    description = json.dumps(content, indent=2) + "\n"
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
            with naming(temporary / name):
                (temporary / name).write_bytes(content)
            sync(temporary / name)
        _move(temporary, path, replaced)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        if replaced.exists() and not path.exists():
            os.replace(replaced, path)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _move(temporary: pathlib.Path, path: pathlib.Path, replaced: pathlib.Path) -> None:
    """Move a folder to `path`, and one that is there to `replaced`; of processes that do so at once, the last stays."""
    while True:
        shutil.rmtree(replaced, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, replaced)
        try:
            return os.replace(temporary, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def locate(path: str | os.PathLike) -> pathlib.Path:
    """Return `path`, or the folder of the shipped model of that name if nothing is there."""
    path = pathlib.Path(path)
    return SHIPPED / path if str(path) in shipped() and not path.exists() else path


def shipped() -> list[str]:
    """Names of the models shipped with lesjax."""
    return sorted(file.parent.name for file in SHIPPED.glob(f"*/{FILES[0]}"))


def is_ensemble(path: str | os.PathLike) -> bool:
    """Return whether `path` is a folder with potentials in folders ``0``, ``1``, …"""
    path = pathlib.Path(path)
    return all((path / "0" / name).is_file() for name in FILES) and not (path / FILES[0]).exists()


def read(path: str | os.PathLike) -> tuple[ModelConfig, dict[str, np.ndarray], Provenance | None]:
    """Read the configuration, the flat parameters and the provenance of a potential that `save` wrote.

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
        hint = f" The model of this training is {str(path / 'model')!r}." if (path / "model").is_dir() else ""
        if not path.exists():
            hint = f" Shipped with lesjax: {', '.join(shipped())}."
        raise FileNotFoundError(f"{str(path)!r} is not a lesjax model: it has no {' and no '.join(missing)}.{hint}")
    if description.stat().st_size > MAX_DESCRIPTION:
        raise ValueError(
            f"{str(description)!r} does not describe a model: it has {description.stat().st_size} bytes, more than "
            f"{MAX_DESCRIPTION}."
        )
    data = read_json(description, remedy="Take another copy of the model.")
    version = data.get("format") if isinstance(data, dict) else None
    if type(version) is not int or version != FORMAT:
        raise ValueError(
            f"{str(description)!r} is of format {version!r}, but this version of lesjax reads format {FORMAT}: load it "
            "with the version that saved it, or train the model again."
        )
    try:
        if unknown := sorted(data.keys() - {"format", "config", "provenance"}):
            raise ValueError(f"Unknown key `{unknown[0]}`.")
        config = build(ModelConfig, data["config"])
        provenance = build(Provenance, data["provenance"], "provenance.") if "provenance" in data else None
        if not config.short_range.elements:
            raise ValueError("`config.short_range.elements` is empty.")
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        reason = str(error) if len(str(error)) < 400 else f"{str(error)[:300]} …"
        raise ValueError(f"{str(description)!r} does not describe a model: {reason}") from error
    return config, _read_arrays(parameters, config), provenance


def _read_arrays(path: pathlib.Path, config: ModelConfig) -> dict[str, np.ndarray]:
    """Read the parameters, once their sizes are known to be those of the configuration.

    Raises:
        ValueError: for a damaged file, arrays of another model, entries that are no finite floating-point numbers, or
            one name twice.
    """
    try:
        with safe_open(path, framework="numpy"):  # checks lengths before anything is read by them
            pass
        with open(path, "rb") as file:
            header = parse_json(file.read(int.from_bytes(file.read(8), "little")).decode())
        shapes = {name: tuple(about["shape"]) for name, about in header.items() if name != "__metadata__"}
        for name in shapes:
            if header[name]["dtype"] not in DTYPES:
                raise ValueError(f"{name} has numbers of type {header[name]['dtype']}, which parameters never have")
        _refuse([name for name, shape in sizes(config).items() if shapes.get(name) != shape], str(path))
        arrays = load_file(path)
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name} has numbers that are not finite")
    except OtherModelError:
        raise
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}. Take another copy of the model.") from error
    return arrays


def sizes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of some arrays of a model, in which each size of its configuration occurs, without tracing the model.

    Those of the short-range model are there if its configuration has a method `shapes`.
    """
    short_range = getattr(config.short_range, "shapes", dict)()
    shapes: dict[tuple[str, ...], tuple[int, ...]] = {
        ("params", "short_range", *name.split("/")): shape for name, shape in short_range.items()
    }
    hidden = {"energy": config.hidden}
    if config.long_range is not None:
        charges = config.long_range.charges
        shapes[("signs",)] = (charges.n_channels,)
        hidden["charges"] = getattr(charges, "hidden", ())
        if config.long_range.separate_features:
            shapes |= {("params", "charges", *name[1:]): shape for name, shape in shapes.items() if name[0] == "params"}
    if config.dispersion is not None:
        hidden["dispersion"] = config.dispersion.hidden
    for part, widths in hidden.items():
        shapes |= {
            ("params", part, "readout", "layer0", f"hidden{i}", "bias"): (width,) for i, width in enumerate(widths)
        }
    return {"".join(f"[{part!r}]" for part in name): shape for name, shape in shapes.items()}


class OtherModelError(ValueError):
    """Arrays are not those of the configuration."""


def _refuse(names: list[str], source: str) -> None:
    if names:
        raise OtherModelError(f"{source!r} does not fit the model in {names[:3]}: it belongs to another configuration.")


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
    _refuse(wrong, source)
    values = [np.asarray(arrays[n], dtype=x.dtype) for n, (_, x) in zip(names, leaves, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(like), jax.device_put(values))
