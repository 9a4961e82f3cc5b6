"""Neighbour lists under jit against vesin's, in cells of all kinds, and while atoms and cell move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import System
from lesjax.neighbors.host import neighbor_arrays
from lesjax.neighbors.plan import grown
from lesjax.neighbors.verlet import allocate, compact, update, within_cutoff


CUBE = np.eye(3) * 7.0
SKEWED = np.array([[6.0, 0.0, 0.0], [5.5, 3.5, 0.0], [-5.0, 4.0, 6.5]])
ALL, NONE = (True, True, True), (False, False, False)
CASES = {
    "cube": (CUBE, ALL, 12, 3.0),
    "skewed": (SKEWED, ALL, 10, 4.0),
    "left-handed": (SKEWED[[1, 0, 2]], ALL, 10, 4.0),
    "large": (3.0 * CUBE, ALL, 30, 3.0),
    "slab": (SKEWED, (True, True, False), 10, 4.0),
    "slab without third vector": (SKEWED * [[1.0], [1.0], [0.0]], (True, True, False), 10, 4.0),
    "wire": (SKEWED * [[0.0], [1.0], [0.0]], (False, True, False), 10, 4.0),
    "cluster": (np.zeros((3, 3)), NONE, 15, 4.0),
    "cutoff longer than the cell": (SKEWED / 2, ALL, 3, 9.0),
    "one atom and its images": (CUBE, ALL, 1, 10.0),
}
X64 = jax.config.jax_enable_x64
jitted = jax.jit(update)


def make(case, seed=0):
    cell, pbc, n, cutoff = CASES[case]
    scale = cell if np.linalg.det(cell) else CUBE
    positions = np.random.default_rng(seed).uniform(-0.7, 1.7, (n, 3)) @ scale
    return positions, cell, pbc, cutoff


def make_template(n, pbc):
    """A system of `n` atoms whose neighbours are yet to come."""
    system = System.from_arrays(9.0 * np.arange(3 * n).reshape(n, 3), 1e3 * np.eye(3), np.ones(n, int), pbc, cutoff=0.1)
    return jax.device_put(system)


@jax.jit
def pair_vectors(neighbors, positions, cell):
    system = within_cutoff(neighbors, make_template(len(positions), neighbors.plan.pbc), positions, cell)
    translations = system.cell_shifts.astype(positions.dtype) @ system.cell
    vectors = system.positions[system.neighbors] - system.positions[:, None] + translations
    return vectors, system.neighbors, system.neighbor_mask


def assert_complete(neighbors, positions, cell, pbc, cutoff):
    """The same pairs at the same vectors as vesin's."""
    vectors, senders, mask = map(np.asarray, pair_vectors(neighbors, jnp.asarray(positions), jnp.asarray(cell)))
    found = np.column_stack([np.nonzero(mask)[0], senders[mask], vectors[mask]])
    other, shifts, real = neighbor_arrays(positions, cell, pbc, cutoff)
    expected = positions[other] - positions[:, None] + shifts @ cell
    expected = np.column_stack([np.nonzero(real)[0], other[real], expected[real]])
    assert len(found) == len(expected)
    key = lambda rows: rows[np.lexsort(np.round(rows, 3 if X64 else 2).T)]  # noqa: E731
    np.testing.assert_allclose(key(found), key(expected), atol=1e-9 if X64 else 2e-4)
    # a padded entry is the atom itself at shift zero
    np.testing.assert_array_equal(vectors[~mask], 0.0)
    return len(expected)


