"""All results on one page: reads the JSON files of benchmarks/results and writes benchmarks/RESULTS.md.

    python benchmarks/tables.py --page docs/results.md

Each table names the command, the date and the device of its file. Missing results and goals not met come first. With
``--page`` the tables with a mark on that page are rewritten as well.
"""

import argparse
import json
import pathlib
from collections.abc import Mapping
from functools import partial

import learning_curves
from common import ROOT, TORCH_TIMINGS
from dimers import PUBLISHED
from fit_on_mace import summary as fit_on_mace
from goals import goals
from markdown_tables import ERRORS, errors, number, table
from overview import block, update_page
from real_data import RUNS, reported

from lesjax.files import atomic_path


def curves(content: dict) -> list[str]:
    """One table for each system, cutoff and kind of test frames."""
    lines = []
    runs = content["runs"].values()
    for system, cutoff in dict.fromkeys((run["system"], run["cutoff"]) for run in runs):
        study = learning_curves.STUDIES[system]
        study_runs = [run for run in runs if (run["system"], run["cutoff"]) == (system, cutoff)]
        order = list(learning_curves.MODELS)
        study_runs.sort(key=lambda run: (run["n_train"], order.index(run["model"])))
        published = learning_curves.PUBLISHED.get((system, cutoff), {})
        for kind in ("test", *study.kinds):
            title = "all test frames" if kind == "test" else f"test frames of the {kind}"
            lines += [f"### {study.title}, cutoff {cutoff:g} Å, {title}", ""]
            rows = []
            for run in study_runs:
                model, size = run["model"], run["n_train"]
                beside = published.get(model, {}).get(size) if kind == "test" else None
                earlier = "" if learning_curves.is_current(run) else " (earlier settings)"
                label = learning_curves.MODELS[model][0] + earlier
                cost = [str(run["epochs"]), str(run["seconds"])]
                frames = f"{size} + {run['metrics']['validation']['n_structures']}"
                text = learning_curves.beside(system, beside)
                rows.append([frames, label, *errors(run["metrics"][kind]), *cost, text])
            lines += table(["frames", "model", *ERRORS, "epochs", "s", "published forces MAE"], rows)
    note = "Frames: to train on + further labelled ones (validation), on which the best epoch was chosen. "
    note += "Published for aqueous KF: same force field, other frames. The gas of the paper is another set with weaker "
    note += "forces, as the errors of its short-range models show: neither errors nor ratios can be compared. "
    note += "Seconds contain compilation, evaluations and, of a few runs, pauses."
    return [*lines, note, ""]


def dimers(content: dict) -> list[str]:
    """RMSE of energy and forces of the test frames, by class."""
    rows = []
    is_published = content["data"] == "shared"
    for name, entry in content["table"].items():
        for model in ("short_range", "les"):
            if model in entry:
                medians = entry[model]
                published = getattr(PUBLISHED[name][0], model) if is_published else (None, None)
                relative = medians.get("test_energy_relative")
                rows.append([
                    name, model.replace("_", " "), medians["test_energy_meV"], number(published[0]),
                    medians["test_forces_meV_A"], number(published[1]),
                    number(None if relative is None else 100 * relative), str(len(medians["seeds"])),
                    number(medians["seconds"]),
                ])  # fmt: skip
    header = ["class", "model", "energy RMSE (meV)", "published", "forces RMSE (meV/Å)", "published"]
    lines = table([*header, "largest error of the energy (%)", "seeds", "s"], rows)
    lines += ["Medians of the seeds; C charged, P polar, A apolar molecules. LES has four channels of charges.", ""]
    if is_published:
        rows = []
        for name in content["table"]:
            for models in PUBLISHED[name]:
                pairs = (models.short_range, models.les)
                rows.append([name, models.of, *(" / ".join(map(str, pair)) if pair else "–" for pair in pairs)])
        title = "What is published, energy RMSE (meV) / forces RMSE (meV/Å); the first of each class stands above:"
        lines += [title, "", *table(["class", "of", "short range", "LES"], rows)]
    return lines


