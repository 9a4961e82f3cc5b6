"""The generators of the shipped data sets, as far as they need no other program, and what they say without it."""

import importlib.util

import numpy as np
import pytest
from ase import Atoms

from data_generation import (
    carbon_chains,
    charge_transfer,
    dimers,
    kf_water,
    nacl_water,
    silver_trimers,
    smoothness,
    spcfw,
    storage,
    xtb,
)
from lesjax import io


def needs(package):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: pip install 'lesjax[datasets]'.")


@pytest.mark.parametrize(("formula", "n"), [("Na8Cl8", 16), ("Na9Cl8", 17)])
def test_cluster(formula, n):
    atoms = charge_transfer.cluster(formula)
    assert atoms.get_chemical_formula(mode="hill").replace("Cl8", "") + "Cl8" == f"{formula[:3]}Cl8"
    assert len(atoms) == n
    # electrons of the valence shells, less the charge: an odd number has one unpaired
    (state,) = (state for state in charge_transfer.STATES if state.name == f"{formula}+")
    electrons = 8 * 7 + (n - 8) - state.charge
    assert electrons % 2 == state.unpaired
    distances = atoms.get_all_distances()
    np.fill_diagonal(distances, np.inf)
    sodium = atoms.symbols == "Na"
    np.testing.assert_allclose(distances.min(axis=1), charge_transfer.SPACING)
    assert distances[np.ix_(sodium, sodium)].min() > 1.4 * charge_transfer.SPACING
    # the atom that is moved is at the other end than the one that is missing
    assert atoms.positions[charge_transfer.MOVED, 2] == 0.0
    moved = charge_transfer.displace(atoms, 0.5)
    assert moved.positions[charge_transfer.MOVED, 2] == -0.5
    assert moved.info["displacement"] == 0.5


def test_unknown_cluster():
    with pytest.raises(ValueError, match="`formula` must be one of Na8Cl8, Na9Cl8, got 'NaCl'"):
        charge_transfer.cluster("NaCl")


def test_monomers():
    composition = {"NH4+": "H4N", "CH3NH3+": "CH6N", "HCOO-": "CHO2", "CH3COO-": "C2H3O2", "BF4-": "BF4", "H2O": "H2O"}
    for name, formula in composition.items():
        atoms = dimers.monomer(name)
        assert atoms.get_chemical_formula() == formula
        distances = atoms.get_all_distances()
        assert distances[distances > 0].min() > 0.9
        # with its charge, all electrons are paired
        assert (atoms.numbers.sum() - dimers.charge_of(name)) % 2 == 0
    with pytest.raises(ValueError, match="`name` must be a molecule of `PAIRS`, got 'XeF2'"):
        dimers.monomer("XeF2")


def test_place():
    pair = dimers.place(dimers.monomer("H2O"), dimers.monomer("CH4"), 5.0, np.stack([np.eye(3)] * 2))
    np.testing.assert_allclose(pair[3:].get_center_of_mass() - pair[:3].get_center_of_mass(), [0, 0, 5], atol=1e-12)
    np.testing.assert_allclose(dimers.contact(pair), pair.get_all_distances()[:3, 3:].min())


@pytest.mark.parametrize(("kind", "n_pairs"), [("bulk", 0), ("bulk", 2), ("interface", 1)])
def test_start_of_kf_water(kind, n_pairs):
    atoms = kf_water.start(kind, n_pairs, np.random.default_rng(1))
    assert spcfw.n_waters(atoms) == 64
    assert len(atoms) == 192 + 2 * n_pairs
    assert abs(spcfw.charges(atoms).sum()) < 1e-12
    molecules = atoms.positions[:192].reshape(64, 3, 3)
    lengths = np.linalg.norm(molecules[:, 1:] - molecules[:, :1], axis=-1)
    np.testing.assert_allclose(lengths, spcfw.BOND_LENGTH)
    np.testing.assert_allclose(atoms.get_angle(1, 0, 2), spcfw.ANGLE)


def test_start_of_kf_water_refuses():
    rng = np.random.default_rng(1)
    with pytest.raises(ValueError, match="`kind` must be one of bulk, interface, got 'ice'"):
        kf_water.start("ice", 0, rng)
    with pytest.raises(ValueError, match="`n_pairs` must be from 0 to 8, got 9"):
        kf_water.start("bulk", 9, rng)


def test_start_of_nacl_water():
    atoms = nacl_water.start(np.random.default_rng(1))
    assert abs(spcfw.charges(atoms).sum()) < 1e-12
    ions = atoms[3 * spcfw.n_waters(atoms) :]
    assert len(ions) == 72
    distances = ions.get_all_distances(mic=True)
    np.fill_diagonal(distances, np.inf)
    sodium = ions.symbols == "Na"
    np.testing.assert_allclose(distances.min(axis=1), nacl_water.LATTICE_CONSTANT / 2, rtol=1e-5)
    np.testing.assert_allclose(
        distances[np.ix_(sodium, sodium)].min(), nacl_water.LATTICE_CONSTANT / np.sqrt(2), rtol=1e-5
    )


