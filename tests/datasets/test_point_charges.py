"""The point-charge gas: its Ewald sum against literature values and itself, and its frames."""

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

from lesjax.datasets.point_charges import (
    EPSILON,
    REPULSION_CUTOFF,
    SIGMA,
    ewald,
    generate,
    repulsion,
)
from lesjax.units import COULOMB


@pytest.fixture(scope="module")
def frames():
    return generate(3, seed=7)


# Madelung constants over the nearest-neighbour distance: rock salt OEIS A085469,
# caesium chloride OEIS A181152, zinc blende OEIS A182566.
@pytest.mark.parametrize(
    ("structure", "nearest", "madelung"),
    [
        ("rocksalt", 1 / 2, 1.747564594633182),
        ("cesiumchloride", np.sqrt(3) / 2, 1.762674773070988),
        ("zincblende", np.sqrt(3) / 4, 1.638055053388789),
    ],
)
@pytest.mark.parametrize("edge", [5.64, 11.0])
def test_madelung(structure, nearest, madelung, edge):
    crystal = bulk("NaCl", structure, a=edge, cubic=True)
    charges = np.where(crystal.symbols == "Na", 1.0, -1.0)
    energy, forces = ewald(crystal.positions, charges, edge)
    expected = -COULOMB * madelung / (nearest * edge) * (len(crystal) / 2)
    np.testing.assert_allclose(energy, expected, rtol=1e-11)
    np.testing.assert_allclose(forces, 0.0, atol=1e-10)


