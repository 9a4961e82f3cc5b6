"""The TOML file: every mistake is refused with the key, and the shipped files are right."""

import dataclasses
from pathlib import Path

import pytest

import lesjax
import toy_model
from lesjax.models import LatentCharges, LongRangeConfig, ModelConfig, Potential
from lesjax.schema import build, to_plain
from lesjax.training.config import DataConfig, Phase, ReplayConfig, RunConfig, TrainingSection, load_config


FILE = """
output = "runs/x"
[data]
train = "train.xyz"
keys.energy = "dft_energy"
[model]
hidden = [8, 4]
[model.short_range]
cutoff = 4
messages = [["Bchi"]]
[model.long_range]
sigma = 1.5
[[training.phases]]
epochs = 5
[[training.phases]]
epochs = 7
learning_rate = 1e-3
schedule = "step"
weights = {energy = 10, dipole = 0.5}
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "train.xyz").touch()
    path = tmp_path / "run.toml"
    path.write_text(FILE)
    return path


def test_file_becomes_a_configuration(path):
    config = load_config(path)
    assert config.output == "runs/x"
    assert config.data.train == str(path.parent / "train.xyz")
    assert config.data.keys.energy == ("dft_energy",)
    assert config.data.keys.forces == ("REF_forces", "forces", "force")
    assert config.model.short_range.cutoff == 4.0
    assert isinstance(config.model.short_range.cutoff, float)
    assert config.model.short_range.messages == (("Bchi",),)
    assert config.model.hidden == (8, 4)
    assert config.model.long_range == LongRangeConfig(sigma=1.5)
    assert [phase.epochs for phase in config.training.phases] == [5, 7]
    assert config.training.phases[1].schedule == "step"
    assert [p.weights for p in config.training.phases] == [
        {"energy": 1.0, "forces": 1.0},
        {"energy": 10.0, "dipole": 0.5},
    ]


START = ModelConfig(toy_model.ToyConfig(elements=(1,)), LongRangeConfig(LatentCharges(hidden=())), hidden=())
SHIPPED = sorted((Path(lesjax.__file__).parent / "configs").glob("*.toml"))


@pytest.mark.parametrize("name", [path.stem for path in SHIPPED])
def test_shipped_files(name, path):
    # what the user is told to change
    files = [f"data.{part}={path.parent / 'train.xyz'}" for part in ("train", "valid")]
    if name == "finetune":
        Potential.create(START).save(path.parent / "start")
        files.append(f"training.start_from={path.parent / 'start'}")
    config = load_config(name, [*files, "output=runs/CC"])
    assert config.data.train == str(path.parent / "train.xyz")
    assert config.output == "runs/CC"
    assert (config.model.long_range is None) == ("short_range" in name or config.model.dispersion is not None)


@pytest.mark.parametrize(
    ("override", "name", "value"),
    [
        ("output=runs/y", "output", "runs/y"),
        ("output = runs/y ", "output", "runs/y"),
        ('output="2024"', "output", "2024"),
        ("training.seed=3", "training.seed", 3),
        ("training.ema=0", "training.ema", 0.0),
        ("training.phases.0.rates={dispersion = 0.5}", "training.phases.0.rates", {"dispersion": 0.5}),
        ("model.long_range=false", "model.long_range", None),
        ("model.long_range.charges.n_channels=2", "model.long_range.charges.n_channels", 2),
        ('model.short_range.messages=[["M", "Ar"], ["Bchi"]]', "model.short_range.messages", (("M", "Ar"), ("Bchi",))),
        ("model.short_range.messages=[]", "model.short_range.messages", ()),
        ("model.hidden=16", "model.hidden", (16,)),
        ("data.pbc=false", "data.pbc", False),
        ("data.pbc=[true, true, false]", "data.pbc", (True, True, False)),
        ("data.pbc=file", "data.pbc", "file"),
        ("data.max_frames=10", "data.max_frames", 10),
        ("data.valid=false", "data.valid", None),
        ("data.keys.forces=[a, b]", "data.keys.forces", ("[a, b]",)),  # no TOML, so a text
        ('data.keys.forces=["a", "b"]', "data.keys.forces", ("a", "b")),
        ("data.reference_energies={H = -13, O = -2.5}", "data.reference_energies", {"H": -13.0, "O": -2.5}),
        ("training.phases.1.epochs=9", "training.phases.1.epochs", 9),
        (
            "training.phases.1.weights.forces=2",
            "training.phases.1.weights",
            {"energy": 10.0, "dipole": 0.5, "forces": 2.0},
        ),
        ("training.phases=[{epochs = 2}]", "training.phases", (Phase(epochs=2),)),
    ],
)
def test_set(path, override, name, value):
    found = load_config(path, [override])
    for part in name.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.short_range.cutof=5",
            r"Unknown key `model\.short_range\.cutof`\. Did you mean `model\.short_range\.cutoff`\?",
        ),
        ("trainning.seed=5", r"Unknown key `trainning`\. Did you mean `training`\?"),
        ("training.phases.0.learningrate=5", r"`training\.phases\[0\]\.learningrate`.*`training\.phases\[0\]\.learn"),
        ("model.cutoff=5", r"Unknown key `model\.cutoff`\. Did you mean `model\.short_range\.cutoff`\?"),
        ("model.long_range.n_channels=2", r"Did you mean `model\.long_range\.charges\.n_channels`\?"),
        ("training.epochs=2", r"Did you mean `training\.phases\[0\]\.epochs`\?"),
        ("data.qqq=1", r"Unknown key `data\.qqq`\. Known here: train, valid,"),
        ("model.short_range.cutoff=far", r"`model\.short_range\.cutoff` must be a number, got 'far'"),
        ("model.short_range.cutoff=true", r"`model\.short_range\.cutoff` must be a number, got True"),
        ("model.short_range.n_radial=2.5", r"`model\.short_range\.n_radial` must be a whole number, got 2\.5"),
        ("output=1", r"`output` must be a text, got 1"),
        ("model.linear=1", r"`model\.linear` must be true or false, got 1"),
        ("model.long_range=true", r"`model\.long_range` must be a table or false, got True"),
        ("model.long_range.sigma=0", r"In `model\.long_range`: `sigma` must be positive, got 0"),
        ("model.long_range.accuracy=false", None),
        ("model.hidden=[8, big]", r"`model\.hidden\[0\]` must be a whole number, got '\[8, big\]'"),
        ("data=train.xyz", r"`data` must be a table, got 'train\.xyz'"),
        ("data.pbc=3", r"`data\.pbc` must be true or false or a list or a text, got 3"),
        ("data.pbc=[true, false]", r"`data\.pbc` must have 3 entries, got \[True, False\]"),
        ("data.pbc=none", r"In `data`: `pbc` must be 'file', true, false"),
        ("data.reference_energies=false", r"`data\.reference_energies` must be a text or a table, got False"),
        ("data.reference_energies=fitted", r"In `data`: `reference_energies` must be 'fit', 'none'"),
        ("data.reference_energies={H = nothing}", r"`reference_energies` must be .*'keep', 'refit' or a table"),
        ('data.reference_energies={H = "x"}', r"`data\.reference_energies\.H` must be a number, got 'x'"),
        ("data.reference_energies=keep", r"`data.reference_energies` = 'keep' is for a run with `training.start_from`"),
        ("data.valid_fraction=1", r"`valid_fraction` must lie in \[0, 1\), got 1"),
        ("data.max_frames=0", r"`max_frames` must be at least 1, got 0"),
        ("training.phases.0.rates={charge = 0.1}", r"`rates` has no group 'charge'; give some of short_range, energy"),
        ("training.phases.0.rates={charges = -1}", r"`rates` must be factors from 0 to 1000, got \{'charges': -1"),
        ("training.phases.0.rates={charges = nan}", r"`training\.phases\[0\]\.rates\.charges` must be finite, got nan"),
        ("training.phases=[]", r"In `training`: `phases` is empty"),
        ("training.phases.0.epochs=0", r"In `training\.phases\[0\]`: `epochs` must be at least 1, got 0"),
        ("training.phases.0.learning_rate=nan", r"`training\.phases\[0\]\.learning_rate` must be finite, got nan"),
        (
            "training.phases.0.weights.force=1",
            r"In `training\.phases\[0\]`: `weights` has no term 'force'; .* forces, ",
        ),
        ("training.phases.0.weights.energy=inf", r"`training\.phases\[0\]\.weights\.energy` must be finite, got inf"),
        ("training.phases.0.weights=1", r"`training\.phases\[0\]\.weights` must be a table, got 1"),
        ("training.phases.0.energy_weight=1", r"Unknown key .* Did you mean `training\.phases\[0\]\.weights`\?"),
        ("training.seed=-1", r"`seed` must lie from 0 to 4294967295, got -1"),
        ("model.long_range.charges.hidden=[4, 0]", r"`hidden` must have at most 16 whole widths from 1 to 4096"),
        ("output=''", r"`output` is empty"),
        ("training.phases.0.schedule=exponential", r"`schedule` must be 'constant', 'cosine', 'step' or 'plateau'"),
        ("training.phases.0.weights.energy=-1", r"`weights` must not be negative"),
        ("training.phases=[{epochs = 1, weights = {energy = 0, forces = 0}}]", r"not all zero"),
        ("training.phases=[{epochs = 1, weights = {}}]", r"not all zero"),
        ("training.phases=[{}]", r"`training\.phases\[0\]\.epochs` is missing"),
        ("training.batch_size=0", r"`batch_size` must be at least 1, got 0"),
        ("training.ema=1", r"`ema` must lie in \[0, 1\), got 1"),
        ("training.clip=-1", r"`clip` must not be negative, got -1"),
        ("training.optimizer=sgd", r"`optimizer` must be 'adam' or 'adamw', got 'sgd'"),
        ("training", r"`--set` needs key=value, got 'training'"),
        ("=3", r"`--set` needs key=value, got '=3'"),
        ("output.x=3", r"`--set output\.x=3`: 'output' is not a table"),
        ("training.phases.7.epochs=3", r"`--set training\.phases\.7\.epochs=3`: '7' must be a number from 0 to 1"),
        ("training.phases.first.epochs=3", r"'first' must be a number from 0 to 1"),
        ("training.phases.epochs=3", r"'epochs' must be a number from 0 to 1"),
    ],
)
def test_mistake_is_refused_by_name(path, override, message):
    if message is None:
        load_config(path, [override])
        return
    with pytest.raises(ValueError, match=message):
        load_config(path, [override])


def test_missing_tables(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[data]\n")
    with pytest.raises(ValueError, match=r"`data\.train` is missing"):
        load_config(path)
    path.write_text('[data]\ntrain = "x"\n')
    with pytest.raises(ValueError, match="`output` is missing"):
        load_config(path)


def test_missing_files(path):
    with pytest.raises(FileNotFoundError, match=r"no configuration 'nothing'; shipped with lesjax: .*\bles\b"):
        load_config("nothing")
    with pytest.raises(FileNotFoundError, match=r"`data\.train`: there is no file 'gone\.xyz', neither beside"):
        load_config(path, ["data.train=gone.xyz"])
    with pytest.raises(FileNotFoundError, match=r"`data\.test`: there is no file"):
        load_config(path, ["data.test=gone.xyz"])


def test_data_are_looked_up_beside_the_file_and_here(path, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    (here / "other.xyz").touch()
    monkeypatch.chdir(here)
    config = load_config(path, ["data.valid=other.xyz"])
    assert config.data.train == str(tmp_path / "train.xyz")
    assert config.data.valid == "other.xyz"


@pytest.mark.parametrize("content", [b"output = \n", b"\xff\xfe\x00"])
def test_file_that_is_no_toml(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.toml' is not a TOML file"):
        load_config(path)


def test_configuration_survives_its_own_dictionary():
    """A run can be described by what `to_plain` writes into config.json."""
    config = RunConfig(DataConfig("a.xyz", pbc=(True, True, False)), "out", ModelConfig(), TrainingSection())
    assert build(RunConfig, to_plain(config)) == config


def test_every_key_has_a_meaning():
    """Each key of the training tables is described where `lesjax train --help` sends people."""
    for table in (DataConfig, Phase, ReplayConfig, TrainingSection):
        for field in dataclasses.fields(table):
            assert f"{field.name}:" in table.__doc__
