"""Neighbour arrays against ASE's list, in cells of all kinds."""

import numpy as np
import pytest
from ase.neighborlist import primitive_neighbor_list

from lesjax.neighbors.host import _pairs, _pairs_by_tree, neighbor_arrays


CUBE = np.eye(3) * 7.0
SKEWED = np.array([[6.0, 0.0, 0.0], [5.5, 3.5, 0.0], [-5.0, 4.0, 6.5]])
NOTHING = np.zeros((3, 3))
CASES = {
    "cube": (CUBE, (True, True, True), 12, 3.0),
    "skewed": (SKEWED, (True, True, True), 10, 4.0),
    "left-handed": (SKEWED[[1, 0, 2]], (True, True, True), 10, 4.0),
    "slab": (SKEWED, (True, True, False), 10, 4.0),
    "slab without third vector": (SKEWED * [[1.0], [1.0], [0.0]], (True, True, False), 10, 4.0),
    "wire": (SKEWED, (False, False, True), 10, 4.0),
    "wire without other vectors": (SKEWED * [[0.0], [1.0], [0.0]], (False, True, False), 10, 4.0),
    "cluster": (NOTHING, (False, False, False), 15, 4.0),
    "cluster in a box": (CUBE, (False, False, False), 15, 4.0),
    "cutoff longer than the cell": (SKEWED / 2, (True, True, True), 3, 9.0),
    "one atom and its images": (CUBE, (True, True, True), 1, 10.0),
    "flat cell": (np.diag([2.0, 9.0, 30.0]), (True, True, True), 8, 5.0),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_equals_ase(case, seed):
    cell, pbc, n, cutoff = CASES[case]
    rng = np.random.default_rng(seed)
    # also atoms outside the cell
    positions = rng.uniform(-0.5, 1.5, (n, 3)) @ (cell if np.linalg.det(cell) else CUBE)
    neighbors, cell_shifts, mask = neighbor_arrays(positions, cell, pbc, cutoff)
    receivers = np.nonzero(mask)[0]
    found = np.column_stack([receivers, neighbors[mask], cell_shifts[mask]])
    expected = np.column_stack(primitive_neighbor_list("ijS", pbc, cell, positions, cutoff))
    assert len(expected) > 0
    np.testing.assert_array_equal(_sorted(found), _sorted(expected))

    vectors = positions[neighbors] - positions[:, None] + cell_shifts @ cell
    assert np.all(np.linalg.norm(vectors[mask], axis=1) < cutoff)
    # a padded entry is the atom itself
    np.testing.assert_array_equal(vectors[~mask], 0.0)
    assert mask.shape[1] == mask.sum(1).max()


def test_dtypes():
    neighbors, cell_shifts, mask = neighbor_arrays(np.zeros((1, 3)), CUBE, (True, True, True), 8.0)
    assert (neighbors.dtype, cell_shifts.dtype, mask.dtype) == (np.int32, np.int32, bool)


def test_positions_and_cell_may_differ_in_dtype():
    positions = np.array([[0.5, 0.0, 0.0], [6.5, 0.0, 0.0]])
    expected = neighbor_arrays(positions, CUBE, (True,) * 3, 2.0)
    for found, array in zip(
        neighbor_arrays(positions.astype(np.float32), CUBE, (True,) * 3, 2.0), expected, strict=True
    ):
        np.testing.assert_array_equal(found, array)


def test_capacity_is_the_width():
    positions = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    neighbors, cell_shifts, mask = neighbor_arrays(positions, NOTHING, (False,) * 3, 2.0, capacity=4)
    np.testing.assert_array_equal(neighbors, [[1, 0, 0, 0], [0, 1, 1, 1]])
    np.testing.assert_array_equal(mask, [[True, False, False, False]] * 2)
    assert cell_shifts.shape == (2, 4, 3)


def test_atom_without_neighbours_has_one_padded_entry():
    neighbors, _, mask = neighbor_arrays(np.zeros((1, 3)), NOTHING, (False,) * 3, 2.0)
    assert neighbors.shape == (1, 1)
    assert not mask.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cutoff": 0.0}, r"`cutoff` must be positive, got 0\.0"),
        ({"cutoff": float("nan")}, r"`cutoff` must be positive, got nan"),
        ({"capacity": 3}, r"`capacity` = 3 is too small: an atom has 6 neighbours within 8\.0 Å"),
        ({"positions": np.zeros((0, 3))}, r"`positions` is empty"),
        ({"positions": np.array([[0.0, 0.0, 0.0], [0.0, np.nan, 1.0]])}, r"`positions` of atom 1 are not finite"),
        ({"positions": np.array([[0.0, np.inf, 0.0]])}, r"`positions` of atom 0 are not finite"),
        ({"cell": NOTHING}, r"`cell` is singular .*set pbc to False for a cluster"),
        ({"cell": CUBE[[0, 1, 1]]}, r"`cell` is singular"),
        ({"cell": CUBE * np.nan}, r"`cell` is singular"),
        ({"cell": CUBE * [[1.0], [1.0], [0.0]], "pbc": (True, False, True)}, r"directions \(True, False, True\)"),
    ],
)
def test_errors(change, message):
    arguments = {"positions": np.zeros((1, 3)), "cell": CUBE, "pbc": (True,) * 3, "cutoff": 8.0, **change}
    with pytest.raises(ValueError, match=message):
        neighbor_arrays(**arguments)


