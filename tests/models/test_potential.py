"""Potentials with random parameters: what must not change, derivatives, errors.

One list of models that together have every option, times one list of properties.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import ewald
from lesjax.ewald.solvers.periodic import _warn_of_empty_sum
from lesjax.models import CACEConfig, Ensemble, LatentCharges, LongRangeConfig, ModelConfig, Potential
from lesjax.models.potential import predict
from lesjax.models.sign import flip
from lesjax.neighbors.batching import stack_systems
from lesjax.system import System
from toy import moved_potential


X64 = jax.config.jax_enable_x64

CUTOFF = 3.0
CELL = np.array([[4.6, 0.0, 0.0], [1.3, 5.2, 0.0], [-0.8, 1.1, 4.2]])
NUMBERS = np.array([8, 1, 1, 8, 1, 8])
SMALL = {"elements": (1, 8), "cutoff": CUTOFF, "n_bessel": 4, "n_radial": 3, "n_embedding": 2, "max_l": 2}
READOUT = {"hidden": (5,)}
MODELS = {
    "short-range": ModelConfig(CACEConfig(**SMALL), None, **READOUT),
    "plain": ModelConfig(CACEConfig(**SMALL), LongRangeConfig(LatentCharges(**READOUT), k_cutoff=3.0), **READOUT),
    "messages": ModelConfig(
        CACEConfig(**SMALL, messages=(("M", "Ar", "Bchi"),)),
        LongRangeConfig(LatentCharges(n_channels=2, constraint="neutral", scale=0.3, **READOUT)),
        reference_energies=(-13.6, -2040.0),
        **READOUT,
    ),
    "separate": ModelConfig(
        CACEConfig(
            **{**SMALL, "max_l": 1, "max_nu": 2}, cutoff_function="cosine", messages=(("Bchi",), ("Ar",)),
            bchi_shared=False, trainable_bessel=False,
        ),
        LongRangeConfig(
            LatentCharges(n_channels=2, linear=False, self_energies_removed=2.0, **READOUT),
            separate_features=True, sigma=1.3,
        ),
        linear=False,
        energy_scale=0.5,
        **READOUT,
    ),
}  # fmt: skip
LONG_RANGE = [name for name, config in MODELS.items() if config.long_range is not None]

# of all systems and k-grids in float32, so that the properties share what is compiled; the largest is the supercell
SHAPE, GRID = (12, 40), (7, 12, 7)


@functools.cache
def random_potential(name):
    return moved_potential(MODELS[name])


@pytest.fixture(scope="module", params=MODELS)
def potential(request):
    return random_potential(request.param)


def positions():
    """Two bent molecules and two more atoms, no two closer than 1 Å."""
    fractional = [
        [0.1, 0.1, 0.1],
        [0.3, 0.15, 0.1],
        [0.05, 0.3, 0.15],
        [0.5, 0.6, 0.55],
        [0.7, 0.6, 0.6],
        [0.55, 0.1, 0.65],
    ]
    return (np.array(fractional) + 0.02 * np.random.default_rng(0).normal(size=(6, 3))) @ CELL


def make_system(positions, cell=CELL, numbers=NUMBERS, pbc=(True, True, True)):
    return System.from_arrays(positions, cell, numbers, pbc, cutoff=CUTOFF)


def as_float32(tree):
    return jax.tree.map(lambda x: x.astype("float32") if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def predict_float32(potential, system):
    """Results in float32, all padded to one shape."""
    n = len(system.positions)
    solver = potential.make_solver(system)
    if solver is not None:
        added = [(0, size - m) for size, m in zip(GRID, solver.kmask.shape[1:], strict=True)]
        solver = dataclasses.replace(solver, kmask=np.pad(solver.kmask, [(0, 0), *added]))
    out = as_float32(potential)(as_float32(system.pad_to(*SHAPE)), solver)
    dtypes = {name: x.dtype.name for name, x in vars(out).items() if x is not None}
    assert dtypes.pop("total_energy") == "float64"
    assert set(dtypes.values()) == {"float32"}
    np.testing.assert_array_equal(out.forces[n:], 0.0)
    if out.charges is not None:
        np.testing.assert_array_equal(out.charges[n:], 0.0)
    return results(out, n)


def results(out, n=None):
    """What is compared: all of a prediction but the reference energies."""
    found = {"energy": out.energy, "forces": out.forces[:n], "stress": out.stress}
    if out.charges is not None:
        found |= {"charges": out.charges[:n], "long_range_energy": out.long_range_energy}
    return {name: np.asarray(value) for name, value in found.items()}


def assert_equal(found, expected, rtol=1e-5):
    for name, value in expected.items():
        atol = rtol * max(0.1, np.abs(value).max())
        np.testing.assert_allclose(found[name], value, rtol=0, atol=atol, err_msg=name)


# ---- invariances, in float32


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["proper", "improper"])
def test_rotation(potential, sign):
    rotation = sign * np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    expected = predict_float32(potential, make_system(positions()))
    expected |= {
        "forces": expected["forces"] @ rotation,
        "stress": rotation.T @ expected["stress"] @ rotation,
    }
    assert_equal(predict_float32(potential, make_system(positions() @ rotation, CELL @ rotation)), expected)


def test_translation_and_lattice_vectors(potential):
    """With x64 in float64: float32 rounds coordinates of 15 Å to 1e-6 Å."""
    translations = np.random.default_rng(3).integers(-2, 3, (6, 3)) @ CELL
    moved = make_system(positions() + np.array([0.3, -1.1, 2.2]) + translations)
    expected = results(potential(make_system(positions())))
    assert_equal(results(potential(moved)), expected, rtol=1e-11 if X64 else 1e-4)


def test_permutation(potential):
    order = np.array([3, 0, 5, 4, 1, 2])
    expected = predict_float32(potential, make_system(positions()))
    expected |= {name: expected[name][order] for name in ("forces", "charges") if name in expected}
    assert_equal(predict_float32(potential, make_system(positions()[order], numbers=NUMBERS[order])), expected)


def test_supercell_is_twice(potential):
    expected = predict_float32(potential, make_system(positions()))
    for name, value in expected.items():
        if name in ("forces", "charges"):
            expected[name] = np.concatenate([value, value])
        elif name != "stress":
            expected[name] = 2 * value
    doubled = np.concatenate([positions(), positions() + CELL[1]])
    system = make_system(doubled, CELL * [[1.0], [2.0], [1.0]], np.concatenate([NUMBERS, NUMBERS]))
    assert_equal(predict_float32(potential, system), expected)


def test_padded_is_unpadded(potential):
    """With x64, float32 and padded is float64 and unpadded."""
    expected = results(potential(make_system(positions())))
    assert_equal(predict_float32(potential, make_system(positions())), expected)


# ---- derivatives, in float64


@pytest.mark.skipif(not X64, reason="needs JAX_ENABLE_X64=1")
def test_forces_and_stress_are_derivatives(potential):
    """Finite differences at fixed neighbours and k-vectors."""
    system = make_system(positions())
    solver = potential.make_solver(system)
    out = potential(system, solver)
    step = 1e-4

    def energy(positions, cell):
        return potential(dataclasses.replace(system, positions=positions, cell=cell), solver).energy

    def strained(strain):
        deformation = np.eye(3) + strain
        return energy(system.positions @ deformation, system.cell @ deformation)

    def derivative(function, shape):
        result = np.zeros(shape)
        for index in np.ndindex(*shape):
            delta = np.zeros(shape)
            delta[index] = step
            result[index] = (function(delta) - function(-delta)) / (2 * step)
        return result

    forces = -derivative(lambda delta: energy(system.positions + delta, system.cell), (6, 3))
    stress = derivative(strained, (3, 3)) / abs(np.linalg.det(CELL))
    np.testing.assert_allclose(out.forces, forces, rtol=1e-6, atol=1e-6 * np.abs(forces).max())
    np.testing.assert_allclose(out.stress, stress, rtol=1e-6, atol=1e-6 * np.abs(stress).max())


def test_lone_atom():
    """No neighbours: finite energy, and forces that are zero and not NaN."""
    system = make_system(np.zeros((1, 3)), np.zeros((3, 3)), np.array([8]), (False, False, False))
    out = random_potential("messages")(system)
    assert np.isfinite(out.energy)
    np.testing.assert_array_equal(out.forces, 0.0)
    # this model is neutral
    np.testing.assert_allclose(out.charges, 0.0, atol=1e-12 if X64 else 1e-7)


# ---- parts


@pytest.mark.parametrize("name", LONG_RANGE)
def test_energy_has_these_parts(name):
    """The short-range part, the sum over the charges, reference energies; self-energies as often as asked."""
    potential = random_potential(name)
    c = potential.config
    system = make_system(positions())
    solver = potential.make_solver(system)
    out = potential(system)
    arguments = (jnp.asarray(system.positions), jnp.asarray(system.cell), out.charges)
    expected = jax.jit(ewald.energy)(solver, *arguments)
    expected -= (c.long_range.charges.self_energies_removed - 1.0) * ewald.self_energy(solver, out.charges)
    rtol = 1e-10 if X64 else 1e-4
    np.testing.assert_allclose(out.long_range_energy, expected, rtol=rtol)
    np.testing.assert_allclose(out.energy, out.short_range_energy + out.long_range_energy, rtol=rtol)
    references = 3 * sum(c.reference_energies)  # three atoms of each element
    np.testing.assert_allclose(out.total_energy - np.asarray(out.energy, float), references, rtol=1e-12, atol=1e-12)
    if c.long_range.charges.constraint == "neutral":
        np.testing.assert_allclose(jnp.sum(out.charges, axis=0), 0.0, atol=1e-14 if X64 else 1e-6)
    else:
        assert np.all(np.abs(jnp.sum(out.charges, axis=0)) > 1e-3)
    assert out.charges.shape == (6, c.long_range.charges.n_channels)


def test_neutral_when_padded():
    """The mean is that of the real atoms."""
    charges = predict_float32(random_potential("messages"), make_system(positions()))["charges"]
    assert np.abs(charges).max() > 1e-3
    np.testing.assert_allclose(charges.sum(0), 0.0, atol=1e-6)


def test_short_range_model():
    potential = random_potential("short-range")
    system = make_system(positions())
    assert potential.make_solver(system) is None
    out = potential(system)
    assert out.charges is None
    assert out.long_range_energy is None
    assert float(out.energy) == float(out.short_range_energy)
    assert potential.signs is None
    assert set(potential.params) == {"short_range", "energy"}
    # no sum, so that a traced cell needs no plan
    energy = jax.jit(lambda cell: potential.energy(dataclasses.replace(system, cell=cell)))(jnp.asarray(system.cell))
    np.testing.assert_allclose(energy, out.energy, rtol=1e-10 if X64 else 1e-4)


def test_cluster_has_no_stress():
    potential = random_potential("plain")
    system = make_system(positions(), np.zeros((3, 3)), pbc=(False, False, False))
    out = potential(system)
    assert out.stress is None
    expected = ewald.energy(
        potential.make_solver(system), jnp.asarray(system.positions), jnp.zeros((3, 3)), out.charges
    )
    np.testing.assert_allclose(out.long_range_energy, expected, rtol=1e-10 if X64 else 1e-4)
    assert isinstance(potential.make_solver(system), ewald.OpenSolver)


# ---- transforms


def test_vmap_is_loop():
    potential = random_potential("plain")
    cells = [CELL, CELL * 1.2]
    systems = [make_system(positions() @ np.linalg.inv(CELL) @ cell, cell) for cell in cells]
    solvers = [potential.make_solver(system) for system in systems]
    batch = jax.device_put(stack_systems(systems))
    mapped = jax.jit(jax.vmap(lambda system, solver: predict(potential, system, solver, with_stress=True)))(
        batch, ewald.stack_solvers(type(solvers[0]).share_sizes(solvers))
    )
    for i, (system, solver) in enumerate(zip(systems, solvers, strict=True)):
        single = potential(system.pad_to(*batch.shape), solver)
        for name in ("energy", "forces", "stress", "charges"):
            expected = getattr(single, name)
            atol = (1e-10 if X64 else 1e-4) * np.abs(expected).max()
            np.testing.assert_allclose(getattr(mapped, name)[i], expected, rtol=0, atol=atol, err_msg=name)


def test_same_seed_same_parameters():
    first, again, other = (Potential.create(MODELS["plain"], seed=seed).params for seed in (0, 0, 1))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), first, again))
    assert not jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), first, other))


# ---- errors


def test_unknown_elements():
    system = make_system(positions(), numbers=np.array([8, 1, 1, 26, 1, 79]))
    for function in (lambda p: p(system), lambda p: p.energy(system)):
        with pytest.raises(ValueError, match=r"contains Fe, Au, but the model knows only H, O\."):
            function(random_potential("plain"))


def test_traced_cell_needs_a_solver():
    potential, system = random_potential("plain"), make_system(positions())

    def energy(cell, solver=None):
        return potential.energy(dataclasses.replace(system, cell=cell), solver)

    cell = jnp.asarray(system.cell)
    with pytest.raises(TypeError, match=r"`solver` is needed where `system\.cell` is traced.*make_solver\(system\)"):
        jax.jit(energy)(cell)
    solver = potential.make_solver(system)
    np.testing.assert_allclose(jax.jit(energy)(cell, solver), potential(system).energy, rtol=1e-10 if X64 else 1e-4)


def test_slab():
    """The energy is that of the charges in two dimensions: the vacuum is of no account."""
    plain, fractional = random_potential("plain"), positions() @ np.linalg.inv(CELL)
    # what the k-vectors left out amount to does depend on the vacuum
    long_range = dataclasses.replace(plain.config.long_range, k_cutoff=6.0)
    potential = dataclasses.replace(plain, config=dataclasses.replace(plain.config, long_range=long_range))
    inside = (fractional - np.array([0.0, 0.0, fractional[:, 2].min()])) @ CELL
    scale = 1.2 * max(1.0, float(np.ptp(fractional[:, 2])))
    first, second = (
        potential(make_system(inside, CELL * [[1.0], [1.0], [scale * vacuum]], pbc=(True, True, False)))
        for vacuum in (1.0, 1.6)
    )
    rtol = 1e-7 if X64 else 1e-4
    for name in ("long_range_energy", "forces", "charges"):
        a, b = getattr(first, name), getattr(second, name)
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(1.0, float(np.abs(b).max())), err_msg=name)
    assert first.stress is None
    assert abs(first.long_range_energy) > 5e-3


def test_slabs_and_wires_that_are_refused():
    potential = random_potential("plain")
    with pytest.raises(ValueError, match=r"`pbc` must be periodic in three, two or no directions"):
        potential(make_system(positions(), pbc=(False, True, False)))
    flat = CELL * [[1.0], [1.0], [0.1]]
    with pytest.raises(ValueError, match=r"`positions` extend over .* more than the height 0\.42 Å"):
        potential(make_system(positions(), flat, pbc=(True, True, False)))
    # padded atoms lie anywhere
    system = make_system(positions() @ np.diag([1.0, 1.0, 0.5]) + [0.0, 0.0, 40.0], 2 * CELL, pbc=(True, True, False))
    assert potential.make_solver(system.pad_to(8, 40)).interaction == ewald.SlabCoulomb(2)


def test_box_too_small_for_the_cutoff():
    """The sum is empty, and said to be so once."""
    _warn_of_empty_sum.cache_clear()
    config = dataclasses.replace(MODELS["plain"], long_range=LongRangeConfig(k_cutoff=0.5))
    with pytest.warns(UserWarning, match=r"leaves no k-vector"):
        prediction = Potential.create(config)(make_system(positions()))
    assert np.isfinite(prediction.energy)
    assert np.isfinite(prediction.forces).all()


def test_ghost_atom_is_refused():
    """Number 0 with a mask that says real; padding passes."""
    potential = random_potential("plain")
    system = make_system(positions())
    potential(system.pad_to(len(system.atomic_numbers) + 2, 60))
    ghost = dataclasses.replace(system, atomic_numbers=np.where(np.arange(len(system.atomic_numbers)) == 1, 0, 1))
    with pytest.raises(ValueError, match="Atom 1 is a ghost atom"):
        potential(ghost)


def test_born_effective_charges_of_a_cluster_are_the_derivative_of_its_dipole():
    potential = random_potential("plain")
    positions = np.random.default_rng(0).uniform(0, 2.5, (6, 3))

    def dipole(positions):
        system = make_system(positions, np.zeros((3, 3)), pbc=(False, False, False))
        charges = np.asarray(potential(system).charges, float).sum(axis=1)
        return np.asarray(positions.T @ (charges - charges.mean()))

    step = 1e-4 if X64 else 1e-2
    born = potential.born_effective_charges(make_system(positions, np.zeros((3, 3)), pbc=(False, False, False)))
    for atom, axis in ((0, 0), (3, 2)):
        moved = np.zeros_like(positions)
        moved[atom, axis] = step
        derivative = (dipole(positions + moved) - dipole(positions - moved)) / (2 * step)
        np.testing.assert_allclose(born[atom, :, axis], derivative, atol=1e-6 if X64 else 1e-2)
    screened = potential.born_effective_charges(make_system(positions), epsilon_infinity=jnp.asarray(4.0), direction=1)
    assert screened.shape == (6, 3)
    with pytest.raises(ValueError, match="`cell` has no volume"):
        potential.born_effective_charges(make_system(positions, CELL * [[1], [1], [0]], pbc=(True, True, False)))
    with pytest.raises(ValueError, match="`potential` is a short-range model: it has no latent charges"):
        random_potential("short-range").born_effective_charges(make_system(positions))


@pytest.mark.parametrize("dipoles", [False, True])
def test_dipole_moment(dipoles):
    """Of all channels; with a net charge it depends on the origin. There is none with a periodic direction."""
    charges = LatentCharges(n_channels=2, scale=0.5, dipoles=dipoles, **READOUT)
    short_range = CACEConfig(**{**SMALL, "max_l": 1, "max_nu": 1})
    model = moved_potential(ModelConfig(short_range, LongRangeConfig(charges), **READOUT))
    atoms = np.random.default_rng(5).uniform(0.0, 5.0, (6, 3))
    shift = np.array([1.0, -2.0, 3.0])
    moments = []
    for positions in (atoms, atoms + shift):
        system = System.from_arrays(positions, np.zeros((3, 3)), NUMBERS, False, cutoff=model.cutoff)
        prediction = model(system)
        expected = np.sum(prediction.charges, axis=1) @ positions
        if dipoles:
            expected += np.sum(prediction.dipoles, axis=(0, 1))
        np.testing.assert_allclose(prediction.dipole_moment, expected, atol=1e-10 if X64 else 1e-4)
        moments.append(np.asarray(prediction.dipole_moment))
    net = float(np.sum(prediction.charges))
    assert abs(net) > 1e-2
    np.testing.assert_allclose(moments[1] - moments[0], net * shift, atol=1e-10 if X64 else 1e-4)
    both = Ensemble.of([model, flip(model, -1.0)])(system)
    np.testing.assert_allclose(both.mean.dipole_moment, np.zeros(3), atol=1e-10 if X64 else 1e-4)
    np.testing.assert_allclose(both.members.dipole_moment[0], moments[1], atol=1e-10 if X64 else 1e-4)
    wide = CELL + np.diag([0.0, 0.0, 4.0])
    for pbc in (True, (True, True, False)):
        assert model(System.from_arrays(atoms, wide, NUMBERS, pbc, cutoff=model.cutoff)).dipole_moment is None