@pytest.mark.parametrize("bins", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_equals_vesin(case, bins):
    positions, cell, pbc, cutoff = make(case)
    neighbors = allocate(positions, cell, pbc, cutoff=cutoff, skin=0.3, bins=bins)
    assert (neighbors.plan.bins is not None) == bins
    assert not neighbors.overflow
    assert not neighbors.cell_too_small
    assert assert_complete(neighbors, positions, cell, pbc, cutoff) > 0


@pytest.mark.parametrize("bins", [False, True])
@pytest.mark.parametrize("case", ["skewed", "slab", "cutoff longer than the cell"])
def test_follows_atoms_and_cell(case, bins):
    """A random walk through the cell walls while the cell strains; atoms are put back now and then."""
    positions, cell, pbc, cutoff = make(case)
    rng = np.random.default_rng(1)
    neighbors = allocate(positions, cell, pbc, cutoff=cutoff, skin=0.6, bins=bins)
    rebuilt = 0
    for step in range(12):
        strain = np.eye(3) + 0.002 * np.diag(np.sin(np.arange(3) + step))
        positions = positions @ strain + 0.05 * rng.normal(size=positions.shape)
        cell = cell @ strain
        if step % 4 == 3:
            cells = np.floor(positions @ np.linalg.inv(cell)) * np.array(pbc)
            positions = positions - cells @ cell
        before = neighbors
        neighbors = jitted(neighbors, jnp.asarray(positions), jnp.asarray(cell))
        while neighbors.overflow or neighbors.cell_too_small:
            neighbors = allocate(positions, cell, pbc, cutoff=cutoff, skin=0.6, bins=bins, at_least=grown(before.plan))
        rebuilt += not np.array_equal(before.reference, neighbors.reference)
        assert_complete(neighbors, positions, cell, pbc, cutoff)
    assert 1 < rebuilt < 12


def test_list_is_kept_while_it_holds():
    positions, cell, pbc, cutoff = make("cube")
    neighbors = allocate(positions, cell, pbc, cutoff=cutoff, skin=1.0)
    near = jitted(neighbors, jnp.asarray(positions + np.array([0.1, 0.0, 0.0])), jnp.asarray(cell))
    np.testing.assert_array_equal(near.reference, neighbors.reference)
    assert near.used == pytest.approx(0.2, rel=1e-4)
    # 0.6 is used up, and as much again and a half would exceed the skin
    far = jitted(near, jnp.asarray(positions + np.array([0.3, 0.0, 0.0])), jnp.asarray(cell))
    assert far.used == 0.0
    squeezed = jitted(neighbors, jnp.asarray(0.7 * positions), jnp.asarray(0.7 * cell))
    assert squeezed.used == 0.0


def test_overflow_is_flagged_and_grows():
    positions, cell, pbc, cutoff = make("cube")
    neighbors = allocate(positions, cell, pbc, cutoff=cutoff, skin=0.3)
    dense = jnp.asarray(0.1 * positions)
    crowded = jitted(neighbors, dense, jnp.asarray(cell))
    assert crowded.overflow
    # it stays, although the next configuration has room
    assert jitted(crowded, jnp.asarray(positions), jnp.asarray(cell)).overflow
    larger = allocate(np.asarray(dense), cell, pbc, cutoff=cutoff, skin=0.3, at_least=neighbors.plan)
    assert larger.plan.capacity > neighbors.plan.capacity
    assert not larger.overflow
    assert_complete(larger, np.asarray(dense, float), cell, pbc, cutoff)


def test_overflow_within_the_cutoff_alone():
    """The pairs were there within the skin already, and then came closer without a new list."""
    ring = 3.1 * np.array([[np.cos(a), np.sin(a), 0.0] for a in np.arange(7) * 2 * np.pi / 7])
    positions = np.concatenate([np.zeros((1, 3)), ring])
    neighbors = allocate(positions, np.zeros((3, 3)), NONE, cutoff=3.0, skin=0.9)
    assert neighbors.plan.capacity < 7
    closer = jitted(neighbors, jnp.asarray(positions * 0.95), jnp.zeros((3, 3)))
    np.testing.assert_array_equal(closer.reference, neighbors.reference)
    assert closer.overflow
    # and nothing is computed without the neighbours that are missing, derivatives included
    system = make_template(8, NONE)

    @jax.jit
    @jax.grad
    def gradient(positions):
        return jnp.sum(within_cutoff(neighbors, system, positions, jnp.zeros((3, 3))).positions ** 2)

    assert jnp.isfinite(gradient(jnp.asarray(positions))).all()
    assert jnp.isnan(gradient(jnp.asarray(positions * 0.95))).all()


def test_bins_overflow_and_cell_too_small():
    positions, cell, pbc, cutoff = make("large")
    neighbors = allocate(positions, cell, pbc, cutoff=cutoff, skin=0.3, bins=True)
    assert neighbors.plan.bins == (5, 5, 5)
    assert jitted(neighbors, jnp.zeros_like(neighbors.reference), jnp.asarray(cell)).overflow
    for bins in (True, False):
        neighbors = allocate(positions, cell, pbc, cutoff=cutoff, skin=0.3, bins=bins)
        small = jitted(neighbors, jnp.asarray(positions / 4), jnp.asarray(cell / 4))
        assert small.cell_too_small
        renewed = allocate(positions / 4, cell / 4, pbc, cutoff=cutoff, skin=0.3, bins=bins)
        assert_complete(renewed, positions / 4, cell / 4, pbc, cutoff)


def test_vmap():
    positions, cell, pbc, cutoff = make("skewed")
    neighbors = allocate(positions, cell, pbc, cutoff=cutoff, skin=0.3)
    moved = np.stack(
        [positions, positions + 0.02, positions + 0.1 * np.random.default_rng(2).normal(size=positions.shape)]
    )
    many = jax.jit(jax.vmap(update, (None, 0, None)))(neighbors, jnp.asarray(moved), jnp.asarray(cell))
    assert not many.overflow.any()
    for i, place in enumerate(moved):
        assert_complete(jax.tree.map(lambda x, i=i: x[i], many), place, cell, pbc, cutoff)


def test_compiles_once_and_keeps_the_dtype():
    positions, cell, pbc, cutoff = make("cube")
    neighbors = allocate(jnp.asarray(positions, jnp.float32), cell, pbc, cutoff=cutoff)
    assert neighbors.reference.dtype == jnp.float32
    step = jax.jit(lambda *arguments: update(*arguments))
    for shift in (0.0, 0.2, 2.0):
        neighbors = step(neighbors, jnp.asarray(positions + shift, jnp.float32), jnp.asarray(cell, jnp.float32))
    assert step._cache_size() == 1


def test_compact():
    mask = jnp.asarray([[False, True, True, False, True], [False] * 5, [True, False, False, False, False]])
    columns, there = compact(mask, 2)
    np.testing.assert_array_equal(there, [[True, True], [False, False], [True, False]])
    np.testing.assert_array_equal(columns[there], [1, 2, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"skin": -0.1}, r"`skin` must not be negative, got -0\.1"),
        ({"cutoff": 0.0, "skin": 0.0}, r"`cutoff` must be positive"),
        ({"cell": np.zeros((3, 3))}, r"`cell` is singular"),
        ({"positions": np.full((1, 3), np.nan)}, r"`positions` of atom 0 are not finite"),
        (
            {"cell": np.diag([9.0, 9.0, 0.12]), "cutoff": 16.0},
            r"`cutoff` = 16\.0 reaches over \d+ cells\. Repeat the cell",
        ),
    ],
)
def test_errors(change, message):
    arguments = {"positions": np.zeros((1, 3)), "cell": CUBE, "pbc": ALL, "cutoff": 3.0, **change}
    with pytest.raises(ValueError, match=message):
        allocate(**arguments)


def test_real_structure(shared_path):
    from lesjax import io

    water = io.read(shared_path("data/water/rpbe_d3_40.xyz"))[0].repeat((2, 1, 1))
    arrays = water.positions, water.cell.array, ALL
    for bins in (False, True):
        assert_complete(allocate(*arrays, cutoff=4.5, bins=bins), *arrays, 4.5)
