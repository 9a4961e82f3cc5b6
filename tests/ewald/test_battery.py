"""Properties that every sum has: one list of engines times one list of properties.

A new kernel gets all of it from one more line in `ENGINES`.
"""

import dataclasses
import importlib.util
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lesjax import ewald
from lesjax.properties import Frame, energy_forces_stress
from toy import with_slow


X64 = jax.config.jax_enable_x64
HAS_NUFFT = importlib.util.find_spec("jax_finufft") is not None
# of the largest entry; energies are sums of terms that cancel to about a tenth
TOLERANCE = 1e-11 if X64 else 3e-5

needs_x64 = pytest.mark.skipif(not X64, reason="needs JAX_ENABLE_X64=1")

CUBE = np.eye(3) * 5.1
TRICLINIC = np.array([[4.9, 0.0, 0.0], [1.4, 5.7, 0.0], [-0.9, 1.1, 4.3]])
SIGMA, K_CUTOFF = 0.9, 3.0


@dataclass(frozen=True)
class Engine:
    """Five atoms and how the energy of their charges, or of charges, dipoles and quadrupoles is summed."""

    cell: np.ndarray
    pbc: tuple[bool, bool, bool] = (True, True, True)
    channels: tuple[int, ...] = ()
    multipoles: bool = False
    method: str = "auto"

    @property
    def periodic(self):
        return any(self.pbc)

    @property
    def positions(self):
        rng = np.random.default_rng(1)
        cell = self.cell if self.periodic else CUBE
        fractional = rng.uniform(-0.2, 1.2, (5, 3))
        # atoms of a slab are no further apart along its normal than the cell is high
        return jnp.asarray(np.where(self.pbc, fractional, (fractional + 0.2) / 1.4) @ cell, float)

    @property
    def sources(self):
        rng = np.random.default_rng(2)
        axes = {"charges": ()}
        if self.multipoles:
            axes |= {"dipoles": (3,), "quadrupoles": (3, 3)}
        return {name: jnp.asarray(rng.normal(size=(5, *self.channels, *shape)), float) for name, shape in axes.items()}

    def solver(self, cell=None, n_atoms=5):
        cell = self.cell if cell is None else np.asarray(cell, float)
        # what interpolates is as exact as it is planned to be
        planned = {"accuracy": 1e-8 if X64 else 1e-6} if self.interpolates else {"k_cutoff": K_CUTOFF}
        options = planned if self.periodic else {}
        return ewald.make_solver(cell, self.pbc, n_atoms=n_atoms, sigma=SIGMA, method=self.method, **options)

    @property
    def interpolates(self):
        return self.method in ("mesh", "nufft")

    @property
    def tolerance(self):
        return 1e-7 if self.interpolates and X64 else TOLERANCE


# Left-handed with the edges of the triclinic cell: the k-grids have one shape and share what is compiled.
ENGINES = {
    "cubic": Engine(CUBE),
    "triclinic": Engine(TRICLINIC),
    "left-handed": Engine(TRICLINIC * [[1.0], [1.0], [-1.0]]),
    "open": Engine(np.zeros((3, 3)), (False, False, False)),
    "slab": Engine(TRICLINIC, (True, False, True)),
    "channels": Engine(TRICLINIC, channels=(3,)),
    "open-channels": Engine(np.zeros((3, 3)), (False, False, False), channels=(3,)),
    "multipoles": Engine(TRICLINIC, multipoles=True),
    "open-multipoles": Engine(np.zeros((3, 3)), (False, False, False), multipoles=True),
    "mesh": Engine(TRICLINIC, method="mesh"),
    "mesh-channels": Engine(CUBE, channels=(2,), method="mesh"),
    "mesh-slab": Engine(TRICLINIC, (True, False, True), method="mesh"),
}
if HAS_NUFFT:
    ENGINES["nufft"] = Engine(TRICLINIC, method="nufft")
# what others show together
SLOW = ("left-handed", "open-channels", "mesh-channels")


@pytest.fixture(params=with_slow(ENGINES, SLOW))
def engine(request):
    return ENGINES[request.param]


@pytest.fixture(params=with_slow((name for name, engine in ENGINES.items() if engine.periodic), SLOW))
def periodic(request):
    return ENGINES[request.param]


