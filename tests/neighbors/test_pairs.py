"""Unique pairs: both finders, their slots, values for both directions, capacities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from lesjax import System
from lesjax.neighbors.batching import stack_systems
from lesjax.neighbors.pairs import find_unique_pairs, n_pairs, unique_pairs
from lesjax.neighbors.verlet import allocate, update, within_cutoff
from lesjax.numerics import safe_norm


X64 = jax.config.jax_enable_x64


def molecule(n=7, seed=0):
    return Atoms(f"H{n}", np.random.default_rng(seed).uniform(0, 4, (n, 3)))


STRUCTURES = {
    # one atom whose neighbours are all images of itself; a skewed cell; a slab; no neighbour at all
    "images of one atom": (bulk("Cu"), 4.0),
    "skewed": (Atoms("NaCl", [[0, 0, 0], [1, 2, 0.5]], cell=[[3, 0, 0], [1.3, 3, 0], [-1, 0.5, 3.5]], pbc=True), 5.0),
    "slab": (Atoms("CO", [[0, 0, 0], [1, 1, 1]], cell=[3, 3, 9], pbc=(True, True, False)), 4.0),
    "molecule": (molecule(), 2.5),
    "alone": (Atoms("H"), 3.0),
}


def arrays(system):
    return tuple(np.asarray(x) for x in (system.neighbors, system.cell_shifts, system.neighbor_mask))


@pytest.mark.parametrize("name", STRUCTURES)
def test_each_pair_once_with_opposite_vectors(name):
    atoms, cutoff = STRUCTURES[name]
    system = System.from_ase(atoms, cutoff=cutoff)
    real = system.pairs[system.pairs[:, 0] != system.pairs[:, 1]]
    assert np.array_equal(np.sort(real.reshape(-1)), np.flatnonzero(system.neighbor_mask))
    vectors = np.asarray(system.neighborhood().vectors).reshape(-1, 3)
    np.testing.assert_array_equal(vectors[real[:, 0]], -vectors[real[:, 1]])
    senders = system.neighbors.reshape(-1)
    np.testing.assert_array_equal(senders[real[:, 0]], real[:, 1] // system.shape[1])


@pytest.mark.parametrize("name", STRUCTURES)
def test_compiled_finder_agrees(name):
    atoms, cutoff = STRUCTURES[name]
    system = System.from_ase(atoms, cutoff=cutoff)
    n, m = system.shape
    padded = system.pad_to(n + 2, m + 3)
    pairs = jax.jit(find_unique_pairs, static_argnums=3)(*arrays(padded), len(padded.pairs))
    assert {tuple(pair) for pair in np.asarray(pairs).tolist()} == {tuple(pair) for pair in padded.pairs.tolist()}
    assert int(n_pairs(jnp.asarray(padded.neighbor_mask))) == len(unique_pairs(*arrays(system))) - (name == "alone")
    without = dataclasses.replace(padded, pairs=None).neighborhood().pairs
    np.testing.assert_array_equal(np.sort(without, axis=0), np.sort(np.asarray(pairs), axis=0))


def test_values_reach_both_directions_and_gradients_come_back():
    system = System.from_ase(molecule(), cutoff=2.5).pad_to(9, 8)
    neighbors = system.neighborhood()
    values = jnp.where(neighbors.mask, jnp.sum(neighbors.vectors**2, axis=2), 0.0)
    np.testing.assert_array_equal(neighbors.of_both(neighbors.of_pairs(values)), values)
    # of a padded pair nothing arrives, and no gradient comes back
    of_pairs = jnp.ones((len(neighbors.pairs), 2))
    gradient = jax.grad(lambda x: jnp.sum(neighbors.of_both(x) * 3.0))(of_pairs)
    real = np.asarray(neighbors.pairs[:, 0] != neighbors.pairs[:, 1])
    np.testing.assert_array_equal(gradient, np.where(real, 6.0, 0.0)[:, None].repeat(2, axis=1))


def test_stacked_systems_share_the_largest_number():
    one, two = (System.from_ase(molecule(n, n), cutoff=2.5) for n in (4, 7))
    batch = stack_systems([one, two])
    assert batch.pairs.shape[1] == max(len(one.pairs), len(two.pairs))
    for i, system in enumerate((one, two)):
        row = jax.tree.map(lambda x, i=i: np.asarray(x[i]), batch).neighborhood()
        values = jnp.where(row.mask, jnp.sum(row.vectors**2, axis=2), 0.0)
        np.testing.assert_array_equal(row.of_both(row.of_pairs(values)), values)
        assert np.sum(batch.pairs[i, :, 0] != batch.pairs[i, :, 1]) == len(system.pairs)


def test_too_many_pairs_overflow():
    """More pairs than there is room for, though no atom has too many neighbours: NaN, and the flag of the list."""
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True) * (2, 2, 2)
    template = System.from_ase(atoms, cutoff=4.5)
    made = allocate(atoms.positions, atoms.cell.array, (True, True, True), cutoff=4.5, skin=0.3)
    positions, cell = (jnp.asarray(x, made.reference.dtype) for x in (atoms.positions, atoms.cell.array))
    few = dataclasses.replace(made, plan=dataclasses.replace(made.plan, pair_capacity=len(template.pairs) - 1))
    for neighbors, crowded in ((made, False), (few, True)):
        assert bool(jax.jit(update)(neighbors, positions, cell).overflow) == crowded
        system = jax.jit(within_cutoff)(neighbors, template, positions, cell)
        assert bool(jnp.isnan(system.positions).any()) == crowded
        assert system.pairs.shape == (neighbors.plan.pair_capacity, 2)
    # the next plan has room again
    again = allocate(atoms.positions, atoms.cell.array, (True, True, True), cutoff=4.5, skin=0.3, at_least=few.plan)
    assert again.plan.pair_capacity >= len(template.pairs)


def test_padding_too_small_is_an_error():
    system = System.from_ase(molecule(), cutoff=2.5)
    with pytest.raises(ValueError, match="`n_pairs` = 3 is too small: the system has 4 pairs"):
        system.pad_to(*system.shape, len(system.pairs) - 1)


@pytest.mark.parametrize("name", STRUCTURES)
def test_edges_are_the_neighbours(name):
    atoms, cutoff = STRUCTURES[name]
    system = System.from_ase(atoms, cutoff=cutoff)
    n, m = system.shape
    dense = system.pad_to(n + 2, m + 3).neighborhood()
    edges = jax.jit(lambda dense: dense.edges())(dense)
    mask, receivers = np.asarray(edges.mask), np.asarray(edges.receivers)
    assert mask.sum() == system.neighbor_mask.sum()
    assert np.all(np.diff(receivers) >= 0)
    assert not mask[mask.sum() :].any()
    np.testing.assert_array_equal(edges.reverse[edges.reverse], np.arange(len(mask)))
    np.testing.assert_array_equal(edges.senders[edges.reverse][mask], receivers[mask])
    np.testing.assert_array_equal(edges.vectors[edges.reverse], -edges.vectors)
    values = jnp.asarray(np.random.default_rng(0).normal(size=(n + 2, 2)))

    def summed(values, vectors, form):
        messages = form.gather(values)[..., :, None] * vectors[..., None, :]
        return form.sum(messages)

    np.testing.assert_allclose(
        summed(values, edges.vectors, edges), summed(values, dense.vectors, dense), rtol=0, atol=1e-12 if X64 else 1e-5
    )


def test_model_on_edges():
    """The forces of a model on edges, by itself and stacked with a larger structure, are those on rows."""
    systems = [System.from_ase(molecule(n, n), cutoff=2.5) for n in (7, 12)]
    widths = jnp.asarray([1.0, 2.0])

    def energy(positions, system, form):
        neighbors = dataclasses.replace(system, positions=positions).neighborhood()
        neighbors = neighbors.edges() if form == "edges" else neighbors
        distances = safe_norm(neighbors.vectors, neighbors.mask)[..., None]
        weights = jnp.sin(jnp.arange(len(positions), dtype=positions.dtype))[:, None]
        radial = neighbors.gather(weights) * jnp.exp(
            -((distances / widths.reshape((1,) * (distances.ndim - 1) + (2,))) ** 2)
        )
        return jnp.sum(neighbors.sum(radial) ** 2)

    gradient = jax.jit(jax.grad(energy), static_argnums=2)
    forces = {form: [gradient(jnp.asarray(s.positions), s, form) for s in systems] for form in ("rows", "edges")}
    stacked = jax.vmap(lambda s: gradient(s.positions, s, "edges"))(jax.device_put(stack_systems(systems)))
    tolerance = {"rtol": 0, "atol": 1e-12 if X64 else 1e-5}
    for i, system in enumerate(systems):
        n = len(system.positions)
        np.testing.assert_allclose(forces["edges"][i], forces["rows"][i], **tolerance)
        np.testing.assert_allclose(stacked[i][:n], forces["rows"][i], **tolerance)
