"""Training that starts from a model: its parameters, new elements, frozen groups, replay, references, exact resume."""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import toy_model
from lesjax import cli, io, load
from lesjax.models import (
    CACEConfig,
    DispersionConfig,
    EquilibratedCharges,
    LatentCharges,
    LongRangeConfig,
    ModelConfig,
    Potential,
)
from lesjax.models.mace.config import MACEConfig
from lesjax.models.nequip.config import NequIPConfig
from lesjax.models.provenance import Provenance
from lesjax.system import System
from lesjax.training import load_config, loop, train, train_ensemble
from lesjax.training.config import Phase, ReplayConfig
from lesjax.training.prepare import prepare
from lesjax.training.start import read_start
from lesjax.training.transfer import group, nearest, transferred
from lesjax.training.validation import dataset_errors
from toy import count_deaths, log_of, make_config, make_frame, make_frames, moved_potential, phases, with_slow


CHARGED = ModelConfig(
    toy_model.ToyConfig(elements=(11, 17)),
    LongRangeConfig(LatentCharges(hidden=()), k_cutoff=2.0),
    hidden=(),
    energy_scale=1.0,
    reference_energies=(-0.5, -1.0),
)
BARE = dataclasses.replace(CHARGED, long_range=None)
CACE = CACEConfig(elements=(11, 17), cutoff=3.6, n_bessel=3, n_radial=2, n_embedding=1, max_l=1, max_nu=2)


@pytest.fixture
def start(tmp_path):
    """Folder of a model with charges."""
    return save(tmp_path / "start", CHARGED)


def save(path, config):
    provenance = Provenance("0.1", data=("data.train: salt.xyz: 8 structures; REF_energy",))
    dataclasses.replace(moved_potential(config), provenance=provenance).save(path)
    return str(path)


def equal(a, b):
    """Bit for bit."""
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


def substituted(atoms, **symbols):
    """Copy of a structure with elements in the place of others."""
    copy = atoms.copy()
    copy.symbols = [symbols.get(symbol, symbol) for symbol in atoms.symbols]
    return copy


# --- elements


@pytest.mark.parametrize(
    ("z", "known", "expected"),
    [
        (9, (1, 8, 17), 17),  # F from Cl of its group, although O is nearer
        (35, (9, 17, 36), 17),
        (1, (3, 8), 3),
        (7, (1, 6, 8), 6),  # none of its group: the lighter of two
        (16, (8, 34), 8),  # 8 and 18 away
        (33, (31, 34), 34),
        (90, (58, 72, 89), 58),  # Th from Ce
        (71, (39, 70, 72), 39),  # Lu from Y: group 3
        (2, (1, 10), 10),
    ],
)
def test_nearest_element(z, known, expected):
    assert nearest(z, known) == expected


def test_groups():
    columns = {1: (1, 3, 11, 19, 37, 55, 87), 2: (4, 12, 20, 38, 56, 88), 3: (21, 39, 71, 103), 4: (22, 40, 72, 104)}
    columns |= {13: (5, 13, 31, 49, 81), 17: (9, 17, 35, 53, 85), 18: (2, 10, 18, 36, 54, 86, 118)}
    for number, elements in columns.items():
        assert [group(z) for z in elements] == [number] * len(elements)
    assert group(57) == group(89) < 0
    assert len({group(z) for z in range(55, 87)}) == 32


