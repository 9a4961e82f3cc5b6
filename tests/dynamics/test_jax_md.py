"""jax-md's own integrators, minimizers and quantities on a potential, against ASE."""

import re
from dataclasses import dataclass
from pathlib import Path

import ase
import ase.build
import ase.io
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax_md import minimize, partition, quantity, simulate, space

from lesjax.dynamics import LesCalculator, energy_neighbor_list
from lesjax.models import Features, FixedCharges, LongRangeConfig, ModelConfig, Potential, register
from lesjax.numerics import safe_norm
from toy import with_slow


pytestmark = pytest.mark.usefixtures("jax_md_leniency")
X64 = jax.config.jax_enable_x64
TOLERANCE = 1e-9 if X64 else 2e-5


@pytest.fixture(autouse=True)
def ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def reference(ions, small_potential):
    ions.calc = LesCalculator(small_potential)
    return ions


@pytest.mark.parametrize("left_handed", [False, True])
def test_energy_forces_and_stress_equal_those_of_ase(reference, small_potential, left_handed):
    if left_handed:
        reference.cell = reference.cell.array[[1, 0, 2]]
    neighbor_fn, energy_fn = energy_neighbor_list(small_potential, reference)
    positions = jnp.asarray(reference.positions)
    neighbors = neighbor_fn.allocate(positions)
    box = jnp.asarray(reference.cell.array.T)

    @jax.jit
    def quantities(positions, box, neighbors):
        functions = (quantity.stress, quantity.pressure)
        of_box = (function(energy_fn, positions, box, neighbor=neighbors) for function in functions)
        force = quantity.force(energy_fn)(positions, neighbor=neighbors)
        return energy_fn(positions, neighbor=neighbors), force, *of_box

    energy, forces, stress, pressure = quantities(positions, box, neighbors)
    expected = reference.get_potential_energy() - small_potential.config.reference_energy(reference.numbers)
    assert energy == pytest.approx(expected, rel=1e-10 if X64 else 1e-5)
    np.testing.assert_allclose(forces, reference.get_forces(), atol=TOLERANCE)
    # jax-md divides by the determinant, whose sign is that of the cell
    sign = -1.0 if left_handed else 1.0
    np.testing.assert_allclose(sign * stress, -reference.get_stress(voigt=False), atol=TOLERANCE)
    assert np.abs(stress).min() > 1e-5
    assert sign * pressure == pytest.approx(-np.trace(reference.get_stress(voigt=False)) / 3, rel=1e-8 if X64 else 1e-3)


def test_fractional_coordinates(reference, small_potential):
    """Wrapped fractional coordinates and a box by keyword: the same energy and Cartesian forces."""
    neighbor_fn, energy_fn = energy_neighbor_list(small_potential, reference, fractional_coordinates=True)
    box = jnp.asarray(1.01 * reference.cell.array.T)
    fractional = jnp.asarray(reference.get_scaled_positions())
    neighbors = neighbor_fn.allocate(fractional, box=box)
    reference.set_cell(np.asarray(box).T, scale_atoms=True)

    @jax.jit
    def quantities(fractional, box, neighbors):
        energy, gradient = jax.value_and_grad(energy_fn)(fractional, neighbors, box=box)
        return energy, gradient, quantity.stress(energy_fn, fractional, box, neighbor=neighbors)

    energy, gradient, stress = quantities(fractional, box, neighbors)
    assert energy == pytest.approx(
        reference.get_potential_energy() - small_potential.config.reference_energy(reference.numbers),
        rel=1e-10 if X64 else 1e-5,
    )
    np.testing.assert_allclose(-gradient, reference.get_forces(), atol=TOLERANCE)
    np.testing.assert_allclose(stress, -reference.get_stress(voigt=False), atol=TOLERANCE)


