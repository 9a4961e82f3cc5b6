"""One family of labels for a file, units, virials, weights, and labels that nobody asks for."""

import ase
import numpy as np
import pytest
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator

from lesjax import io
from lesjax.io import Keys
from lesjax.io.units import factor, stated_units


def frame(arrays=(), cell=None, **info):
    """Two atoms; `arrays` maps names of forces to their size."""
    atoms = ase.Atoms("OH", [[0, 0, 0], [1, 0, 0]], cell=cell, pbc=cell is not None, info=info)
    for name, size in dict(arrays).items():
        atoms.set_array(name, np.full((2, 3), float(size)))
    return atoms


def sampled(n_reference=2, **other):
    """Frames of a sampling run, with the numbers of a reference method in the first ones only."""
    frames = []
    for i in range(5):
        atoms = frame({"forces": 0.5}, energy=-1.0 - i, **other)
        if i < n_reference:
            atoms.info["REF_energy"] = -10.0 - i
            atoms.set_array("REF_forces", np.ones((2, 3)))
        frames.append(atoms)
    return frames


def test_methods_do_not_mix():
    message = r"4 of 5 have no `REF_energy` but energy under another name \(first: 1\); 4 of 5 have no `REF_forces`"
    with pytest.raises(ValueError, match=message + r".*`data\.labels` = 'skip'"):
        io.all_labels(sampled(1))
    with pytest.warns(UserWarning, match=r"3 of 5 structures are left out, which lack `REF_energy`, `REF_forces`"):
        chosen = io.select(sampled(), mixed="skip")
    assert chosen.members == [0, 1]
    assert [float(label.energy) for label in chosen.labels] == [-10.0, -11.0]
    assert all((label.forces == 1.0).all() for label in chosen.labels)
    assert chosen.names == {"energy": "REF_energy", "forces": "REF_forces"}
    chosen = io.select(sampled(), Keys(energy=("energy",), forces=("forces",)))
    assert [float(label.energy) for label in chosen.labels] == [-1.0, -2.0, -3.0, -4.0, -5.0]
    assert chosen.names == {"energy": "energy", "forces": "forces"}


def test_one_file_of_each_method():
    """The names are those of a file, whatever the order of the frames."""
    assert io.select(sampled(0)).names["energy"] == "energy"
    with pytest.raises(ValueError, match="4 of 5 have no `REF_energy`"):
        io.all_labels(sampled(1)[::-1])


def test_results_of_a_calculator_are_a_family():
    frames = sampled(5)
    for atoms in frames:
        energy, forces = atoms.info.pop("energy"), atoms.arrays.pop("forces")
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    assert io.select(frames).names == {"energy": "REF_energy", "forces": "REF_forces"}
    del frames[3].info["REF_energy"]
    with pytest.raises(ValueError, match=r"1 of 5 have no `REF_energy` .*\(first: 3\)"):
        io.all_labels(frames)


@pytest.mark.parametrize("kind", ["forces", "stress"])
def test_label_of_another_family_is_left_out(kind):
    """Its family has an energy of its own, which is not the one that is used."""
    frames = sampled(5, **({"stress": np.eye(3)} if kind == "stress" else {}))
    for atoms in frames if kind == "forces" else ():
        del atoms.arrays["REF_forces"]
    with pytest.warns(UserWarning, match=rf"The {kind} `{kind}` is left out: it belongs with `energy`"):
        chosen = io.select(frames)
    assert kind not in chosen.names
    assert np.isnan(getattr(chosen.labels[0], kind)).all()


def test_single_labels_of_another_family_are_used():
    """Where no other method shows, as in a file with REF_energy and stress, and where the name was given."""
    atoms = frame({"REF_forces": 1.0}, cell=[9, 9, 9], REF_energy=-1.0, stress=0.1 * np.eye(3))
    assert io.select([atoms]).names["stress"] == "stress"
    atoms.info["energy"] = -2.0
    assert io.select([atoms], Keys(stress=("stress",))).names["stress"] == "stress"


