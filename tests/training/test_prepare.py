"""From files to data sets and models: splits, what the data decide, what cannot be used."""

import dataclasses

import numpy as np
import pytest

from lesjax import io
from lesjax.models.mace.config import MACEConfig
from lesjax.models.nequip.config import NequIPConfig
from lesjax.training.data import Dataset
from lesjax.training.prepare import prepare
from toy import MODEL, make_config, make_frame, make_frames, phases


def energies(frames):
    return [atoms.info["REF_energy"] for atoms in frames]


def places(structures):
    """A coordinate that tells structures apart, of a data set in the order of its structures, or of frames."""
    if not isinstance(structures, Dataset):
        return [pytest.approx(atoms.positions[0, 0], rel=1e-6) for atoms in structures]
    found = {}
    for bucket, members in zip(structures.buckets, structures.members, strict=True):
        found |= dict(zip(members.tolist(), np.asarray(bucket.system.positions)[:, 0, 0].tolist(), strict=True))
    return [found[i] for i in range(len(structures))]


def test_split_by_fraction(tmp_path):
    prepared = prepare(make_config(tmp_path))
    assert (len(prepared.train), len(prepared.valid)) == (6, 2)
    everything = places(prepared.train) + places(prepared.valid)
    file = sorted(io.read(tmp_path / "train.xyz"), key=lambda atoms: atoms.positions[0, 0])
    assert sorted(everything) == places(file)
    same = prepare(make_config(tmp_path, output="other"))
    assert places(same.valid) == places(prepared.valid)
    other = prepare(make_config(tmp_path, seed=5))
    assert places(other.valid) != places(prepared.valid)


def test_fingerprint_is_that_of_the_data(tmp_path):
    """Whatever the padding, the settings, and where the file lies."""
    frames = make_frames(4)

    def fingerprint(name="train", **changes):
        io.write(tmp_path / f"{name}.xyz", frames)
        data = {"train": str(tmp_path / f"{name}.xyz"), **changes.pop("data", {})}
        return prepare(make_config(tmp_path, frames, data=data, **changes)).fingerprint

    other_cutoff = dataclasses.replace(MODEL, short_range=dataclasses.replace(MODEL.short_range, cutoff=3.0))
    known = fingerprint()
    assert known == fingerprint("other", model=other_cutoff, data={"pbc": False})
    frames[1].arrays["REF_forces"][2, 0] += 1e-3
    frames[0].info["comment"] = "not used"
    found = [known, fingerprint(), fingerprint(data={"max_frames": 3}), fingerprint(seed=1)]
    frames[1].info["charge"] = 1
    found.append(fingerprint())
    assert len(set(found)) == 5


@pytest.mark.parametrize("kind", [MACEConfig, NequIPConfig])
def test_all_sets_are_of_the_model_with_the_mean_number_of_neighbors(tmp_path, kind):
    """`evaluate` refuses a data set of another configuration, at the end of a training."""
    short_range = kind(MODEL.short_range.elements, MODEL.short_range.cutoff)
    prepared = prepare(make_config(tmp_path, model=dataclasses.replace(MODEL, short_range=short_range)))
    assert prepared.model.short_range.avg_num_neighbors > 0
    assert prepared.train.config == prepared.valid.config == prepared.model


def test_files_for_validation_and_test(tmp_path):
    for name, seed in (("valid", 1), ("test", 2)):
        io.write(tmp_path / f"{name}.xyz", make_frames(3, seed))
    data = {name: str(tmp_path / f"{name}.xyz") for name in ("valid", "test")}
    prepared = prepare(make_config(tmp_path, data={**data, "max_frames": 5}))
    assert (len(prepared.train), len(prepared.valid), len(prepared.test)) == (5, 3, 3)
    assert places(prepared.test) == places(make_frames(3, 2))


def test_no_validation(tmp_path):
    prepared = prepare(make_config(tmp_path, data={"valid_fraction": 0.0}))
    assert prepared.valid is None
    assert len(prepared.train) == 8


