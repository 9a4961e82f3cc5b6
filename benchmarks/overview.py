"""Tables with a mark on the page of results, from the result files."""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import dimers
import learning_curves
import numpy as np
from markdown_tables import number, table
from real_data import RUNS, reported

from lesjax.files import atomic_path


BEGIN = "<!-- written by benchmarks/tables.py: {name} -->"
END = "<!-- end of what is written -->"
# of the learning curves: system and number of training frames
SHOWN = (("gas", 100), ("kf_water", 180), ("nacl_water", 70))
HEADER = (
    "system, frames to train + validate", "model", "forces (meV/Å)", "energy (meV/atom)", "charges (e)", "min",
    "forces, published",
)  # fmt: skip


def overview(results: Mapping[str, dict]) -> list[str]:
    """All models on the systems with known or reference charges: MAE, with the RMSE in brackets."""
    return table(HEADER, _of_learning_curves(results))


def _of_learning_curves(results: Mapping[str, dict]) -> Iterator[list[str]]:
    runs = results.get("learning_curves", {}).get("runs", {})
    for system, size in SHOWN:
        study = learning_curves.STUDIES[system]
        published = learning_curves.PUBLISHED.get((system, study.cutoff), {})
        keys = {m: learning_curves.key_of(system, study.cutoff, m, size) for m in learning_curves.MODELS}
        model_runs = {m: runs.get(key) for m, key in keys.items()}
        title = study.title
        for model, run in model_runs.items():
            if run is not None and learning_curves.is_current(run):
                beside = learning_curves.beside(system, published.get(model, {}).get(size))
                yield _row(title and f"{title}, {_frames(run)}", model, run, beside)
                title = ""


def _frames(run: Mapping) -> str:
    return " + ".join(str(run["metrics"][kind]["n_structures"]) for kind in ("training", "validation"))


def _row(title: str, model: str, run: Mapping, published: str) -> list[str]:
    metrics = run["metrics"]["test"]
    pairs = [
        f"{number(1e3 * metrics[f'{kind}_mae'])} ({number(1e3 * metrics[f'{kind}_rmse'])})"
        for kind in ("forces", "energy")
    ]
    cost = [number(metrics.get("charges_mae"), 2), number(run["seconds"] / 60, 2), published]
    return [title, learning_curves.MODELS[model][0], *pairs, *cost]


def of_charge_transfer(results: Mapping[str, dict]) -> list[str]:
    """RMSE on test frames, and in brackets on training frames, by state; of several seeds the mean."""
    runs = results.get("charge_transfer", {}).get("runs", {})
    rows, last = [], None
    for set_name, model in dict.fromkeys(tuple(name.split("/")[:2]) for name in runs):
        seeds = [run for name, run in runs.items() if name.startswith(f"{set_name}/{model}/")]
        for state in seeds[0]["metrics"]["test"].get("by_config_type") or {"": None}:
            errors = [[_of_state(run["metrics"][part], state) for run in seeds] for part in ("test", "training")]
            charges = [run["charges"][state or next(iter(run["charges"]))] for run in seeds if "charges" in run]
            texts = [
                " ".join(number(1e3 * sum(e[f"{kind}_rmse"] for e in of_part) / len(seeds)) for of_part in errors)
                for kind in ("forces", "energy")
            ]
            means = [
                number(sum(c[key] for c in charges) / len(charges), 2) if charges else "–"
                for key in ("rmse", "factor", "rmse_after_factor")
            ]
            texts = ["{} ({})".format(*text.split()) for text in texts]
            cost = number(sum(run["seconds"] for run in seeds) / 60 / len(seeds), 2)
            label = (
                "" if set_name == last else set_name,
                model.replace("_", " "),
                state or next(iter(seeds[0].get("charges", {"": 0}))),
            )
            rows.append([*label, *texts, *means, str(len(seeds)), str(seeds[0]["epochs"]), cost])
            last = set_name
    header = ["set", "model", "state", "forces (meV/Å)", "energy (meV/atom)", "charges (e)", "best factor", "after it"]
    return table([*header, "seeds", "epochs", "min"], rows)


def _of_state(metrics: Mapping, state: str) -> Mapping[str, float]:
    return metrics["by_config_type"][state] if state else metrics