def test_molecules_are_wrapped_as_a_whole():
    atoms = kf_water.start("bulk", 1, np.random.default_rng(2))
    torn = atoms.copy()
    torn.positions[6:9] += 3 * torn.cell[0]  # one molecule drifts away
    torn.positions[-1] -= 2 * torn.cell[2]
    wrapped = spcfw.wrap_molecules(torn)
    fractional = wrapped.get_scaled_positions(wrap=False)[np.r_[0:192:3, 192, 193]]
    assert fractional.min() >= 0.0
    assert fractional.max() < 1.0
    molecules = wrapped.positions[:192].reshape(64, 3, 3)
    np.testing.assert_allclose(np.linalg.norm(molecules[:, 1:] - molecules[:, :1], axis=-1), spcfw.BOND_LENGTH)


def test_order_of_atoms():
    with pytest.raises(ValueError, match=r"water molecules as O, H, H and then ions .* got HOH"):
        spcfw.n_waters(Atoms("HOH"))
    with pytest.raises(ValueError, match="got OH2Li"):
        spcfw.n_waters(Atoms("OHHLi"))


def test_files_are_read_back(tmp_path):
    atoms = storage.round_positions(Atoms("NaCl", [[0.123456789, 0, 0], [0, 0, 2.5]], info={"charge": 0}))
    storage.attach(atoms, -1.23456789, np.array([[0, 0, 0.98765], [0, 0, -0.98765]]), np.array([0.7, -0.7]))
    storage.write_set(tmp_path, "pair", {"train": [atoms]}, {"seed": 1})
    (read,) = io.read(tmp_path / "pair_train.xyz.xz")
    np.testing.assert_array_equal(read.positions, [[0.12346, 0, 0], [0, 0, 2.5]])
    assert read.get_potential_energy() == -1.234568
    np.testing.assert_array_equal(read.get_forces()[:, 2], [0.9876, -0.9876])
    np.testing.assert_array_equal(io.labels(read).charges, [0.7, -0.7])
    assert read.info["charge"] == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pair.json", "pair_train.xyz.xz"]


@pytest.mark.skipif(importlib.util.find_spec("tblite") is not None, reason="tblite is installed")
def test_tblite_is_missing():
    with pytest.raises(ImportError, match=r"needs tblite: pip install 'lesjax\[datasets\]'"):
        xtb.label(dimers.monomer("H2O"), 0, 0, "GFN2-xTB")


@pytest.mark.skipif(importlib.util.find_spec("openmm") is not None, reason="openmm is installed")
def test_openmm_is_missing():
    with pytest.raises(ImportError, match=r"need OpenMM: pip install 'lesjax\[datasets\]'"):
        spcfw.label([kf_water.start("bulk", 0, np.random.default_rng(0))])


def test_roughness_finds_steps_and_leaves_smooth_forces():
    atoms = [Atoms("NaCl", [[0, 0, 0], [0, 0, 2.5 + 0.1 * i]]) for i in range(3)]

    def smooth(pair):
        vector = pair.positions[1] - pair.positions[0]
        force = vector * np.exp(-np.linalg.norm(vector))
        return np.stack([force, -force])

    def stepped(pair):
        return smooth(pair) + np.where(np.linalg.norm(pair.positions[1] - pair.positions[0]) > 2.57, 0.2, 0.0)

    assert smoothness.roughness(atoms, smooth)["rms"] < 1e-3
    rough = smoothness.roughness(atoms, stepped)
    assert rough["largest"] > 50.0
    with pytest.raises(ValueError, match=r"The labels of steps are not smooth: .* Take another method"):
        smoothness.check("steps", rough)
    still = smoothness.roughness(atoms, stepped, moved=lambda pair, _: np.arange(len(pair)))
    assert still["rms"] < 1e-3  # both move together: the distance stays


@pytest.mark.parametrize(
    "state", [*carbon_chains.STATES, *silver_trimers.STATES, *charge_transfer.STATES], ids=lambda state: state.name
)
def test_states_have_all_electrons_paired_but_those_they_say(state):
    assert (state.atoms.numbers.sum() - state.charge - state.unpaired) % 2 == 0
    assert state.atoms.get_all_distances()[np.triu_indices(len(state.atoms), 1)].min() > 1.0


@needs("tblite")
@pytest.mark.parametrize("method", ["GFN1-xTB", "GFN2-xTB"])
def test_xtb_forces(method):
    atoms = dimers.monomer("HCOO-")
    forces = xtb.label(atoms, -1, 0, method).get_forces()
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[0, 1] += sign * 0.005
        energies.append(xtb.label(moved, -1, 0, method).get_potential_energy())
    np.testing.assert_allclose(forces[0, 1], (energies[1] - energies[0]) / 0.01, atol=2e-3)


@needs("openmm")
def test_openmm_labels_and_samples():
    start = kf_water.start("interface", 1, np.random.default_rng(0))
    frames = spcfw.sample(start, 2, temperature=300.0, equilibration=0.03, interval=0.015, seed=5)
    labelled = spcfw.label(frames)
    assert not np.array_equal(labelled[0].positions, labelled[1].positions)
    np.testing.assert_allclose(labelled[0].get_charges().sum(), 0.0, atol=1e-9)
    moved = frames[0].copy()
    moved.positions[:, 0] += 1.0
    np.testing.assert_allclose(
        spcfw.label([moved])[0].get_potential_energy(), labelled[0].get_potential_energy(), atol=1e-3
    )


def test_small_cell_is_refused():
    pytest.importorskip("openmm", reason="openmm is not installed: pip install 'lesjax[datasets]'.")
    atoms = Atoms("OHH", np.eye(3), cell=[10.0] * 3, pbc=True)
    with pytest.raises(ValueError, match=r"a cell of at least 12\.0 Å"):
        spcfw.label([atoms])
