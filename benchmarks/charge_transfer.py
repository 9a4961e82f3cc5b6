"""Charge transfer and charge states: what reaches a non-local state, by composition, with charges and the path.

    python benchmarks/charge_transfer.py --json benchmarks/results/charge_transfer.json \\
        --plot docs/images/charge_transfer.png

Sets, all shipped, labelled with GFN1-xTB: `na9cl8` (only Na9Cl8+ of the set `charge_transfer`), `charge_transfer`
(Na8Cl8+ and Na9Cl8+), `carbon_chains` (C10H2, C10H3+) and `silver_trimers` (Ag3+, Ag3-). Each model is the
configuration `charge_transfer` of lesjax/configs with the settings in `MODELS`; the test frames are of trajectories of
their own and chose nothing: the best epoch is that of a tenth of the training frames. Charges are compared with
Mulliken's, as they are and after the one factor that fits them best.

Each run can be stopped and started again; finished ones are kept in the folder `--work`, and the result file keeps
other runs. Runs are named set/model/seed.
"""

import argparse
import dataclasses
import pathlib
import sys

import numpy as np
from common import charge_sizes, kept, read_result, train, write_json

import lesjax.files
from lesjax import datasets, io
from lesjax.models import Potential, load
from lesjax.training import evaluate, plots


SETS = {
    "na9cl8": ("charge_transfer", "Na9Cl8+"),
    "charge_transfer": ("charge_transfer", None),
    "carbon_chains": ("carbon_chains", None),
    "silver_trimers": ("silver_trimers", None),
}
SHORT_RANGE, STATES = "model.long_range=false", 'model.state_inputs=["total_charge","spin_multiplicity"]'
EQUILIBRATED = 'model.long_range.charges={kind="equilibrated",element_charges=true}'
MODELS = {
    "short_range": (SHORT_RANGE,),
    "short_range_states": (SHORT_RANGE, STATES),
    "short_range_messages": (SHORT_RANGE, 'model.short_range.messages=[["Bchi"]]'),
    "les": (),
    # charges that learn as fast as all else, from the first step
    "les_fast_charges": ("training.phases.0.rates={}", "training.phases.1.rates={}"),
    "les_messages": ('model.short_range.messages=[["Bchi"]]',),
    "les_states": (STATES,),
    "les_messages_states": ('model.short_range.messages=[["Bchi"]]', STATES),
    "les_dipoles": ("model.long_range.charges.dipoles=true",),
    "les_messages_dipoles": ('model.short_range.messages=[["Bchi"]]', "model.long_range.charges.dipoles=true"),
    "equilibration": (EQUILIBRATED,),
    "equilibration_states": (EQUILIBRATED, STATES),
}
ON_THE_PATH = {"short_range": plots.COLORS[1], "les": plots.COLORS[0], "equilibration": "#7b5ea7"}


def files(name: str, work: pathlib.Path) -> dict[str, pathlib.Path]:
    """Training and test file of a set; that of one cluster is written to the folder `work`."""
    shipped, only = SETS[name]
    result = {part: datasets.path(f"{shipped}_{part}") for part in ("train", "test")}
    if only is None:
        return result
    for part, path in result.items():
        frames = [atoms for atoms in io.read(path) if atoms.info["config_type"] == only]
        result[part] = work / f"{name}_{part}.xyz"
        if not result[part].exists():
            io.write(result[part], frames)
    return result


def of_charges(potential: Potential, path: pathlib.Path) -> dict[str, dict[str, float]]:
    """Errors of the charges for each state of a file, e, as they are and after the factor that fits them best."""
    frames = io.read(path)
    result = {}
    for state in sorted({atoms.info["config_type"] for atoms in frames}):
        pair = evaluate(potential, [a for a in frames if a.info["config_type"] == state]).parity["charges"]
        factor = float(pair.predicted @ pair.reference / (pair.predicted @ pair.predicted))
        rest = dataclasses.replace(pair, predicted=factor * pair.predicted)
        result[state] = {"rmse": pair.rmse(), "factor": factor, "rmse_after_factor": rest.rmse()}
    return result