def test_forces_of_another_method_than_a_named_energy():
    """The name was given for the energy only; the forces have an energy of their own."""
    frames = [frame({"forces": 1.0, "dft_forces": 2.0}, dft_energy=-1.0, energy=-2.0) for _ in range(2)]
    with pytest.warns(UserWarning, match="The forces `forces` is left out: it belongs with `energy`"):
        chosen = io.select(frames, Keys(energy=("dft_energy",)))
    assert chosen.names == {"energy": "dft_energy"}
    chosen = io.select(frames, Keys(energy=("dft_energy",), forces=("dft_forces",)))
    assert chosen.names == {"energy": "dft_energy", "forces": "dft_forces"}


def test_methods_under_names_that_nothing_asks_for():
    """Plain names may be what a sampling run has left; those of a reference are meant."""
    frames = [frame({"forces": 1.0, "DFT_force": 2.0}, DFT_energy=-1.0, energy=-2.0)]
    with pytest.warns(UserWarning, match="`DFT_energy` and `DFT_force` are in the file, too, but `energy`, `forces`"):
        io.select(frames)
    frames = [frame({"REF_forces": 1.0, "MACE_forces": 2.0}, MACE_energy=-1.0, REF_energy=-2.0)]
    assert io.select(frames).names == {"energy": "REF_energy", "forces": "REF_forces"}
    assert io.select([frame({"forces": 1.0}, energy=-1.0, inter_energy=-2.0)]).names["energy"] == "energy"


def test_energy_and_forces_of_two_families():
    with pytest.warns(UserWarning, match="The energy `REF_energy` and the forces `forces` have names of two methods"):
        io.select([frame({"forces": 1.0}, REF_energy=-1.0)])


def test_frames_may_lack_labels():
    frames = [
        frame({"REF_forces": 1.0}, REF_energy=-1.0),
        frame(),
        frame({"REF_forces": 1.0}),
        frame(REF_energy=np.nan),
    ]
    with pytest.warns(UserWarning, match=r"`REF_energy` has NaN in 1 of 4 structures \(first: 3\)"):
        found = io.all_labels(frames)
    assert np.isfinite([label.energy for label in found]).tolist() == [True, False, False, False]


def test_one_spelling_in_a_file():
    with pytest.raises(ValueError, match=r"1 of 2 have no `energy` but energy under another name \(first: 1\)"):
        io.all_labels([frame(energy=-1.0), frame(Energy=-2.0)])
    assert io.labels(frame(energy=-1.0, Energy=-2.0)).energy == -1.0


def test_names_in_another_case():
    assert io.labels(frame(REF_Energy=-1.0, energy=-2.0)).energy == -1.0
    assert io.labels(frame(ENERGY=-2.0)).energy == -2.0
    assert io.labels(frame({"Forces": 2.0})).forces[0, 0] == 2.0
    atoms = frame()
    atoms.set_array("BEC", np.arange(18.0).reshape(2, 9))  # not "bec", which has another order
    np.testing.assert_array_equal(io.labels(atoms).born_effective_charges, np.arange(18.0).reshape(2, 3, 3))


VIRIAL = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])