def of_start_of_charges(results: Mapping[str, dict]) -> list[str]:
    """RMSE on test frames of both schedules: mean over the seeds ± their standard deviation."""
    runs = results.get("start_of_charges", {}).get("runs", {})
    rows, last = [], None
    for set_name, schedule in dict.fromkeys(tuple(name.split("/")[:2]) for name in runs):
        seeds = [run for name, run in runs.items() if name.startswith(f"{set_name}/{schedule}/")]
        metrics = [run["metrics"]["test"] for run in seeds]
        columns = (("forces_rmse", 1e3), ("energy_rmse", 1e3), ("charges_mae", 1.0))
        scatters = [_scatter([factor * m[key] for m in metrics if key in m]) for key, factor in columns]
        sizes = [number(sum(run["charges_size"][key] for run in seeds) / len(seeds), 2) for key in ("smallest", "last")]
        label = "" if set_name == last else set_name
        rows.append([label, schedule.replace("_", " "), *scatters, *sizes, str(len(seeds)), str(seeds[0]["epochs"])])
        last = set_name
    header = ["set", "charges", "forces (meV/Å)", "energy (meV/atom)", "charges, MAE (e)"]
    return table([*header, "smallest RMS of q (e)", "at the end", "seeds", "epochs"], rows)


def _scatter(values: Sequence[float]) -> str:
    mean = number(np.mean(values)) if values else "–"
    return f"{mean} ± {number(np.std(values, ddof=1), 2)}" if len(values) > 1 else mean


def of_dimers(results: Mapping[str, dict]) -> list[str]:
    """RMSE of energy (meV) and forces (meV/Å), with all published errors."""
    dimer_table = results.get("dimers", {}).get("table", {})
    rows = []
    for name, models in dimers.PUBLISHED.items():
        for i, published in enumerate(models):
            by_model = dimer_table.get(name, {}) if i == 0 else {}
            errors = [by_model.get(model) for model in dimers.MODELS]
            ours = [f"{e['test_energy_meV']:.3g} / {e['test_forces_meV_A']:.3g}" if e else "–" for e in errors]
            pairs = [" / ".join(map(str, pair)) if pair else "–" for pair in (published.short_range, published.les)]
            rows.append(["" if i else name, published.of, *pairs, *ours])
    header = ["dimers", "published for", "short range, published", "LES, published"]
    return table([*header, "lesjax, short range", "lesjax, LES, four channels"], rows)


def of_dipeptides(results: Mapping[str, dict]) -> list[str]:
    """RMSE, and for charges and response the coefficient of determination / squared correlation."""
    runs = results.get("real_data", {}).get("runs", {})
    rows = []
    for name, title in (("dipeptides_short_range", "short range"), ("dipeptides", "LES")):
        published, metrics = RUNS[name].published, reported(runs[name])[1] if name in runs else {}
        rows += [_of_response(f"published, {title}", published), _of_response(f"lesjax, {title}", metrics)]
    titles = {
        "dipeptides_published_weights": "published weights (CACE, σ 1 Å) in lesjax",
        "dipeptides_mace_short_range": "lesjax, MACE, short range",
        "dipeptides_mace": "lesjax, MACE, LES",
        "dipeptides_mace_published_weights": "published weights (MACE) in lesjax",
    }
    rows += [_of_response(title, reported(runs[name])[1]) for name, title in titles.items() if name in runs]
    header = ["dipeptides, validation", "energy (meV/atom)", "forces (meV/Å)", "charges (MBIS)"]
    return table([*header, "dipole", "quadrupole", "Born charges"], rows)


def _of_response(title: str, metrics: Mapping[str, float]) -> list[str]:
    errors = [number(1e3 * metrics[key]) if key in metrics else "–" for key in ("energy_rmse", "forces_rmse")]
    scores = []
    for kind in ("charges", "dipole", "quadrupole", "bec"):
        r2, corr2 = (metrics.get(f"{kind}_{score}") for score in ("r2", "corr2"))
        is_published = title.startswith("published,")
        scores.append(number(r2) if is_published or r2 is None else f"{number(r2)} / {number(corr2)}")
    return [title, *errors, *scores]


def of_water(results: Mapping[str, dict]) -> list[str]:
    """RMSE, with the numbers of frames."""
    runs, published = results.get("real_data", {}).get("runs", {}), RUNS["water"]
    n_published = str(published.n_train_published)
    rows = [["published, CACE-LES", n_published, "16, held out", *_errors(published.published)]]
    titles = {
        "water_published_weights": "published weights in lesjax", "water": "lesjax, CACE-LES",
        "water_mace": "lesjax, MACE-LES",
    }  # fmt: skip
    for name, title in titles.items():
        if name in runs:
            kind, metrics = reported(runs[name])
            n_train = str(runs[name]["metrics"].get("training", {}).get("n_structures", n_published))
            rows.append([title, n_train, f"{metrics['n_structures']}, {kind}", *_errors(metrics)])
    header = ["liquid water", "frames, training", "frames of the errors", "energy (meV/atom)", "forces (meV/Å)"]
    return table(header, rows)