LATENT = LongRangeConfig(LatentCharges(hidden=(3,), element_charges=True), k_cutoff=2.0)
MODELS = {
    "cace": ModelConfig(CACE, LATENT, hidden=(3,), dispersion=DispersionConfig(hidden=(), k_cutoff=2.0)),
    "cace, own features": ModelConfig(
        dataclasses.replace(CACE, messages=(("Bchi",),)), dataclasses.replace(LATENT, separate_features=True), hidden=()
    ),
    "mace, states": ModelConfig(
        MACEConfig((11, 17), 3.6, "2x0e+2x1o", 2, 1, 2, radial_MLP=(3,), avg_num_neighbors=4.0),
        LongRangeConfig(LatentCharges(hidden=(), dipoles=True), k_cutoff=2.0),
        hidden=(3,),
        state_inputs=("total_charge",),
        state_by_element=True,
    ),
    "nequip": ModelConfig(
        NequIPConfig(
            (11, 17), 3.6, num_bessels=3, num_layers=2, num_features=2, invariant_layers=1, invariant_neurons=3,
            avg_num_neighbors=4.0, readout_by_element=True,
        ),
        LongRangeConfig(EquilibratedCharges(element_charges=True, hidden=(3,)), k_cutoff=2.0),
        hidden=(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", with_slow(MODELS, ["cace, own features", "mace, states", "nequip"]))
def test_new_element_is_its_nearest_one(name):
    """Energies and charges of K and Br are those of Na and Cl; from scratch they differ, those of Na and Cl stay."""
    config = MODELS[name]
    old = moved_potential(config)
    # not in the order of the periodic table, as in published files
    short_range = dataclasses.replace(config.short_range, elements=(11, 17, 19, 35))
    fresh = Potential.create(dataclasses.replace(config, short_range=short_range), seed=5)
    copied, scratch = transferred(old, fresh), transferred(old, fresh, copied=False)

    salt = make_frame(np.random.default_rng(1), pbc=False)
    salt.info["total_charge"] = 1.0

    def results(potential, atoms):
        prediction = potential(System.from_ase(atoms, cutoff=3.6))
        return np.concatenate([np.ravel(prediction.energy), np.ravel(prediction.charges), np.ravel(prediction.forces)])

    expected, other = results(old, salt), substituted(salt, Na="K", Cl="Br")
    tolerance = 1e-10 if jax.config.jax_enable_x64 else 2e-4
    for potential, atoms in ((copied, salt), (copied, other), (scratch, salt)):
        np.testing.assert_allclose(results(potential, atoms), expected, rtol=tolerance, atol=tolerance)
    assert np.abs(results(scratch, other) - expected).max() > 1e-3


def test_models_that_do_not_say_what_belongs_to_an_element():
    """The features of the toy model grow with its elements, in an order that only it knows."""
    old = moved_potential(BARE)
    fresh = Potential.create(
        dataclasses.replace(BARE, short_range=toy_model.ToyConfig((11, 17, 19)), reference_energies=())
    )
    with pytest.raises(
        ValueError, match=r"\(ToyConfig\) that does not take new elements: its parameter energy\.feature"
    ):
        transferred(old, fresh)


# --- what a run begins with


TOML = """
output = "run"
[data]
train = "train.xyz"
valid_fraction = 0.25
[training]
start_from = "start"
batch_size = 2
[[training.phases]]
epochs = 2
"""


def configured(folder, text="", overrides=()):
    """The configuration above with more text, and the start beside it."""
    if not (folder / "train.xyz").exists():
        io.write(folder / "train.xyz", make_frames(8))
    (folder / "run.toml").write_text(TOML + text)
    return load_config(folder / "run.toml", [f"output={folder / 'run'}", *overrides])


def begun(config):
    """The potential that a run begins with."""
    return loop.start(config, prepare(config)).state["potential"]


def test_settings_are_those_of_the_start(tmp_path, start):
    expected = dataclasses.replace(CHARGED, reference_energies=())
    assert configured(tmp_path).model == expected
    same = configured(tmp_path, "", ["model.energy_scale=1", "model.hidden=[]", "model.short_range.kind=toy"])
    assert same.model == expected
    potential = begun(same)
    loaded = load(start)
    assert equal(potential.params, loaded.params)
    assert equal(potential.signs, loaded.signs)
    # without a file: the default stands for them
    assert prepare(make_config(tmp_path, model=ModelConfig(), start_from=start)).model.long_range == CHARGED.long_range


def test_short_range_model_is_given_charges_and_dispersion(tmp_path):
    """What the start has is kept bit for bit, the rest is that of a fresh model."""
    save(tmp_path / "start", BARE)
    text = """
[model.long_range]
sigma = 1.5
k_cutoff = 2.0
[model.long_range.charges]
element_charges = true
dipoles = true
[model.dispersion]
hidden = []
"""
    config = configured(tmp_path, text)
    potential = train(config)
    assert potential.config.long_range.sigma == 1.5
    assert potential.config.short_range == BARE.short_range
    state, loaded = begun(dataclasses.replace(config, output=str(tmp_path / "other"))), load(tmp_path / "start")
    assert set(state.params) == {"short_range", "energy", "charges", "heads", "dispersion"}
    assert all(equal(state.params[name], loaded.params[name]) for name in loaded.params)
    assert not np.asarray(loaded.params["energy"]["feature_scale"]["layer0"] == 1.0).any()
    sodium, chlorine = state.params["charges"]["element_charges"][:, 0]  # from electronegativities
    assert sodium > 0.5 > -0.5 > chlorine
    assert potential.provenance.start[0].startswith(f"{tmp_path.name}/start, SHA-256 ")
    assert potential.provenance.start[1] == "  data.train: salt.xyz: 8 structures; REF_energy"
    assert len(potential.provenance.start) == 2


@pytest.mark.usefixtures("start")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.start_from=gone",
            r"`training\.start_from`: there is no 'gone', neither beside .*run\.toml nor here",
        ),
        ("training.start_from=''", r"`start_from` is empty: give a model"),
        ("training.start_from=train.xyz", r"train\.xyz"),
        ("model.short_range.cutoff=5", r"`model\.short_range\.cutoff` = 5\.0, but .*start' has 3\.6: leave it out"),
        ("model.short_range.elements=[11]", r"`model\.short_range\.elements` = \[11\], but .* has \[11, 17\]"),
        ("model.short_range.kind=cace", r"`model\.short_range\.kind` = 'cace', but .* has 'toy'"),
        ("model.hidden=[4]", r"`model\.hidden` = \[4\], but .* has \[\]"),
        ("model.long_range=false", r"`model\.long_range` = none, but .* has a table"),
        ("model.long_range.sigma=2", r"`model\.long_range\.sigma` = 2\.0, but .* has 1\.0"),
        ("model.long_range.charges.kind=fixed", r"`model\.long_range\.charges\.kind` = 'fixed', but .* has 'latent'"),
        ("model.long_range.charges.n_channels=2", r"`model\.long_range\.charges\.n_channels` = 2, but .* has 1"),
        ("model.long_range.sigmas=2", r"Unknown key `model\.long_range\.sigmas`"),
        ("training.new_elements=none", r"`new_elements` must be 'nearest' or 'scratch', got 'none'"),
        ("training.freeze=charge", r"`freeze` has no group 'charge'; give some of short_range, .*dispersion"),
        ("data.replay=[{path = 'gone.xyz'}]", r"`data\.replay`: there is no file 'gone\.xyz'"),
        ("data.replay=[{path = 'train.xyz', weight = 0}]", r"In `data\.replay\[0\]`: `weight` must be positive, got 0"),
        ("data.replay=[{path = ''}]", r"In `data\.replay\[0\]`: `path` is empty"),
        ("training.start_from=false", None),
    ],
)
def test_mistakes_in_the_file(tmp_path, override, message):
    if message is None:
        assert configured(tmp_path, "", [override]).model == ModelConfig()
        return
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        configured(tmp_path, "", [override])


