"""Common functions of the benchmarks: timing, training, reference data, and results written as JSON."""

import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from lesjax.files import atomic_path
from lesjax.models import Potential
from lesjax.models.cace.convert import convert_weights
from lesjax.published import convert
from lesjax.runs import read_log


ROOT = pathlib.Path(__file__).resolve().parent
SHARED = pathlib.Path(os.environ.get("LESJAX_SHARED", ROOT.parent.parent / "shared"))

# the source of all `reference_torch_...` in the results
TORCH_TIMINGS = (
    "typed in, measured by no command here: the published PyTorch code on 2 CPU cores, as handed over with the "
    "reference data, without its versions and its number of threads"
)


def shared(relative: str) -> pathlib.Path:
    """Return a file of the shared data; exits with a message if it is absent."""
    path = SHARED / relative
    if not path.exists():
        sys.exit(f"This benchmark needs {relative}, looked for below {SHARED}; set LESJAX_SHARED to its folder.")
    return path


def published_potential(relative: str) -> Potential:
    """Load a published model of the shared data, weights or a file as published, in JAX's default dtype."""
    if not relative.endswith(".npz"):
        return convert(shared(relative))
    dtype = jax.dtypes.canonicalize_dtype(float)
    with np.load(shared(relative)) as file:
        weights = {key[2:]: file[key].astype(dtype) for key in file.files if key.startswith("w/")}
        return convert_weights(json.loads(str(file["info"])), weights)


def interleaved(functions: dict[str, Callable[[], object]], rounds: int = 15) -> tuple[dict, dict]:
    """Median run time (ms) and first-call time (s) of each function, run in turn so that noise hits all alike."""
    first = {}
    for name, function in functions.items():
        start = time.perf_counter()
        jax.block_until_ready(function())
        first[name] = round(time.perf_counter() - start, 3)
        for _ in range(2):
            jax.block_until_ready(function())
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: round(float(np.median(t)), 4) for name, t in times.items()}, first


def train(config: str, settings: Sequence[str], folder: pathlib.Path) -> dict:
    """Run `lesjax train` into `folder`, or resume the run there; exits if it fails.

    Returns:
        The settings, epochs, seconds of all calls (compilation and evaluations included, on a machine that may be
        shared) and the metrics that the command wrote.
    """
    command = [sys.executable, "-m", "lesjax", "train", config, "--set", f"output={folder}"]
    start = time.monotonic()
    result = subprocess.run([*command, *(part for setting in settings for part in ("--set", setting))], check=False)
    if result.returncode != 0:
        sys.exit(f"{folder.name}: the training ended with an error.")
    print(f"{folder.name}: {time.monotonic() - start:.0f} s in this call", flush=True)
    log = folder / "log.jsonl"
    last = read_log(log if log.exists() else folder / "members" / "0" / "log.jsonl")[-1]
    return {
        "config": config,
        "settings": list(settings),
        "epochs": last["epoch"],
        "seconds": round(last["seconds"]),
        "metrics": json.loads((folder / "metrics.json").read_text()),
    }


def kept(metrics: Mapping[str, Mapping], keys: Sequence[str]) -> dict[str, dict]:
    """The metrics of each part with these keys, where it has them."""
    return {part: {key: values[key] for key in keys if key in values} for part, values in metrics.items()}


def charge_sizes(folder: pathlib.Path) -> dict[str, float]:
    """Smallest, first and last root mean square of the latent charges in the validations of a run; empty without."""
    sizes = [record["charges_size"] for record in read_log(folder / "log.jsonl") if "charges_size" in record]
    return {"smallest": min(sizes), "first": sizes[0], "last": sizes[-1]} if sizes else {}


def read_result(path: str | pathlib.Path | None) -> dict:
    """Read a result file; nothing where there is none."""
    return json.loads(pathlib.Path(path).read_text()) if path and pathlib.Path(path).exists() else {}


def read_runs(path: str | pathlib.Path | None) -> dict[str, dict]:
    """Read the runs of an existing result file, by their names."""
    result = read_result(path)
    return result["runs"] if result else {}


def write_json(path: str | pathlib.Path, result: dict) -> None:
    """Write a result with its device and command; the file appears whole or not at all."""
    precision = ["JAX_ENABLE_X64=1"] if jax.config.jax_enable_x64 else []
    header = {
        "command": " ".join([*precision, "python", f"benchmarks/{pathlib.Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}",
        "jax": jax.__version__,
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({**header, **result}, indent=1) + "\n")