@pytest.mark.parametrize("name", ["REF_virial", "virial", "Virial", "mine"])
@pytest.mark.parametrize("value", [VIRIAL, VIRIAL.ravel(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
def test_virials(name, value):
    keys = Keys(virial=("mine",)) if name == "mine" else None
    found = io.labels(frame(cell=[4, 5, 6], **{name: value}), keys).stress
    np.testing.assert_allclose(found, -VIRIAL / 120.0)
    assert np.isnan(io.labels(frame(**{name: value}), keys).stress).all()


def test_virial_as_a_stress_is_refused():
    with pytest.raises(ValueError, match=r"`stress` = 'REF_virial' names a virial: give it as `data\.keys\.virial`"):
        Keys(stress=("REF_virial",))
    with pytest.raises(ValueError, match=r"`virial` = 'stress' names a stress"):
        Keys(virial=("stress",))


def test_stress_that_is_too_large():
    frames = [frame(cell=[4, 5, 6], stress=size * np.eye(3)) for size in (0.1, 20.0, 30.0)]
    with pytest.warns(UserWarning, match=r"`stress` reaches 30 eV/Å³ in 2 structures \(first: 1\); 1 eV/Å³ is 160 GPa"):
        io.all_labels(frames)


def test_stated_units():
    atoms = frame({"REF_forces": 1.0}, cell=[4, 5, 6], REF_energy=1.0, stress=np.eye(3))
    atoms.info |= {"energy-unit": "hartree", "force-unit": "hartree/bohr", "stress_units": "GPa"}
    found = io.labels(atoms)
    assert found.energy == pytest.approx(units.Hartree)
    np.testing.assert_allclose(found.forces, units.Hartree / units.Bohr)
    np.testing.assert_allclose(found.stress, units.GPa * np.eye(3))
    del atoms.info["force-unit"]
    with pytest.raises(
        ValueError, match=r"`energy-unit` = 'hartree'.* is stated, but not .* its forces: add `forces-unit`"
    ):
        io.labels(atoms)
    atoms.info |= {"energy-unit": "eV", "stress_units": "eV/Å^3"}
    assert io.labels(atoms).forces[0, 0] == 1.0


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("Ha", "energy", units.Hartree),
        ("a.u.", "forces", units.Hartree / units.Bohr),
        ("kcal/mol", "energy", units.kcal / units.mol),
        ("kcal/(mol*Angstrom)", "forces", units.kcal / units.mol),
        ("kJ/mol/nm", "forces", 0.1 * units.kJ / units.mol),
        ("eV/Å**3", "stress", 1.0),
        ("kbar", "stress", 1e3 * units.bar),
        ("meV/ang", "forces", 1e-3),
        ("Rydberg", "energy", units.Rydberg),
        ("E_h / a_0", "forces", units.Hartree / units.Bohr),
        ("Hartree per Bohr", "forces", units.Hartree / units.Bohr),
        ("hartree·bohr⁻¹", "forces", units.Hartree / units.Bohr),
        ("kcal mol^-1 A^-1", "forces", units.kcal / units.mol),
        ("debye", "dipole", units.Debye),
    ],
)
def test_units(text, kind, value):
    assert factor(stated_units({f"{kind}_unit": text}), kind) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("parsec", "energy"), ("bohr", "energy"), ("eV", "forces"), ("27.2", "energy"), ("eV//Å", "forces")],
)
def test_unknown_units(text, kind):
    with pytest.raises(ValueError, match=rf"`REF_{kind}Unit` = '{text}' is no known unit of {kind}"):
        factor(stated_units({f"REF_{kind}Unit": text}), kind)


def test_units_that_only_some_structures_state():
    frames = [frame(energy=-1.0, energy_unit="hartree"), frame(energy=-2.0)]
    with pytest.raises(ValueError, match=r"`energy_unit` = 'hartree' is stated in 1 of 2 .* no unit in 1 others"):
        io.all_labels(frames)
    frames[0].info["energy_unit"] = "eV"
    assert io.all_labels(frames)[0].energy == -1.0


def test_unit_of_a_dipole_says_nothing_of_energies():
    atoms = frame(
        {"forces": 1.0}, energy=-1.0, dipole=[1.0, 0.0, 0.0], dipole_unit="Debye", polarizability_unit="bohr^3"
    )
    assert io.labels(atoms).energy == -1.0
    assert io.labels(atoms).dipole[0] == pytest.approx(units.Debye)


@pytest.mark.parametrize(
    ("key", "text"), [("e_unit", "hartree"), ("unit_system", "au"), ("units", "Hartree/Bohr"), ("unit_style", "real")]
)
def test_units_of_no_known_number(key, text):
    with pytest.raises(ValueError, match=f"`{key}` = '{text}' does not say the unit of which numbers"):
        io.labels(frame(**{"energy": -1.0, key: text}))


def test_units_are_an_error_of_the_frame():
    frames = [frame(energy=1.0), frame(energy=2.0, energy_unit="parsec")]
    with pytest.raises(ValueError, match="Structure 1: `energy_unit` = 'parsec'"):
        io.all_labels(frames)
    assert stated_units({"temperature_unit": "K", "community": "x", "united": 1}) == {}