def real_data(content: dict) -> list[str]:
    """Errors of each run, on test frames if it has some, beside the published ones."""
    lines = table(
        ["run", "frames, training", "frames of the errors", *ERRORS, "epochs", "s"],
        ([name, str(run["metrics"].get("training", {}).get("n_structures", "–")), f"{m['n_structures']}, {kind}",
          *errors(m), str(run.get("epochs", "–")), str(run.get("seconds", "–"))]
         for name, run in content["runs"].items() for kind, m in [reported(run)]),
    )  # fmt: skip
    lines += [
        "Validation: the best epoch was chosen on these frames (for superionic_water_bec by a loss that includes the "
        "Born charges), so that errors on other frames may be larger. Published weights were not trained here; whether "
        "they were trained on some of the 40 frames of water is not known.",
        "",
    ]
    rows = []
    for name, run in content["runs"].items():
        (_, metrics), published = reported(run), RUNS[name].published
        response = [key for key in metrics if key.startswith(("bec", "dipole", "quadrupole", "charges", "epsilon"))]
        for key in dict.fromkeys([*published, *response]):
            if not key.endswith("corr2"):
                values = [metrics.get(key), metrics.get(key.removesuffix("r2") + "corr2"), published.get(key)]
                texts = [number(value, 4) for value in values]
                remark = f" ({RUNS[name].remark})" if RUNS[name].remark and key in published else ""
                rows.append([name, key, *texts[:2], texts[2] + remark])
    note = (
        "Units eV, eV/atom, Å and e. `…_r2` is the coefficient of determination; the squared correlation is beside it "
        "where the run was evaluated after it came to the metrics. Published R² do not say which of the two they are; "
        "they are probably squared correlations."
    )
    header = ["run", "metric", "lesjax", "squared correlation", "published"]
    return [*lines, *table(header, rows), note, ""]


def demo(content: dict) -> list[str]:
    """The two models of `make demo`."""
    names = ("short range", "LES")
    return table(["model", *ERRORS], ([name, *errors(content[name])] for name in names))


def peers(content: dict) -> list[str]:
    """Milliseconds of each engine by size."""
    cases = {(case["n_atoms"], case["batch"], case["engine"]): case.get("ms") for case in content["cases"]}
    engines = dict.fromkeys(case["engine"] for case in content["cases"])
    sizes = dict.fromkeys((case["n_atoms"], case["batch"]) for case in content["cases"])
    names = [f"{n}" if batch == 1 else f"{batch} × {n}" for n, batch in sizes]
    rows = ([engine, *(number(cases.get((*size, engine))) for size in sizes)] for engine in engines)
    lines = ["ms for energy and forces, by the number of atoms:", "", *table(["engine", *names], rows)]
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    note = f"{versions}. torch-pme with one thread or all, whichever is faster."
    return [*lines, note, ""]


def direct_sum(content: dict) -> list[str]:
    """The direct sum against explicit cos and sin."""
    rows = ([str(c["n_atoms"]), c["lesjax"]["ms"], c["explicit"]["ms"], c["ratio"]] for c in content["cases"])
    return table(["atoms", "product form (ms)", "explicit cos, sin (ms)", "ratio"], rows)


def crossover(content: dict) -> list[str]:
    """Milliseconds of the engines by size and accuracy."""
    engines = list(content["cases"][0]["engines"])
    rows = (
        [str(c["n_atoms"]), number(c["accuracy"]), *(number(c["engines"].get(e, {}).get("ms")) for e in engines)]
        for c in content["cases"]
    )
    return table(["atoms", "accuracy", *(f"{engine} (ms)" for engine in engines)], rows)


def training_step(content: dict) -> list[str]:
    """Milliseconds of a training step."""
    rows = ([name, c["ms"], c["reference_torch_ms"], c["compile_s"]] for name, c in content["cases"].items())
    lines = table(["case", "ms", "PyTorch code (ms), typed in", "compilation (s)"], rows)
    return [*lines, TORCH_NOTE, ""]


def by_size(content: dict, columns: Mapping[str, str]) -> list[str]:
    """One line for each number of atoms; `columns` has the title of each key."""
    rows = ([str(row["n_atoms"]), *(row[key] for key in columns)] for row in content["rows"])
    return [*table(["atoms", *columns.values()], rows), TORCH_NOTE, ""]