def _sorted(rows):
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize(
    ("cell", "pbc", "far"),
    [
        (np.diag([1500.0, 1500.0, 5.0]), (True, True, False), 0.0),
        (SKEWED * 1e3, (True, True, False), 0.0),
        (np.diag([1500.0, 1500.0, 5.0]), (True, True, True), 0.0),
        (np.diag([6.0, 6.0, 0.0]), (True, True, False), 3e5),
        (NOTHING, (False, False, False), 9e5),
    ],
)
def test_large_cells_and_thin_ones(cell, pbc, far):
    """vesin 0.6 ends the process in some of them, or never ends; an atom far away changes nothing."""
    positions = np.array([[0.1, 0.0, 0.0], [2.9, 1.0, 0.1], [2.2, 0.3, 2.4], [0.0, 0.0, far]])
    n = 4 if far else 3
    found = neighbor_arrays(positions[:n], cell, pbc, 3.6)
    expected = neighbor_arrays(positions[:3], np.where(cell > 100.0, 40.0, cell), pbc, 3.6)
    for i in range(3):  # in any order
        rows = [np.column_stack([senders[i], shifts[i]])[mask[i]] for senders, shifts, mask in (found, expected)]
        np.testing.assert_array_equal(_sorted(rows[0]), _sorted(rows[1]))
    assert expected[2].sum() > 0


@pytest.mark.parametrize(("seed", "cutoff"), [(0, 4.0), (1, 9.0)])
def test_pairs_of_a_tree(seed, cutoff):
    positions = np.random.default_rng(seed).normal(size=(6, 3)) * 9.0
    for found, wanted in zip(
        _pairs_by_tree(positions, SKEWED, cutoff), _pairs(positions, SKEWED, (True,) * 3, cutoff), strict=True
    ):
        # pairs of the same atoms may stand in another order
        np.testing.assert_allclose(np.sort(found, axis=0), np.sort(wanted, axis=0), rtol=0, atol=1e-12)


def test_atoms_that_are_too_close():
    for distance, message in ((0.0, "of atoms 0 and 1 are the same"), (0.05, r"are 0\.05 Å apart, less than 0\.1 Å")):
        with pytest.raises(ValueError, match=message):
            neighbor_arrays(np.array([[1.0, 1, 1], [1.0, 1, 1 + distance]]), CUBE, (True,) * 3, 3.0)
    with pytest.raises(ValueError, match=r"of atom 0 and its image are 0\.05 Å apart"):
        neighbor_arrays(np.array([[1.0, 1, 1]]), np.diag([7.0, 7.0, 0.05]), (True,) * 3, 3.0)
