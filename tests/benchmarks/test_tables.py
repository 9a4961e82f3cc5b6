"""The page of results: its numbers, its verdicts, and that the committed one belongs to the committed files."""

import json
from pathlib import Path

import goals
import learning_curves
import overview
import pytest
import tables


FOLDER = Path(tables.__file__).parent


def run(system, cutoff, model, size, **metrics):
    return f"{system}_{cutoff:g}_{model}_{size}", {
        "system": system, "cutoff": cutoff, "model": model, "n_train": size, "epochs": 7, "seconds": 90,
        "settings": [*learning_curves.MODELS[model][1], f"model.short_range.cutoff={cutoff}", "training.eval_every=1"],
        "metrics": {kind: metrics for kind in ("test", "bulk", "interface")}
        | {"training": {"n_structures": size}, "validation": {"n_structures": 48}},
    }  # fmt: skip


@pytest.fixture
def results():
    runs = dict([
        run("gas", 5.0, "les", 100, forces_mae=0.009, energy_mae=0.0004, charges_mae=0.0071),
        run("gas", 5.0, "short_range", 100, forces_mae=0.120, energy_mae=0.02),
        run("kf_water", 4.5, "short_range", 180, forces_mae=0.0301, energy_mae=0.0012),
    ])  # fmt: skip
    facts = {"command": "python x.py", "date": "2026-01-31", "device": "cpu", "jax": "0.10.1"}
    return {"learning_curves": {**facts, "runs": runs}}


def test_numbers_are_not_powers_of_ten_and_none_is_a_dash():
    assert [tables.number(x) for x in (15400.0, 0.0123456, 123, 2.0, None)] == ["15400", "0.0123", "123", "2", "–"]
    assert tables.table(["a", "b"], [["x", 0.5]]) == ["| a | b |", "|---|---|", "| x | 0.5 |", ""]


def test_goals_are_met_not_met_or_missing(results):
    verdicts = {goal.text: goal.verdict for goal in goals.goals(results)}
    where = "Gas, 100 frames, cutoff 5 Å"
    assert verdicts[f"{where}: forces MAE of LES"] == "met"
    assert verdicts[f"{where}: short range over LES"] == "met"
    assert verdicts[f"{where}: charge MAE of LES"] == "not met"
    assert verdicts["Gas, 10 frames, cutoff 5 Å: charge MAE of LES"] == "missing"
    assert verdicts["Aqueous KF, 180 frames, cutoff 4.5 Å: forces MAE of LES over short range"] == "missing"
    assert verdicts["dipeptides, validation, bec_r2: as published or better"] == "missing"
    assert verdicts["dipeptides, validation, bec_corr2: as published or better"] == "missing"
    higher_is_better = goals.Goal("R²", 0.85, 0.859, at_least=True)
    assert higher_is_better.verdict == "not met"


def test_page_shows_runs_beside_published_and_what_is_missing(results):
    page = tables.page(results)
    assert "| 100 + 48 | LES | 9 | – | 0.4 | – | 0.0071 | 7 | 90 | 9 (another set) |" in page
    assert "| 100 + 48 | short range | 120 | – | 20 | – | – | 7 | 90 | 110 (another set) |" in page
    assert "| 180 + 48 | short range | 30.1 | – | 1.2 | – | – | 7 | 90 | 26.9 |" in page
    assert "| Gas, 100 frames, cutoff 5 Å: charge MAE of LES | 0.0071 | ≤ 0.005 e |" in page
    assert "Aqueous KF, cutoff 4.5 Å, test frames of the interface" in page
    assert "- `demo.json`" in page
    assert "- gas, cutoff 5 Å, 100 frames: short range, message passing; charge equilibration; LES with dipoles" in page
    assert "- kf_water, cutoff 4.5 Å, 300 frames: all models" in page
    assert "- `learning_curves.json`" not in page
    assert "`python x.py`: 2026-01-31; cpu; jax 0.10.1." in page