TORCH_NOTE = f"PyTorch code: {TORCH_TIMINGS}."
WATER_ASE = {
    "ase_ms": "through ASE (ms)",
    "reference_torch_ms": "PyTorch code (ms), typed in",
    "energy_and_forces_ms": "compiled function alone (ms)",
    "long_range_share": "long-range share",
}
MD = {
    "steps_per_second": "steps per second",
    "ase_steps_per_second": "through ASE",
    "reference_torch_steps_per_second": "PyTorch code, typed in",
    "driver_overhead": "overhead over energy and forces in a compiled loop",
    "driver_overhead_over_calls": "over calls of them",
}


def conservation(content: dict) -> list[str]:
    """Drift of the conserved energy."""
    lines = []
    for dtype, checks in content["runs"].items():
        drifts = {k: v for k, v in checks.items() if isinstance(v, dict) and "drift_eV_per_atom_and_ps" in v}
        keys = ("drift_eV_per_atom_and_ps", "scatter_eV_per_atom", "temperature_K")
        rows = ([k, str(v["steps"]), *(f"{v[key]:.3g}" for key in keys)] for k, v in drifts.items())
        lines += [f"{dtype}:", "", *table(["ensemble", "steps", "drift (eV/atom/ps)", "scatter (eV/atom)", "K"], rows)]
        if "kill" in checks:
            same = "identical" if checks["kill"]["identical"] else "NOT identical"
            lines += [f"Killed {checks['kill']['kills']} times: files {same} to those of a run left alone.", ""]
    return lines


def water_infrared(content: dict) -> list[str]:
    """Bands of the infrared spectrum."""
    rows = ([name, band["maximum_cm-1"], band["measured_cm-1"]] for name, band in content["bands"].items())
    return table(["band", "maximum (cm⁻¹)", "measured"], ([n, number(a, 4), number(b, 4)] for n, a, b in rows))


def ensembles(content: dict) -> list[str]:
    """Cost of a step of several models, and whether their spread ranks the errors."""
    lines = []
    if "cost" in content:
        c = content["cost"]
        names = {"one": "one model", "on_cores": f"{c['members']}, one on each core at a time"}
        names["vmap"] = f"{c['members']}, by `vmap`"
        rows = ([title, c["ms"][key], number(c["ms"][key] / c["ms"]["one"])] for key, title in names.items())
        lines += [f"A step of `{c['config']}`, {c['cores']} cores, {c['dtype']}:", ""]
        lines += table(["models", "ms", "over one model"], rows)
    if "ranking" in content:
        r = content["ranking"]
        m = r["metrics"]
        rows = [
            ["forces (meV/Å)", 1e3 * m["forces_rmse"], 1e3 * m["forces_spread"], m["forces_spearman"]],
            ["energy (meV/atom)", 1e3 * m["energy_rmse"], 1e3 * m["energy_spread"], m.get("energy_spearman")],
        ]
        lines += [f"`{r['config']}`, {', '.join(r['settings'])}; {m['n_structures']} validation structures, on which "
                  "the best epoch of each member was chosen:", ""]  # fmt: skip
        lines += table(["kind", "RMSE of the mean", "spread", "rank correlation"], rows)
    return lines


def fit_charges(content: dict) -> list[str]:
    """Fitted charge scales."""
    header = ["targets", "start", "found (true: 1)", "error (%)", "trajectories", "frames each", "s"]
    rows = (
        [" + ".join(run["targets"]), run["start"], number(run["found"], 5), number(run["error_percent"], 2),
         str(run["trajectories"]), str(run["frames"]), str(round(run["seconds"]))]
        for run in content["runs"]
    )  # fmt: skip
    note = f"Targets of {content['target_frames']} frames with the true charges; all runs: {content['seconds']:.0f} s."
    return [*table(header, rows), note, ""]


def ewald_accuracy(content: dict) -> list[str]:
    """Error over the requested accuracy, by kind of system and method."""
    rows = [[*name.rsplit(", ", 1), ratio["median"], ratio["worst"]] for name, ratio in content["summary"].items()]
    note = "Error of the forces over the accuracy asked for: median over all plans and configurations, and the worst. "
    note += "Accuracies 1e-2 to 1e-6, σ 0.6 to 1.5 Å, cells cubic, triclinic and 1 : 1 : 5, crystals rattled by 0.01 "
    return [*table(["system", "method", "median", "worst"], rows), note + "to 0.2 Å.", ""]


