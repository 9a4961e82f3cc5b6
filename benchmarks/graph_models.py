"""MACE and NequIP of lesjax against mace-torch, mlip and nequip: energy and forces, and a training step, in one run.

    python benchmarks/graph_models.py --python mace-torch=A/bin/python mlip=A/bin/python nequip=B/bin/python \\
        --json benchmarks/results/graph_models.json

Each engine runs in a process of its own, mace-torch and nequip in environments of their own (they need different
versions of e3nn): `pip install mace-torch mlip` and `pip install nequip`. The processes run in turn, so that other load
of the machine affects all alike; medians over the turns, compilation apart. Random parameters, float32.

Tasks: energy and forces of water, 192 and 1536 atoms, cutoff 4.5 Å; the gradient of a squared error of energies and
forces of four dipeptides, cutoff 4 Å (data of ../shared, see the README of the data). "lesjax LES" has the sum over
latent charges in addition. The first call of the torch engines compiles nothing.
"""

import argparse
import json
import pathlib
import sys
import tempfile

import ase.io
import numpy as np
from common import read_result, shared, write_json
from engine_process import Worker
from graph_model_engines import ENGINES, MODELS

from lesjax import System


WORKER = pathlib.Path(__file__).with_name("graph_model_engines.py")
ENVIRONMENT = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # e3nn 0.4 reads its constants with pickle
# file, its part, repetitions, cutoff, whether a training step
TASKS = {
    "water 192": ("data/water/rpbe_d3_40.xyz", "0", 1, 4.5, False),
    "water 1536": ("data/water/rpbe_d3_40.xyz", "0", 2, 4.5, False),
    "training step, 4 dipeptides": ("data/dipeptides/train.xyz", ":4", 1, 4.0, True),
}


def structures(task: str, folder: pathlib.Path) -> tuple[pathlib.Path, dict]:
    """Write the structures of a task with their labels; returns the file and options of the engines."""
    name, part, repeats, cutoff, training = TASKS[task]
    frames = [atoms.repeat(repeats) for atoms in ase.io.read(shared(name), part if ":" in part else f"{part}:1")]
    for atoms in frames:
        if training:
            atoms.calc = ase.calculators.singlepoint.SinglePointCalculator(
                atoms, energy=atoms.info.get("energy", 0.0), forces=atoms.arrays["force"]
            )
            atoms.pbc = False
        for key in list(atoms.arrays):
            if key not in ("numbers", "positions"):
                del atoms.arrays[key]
        atoms.info = {}
    path = folder / f"{task.replace(' ', '_').replace(',', '')}.xyz"
    ase.io.write(path, frames)
    counts = np.concatenate([System.from_ase(a, cutoff=cutoff).neighbor_mask.sum(axis=1) for a in frames])
    return path, {"cutoff": cutoff, "neighbors": round(float(counts.mean()), 3), "training": training}


def measure(task: str, model: str, engines: dict[str, str], turns: int, threads: int, folder: pathlib.Path) -> dict:
    """All engines on one task and model, timed in turn."""
    path, options = structures(task, folder)
    rows, workers = {}, {}
    for engine, python in engines.items():
        options_text = json.dumps({**options, "threads": threads})
        worker = Worker([python, "-W", "ignore", WORKER, engine, model, path, options_text], ENVIRONMENT)
        rows[engine] = dict(worker.reply)
        if "error" in worker.reply:
            worker.close()
        else:
            workers[engine], rows[engine]["times"] = worker, []
    order, rng = list(workers), np.random.default_rng(0)
    for _ in range(turns):
        # in random order: one that always followed another would pay for memory that this gives back
        for engine in rng.permutation(order).tolist():
            rows[engine]["times"].append(workers[engine].ask("1"))
    for engine, worker in workers.items():
        times = rows[engine].pop("times")
        rows[engine] |= {"ms": round(float(np.median(times)), 2), "ms_min": round(min(times), 2), **worker.ask("end")}
    return {"task": task, "model": model, "n_turns": turns, **options, "engines": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=None, help="results; those of other tasks and models that it has are kept")
    parser.add_argument("--python", nargs="*", default=[], metavar="ENGINE=PATH", help="interpreters of other engines")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES, metavar="ENGINE")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="threads of torch; jax takes all cores")
    arguments = parser.parse_args()
    pythons = dict(item.split("=", 1) for item in arguments.python)
    path = pathlib.Path(arguments.json) if arguments.json else None
    result = read_result(path)
    cases = result["cases"] if result else []
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            for task in arguments.tasks:
                kind = MODELS[model]["kind"]
                engines = {e: pythons.get(e, sys.executable) for e in arguments.engines if kind in ENGINES[e]}
                case = measure(task, model, engines, arguments.turns, arguments.threads, pathlib.Path(folder))
                cases = [c for c in cases if (c["task"], c["model"]) != (task, model)] + [case]
                own = case["engines"]["lesjax"].get("ms", np.nan)
                for engine, row in case["engines"].items():
                    print(f"{model:20} {task:28} {engine:12} {row} ratio {row.get('ms', np.nan) / own:.2f}", flush=True)
                if path:
                    write_json(path, {"dtype": "float32", "cases": cases})


if __name__ == "__main__":
    main()