def of_finetuning(results: Mapping[str, dict]) -> list[str]:
    """RMSE on held-out frames and on the first set, of the model as it is, from scratch, and tuned."""
    rows, last = [], None
    titles = {"untuned": "untuned", "scratch": "from scratch", "tuned": "tuned", "replay": "tuned with replay"}
    for run in results.get("finetuning", {}).get("runs", {}).values():
        where = (run["study"], run["frames"])
        test, first = run["metrics"]["test"], run["metrics"]["first"]
        label = ["", ""] if where == last else [run["study"].replace("_", " "), str(run["frames"])]
        cost = [str(run.get("epochs", "–")), number(run["seconds"] / 60, 2) if "seconds" in run else "–"]
        rows.append([*label, titles[run["kind"]], *_errors(test), number(1e3 * first["forces_rmse"]), *cost])
        last = where
    header = ["tuned on", "frames", "model", "energy (meV/atom)", "forces (meV/Å)", "forces, first set"]
    return table([*header, "epochs", "min"], rows)


def _errors(metrics: Mapping[str, float]) -> list[str]:
    return [number(1e3 * metrics[key]) for key in ("energy_rmse", "forces_rmse")]


def of_argon(results: Mapping[str, dict]) -> list[str]:
    """Errors of the forces with and without dispersion by kind of frame, beside the forces beyond the cutoff."""
    content = results.get("argon", {"test_forces_meV_A": {}, "runs": {}})
    runs = content["runs"]
    header = ["test frames", "forces", "beyond 5 Å", "of these 1/r¹³", "error, short range", "with dispersion", "ratio"]
    rows = []
    for kind, sizes in content["test_forces_meV_A"].items():
        found = [runs[model]["errors"][f"{kind}_forces_rmse_meV_A"] for model in ("short_range", "dispersion")]
        rows.append([kind, *(number(value) for value in (*sizes.values(), *found, found[0] / found[1]))])
    return table(header, rows)


def of_graph_models(results: Mapping[str, dict]) -> list[str]:
    """Times of MACE and NequIP beside other packages, in ratios to lesjax, with memory and first call."""
    rows: list[list[str]] = []
    for case in results.get("graph_models", {"cases": []})["cases"]:
        own = case["engines"]["lesjax"]
        for engine, row in case["engines"].items():
            label = [case["model"], case["task"]] if row is own else ["", ""]
            if "error" in row:
                rows.append([*label, engine, "fails", *["–"] * 4])
                continue
            ratios = [number(row[key] / own[key], 2) for key in ("ms", "ms_min")]
            rows.append(
                [*label, engine, number(row["ms"]), *ratios, str(row["above_start_mb"]), str(row["first_call_s"])]
            )
    header = ["model", "task", "package", "ms", "over lesjax", "fastest calls", "memory (MB)", "first call (s)"]
    return table(header, rows)


BLOCKS = {
    "overview": overview,
    "charge_transfer": of_charge_transfer,
    "start_of_charges": of_start_of_charges,
    "dimers": of_dimers,
    "dipeptides": of_dipeptides,
    "water": of_water,
    "finetuning": of_finetuning,
    "argon": of_argon,
    "graph_models": of_graph_models,
}


def block(name: str) -> Callable[[dict], list[str]]:
    """The table of the page that one result file alone makes."""
    return lambda content: BLOCKS[name]({name: content})


def with_tables(text: str, results: Mapping[str, dict]) -> str:
    """Return the text of a page with its tables rewritten.

    Raises:
        ValueError: if the lines around a table are missing.
    """
    for name, function in BLOCKS.items():
        mark = BEGIN.format(name=name)
        before, begin, rest = text.partition(mark)
        _, end, after = rest.partition(END)
        if not (begin and end):
            raise ValueError(f"The page has no place for a table: the lines {mark!r} and {END!r} are missing.")
        text = "\n".join([before + mark, "", *function(results), END + after])
    return text


def update_page(path: pathlib.Path, results: Mapping[str, dict]) -> None:
    """Rewrite the tables of a page."""
    text = with_tables(path.read_text(), results)
    with atomic_path(path) as temporary:
        temporary.write_text(text)
