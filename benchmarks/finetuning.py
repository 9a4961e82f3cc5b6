"""Tune published models on few structures, beside training from scratch and the model as it is.

    python benchmarks/finetuning.py --json benchmarks/results/finetuning.json

`superionic_water`: the published CACE-LES model of liquid water on 20 and 50 frames of superionic water (4 g/cm³, 1000
K), errors on 20 other frames; `superionic_water_mace`: likewise the published MACE-LES model. `dimers_CP`: the
published CACE-LES model of dipeptides on the ten dimers of a charged and a polar molecule, errors on the three with
larger separations; `dimers_CP_mace`: the published MACE-LES model of dipeptides on the same. Each set by three
trainings with the same number of epochs and no frame for validation: from scratch (same settings of the model), tuned,
and tuned with 20 frames of the first set beside (`[[data.replay]]`). These have forces alone: their energies are of
another method. The error on the first set is that of the forces of 20 further frames. Superionic water is far from the
liquid, so that the learning rate is that from scratch; a tenth of it is too slow for 300 steps. From scratch, dimers
diverge at 1e-2.

Each run can be stopped and started again; the folder `--work` and the result file keep their runs.
"""

import argparse
import pathlib
from dataclasses import dataclass, replace

import numpy as np
from common import published_potential, read_runs, shared, write_json

from lesjax import io
from lesjax.models import Potential, load
from lesjax.runs import read_log
from lesjax.training import evaluate, load_config, train
from lesjax.training.config import RunConfig
from lesjax.training.prepare import prepare


KINDS = ("untuned", "scratch", "tuned", "replay")
N_FIRST = 20  # frames of the first set to replay, and as many to evaluate on


@dataclass(frozen=True)
class Study:
    """One model and the set that it is tuned on.

    Attributes:
        weights: published weights or file.
        train: file of the new set.
        test: file of the held-out frames; None for frames of `train` that no run trains on.
        first: files of the first set, to replay from and to evaluate on.
        sizes: numbers of frames to tune on.
        settings: of all runs.
        epochs: for each size.
        learning_rates: from scratch, and of the tuned models.
    """

    weights: str
    train: str
    test: str | None
    first: tuple[str, str]
    sizes: tuple[int, ...]
    settings: tuple[str, ...]
    epochs: tuple[int, ...]
    learning_rates: tuple[float, float]


WATER = "data/water/rpbe_d3_40.xyz"
STUDIES = {
    "superionic_water": Study(
        "reference/cace_water.npz", "data/superionic_water/S-4cc-T1000K.xyz", None, (WATER, WATER), (20, 50),
        ("training.batch_size=2", "training.ema=0.95"), (30, 12), (1e-2, 1e-2),
    ),
    "dimers_CP": Study(
        "reference/cace_dipeptide.npz", "data/dimers/CP_train.xyz", "data/dimers/CP_test.xyz",
        ("data/dipeptides/train.xyz", "data/dipeptides/valid.xyz"), (10,),
        (
            "training.batch_size=5", "data.pbc=false", "training.ema=0.95",
            "training.phases.0.weights={energy = 1, forces = 1}",
        ),
        (150,), (1e-3, 1e-3),
    ),
}  # fmt: skip
STUDIES["superionic_water_mace"] = replace(
    STUDIES["superionic_water"], weights="checkpoints/mace_water_r45_nl0.model", learning_rates=(3e-3, 3e-3)
)
STUDIES["dimers_CP_mace"] = replace(STUDIES["dimers_CP"], weights="checkpoints/mace_dipep_r4_l0.model")


def forces_alone(frames: list[io.Atoms]) -> list[io.Atoms]:
    """Copies with forces under the names that all files here have, and no energy."""
    copies = []
    for atoms in frames:
        copy = io.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        copy.set_array("REF_forces", np.asarray(io.labels(atoms).forces))
        copies.append(copy)
    return copies


def with_labels(frames: list[io.Atoms]) -> list[io.Atoms]:
    """Likewise, with the energy."""
    copies = forces_alone(frames)
    for copy, atoms in zip(copies, frames, strict=True):
        copy.info["REF_energy"] = float(io.labels(atoms).energy)
    return copies