def one_run(name: str, work: pathlib.Path, extra: list[str]) -> dict:
    """Train, or resume the run set/model/seed; returns errors of training and test, charges, and their history."""
    set_name, model, seed = name.split("/")
    parts = files(set_name, work)
    settings = [*MODELS[model], *extra, f"training.seed={seed}"]
    data = [f"data.{part}={path}" for part, path in parts.items()]
    folder = work / name.replace("/", "-")
    result = train("charge_transfer", [*data, *settings], folder)
    keep = ("energy_rmse", "energy_mae", "forces_rmse", "forces_mae", "charges_rmse", "charges_r2", "by_config_type")
    result |= {"settings": settings, "metrics": kept(result["metrics"], keep)}
    if sizes := charge_sizes(folder):
        result["charges"] = of_charges(load(folder / "model"), parts["test"])
        result["charges_size"] = sizes
    return result


def in_order(runs: dict[str, dict]) -> dict[str, dict]:
    """Runs by set, model and seed, in the order of the tables above."""

    def place(name: str) -> tuple[int, int, int]:
        set_name, model, seed = name.split("/")
        return list(SETS).index(set_name), list(MODELS).index(model), int(seed)

    return {name: runs[name] for name in sorted(runs, key=place)}


def plot(path: pathlib.Path, work: pathlib.Path, earlier: dict[str, dict]) -> dict[str, dict]:
    """Draw the energy of the cluster along the path of one sodium atom, by state; returns what is drawn.

    Curves of models that are no longer in the folder `work` are those of `earlier`, as returned.
    """
    import matplotlib.pyplot as plt

    frames = datasets.load("charge_transfer_path")
    states = sorted({atoms.info["config_type"] for atoms in frames})
    figure, axes = plt.subplots(1, len(states), figsize=(9, 3.6), sharey=True, layout="constrained")
    drawn = {}
    for ax, state in zip(axes, states, strict=True):
        own = [atoms for atoms in frames if atoms.info["config_type"] == state]
        distances = np.array([atoms.info["displacement"] for atoms in own])
        reference = np.array([atoms.get_potential_energy() for atoms in own])
        start = int(np.argmin(abs(distances)))
        ax.plot(distances, reference - reference[start], "o", ms=3, color="0.2", label="GFN1-xTB")
        curves = {"displacement": distances.tolist(), "reference": (reference - reference[start]).tolist()}
        for model, color in ON_THE_PATH.items():
            folder = work / f"charge_transfer-{model}-0"
            if (folder / "metrics.json").exists():  # finished
                pair = evaluate(load(folder / "model"), own).parity["energy"]
                values = len(own[0]) * pair.predicted
                curves[model] = (values - values[start]).tolist()
            elif model in earlier.get(state, {}):
                curves[model] = earlier[state][model]
            else:
                continue
            ax.plot(distances, curves[model], color=color, label="LES" if model == "les" else model.replace("_", " "))
        ax.set(title=state.replace("+", "⁺"), xlabel="displacement of one Na (Å)")
        drawn[state] = {key: [round(v, 5) for v in values] for key, values in curves.items()}
    axes[0].set_ylabel("energy (eV)")
    axes[0].legend()
    with lesjax.files.atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)
    plt.close(figure)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="runs set/model/seed; all with seed 0 by default")
    parser.add_argument("--json", default=None, help="results; those of other runs that it has are kept")
    parser.add_argument("--plot", type=pathlib.Path, default=None, help="path of one atom, of runs with seed 0")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/charge_transfer"))
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="as for lesjax train")
    arguments = parser.parse_args()
    names = arguments.names or [f"{set_name}/{model}/0" for set_name in SETS for model in MODELS]
    for name in names:
        parts = name.split("/")
        if len(parts) != 3 or parts[0] not in SETS or parts[1] not in MODELS or not parts[2].isdecimal():
            sys.exit(f"There is no run {name!r}: a set of {', '.join(SETS)} / a model of {', '.join(MODELS)} / a seed.")
    arguments.work.mkdir(parents=True, exist_ok=True)
    result = read_result(arguments.json)
    runs, earlier = result["runs"] if result else {}, result.get("path", {})
    for name in names:
        runs[name] = one_run(name, arguments.work, arguments.set)
        test = runs[name]["metrics"]["test"]
        text = f"{1e3 * test['energy_rmse']:.2f} meV/atom, {1e3 * test['forces_rmse']:.1f} meV/Å"
        charges = {state: values["factor"] for state, values in runs[name].get("charges", {}).items()}
        print(f"{name:40} {text} {charges}", flush=True)
        if arguments.json:
            write_json(arguments.json, {"dtype": "float32", "runs": in_order(runs), "path": earlier})
    if arguments.plot:
        drawn = plot(arguments.plot, arguments.work, earlier)
        if arguments.json:
            write_json(arguments.json, {"dtype": "float32", "runs": in_order(runs), "path": drawn})


if __name__ == "__main__":
    main()