@pytest.mark.usefixtures("start")
@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (["heads"], r"`training\.freeze` names 'heads', but the model has charges, energy, short_range"),
        (["charges", "energy", "short_range"], r"leaves nothing to train: leave one out"),
    ],
)
def test_groups_that_cannot_be_frozen(tmp_path, freeze, message):
    with pytest.raises(ValueError, match=message):
        train(configured(tmp_path, "", [f"training.freeze={freeze}"]))


def test_data_in_memory_need_the_start(tmp_path, start):
    config = make_config(tmp_path, model=CHARGED, start_from=start)
    prepared = dataclasses.replace(prepare(make_config(tmp_path, model=CHARGED_WITHOUT)), start=None)
    with pytest.raises(ValueError, match="`prepared` has no `start`"):
        train(config, prepared=prepared)


CHARGED_WITHOUT = dataclasses.replace(CHARGED, reference_energies=())


# --- reference energies


@pytest.fixture
def shifted(tmp_path):
    """Structures of two compositions with the energies of a model, with other energies of the elements."""
    potential = moved_potential(CHARGED)
    frames = [substituted(atoms, Na="Cl") if i % 3 == 0 else atoms for i, atoms in enumerate(make_frames(9))]
    for atoms in frames:
        energy = float(potential(System.from_ase(atoms, cutoff=3.6)).total_energy)
        atoms.info["REF_energy"] = energy + 2.0 * np.sum(atoms.numbers == 11) - 30.0 * np.sum(atoms.numbers == 17)
    io.write(tmp_path / "train.xyz", frames)
    return tmp_path


