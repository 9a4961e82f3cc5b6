"""The data sets in the package: what they hold, and that their labels are the physics they claim."""

import functools
import json

import ase.io
import numpy as np
import pytest
from ase.geometry import find_mic
from scipy.interpolate import CubicSpline

from data_generation import charge_transfer, dimers, kf_water, nacl_water, smoothness, spcfw
from lesjax import datasets, io
from lesjax.datasets.point_charges import ewald
from lesjax.units import COULOMB


load = functools.cache(datasets.load)
KCAL_PER_MOL = 0.0433641043  # eV
SETS = {
    "carbon_chains": ["train", "test"],
    "charge_transfer": ["train", "test", "path"],
    "dimers": [f"{kind}_{part}" for kind in dimers.PAIRS for part in dimers.DISTANCES],
    "kf_water": ["train", "test"],
    "nacl_water": ["train", "test"],
    "silver_trimers": ["train", "test"],
}
NAMES = [f"{name}_{part}" for name, parts in SETS.items() for part in parts]
# what one rounding to 1e-4 eV/Å may leave, five standard deviations
ROUNDED_FORCE = 5 * 1e-4 / np.sqrt(12)


def test_names():
    assert datasets.names() == sorted(NAMES)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"no shipped data set 'water'\. There are: carbon_chains_test, "):
        datasets.load("water")


def test_size():
    sizes = {name: datasets.path(name).stat().st_size / 1e6 for name in NAMES}
    assert sum(size for name, size in sizes.items() if name.startswith("charge")) < 3
    assert sum(size for name, size in sizes.items() if name.startswith("kf")) < 4
    assert sum(sizes.values()) < 9


