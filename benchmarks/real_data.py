"""Train shipped configurations on the published sets, and compare with the published errors.

    python benchmarks/real_data.py dipeptides superionic_water --json benchmarks/results/real_data.json

The published sets are too small for a third part: dipeptides, superionic_water and water report the validation frames,
on which the best epoch was selected, for superionic_water_bec by a loss that includes the Born effective charges.
Errors on frames without any part in the training may be larger.

Each run can be stopped and started again; the folder `--work` and the result file keep their runs. The dimers
have their own command (benchmarks/dimers.py).
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from common import published_potential, read_runs, shared, train, write_json

from lesjax import System, datasets, io
from lesjax.models import load
from lesjax.training import evaluate, load_config
from lesjax.training.data import reference_energies
from lesjax.training.prepare import prepare


@dataclass(frozen=True)
class Run:
    """One training: a configuration of lesjax/configs, its data, and the published errors.

    A file is one of the shared folder, or the name of one shipped with lesjax. `published` has the names of the
    metrics, in eV, eV/Å and e. With `fit_epsilon` the electronic dielectric constant, whose root scales the Born
    effective charges, is fitted by least squares over the training frames: one number that energies and forces do not
    determine. With `weights`, published ones, nothing is trained: they are evaluated on the file `valid`, and the
    energies of the elements are fitted to the file `train`. `remark` is shown beside the published errors, and
    `n_train_published` is their number of training frames if different.
    """

    config: str
    files: dict[str, str]
    settings: tuple[str, ...] = ()
    published: dict[str, float] = field(default_factory=dict)
    fit_epsilon: bool = False
    weights: str | None = None
    remark: str = ""
    n_train_published: int | None = None


DIPEPTIDES = {"train": "data/dipeptides/train.xyz", "valid": "data/dipeptides/valid.xyz"}
SUPERIONIC = {"train": "data/superionic_water/S-4cc-T1000K.xyz"}
WATER = {"train": "data/water/rpbe_d3_40.xyz"}
OTHER_DENSITY = "published for 2 g/cm³"
RUNS = {
    # King et al., Nat. Commun. 16, 8763 (2025)
    "dipeptides": Run(
        "dipeptides",
        DIPEPTIDES,
        published={
            "energy_rmse": 1.29e-3, "forces_rmse": 53.1e-3, "charges_r2": 0.859, "dipole_r2": 0.987,
            "quadrupole_r2": 0.910, "bec_r2": 0.943, "bec_diagonal_r2": 0.968, "bec_off_diagonal_r2": 0.823,
        },
    ),
    "dipeptides_short_range": Run(
        "dipeptides",
        DIPEPTIDES,
        ("model.long_range=false",),
        {"energy_rmse": 1.97e-3, "forces_rmse": 58.8e-3},
    ),
    # as the published MACE-LES weights, evaluated on the sum of lesjax
    "dipeptides_mace": Run(
        "dipeptides_mace",
        DIPEPTIDES,
        published={
            "energy_rmse": 0.79e-3, "forces_rmse": 43.5e-3, "charges_r2": 0.936, "dipole_r2": 0.993, "bec_r2": 0.945,
        },
    ),
    "dipeptides_mace_short_range": Run("dipeptides_mace", DIPEPTIDES, ("model.long_range=false",)),
    "dipeptides_mace_published_weights": Run(
        "dipeptides_mace", DIPEPTIDES, weights="checkpoints/mace_dipep_r4_l0.model"
    ),
    # the published weights of King et al., evaluated by lesjax
    "dipeptides_published_weights": Run("dipeptides", DIPEPTIDES, weights="reference/cace_dipeptide.npz"),
    # Zhong et al., arXiv 2504.05169 (2025)
    "superionic_water": Run(
        "superionic_water", SUPERIONIC, published={"bec_rmse": 0.136}, fit_epsilon=True, remark=OTHER_DENSITY
    ),
    "superionic_water_bec": Run(
        "superionic_water_bec", SUPERIONIC, published={"bec_rmse": 0.09}, remark=OTHER_DENSITY
    ),
    # CACE-LES, on 16 frames held out
    "water": Run(
        "water",
        WATER,
        published={"energy_rmse": 0.202e-3, "forces_rmse": 21.0e-3},
        remark="published with 1593 training frames",
        n_train_published=1593,
    ),
    # MACE-LES beside it, on the same frames
    "water_mace": Run(
        "mace",
        WATER,
        (
            "data.valid_fraction=0.15", "training.batch_size=2", "training.phases.0.epochs=130",
            "training.phases.1.epochs=20", "training.eval_every=10",
        ),
    ),
    # on all frames of the file, of which some may have been trained on
    "water_published_weights": Run("water", {**WATER, "valid": WATER["train"]}, weights="reference/cace_water.npz"),
}  # fmt: skip


def of_published_weights(weights: str, files: dict[str, pathlib.Path], pbc: bool | None) -> dict[str, float | int]:
    """Errors of published weights on the file `valid`; energies of the elements are fitted to the file `train`."""
    potential = published_potential(weights)
    frames = io.read(files["train"])
    systems = [System.from_ase(atoms, cutoff=potential.cutoff, pbc=pbc) for atoms in frames]
    shape = np.max([system.shape for system in systems], axis=0).tolist()
    energies = [float(potential(system.pad_to(*shape)).energy) for system in systems]
    labels = io.all_labels(frames)
    rest = [replace(label, energy=label.energy - energy) for label, energy in zip(labels, energies, strict=True)]
    config = potential.config
    references = reference_energies(config.short_range.elements, frames, rest)
    potential = replace(potential, config=replace(config, reference_energies=references))
    return evaluate(potential, io.read(files["valid"]), pbc=pbc).metrics


def one_run(name: str, work: pathlib.Path, extra: list[str]) -> dict:
    """Train, or resume the run; returns the metrics that `lesjax train` wrote."""
    run, folder = RUNS[name], work / name
    files = {key: shared(name) if "/" in name else datasets.path(name) for key, name in run.files.items()}
    if run.weights:
        pbc = load_config(run.config, [f"data.{key}={file}" for key, file in files.items()]).data.pbc
        metrics = of_published_weights(run.weights, files, None if isinstance(pbc, str) else pbc)
        kind = "all frames" if files["valid"] == files["train"] else "validation"
        return {"config": run.weights, "settings": [], "metrics": {kind: metrics}}
    settings = [f"data.{key}={file}" for key, file in files.items()]
    settings += [*run.settings, *extra]
    result = train(run.config, settings, folder)
    # without those of elements and charges
    metrics = {part: {k: v for k, v in of.items() if not isinstance(v, dict)} for part, of in result["metrics"].items()}
    if run.fit_epsilon:
        prepared = prepare(load_config(run.config, settings))
        potential = load(folder / "model")
        epsilon = evaluate(potential, prepared.train, epsilon_infinity="fit").metrics["epsilon_infinity"]
        metrics["validation"] = evaluate(potential, prepared.valid, epsilon_infinity=epsilon).metrics
        metrics["validation"]["epsilon_infinity_of_training"] = epsilon
    return {**result, "metrics": metrics, "settings": [*run.settings, *extra]}


def reported(run: Mapping) -> tuple[str, dict[str, float]]:
    """Kind of the frames whose errors a run reports, and their metrics."""
    metrics = run["metrics"]
    kind = next(kind for kind in ("test", "validation", "all frames") if kind in metrics)
    return kind, metrics[kind]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(RUNS), help=f"runs, of {', '.join(RUNS)}; all by default")
    parser.add_argument("--json", default=None, help="results; those of other runs that it has are kept")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/real_data"))
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="as for lesjax train")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(RUNS))
    if unknown:
        sys.exit(f"There is no run {', '.join(unknown)}; there are {', '.join(RUNS)}.")
    runs = read_runs(arguments.json)
    for name in arguments.names:
        runs[name] = one_run(name, arguments.work, arguments.set)
        (kind, metrics), published = reported(runs[name]), RUNS[name].published
        for key, value in metrics.items():
            beside = f"   published {published[key]:8.4f}" if key in published else ""
            print(f"{name:30} {kind:10} {key:20} {value:8.4f}{beside}")
        if kind == "validation" and not RUNS[name].weights:
            print(f"{name}: the best epoch was chosen on these validation frames.")
        if arguments.json:
            write_json(arguments.json, {"dtype": "float32", "runs": {key: runs[key] for key in RUNS if key in runs}})


if __name__ == "__main__":
    main()