@pytest.mark.parametrize(
    ("references", "expected", "how"),
    [
        ("fit", (1.5, -31.0), "fitted"),
        ("refit", (1.5, -31.0), "fitted"),
        ("keep", (-0.5, -1.0), "kept"),
        ("none", (0.0, 0.0), "none"),
        ("{Na = 1, Cl = 2}", (1.0, 2.0), "given"),
    ],
)
@pytest.mark.usefixtures("start")
def test_reference_energies(shifted, references, expected, how):
    prepared = prepare(configured(shifted, "", [f"data.reference_energies={references}"]))
    tolerance = 1e-9 if jax.config.jax_enable_x64 else 1e-4
    assert prepared.model.reference_energies == pytest.approx(expected, abs=tolerance)
    assert set(prepared.provenance.reference_energies.values()) == {how}
    # the labels of the data set are those of these energies
    atoms = io.read(shifted / "train.xyz")[0]
    labels = [float(e) for bucket in prepared.train.buckets for e in bucket.labels.energy]
    labels += [float(e) for bucket in prepared.valid.buckets for e in bucket.labels.energy]
    energy = atoms.info["REF_energy"] - prepared.model.reference_energy(atoms.numbers)
    assert min(abs(label - energy) for label in labels) < 1e-4


def test_reference_energies_of_new_elements(tmp_path):
    """Those of known elements are kept, those of new ones fitted with what the nearest element leaves."""
    potential = moved_potential(dataclasses.replace(CHARGED, short_range=CACE))
    potential.save(tmp_path / "start")
    frames = make_frames(6)
    for i, atoms in enumerate(frames):
        energy = float(potential(System.from_ase(atoms, cutoff=3.6)).total_energy)
        atoms.symbols = ["K", "K", "Cl", "Cl"] if i < 4 else atoms.symbols
        atoms.info["REF_energy"] = energy + 7.0 * np.sum(atoms.numbers == 19)
    io.write(tmp_path / "train.xyz", frames)
    prepared = prepare(configured(tmp_path, "", ["data.reference_energies=keep", "data.valid_fraction=0"]))
    assert prepared.model.short_range.elements == (11, 17, 19)
    assert prepared.model.reference_energies == pytest.approx((-0.5, -1.0, 6.5), abs=1e-4)
    assert prepared.provenance.reference_energies == {"Na": "kept", "Cl": "kept", "K": "fitted"}
    assert prepared.files[-1] == f"training.start_from: {tmp_path / 'start'}; new elements: K from Na"
    scratch = prepare(configured(tmp_path, "", ["training.new_elements=scratch"]))
    assert scratch.files[-1].endswith("; new elements: K from scratch")
    assert scratch.model.reference_energies[2] != pytest.approx(6.5, abs=1e-3)


def test_references_without_a_start(tmp_path):
    for references in ("keep", "refit"):
        with pytest.raises(ValueError, match=f"`data.reference_energies` = '{references}' is for a run with `training"):
            make_config(tmp_path, data={"reference_energies": references})


# --- frozen groups, replay, resume


LBFGS = (*phases(2, learning_rate=0.1), *phases(3, lbfgs=True))