def test_model_learns_from_the_data(tmp_path):
    prepared = prepare(make_config(tmp_path))
    model = prepared.model
    assert model.short_range.elements == (11, 17)
    frames = [atoms for atoms in io.read(tmp_path / "train.xyz") if places([atoms])[0] in places(prepared.train)]
    assert len(frames) == 6
    assert sum(model.reference_energies) * 2 == pytest.approx(np.mean(energies(frames)))
    forces = np.concatenate([atoms.arrays["REF_forces"] for atoms in frames])
    assert model.energy_scale == pytest.approx(np.sqrt(np.mean(forces**2)))
    fixed = prepare(make_config(tmp_path, model=dataclasses.replace(MODEL, energy_scale=2.0, long_range=None))).model
    assert fixed.energy_scale == 2.0
    assert fixed.long_range is None


def test_reference_energies_from_a_table(tmp_path):
    def references(value):
        return prepare(make_config(tmp_path, data={"reference_energies": value})).model.reference_energies

    assert references({"Cl": -2.0, "Na": -1.0, "H": 0.0}) == (-1.0, -2.0)
    assert references("none") == (0.0, 0.0)
    with pytest.raises(ValueError, match=r"needs one energy for each of Na, Cl; Cl missing; Xy are not elements\."):
        references({"Na": -1.0, "Xy": 1.0})


def test_partly_labelled_frames_are_used(tmp_path):
    frames = make_frames(6)
    del frames[0].info["REF_energy"]
    del frames[1].arrays["REF_forces"]
    for atoms in frames[2:]:
        del atoms.info["REF_stress"]
    prepared = prepare(make_config(tmp_path, frames, data={"valid_fraction": 0.0}))
    labels = prepared.train.buckets[0].labels
    assert np.isfinite(labels.energy).tolist() == [False] + [True] * 5
    assert np.isfinite(labels.forces).all(axis=(1, 2)).tolist() == [True, False] + [True] * 4
    assert np.isfinite(labels.stress).all(axis=(1, 2)).tolist() == [True, True] + [False] * 4


def test_weight_without_labels(tmp_path):
    frames = make_frames(3)
    for atoms in frames:
        del atoms.arrays["REF_forces"]
    config = make_config(tmp_path, frames)
    message = r"`training\.phases\[0\]\.weights\.forces` is positive, but no structure of .* has forces; "
    message += r"looked for REF_forces, forces, force\. Name the key in `data\.keys\.forces` or leave"
    with pytest.raises(ValueError, match=message):
        prepare(config)


def test_weight_on_what_cannot_be_computed(tmp_path):
    stress = phases(1, weights={"stress": 1.0})
    with pytest.raises(ValueError, match=r"`training\.phases\[0\]\.weights\.stress` is positive, .* periodic in all"):
        prepare(make_config(tmp_path, phases=stress, data={"pbc": False}))
    short_range = dataclasses.replace(MODEL, long_range=None)
    with pytest.raises(ValueError, match=r"weights\.charges` is positive, but `model\.long_range` = false"):
        prepare(make_config(tmp_path, phases=phases(1, weights={"charges": 1.0}), model=short_range))
    frames = make_frames(4)
    for atoms in frames:
        atoms.info["REF_dipole"] = np.ones(3)
    with pytest.raises(
        ValueError, match=r"weights\.dipole` is positive, but all structures are periodic.* `data\.pbc`"
    ):
        prepare(make_config(tmp_path, frames, phases=phases(1, weights={"dipole": 1.0})))


def test_validation_without_labels(tmp_path):
    """Its loss would be zero from the first epoch on, and the first model the best."""
    unlabelled = [atoms.copy() for atoms in make_frames(2)]
    for atoms in unlabelled:
        atoms.info.clear()
        del atoms.arrays["REF_forces"]
    io.write(tmp_path / "valid.xyz", unlabelled)
    config = make_config(tmp_path, data={"valid": str(tmp_path / "valid.xyz")})
    with pytest.raises(ValueError, match=r"No structure to validate on, of `data\.valid` = .*, has energy or forces"):
        prepare(config)


def test_hidden_layer_without_width(tmp_path):
    with pytest.raises(ValueError, match=r"`hidden` must have at most 16 whole widths from 1 to 4096, got \(0,\)"):
        prepare(make_config(tmp_path, model=dataclasses.replace(MODEL, hidden=(0,))))