def canonical(content: dict) -> list[str]:
    """Mean and variance over the canonical ones, with standard errors."""
    columns = ("kinetic_mean", "kinetic_variance", "volume_mean", "volume_variance", "without_rotation")
    rows = []
    for row in content["rows"]:
        name = row["ensemble"] + (", at rest" if row.get("angular_momentum") == "zero" else "")
        cells = [f"{row[key][0]:.4f} ± {row[key][1]:.4f}" if key in row else "–" for key in columns]
        rows.append([row["system"], name, str(row["dof"]), *cells])
    header = ["system", "ensemble", "degrees", "kinetic energy", "its variance", "volume", "its variance"]
    note = "All over their values in the canonical ensemble, with standard errors; those of the volume come from an "
    note += "equation of state of runs at fixed volumes. At constant energy the variance is smaller and the mean "
    note += "that of the start. Last column: temperature without rotation, which a chain lets the start decide."
    return [*table([*header, "without rotation"], rows), note, ""]


def lone_atoms(content: dict) -> list[str]:
    """Errors of lone atoms and ions, and of the molecules beside them."""
    rows = [
        [kind, name, number(value, 4)] for kind, errors in content["errors"].items() for name, value in errors.items()
    ]
    return table(["set", "error", ""], rows)


def plan_history(content: dict) -> list[str]:
    """What the plans that a calculator has made before change, by system and accuracy."""
    keys = ("energy_max_meV_per_atom", "energy_rms_meV_per_atom", "forces_max_meV_per_A")
    cases = {name: case for name, case in content.items() if isinstance(case, dict)}
    rows = [[name, str(case["atoms"]), *(number(case[key], 2) for key in keys)] for name, case in cases.items()]
    return table(["system, accuracy", "atoms", "energy, largest (meV/atom)", "RMS", "forces, largest (meV/Å)"], rows)