@pytest.mark.parametrize(
    "groups", [("short_range", "dispersion"), pytest.param(("charges", "energy"), marks=pytest.mark.slow)], ids="-".join
)
def test_frozen_groups_stay_bit_for_bit(tmp_path, groups):
    """With Adam, in the average of the parameters and with L-BFGS, while all others move."""
    config = dataclasses.replace(CHARGED, dispersion=DispersionConfig(hidden=(), k_cutoff=2.0), reference_energies=())
    start = save(tmp_path / "start", config)
    settings = {"phases": LBFGS, "batch_size": 8, "data": {"valid_fraction": 0.0}}
    settings |= {"optimizer": "adamw", "weight_decay": 0.1, "start_from": start, "freeze": groups}
    train(make_config(tmp_path, make_frames(4), model=ModelConfig(), **settings))
    before = load(start).params
    for name in ("model", "model-last"):
        after = load(tmp_path / "run" / name).params
        assert {part for part in before if equal(before[part], after[part])} == set(groups)


def test_dispersion_has_a_rate_of_its_own(tmp_path):
    config = dataclasses.replace(CHARGED, dispersion=DispersionConfig(hidden=(), k_cutoff=2.0), reference_energies=())
    start = save(tmp_path / "start", config)
    rates = Phase(epochs=2, rates={"dispersion": 0.0})
    train(make_config(tmp_path, make_frames(4), model=ModelConfig(), start_from=start, phases=(rates,), ema=0.0))
    before, after = load(start).params, load(tmp_path / "run" / "model-last").params
    assert {part for part in before if equal(before[part], after[part])} == {"dispersion"}


def test_replay(tmp_path, start):
    """Its structures are trained on with their weight, none of them validates, and its errors stand apart."""
    io.write(tmp_path / "old.xyz", make_frames(4, seed=7))
    weights = {"energy": 1.0, "forces": 2.0}
    losses = {}
    for name, replay in {
        "none": (),
        "light": (ReplayConfig(str(tmp_path / "old.xyz"), 0.25),),
        "heavy": (ReplayConfig(str(tmp_path / "old.xyz"), 3.0),),
    }.items():
        data = {"replay": replay, "reference_energies": "keep"}
        config = make_config(tmp_path, model=ModelConfig(), start_from=start, data=data, output=name)
        prepared = prepare(config)
        potential = load(start).core()
        losses[name] = dataset_errors(potential, prepared.train, 2, weights)[0]
        assert len(prepared.valid) == 2
        assert len(prepared.train) == 6 + 4 * len(replay)
    replayed = dataset_errors(potential, prepared.replay, 2, weights)[0]
    assert len(prepared.replay) == 4
    # the data set of the replay has its weight as well
    for name, weight in {"light": 0.25, "heavy": 3.0}.items():
        assert losses[name] == pytest.approx((6 * losses["none"] + 4 * weight / 3.0 * replayed) / 10, rel=1e-6)
    assert any("data.replay: old.xyz: 4 structures" in line for line in prepared.provenance.data)
    assert prepared.fingerprint != prepare(make_config(tmp_path, model=ModelConfig(), start_from=start)).fingerprint


@pytest.mark.usefixtures("start")
def test_replay_of_forces_alone(tmp_path):
    """Energies of another method are left out: the reference energies are those of the new structures."""
    frames = make_frames(3, seed=7)
    for atoms in frames:
        del atoms.info["REF_energy"]
    io.write(tmp_path / "old.xyz", frames)
    known = prepare(configured(tmp_path)).model.reference_energies
    found = prepare(configured(tmp_path, "", ["data.replay=[{path = 'old.xyz'}]"]))
    assert found.model.reference_energies == pytest.approx(known, rel=1e-6)
    assert sorted(len(members) for members in found.train.members) == [9]


