"""ASE's interface: derivatives against finite differences of its energy, few compilations, smoothness."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from lesjax.dynamics import LesCalculator
from lesjax.models import CACEConfig, LatentCharges, LongRangeConfig, ModelConfig, Potential, potential as module
from lesjax.system import System
from toy import CELL, make_frame, make_frames


X64 = jax.config.jax_enable_x64
needs_x64 = pytest.mark.skipif(not X64, reason="finite differences")

CONFIG = ModelConfig(
    CACEConfig(elements=(11, 17), cutoff=3.6, n_bessel=3, n_radial=2, n_embedding=1, max_l=1, max_nu=2),
    LongRangeConfig(LatentCharges(hidden=(4,), n_channels=2, scale=0.5), k_cutoff=2.6),
    hidden=(4,),
    reference_energies=(-500.0, -700.0),
)


@pytest.fixture(scope="module")
def potential():
    created = Potential.create(CONFIG, seed=4)
    rng = np.random.default_rng(0)
    move = lambda p: jnp.asarray(p + 0.2 * rng.normal(size=p.shape), p.dtype)  # noqa: E731
    return dataclasses.replace(created, params=jax.tree.map(move, created.params))


@pytest.fixture
def atoms(potential):
    frame = make_frames(1, seed=3)[0]
    frame.calc = LesCalculator(potential)
    return frame


def test_results(atoms, potential):
    assert atoms.get_potential_energy() == pytest.approx(-2400.0, abs=50.0)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert atoms.get_forces().shape == (4, 3)
    assert atoms.get_forces().dtype == np.float64
    assert atoms.get_stress().shape == (6,)
    assert atoms.get_charges().shape == (4,)
    on_request = {"dipole", "born_effective_charges", "energies"}
    assert set(atoms.calc.results) == set(LesCalculator.implemented_properties) - on_request


def test_born_effective_charges_on_request(atoms, potential):
    atoms.calc.epsilon_infinity = 4.0
    born = atoms.calc.get_property("born_effective_charges", atoms)
    system = System.from_ase(atoms, cutoff=potential.cutoff)
    expected = 2.0 * np.asarray(potential.born_effective_charges(system))
    np.testing.assert_allclose(born, expected, atol=1e-10 if X64 else 1e-5)
    assert np.abs(born).max() > 1e-3
    assert "forces" in atoms.calc.results
    atoms.calc.epsilon_infinity = 1.0
    np.testing.assert_allclose(atoms.calc.get_property("born_effective_charges", atoms), born / 2.0, rtol=1e-5)
    periodic = atoms.get_potential_energy()
    atoms.calc.pbc = False
    assert abs(atoms.get_potential_energy() - periodic) > 1e-3


@needs_x64
def test_dipole_of_a_molecule(atoms):
    """It is a sum over latent charges, and its derivative the Born effective charges."""
    atoms.set_pbc(False)
    born = atoms.calc.get_property("born_effective_charges", atoms)
    ends = []
    for step in (1e-4, -1e-4):
        moved = atoms.copy()
        moved.calc = atoms.calc
        moved.positions[1, 2] += step
        # Z* is about the mean charge, so that it does not depend on the origin
        ends.append(moved.get_dipole_moment() - moved.get_charges().mean() * moved.positions.sum(axis=0))
    np.testing.assert_allclose((ends[0] - ends[1]) / 2e-4, born[1, :, 2], atol=1e-6)
    atoms.set_pbc(True)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_dipole_moment()


def test_changing_number_of_atoms_compiles_rarely(potential):
    """Atoms are inserted and removed; results are those of a calculator of their own."""
    atoms = make_frame(np.random.default_rng(3), repeats=2)
    calculator = LesCalculator(potential)
    rows = set()
    for n in (6, 7, 8, 7, 6, 8):
        part = atoms[:n]
        part.calc = calculator
        forces, charges = part.get_forces(), part.get_charges()
        assert (forces.shape, charges.shape) == ((n, 3), (n,))
        rows.add((calculator._rows, calculator._capacity))
    fresh = atoms[:8]
    fresh.calc = LesCalculator(potential)
    np.testing.assert_allclose(forces, fresh.get_forces(), atol=1e-10 if X64 else 1e-4)
    assert {row for row, _ in rows} == {6, 8}
    few = atoms[:3]
    few.calc = calculator
    assert few.get_forces().shape == (3, 3)
    assert calculator._rows == 4


@needs_x64
def test_forces_are_the_gradient_of_the_energy(atoms):
    expected = calculate_numerical_forces(atoms, eps=1e-4)
    np.testing.assert_allclose(atoms.get_forces(), expected, atol=1e-6)
    assert np.abs(expected).max() > 1e-2


@needs_x64
def test_stress_is_the_strain_derivative_of_the_energy(atoms):
    expected = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), expected, atol=1e-7)
    assert np.abs(expected).min() > 1e-5


def test_few_compilations_while_atoms_move(potential):
    """Neighbours come and go; the arrays are wide enough, or become so once."""
    atoms = make_frames(1, seed=3)[0]
    atoms.calc = LesCalculator(potential)
    rng = np.random.default_rng(1)
    before = module._predict._cache_size()
    widths = set()
    for _ in range(30):
        atoms.positions += 0.1 * rng.normal(size=(4, 3))
        atoms.get_forces()
        widths.add(atoms.calc._capacity)
    assert len(widths) <= 2
    assert module._predict._cache_size() - before <= 2


def strained(atoms, strain):
    changed = atoms.copy()
    changed.set_cell(CELL @ (np.eye(3) + strain * np.ones((3, 3))), scale_atoms=True)
    return changed


def test_energy_is_continuous_where_the_k_vectors_change(atoms):
    """A plan of its own for each cell jumps where a k-vector enters the sphere; the calculator keeps the plan."""
    forgetful = LesCalculator(atoms.calc.potential)
    energies, planned_anew = [], []
    atoms.get_potential_energy()
    for strain in np.linspace(-0.008, 0.008, 61):
        changed = strained(atoms, strain)
        energies.append(atoms.calc.get_potential_energy(changed))
        forgetful._plan = None
        planned_anew.append(forgetful.get_potential_energy(changed))

    def roughness(values):
        return np.abs(np.diff(values, 3)).max()

    assert roughness(energies) < (1e-6 if X64 else 1e-3)
    assert roughness(planned_anew) > (1e-3 if X64 else 2e-3)


def test_plan_is_made_anew_for_another_cell(atoms):
    calculator = atoms.calc
    atoms.get_potential_energy()
    first = calculator._plan[1]
    for strain, kept in ((0.005, True), (0.1, False)):
        changed = strained(atoms, strain)
        changed.calc = calculator
        changed.get_potential_energy()
        assert (calculator._plan[1] is first) == kept


def test_order_of_calculations_has_no_effect_on_another_cell(atoms, potential):
    """A large strain and back gives the energy of a fresh calculator."""
    expected = atoms.get_potential_energy()
    large = strained(atoms, 0.2)
    large.calc = atoms.calc
    large.get_potential_energy()
    again = atoms.copy()
    again.calc = atoms.calc
    assert again.get_potential_energy() == pytest.approx(expected, abs=1e-9 if X64 else 1e-4)


def test_supercell_has_twice_the_energy(atoms):
    double = atoms.repeat((2, 1, 1))
    double.calc = LesCalculator(atoms.calc.potential)
    tolerance = 1e-8 if X64 else 1e-3
    assert double.get_potential_energy() == pytest.approx(2.0 * atoms.get_potential_energy(), abs=tolerance)
    np.testing.assert_allclose(double.get_forces(), np.tile(atoms.get_forces(), (2, 1)), atol=tolerance)
    np.testing.assert_allclose(double.get_stress(), atoms.get_stress(), atol=tolerance)
    np.testing.assert_allclose(double.get_charges(), np.tile(atoms.get_charges(), 2), atol=tolerance)


def test_cluster_has_no_stress(potential):
    atoms = make_frame(np.random.default_rng(0), pbc=False)
    atoms.calc = LesCalculator(potential)
    assert np.isfinite(atoms.get_potential_energy())
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()
    atoms.set_pbc(True)
    atoms.calc = LesCalculator(potential, pbc=False)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_short_range_potential_takes_a_slab():
    atoms = make_frame(np.random.default_rng(0), pbc=False)
    atoms.pbc, atoms.cell[2] = (True, True, False), 0.0
    atoms.calc = LesCalculator(Potential.create(dataclasses.replace(CONFIG, long_range=None)))
    first = atoms.get_potential_energy()
    atoms.positions += [0.0, 0.0, 1.0]
    assert atoms.get_potential_energy() == pytest.approx(first, rel=1e-6)
    assert "charges" not in atoms.calc.results


def test_slab(potential):
    atoms = make_frame(np.random.default_rng(0), pbc=False)
    atoms.pbc, atoms.cell[2] = (True, True, False), [0.0, 0.0, 9.0]
    atoms.calc = LesCalculator(potential)
    if X64:
        np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)
    first = atoms.get_potential_energy()
    atoms.positions += [0.0, 0.0, 30.0]
    assert atoms.get_potential_energy() == pytest.approx(first, rel=1e-6)
    # also while the plan is kept
    atoms.positions[0] += [0.0, 0.0, 30.0]
    with pytest.raises(ValueError, match=r"`positions` extend over .* more than the height 9 Å of the cell\. Unwrap"):
        atoms.get_potential_energy()


def test_unknown_element(atoms):
    atoms.symbols[0] = "K"
    with pytest.raises(ValueError, match=r"contains K, but the model knows only Na, Cl\."):
        atoms.get_potential_energy()


def test_no_atoms(potential):
    with pytest.raises(ValueError, match="`atoms` is needed"):
        LesCalculator(potential).calculate()


def test_total_charge_is_followed(potential):
    """ASE does not compare `info`, and would hand out the results for the charge before."""
    charges = dataclasses.replace(CONFIG.long_range.charges, constraint="total")
    long_range = dataclasses.replace(CONFIG.long_range, charges=charges)
    held = dataclasses.replace(potential, config=dataclasses.replace(CONFIG, long_range=long_range))
    atoms = make_frames(1, seed=3)[0]
    atoms.calc = LesCalculator(held)
    with pytest.raises(ValueError, match=r"`total_charge` \(in e\) is needed by this model.*atoms\.info\['charge'\]"):
        atoms.get_potential_energy()
    for charge in (1, 0):
        atoms.info["charge"] = charge
        np.testing.assert_allclose(atoms.get_charges().sum(), charge, rtol=0, atol=1e-12 if X64 else 1e-5)
