"""Goals of the results: the aims of the project and the published errors on the same data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dimers import PUBLISHED
from graph_model_engines import ENGINES, MODELS
from graph_models import TASKS
from learning_curves import key_of
from real_data import RUNS, reported


@dataclass(frozen=True)
class Goal:
    """A measured number, None if it is missing, and its limit: the largest or, with `at_least`, smallest.

    `factor` and `unit` are for display of both.
    """

    text: str
    found: float | None
    limit: float
    unit: str = ""
    factor: float = 1.0
    at_least: bool = False

    @property
    def verdict(self) -> str:
        """ "met", "not met" or "missing"."""
        if self.found is None:
            return "missing"
        return "met" if (self.found >= self.limit if self.at_least else self.found <= self.limit) else "not met"


UNITS = {"energy": ("meV/atom", 1e3), "forces": ("meV/Å", 1e3), "bec": ("e", 1.0)}


def goals(results: Mapping[str, dict]) -> list[Goal]:
    """All goals, from the contents of the result files by their names."""
    groups = (
        of_learning_curves, of_dimers, of_published_sets, of_finetuning, of_charge_transfer, of_argon, of_dynamics,
        of_ensembles, of_fits, of_graph_models,
    )  # fmt: skip
    return [goal for group in groups for goal in group(results)]


def ratio(a: float | None, b: float | None) -> float | None:
    """a / b, None if one of them is missing."""
    return None if a is None or b is None else a / b


def of_learning_curves(results: Mapping[str, dict]) -> Iterator[Goal]:
    """Goals for the gas of point charges and aqueous KF."""
    runs = results.get("learning_curves", {}).get("runs", {})

    def value(system: str, cutoff: float, model: str, size: int, metric: str) -> float | None:
        run = runs.get(key_of(system, cutoff, model, size))
        return run["metrics"]["test"].get(metric) if run else None

    for cutoff in (4.0, 5.0, 5.5):
        forces = {model: value("gas", cutoff, model, 100, "forces_mae") for model in ("short_range", "les")}
        where = f"Gas, 100 frames, cutoff {cutoff:g} Å"
        yield Goal(f"{where}: forces MAE of LES", forces["les"], 0.010, "meV/Å", 1e3)
        yield Goal(f"{where}: short range over LES", ratio(forces["short_range"], forces["les"]), 10.0, at_least=True)
    for size in (10, 30, 100, 300):
        error = value("gas", 5.0, "les", size, "charges_mae")
        yield Goal(f"Gas, {size} frames, cutoff 5 Å: charge MAE of LES", error, 0.005, "e")
    forces = {model: value("kf_water", 4.5, model, 180, "forces_mae") for model in ("short_range", "les")}
    where = "Aqueous KF, 180 frames, cutoff 4.5 Å"
    yield Goal(f"{where}: forces MAE of LES over short range", ratio(forces["les"], forces["short_range"]), 0.45)
    yield Goal(f"{where}: charge MAE of LES", value("kf_water", 4.5, "les", 180, "charges_mae"), 0.04, "e")


def of_dimers(results: Mapping[str, dict]) -> Iterator[Goal]:
    """Goals for the published dimers, and for the curve of charged pairs in these and in the shipped ones."""
    for name, label in (("dimers", "published sets"), ("dimers_shipped", "shipped sets")):
        les = results.get(name, {}).get("table", {}).get("CC", {}).get("les", {})
        text = f"Dimers CC, {label}: largest error of LES beyond the cutoff over the interaction energy"
        yield Goal(text, les.get("test_energy_relative"), 0.05, "%", 100.0)
    table = results.get("dimers", {}).get("table", {})
    for name, models in PUBLISHED.items():
        les = table.get(name, {}).get("les", {})
        for model in models:
            for key, unit, limit in zip(("energy_meV", "forces_meV_A"), ("meV", "meV/Å"), model.les, strict=True):
                text = f"Dimers {name}, {key.partition('_')[0]} RMSE of LES: as published ({model.of}) or better"
                yield Goal(text, les.get(f"test_{key}"), limit, unit)


def of_published_sets(results: Mapping[str, dict]) -> Iterator[Goal]:
    """Goals for dipeptides, superionic water and water, on the frames that each run reports; no short-range models.

    Published R² do not say whether they are coefficients of determination or squared correlations: both are compared.
    """
    runs = results.get("real_data", {}).get("runs", {})
    for name, run in RUNS.items():
        if name.endswith("short_range"):
            continue
        frames, metrics = reported(runs[name]) if name in runs else ("validation", {})
        remark = f" ({run.remark})" if run.remark else ""
        for metric, limit in run.published.items():
            kind = metric.removesuffix("_rmse")
            unit, factor = UNITS[kind] if kind in UNITS else ("", 1.0)
            is_score = metric.endswith("_r2")
            for key in (metric, metric.removesuffix("r2") + "corr2") if is_score else (metric,):
                text = f"{name}, {frames}, {key}: as published or better{remark}"
                yield Goal(text, metrics.get(key), limit, unit, factor, at_least=is_score)


def of_finetuning(results: Mapping[str, dict]) -> Iterator[Goal]:
    """Goals for models tuned on few frames."""
    runs = results.get("finetuning", {}).get("runs", {})
    studies = {
        "superionic_water/20": "Superionic water, 20 frames", "dimers_CP/10": "Dimers CP, 10 frames, CACE",
        "dimers_CP_mace/10": "Dimers CP, 10 frames, MACE",
    }  # fmt: skip
    for name, title in studies.items():
        tuned, scratch = (
            runs.get(f"{name}/{kind}", {}).get("metrics", {}).get("test", {}) for kind in ("tuned", "scratch")
        )
        for kind in ("forces", "energy"):
            found = ratio(*(errors.get(f"{kind}_rmse") for errors in (tuned, scratch)))
            yield Goal(f"{title}: {kind} RMSE tuned over from scratch", found, 0.5)


def of_charge_transfer(results: Mapping[str, dict]) -> Iterator[Goal]:
    """Goals for the best model with latent charges on each set whose states a short-range model can tell apart."""
    runs = results.get("charge_transfer", {}).get("runs", {})
    for name in ("na9cl8", "charge_transfer", "carbon_chains"):
        errors = {
            key.split("/")[1]: run["metrics"]["test"]["forces_rmse"]
            for key, run in runs.items()
            if key.startswith(f"{name}/") and key.endswith("/0")
        }
        of_les = [error for model, error in errors.items() if model.startswith("les")]
        found = errors["short_range"] / min(of_les) if of_les and "short_range" in errors else None
        yield Goal(f"Charge transfer, {name}: forces RMSE of short range over LES", found, 3.0, at_least=True)


def of_argon(results: Mapping[str, dict]) -> Iterator[Goal]:
    """Goal for learned dispersion."""
    runs = results.get("argon", {}).get("runs", {})
    errors = {name: run["errors"]["all_forces_rmse_meV_A"] for name, run in runs.items()}
    found = errors["short_range"] / errors["dispersion"] if errors else None
    yield Goal("Argon: forces RMSE without learned dispersion over with it", found, 5.0, at_least=True)


def of_dynamics(results: Mapping[str, dict]) -> Iterator[Goal]:
    """Goals for conservation, restarts and the cost of molecular dynamics of water."""
    runs = results.get("conservation", {}).get("runs", {})
    for dtype, limit in (("float64", 1e-6), ("float32", 1e-5)):
        values = runs.get(dtype, {})
        for ensemble in ("nve", "nvt", "npt", "npt-flexible"):
            drift = values.get(ensemble, {}).get("drift_eV_per_atom_and_ps")
            drift = None if drift is None else abs(drift)
            yield Goal(f"Water, {ensemble}, {dtype}: drift of the conserved energy", drift, limit, "µeV/atom/ps", 1e6)
    values = runs.get("float64", {})
    yield Goal("Water, 500 steps there and back, float64: distance", values.get("reversal_A"), 1e-8, "Å")
    yield Goal("Water, new plan of the Ewald sum: jump", values.get("new_plan_eV_per_atom"), 1e-5, "µeV/atom", 1e6)
    rows = {row["n_atoms"]: row for row in results.get("md", {}).get("rows", [])}
    for n, factor in ((192, 8.0), (1536, 8.0), (12288, 25.0)):
        row = rows.get(n, {})
        steps, reference = row.get("steps_per_second"), row.get("reference_torch_steps_per_second")
        ratio = None if steps is None else steps / reference
        text = f"Water, {n} atoms: steps per second over those of the PyTorch code, which are not measured here"
        yield Goal(text, ratio, factor, at_least=True)
        if n != 192:
            share = row.get("long_range_share")
            yield Goal(f"Water, {n} atoms: long range of energy and forces", share, 0.15, "%", 100.0)
        if n != 1536:
            text = f"Water, {n} atoms: what a step takes beyond energy and forces"
            yield Goal(f"{text} in a compiled loop", row.get("driver_overhead"), 0.15, "%", 100.0)
            yield Goal(f"{text} called from the host", row.get("driver_overhead_over_calls"), 0.15, "%", 100.0)
    if 1536 in rows and 12288 in rows:
        per_atom = [rows[n]["step_ms"] / n for n in (1536, 12288)]
        yield Goal("Water: cost per atom, 12288 over 1536 atoms", per_atom[1] / per_atom[0], 1.5)


def of_ensembles(results: Mapping[str, dict]) -> Iterator[Goal]:
    """Goals for the cost of eight models, and for the rank correlation of their spread and error."""
    content = results.get("ensembles", {})
    yield Goal("Ensemble of 8, dimers: training step over that of one model", content.get("cost", {}).get("ratio"), 3.0)
    rank = content.get("ranking", {}).get("metrics", {}).get("forces_spearman")
    text = "Ensemble, dipeptides, validation: rank correlation of spread and error of forces"
    yield Goal(text, rank, 0.5, at_least=True)


def of_fits(results: Mapping[str, dict]) -> Iterator[Goal]:
    """Goals for charge scales fitted to averages over ensembles."""
    runs = {(*run["targets"], run["start"]): run for run in results.get("fit_charges", {}).get("runs", [])}
    for start in (0.8, 1.25):
        run = runs.get(("rdf", "dipole", start))
        error = None if run is None else run["error_percent"]
        yield Goal(f"Charge scale from a radial distribution and a dipole, start {start:g}: error", error, 1.0, "%")


def of_graph_models(results: Mapping[str, dict]) -> Iterator[Goal]:
    """Goals for the times of MACE and NequIP beside other packages."""
    cases = {(c["model"], c["task"]): c["engines"] for c in results.get("graph_models", {"cases": []})["cases"]}
    for model, options in MODELS.items():
        engines = [name for name, kinds in ENGINES.items() if options["kind"] in kinds and "lesjax" not in name]
        for task in TASKS:
            rows = cases.get((model, task), {})
            for engine in engines:
                limit = 3.5 if engine == "mlip" and task.startswith("training") else 5.0
                if options["kind"] == "nequip":
                    limit = 2.0
                elif engine == "mace-torch" and options["max_l"] == 0 and task != "water 1536":
                    limit = 4.0
                found = ratio(*(rows.get(name, {}).get("ms") for name in (engine, "lesjax")))
                yield Goal(f"{model}, {task}: time of {engine} over lesjax", found, limit, at_least=True)