def test_interrupted_again_and_again(tmp_path, start, monkeypatch):
    """Resumed, the run ends as one that was not interrupted, bit for bit."""
    io.write(tmp_path / "old.xyz", make_frames(3, seed=7))
    settings = {"phases": phases(4, 3, learning_rate=0.05), "freeze": ("charges",), "checkpoint_seconds": 0.0}
    settings |= {"start_from": start, "model": ModelConfig()}
    data = {"replay": (ReplayConfig(str(tmp_path / "old.xyz"), 0.5),)}
    train(make_config(tmp_path, output="whole", data=data, **settings))
    broken = make_config(tmp_path, output="broken", data=data, **settings)
    periods = (("run_epoch", 3), ("evaluate", 2), ("save_best", 3))
    assert count_deaths(lambda: train(broken), monkeypatch, *periods) >= 2
    # both may have moved in the meantime
    moved = Path(shutil.move(start, tmp_path / "moved"))
    (tmp_path / "old.xyz").rename(tmp_path / "older.xyz")
    data = {"replay": (ReplayConfig(str(tmp_path / "older.xyz"), 0.5),)}
    broken = make_config(tmp_path, output="broken", data=data, **settings | {"start_from": str(moved)})
    train(broken)
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "broken")
    for name in ("checkpoint.safetensors", "model/params.safetensors"):
        assert equal(load_file(tmp_path / "whole" / name), load_file(tmp_path / "broken" / name))
    save(moved, dataclasses.replace(CHARGED, reference_energies=(-0.5, -1.5)))
    with pytest.raises(ValueError, match=r"holds a run that started from another model: the content of '.*moved'"):
        train(broken)
    with pytest.raises(ValueError, match=r"holds a run with other settings \(training\.freeze\)"):
        train(dataclasses.replace(broken, training=dataclasses.replace(broken.training, freeze=())))


def test_ensemble(tmp_path, start):
    """All members start from the one model; their batches differ."""
    config = make_config(
        tmp_path, model=ModelConfig(), start_from=start, ensemble=2, phases=phases(1), freeze=("energy",)
    )
    members = train_ensemble(config).members()
    assert all(equal(member.params["energy"], load(start).params["energy"]) for member in members)
    assert not equal(members[0].params["short_range"], members[1].params["short_range"])


# --- published files, the command


def test_published_file(tmp_path, shared_path, monkeypatch):
    """CACE-LES of water, without reference energies, for salt water; options of the file are those of `convert`."""
    path = shared_path("checkpoints/cace_lesbec_water_v1.pth")
    read = read_start(path)
    assert not read.has_reference_energies
    assert read.lines()[0] == f"cace_lesbec_water_v1.pth, SHA-256 {read.digest}"
    frames = make_frames(3)
    io.write(tmp_path / "train.xyz", [substituted(atoms, Cl="O") for atoms in frames])
    (tmp_path / "start").symlink_to(path)
    config = configured(tmp_path)
    assert config.model.short_range.elements == read.potential.config.short_range.elements
    with pytest.raises(ValueError, match=r"`data\.reference_energies` = 'keep', but .*start' has none\. Take 'refit'"):
        prepare(configured(tmp_path, "", ["data.reference_energies=keep"]))
    prepared = prepare(configured(tmp_path, "", ["data.reference_energies=none"]))
    assert set(prepared.model.short_range.elements) == {1, 8, 11}
    assert prepared.files[-1].endswith("new elements: Na from H")


@pytest.mark.usefixtures("start")
def test_command(tmp_path, capsys):
    """Training, the errors of the replay apart, and what `info` says about the start."""
    configured(tmp_path)
    io.write(tmp_path / "old.xyz", make_frames(3, seed=7))
    command = ["train", str(tmp_path / "run.toml"), "--quiet", "--set", f"output={tmp_path / 'run'}"]
    assert cli.main([*command, "--set", "data.replay=[{path = 'old.xyz', weight = 0.5}]"]) == 0
    out = capsys.readouterr().out
    assert f"training.start_from: {tmp_path / 'start'}\n" in out
    assert "replay" in out
    assert (tmp_path / "run" / "parity_replay.png").exists()
    assert cli.main(["info", str(tmp_path / "run" / "model")]) == 0
    out = capsys.readouterr().out
    assert "started from: " in out
    assert "/start, SHA-256 " in out