def test_label_where_it_is_not_compared_does_not_count(tmp_path):
    """Moments of a periodic structure, the stress of an open one: their weight would train nothing."""
    rng = np.random.default_rng(0)
    frames = [make_frame(rng, pbc=pbc) for pbc in (True, True, False, False)]
    for atoms in frames[:2]:
        atoms.info["REF_dipole"] = np.ones(3)
        atoms.info["stress_of_an_open_one"] = atoms.info.pop("REF_stress")
    frames[2].info["REF_stress"] = np.eye(3)
    for name, kind in (("dipole", "open"), ("stress", "periodic")):
        config = make_config(tmp_path, frames, phases=phases(1, weights={name: 1.0}))
        with pytest.raises(
            ValueError, match=rf"weights\.{name}` is positive, but no {kind} structure of .* has {name}"
        ):
            prepare(config)


def test_element_of_the_validation_part_alone(tmp_path):
    frames = make_frames(8)
    rare = places(prepare(make_config(tmp_path, frames)).valid)[0]
    frames[places(frames).index(rare)].symbols[0] = "Br"
    with pytest.raises(ValueError, match=r"of which some were drawn to validate on: Structure \d contains Br"):
        prepare(make_config(tmp_path, frames))


def test_unusable_test_structure_shows_before_training(tmp_path):
    frames = make_frames(2)
    frames[1].pbc = (True, False, False)
    io.write(tmp_path / "test.xyz", frames)
    with pytest.raises(ValueError, match=r"`data\.test` = .*: Structure 1: .*one periodic direction"):
        prepare(make_config(tmp_path, data={"test": str(tmp_path / "test.xyz")}))


def test_errors_name_file_and_structure(tmp_path):
    frames = make_frames(8)
    frames[6].arrays["REF_forces"] = np.zeros((4, 2))
    with pytest.raises(ValueError, match=r"`data\.train` = '.*train\.xyz': Structure 6: `REF_forces` has shape"):
        prepare(make_config(tmp_path, frames))
    frames = make_frames(8)
    frames[5].pbc = (True, False, False)  # the index is that in the file, not in the split
    with pytest.raises(ValueError, match=r"`data\.train` = '.*train\.xyz': Structure 5: `pbc` must be"):
        prepare(make_config(tmp_path, frames))


@pytest.mark.parametrize("name", ["valid", "test"])
def test_unknown_element_elsewhere(tmp_path, name):
    frames = make_frames(2)
    frames[1].symbols[0] = "Li"
    io.write(tmp_path / "other.xyz", frames)
    config = make_config(tmp_path, data={name: str(tmp_path / "other.xyz")})
    with pytest.raises(ValueError, match=rf"`data\.{name}` = '.*': Structure 1 contains Li, .* knows only Na, Cl"):
        prepare(config)


def test_test_file_without_labels(tmp_path):
    atoms = make_frame(np.random.default_rng(0))
    io.write(tmp_path / "test.xyz", [type(atoms)(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True)])
    with pytest.raises(ValueError, match=r"`data\.test` = '.*test\.xyz': no structure has a label"):
        prepare(make_config(tmp_path, data={"test": str(tmp_path / "test.xyz")}))


def test_too_few_structures_to_split(tmp_path):
    with pytest.raises(ValueError, match=r"`data\.valid_fraction` = 0\.9 leaves no structure to train on"):
        prepare(make_config(tmp_path, make_frames(1), data={"valid_fraction": 0.9}))


def test_lists_of_files(tmp_path):
    """Patterns too; each file has its own names of labels, and errors name file and structure in it."""
    for i, name in enumerate(("a1.xyz", "a2.xyz", "b.xyz")):
        io.write(tmp_path / name, make_frames(2, seed=i))
    data = {"train": (str(tmp_path / "b.xyz"), str(tmp_path / "a?.xyz")), "valid_fraction": 0.0}
    prepared = prepare(make_config(tmp_path, data=data))
    expected = [*make_frames(2, seed=2), *make_frames(2, seed=0), *make_frames(2, seed=1)]
    assert places(prepared.train) == places(expected)
    assert [line.split(": ")[:3] for line in prepared.files] == [
        ["data.train", str(tmp_path / name), "2 structures; REF_energy, REF_forces, REF_stress, REF_charges"]
        for name in ("b.xyz", "a1.xyz", "a2.xyz")
    ]
    assert len(prepare(make_config(tmp_path, data={**data, "max_frames": 3})).train) == 3
    frames = make_frames(2, seed=1)
    frames[1].pbc = (True, False, False)
    io.write(tmp_path / "a2.xyz", frames)
    with pytest.raises(ValueError, match=r"Structure 1 of '.*a2\.xyz': `pbc` must be"):
        prepare(make_config(tmp_path, data=data))


