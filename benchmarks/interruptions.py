"""Trainings and simulations that are stopped at random moments and started again, beside ones that were not stopped.

    JAX_ENABLE_X64=1 python benchmarks/interruptions.py --json benchmarks/results/interruptions.json

Each of 20 trainings and 20 simulations, these in all ensembles and both formats of the trajectory, runs as a process of
the command `lesjax` and gets SIGKILL, SIGTERM, SIGINT or SIGHUP in each of five stages of its life: while it imports
and reads (start), while it compiles, without a cache of compiled functions (compilation), at a line of its log (steps),
while the file of a checkpoint is written (checkpoint), and after the last line of its log (end). The same command then
ends it. `done` is the number of lines in the log at the stop, `status` that of the stopped process, `message` its last
line, `equal` whether checkpoint, logs, models and trajectory are those of the run without a stop, byte for byte (in the
log of a training but for the seconds), `left` what temporary files remain. 8 ions with Lennard-Jones forces, from a
fixed seed. Runs that nobody stops are in one process, which compiles once.
"""

import argparse
import contextlib
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
from typing import NamedTuple

import ase.build
import jax
import numpy as np
from ase.calculators.lj import LennardJones
from common import write_json
from safetensors.numpy import load_file

from lesjax import cli, io
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
STAGES = ("start", "compilation", "steps", "checkpoint", "end")
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


class Stage(NamedTuple):
    """When a signal is sent.

    Attributes:
        name: of the stage.
        lines: lines that the log has at least.
        seconds: wait so long from then on.
    """

    name: str
    lines: int
    seconds: float


def command(words: list[str], folder: pathlib.Path, cache: str = "cache") -> subprocess.Popen:
    """Start `lesjax` in a folder; compiled functions are in a folder there."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / cache), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.Popen(
        [sys.executable, "-m", "lesjax", *words],
        cwd=folder, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def lines_of(run: pathlib.Path) -> int:
    """Number of lines in the log of a run; that of a simulation has one with the names of its columns."""
    log = next((run / name for name in ("log.jsonl", "log.csv") if (run / name).exists()), None)
    return 0 if log is None else log.read_bytes().count(b"\n") - (log.suffix == ".csv")


def described(run: pathlib.Path) -> bool:
    """Return whether a run has checked and read everything, and begins to compile."""
    return any((run / name).exists() for name in ("config.json", "settings.json"))


def finish(words: list[str]) -> None:
    """Run `lesjax` to its end, in this process."""
    with contextlib.redirect_stdout(None):
        status = cli.main(words)
    if status:
        sys.exit(f"lesjax {' '.join(words)} ended with {status}")


def measure(words: list[str], folder: pathlib.Path, run: str) -> tuple[float, float]:
    """Run `lesjax` to its end; returns the seconds up to its description, and those after the last line of its log."""
    started, begun, last = time.monotonic(), 0.0, (0, 0.0)
    process = command(words, folder)
    while process.poll() is None:
        now = time.monotonic() - started
        if not begun and described(folder / run):
            begun = now
        last = max(last, (lines_of(folder / run), -now))  # the first moment of the largest number
        time.sleep(0.005)
    return begun, time.monotonic() - started + last[1]


def stop(words: list[str], folder: pathlib.Path, run: str, number: signal.Signals, stage: Stage) -> dict:
    """Run `lesjax`, and send it a signal in a stage of its life."""
    compiles = stage.name == "compilation"
    with tempfile.TemporaryDirectory(dir=folder) as empty:
        process = command(words, folder, empty if compiles else "cache")
        started = time.monotonic()
        while process.poll() is None and (
            lines_of(folder / run) < stage.lines or (compiles and not described(folder / run))
        ):
            time.sleep(0.0005)
        if stage.name == "checkpoint":
            while process.poll() is None and not list((folder / run).glob(".checkpoint.*.tmp")):
                pass
        else:
            time.sleep(stage.seconds)
        process.send_signal(number)
        _, error = process.communicate()
    lines = error.splitlines()
    return {
        "stage": stage.name, "signal": number.name, "seconds": round(time.monotonic() - started, 2),
        "done": lines_of(folder / run), "status": process.returncode, "lines": len(lines),
        "message": lines[-1] if lines else "",
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
    names += ["metrics.json", "settings.json", *(f"{model}/params.safetensors" for model in ("model", "model-last"))]
    names = [name for name in names if (whole / name).exists()]
    different = [name for name in names if not (run / name).exists() or content(run / name) != content(whole / name)]
    left = sorted(path.relative_to(run).as_posix() for path in run.rglob(".*"))
    return {"equal": not different, "different": different, "left": left}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the result there")
    parser.add_argument("--trainings", type=int, default=20)
    parser.add_argument("--simulations", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, runs = random.Random(arguments.seed), {}
    moments = list(itertools.product(STAGES, SIGNALS))
    for number in SIGNALS[1:]:  # a process that ignores some, as by nohup, would hand that down
        signal.signal(number, signal.SIG_DFL)
    home = pathlib.Path.cwd()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        write_inputs(folder, arguments.epochs)
        os.chdir(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder / "cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

        def repeat(run: str, words: list[str], whole: str, spans: tuple[float, float], moment: tuple) -> None:
            (name, number), lines = moment, lines_of(folder / whole)
            wanted = {"steps": rng.randrange(1, lines), "checkpoint": rng.randrange(1, lines // 2), "end": lines}
            longest = {"start": spans[0], "compilation": 2.0, "steps": 0.05, "end": spans[1]}
            stage = Stage(name, wanted.get(name, 0), rng.uniform(0.0, longest.get(name, 0.0)))
            stopped = stop(words, folder, run, number, stage)
            finish(words)
            runs[run] = stopped | compare(folder / run, folder / whole)
            print(run, json.dumps(runs[run]), flush=True)

        words = ["train", "config.toml", "--quiet", "--set"]
        finish([*words, "output=whole"])
        spans = measure([*words, "output=training"], folder, "training")
        for i in range(arguments.trainings):
            run = f"training-{i}"
            repeat(run, [*words, f"output={run}"], "whole", spans, moments[i % len(moments)])

        cases = list(itertools.product(("xyz", "traj"), ENSEMBLES))
        spans = None
        for i in range(arguments.simulations):
            form, ensemble = cases[i % len(cases)]
            words = ["md", "whole/model", "start.xyz", "--quiet", "--ensemble", ensemble, "--format", form]
            for option, value in (
                ("steps", arguments.steps), ("timestep", 0.25), ("temperature", 50), ("log-every", 10),
                ("frame-every", 20), ("checkpoint-every", 50),
            ):  # fmt: skip
                words += [f"--{option}", str(value)]
            whole = f"{ensemble}-{form}"
            if not (folder / whole).exists():
                finish([*words, "--out", whole])
            if spans is None:
                spans = measure([*words, "--out", "simulation"], folder, "simulation")
            run = f"{whole}-{i}"
            repeat(run, [*words, "--out", run], whole, spans, moments[i % len(moments)])
        os.chdir(home)
    unequal = [name for name, run in runs.items() if not run["equal"] or run["left"]]
    print(f"{len(runs)} runs, {len(unequal)} of them not as without a stop {unequal}")
    if arguments.json:
        write_json(arguments.json, {"runs": runs, "unequal": unequal})


if __name__ == "__main__":
    main()