# compiled once for all tests and engines of one shape
@jax.jit
def energy(solver, positions, cell, sources):
    return ewald.energy(solver, positions, cell, **sources)


@jax.jit
def potential(solver, positions, cell, sources, atom_mask=None):
    return ewald.potential(solver, positions, cell, **sources, atom_mask=atom_mask)


@jax.jit
def field(solver, positions, cell, sources, atom_mask=None):
    return ewald.field(solver, positions, cell, **sources, atom_mask=atom_mask)


@jax.jit
def everything(solver, positions, cell, sources, atom_mask=None):
    """Energy, forces, strain derivative (stress times volume)."""

    def function(positions, strain):
        deformation = jnp.eye(3, dtype=cell.dtype) + strain
        return ewald.energy(solver, positions @ deformation, cell @ deformation, **sources, atom_mask=atom_mask)

    value, (gradient, virial) = jax.value_and_grad(function, (0, 1))(positions, jnp.zeros_like(cell))
    return value, -gradient, virial


def assert_equal(found, expected, tolerance=TOLERANCE):
    """Compare relative to the largest entry."""
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(np.abs(b).max())))


def results(engine, positions=None, cell=None, sources=None):
    cell = engine.cell if cell is None else cell
    positions = engine.positions if positions is None else positions
    sources = engine.sources if sources is None else sources
    return everything(engine.solver(cell, len(positions)), positions, jnp.asarray(cell, float), sources)


# ---- derivatives


@needs_x64
def test_gradients(engine):
    solver = engine.solver()

    def function(positions, sources, cell, sigma):
        # what is compiled takes the solver as an argument, so that engines of one shape share it
        return energy(dataclasses.replace(solver, sigma=sigma), positions, cell, sources)

    arguments = (engine.positions, engine.sources, jnp.asarray(engine.cell), jnp.asarray(SIGMA))
    # channels are a sum of what is checked to second order with one, and a slab has another kernel alone
    slab = engine.periodic and not all(engine.pbc)
    modes = ("rev",) if engine.multipoles or slab else ("fwd", "rev")
    check_grads(function, arguments, order=1 if engine.channels or engine is ENGINES["mesh-slab"] else 2, modes=modes)


def test_potential_and_field_are_derivatives(engine):
    solver, positions, cell, sources = arguments = _arguments(engine)

    @jax.jit
    def gradient(sources):
        return jax.grad(lambda sources: ewald.energy(solver, positions, cell, **sources))(sources)

    zeros = jnp.zeros((*sources["charges"].shape, 3))
    expected = gradient({"dipoles": zeros, **sources})
    phi, strength = potential(*arguments), field(*arguments)
    assert_equal((phi, strength), (expected["charges"], -expected["dipoles"]))
    # the energy is quadratic in the charges, and forces act on charges through the field
    if not engine.multipoles:
        value, forces, _ = everything(*arguments)
        work = (sources["charges"][..., None] * strength).reshape(5, -1, 3).sum(1)
        assert_equal((0.5 * jnp.sum(sources["charges"] * phi), work), (value, forces))


def _arguments(engine):
    return engine.solver(), engine.positions, jnp.asarray(engine.cell, float), engine.sources


@needs_x64
def test_energy_is_smooth_along_a_strain():
    """No jump where k-vectors cross the cutoff: here some lie on the sphere, 4 · 2π/8 = π."""
    engine = Engine(np.eye(3) * 8.0)
    cutoff, step = math.pi, 1e-6
    rng = np.random.default_rng(0)
    positions, charges = jnp.asarray(rng.uniform(0, 8, (8, 3))), jnp.asarray(rng.normal(size=8))

    def plan(cell):
        return ewald.make_solver(cell, True, n_atoms=8, k_cutoff=cutoff)

    def strained(strain, solver):
        return energy(solver, positions * (1 + strain), jnp.asarray(engine.cell) * (1 + strain), {"charges": charges})

    solver = plan(engine.cell)
    virial = everything(solver, positions, jnp.asarray(engine.cell), {"charges": charges})[2]
    difference = strained(step, solver) - strained(-step, solver)
    np.testing.assert_allclose(difference, 2 * step * jnp.trace(virial), rtol=1e-6)
    # what a k-grid planned anew would do
    assert abs(strained(-step, plan(engine.cell * (1 - step))) - strained(step, solver)) > 1e-3


