"""`System`: built from ASE's atoms, padded, and the vectors to the neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

from lesjax.system import System, check_ghosts


DEFAULT = "float64" if jax.config.jax_enable_x64 else "float32"
RTOL = 1e-12 if jax.config.jax_enable_x64 else 1e-5


@pytest.fixture
def crystal():
    atoms = bulk("ZnS", "zincblende", a=5.4)
    atoms.rattle(0.1, seed=0)
    return atoms


def test_from_ase(crystal):
    system = System.from_ase(crystal, cutoff=5.0)
    assert system.pbc == (True, True, True)
    assert system.positions.dtype == system.cell.dtype == DEFAULT
    assert system.shape == system.neighbors.shape
    np.testing.assert_allclose(system.positions, crystal.positions, rtol=RTOL)
    np.testing.assert_allclose(system.cell, crystal.cell[:], rtol=RTOL)
    np.testing.assert_array_equal(system.atomic_numbers, [30, 16])
    assert system.atomic_numbers.dtype == np.int32
    assert system.atom_mask.all()


def test_vectors_equal_ase(crystal):
    system = System.from_ase(crystal, cutoff=5.0)
    receivers, vectors = neighbor_list("iD", crystal, 5.0)
    found = np.asarray(system.neighborhood().vectors)
    assert found.dtype == DEFAULT
    rows = np.column_stack([np.nonzero(system.neighbor_mask)[0], found[system.neighbor_mask]])
    expected = np.column_stack([receivers, vectors])
    order = [np.lexsort(np.round(x, 4).T) for x in (rows, expected)]
    np.testing.assert_allclose(rows[order[0]], expected[order[1]], rtol=0, atol=10 * RTOL)
    np.testing.assert_array_equal(found[~system.neighbor_mask], 0.0)


def test_pbc_overrides(crystal):
    system = System.from_ase(crystal, cutoff=5.0, pbc=False)
    assert system.pbc == (False, False, False)
    assert system.neighbor_mask.sum() == 2
    assert System.from_ase(crystal, cutoff=5.0, pbc=(True, False, True)).pbc == (True, False, True)


def test_molecule_has_no_cell():
    system = System.from_ase(molecule("CH4"), cutoff=2.0)
    np.testing.assert_array_equal(system.cell, 0.0)
    assert system.shape == (5, 4)


def test_padding(crystal):
    system = System.from_ase(crystal, cutoff=4.0)
    n, m = system.shape
    padded = system.pad_to(n + 3, m + 2)
    assert padded.shape == (n + 3, m + 2)
    np.testing.assert_array_equal(padded.atom_mask, [True] * n + [False] * 3)
    np.testing.assert_array_equal(padded.atomic_numbers[n:], 0)
    assert padded.neighbor_mask.sum() == system.neighbor_mask.sum()
    # padded entries join an atom with itself
    rows, _ = np.nonzero(~padded.neighbor_mask)
    np.testing.assert_array_equal(padded.neighbors[~padded.neighbor_mask], rows)
    np.testing.assert_array_equal(padded.neighborhood().vectors[~padded.neighbor_mask], 0.0)
    np.testing.assert_array_equal(padded.neighborhood().vectors[:n, :m], system.neighborhood().vectors)
    assert {a.dtype for a in jax.tree.leaves(padded)} == {a.dtype for a in jax.tree.leaves(system)}
    assert system.pad_to(n, m).shape == (n, m)


@pytest.mark.parametrize(("fewer_atoms", "fewer_neighbors"), [(1, 0), (0, 1)])
def test_padding_to_less_is_refused(crystal, fewer_atoms, fewer_neighbors):
    system = System.from_ase(crystal, cutoff=4.0)
    n, m = system.shape
    with pytest.raises(ValueError, match=rf"{n} atoms and {m} neighbours does not fit into"):
        system.pad_to(n - fewer_atoms, m - fewer_neighbors)


def test_stacks_and_maps(crystal):
    systems = [System.from_ase(crystal, cutoff=cutoff).pad_to(4, 60) for cutoff in (4.0, 5.0)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *systems)
    assert stacked.shape == (4, 60)
    mapped = jax.vmap(lambda system: system.neighborhood().vectors)(stacked)
    for i, system in enumerate(systems):
        np.testing.assert_allclose(mapped[i], system.neighborhood().vectors, rtol=0, atol=RTOL)


def test_is_an_argument_of_jit(crystal):
    traces = 0

    @jax.jit
    def counted(system):
        nonlocal traces
        traces += 1
        return jnp.sum(system.neighborhood().vectors ** 2)

    system = System.from_ase(crystal, cutoff=4.0)
    first = counted(system)
    crystal.rattle(0.01, seed=1)
    # the same shape and periodicity: compiled once
    assert counted(System.from_ase(crystal, cutoff=4.0).pad_to(*system.shape)) != first
    assert traces == 1


def test_arrays_of_any_kind(crystal):
    """The periodicity is static: it has to be hashable, wherever it comes from."""
    expected = System.from_ase(crystal, cutoff=4.0)
    for pbc in (crystal.pbc, [True, True, True], (1, 1, 1), True):
        numbers, cell = crystal.numbers.tolist(), crystal.cell.array.tolist()
        system = System.from_arrays(crystal.positions.tolist(), cell, numbers, pbc, cutoff=4.0)
        assert (system.pbc, hash(system.pbc)) == (expected.pbc, hash(expected.pbc))
        for a, b in zip(jax.tree.leaves(system), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"`atomic_numbers` must have the shapes .* \(3, 3\) and \(1,\)"):
        System.from_arrays(crystal.positions, crystal.cell.array, [8], True, cutoff=4.0)


def test_electronic_state_that_is_not_given(crystal):
    crystal.info |= {"charge": None, "total_charge": 1}
    assert float(System.from_ase(crystal, cutoff=4.0).total_charge) == 1.0
    crystal.info["total_charge"] = None
    assert np.isnan(System.from_ase(crystal, cutoff=4.0).total_charge)
    crystal.info["spin"] = "restricted"  # a file may say so to models that do not ask
    assert np.isnan(System.from_ase(crystal, cutoff=4.0).spin_multiplicity)


def test_negative_atomic_number(crystal):
    numbers = [30, -16]
    with pytest.raises(ValueError, match=r"Atom 1 has the atomic number -16; elements have 1 to 118"):
        System.from_arrays(crystal.positions, crystal.cell.array, numbers, True, cutoff=3.0)


def test_ghost_atom(crystal):
    """Number 0 is for padding, which systems that were made here may have."""
    padded = System.from_ase(crystal, cutoff=4.0).pad_to(9, 60)
    check_ghosts(padded.atomic_numbers, padded.atom_mask)
    crystal.symbols[1] = "X"
    with pytest.raises(ValueError, match=r"^Atom 1 is a ghost atom \(symbol X, atomic number 0\)"):
        System.from_ase(crystal, cutoff=4.0)
    with pytest.raises(ValueError, match=r"^a\.xyz: Atom 1, 0 is a ghost"):
        check_ghosts(np.array([[1], [0]]), where="a.xyz: ")


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms("H3", [[0, 0, 0], [1, 0, 0], [0, 0, 0]]), r"`positions` of atoms 0 and 2 are the same"),
        (Atoms(), r"`positions` is empty: a system needs at least one atom"),
        (Atoms("H2", [[0, 0, 0], [0, 0, np.nan]]), r"`positions` of atom 1 are not finite: \[0\.0, 0\.0, nan\]"),
        (Atoms("H", pbc=True), r"`cell` is singular .*set pbc to False for a cluster"),
        (Atoms("H", cell=[3, 3, 0], pbc=True), r"`cell` is singular"),
    ],
)
def test_errors(atoms, message):
    with pytest.raises(ValueError, match=message):
        System.from_ase(atoms, cutoff=4.0)


@pytest.mark.parametrize("name", ["lattice", "Cell", "simulation_box"])
def test_cell_among_the_entries(name):
    """As ase reads a comment line with such a key: a crystal would become a cluster."""
    atoms = Atoms("NaCl", [[0, 0, 0], [2.8, 0, 0]], info={name: np.eye(3).ravel() * 5.6})
    with pytest.raises(ValueError, match=f"it has no cell, but an entry `{name}`"):
        System.from_ase(atoms, cutoff=3.0)
    atoms.set_cell([5.6] * 3)
    assert System.from_ase(atoms, cutoff=3.0).pbc == (False,) * 3
