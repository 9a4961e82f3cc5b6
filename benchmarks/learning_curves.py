"""Learning curves of five kinds of model on data with known charges, from energies and forces only.

    python benchmarks/learning_curves.py gas kf_water --json benchmarks/results/learning_curves.json \\
        --plot docs/images/learning_curves.png

`gas`: point charges (`lesjax.datasets.point_charges`), 128 ions, 100 frames to test. `kf_water`: aqueous KF, bulk and
with an interface, whose test frames (of separate trajectories) are reported separately. `nacl_water`: NaCl(001) in
water. Each run is a configuration of lesjax/configs, `point_charges` or `kf_water`, with the settings of the model and
epochs for about the same number of steps for all sizes; smaller sets are parts of larger ones. The best epoch is
selected on further labelled frames, 48 for each size, 10 for `nacl_water`: they are not in the numbers of frames here,
so that "10 frames" need 58 labelled ones. Published errors of KF are for the same force field and other frames.
Published errors of the gas are for another set, with much weaker forces, and not comparable.

Each run can be stopped and started again; finished ones are kept in the folder `--work`, and the result file keeps
other runs. ``--quick`` trains small models for a few steps, to check that everything runs.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import numpy as np
from ase import Atoms
from common import read_runs, train, write_json
from markdown_tables import number

import lesjax.files
from lesjax import datasets, io
from lesjax.datasets import point_charges
from lesjax.models import load
from lesjax.training import evaluate, load_config, plots


# name: (label, settings, color, marker)
MODELS = {
    "short_range": ("short range", ("model.long_range=false",), plots.COLORS[1], "o"),
    "message_passing": (
        "short range, message passing",
        ("model.long_range=false", 'model.short_range.messages=[["Bchi"]]', "model.short_range.bchi_shared=false"),
        plots.COLORS[2],
        "s",
    ),
    "equilibration": (
        "charge equilibration",
        ("model.long_range.charges.kind=equilibrated",),
        "#7b5ea7",
        "^",
    ),
    "les": ("LES", (), plots.COLORS[0], "D"),
    "les_dipoles": ("LES with dipoles", ("model.long_range.charges.dipoles=true",), plots.COLORS[3], "v"),
}
# Systems whose published errors are of another set.
OTHER_SET = ("gas",)
# MAE of the forces, meV/Å, by system and cutoff (Cheng, npj Comput. Mater. 11, 80 (2025)); no message passing
PUBLISHED = {
    ("gas", 4.0): {"short_range": {100: 190}, "les": {100: 5.6, 900: 3.7}},
    ("gas", 5.0): {"short_range": {100: 110}, "les": {100: 9.0, 900: 4.9}},
    ("gas", 5.5): {"short_range": {100: 88}, "les": {100: 8.8, 900: 4.2}},
    ("kf_water", 4.5): {"short_range": {180: 26.9, 1628: 24.0}, "les": {180: 10.9, 1628: 7.4}},
}
QUICK_MODELS = ("short_range", "les")
QUICK = (
    *(f"model.short_range.{key}" for key in ("n_radial=2", "n_embedding=1", "max_l=1", "max_nu=2")),
    "model.hidden=[4]",
)
N_VALID, N_TEST = 48, 102
QUICK_SIZE, QUICK_STEPS, QUICK_HELD_OUT = 10, 10, 4


def beside(system: str, published: float | None) -> str:
    """Format a published error for a table."""
    text = number(published)
    return f"{text} (another set)" if published is not None and system in OTHER_SET else text


def gas(n_train: int, n_valid: int, n_test: int) -> dict[str, list[Atoms]]:
    """Parts of the gas of point charges; held-out frames come first, so that more can follow."""
    frames = point_charges.generate(n_test + n_valid + n_train, seed=0)
    return {"test": frames[:n_test], "valid": frames[n_test : n_test + n_valid], "train": frames[n_test + n_valid :]}


def shipped(name: str) -> Callable[[int, int, int], dict[str, list[Atoms]]]:
    """Parts of a set shipped with lesjax; validation is on frames of its training trajectories."""

    def parts(n_train: int, n_valid: int, n_test: int) -> dict[str, list[Atoms]]:
        frames, test = spread(datasets.load(f"{name}_train")), spread(datasets.load(f"{name}_test"))
        most = len(frames) - n_valid
        if n_train > most:
            raise ValueError(f"`--sizes` of {name} must be at most {most}, got {n_train}: it has no more frames.")
        return {"train": frames[n_valid : n_valid + n_train], "valid": frames[:n_valid], "test": test[:n_test]}

    return parts


def spread(frames: list[Atoms], seed: int = 0) -> list[Atoms]:
    """Order the frames so that every beginning has about the same share of each kind and composition."""
    groups: dict[tuple, list[int]] = {}
    for i in np.random.default_rng(seed).permutation(len(frames)).tolist():
        groups.setdefault((frames[i].info.get("kind"), frames[i].info.get("n_pairs")), []).append(i)
    order = [((k + 0.5) / len(group), i) for group in groups.values() for k, i in enumerate(group)]
    return [frames[i] for _, i in sorted(order)]


@dataclass(frozen=True)
class Study:
    """One system: its configuration, its data and how long to train.

    `parts` takes the numbers of frames to train, to validate and to test; `steps` are the steps of each phase;
    `kinds` are kinds of test frames, by ``info["kind"]``, that are reported separately.
    """

    title: str
    config: str
    cutoff: float
    parts: Callable[[int, int, int], dict[str, list[Atoms]]]
    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    n_valid: int = N_VALID
    kinds: tuple[str, ...] = ()


KF_STEPS = (16_000, 1_800)
STUDIES = {
    "gas": Study("Gas of point charges", "point_charges", 5.0, gas, (10, 30, 100, 300), (4000,)),
    # 180: the size of a published training set
    "kf_water": Study(
        "Aqueous KF",
        "kf_water",
        4.5,
        shipped("kf_water"),
        (10, 30, 100, 180, 300),
        KF_STEPS,
        kinds=("bulk", "interface"),
    ),
    "nacl_water": Study("NaCl(001) in water", "kf_water", 4.5, shipped("nacl_water"), (70,), KF_STEPS, n_valid=10),
}


def epochs_for(steps: float, n_train: int, batch_size: int) -> int:
    """Number of epochs for about `steps` steps."""
    return max(1, round(steps / -(-n_train // batch_size)))


def key_of(system: str, cutoff: float, model: str, size: int) -> str:
    """Name of a run."""
    return f"{system}_{cutoff:g}_{model}_{size}"


def is_current(run: Mapping) -> bool:
    """Return whether a run has the settings that its model has today."""
    settings = [*MODELS[run["model"]][1], f"model.short_range.cutoff={run['cutoff']}"]
    return list(run["settings"][: len(settings)]) == settings


def write_parts(study: Study, system: str, size: int, held_out: tuple[int, int], work: pathlib.Path) -> dict[str, str]:
    """Write the files of one size if absent; all systems are neutral, which equilibration must know."""
    files = {"train": work / f"{system}_train_{size}.xyz"}
    files |= {part: work / f"{system}_{part}_{n}.xyz" for part, n in zip(("valid", "test"), held_out, strict=True)}
    if not all(file.exists() for file in files.values()):
        for part, frames in study.parts(size, *held_out).items():
            for atoms in frames:
                atoms.info["total_charge"] = 0
            io.write(files[part], frames)
    return {part: str(file) for part, file in files.items()}


def one_run(system: str, cutoff: float, model: str, size: int, arguments: argparse.Namespace) -> dict:
    """Train and evaluate, or use the finished run."""
    study, key = STUDIES[system], key_of(system, cutoff, model, size)
    held_out = (QUICK_HELD_OUT, QUICK_HELD_OUT) if arguments.quick else (study.n_valid, N_TEST)
    files = write_parts(study, system, size, held_out, arguments.work / "data")
    batch_size = load_config(study.config, [f"data.{part}={file}" for part, file in files.items()]).training.batch_size
    shorter = (arguments.steps or (QUICK_STEPS if arguments.quick else study.steps[0])) / study.steps[0]
    epochs = [epochs_for(steps * shorter, size, batch_size) for steps in study.steps]
    settings = [
        *MODELS[model][1],
        f"model.short_range.cutoff={cutoff}",
        *(f"training.phases.{phase}.epochs={n}" for phase, n in enumerate(epochs)),
        f"training.eval_every={max(1, epochs[0] // 40)}",
        *(QUICK if arguments.quick else ()),
        *arguments.set,
    ]
    folder = arguments.work / key
    done = folder / "result.json"
    if done.exists() and (result := json.loads(done.read_text()))["settings"] == settings:
        return result
    result = train(study.config, [*(f"data.{part}={file}" for part, file in files.items()), *settings], folder)
    test = io.read(files["test"])
    for kind in study.kinds:
        frames_of_kind = [atoms for atoms in test if atoms.info["kind"] == kind]
        result["metrics"][kind] = evaluate(load(folder / "model"), frames_of_kind).metrics
    result |= {"settings": settings, "system": system, "cutoff": cutoff, "model": model, "n_train": size}
    lesjax.files.write_json(done, result)
    return result


def plot(runs: Mapping[str, dict], path: str | pathlib.Path) -> None:
    """MAE of the test forces against the number of training frames, one panel per system, cutoff and kind.

    Only runs with the settings of today are shown.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    sizes: dict[tuple[str, float], set[int]] = {}
    for run in runs.values():
        sizes.setdefault((run["system"], run["cutoff"]), set()).add(run["n_train"])
    curves = {curve: counts for curve, counts in sizes.items() if len(counts) > 1} or sizes
    panels = [(*curve, kind) for curve in curves for kind in STUDIES[curve[0]].kinds or ("test",)]
    figure = Figure(figsize=(3.9 * len(panels), 4.6), layout="constrained")
    shown = set()
    for axes, (system, cutoff, kind) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        ticks = sorted(curves[system, cutoff])
        for model, (_, _, color, marker) in MODELS.items():
            curve = (system, cutoff, model)
            curve_runs = [r for r in runs.values() if (r["system"], r["cutoff"], r["model"]) == curve and is_current(r)]
            points = sorted((r["n_train"], 1e3 * r["metrics"][kind]["forces_mae"]) for r in curve_runs)
            if points:
                axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=6)
                shown.add(model)
        name = STUDIES[system].title if kind == "test" else f"{STUDIES[system].title}, {kind}"
        n_valid = {r["metrics"]["validation"]["n_structures"] for r in runs.values() if r["system"] == system}
        label = f"training frames, beside {' or '.join(map(str, sorted(n_valid)))} to validate"
        axes.set(xscale="log", yscale="log", xlabel=label, title=f"{name}, cutoff {cutoff:g} Å")
        axes.set_ylabel("MAE of the test forces (meV/Å)")
        axes.set_xticks(ticks, [str(size) for size in ticks])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(_ticks())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3, which="both")
    handles = [
        Line2D([], [], color=color, marker=marker, label=label)
        for model, (label, _, color, marker) in MODELS.items()
        if model in shown
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if len(panels) > 1 else 2, frameon=False)
    plots.save(figure, path)


