"""Trainings and simulations that are stopped at random moments and started again, beside ones that were not stopped.

    JAX_ENABLE_X64=1 python benchmarks/interruptions.py --json benchmarks/results/interruptions.json

Each of 20 trainings and 20 simulations, these in all ensembles and both formats of the trajectory, runs as a process of
the command `lesjax` and gets SIGKILL, SIGTERM, SIGINT or SIGHUP, in turn, at a moment between its start and its end.
The same command then ends it. `status` is that of the stopped process, `message` its last line, `equal` whether
checkpoint, logs, models and trajectory are those of the run without a stop, byte for byte (in the log of a training but
for the seconds), `left` what temporary files remain. 8 ions with Lennard-Jones forces, from a fixed seed.
"""

import argparse
import itertools
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import ase.build
import numpy as np
from ase.calculators.lj import LennardJones
from common import write_json
from safetensors.numpy import load_file

from lesjax import io
from lesjax.dynamics.integrators import ENSEMBLES
from lesjax.runs import read_log


CONFIG = """
output = "unused"
[data]
train = "train.xyz"
[model]
hidden = [4]
[model.short_range]
cutoff = 3.6
n_bessel = 3
n_radial = 2
n_embedding = 1
max_l = 1
max_nu = 1
[model.long_range]
k_cutoff = 2.0
[model.long_range.charges]
hidden = [4]
[training]
batch_size = 4
checkpoint_seconds = 0.0
[[training.phases]]
epochs = {epochs}
"""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def write_inputs(folder: pathlib.Path, epochs: int) -> None:
    """Structures with labels, the configuration of a training and the start of a simulation."""
    rng, frames = np.random.default_rng(0), []
    for _ in range(12):
        atoms = ase.build.bulk("NaCl", "rocksalt", a=5.4, cubic=True)
        atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
        atoms.calc = LennardJones(sigma=2.4, epsilon=0.1, rc=4.8, smooth=True)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
        atoms.info["REF_energy"] = energy
        atoms.set_array("REF_forces", forces)
        frames.append(atoms)
    io.write(folder / "train.xyz", frames)
    start = frames[0].copy()
    start.arrays.pop("REF_forces")
    start.info.clear()
    io.write(folder / "start.xyz", [start])
    (folder / "config.toml").write_text(CONFIG.format(epochs=epochs))


def command(words: list[str], folder: pathlib.Path) -> subprocess.Popen:
    """Start `lesjax` in a folder; compiled functions are shared by all of them."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.Popen(
        [sys.executable, "-m", "lesjax", *words],
        cwd=folder, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(words: list[str], folder: pathlib.Path) -> float:
    """Run `lesjax` to its end; returns the seconds."""
    started = time.monotonic()
    process = command(words, folder)
    _, error = process.communicate()
    if process.returncode:
        sys.exit(f"lesjax {' '.join(words)}: {error}")
    return time.monotonic() - started


def stop(words: list[str], folder: pathlib.Path, number: signal.Signals, moment: float) -> dict:
    """Run `lesjax`, and send it a signal after some seconds."""
    process = command(words, folder)
    time.sleep(moment)
    process.send_signal(number)
    _, error = process.communicate()
    lines = error.splitlines()
    return {
        "signal": number.name, "seconds": round(moment, 2), "status": process.returncode,
        "lines": len(lines), "message": lines[-1] if lines else "",
    }  # fmt: skip


def content(path: pathlib.Path) -> object:
    """What two files are compared by."""
    if path.suffix == ".jsonl":
        return [{name: value for name, value in record.items() if name != "seconds"} for record in read_log(path)]
    if path.name == "checkpoint.safetensors":  # whose progress knows the seconds
        return {name: (array.shape, array.tobytes()) for name, array in load_file(path).items()}
    return path.read_bytes()


def compare(run: pathlib.Path, whole: pathlib.Path) -> dict:
    """Say whether a run ended as one that was not stopped, and what is left of the stop."""
    names = ["checkpoint.safetensors", "log.jsonl", "log.csv", "trajectory.xyz", "trajectory.traj", "final.xyz"]
    names += [f"{model}/params.safetensors" for model in ("model", "model-last")]
    names = [name for name in names if (whole / name).exists()]
    different = [name for name in names if not (run / name).exists() or content(run / name) != content(whole / name)]
    left = sorted(path.relative_to(run).as_posix() for path in run.rglob(".*"))
    return {"equal": not different, "different": different, "left": left}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the result there")
    parser.add_argument("--trainings", type=int, default=20)
    parser.add_argument("--simulations", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, signals = random.Random(arguments.seed), itertools.cycle(SIGNALS)
    runs: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        write_inputs(folder, arguments.epochs)

        def repeat(name: str, words: list[str], option: list[str], whole: str, seconds: float) -> None:
            stopped = stop([*words, *option], folder, next(signals), rng.uniform(0.0, seconds))
            finish([*words, *option], folder)
            runs[name] = stopped | compare(folder / name, folder / whole)
            print(name, json.dumps(runs[name]), flush=True)

        words = ["train", "config.toml", "--quiet", "--set"]
        finish([*words, "output=whole"], folder)  # compiles
        seconds = finish([*words, "output=training"], folder)
        for i in range(arguments.trainings):
            repeat(f"training-{i}", words, [f"output=training-{i}"], "training", seconds)

        cases = list(itertools.product(("xyz", "traj"), ENSEMBLES))
        wholes: dict[str, float] = {}
        for i in range(arguments.simulations):
            form, ensemble = cases[i % len(cases)]
            words = ["md", "whole/model", "start.xyz", "--quiet", "--ensemble", ensemble, "--format", form]
            for option, value in (
                ("steps", arguments.steps), ("timestep", 0.25), ("temperature", 50), ("log-every", 10),
                ("frame-every", 20), ("checkpoint-every", 50),
            ):  # fmt: skip
                words += [f"--{option}", str(value)]
            whole = f"{ensemble}-{form}"
            if whole not in wholes:
                wholes[whole] = finish([*words, "--out", whole], folder)
            repeat(f"{whole}-{i}", words, ["--out", f"{whole}-{i}"], whole, wholes[whole])
    unequal = [name for name, run in runs.items() if not run["equal"] or run["left"]]
    print(f"{len(runs)} runs, {len(unequal)} of them not as without a stop {unequal}")
    if arguments.json:
        write_json(arguments.json, {"runs": runs, "unequal": unequal})


if __name__ == "__main__":
    main()