@pytest.mark.parametrize("splitting", [0.62, 0.8])
def test_ewald_is_independent_of_splitting(frames, splitting):
    positions, charges = frames[0].positions, frames[0].arrays["REF_charges"]
    energy, forces = ewald(positions, charges, 20.0)
    other_energy, other_forces = ewald(positions, charges, 20.0, splitting=splitting)
    np.testing.assert_allclose(energy, other_energy, rtol=1e-11)
    # relative to the RMS force, about 2 eV/Å
    np.testing.assert_allclose(forces, other_forces, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shift", [0.0, 33.3])
def test_ewald_of_doubled_box(shift):
    (atoms,) = generate(1, n_pairs=4, box=10.0)
    atoms.positions += shift
    double = atoms.repeat(2)
    energy, forces = ewald(atoms.positions, atoms.arrays["REF_charges"], 10.0)
    double_energy, double_forces = ewald(double.positions, double.arrays["REF_charges"], 20.0)
    np.testing.assert_allclose(double_energy, 8 * energy, rtol=1e-11)
    np.testing.assert_allclose(double_forces, np.tile(forces, (8, 1)), rtol=0, atol=1e-10)


def test_repulsion_of_two_ions():
    def pair(distance):
        return repulsion(np.array([[0.5, 0.0, 0.0], [0.5 - distance, 0.0, 0.0]]), 12.0)

    energy, forces = pair(SIGMA)
    assert energy == pytest.approx(4 * EPSILON, rel=2e-3)
    np.testing.assert_array_equal(forces[0], -forces[1])
    assert forces[0, 0] == pytest.approx(48 * EPSILON / SIGMA, rel=1e-5)
    assert pair(REPULSION_CUTOFF)[0] == 0.0
    assert 0 < pair(REPULSION_CUTOFF - 1e-3)[0] < 1e-10


@pytest.mark.parametrize("term", ["coulomb", "repulsion"])
def test_forces_match_finite_differences(term):
    # closer together than the frames are by default, so that both terms are large
    (atoms,) = generate(1, n_pairs=8, box=10.0, min_distance=2.2)
    charges = atoms.arrays["REF_charges"]

    def evaluate(positions):
        return repulsion(positions, 10.0) if term == "repulsion" else ewald(positions, charges, 10)

    _, forces = evaluate(atoms.positions)
    step = 1e-3
    numerical = np.empty_like(forces)
    for index in np.ndindex(forces.shape):
        energies = []
        for multiple in (-2, -1, 1, 2):
            positions = atoms.positions.copy()
            positions[index] += multiple * step
            energies.append(evaluate(positions)[0])
        numerical[index] = -np.dot([1, -8, 8, -1], energies) / (12 * step)
    assert np.abs(forces).max() > 1.0
    np.testing.assert_allclose(forces, numerical, rtol=0, atol=1e-8)


def test_frames_hold_the_documented_quantities(frames):
    for index, atoms in enumerate(frames):
        assert atoms.get_chemical_formula() == "Cl64Na64"
        assert atoms.pbc.all()
        np.testing.assert_array_equal(atoms.cell, 20.0 * np.eye(3))
        charges = atoms.arrays["REF_charges"]
        assert charges.sum() == 0.0
        np.testing.assert_array_equal(charges, np.where(atoms.symbols == "Na", 1.0, -1.0))
        distances = atoms.get_all_distances(mic=True)[np.triu_indices(128, 1)]
        assert distances.min() >= 2.5
        assert (atoms.info["seed"], atoms.info["frame"]) == (7, index)
        coulomb, repulsive = ewald(atoms.positions, charges, 20.0), repulsion(atoms.positions, 20.0)
        assert atoms.info["REF_energy"] == coulomb[0] + repulsive[0]
        np.testing.assert_array_equal(atoms.arrays["REF_forces"], coulomb[1] + repulsive[1])
        np.testing.assert_allclose(atoms.arrays["REF_forces"].sum(axis=0), 0.0, atol=1e-9)


def test_seed_and_index_determine_a_frame(frames):
    again = generate(2, seed=7)
    for atoms, same in zip(again, frames, strict=False):
        np.testing.assert_array_equal(atoms.positions, same.positions)
        assert atoms.info == same.info
    (other,) = generate(1, seed=8)
    for one, two in [(frames[0], frames[1]), (frames[0], other)]:
        assert not np.any(one.positions == two.positions)


def test_a_local_model_misses_much_of_the_force(frames):
    """The purpose of the set: ions beyond 5 Å contribute about 1 eV/Å per component."""
    far = []
    for atoms in frames:
        charges = atoms.arrays["REF_charges"]
        vectors = -atoms.get_all_distances(mic=True, vector=True)  # r_i - r_j
        distances = np.linalg.norm(vectors, axis=-1)
        near = (distances > 0) & (distances < 5.0)
        inverse_cubes = np.where(near, 1 / np.where(near, distances, 1.0) ** 3, 0.0)
        products = COULOMB * np.outer(charges, charges) * inverse_cubes
        local = np.einsum("ij,ijx->ix", products, vectors)
        far.append(ewald(atoms.positions, charges, 20.0)[1] - local)
    assert 0.7 < np.sqrt(np.mean(np.square(far))) < 1.3


def test_frames_survive_extxyz(frames, tmp_path):
    write(tmp_path / "gas.xyz", frames, format="extxyz")
    for atoms, same in zip(read(tmp_path / "gas.xyz", ":"), frames, strict=True):
        assert atoms.calc is None
        assert atoms.info == pytest.approx(same.info, rel=1e-14)
        assert atoms.pbc.all()
        assert set(atoms.arrays) == set(same.arrays)
        for name in ("positions", "REF_forces", "REF_charges"):
            # extxyz keeps eight decimals
            np.testing.assert_allclose(atoms.arrays[name], same.arrays[name], rtol=0, atol=6e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_frames": 0}, r"`n_frames` must be at least 1, got 0"),
        ({"n_pairs": 0}, r"`n_pairs` must be at least 1, got 0"),
        ({"min_distance": 0.0}, r"`min_distance` must be positive, got 0.0. Default: 2.5"),
        ({"min_distance": float("nan")}, r"`min_distance` must be positive, got nan"),
        ({"min_distance": 8.0}, r"`min_distance` = 8.0 leaves no room for ion .*lower"),
        ({"min_distance": 1e3}, r"`min_distance` = 1000.0 leaves no room for ion 2 of 128"),
        ({"box": 9.0}, r"`box` must be at least 10.0 Å.*got 9.0: make it larger"),
    ],
)
def test_generate_rejects(options, message):
    with pytest.raises(ValueError, match=message):
        generate(**{"n_frames": 1, **options})


def test_ewald_rejects():
    positions = np.array([[0.0, 0.0, 0.0], [2.5, 0.0, 0.0]])
    with pytest.raises(ValueError, match=r"`charges` must add up to zero, got 2.0"):
        ewald(positions, np.array([1.0, 1.0]), 20.0)
    with pytest.raises(ValueError, match=r"`splitting` must be at least 0.55.*got 0.3"):
        ewald(positions, np.array([1.0, -1.0]), 20.0, splitting=0.3)