def _ticks():
    from matplotlib.ticker import LogLocator

    return LogLocator(subs=(1.0, 2.0, 5.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="+", choices=STUDIES, metavar="system", help=", ".join(STUDIES))
    parser.add_argument("--sizes", nargs="+", type=int, default=None, help="numbers of training frames")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=None, metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--cutoffs", nargs="+", type=float, default=None, help="Å; 5 for the gas, 4.5 for the others")
    parser.add_argument("--steps", type=int, default=None, help="of the first phase of each run, about")
    parser.add_argument("--json", default=None, help="results; those of other runs that it has are kept")
    parser.add_argument("--plot", default=None, help="figure of all runs of the result file")
    parser.add_argument("--work", type=pathlib.Path, default=None, help="folder of data and runs")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="as for lesjax train")
    arguments = parser.parse_args()
    arguments.work = arguments.work or pathlib.Path("runs/quick" if arguments.quick else "runs", "learning_curves")
    runs = read_runs(arguments.json)
    for system in arguments.systems:
        for size in arguments.sizes or ([QUICK_SIZE] if arguments.quick else STUDIES[system].sizes):
            for cutoff in arguments.cutoffs or [STUDIES[system].cutoff]:
                for model in arguments.models or (QUICK_MODELS if arguments.quick else MODELS):
                    key = key_of(system, cutoff, model, size)
                    try:
                        runs[key] = one_run(system, cutoff, model, size, arguments)
                    except ValueError as error:
                        sys.exit(str(error))
                    test = runs[key]["metrics"]["test"]
                    numbers = {"forces": 1e3 * test["forces_mae"], "energy": 1e3 * test["energy_mae"]}
                    charges = f"{test['charges_mae']:.4f} e" if "charges_mae" in test else "none"
                    text = f"forces {numbers['forces']:.3g} meV/Å, energy {numbers['energy']:.3g} meV/atom"
                    print(f"{key}: MAE of {text}, charges {charges}", flush=True)
                    if arguments.json:
                        write_json(arguments.json, {"dtype": str(jax.numpy.zeros(()).dtype), "runs": runs})
    if arguments.plot:
        plot(runs, arguments.plot)


if __name__ == "__main__":
    main()