def write_data(name: str, work: pathlib.Path) -> dict[str, list[io.Atoms]]:
    """Frames of a study, in a fixed random order, and the files for its runs."""
    study, rng = STUDIES[name], np.random.default_rng(0)
    frames = with_labels(io.read(shared(study.train)))
    if study.test is None:
        frames = [frames[i] for i in rng.permutation(len(frames))]
        frames, test = frames[: max(study.sizes)], frames[-20:]
    else:
        test = with_labels(io.read(shared(study.test)))
    to_replay, to_evaluate = (forces_alone(io.read(shared(file))) for file in study.first)
    order = rng.permutation(len(to_replay))
    replayed = [to_replay[i] for i in order[:N_FIRST]]
    if study.first[0] == study.first[1]:
        to_evaluate = [to_evaluate[i] for i in order[N_FIRST:]]
    for size in study.sizes:
        io.write(work / f"{name}_{size}.xyz", frames[:size])
    io.write(work / f"{name}_replay.xyz", replayed)
    return {"test": test, "first": to_evaluate[:N_FIRST]}


def configuration(name: str, size: int, kind: str, work: pathlib.Path, extra: list[str]) -> RunConfig:
    """Configuration of a training."""
    study = STUDIES[name]
    start = work / f"{name}_start"
    if not start.exists():
        published_potential(study.weights).save(start)
    settings = [
        f"data.train={work / f'{name}_{size}.xyz'}", f"output={work / f'{name}_{size}_{kind}'}",
        f"training.start_from={start}", "data.valid_fraction=0", "training.eval_every=1000",
        f"training.phases.0.epochs={study.epochs[study.sizes.index(size)]}",
        f"training.phases.0.learning_rate={study.learning_rates[kind != 'scratch']}",
        *study.settings, *extra,
    ]  # fmt: skip
    if kind == "replay":
        settings.append(f"data.replay=[{{path = '{work / f'{name}_replay.xyz'}'}}]")
    config = load_config("finetune", settings)
    if kind != "scratch":
        return config
    model = replace(config.model, energy_scale=None)
    training = replace(config.training, start_from=None)
    return replace(config, data=replace(config.data, reference_energies="fit"), model=model, training=training)


def potential_of(config: RunConfig, kind: str) -> Potential:
    """The trained potential; untuned, the model with reference energies that fit the new frames."""
    if kind != "untuned":
        return train(config)
    references = prepare(config).model.reference_energies
    assert config.training.start_from is not None
    start = load(config.training.start_from)
    return replace(start, config=replace(start.config, reference_energies=references))


def one_run(name: str, size: int, kind: str, frames: dict[str, list[io.Atoms]], config: RunConfig) -> dict:
    """Train, or use the finished run, and evaluate."""
    potential = potential_of(config, kind)
    pbc = None if isinstance(config.data.pbc, str) else config.data.pbc
    metrics = {part: evaluate(potential, frames[part], pbc=pbc, batch_size=2).metrics for part in frames}
    keys = ("energy_rmse", "forces_rmse", "n_structures")
    metrics = {part: {key: of_part[key] for key in keys if key in of_part} for part, of_part in metrics.items()}
    run: dict = {"study": name, "frames": size, "kind": kind, "metrics": metrics}
    if kind != "untuned":
        last = read_log(pathlib.Path(config.output) / "log.jsonl")[-1]
        run |= {"epochs": last["epoch"], "seconds": round(last["seconds"])}
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [f"{name}/{size}/{kind}" for name, study in STUDIES.items() for size in study.sizes for kind in KINDS]
    parser.add_argument("names", nargs="*", default=names, metavar="RUN", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--json", default=None, help="results; those of other runs that it has are kept")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/finetuning"))
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="as for lesjax train")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(names))
    if unknown:
        parser.error(f"there is no run {unknown[0]}; there are {', '.join(names)}")
    arguments.work.mkdir(parents=True, exist_ok=True)
    runs = read_runs(arguments.json)
    for run_name in arguments.names:
        name, size, kind = run_name.split("/")
        frames = write_data(name, arguments.work)
        config = configuration(name, int(size), kind, arguments.work, arguments.set)
        runs[run_name] = {**one_run(name, int(size), kind, frames, config), "settings": arguments.set}
        print(run_name, runs[run_name], flush=True)
        if arguments.json:
            write_json(arguments.json, {"dtype": "float32", "runs": {key: runs[key] for key in names if key in runs}})


if __name__ == "__main__":
    main()
