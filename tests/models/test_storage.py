"""Models on disk: what goes in comes out, nothing is executed, damage and mistakes are noticed."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import lesjax
from lesjax.models import CACEConfig, LatentCharges, LongRangeConfig, ModelConfig, Potential, storage
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
