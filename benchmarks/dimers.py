"""Train CACE and CACE-LES on the molecular dimers and compare with the published errors.

    JAX_ENABLE_X64=1 python benchmarks/dimers.py --json benchmarks/results/dimers.json

``--data shared``: the published sets, ten training frames per class and three test frames at the largest separations.
``--data shipped``: the first pair and orientation of each class of the sets shipped with lesjax (GFN2-xTB, open
boundaries), 3 to 9 Å to train and 9.5 to 15 Å to test, to which the published errors do not apply; used if the shared
folder is absent. No frame is used for validation: the training loss selects the epoch.

The configurations `dimers_les` and `dimers_short_range`; each run can be stopped and started again, and finished runs
are kept in the folder `--work`. The result file keeps other runs. ``--plot`` draws the dissociation curve of
CC. RMSE of the total energy and of the force components, and the largest error of the interaction energy of a test
frame, relative to it.
"""

import argparse
import json
import pathlib
from dataclasses import dataclass

import ase
import jax
import numpy as np
from common import SHARED, shared, write_json

import lesjax.files
from lesjax import datasets, io
from lesjax.models import Potential, load
from lesjax.runs import read_log
from lesjax.system import System
from lesjax.training import load_config, train


@dataclass(frozen=True)
class Published:
    """Published errors of the test frames, energy (meV) and forces (meV/Å), and the model that they belong to."""

    of: str
    short_range: tuple[float, float] | None
    les: tuple[float, float]


CHECKPOINT = "checkpoint, four channels"
# Cheng 2025; King et al. 2025. The first of each class is of models with four channels of charges, as ours are.
PUBLISHED = {
    "CC": (
        Published("four channels", (372, 49), (14.6, 5.9)),
        Published("one channel", (566, 63.5), (5.8, 8.3)),
        Published("checkpoint, one channel", None, (3.75, 6.9)),
    ),
    "CP": (Published(CHECKPOINT, (82, 52), (11.1, 8.6)),),
    "PP": (Published(CHECKPOINT, (15, 8.8), (3.2, 3.0)),),
    "CA": (Published(CHECKPOINT, (7.0, 3.5), (3.5, 1.3)),),
    "PA": (Published(CHECKPOINT, (1.1, 1.5), (0.75, 1.2)),),
    "AA": (Published(CHECKPOINT, (1.5, 1.1), (1.4, 0.94)),),
}
MODELS = ("short_range", "les")
KEY = ("class", "model", "seed")
KEYS = io.Keys(energy=("inter_energy",), forces=("forces",))


def interaction_energy(potential: Potential, atoms: ase.Atoms) -> tuple[float, np.ndarray]:
    """Energy with the reference energies in float64, and forces."""
    prediction = potential(System.from_ase(atoms, cutoff=potential.cutoff))
    return float(prediction.total_energy), np.asarray(prediction.forces, float)


def data_file(data: str, name: str, part: str, work: pathlib.Path) -> pathlib.Path:
    """Return the file of a class and part; for the shipped sets it is written first."""
    if data == "shared":
        return shared(f"data/dimers/{name}_{part}.xyz")
    path = work / f"shipped_{name}_{part}.xyz"
    if not path.exists():
        frames = datasets.load(f"dimers_{name}_{part}")
        first = frames[0].info
        io.write(path, [a for a in frames if all(a.info[key] == first[key] for key in ("pair", "orientation"))])
    return path


def run_folder(arguments: argparse.Namespace, name: str, model: str, seed: int) -> pathlib.Path:
    """Folder of a run."""
    return arguments.work / f"{'shipped_' if arguments.data == 'shipped' else ''}{name}_{model}_{seed}"


def errors(potential: Potential, frames: list[ase.Atoms]) -> tuple[float, float, float]:
    """RMSE of the total energy, meV, and of the force components, meV/Å; largest relative error of the energy."""
    energies, energy_errors, force_errors = [], [], []
    for atoms in frames:
        label = io.labels(atoms, KEYS)
        energy, forces = interaction_energy(potential, atoms)
        energies.append(float(label.energy))
        energy_errors.append(energy - float(label.energy))
        force_errors.append((forces - label.forces).ravel())
    return (
        1e3 * float(np.sqrt(np.mean(np.square(energy_errors)))),
        1e3 * float(np.sqrt(np.mean(np.concatenate(force_errors) ** 2))),
        float(np.max(np.abs(energy_errors) / np.abs(energies))),
    )