def run(init, step, positions, neighbors, steps=30, **given):
    start = jax.jit(lambda positions, neighbors: init(jax.random.PRNGKey(0), positions, neighbor=neighbors, **given))
    state = start(positions, neighbors)

    @jax.jit
    def go(state, neighbors):
        def one(_, carry):
            state, neighbors = carry
            state = step(state, neighbor=neighbors)
            box = {"box": simulate.npt_box(state)} if hasattr(state, "box_position") else {}
            return state, neighbors.update(state.position, **box)

        return jax.lax.fori_loop(0, steps, one, (state, neighbors))

    return state, *go(state, neighbors)


@pytest.mark.parametrize(
    "ensemble", with_slow(["nve", "nvt_nose_hoover", "nvt_langevin", "npt_nose_hoover"], ["nvt_nose_hoover"])
)
def test_integrators(ensemble, ions, small_potential):
    ions.positions += 2.0  # some atoms go through the walls
    masses = jnp.asarray(ions.get_masses())
    box = jnp.asarray(ions.cell.array.T)
    neighbor_fn, energy_fn = energy_neighbor_list(small_potential, ions)
    _, shift = space.periodic_general(box, fractional_coordinates=False)
    positions = jnp.asarray(ions.positions)
    neighbors = neighbor_fn.allocate(positions, extra_capacity=4)
    kT, dt = 0.1, 0.1
    given = {"mass": masses}
    if ensemble == "nve":
        functions = simulate.nve(energy_fn, shift, dt)
        given["kT"] = kT
    elif ensemble == "npt_nose_hoover":
        functions = simulate.npt_nose_hoover(energy_fn, shift, dt, 0.01, kT)
        given["box"] = box
    else:
        functions = getattr(simulate, ensemble)(energy_fn, shift, dt, kT)
    start, end, neighbors = run(*functions, positions, neighbors, **given)
    assert not neighbors.did_buffer_overflow
    assert not neighbors.cell_size_too_small
    assert float(jnp.abs(end.position - start.position).max()) > 0.05

    @jax.jit
    def conserved(state, neighbors):
        if ensemble == "npt_nose_hoover":
            return simulate.npt_nose_hoover_invariant(energy_fn, state, 0.01, kT, neighbor=neighbors)
        if ensemble == "nvt_nose_hoover":
            return simulate.nvt_nose_hoover_invariant(energy_fn, state, kT, neighbor=neighbors)
        return energy_fn(state.position, neighbor=neighbors) + simulate.kinetic_energy(state)

    if ensemble != "nvt_langevin":
        # the list of the last configuration, allocated anew for the first
        drift = conserved(end, neighbors)
        neighbors = neighbor_fn.allocate(positions, extra_capacity=4)
        assert drift == pytest.approx(float(conserved(start, neighbors)), abs=2e-3)


def test_minimizer(ions, small_potential):
    neighbor_fn, energy_fn = energy_neighbor_list(small_potential, ions)
    positions = jnp.asarray(ions.positions)
    neighbors = neighbor_fn.allocate(positions)
    _, shift = space.free()
    init, step = minimize.fire_descent(energy_fn, shift, dt_start=0.05, dt_max=0.1)
    state = jax.jit(init)(positions, neighbor=neighbors)
    energy = jax.jit(energy_fn)
    first = float(energy(positions, neighbor=neighbors))

    @jax.jit
    def go(state, neighbors):
        state = step(state, neighbor=neighbors)
        return state, neighbors.update(state.position)

    for _ in range(20):
        state, neighbors = go(state, neighbors)
    assert float(energy(state.position, neighbor=neighbors)) < first - 0.01
    assert not neighbors.did_buffer_overflow


def test_replicas(ions, small_potential):
    neighbor_fn, energy_fn = energy_neighbor_list(small_potential, ions)
    positions = jnp.asarray(ions.positions)
    neighbors = neighbor_fn.allocate(positions, extra_capacity=8)
    replicas = jnp.stack(
        [positions, positions + 0.05 * jax.random.normal(jax.random.PRNGKey(1), positions.shape, positions.dtype)]
    )

    def energy(position):
        return energy_fn(position, neighbors.update(position))

    alone = jax.jit(energy)
    energies = jax.jit(jax.vmap(energy))(replicas)
    expected = [alone(r) for r in replicas]
    np.testing.assert_allclose(energies, jnp.stack(expected), rtol=1e-10 if X64 else 1e-5)