# ---- the same in other ways


def test_jit_is_eager(engine):
    solver, positions, cell, sources = arguments = _arguments(engine)
    assert_equal((energy(*arguments),), (ewald.energy(solver, positions, cell, **sources),))


def test_vmap_is_loop(engine):
    cells = [engine.cell, 1.3 * engine.cell, engine.cell @ np.diag([1.0, 0.8, 1.5])]
    solvers = [engine.solver(cell) for cell in cells]
    positions = [engine.positions * scale for scale in (1.0, 1.2, 0.9)]
    sources = [jax.tree.map(lambda x, shift=shift: x + shift, engine.sources) for shift in (0.0, 0.1, -0.3)]
    stacked = ewald.stack_solvers(type(solvers[0]).share_sizes(solvers))
    together = jax.tree.map(lambda *values: jnp.stack(values), *sources)
    mapped = jax.vmap(everything)(stacked, jnp.stack(positions), jnp.asarray(np.stack(cells), float), together)
    loop = [results(engine, *arguments) for arguments in zip(positions, cells, sources, strict=True)]
    assert_equal(mapped, [jnp.stack(values) for values in zip(*loop, strict=True)], engine.tolerance)


def test_padded_is_unpadded(engine):
    """Also where padded atoms hold anything: one charge lies on a real atom, the other far away."""
    positions = jnp.concatenate([engine.positions, engine.positions[:1], jnp.full((2, 3), 7.7)])
    sources = jax.tree.map(lambda x: jnp.concatenate([x, jnp.ones_like(x[:3])]), engine.sources)
    mask = jnp.arange(8) < 5
    cell = jnp.asarray(engine.cell, float)
    solver = engine.solver()
    value, forces, virial = everything(solver, positions, cell, sources, mask)
    assert_equal((value, forces[:5], virial), results(engine))
    np.testing.assert_array_equal(forces[5:], 0.0)
    for function in (potential, field):
        padded = function(solver, positions, cell, sources, mask)
        assert_equal((padded[:5],), (function(*_arguments(engine)),))
        np.testing.assert_array_equal(padded[5:], 0.0)


def test_blocks_of_atoms(periodic, monkeypatch):
    """The sum is taken in blocks when it would need too much memory: 5 atoms in blocks of at most 2."""
    if periodic.interpolates:
        pytest.skip("only the direct sum has blocks in its engine")
    expected = results(periodic)
    sizes = periodic.solver().kmask.shape
    monkeypatch.setattr("lesjax.ewald.solvers.direct._MAX_INTERMEDIATE", 2 * 4 * sizes[1] * sizes[2])
    solver = periodic.solver()
    # a new function, which jax has not traced before
    blocked = jax.jit(lambda *arguments: everything.__wrapped__(solver, *arguments))
    arguments = _arguments(periodic)[1:]
    assert "scan" in str(blocked.trace(*arguments).jaxpr)
    assert_equal(blocked(*arguments), expected)


def test_supercell_is_twice(periodic):
    value, forces, virial = results(periodic)
    positions = jnp.concatenate([periodic.positions, periodic.positions + jnp.asarray(periodic.cell[:1], float)])
    doubled = results(
        periodic,
        positions,
        periodic.cell * [[2.0], [1.0], [1.0]],
        jax.tree.map(lambda x: jnp.concatenate([x, x]), periodic.sources),
    )
    assert_equal(doubled, (2 * value, jnp.concatenate([forces, forces]), 2 * virial), periodic.tolerance)


# ---- invariances


def test_translation(engine):
    assert_equal(
        results(engine, engine.positions + jnp.asarray([[0.3, -11.0, 2.2]])), results(engine), engine.tolerance
    )


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["proper", "improper"])
def test_rotation(engine, sign):
    value, forces, virial = results(engine)
    rotation = sign * np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0].astype(engine.positions.dtype)
    sources = dict(engine.sources)
    if engine.multipoles:
        sources["dipoles"] = sources["dipoles"] @ rotation
        sources["quadrupoles"] = rotation.T @ sources["quadrupoles"] @ rotation
    sources = {name: jnp.asarray(values) for name, values in sources.items()}
    rotated = results(engine, jnp.asarray(engine.positions @ rotation), engine.cell @ rotation, sources)
    assert_equal(rotated, (value, forces @ rotation, rotation.T @ virial @ rotation), engine.tolerance)