def test_labels_that_nobody_asks_for():
    frames = [frame({"forces": 1.0}, energy=-1.0 - i, charges=0, dipole=1.85, spin="restricted") for i in range(3)]
    with pytest.warns(UserWarning, match="nothing asks for it") as caught:
        chosen = io.select(frames, needed=("energy", "forces"))
    texts = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert len(texts) == 3
    assert all("nothing asks for it (3 structures)" in text for text in texts)
    assert [name for name in ("charges", "dipole", "spin") if any(f"`{name}`" in text for text in texts)] == [
        "charges", "dipole", "spin",
    ]  # fmt: skip
    assert chosen.names == {"energy": "energy", "forces": "forces"}
    for needed, keys in ((("dipole",), None), ((), Keys(dipole=("dipole", "REF_dipole")))):
        with pytest.raises(ValueError, match="Structure 0: `dipole` has shape"):
            io.select([frame(energy=-1.0, dipole=1.85)], keys, needed=("energy", *needed))
    with pytest.raises(
        ValueError, match=r"Structure 0: `spin` must be a number .*'restricted'; .*`data\.keys\.spin_mul"
    ):
        io.select([frame(energy=1.0, spin="restricted")], needed=("energy", "spin_multiplicity"))


def test_state_under_names_of_a_file():
    atoms = frame(Q=2, charge=7, mult=3, energy=-1.0)
    (found,) = io.select([atoms], Keys(total_charge=("Q",), spin_multiplicity=("mult",))).frames
    assert (found.info["total_charge"], found.info["spin_multiplicity"]) == (2, 3)
    assert "charge" not in found.info
    assert atoms.info["charge"] == 7
    assert io.select([atoms]).frames[0] is atoms


def test_energies_that_are_none():
    moved = [frame(energy=0.0) for _ in range(3)]
    for i, atoms in enumerate(moved):
        atoms.positions[1, 0] += 0.1 * i
    with pytest.warns(UserWarning, match="`energy` is exactly 0 in 3 of 3 structures"):
        io.all_labels(moved)
    for atoms in moved:
        atoms.info["energy"] = -5.0
    with pytest.warns(UserWarning, match="`energy` is -5 eV in all of 3 structures, which differ"):
        io.all_labels(moved)
    for atoms, small in zip(moved, (0.0, 1e-10, 2e-10), strict=True):
        atoms.info["energy"] = -5.0 + small
    with pytest.warns(UserWarning, match="`energy` is -5 eV in all of 3 structures"):
        io.all_labels(moved)
    moved[1].info["energy"] = 0.0
    with pytest.warns(UserWarning, match="`energy` is exactly 0 in 1 of 3 structures"):
        io.all_labels(moved)
    for atoms in moved:
        atoms.set_array("forces", np.zeros((2, 3)))
    with pytest.warns(UserWarning, match="The forces `forces` are exactly 0 in all of 3 structures"):
        io.select(moved, needed=("forces",))


def test_energies_that_may_be_zero_or_equal():
    """One structure, energies relative to the lowest, lone atoms, and energies that nothing asks for."""
    io.all_labels([frame(energy=-5.0), frame(energy=-5.0)])
    io.all_labels([frame(energy=energy) for energy in (0.0, 0.5, 0.7)])
    atoms = [ase.Atoms("O", [[0, 0, i]], info={"energy": 0.0}) for i in range(2)]
    for lone in atoms:
        lone.set_array("forces", np.zeros((1, 3)))
    io.all_labels([*atoms, frame({"forces": 1.0}, energy=-1.0)])
    io.select([frame({"forces": 1.0}, energy=0.0)] * 2, needed=("forces",))


def test_weights():
    atoms = frame(config_weight=2.0, forces_weight=0.5, energy=1.0)
    (weights,) = io.select([atoms]).weights
    assert (weights["energy"], weights["forces"], weights["charges"]) == (2.0, 1.0, 2.0)
    (weights,) = io.select([frame(w=3)], Keys(config_weight=("w",))).weights
    assert set(weights.values()) == {3.0}
    for name in ("config-weight", "configWeight"):
        (weights,) = io.select([frame(**{name: 2.0})]).weights
        assert set(weights.values()) == {2.0}
    with pytest.warns(UserWarning, match=r"No weights of structures are read from `frame_weight`.*config_weight"):
        io.select([frame(frame_weight=2.0, molecular_weight=18.0)])
    for value in (-1.0, np.nan, 1e20, "heavy", [1.0, 2.0]):
        with pytest.raises(ValueError, match="Structure 1: `config_weight` must be a weight"):
            io.select([frame(), frame(config_weight=value)])
