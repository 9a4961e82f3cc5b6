"""The start of the training: charges that learn from the first step, or are held until the short-range part is learned.

    python benchmarks/start_of_charges.py --json benchmarks/results/start_of_charges.json

The configuration `les` without message passing, on a gas of point charges, aqueous KF, NaCl(001) in water (these as
`learning_curves` has them) and dimers CC, with two schedules of the same number of steps and three seeds each:
`at_once`, two phases; `held`, a phase before them whose rate of the charges is zero, and a lower rate after it. The
test frames chose nothing. `charge_transfer` has the same for Na9Cl8+, with its own schedule. Runs are named
set/schedule/seed; each can be stopped and started again, finished ones are kept in the folder `--work`, and the result
file keeps other runs.
"""

import argparse
import json
import pathlib

import learning_curves
from common import charge_sizes, kept, read_runs, train, write_json

from lesjax import datasets, io


SIZES = {"gas": 60, "kf_water": 60, "nacl_water": 40}  # training frames
N_TEST = 60
STEPS = 1500
BATCH_SIZE = 4
# share of the steps, learning rate, schedule, weight of the energy, rate of the charges
SCHEDULES = {
    "at_once": ((2 / 3, 1e-2, "cosine", 1.0, 1.0), (1 / 3, 1e-3, "cosine", 100.0, 1.0)),
    "held": (
        (1 / 10, 1e-2, "constant", 1.0, 0.0),
        (2 / 3 - 1 / 10, 1e-2, "cosine", 1.0, 0.3),
        (1 / 3, 1e-3, "cosine", 100.0, 1.0),
    ),
}
SETS = ("gas", "kf_water", "nacl_water", "dimers_CC")
SEEDS = (0, 1, 2)


def files(name: str, work: pathlib.Path) -> dict[str, str]:
    """Files of a set: to train, to test and, where a study has them, to validate."""
    if name in SIZES:
        study = learning_curves.STUDIES[name]
        return learning_curves.write_parts(study, name, SIZES[name], (study.n_valid, N_TEST), work)
    return {part: str(datasets.path(f"{name}_{part}")) for part in ("train", "test")}


def phases(schedule: str, steps_per_epoch: int) -> str:
    """The phases of a schedule as the value of a setting."""
    parts = [
        f'{{epochs={max(1, round(share * STEPS / steps_per_epoch))},learning_rate={rate},schedule="{kind}",'
        f"rates={{charges={charges}}},weights={{energy={energy},forces=1.0}}}}"
        for share, rate, kind, energy, charges in SCHEDULES[schedule]
    ]
    return f"training.phases=[{','.join(parts)}]"


def one_run(name: str, work: pathlib.Path) -> dict:
    """Train, or resume, the run set/schedule/seed."""
    set_name, schedule, seed = name.split("/")
    parts = files(set_name, work)
    data = [f"data.{part}={path}" for part, path in parts.items()]
    n_train = SIZES.get(set_name) or round(0.9 * len(io.read(parts["train"])))
    settings = ["model.short_range.messages=[]", phases(schedule, -(-n_train // BATCH_SIZE)), f"training.seed={seed}"]
    folder = work / name.replace("/", "-")
    fixed = [*data, f"training.batch_size={BATCH_SIZE}", "training.eval_every=10"]
    result = train("les", [*fixed, *settings], folder)
    keep = ("energy_rmse", "energy_mae", "forces_rmse", "forces_mae", "charges_mae", "charges_r2")
    metrics = kept(result["metrics"], keep)
    return result | {"settings": settings, "metrics": metrics, "charges_size": charge_sizes(folder)}


def main() -> None:
    names = [f"{set_name}/{schedule}/{seed}" for set_name in SETS for seed in SEEDS for schedule in SCHEDULES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=names, help="runs set/schedule/seed; all by default")
    parser.add_argument("--json", default=None, help="results; those of other runs that it has are kept")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/start_of_charges"))
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.names) - set(names)):
        parser.error(f"there is no run {', '.join(unknown)}: choose from {', '.join(names)}")
    arguments.work.mkdir(parents=True, exist_ok=True)
    runs = read_runs(arguments.json)
    for name in arguments.names:
        runs[name] = one_run(name, arguments.work)
        print(name, json.dumps(runs[name]["metrics"]["test"]), flush=True)
        if arguments.json:
            ordered = {key: runs[key] for key in names if key in runs}
            write_json(arguments.json, {"dtype": "float32", "runs": ordered})


if __name__ == "__main__":
    main()
