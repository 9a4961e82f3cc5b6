"""Models on disk: what goes in comes out, nothing is executed, damage and mistakes are noticed."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lesjax
from lesjax.models import (
    CACEConfig,
    Ensemble,
    LatentCharges,
    LongRangeConfig,
    ModelConfig,
    Potential,
    load_ensemble,
    storage,
)
from lesjax.models.long_range import EquilibratedCharges, FixedCharges
from lesjax.models.potential import variables
from lesjax.models.provenance import ChargeStatistics, Provenance
from lesjax.system import System
from toy import CELL, FRACTIONAL


CONFIG = ModelConfig(
    CACEConfig((11, 17), cutoff=3.6, n_bessel=3, n_radial=2, n_embedding=1, max_l=1, max_nu=2, messages=(("M",),)),
    LongRangeConfig(LatentCharges(hidden=(4,), n_channels=2), k_cutoff=2.0),
    hidden=(4,),
    reference_energies=(-1.0, -2.0),
)


@pytest.fixture(scope="module")
def potential():
    return Potential.create(CONFIG, seed=1)


@pytest.fixture
def path(tmp_path, potential):
    potential.save(tmp_path / "model")
    return tmp_path / "model"


def test_round_trip_gives_identical_predictions(path, potential):
    loaded = lesjax.load(path)
    assert loaded.config == CONFIG
    for found, expected in zip(jax.tree.leaves(loaded), jax.tree.leaves(potential), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    numbers, pbc = np.array([11, 11, 17, 17]), (True, True, True)
    system = System.from_arrays(FRACTIONAL @ CELL, CELL, numbers, pbc, cutoff=potential.cutoff)
    for found, expected in zip(jax.tree.leaves(loaded(system)), jax.tree.leaves(potential(system)), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_short_range_model(tmp_path):
    potential = Potential.create(ModelConfig(CONFIG.short_range, None))
    potential.save(tmp_path / "model")
    loaded = lesjax.load(tmp_path / "model")
    assert loaded.config.long_range is None
    assert loaded.signs is None


PROVENANCE = Provenance(
    "0.1.0", ("a.xyz: 3 structures",), "abc", 2, 1, reference_energies={"Na": "fitted"}, sign="labels",
    charges=ChargeStatistics(3, {"Na": (0.5, 0.0)}, {"Na": (0.1, 0.0)}, (0.0, 0.1), (0.2, -0.3), 3, 1, 0.3, 0.4, 0.7),
)  # fmt: skip


def test_provenance_is_kept(tmp_path, potential):
    """By the disk and in an ensemble; it is no part of what jax sees."""
    known = dataclasses.replace(potential, provenance=PROVENANCE)
    known.save(tmp_path / "model")
    loaded = lesjax.load(tmp_path / "model")
    assert loaded.provenance == PROVENANCE
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again/config.json").read_bytes() == (tmp_path / "model/config.json").read_bytes()
    Ensemble.of([known, potential]).save(tmp_path / "several")
    assert [member.provenance for member in load_ensemble(tmp_path / "several").members()] == [PROVENANCE, None]
    assert jax.tree.structure(known) == jax.tree.structure(potential)
    assert jax.jit(lambda p: p)(known).provenance is None
    potential.save(tmp_path / "model")
    assert lesjax.load(tmp_path / "model").provenance is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(lesjax=3), r"`provenance\.lesjax` must be a text, got 3"),
        (lambda p: p.update(spin=1), r"Unknown key `provenance\.spin`"),
        (lambda p: p["charges"].update(mean=1), r"`provenance\.charges\.mean` must be a table"),
        (lambda p: p["charges"].pop("size"), r"`provenance\.charges\.size` is missing"),
    ],
)
def test_damaged_provenance(tmp_path, potential, change, message):
    dataclasses.replace(potential, provenance=PROVENANCE).save(tmp_path / "model")
    change_description(tmp_path / "model", lambda description: change(description["provenance"]))
    with pytest.raises(ValueError, match=rf"config\.json' .*{message}"):
        lesjax.load(tmp_path / "model")


def test_folder_holds_json_and_safetensors_alone(path):
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "params.safetensors"]
    description = json.loads((path / "config.json").read_text())
    assert description["config"]["short_range"]["elements"] == [11, 17]
    assert description["config"]["short_range"]["kind"] == "cace"
    assert len(load_file(path / "params.safetensors")) > 5
    assert sorted(file.name for file in path.parent.iterdir()) == ["model"]


def test_files_can_be_read_by_others(path):
    """The mask of the process decides, as for any other file."""
    assert (path / "params.safetensors").stat().st_mode == (path / "config.json").stat().st_mode


def test_relative_path(tmp_path, potential, monkeypatch):
    monkeypatch.chdir(tmp_path)
    potential.save("here")
    potential.save("deep/er/there")
    (tmp_path / "current").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    potential.save(".")
    assert all(lesjax.load(folder).config == CONFIG for folder in ("../here", "../deep/er/there", "."))


def test_no_model(tmp_path, path):
    with pytest.raises(FileNotFoundError, match=r"nothing' is not a lesjax model: it has no config\.json and no par"):
        lesjax.load(tmp_path / "nothing")
    (path / "params.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model' is not a lesjax model: it has no params\.safetensors"):
        lesjax.load(path)


@pytest.mark.parametrize("kept", [0, 4, 50, -1])
def test_truncated_parameters(path, kept):
    parameters = path / "params.safetensors"
    parameters.write_bytes(parameters.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"params\.safetensors' is damaged: .* Take another copy of the model"):
        lesjax.load(path)


def change_parameters(path, change):
    arrays = load_file(path / "params.safetensors")
    change(arrays)
    save_file(arrays, path / "params.safetensors")


NAME = "['params']['energy']['readout']['layer0']['output']['kernel']"


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop(NAME),
        lambda arrays: arrays.update({NAME: arrays[NAME][:-1]}),
        lambda arrays: arrays.update({NAME: arrays[NAME].ravel()}),
        lambda arrays: arrays.update({NAME + "x": np.zeros(1)}),
    ],
    ids=["missing", "shorter", "flat", "left over"],
)
def test_parameters_of_another_model(path, change):
    change_parameters(path, change)
    message = r"params\.safetensors' does not fit the model in .*energy.*readout.*output.*kernel.*another configuration"
    with pytest.raises(ValueError, match=message):
        lesjax.load(path)


def change_description(path, change):
    description = json.loads((path / "config.json").read_text())
    change(description)
    (path / "config.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=99), "is of format 99, but this version of lesjax reads format 2: load it"),
        (lambda d: d["config"].update(spin=1), r"Unknown key `spin`"),
        (lambda d: d["config"]["short_range"].update(max_m=1), r"Unknown key `short_range\.max_m`\. Did you mean"),
        (lambda d: d["config"]["long_range"].update(mesh=1), r"Unknown key `long_range\.mesh`"),
        (lambda d: d["config"]["short_range"].update(cutoff=-1.0), "`cutoff` must be positive, got -1"),
        (lambda d: d["config"]["short_range"].update(kind="unheard"), "no short-range model 'unheard'"),
        (lambda d: d["config"]["short_range"].pop("elements"), "`reference_energies` needs one value for each"),
        (lambda d: d.update(config={}), "`config.short_range.elements` is empty"),
        (lambda d: d["config"]["long_range"]["charges"].update(quadrupoles=True), "`quadrupoles` need tensors"),
        (lambda d: d.pop("config"), "does not describe a model: 'config'"),
        (lambda d: d.update(config=3), "does not describe a model"),
        (lambda d: d["config"]["short_range"].update(elements="H"), "does not describe a model"),
    ],
)
def test_description_that_cannot_be_used(path, change, message):
    change_description(path, change)
    with pytest.raises(ValueError, match=rf"config\.json' .*{message}"):
        lesjax.load(path)


def at(*names, value):
    """A change of the entry with these names."""

    def change(description):
        for name in names[:-1]:
            description = description[name]
        description[names[-1]] = value

    return change


SHORT, LONG = ("config", "short_range"), ("config", "long_range")


@pytest.mark.parametrize(
    "change",
    [
        at("config", "hidden", value=[1] * 100_000),
        at(*LONG, "charges", "hidden", value=[1] * 100_000),
        at(*LONG, "charges", "n_channels", value=10**9),
        at("config", "hidden", value=[1] * 200),
        at(*SHORT, "max_l", value=200),
        at(*SHORT, "max_l", value=10**30),
        at(*SHORT, "max_l", value=[1] * 100_000),
        at(*SHORT, "n_bessel", value=10**6),
        at(*SHORT, "n_radial", value=10**6),
        at(*SHORT, "n_embedding", value=10**4),
        at(*SHORT, "messages", value=[["M"]] * 100_000),
        at(*SHORT, "messages", value=[["Ar", "Bchi"]]),
        at(*SHORT, "elements", value=[*range(1, 119)]),
        at(*SHORT, "elements", value=[11, 17, 400]),
        at(*SHORT, "cutoff", value=float("inf")),
        at(*SHORT, "cutoff", value=float("nan")),
        at(*LONG, "sigma", value=float("inf")),
        at(*LONG, "sigma", value="wide"),
        at(*LONG, "separate_features", value=True),
        at("config", "reference_energies", value=[float("nan"), 0.0]),
        at("config", "reference_energies", value=["-1", "-2"]),
        at("config", "reference_energies", value=[True, False]),
        at("config", "energy_scale", value=float("-inf")),
        at("format", value=True),
        at("format", value=2.0),
        at("format", value="2"),
        at("origin", value={"files": 3}),
    ],
)
def test_hostile_descriptions_are_refused(path, change):
    change_description(path, change)
    with pytest.raises(ValueError, match=r"model/(config\.json|params\.safetensors)'") as refused:
        lesjax.load(path)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"sigma"', '"sigma": 2.0, "sigma"', "it has the key 'sigma' twice"),
        ('"format"', '"format": 2, "format"', "it has the key 'format' twice"),
        ('"format": 2', '"format": 1e999', "which is not finite"),
        ('"format": 2', f'"format": {"[" * 50_000}', "nested too deeply"),
        ('"format"', "".join(f'"k{i}": 0, ' for i in range(5_000)) + '"k7": 1, "format"', "it has the key 'k7' twice"),
    ],
)
def test_json_that_says_two_things_or_too_much(path, old, new, message):
    text = (path / "config.json").read_text()
    (path / "config.json").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=rf"config\.json' is damaged: .*{message}"):
        lesjax.load(path)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.float16])
def test_parameters_of_another_type(path, dtype):
    change_parameters(path, lambda arrays: arrays.update({NAME: arrays[NAME].astype(dtype)}))
    with pytest.raises(ValueError, match=r"params\.safetensors' is damaged: .*kernel.* has numbers of type [BIF]"):
        lesjax.load(path)


def test_types_that_numpy_lacks_and_names_twice(path):
    file = path / "params.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    first = next(name for name in header if name != "__metadata__")
    small = json.dumps({first: {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    file.write_bytes(len(small).to_bytes(8, "little") + small + bytes(4))
    with pytest.raises(ValueError, match="has numbers of type F8_E4M3"):
        lesjax.load(path)
    entry = json.dumps({first: header[first]})[1:-1]
    twice = ("{" + entry + ", " + json.dumps(header)[1:]).encode()
    file.write_bytes(len(twice).to_bytes(8, "little") + twice + rest)
    with pytest.raises(ValueError, match=r"params\.safetensors' is damaged"):
        lesjax.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parameters_that_are_not_finite(path, value):
    change_parameters(path, lambda arrays: arrays[NAME].__setitem__(0, value))
    with pytest.raises(ValueError, match=r"safetensors' is damaged: .*kernel.* has numbers that are not finite\. Take"):
        lesjax.load(path)


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(CONFIG, short_range=CACEConfig((1, 8), max_l=1, messages=(("M", "Ar", "Bchi"), ("M",)))),
        dataclasses.replace(CONFIG, long_range=dataclasses.replace(CONFIG.long_range, separate_features=True)),
        dataclasses.replace(CONFIG, long_range=LongRangeConfig(FixedCharges(n_channels=2))),
        dataclasses.replace(CONFIG, long_range=LongRangeConfig(EquilibratedCharges(hidden=(3, 2)))),
        dataclasses.replace(CONFIG, long_range=None, hidden=()),
    ],
)
def test_sizes_are_those_of_the_parameters(config):
    """Told from the configuration, without the model."""
    like = jax.eval_shape(lambda: variables(Potential.create(config)))
    shapes = {jax.tree_util.keystr(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(like)}
    told = storage.sizes(config)
    assert told == {name: shapes[name] for name in told}
    n_hidden = len(config.hidden) + len(getattr(getattr(config.long_range, "charges", None), "hidden", ()))
    assert sum("hidden" in name for name in told) == n_hidden
    assert len(told) >= 4 + n_hidden


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"'])
def test_description_that_is_no_json_object(path, text):
    (path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json' is (damaged: .*Take another copy|of format None)"):
        lesjax.load(path)


OTHER = ModelConfig(CACEConfig((1,), cutoff=3.0, n_radial=1, n_embedding=1, max_l=0, max_nu=1), None, hidden=(2,))


@pytest.mark.parametrize("config", [CONFIG, OTHER], ids=["same", "other"])
def test_model_is_replaced_as_a_whole(path, config):
    new = Potential.create(config, seed=7)
    new.save(path)
    loaded = lesjax.load(path)
    assert loaded.config == config
    jax.tree.map(np.testing.assert_array_equal, loaded.params, new.params)
    assert sorted(file.name for file in path.parent.iterdir()) == ["model"]
    assert len(list(path.iterdir())) == 2


@pytest.mark.parametrize("config", [CONFIG, OTHER], ids=["same", "other"])
@pytest.mark.parametrize("death", ["first replace", "second replace", "serialization", "interrupt"])
def test_failed_save_keeps_the_old_model(path, potential, monkeypatch, config, death):
    new = Potential.create(config, seed=7)
    replace, calls = os.replace, []

    def failing_replace(source, target):
        calls.append(target)
        if len(calls) == (2 if death == "second replace" else 1):
            raise KeyboardInterrupt if death == "interrupt" else OSError("No space left on device")
        replace(source, target)

    def fail(_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        if death == "serialization":
            patch.setattr(storage, "to_bytes", fail)
        else:
            patch.setattr(os, "replace", failing_replace)
        if config is CONFIG and death == "second replace":  # there is only one
            new.save(path)
            return
        with pytest.raises((OSError, KeyboardInterrupt)):
            new.save(path)
    loaded = lesjax.load(path)
    assert loaded.config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, loaded.params, potential.params)
    assert sorted(file.name for file in path.parent.iterdir()) == ["model"]
    assert len(list(path.iterdir())) == 2


def test_of_two_saves_at_once_the_last_stays(path, monkeypatch):
    """Another process puts its model there between the two moves of ours."""
    new, replace, others = Potential.create(OTHER, seed=7), os.replace, []

    def replacing(source, target):
        if target == path and not others:
            others.append(shutil.copytree(source, path))
        replace(source, target)

    monkeypatch.setattr(os, "replace", replacing)
    new.save(path)
    assert others == [path]
    jax.tree.map(np.testing.assert_array_equal, lesjax.load(path).params, new.params)
    assert sorted(file.name for file in path.parent.iterdir()) == ["model"]


def test_model_is_there_at_every_moment_of_training(path, potential, monkeypatch):
    """A model of the same configuration is replaced in one move: no moment to be killed in."""
    moves = []
    replace = os.replace

    def watching_replace(source, target):
        assert lesjax.load(path).config == CONFIG
        moves.append(target)
        replace(source, target)
        assert lesjax.load(path).config == CONFIG

    monkeypatch.setattr(os, "replace", watching_replace)
    potential.save(path)
    assert len(moves) == 1


def test_leftover_of_a_killed_process_is_no_hindrance(path, potential):
    (path / ".params.safetensors.77.tmp").touch()
    potential.save(path)
    Potential.create(OTHER).save(path)
    assert lesjax.load(path).config == OTHER


def test_anything_else_is_not_overwritten(tmp_path, potential, path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("In the beginning")
    for place in (tmp_path / "thesis", tmp_path, tmp_path / "thesis" / "chapter1.tex"):
        with pytest.raises(ValueError, match=r"something other than a lesjax model at .*Choose another path"):
            potential.save(place)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "In the beginning"
    (path / "notes.txt").touch()
    with pytest.raises(ValueError, match="something other"):
        potential.save(path)
    shutil.rmtree(tmp_path / "thesis")
    (tmp_path / "thesis").mkdir()  # an empty folder will do
    potential.save(tmp_path / "thesis")
    assert lesjax.load(tmp_path / "thesis").config == CONFIG


def test_arrays_that_share_memory_are_written_as_they_are():
    """Scalars stay scalars, and a transposed array is not written as it lies in memory."""
    dtype = jax.dtypes.canonicalize_dtype(float)
    tree = {"t": np.arange(6, dtype=dtype).reshape(2, 3).T, "r": np.arange(3, dtype=dtype)[::-1], "s": dtype.type(2)}
    flat = storage.flatten(tree)
    assert {name: array.shape for name, array in flat.items()} == {"['t']": (3, 2), "['r']": (3,), "['s']": ()}
    assert all(array.flags["C_CONTIGUOUS"] for array in flat.values())
    restored = storage.unflatten(tree, flat, "here")
    jax.tree.map(np.testing.assert_array_equal, restored, tree)