def test_all_results_are_made_by_make():
    makefile = (FOLDER.parent / "Makefile").read_text()
    assert [name for name in tables.SECTIONS if f"--json $(RESULTS)/{name}.json" not in makefile] == []


def test_runs_of_earlier_settings_are_named(results):
    run = results["learning_curves"]["runs"]["gas_5_les_100"]
    run["settings"] = ["model.long_range.element_charges=false", *run["settings"]]
    page = tables.page(results)
    assert "| 100 + 48 | LES (earlier settings) | 9 |" in page
    assert "- gas, cutoff 5 Å, 100 frames: short range, message passing; charge equilibration; LES; LES with" in page


def test_committed_page_belongs_to_the_committed_results():
    files = {name: FOLDER / "results" / f"{name}.json" for name in tables.SECTIONS}
    found = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    command = "run: python benchmarks/tables.py --page docs/results.md"
    assert (FOLDER / "RESULTS.md").read_text() == tables.page(found), command
    text = (FOLDER.parent / "docs" / "results.md").read_text()
    assert text == overview.with_tables(text, found), command


@pytest.fixture
def results_page():
    """Places for all tables."""
    places = (f"{overview.BEGIN.format(name=name)}\nold\n{overview.END}\n" for name in overview.BLOCKS)
    return "\n".join(["before\n", *places, "after\n"])


def test_tables_of_the_page(results, results_page):
    """Errors with the unit of the header, one title for each system, other text as it is."""
    for run in results["learning_curves"]["runs"].values():
        run["metrics"]["test"] |= {"forces_rmse": 0.2, "energy_rmse": 0.005}
    lines = overview.with_tables(results_page, results).splitlines()
    assert lines[:2] == ["before", ""]
    row = "| Gas of point charges, 100 + 48 | short range | 120 (200) | 20 (5) | – | 1.5 | 110 (another set) |"
    assert row in lines
    assert "|  | LES | 9 (200) | 0.4 (5) | 0.0071 | 1.5 | 9 (another set) |" in lines
    assert "| Aqueous KF, 180 + 48 | short range | 30.1 (200) | 1.2 (5) | – | 1.5 | 26.9 |" in lines
    assert lines[-3:] == [overview.END, "", "after"]
    assert "old" not in lines
    with pytest.raises(ValueError, match="has no place for a table"):
        overview.with_tables("before\nafter\n", results)


def test_dimers_stand_beside_the_published_models_with_as_many_channels(results_page):
    errors = {"test_energy_meV": 4.0, "test_forces_meV_A": 6.5, "test_energy_relative": 0.02}
    content = {"data": "shared", "table": {"CC": {"les": {**errors, "seeds": [0], "seconds": 9}}}}
    lines = tables.dimers(content)
    assert "| CC | les | 4 | 14.6 | 6.5 | 5.9 | 2 | 1 | 9 |" in lines
    assert "| CC | one channel | 566 / 63.5 | 5.8 / 8.3 |" in lines
    assert "| CC | checkpoint, one channel | – | 3.75 / 6.9 |" in lines
    assert "| CC | les | 4 | – | 6.5 | – | 2 | 1 | 9 |" in tables.dimers({**content, "data": "shipped"})
    text = overview.with_tables(results_page, {"dimers": content})
    assert "| CC | four channels | 372 / 49 | 14.6 / 5.9 | – | 4 / 6.5 |" in text
    assert "|  | checkpoint, one channel | – | 3.75 / 6.9 | – | – |" in text
    verdicts = {goal.text: goal.verdict for goal in goals.goals({"dimers": content})}
    assert verdicts["Dimers CC, energy RMSE of LES: as published (four channels) or better"] == "met"
    assert verdicts["Dimers CC, energy RMSE of LES: as published (checkpoint, one channel) or better"] == "not met"
    assert verdicts["Dimers CC, forces RMSE of LES: as published (four channels) or better"] == "not met"