def test_mixed_methods(tmp_path):
    frames = make_frames(6)
    for atoms in frames:
        atoms.info["energy"], atoms.arrays["forces"] = 0.0, 0.5 * atoms.arrays["REF_forces"]
    for atoms in frames[2:]:
        del atoms.info["REF_energy"], atoms.arrays["REF_forces"]
    with pytest.raises(ValueError, match=r"`data\.train` = .*train\.xyz': .* 4 of 6 have no `REF_energy`"):
        prepare(make_config(tmp_path, frames))
    with pytest.warns(UserWarning, match="4 of 6 structures are left out"):
        prepared = prepare(make_config(tmp_path, frames, data={"labels": "skip", "valid_fraction": 0.0}))
    assert places(prepared.train) == places(frames[:2])
    with pytest.raises(ValueError, match=r"`labels` must be 'error' or 'skip', got 'ignore'"):
        make_config(tmp_path, data={"labels": "ignore"})


def test_ghost_atoms(tmp_path):
    frames = make_frames(3)
    frames[1].symbols[3] = "X"
    for name in ("train", "valid", "test"):
        io.write(tmp_path / "ghost.xyz", frames)
        data = {name: str(tmp_path / "ghost.xyz")}
        with pytest.raises(ValueError, match=rf"`data\.{name}` = .*ghost\.xyz': Structure 1: Atom 3 is a ghost .*X"):
            prepare(make_config(tmp_path, data=data))


def test_frames_without_weight_change_nothing(tmp_path):
    """Neither the split, the model, its references and scales, nor the data."""
    frames = make_frames(8)
    known = prepare(make_config(tmp_path, frames))
    void = make_frames(3, seed=1)
    for atoms in void:
        atoms.info |= {"config_weight": 0.0}
    void[0].symbols[0] = "Br"
    io.write(tmp_path / "more.xyz", [*void[:1], *frames[:4], *void[1:], *frames[4:]])
    with pytest.warns(UserWarning, match="3 structures of weight 0 are left out"):
        found = prepare(make_config(tmp_path, data={"train": str(tmp_path / "more.xyz")}))
    assert found.model == known.model
    assert found.fingerprint == known.fingerprint
    for name in ("train", "valid"):
        assert places(getattr(found, name)) == places(getattr(known, name))


@pytest.mark.parametrize("name", ["train", "valid"])
def test_no_structure_with_a_weight(tmp_path, name):
    frames = make_frames(2)
    for atoms in frames:
        atoms.info["config_weight"] = 0
    io.write(tmp_path / "void.xyz", frames)
    config = make_config(tmp_path, data={name: str(tmp_path / "void.xyz")})
    with (
        pytest.warns(UserWarning, match="2 structures of weight 0 are left out"),
        pytest.raises(ValueError, match=rf"`data\.{name}` = .*void\.xyz': all 2 structures have the weight 0"),
    ):
        prepare(config)


def test_advice_for_a_virial_under_another_name(tmp_path):
    frames = make_frames(4)
    for atoms in frames:
        atoms.info["W"] = -atoms.info.pop("REF_stress") * atoms.cell.volume
    stress = {"phases": phases(1, weights={"stress": 1.0})}
    with pytest.raises(ValueError, match=r"Name the key in `data\.keys\.stress` \(a virial: in `data\.keys\.virial`\)"):
        prepare(make_config(tmp_path, frames, **stress))
    data = {"keys": io.Keys(virial=("W",)), "valid_fraction": 0.0}
    (bucket,) = prepare(make_config(tmp_path, frames, data=data, **stress)).train.buckets
    expected = [atoms.info["REF_stress"] for atoms in make_frames(4)]
    np.testing.assert_allclose(bucket.labels.stress, expected, atol=1e-6)


