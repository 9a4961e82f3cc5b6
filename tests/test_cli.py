"""The command: what it writes and prints, and that mistakes are one line that names them."""

import contextlib
import dataclasses
import io as text
import json
import math
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import lesjax
from lesjax import cli, demo, io
from lesjax.dynamics import Settings
from lesjax.runs import read_log
from lesjax.training.folder import run_folder
from toy import CONFIG, make_frames


LABELS = ("energy", "forces", "stress", "charges")
SCORES = {"charges_r2", "charges_corr2"}
GROUPS = {"units", "by_element", "by_composition"}
METRICS = {
    "n_structures",
    "charges",
    "net_charge",
    *SCORES,
    *(f"{label}_{kind}" for label in LABELS for kind in ("rmse", "mae")),
}


def write_inputs(folder):
    io.write(folder / "train.xyz", make_frames(8))
    io.write(folder / "test.xyz", make_frames(3, seed=1))
    (folder / "config.toml").write_text(CONFIG)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short training through the command, with what it printed."""
    folder = tmp_path_factory.mktemp("cli")
    write_inputs(folder)
    arguments = ["train", str(folder / "config.toml")]
    for setting in ("training.phases.0.epochs=3", "data.test=test.xyz", f"output={folder / 'run'}"):
        arguments += ["--set", setting]
    with contextlib.redirect_stdout(text.StringIO()) as out, contextlib.redirect_stderr(text.StringIO()) as error:
        status = cli.main(arguments)
    assert (status, error.getvalue()) == (0, "")
    return folder, out.getvalue()


def test_train_writes_its_files(run):
    folder, _ = run
    plots = {"learning_curve.png", "parity_training.png", "parity_validation.png", "parity_test.png"}
    files = {"config.json", "log.jsonl", "metrics.json", "checkpoint.safetensors", "model", "model-last"}
    assert {path.name for path in (folder / "run").iterdir()} == plots | files
    for name in plots:
        assert (folder / "run" / name).read_bytes().startswith(b"\x89PNG")
    for name in ("model", "model-last"):
        assert {path.name for path in (folder / "run" / name).iterdir()} == {"config.json", "params.safetensors"}
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert {name: part["n_structures"] for name, part in metrics.items()} == {
        "training": 7, "validation": 1, "test": 3
    }  # fmt: skip
    assert all(set(part) == METRICS | GROUPS for part in metrics.values())
    assert [record["epoch"] for record in read_log(folder / "run" / "log.jsonl")] == [1, 2, 3]


def test_train_tells_what_it_does(run):
    folder, out = run
    assert "7 structures to train on, 1 to validate" in out
    lines = out.splitlines()
    assert lines[0] == f"{folder / 'config.toml'}: reading the data; results in {folder / 'run'}/"
    assert lines.index("compiling …") < next(i for i, line in enumerate(lines) if line.startswith("epoch "))
    assert [line.partition(":")[0] for line in lines if line.startswith("epoch ")] == [
        f"epoch {i}/3" for i in (1, 2, 3)
    ]
    assert "eV/Å" in out
    assert "meV" not in out
    assert "training: 7 structures" in out
    assert "test: 3 structures" in out
    assert str(folder / "run" / "model") in out


def test_evaluate(run, tmp_path, capsys):
    folder, _ = run
    outputs = ["--json", str(tmp_path / "new" / "m.json"), "--plot", str(tmp_path / "p.png")]
    assert cli.main(["evaluate", str(folder / "run" / "model"), str(folder / "test.xyz"), *outputs]) == 0
    metrics = json.loads((tmp_path / "new" / "m.json").read_text())
    assert set(metrics) == METRICS | GROUPS
    assert metrics["units"] == {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å³", "charges": "e"}
    assert metrics["by_element"]["Na"]["n_atoms"] == 6
    assert metrics == json.loads((folder / "run" / "metrics.json").read_text())["test"]
    assert set(metrics["charges"]["Na"]) == {"mean", "std"}
    assert set(metrics["net_charge"]) == {"mean", "largest"}
    net = metrics["net_charge"]
    plain = {**metrics["charges"]["Na"], **net, **{name: metrics[name] for name in METRICS - {"charges", "net_charge"}}}
    assert all(math.isfinite(value) for value in plain.values())
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    captured = capsys.readouterr()
    assert captured.err == ""
    for word in ("eV/atom", "eV/Å", "RMSE by element", "Na"):
        assert word in captured.out
    # the table, plots and file have one unit
    assert f"{metrics['energy_rmse']:.4g}" in captured.out
    assert "sum over a structure" in captured.out
    warnings.filterwarnings("always", "The latent charges of neutral cells")
    assert cli.main(["evaluate", str(folder / "run" / "model"), str(folder / "test.xyz")]) == 0
    error = capsys.readouterr().err
    assert f"The latent charges of neutral cells add up to as much as {abs(net['largest']):.3g} e" in error
    assert "`model.long_range.charges.constraint` = 'neutral'" in error


def test_evaluate_with_other_names_and_periodicity(run, tmp_path, capsys):
    folder, _ = run
    frames = make_frames(2, seed=1)
    for atoms in frames:
        atoms.info["mine"] = atoms.info.pop("REF_energy")
        del atoms.arrays["REF_charges"]
    io.write(tmp_path / "mine.xyz", frames)
    command = ["evaluate", str(folder / "run" / "model"), str(tmp_path / "mine.xyz"), "--json", str(tmp_path / "m")]
    assert cli.main([*command, "--key", "energy=mine", "--pbc", "false"]) == 0
    metrics = json.loads((tmp_path / "m").read_text())
    groups = {*GROUPS, "charges", "net_charge"}  # the last two of the model: there are no labels of them
    assert set(metrics) - groups == {"n_structures", "energy_rmse", "energy_mae", "forces_rmse", "forces_mae"}


@pytest.mark.filterwarnings("default:2 of 4 structures are left out")
def test_evaluate_a_file_of_two_methods(run, tmp_path, capsys):
    """The error names the option, and with it the other structures are left out."""
    folder, _ = run
    frames = make_frames(4, seed=1)
    for atoms in frames[1:3]:
        atoms.info["energy"] = atoms.info.pop("REF_energy") + 10.0
    frames[0].info["config_type"] = "rattled"
    io.write(tmp_path / "mixed.xyz", frames)
    command = ["evaluate", str(folder / "run" / "model"), str(tmp_path / "mixed.xyz"), "--json", str(tmp_path / "m")]
    assert cli.main(command) == 1
    assert "lesjax evaluate --labels skip" in capsys.readouterr().err
    assert cli.main([*command, "--labels", "skip"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "lesjax evaluate: 2 of 4 structures are left out, which lack `REF_energy`.\n"
    metrics = json.loads((tmp_path / "m").read_text())
    assert metrics["n_structures"] == 2
    assert metrics["by_config_type"].keys() == {"rattled", "(none)"}
    assert "RMSE by config_type" in captured.out


def test_ensemble(run, tmp_path, capsys):
    """Trained and evaluated; a single potential has no calibration."""
    folder, _ = run
    output = tmp_path / "several"
    command = ["train", str(folder / "config.toml"), "--ensemble", "2", "--set", f"output={output}"]
    assert cli.main([*command, "--set", "training.phases.0.epochs=1", "--set", "data.test=test.xyz"]) == 0
    out = capsys.readouterr().out
    assert "Spearman" in out
    assert sum(line.startswith("epoch ") for line in out.splitlines()) == 2
    assert max(len(line) for line in out.splitlines() if str(folder) not in line and str(output) not in line) <= 80
    plots = {f"{kind}_{name}.png" for kind in ("parity", "calibration") for name in ("training", "validation", "test")}
    assert {path.name for path in output.iterdir()} == plots | {"config.json", "members", "metrics.json", "model"}
    assert (output / "members" / "1" / "learning_curve.png").exists()
    plot = tmp_path / "calibration.png"
    arguments = [str(folder / "test.xyz"), "--calibration", str(plot)]
    assert cli.main(["evaluate", str(output / "model"), *arguments, "--json", str(tmp_path / "m.json")]) == 0
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics == json.loads((output / "metrics.json").read_text())["test"]
    assert {"forces_spread", "forces_spearman", "energy_spread"} <= set(metrics)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert cli.main(["info", str(output / "model")]) == 0
    shown = capsys.readouterr().out
    assert "members" in shown
    assert "charges of member 1 after training (structures: 1):" in shown
    assert cli.main(["evaluate", str(folder / "run" / "model"), *arguments]) == 1
    assert "`--calibration` needs an ensemble" in capsys.readouterr().err


def test_help_names_the_metrics(capsys):
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    out = capsys.readouterr().out
    kinds = ("charges", "dipole", "quadrupole", "bec", "bec_diagonal", "bec_off_diagonal")
    assert all(name in out for name in {*METRICS, *(f"{kind}_{score}" for kind in kinds for score in ("r2", "corr2"))})
    assert "eV/atom" in out
    assert all(name in out for name in ("--labels", "by_config_type", *GROUPS))


def test_options_of_md_are_the_settings(capsys):
    """Without defaults of their own: those of `Settings` are shown."""
    fields = {field.name: field.default for field in dataclasses.fields(Settings)}
    assert [name for name, *_ in cli.MD_OPTIONS] == [name for name in fields if name != "skin"]
    with pytest.raises(SystemExit):
        cli.main(["md", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for name, text_of_option, _ in cli.MD_OPTIONS:
        default = "" if fields[name] is None or fields[name] is False else f" (default: {fields[name]})"
        assert text_of_option + default in shown


def test_info(run, capsys):
    folder, _ = run
    assert cli.main(["info", str(folder / "run" / "model")]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == str(folder / "run" / "model")  # in one line, however long
    expected = ("parameters", "Na, Cl", "state_inputs", "short_range.cutoff", "3.6", "long_range.sigma")
    for text_of_table in (*expected, "reference energy of Na"):
        assert text_of_table in out
    for line in (
        f"trained by lesjax: {lesjax.__version__}",
        "data: data.train: train.xyz: 8 structures; REF_energy, REF_forces, REF_stress, REF_charges",
        "structures: 7 to train on, 1 to validate",
        "units: eV, Å, e",
        "reference energies from: Na, Cl: fitted",
        "sign of the charges from: electronegativities: Cl is negative",
        "charges after training (structures: 1):",
    ):
        assert line in out.splitlines()
    assert "sum over a structure" in out


def test_info_of_a_model_that_does_not_know_where_it_comes_from(run, tmp_path, capsys):
    folder, _ = run
    shutil.copytree(folder / "run" / "model", tmp_path / "old")
    description = json.loads((tmp_path / "old" / "config.json").read_text())
    del description["provenance"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(description))
    assert cli.main(["info", str(tmp_path / "old")]) == 0
    assert "provenance: unknown" in capsys.readouterr().out.splitlines()


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("train nothing.toml", "no configuration 'nothing.toml'"),
        ("train config.toml --set model.hiden=4", "Unknown key `model.hiden`. Did you mean `model.hidden`?"),
        ("train config.toml --set model.short_range.cutoff=far", "`model.short_range.cutoff` must be a number"),
        ("train config.toml --set model.short_range.cutoff=-4", "`cutoff` must be positive, got -4"),
        ("train config.toml --set model.short_range.messages=[['X']]", "`messages` takes some of"),
        ("train config.toml --set data.train=gone.xyz", "`data.train`: there is no file 'gone.xyz'"),
        ("train config.toml --set data.test=gone.xyz", "`data.test`: there is no file 'gone.xyz'"),
        ("train config.toml --set data.train=config.toml", "cannot be read at frame 0"),
        ("train config.toml --set data.keys.forces=F", "`training.phases[0].weights.forces` is positive"),
        ("train config.toml --set data.reference_energies.Na=1", "`data.reference_energies` needs one energy for each"),
        ("train config.toml --set training.phases.3.epochs=1", "`--set training.phases.3.epochs=1`: '3'"),
        ("train config.toml --ensemble 1", "`ensemble` must be at least 2, got 1"),
        ("evaluate gone test.xyz", "'gone' is not a lesjax model"),
        ("evaluate . test.xyz", "it has no config.json"),
        ("info gone", "'gone' is not a lesjax model"),
    ],
)
def test_mistakes_are_one_line(inputs, capsys, arguments, expected):
    assert cli.main(arguments.split()) == 1
    captured = capsys.readouterr()
    assert captured.out.count("\n") <= 1  # what is at work
    assert captured.err.startswith(f"lesjax {arguments.split()[0]}: ")
    assert expected in captured.err
    assert captured.err.count("\n") == 1
    assert not (inputs / "unused").exists()


def test_mistakes_of_evaluate(run, tmp_path, capsys):
    folder, _ = run
    model = str(folder / "run" / "model")
    frames = make_frames(1)
    frames[0].symbols[0] = "Au"
    io.write(tmp_path / "gold.xyz", frames)
    for arguments, expected in (
        ([model, str(tmp_path / "gold.xyz")], "Structure 0 contains Au, but the model knows only Na, Cl"),
        ([model, str(tmp_path / "gone.xyz")], "There is no file"),
        ([model, str(folder / "test.xyz"), "--key", "enrgy=E"], "`--key` needs one of born_effective_charges,"),
        ([model, str(folder / "test.xyz"), "--key", "energy"], "`--key` needs one of"),
        ([model, str(folder / "test.xyz"), "--key", "energy="], "`--key` needs one of"),
        ([model, str(folder / "test.xyz"), "--key", "energy=a", "--key", "energy=b"], "`--key energy` is given twice"),
        ([model, str(folder / "test.xyz"), "--key", "energy=dft_enrgy"], "`--key energy=dft_enrgy`: no structure has"),
        ([str(folder / "run"), str(folder / "test.xyz")], f"The model of this training is '{folder}/run/model'"),
    ):
        assert cli.main(["evaluate", *arguments]) == 1
        error = capsys.readouterr().err
        assert expected in error
        assert error.count("\n") == 1


def test_other_settings_in_the_same_folder(run, capsys):
    folder, _ = run
    before = (folder / "run" / "config.json").read_bytes()
    command = ["train", str(folder / "config.toml"), "--set", f"output={folder / 'run'}"]
    assert cli.main(command) == 1
    assert "holds a run with other settings (training.phases)" in capsys.readouterr().err
    assert (folder / "run" / "config.json").read_bytes() == before


def test_folder_under_another_path_goes_on(run, tmp_path, monkeypatch, capsys):
    """Also without its test set, which the run does not depend on; in another dtype it does not."""
    folder, _ = run
    shutil.copytree(folder, tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    command = ["train", "config.toml", "--set", "training.phases.0.epochs=3", "--set", "output=run"]
    assert cli.main(command) == 0
    there = run_folder(tmp_path / "there" / "run")
    content = there.read_description()
    other = {"float32": "float64", "float64": "float32"}[content["dtype"]]
    there.write_description({**content, "dtype": other})
    capsys.readouterr()
    assert cli.main(command) == 1
    assert f"holds a run in {other}, and this one would be in {content['dtype']}" in capsys.readouterr().err


def test_folder_in_which_nothing_was_done_is_free(inputs, capsys):
    """After a start that failed, its settings do not bind."""
    command = ["train", "config.toml", "--set", "training.phases.0.epochs=1"]
    diverging = ["--set", "training.phases.0.learning_rate=1e30", "--set", "training.clip=0"]
    assert cli.main([*command, *diverging]) == 1
    assert "Lower `learning_rate`" in capsys.readouterr().err
    assert cli.main(command) == 0


def test_traceback_on_request(inputs):
    with pytest.raises(FileNotFoundError):
        cli.main(["--traceback", "info", "gone"])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train"],
        ["train", "config.toml", "--sett", "a=b"],
        ["evaluate", "model", "test.xyz", "--epsilon-infinity", "high"],
    ],
)
def test_command_line_that_is_none(inputs, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: lesjax" in capsys.readouterr().err


def test_interrupt_says_how_to_go_on(inputs, capsys, monkeypatch):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_train", interrupt)
    assert cli.main(["train", "config.toml"]) == 130
    assert capsys.readouterr().err == "interrupted; the same command resumes from the last checkpoint\n"
    monkeypatch.setattr(cli, "_info", interrupt)
    assert cli.main(["info", "model"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_demo_is_run_in_the_folder(monkeypatch):
    folders = []
    monkeypatch.setattr(demo, "run", folders.append)
    assert cli.main(["demo"]) == 0
    assert cli.main(["demo", "--out", "x/y"]) == 0
    assert folders == [Path("demo"), Path("x/y")]


def test_as_a_process(run, tmp_path):
    """Exit status, one line on stderr, nothing else: what a script sees."""
    folder, _ = run

    def call(*arguments):
        command = [sys.executable, "-m", "lesjax", *arguments]
        environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    described = call("info", str(folder / "run" / "model"))
    assert (described.returncode, described.stderr) == (0, "")
    assert "short_range.cutoff" in described.stdout
    refused = call("train", str(folder / "config.toml"), "--set", "training.sed=1")
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr == "lesjax train: Unknown key `training.sed`. Did you mean `training.seed`?\n"
    assert call("--version").stdout == lesjax.__version__ + "\n"