def test_sets_without_test_frames_report_validation(results_page):
    """Runs beside both published models, and the squared correlation where it is known."""
    errors = {f"{kind}_{name}": 0.05 for kind in ("energy", "forces") for name in ("rmse", "mae")}
    sets = {"training": {"n_structures": 495}, "validation": {**errors, "n_structures": 55}}
    scores = {"charges_r2": 0.4, "charges_corr2": 0.9, "bec_r2": 0.7}
    runs = {
        "dipeptides_short_range": {"metrics": sets},
        "dipeptides": {"metrics": {**sets, "validation": {**sets["validation"], **scores}}},
    }
    lines = tables.real_data({"runs": runs})
    assert "| dipeptides | 495 | 55, validation | 50 | 50 | 50 | 50 | – | – | – |" in lines
    assert "| dipeptides | charges_r2 | 0.4 | 0.9 | 0.859 |" in lines
    assert "| dipeptides | bec_r2 | 0.7 | – | 0.943 |" in lines
    text = overview.with_tables(results_page, {"real_data": {"runs": runs}})
    assert "| published, short range | 1.97 | 58.8 | – | – | – | – |" in text
    assert "| lesjax, short range | 50 | 50 | – | – | – | – |" in text
    assert "| lesjax, LES | 50 | 50 | 0.4 / 0.9 | – | – | 0.7 / – |" in text
    assert "| published, CACE-LES | 1593 | 16, held out | 0.202 | 21 |" in text
    verdicts = {goal.text: goal.verdict for goal in goals.goals({"real_data": {"runs": runs}})}
    assert verdicts["dipeptides, validation, charges_r2: as published or better"] == "not met"
    assert verdicts["dipeptides, validation, charges_corr2: as published or better"] == "met"


def test_tuned_models_stand_beside_those_from_scratch(results_page):
    def run(kind, energy, forces, **facts):
        metrics = {"test": {"energy_rmse": energy, "forces_rmse": forces}, "first": {"forces_rmse": 0.3}}
        return {"study": "superionic_water", "frames": 20, "kind": kind, "metrics": metrics, **facts}

    trained = {"epochs": 30, "seconds": 90}
    runs = {
        kind: run(kind, *errors, **trained) for kind, errors in {"scratch": (0.02, 0.5), "tuned": (0.012, 0.2)}.items()
    }
    runs = {"untuned": run("untuned", 0.9, 5.0), **runs}
    content = {"finetuning": {"runs": {f"superionic_water/20/{kind}": value for kind, value in runs.items()}}}
    text = overview.with_tables(results_page, content)
    assert "| superionic water | 20 | untuned | 900 | 5000 | 300 | – | – |" in text
    assert "|  |  | tuned | 12 | 200 | 300 | 30 | 1.5 |" in text
    verdicts = {goal.text: goal.verdict for goal in goals.goals(content)}
    assert verdicts["Superionic water, 20 frames: forces RMSE tuned over from scratch"] == "met"
    assert verdicts["Superionic water, 20 frames: energy RMSE tuned over from scratch"] == "not met"
    assert {goal.verdict for goal in goals.of_finetuning({})} == {"missing"}


def test_goals_of_graph_models():
    engines = {"lesjax": {"ms": 10.0}, "mace-torch": {"ms": 39.0}, "mlip": {"error": "out of memory"}}
    content = {"graph_models": {"cases": [{"model": "MACE 64x0e", "task": "water 192", "engines": engines}]}}
    verdicts = {goal.text: goal.verdict for goal in goals.of_graph_models(content)}
    assert len(verdicts) == 3 * (2 + 2 + 2)
    assert verdicts.pop("MACE 64x0e, water 192: time of mace-torch over lesjax") == "not met"
    assert set(verdicts.values()) == {"missing"}


def test_times_of_the_pytorch_code_are_marked():
    case = {"ms": 1.0, "reference_torch_ms": 2.0, "compile_s": 3.0}
    assert any("measured by no command here" in line for line in tables.training_step({"cases": {"a": case}}))