def test_atomic_numbers_that_are_none(tmp_path):
    path = tmp_path / "z.xyz"
    path.write_text("2\nProperties=Z:I:1:pos:R:3 energy=-1\n11 0 0 0\n130 2 0 0\n")
    with pytest.raises(ValueError, match=r"z\.xyz': Structure 0: Atom 1 has the atomic number 130; elements have 1"):
        prepare(make_config(tmp_path, data={"train": str(path)}))


def test_weights_of_labels(tmp_path):
    frames = make_frames(4)
    frames[0].info |= {"energy_weight": 0.0, "REF_energy": 1e3}
    frames[1].info["weight"] = 2.5
    data = {"valid_fraction": 0.0, "keys": io.Keys(config_weight=("weight",))}
    prepared = prepare(make_config(tmp_path, frames, data=data))
    (bucket,) = prepared.train.buckets
    assert np.isfinite(bucket.labels.energy).tolist() == [False, True, True, True]
    assert np.isfinite(bucket.labels.forces).all()
    assert bucket.weights["forces"].tolist() == [1.0, 2.5, 1.0, 1.0]
    assert max(prepared.model.reference_energies) < 10.0
    plain = prepare(make_config(tmp_path, make_frames(4), data={"valid_fraction": 0.0}))
    assert plain.train.buckets[0].weights == {}
    assert plain.fingerprint != prepared.fingerprint


def test_labels_that_nobody_asks_for(tmp_path):
    frames = make_frames(4)
    for atoms in frames:
        atoms.info |= {"dipole": 1.85, "spin": "restricted"}
    with pytest.warns(UserWarning, match=r"(`dipole`|`spin`)"):
        assert len(prepare(make_config(tmp_path, frames, data={"valid_fraction": 0.0})).train) == 4
    model = dataclasses.replace(MODEL, state_inputs=("spin_multiplicity",))
    with pytest.raises(ValueError, match=r"Structure 0: `spin` must be a number .*'restricted'"):
        prepare(make_config(tmp_path, frames, model=model))
    weights = phases(1, weights={"dipole": 1.0})
    with pytest.raises(ValueError, match="Structure 0: `dipole` has shape"):
        prepare(make_config(tmp_path, frames, phases=weights))


def test_state_that_is_missing_speaks_of_the_file(tmp_path):
    model = dataclasses.replace(MODEL, state_inputs=("total_charge",))
    with pytest.raises(
        ValueError, match=r"Structure 0: .* total charge, got nan\. Write `total_charge=.*`data\.keys\.tot"
    ):
        prepare(make_config(tmp_path, model=model))
    frames = make_frames(2)
    for atoms in frames:
        atoms.info["Q"] = 1
    data = {"keys": io.Keys(total_charge=("Q",)), "valid_fraction": 0.0}
    prepared = prepare(make_config(tmp_path, frames, model=model, data=data))
    assert prepared.train.buckets[0].system.total_charge.tolist() == [1.0, 1.0]
    assert prepared.model.state_by_element is None
    ion = io.Atoms("Na", info={"REF_energy": -5.0, "Q": 1}, positions=[[0.0] * 3])
    ion.set_array("REF_forces", np.zeros((1, 3)))
    prepared = prepare(make_config(tmp_path, [*frames, ion], model=model, data=data))
    assert prepared.model.state_by_element is True


def test_lone_atoms_fix_the_references(tmp_path):
    """In any box, if they are marked or alone within the cutoff; ions do not."""
    frames = make_frames(4)
    for symbol, energy, info, cell in (
        ("Na", -10.0, {}, None),
        ("Na", -5.0, {"total_charge": 1}, None),
        ("Cl", -20.0, {"config_type": "isolated_atom"}, [3.0] * 3),
    ):
        atoms = io.Atoms(symbol, cell=cell, pbc=cell is not None, info={"REF_energy": energy, **info})
        atoms.set_array("REF_forces", np.zeros((1, 3)))
        frames.append(atoms)
    for seed in range(3):  # none of them is drawn to validate on
        prepared = prepare(make_config(tmp_path, frames, data={"valid_fraction": 0.75}, seed=seed))
        assert (len(prepared.train), len(prepared.valid)) == (4, 3)
    assert prepared.model.reference_energies == (-10.0, -20.0)
    assert [bucket.system.pbc for bucket in prepared.train.buckets] == [(False,) * 3, (True,) * 3]
    assert prepared.train.buckets[0].labels.energy.tolist() == [0.0, 5.0, 0.0]