def one_run(name: str, model: str, seed: int, arguments: argparse.Namespace) -> dict:
    """Train, or use the finished run, and evaluate."""
    folder = run_folder(arguments, name, model, seed)
    done = folder / "result.json"
    if done.exists() and "test_energy_relative" in (result := json.loads(done.read_text())):
        return result
    files = {part: data_file(arguments.data, name, part, arguments.work) for part in ("train", "test")}
    frames = {part: io.read(file) for part, file in files.items()}
    settings = [
        f"data.train={files['train']}",
        f"output={folder}",
        f"training.seed={seed}",
        f"training.batch_size={len(frames['train'])}",  # one batch, for L-BFGS
        *arguments.set,
    ]
    potential = train(load_config(f"dimers_{model}", settings))
    train_error, test_error = errors(potential, frames["train"]), errors(potential, frames["test"])
    result = {
        "class": name, "model": model, "seed": seed, "seconds": round(read_log(folder / "log.jsonl")[-1]["seconds"], 1),
        "train_energy_meV": round(train_error[0], 3), "train_forces_meV_A": round(train_error[1], 3),
        "test_energy_meV": round(test_error[0], 3), "test_forces_meV_A": round(test_error[1], 3),
        "test_energy_relative": round(test_error[2], 5),
    }  # fmt: skip
    lesjax.files.write_json(done, result)
    print(result, flush=True)
    return result


def other_runs(path: str | None, runs: list[dict], **facts: str) -> list[dict]:
    """Runs of an existing result file with the same `facts`, without those that `runs` repeats."""
    if path is None or not pathlib.Path(path).exists():
        return []
    content = json.loads(pathlib.Path(path).read_text())
    if any(content[key] != value for key, value in facts.items()):
        return []
    new = {tuple(run[key] for key in KEY) for run in runs}
    return [run for run in content["runs"] if tuple(run[key] for key in KEY) not in new]


def table_of(runs: list[dict]) -> dict[str, dict]:
    """Medians over the seeds by class and model."""
    table = {}
    for name in PUBLISHED:
        of_class = [run for run in runs if run["class"] == name]
        if not of_class:
            continue
        table[name] = {}
        for model in MODELS:
            of_model = [run for run in of_class if run["model"] == model]
            if of_model:
                keys = [key for key in of_model[0] if key not in KEY]
                table[name][model] = {k: round(float(np.median([run[k] for run in of_model])), 5) for k in keys}
                table[name][model]["seeds"] = sorted(run["seed"] for run in of_model)
    return table


def plot(arguments: argparse.Namespace) -> None:
    """Dissociation curve of CC: reference, short range, LES."""
    from matplotlib.figure import Figure

    from lesjax.training import plots

    files = {part: data_file(arguments.data, "CC", part, arguments.work) for part in ("train", "test")}
    frames = {part: io.read(file) for part, file in files.items()}
    everything = sorted(frames["train"] + frames["test"], key=lambda atoms: atoms.info["distance"])
    distance = [atoms.info["distance"] for atoms in everything]
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axes = figure.subplots()
    for model, label, color in (("short_range", "short range", plots.COLORS[1]), ("les", "LES", plots.COLORS[0])):
        potential = load(run_folder(arguments, "CC", model, arguments.seeds[0]) / "model")
        axes.plot(distance, [interaction_energy(potential, a)[0] for a in everything], color=color, label=label)
    for part, marker in (("train", "o"), ("test", "s")):
        energies = [a.info["inter_energy"] for a in frames[part]]
        filled = "0.2" if part == "train" else "none"
        label = f"reference, {'training' if part == 'train' else 'test'} frames"
        axes.plot([a.info["distance"] for a in frames[part]], energies, marker, color="0.2", mfc=filled, label=label)
    axes.set(xlabel="distance of the molecules (Å)", ylabel="interaction energy (eV)", title="Charged dimer (CC)")
    axes.legend(frameon=False)
    plots.save(figure, arguments.plot)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "shared" if (SHARED / "data/dimers").exists() else "shipped"
    parser.add_argument("--data", choices=("shared", "shipped"), default=default, help=f"here by default {default}")
    parser.add_argument("--json", default=None)
    parser.add_argument("--plot", default=None)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/dimers"))
    parser.add_argument("--classes", nargs="+", default=list(PUBLISHED), choices=list(PUBLISHED))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="as for lesjax train")
    arguments = parser.parse_args()
    dtype = str(jax.numpy.zeros(()).dtype)
    new_runs = [
        one_run(name, model, seed, arguments)
        for seed in arguments.seeds
        for name in arguments.classes
        for model in arguments.models
    ]
    runs = [*other_runs(arguments.json, new_runs, data=arguments.data, dtype=dtype), *new_runs]
    table = table_of(runs)
    for name, entry in table.items():
        print(name, json.dumps(entry))
    if arguments.json:
        write_json(arguments.json, {"dtype": dtype, "data": arguments.data, "table": table, "runs": runs})
    if arguments.plot:
        plot(arguments)


if __name__ == "__main__":
    main()