def interruptions(content: dict) -> list[str]:
    """Runs that were stopped and started again, by kind and stage."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for name, run in content["runs"].items():
        kind = "training" if name.startswith("training") else "simulation"
        groups.setdefault((kind, run["stage"]), []).append(run)
    rows = [
        [*key, *(str(sum(map(count, runs))) for count in (bool, lambda r: r["equal"], lambda r: len(r["left"])))]
        for key, runs in groups.items()
    ]
    return table(["kind", "stopped in", "runs", "equal to one not stopped", "temporary files left"], rows)


# name of the file: (title, function, command where the file is missing)
SECTIONS = {
    "demo": ("Demo: gas of point charges, 100 frames", demo, "make demo"),
    "learning_curves": ("Learning curves", curves, "benchmarks/learning_curves.py gas kf_water nacl_water"),
    "dimers": ("Molecular dimers, published sets", dimers, "benchmarks/dimers.py --data shared"),
    "dimers_shipped": ("Molecular dimers, shipped sets", dimers, "benchmarks/dimers.py --data shipped"),
    "charge_transfer": ("Charge transfer and charge states", block("charge_transfer"), "benchmarks/charge_transfer.py"),
    "start_of_charges": ("Charges held at first", block("start_of_charges"), "benchmarks/start_of_charges.py"),
    "real_data": ("Published sets", real_data, "benchmarks/real_data.py"),
    "finetuning": ("Models tuned on few frames", block("finetuning"), "benchmarks/finetuning.py"),
    "water_infrared": ("Infrared spectrum of water", water_infrared, "benchmarks/water_infrared.py"),
    "fit_charges": ("Charges fitted to distances and a dipole", fit_charges, "benchmarks/fit_charges.py"),
    "fit_on_mace": ("A vibration fitted on MACE and NequIP", fit_on_mace, "benchmarks/fit_on_mace.py"),
    "ewald_accuracy": ("What the accuracy of a sum promises", ewald_accuracy, "benchmarks/ewald_accuracy.py"),
    "argon": ("Dispersion: Lennard-Jones argon", block("argon"), "benchmarks/argon.py"),
    "lone_atoms": ("Lone atoms and ions", lone_atoms, "benchmarks/lone_atoms.py"),
    "plan_history": ("History of the plans of a calculator", plan_history, "benchmarks/plan_history.py"),
    "interruptions": ("Runs that are stopped and started again", interruptions, "benchmarks/interruptions.py"),
    "canonical": ("Distributions in molecular dynamics", canonical, "benchmarks/canonical.py"),
    "conservation": ("Conservation in molecular dynamics", conservation, "benchmarks/conservation.py"),
    "md": ("Cost of molecular dynamics", partial(by_size, columns=MD), "benchmarks/md.py"),
    "water_ase": ("Energy and forces of water, cost", partial(by_size, columns=WATER_ASE), "benchmarks/water_ase.py"),
    "ensembles": ("Ensembles", ensembles, "benchmarks/ensembles.py"),
    "training_step": ("Cost of a training step", training_step, "benchmarks/training_step.py"),
    "graph_models": ("MACE and NequIP beside other packages", block("graph_models"), "benchmarks/graph_models.py"),
    "peers": ("Cost of the Ewald sum beside other packages", peers, "benchmarks/peers.py"),
    "crossover": ("Engines of the Ewald sum by size", crossover, "benchmarks/crossover.py"),
    "direct_sum": ("Direct sum against explicit cos and sin", direct_sum, "benchmarks/direct_sum.py"),
}


def absent_runs(results: Mapping[str, dict]) -> list[str]:
    """Sizes, models and sets that the commands run by default and the result files of trainings lack."""
    lines = []
    runs = results.get("learning_curves", {}).get("runs", {})
    models = learning_curves.MODELS
    for system, study in learning_curves.STUDIES.items() if runs else ():
        for size in study.sizes:
            model_runs = {m: runs.get(learning_curves.key_of(system, study.cutoff, m, size)) for m in models}
            names = [m for m, run in model_runs.items() if run is None or not learning_curves.is_current(run)]
            if names:
                lacking = "all models" if len(names) == len(models) else "; ".join(models[m][0] for m in names)
                lines.append(f"- {system}, cutoff {study.cutoff:g} Å, {size} frames: {lacking}")
    runs = results.get("real_data", {}).get("runs", RUNS)
    return lines + [f"- {name}" for name in RUNS if name not in runs]


def summary(results: Mapping[str, dict]) -> list[str]:
    """Missing results and goals not met, then goals that are met."""
    everything = goals(results)
    absent = [
        f"- `{name}.json`: {title} (`{command}`)"
        for name, (title, _, command) in SECTIONS.items()
        if name not in results
    ]
    lines = ["## Missing or not met", ""]
    if absent:
        lines += ["Result files that are not there:", "", *absent, ""]
    lacking = absent_runs(results)
    if lacking:
        lines += ["Trainings that are not there, or have earlier settings:", "", *lacking, ""]
    header = ["aim", "found", "limit"]
    for verdict, title in (("not met", "Not met:"), ("missing", "Not measured:"), ("met", "## Met")):
        selected = [goal for goal in everything if goal.verdict == verdict]
        if selected:
            rows = []
            for goal in selected:
                value = None if goal.found is None else goal.factor * goal.found
                limit = f"{'≥' if goal.at_least else '≤'} {number(goal.factor * goal.limit)} {goal.unit}"
                rows.append([goal.text, number(value), limit.rstrip()])
            lines += [title, "", *table(header, rows)]
    return lines


def page(results: Mapping[str, dict]) -> str:
    """The whole page, from the contents of the result files by their names."""
    lines = ["# Results", "", "Written by `python benchmarks/tables.py` from the files of `benchmarks/results`.", ""]
    lines += summary(results)
    for name, (title, function, _) in SECTIONS.items():
        if name in results:
            content = results[name]
            facts = [content["date"], content["device"], f"jax {content['jax']}", content.get("dtype")]
            source = f"`{name}.json`, last written by `{content['command']}`: {'; '.join(f for f in facts if f)}."
            lines += [f"## {title}", "", source, "", *function(content)]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / "results", help="folder of the JSON files")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "RESULTS.md")
    parser.add_argument("--page", type=pathlib.Path, default=None, help="its tables are written anew")
    arguments = parser.parse_args()
    files = {name: arguments.results / f"{name}.json" for name in SECTIONS}
    results = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    with atomic_path(arguments.out) as temporary:
        temporary.write_text(page(results))
    print(f"wrote {arguments.out}")
    if arguments.page:
        update_page(arguments.page, results)
        print(f"wrote the tables of {arguments.page}")


if __name__ == "__main__":
    main()