def test_permutation(engine):
    value, forces, virial = results(engine)
    order = np.array([3, 0, 4, 1, 2])
    sources = jax.tree.map(lambda x: x[order], engine.sources)
    assert_equal(results(engine, engine.positions[order], sources=sources), (value, forces[order], virial))


def test_atoms_moved_by_lattice_vectors(periodic):
    translations = (np.random.default_rng(3).integers(-4, 5, (5, 3)) * periodic.pbc) @ periodic.cell
    value, forces, _ = results(periodic)
    # the derivative with respect to a strain at fixed images is the same as well, but for rounding
    moved = results(periodic, jnp.asarray(periodic.positions + translations, float))
    assert_equal(moved[:2], (value, forces))


@pytest.mark.parametrize(
    "change",
    [
        np.diag([-1.0, 1.0, 1.0]),
        np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, -2.0, 1.0]]),
    ],
    ids=["mirrored", "swapped", "skewed"],
)
@pytest.mark.parametrize("name", ["cubic", "triclinic"])
def test_other_cell_of_the_same_lattice(name, change):
    engine = ENGINES[name]
    assert_equal(results(engine, cell=change @ engine.cell), results(engine))


# ---- dtype and compilation


@pytest.mark.parametrize("dtype", ["float32", "float64"] if X64 else ["float32"])
def test_dtype_in_is_dtype_out(engine, dtype):
    solver = engine.solver()
    arguments = jax.tree.map(lambda x: jnp.asarray(x, dtype), (engine.positions, engine.cell, engine.sources))
    for function in (energy, potential, field):
        assert jax.eval_shape(function, solver, *arguments).dtype == dtype
    assert {x.dtype.name for x in jax.eval_shape(everything, solver, *arguments)} == {dtype}


def test_compiles_once_per_shape(engine):
    traces = 0

    @jax.jit
    def counted(*arguments):
        nonlocal traces
        traces += 1
        return energy.__wrapped__(*arguments)

    values = set()
    for scale in (1.0, 1.001, 0.999):
        cell = engine.cell * scale
        solver = dataclasses.replace(
            engine.solver(None if engine.interpolates else cell),
            sigma=np.asarray(SIGMA * scale, engine.positions.dtype),
        )
        values.add(float(counted(solver, engine.positions, jnp.asarray(cell, float), engine.sources)))
    assert traces == 1
    assert len(values) == 3


# 3000 atoms take one block, 30 000 several
@pytest.mark.parametrize(("n_atoms", "part"), [(3_000, 0.5), (30_000, 0.05)])
def test_memory(n_atoms, part):
    """Compiled for abstract arrays and not run: there is no array of atoms times k-vectors."""
    edge = (n_atoms / 0.1) ** (1 / 3)
    solver = ewald.make_solver(np.eye(3) * edge, True, n_atoms=n_atoms, k_cutoff=math.pi, method="direct")
    shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((n_atoms, 3), (3, 3), (n_atoms,))]
    compiled = jax.jit(jax.value_and_grad(lambda *arguments: ewald.energy(solver, *arguments))).lower(*shapes).compile()
    used = compiled.memory_analysis().temp_size_in_bytes
    # half of the k-vectors in the sphere, one of each pair
    n_kvectors = math.pi**3 * edge**3 / (12 * math.pi**2)
    assert used < part * 4 * n_atoms * n_kvectors


def test_stress_is_the_gradient_by_strain():
    engine = ENGINES["triclinic"]
    solver = engine.solver()
    value, forces, virial = results(engine)

    @jax.jit
    def prediction(positions, cell):
        def energy(params, frame, solver):
            return ewald.energy(solver, frame.positions, frame.cell, **engine.sources)

        return energy_forces_stress(energy, None, Frame(positions, cell), solver=solver, with_stress=True)

    found = prediction(engine.positions, jnp.asarray(engine.cell, float))
    assert_equal(found, (value, forces, virial / abs(np.linalg.det(engine.cell))))