def test_flags(ions, small_potential):
    neighbor_fn, _ = energy_neighbor_list(small_potential, ions)
    positions, box = jnp.asarray(ions.positions), jnp.asarray(ions.cell.array.T)
    allocate, update = neighbor_fn
    neighbors = allocate(positions)
    assert neighbors.idx.shape == (8, neighbors.neighbor_list.plan.wide_capacity)
    assert int((neighbors.idx < 8).sum()) == int(neighbors.neighbor_list.counts.sum())
    assert not update(positions, neighbors, box=1.02 * box).cell_size_too_small
    drifted = update(1.05 * positions, neighbors, box=1.05 * box)
    assert drifted.cell_size_too_small
    assert not drifted.did_buffer_overflow
    assert update(0.5 * positions, neighbors, box=0.5 * box).did_buffer_overflow
    assert not allocate(1.05 * positions, box=1.05 * box).cell_size_too_small


def test_functions_of_jax_md_on_the_list(ions, small_potential):
    neighbor_fn, _ = energy_neighbor_list(small_potential, ions)
    neighbors = neighbor_fn.allocate(jnp.asarray(ions.positions))
    n, n_pairs = len(ions), int(neighbors.neighbor_list.counts.sum())
    np.testing.assert_allclose(neighbors.reference_position, ions.get_positions(wrap=True), atol=10 * TOLERANCE)
    mask = partition.neighbor_list_mask(neighbors)
    assert neighbors.format is partition.Dense
    assert mask.sum() == n_pairs
    # no atom is within reach of its own images
    np.testing.assert_array_equal(partition.neighbor_list_mask(neighbors, mask_self=True), mask)

    with pytest.raises(ValueError, match="Cannot convert a dense neighbor list"):
        partition.to_jraph(neighbors)
    sparse = jax.jit(lambda neighbors: neighbors.to_sparse())(neighbors)
    graph = partition.to_jraph(sparse)
    np.testing.assert_array_equal(graph.n_node, [n, 1])
    assert graph.n_edge[0] == n_pairs
    expected = [(i, j) for i, row in enumerate(np.asarray(neighbors.idx)) for j in row[row < n]]
    found = np.stack([graph.receivers, graph.senders], axis=1)
    np.testing.assert_array_equal(found[found[:, 0] < n], expected)


def test_atoms_of_a_slab_beyond_its_height_are_flagged(ions, small_potential):
    ions.pbc = (True, True, False)
    ions.center(vacuum=2.0, axis=2)
    (allocate, update), _ = energy_neighbor_list(small_potential, ions)
    positions = jnp.asarray(ions.positions)
    neighbors = allocate(positions)
    assert not jax.jit(update)(positions, neighbors).cell_size_too_small
    far = positions.at[np.argmax(ions.positions[:, 2]), 2].add(4.1)
    assert jax.jit(update)(far, neighbors).cell_size_too_small
    with pytest.raises(ValueError, match=r"`positions` extend over .* more than the height"):
        allocate(far)


def test_errors(ions, small_potential):
    cluster = ase.Atoms(ions.symbols, ions.positions)
    with pytest.raises(ValueError, match=r"`fractional_coordinates` need a cell"):
        energy_neighbor_list(small_potential, cluster, fractional_coordinates=True)
    ions.symbols[0] = "K"
    with pytest.raises(ValueError, match="contains K, but the model knows only"):
        energy_neighbor_list(small_potential, ions)


def test_short_range_potential_and_cluster(ions, short_range_potential):
    cluster = ase.Atoms(ions.symbols, ions.positions)
    neighbor_fn, energy_fn = energy_neighbor_list(short_range_potential, cluster)
    positions = jnp.asarray(ions.positions)
    neighbors = neighbor_fn.allocate(positions)
    assert neighbors.solver is None
    cluster.calc = LesCalculator(short_range_potential)
    forces = -jax.jit(jax.grad(energy_fn))(positions, neighbors)
    np.testing.assert_allclose(forces, cluster.get_forces(), atol=TOLERANCE)