@pytest.mark.parametrize("name", SETS)
def test_provenance(name):
    provenance = json.loads((datasets.FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert provenance["seed"] >= 0
    assert provenance["versions"]
    assert provenance["command"] == f"python -m data_generation.{name}"
    assert sorted(provenance["frames"]) == sorted(n for n in NAMES if n.startswith(name))
    for part, n in provenance["frames"].items():
        assert len(load(part)) == n


@pytest.mark.parametrize("name", ["carbon_chains", "charge_transfer", "dimers", "silver_trimers"])
def test_labels_are_smooth(name):
    """The generators refuse others; the figures of each state or class are in the provenance."""
    figures = json.loads((datasets.FOLDER / f"{name}.json").read_text(encoding="utf-8"))["smoothness"]
    assert figures.pop("unit") == "meV/Å"
    assert figures.pop("what") == smoothness.WHAT
    assert len(figures) == (6 if name == "dimers" else 2)
    assert all(figure["rms"] < smoothness.LARGEST and figure["lines"] >= 20 for figure in figures.values())


@pytest.mark.parametrize("name", NAMES)
def test_labels(name):
    frames = load(name)
    for atoms in frames:
        labels = io.labels(atoms)
        assert np.isfinite(labels.energy)
        assert np.isfinite(labels.forces).all()
        np.testing.assert_allclose(labels.charges.sum(), atoms.info.get("charge", 0), atol=1e-5 * len(atoms))
        # Newton's third law; each component is rounded
        assert abs(labels.forces.sum(axis=0)).max() < ROUNDED_FORCE * np.sqrt(len(atoms)) + 1e-4
    (first,) = ase.io.read(datasets.path(name), ":1")
    np.testing.assert_array_equal(first.get_forces(), frames[0].get_forces())
    assert len({atoms.positions.tobytes() for atoms in frames}) == len(frames)


def test_charge_transfer_along_the_path():
    frames = load("charge_transfer_path")
    far_end = {}
    for formula in ("Na8Cl8", "Na9Cl8"):
        path = [atoms for atoms in frames if len(atoms) == len(charge_transfer.cluster(formula))]
        distances = np.array([atoms.info["displacement"] for atoms in path])
        energies = np.array([atoms.get_potential_energy() for atoms in path])
        # the displacement is towards -z
        slopes = np.array([atoms.get_forces()[charge_transfer.MOVED, 2] for atoms in path])
        step = distances[1] - distances[0]
        simpson = step / 3 * (slopes[:-2] + 4 * slopes[1:-1] + slopes[2:])
        residuals = abs(energies[2:] - energies[:-2] - simpson)
        assert residuals.max() < 1e-4
        # and they are smooth: a cubic spline through every other frame gives the ones between, but for the ends
        spline = CubicSpline(distances[::2], slopes[::2])
        assert abs(spline(distances[3:-3:2]) - slopes[3:-3:2]).max() < 2e-3
        chlorine = path[0].symbols == "Cl"
        z = path[0].positions[:, 2]
        far_end[formula] = path[0].get_charges()[chlorine & (z < 1.5)]
    # the hole of Na8Cl8+, made by taking an atom from one end, is seen at the other
    assert far_end["Na8Cl8"].min() > far_end["Na9Cl8"].max() + 0.1


def test_charge_transfer_sizes():
    train, test = load("charge_transfer_train"), load("charge_transfer_test")
    assert len(train) > 600
    assert len(test) > 100
    assert {len(atoms) for atoms in train} == {len(atoms) for atoms in test} == {16, 17}
    assert all(atoms.info["charge"] == 1 for atoms in train + test)


@pytest.mark.parametrize("kind", dimers.PAIRS)
def test_dimers(kind):
    train, test = load(f"dimers_{kind}_train"), load(f"dimers_{kind}_test")
    assert max(a.info["distance"] for a in train) < 9.2 < min(a.info["distance"] for a in test)
    for atoms in train + test:
        info = atoms.info
        inter = atoms.get_potential_energy() - info["energyA"] - info["energyB"]
        np.testing.assert_allclose(info["inter_energy"], inter, atol=2e-6)
        assert info["charge"] == info["chargeA"] + info["chargeB"]
        centres = [a.get_center_of_mass() for a in (atoms[: info["indexB"]], atoms[info["indexB"] :])]
        np.testing.assert_allclose(np.linalg.norm(centres[1] - centres[0]), info["distance"], atol=1e-4)
    for atoms in test:
        info = atoms.info
        # no charge has moved between the molecules
        first = atoms.get_charges()[: info["indexB"]].sum()
        np.testing.assert_allclose(first, info["chargeA"], atol=5e-3)
        # at 9.5 Å a dipole of 3 D has 0.1 eV in the field of an ion, and induction adds 0.01 eV
        coulomb = COULOMB * info["chargeA"] * info["chargeB"] / info["distance"]
        assert abs(info["inter_energy"] - coulomb) < 0.12


def reference_energy(atoms):
    """The potential energy of `data_generation.spcfw` in a cubic cell, eV, written anew in numpy."""
    edge, n = atoms.cell[0, 0], spcfw.n_waters(atoms)
    charges = spcfw.charges(atoms)
    energy, _ = ewald(atoms.positions, charges, edge)
    oxygen, first, second = (atoms.positions[i : 3 * n : 3] for i in range(3))
    for (a, qa), (b, qb) in (
        ((oxygen, -0.8476), (first, 0.4238)),
        ((oxygen, -0.8476), (second, 0.4238)),
        ((first, 0.4238), (second, 0.4238)),
    ):
        energy -= (COULOMB * qa * qb / np.linalg.norm(a - b, axis=1)).sum()
    one, two = first - oxygen, second - oxygen
    lengths = np.linalg.norm([one, two], axis=-1)
    angles = np.arccos((one * two).sum(axis=1) / lengths.prod(axis=0))
    bonded = 0.5 * 1059.162 * ((lengths - 1.012) ** 2).sum() + 0.5 * 75.9 * ((angles - np.radians(113.24)) ** 2).sum()
    heavy = ~(atoms.symbols == "H")
    parameters = np.array([spcfw.LENNARD_JONES[symbol] for symbol in atoms.symbols[heavy]])
    sigma = 2 ** (-1 / 6) * (parameters[:, None, 0] + parameters[None, :, 0])
    epsilon = np.sqrt(parameters[:, None, 1] * parameters[None, :, 1])
    i, j = np.triu_indices(heavy.sum(), 1)
    positions = atoms.positions[heavy]
    _, distances = find_mic(positions[i] - positions[j], atoms.cell, pbc=True)
    t = np.clip(distances - 5.0, 0.0, 1.0)
    power = (sigma[i, j] / distances) ** 6
    pairs = 4 * epsilon[i, j] * (power**2 - power) * (1 - 10 * t**3 + 15 * t**4 - 6 * t**5)
    return energy + KCAL_PER_MOL * (bonded + pairs.sum())


@pytest.mark.parametrize("n_pairs", kf_water.PAIRS)
def test_kf_water_energy_and_forces(n_pairs):
    frames = [a for a in load("kf_water_test") if a.info["kind"] == "bulk" and a.info["n_pairs"] == n_pairs]
    atoms = frames[-1]
    np.testing.assert_allclose(reference_energy(atoms), atoms.get_potential_energy(), rtol=0, atol=1e-4)
    step = 1e-3
    for index in (0, 1, len(atoms) - 1):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[index, 0] += sign * step
            energies.append(reference_energy(moved))
        force = (energies[1] - energies[0]) / (2 * step)
        np.testing.assert_allclose(atoms.get_forces()[index, 0], force, rtol=0, atol=5e-4)


def test_kf_water_sizes():
    frames = load("kf_water_train") + load("kf_water_test")
    assert len(frames) >= 500
    assert {(a.info["kind"], a.info["n_pairs"]) for a in frames} == {(k, n) for k in kf_water.FRAMES for n in (0, 1, 2)}
    for atoms in frames:
        concentration = 1660.54 * atoms.info["n_pairs"] / (kf_water.N_WATERS * kf_water.VOLUME_WATER)  # mol/L
        assert concentration < 2
        height = np.ptp(atoms.positions[atoms.symbols == "O", 2])
        if atoms.info["kind"] == "interface":
            assert height < 0.75 * atoms.cell[2, 2]


def test_nacl_water_is_a_crystal_in_water():
    for atoms in load("nacl_water_train") + load("nacl_water_test"):
        n = 3 * spcfw.n_waters(atoms)
        assert n == 3 * nacl_water.N_WATERS
        ions = atoms[n:]
        distances = ions.get_all_distances(mic=True)
        np.fill_diagonal(distances, np.inf)
        assert abs(np.median(distances.min(axis=1)) - nacl_water.LATTICE_CONSTANT / 2) < 0.25
