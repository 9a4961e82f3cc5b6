"""Train CACE and CACE-LES on the molecular dimers and compare with the published errors.

    JAX_ENABLE_X64=1 python benchmarks/dimers.py --json benchmarks/results/dimers.json

Ten training frames per class, three test frames at the largest separations. The shipped configurations
`dimers_les` and `dimers_short_range`; each run can be stopped and started again, and finished runs are kept in the
folder `--work`. ``--plot`` draws the dissociation curve of CC. RMSE of the total energy and of the force components.
"""

import argparse
import json
import pathlib
import time

import ase
import jax
import numpy as np
from common import shared, write_json

from lesjax import io
from lesjax.models import Potential, load
from lesjax.system import System
from lesjax.training import load_config, train


# energy (meV) / forces (meV/Å): short range, LES (Cheng 2025; King et al. 2025)
PUBLISHED = {
    "CC": ((566, 63.5), (5.8, 6.9)),
    "CP": ((82, 52), (11.1, 8.6)),
    "PP": ((15, 8.8), (3.2, 3.0)),
    "CA": ((7.0, 3.5), (3.5, 1.3)),
    "PA": ((1.1, 1.5), (0.75, 1.2)),
    "AA": ((1.5, 1.1), (1.4, 0.94)),
}
MODELS = ("short_range", "les")
KEYS = io.Keys(energy=("inter_energy",))


def interaction_energy(potential: Potential, atoms: ase.Atoms) -> tuple[float, np.ndarray]:
    """Energy with the reference energies in float64, and forces."""
    prediction = potential(System.from_ase(atoms, cutoff=potential.cutoff))
    reference = potential.config.reference_energy(atoms.numbers)
    return float(prediction.interaction_energy) + reference, np.asarray(prediction.forces, float)


def errors(potential: Potential, frames: list[ase.Atoms]) -> tuple[float, float]:
    """RMSE of the total energy, meV, and of the force components, meV/Å."""
    energy_errors, force_errors = [], []
    for atoms in frames:
        label = io.labels(atoms, KEYS)
        energy, forces = interaction_energy(potential, atoms)
        energy_errors.append(energy - float(label.energy))
        force_errors.append((forces - label.forces).ravel())
    return (
        1e3 * float(np.sqrt(np.mean(np.square(energy_errors)))),
        1e3 * float(np.sqrt(np.mean(np.concatenate(force_errors) ** 2))),
    )


def one_run(name: str, model: str, seed: int, work: pathlib.Path) -> dict:
    """Train, or take what is there, and evaluate."""
    folder = work / f"{name}_{model}_{seed}"
    done = folder / "result.json"
    if done.exists():
        return json.loads(done.read_text())
    settings = [f"data.train={shared(f'data/dimers/{name}_train.xyz')}", f"output={folder}", f"training.seed={seed}"]
    start = time.monotonic()
    potential = train(load_config(f"dimers_{model}", settings))
    seconds = time.monotonic() - start
    train_error = errors(potential, io.read(shared(f"data/dimers/{name}_train.xyz")))
    test_error = errors(potential, io.read(shared(f"data/dimers/{name}_test.xyz")))
    result = {
        "class": name, "model": model, "seed": seed, "seconds": round(seconds, 1),
        "train_energy_meV": round(train_error[0], 3), "train_forces_meV_A": round(train_error[1], 3),
        "test_energy_meV": round(test_error[0], 3), "test_forces_meV_A": round(test_error[1], 3),
    }  # fmt: skip
    with io.atomic_path(done) as temporary:
        temporary.write_text(json.dumps(result))
    print(result, flush=True)
    return result


def plot(work: pathlib.Path, path: str, seed: int) -> None:
    """Dissociation curve of CC: reference, short range, LES."""
    from matplotlib.figure import Figure

    from lesjax.training import plots

    frames = {part: io.read(shared(f"data/dimers/CC_{part}.xyz")) for part in ("train", "test")}
    everything = sorted(frames["train"] + frames["test"], key=lambda atoms: atoms.info["distance"])
    distance = [atoms.info["distance"] for atoms in everything]
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axes = figure.subplots()
    for model, label, color in (("short_range", "short range", plots.COLORS[1]), ("les", "LES", plots.COLORS[0])):
        potential = load(work / f"CC_{model}_{seed}" / "model")
        axes.plot(distance, [interaction_energy(potential, a)[0] for a in everything], color=color, label=label)
    for part, marker in (("train", "o"), ("test", "s")):
        energies = [a.info["inter_energy"] for a in frames[part]]
        filled = "0.2" if part == "train" else "none"
        label = f"reference, {'training' if part == 'train' else 'test'} frames"
        axes.plot([a.info["distance"] for a in frames[part]], energies, marker, color="0.2", mfc=filled, label=label)
    axes.set(xlabel="distance of the molecules (Å)", ylabel="interaction energy (eV)", title="Charged dimer (CC)")
    axes.legend(frameon=False)
    plots.save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default=None)
    parser.add_argument("--plot", default=None)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/dimers"))
    parser.add_argument("--classes", nargs="+", default=list(PUBLISHED), choices=list(PUBLISHED))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    runs = [
        one_run(name, model, seed, arguments.work)
        for seed in arguments.seeds
        for name in arguments.classes
        for model in arguments.models
    ]
    table = {}
    for name in arguments.classes:
        table[name] = {"published_short_range": PUBLISHED[name][0], "published_les": PUBLISHED[name][1]}
        for model in arguments.models:
            own = [run for run in runs if (run["class"], run["model"]) == (name, model)]
            table[name][model] = {
                key: round(float(np.median([run[key] for run in own])), 3)
                for key in ("test_energy_meV", "test_forces_meV_A", "train_energy_meV", "train_forces_meV_A", "seconds")
            }
        print(name, json.dumps(table[name]))
    if arguments.json:
        content = {"dtype": str(jax.numpy.zeros(()).dtype), "median_of_seeds": arguments.seeds}
        write_json(arguments.json, {**content, "table": table, "runs": runs})
    if arguments.plot:
        plot(arguments.work, arguments.plot, arguments.seeds[0])


if __name__ == "__main__":
    main()