@dataclass(frozen=True)
class RepulsionConfig:
    elements: tuple[int, ...] = (11, 17)
    cutoff: float = 4.2


class Repulsion(nn.Module):
    """2000 eV exp(-(r / Å)²) for each pair: with charges of one e a stable crystal of rock salt."""

    config: RepulsionConfig

    @nn.compact
    def __call__(self, system):
        neighbors, cutoff = system.neighborhood(), self.config.cutoff
        distances = safe_norm(neighbors.vectors, neighbors.mask)
        pairs = jnp.where(distances < cutoff, (1.0 - (distances / cutoff) ** 2) ** 3, 0.0)
        energies = 1000.0 * jnp.sum(jnp.where(neighbors.mask, pairs * jnp.exp(-(distances**2)), 0.0), axis=1)
        return Features((jnp.ones_like(energies)[:, None],), energy=energies)


register("repulsion_of_test_jax_md", Repulsion, RepulsionConfig)


def test_loop_of_the_page_makes_room_and_conserves_the_energy(tmp_path, monkeypatch):
    """2000 steps from a crystal that has been expanded, whose second neighbours soon come within the cutoff."""
    monkeypatch.chdir(tmp_path)
    charges = FixedCharges((("Na", 1.0), ("Cl", -1.0)))
    Potential.create(ModelConfig(RepulsionConfig(), LongRangeConfig(charges), hidden=())).save("runs/my/model")
    crystal = ase.build.bulk("NaCl", "rocksalt", a=6.2, cubic=True).repeat((2, 1, 1))
    crystal.rattle(0.05, seed=1)
    ase.io.write("start.xyz", crystal)
    page = Path(__file__).parents[2] / "docs" / "howto" / "jax_md.md"
    first, loop, *others = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S)
    names = {}
    exec(first, names)
    assert "for _ in range(40):" in loop
    exec(loop.replace("for _ in range(40):", "start, room = state, neighbors\nfor _ in range(40):"), names)
    start, room, state, neighbors = (names[name] for name in ("start", "room", "state", "neighbors"))
    plans = room.neighbor_list.plan, neighbors.neighbor_list.plan
    assert plans[1].capacity > plans[0].capacity
    assert float(jnp.abs(state.position - start.position).max()) > 0.1
    # the same steps with the first list end without an energy
    lost = start, room
    for _ in range(40):
        lost = names["fifty_steps"](*lost)
        if lost[1].did_buffer_overflow:
            break
    assert lost[1].did_buffer_overflow
    assert not jnp.isfinite(lost[0].position).all()
    energy = jax.jit(lambda s, n: names["energy_fn"](s.position, neighbor=n) + simulate.kinetic_energy(s))
    before, after = float(energy(start, room)), float(energy(state, neighbors))
    assert after == pytest.approx(float(names["energy"]), abs=1e-3)
    kinetic = [float(simulate.kinetic_energy(s)) for s in (start, state)]
    assert abs(kinetic[1] - kinetic[0]) > 0.05
    assert abs(after - before) < (2e-4 if X64 else 1e-3)
    for block in others:
        exec(block, names)
    np.testing.assert_allclose(names["stress"], names["stress"].T, atol=1e-5)


def test_extra_capacity_is_in_all_arrays(ions, small_potential):
    """Also in the bins of a large system, which a repeated block would overflow forever."""
    large = ions.repeat((5, 4, 4))
    (allocate, _), _ = energy_neighbor_list(small_potential, large)
    positions = jnp.asarray(large.positions)
    plan = allocate(positions).neighbor_list.plan
    assert plan.bins is not None
    more = allocate(positions, extra_capacity=4, at_least=plan).neighbor_list.plan
    for name in ("capacity", "wide_capacity", "bin_capacity"):
        assert getattr(more, name) == getattr(plan, name) + 4
