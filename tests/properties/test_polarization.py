"""Born effective charges: finite differences of the polarization, invariances, cost; work of a field.

The values of the published code are in tests/ewald/test_reference.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import properties
from lesjax.units import AMU


pytestmark = pytest.mark.skipif(not jax.config.jax_enable_x64, reason="compares at 1e-6 and below: float64")


def on_device(function):
    """The function with its numpy arguments as jax arrays."""

    def call(*arguments, **options):
        def convert(x):
            return jnp.asarray(x) if isinstance(x, np.ndarray) else x

        return function(*map(convert, arguments), **{name: convert(x) for name, x in options.items()})

    return call


born_effective_charges = on_device(properties.born_effective_charges)
dipole_moment = on_device(properties.dipole_moment)
quadrupole_moment = on_device(properties.quadrupole_moment)
field_forces = on_device(properties.field_forces)

CELLS = {
    "cubic": np.eye(3) * 9.0,
    "triclinic": np.array([[8.0, 0.0, 0.0], [2.0, 7.0, 0.0], [-1.0, 1.5, 9.0]]),
    "left-handed": np.array([[0.0, 8.0, 0.5], [7.5, 1.0, 0.0], [0.0, 0.3, 9.0]]),
}
BOUNDARIES = [
    *((name, (True, True, True)) for name in CELLS),
    ("triclinic", (True, True, False)),
    ("left-handed", (True, False, True)),
    ("open", (False, False, False)),
]
IDS = [f"{name}-{''.join('FT'[p] for p in pbc)}" for name, pbc in BOUNDARIES]


def model(cell, pbc, q0, strength, u0=None):
    """Charges (and dipoles) that follow the neighbours smoothly and know the periodic images."""
    lattice = jnp.asarray(cell if any(pbc) else np.eye(3))
    inverse = jnp.linalg.inv(lattice)

    def moments(positions):
        s = (positions[None, :, :] - positions[:, None, :]) @ inverse
        ways = [(1.0 - jnp.cos(2 * np.pi * s[..., a])) if pbc[a] else (s[..., a] * jnp.linalg.norm(lattice[a])) ** 2 / 4
                for a in range(3)]  # fmt: skip
        w = jnp.exp(-sum(ways[1:], ways[0])) * (1.0 - jnp.eye(len(q0)))
        q = q0 + 0.05 * w @ strength
        if u0 is None:
            return q
        sines = jnp.stack([jnp.sin(2 * np.pi * s[..., a]) if pbc[a] else s[..., a] for a in range(3)], -1)
        return q, u0 + 0.05 * jnp.einsum("ij,j,ija->ia", w, strength, sines)

    return moments


def setting(name, n=6, seed=0):
    rng = np.random.default_rng(seed)
    cell = CELLS.get(name, np.zeros((3, 3)))
    positions = rng.uniform(size=(n, 3)) @ (cell if cell.any() else np.eye(3) * 4.0)
    q0 = rng.normal(size=n)
    return positions, cell, q0 - q0.mean(), rng.normal(size=n), rng.normal(scale=0.3, size=(n, 3))


@pytest.mark.parametrize(("name", "pbc"), BOUNDARIES, ids=IDS)
@pytest.mark.parametrize("with_dipoles", [False, True], ids=["charges", "dipoles"])
def test_finite_differences_of_the_polarization(name, pbc, with_dipoles):
    positions, cell, q0, strength, u0 = setting(name)
    moments = model(cell, pbc, q0, strength, u0 if with_dipoles else None)
    born = born_effective_charges(moments, positions, cell, pbc)
    lattice = cell if any(pbc) else np.eye(3)
    inverse = np.linalg.inv(lattice)

    def polarization(r):
        """P_a, complex, in numpy: written again from the formula."""
        out = moments(r)
        q, u = (np.asarray(x) for x in out) if with_dipoles else (np.asarray(out), np.zeros((len(r), 3)))
        q = q - q.mean()
        s = r @ inverse
        turn = np.exp(2j * np.pi * s) / (2j * np.pi)
        return np.array([np.sum(q * (turn if pbc[a] else s)[:, a]) for a in range(3)]), np.sum(u, axis=0)

    step = 1e-4
    expected = np.zeros((len(positions), 3, 3))
    for i, b in np.ndindex(len(positions), 3):
        moved = np.zeros_like(positions)
        moved[i, b] = step
        ahead, behind = polarization(positions + moved), polarization(positions - moved)
        derivative, dipoles = ((x - y) / (2 * step) for x, y in zip(ahead, behind, strict=True))
        phase = np.where(pbc, np.exp(-2j * np.pi * (positions @ inverse)[i]), 1.0)
        expected[i, :, b] = lattice.T @ np.real(phase * derivative) + dipoles
    np.testing.assert_allclose(born, expected, atol=1e-6)


@pytest.mark.parametrize(("name", "pbc"), BOUNDARIES, ids=IDS)
def test_wrapped_atoms_and_another_origin_change_nothing(name, pbc):
    positions, cell, q0, strength, u0 = setting(name)
    moments = model(cell, pbc, q0, strength, u0)
    born = born_effective_charges(moments, positions, cell, pbc)
    hops = np.random.default_rng(1).integers(-2, 3, size=positions.shape) * np.array(pbc)
    moved = positions + np.array([0.7, -1.3, 2.1])[None, :] + hops @ cell
    np.testing.assert_allclose(born_effective_charges(moments, moved, cell, pbc), born, atol=1e-10)


def test_fixed_charges_are_their_own_born_charges():
    positions, cell, q0, _, _ = setting("triclinic")

    def shifted(_):
        return jnp.asarray(q0 + 0.3)

    born = born_effective_charges(shifted, positions, cell, (True, True, True), epsilon_infinity=4.0)
    np.testing.assert_allclose(born, 2.0 * q0[:, None, None] * np.eye(3), atol=1e-12)
    kept = born_effective_charges(lambda _: jnp.asarray(q0), positions, cell, (True, True, True), remove_mean=False)
    np.testing.assert_allclose(kept, q0[:, None, None] * np.eye(3), atol=1e-12)
    message = r"charges that sum to 1\.8 e: the polarization of a charged periodic cell depends on the origin.*Keep"
    with pytest.raises(ValueError, match=message):
        born_effective_charges(shifted, positions, cell, (True, True, False), remove_mean=False)


@pytest.mark.parametrize("cell", [np.zeros((3, 3)), np.ones((3, 3)), np.diag([8.0, 8.0, 0.0])])
def test_cell_without_volume(cell):
    positions, _, q0, _, _ = setting("cubic")
    with pytest.raises(ValueError, match=r"`cell` has no volume, got \[\[.*set `pbc` to False for a molecule"):
        born_effective_charges(lambda _: jnp.asarray(q0), positions, cell, (True, True, False))


@pytest.mark.parametrize(
    ("pbc", "with_dipoles", "passes"),
    [
        ((True, True, True), False, 6),
        ((True, True, False), False, 5),
        ((False, False, False), False, 3),
        ((False, False, False), True, 3),
        ((True, True, False), True, 7),
        # 2 waves and 1 sum for each direction: nothing less holds what is asked for
        ((True, True, True), True, 9),
    ],
)
def test_number_of_reverse_passes(pbc, with_dipoles, passes):
    positions, cell, q0, strength, u0 = setting("triclinic")
    moments = model(cell, pbc, q0, strength, u0 if with_dipoles else None)
    sizes = []

    @jax.custom_batching.custom_vmap
    def counted(cotangent):
        return cotangent

    @counted.def_vmap
    def _(size, batched, cotangent):
        sizes.append(size)
        return cotangent, batched[0]

    @jax.custom_vjp
    def watched(positions):
        return moments(positions)

    def backward(pullback, cotangent):
        (gradient,) = pullback(cotangent)
        return (counted(gradient),)

    watched.defvjp(lambda positions: jax.vjp(moments, positions), backward)
    born_effective_charges(watched, positions, cell, pbc)
    assert sizes == [passes]


def test_sum_rule_channels_padding_and_one_direction():
    positions, cell, q0, strength, _ = setting("cubic")
    pbc = (True, True, True)
    moments = model(cell, pbc, q0, strength)
    born = born_effective_charges(moments, positions, cell, pbc)
    ruled = born_effective_charges(moments, positions, cell, pbc, acoustic_sum_rule=True)
    np.testing.assert_allclose(ruled, np.asarray(born) - np.mean(born, axis=0, keepdims=True), atol=1e-12)
    two = born_effective_charges(lambda r: jnp.stack([0.25 * moments(r), 0.75 * moments(r)], 1), positions, cell, pbc)
    np.testing.assert_allclose(two, born, atol=1e-12)
    one = born_effective_charges(moments, positions, cell, pbc, direction=1)
    np.testing.assert_allclose(one, born[:, 1], atol=1e-12)
    padded = born_effective_charges(
        lambda r: jnp.concatenate([moments(r[:-1]), jnp.full(1, 7.0)]),
        np.concatenate([positions, np.zeros((1, 3))]), cell, pbc, atom_mask=jnp.arange(7) < 6,
    )  # fmt: skip
    np.testing.assert_allclose(padded[:-1], born, atol=1e-12)
    np.testing.assert_array_equal(padded[-1], np.zeros((3, 3)))
    with pytest.raises(ValueError, match="`direction` must be a lattice direction 0, 1 or 2, or None for all, got 3"):
        born_effective_charges(moments, positions, cell, pbc, direction=3)
    with pytest.raises(ValueError, match=r"`epsilon_infinity` .* must be positive, got -2\.0"):
        born_effective_charges(moments, positions, cell, pbc, epsilon_infinity=-2.0)


def test_work_of_a_field_is_the_change_of_the_dipole():
    positions, cell, q0, strength, u0 = setting("open")
    moments = model(cell, (False, False, False), q0, strength, u0)
    field = np.array([0.1, -0.2, 0.3])
    born = born_effective_charges(moments, positions, cell, (False, False, False), remove_mean=False)

    def energy(r):
        q, u = moments(r)
        return -jnp.dot(field, dipole_moment(r, q, dipoles=u))

    np.testing.assert_allclose(field_forces(born, field), -jax.grad(energy)(jnp.asarray(positions)), atol=1e-12)


def test_moments_of_known_arrangements():
    positions = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]) + np.array([3.0, 1.0, 2.0])
    np.testing.assert_allclose(dipole_moment(positions, np.array([1.0, -1.0])), [0.0, 0.0, 2.0])
    on_host = properties.dipole_moment(positions, np.array([[1.0], [-1.0]]), dipoles=np.ones((2, 1, 3)))
    assert isinstance(on_host, np.ndarray)
    np.testing.assert_allclose(on_host, [2.0, 2.0, 4.0])
    origin = np.array([3.0, 1.0, 2.0])
    charged = np.array([1.0, 1.0])
    np.testing.assert_allclose(dipole_moment(positions, charged, origin=origin), np.zeros(3), atol=1e-15)
    moment = quadrupole_moment(positions, charged, origin=origin)
    np.testing.assert_allclose(moment, np.diag([0.0, 0.0, 2.0]), atol=1e-15)
    # a point dipole away from the origin against two charges close together
    pair = np.array([[1.0, 2.0, 3.0 + 5e-4], [1.0, 2.0, 3.0 - 5e-4]])
    expected = quadrupole_moment(pair, np.array([1e3, -1e3]))
    moment = quadrupole_moment(pair[:1] * 0 + [1.0, 2.0, 3.0], np.zeros(1), dipoles=np.array([[0.0, 0.0, 1.0]]))
    np.testing.assert_allclose(moment, expected, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "pbc"),
    [("left-handed", (True, True, True)), ("triclinic", (True, True, False)), ("open", (False, False, False))],
    ids=["periodic", "slab", "open"],
)
def test_energy_is_conserved_in_a_field(name, pbc):
    """Kinetic and potential energy minus the work of the field, to the second order of velocity Verlet."""
    positions, cell, q0, strength, u0 = setting(name, n=4)
    moments = model(cell, pbc, q0, strength, u0)
    repulsion = model(cell, pbc, np.zeros(4), np.ones(4))
    field, lattice = jnp.asarray([0.3, -0.2, 0.4]), jnp.asarray(cell)
    mass = AMU * jnp.asarray([12.0, 16.0, 14.0, 10.0])[:, None]
    velocities = 0.01 * jnp.asarray(np.random.default_rng(2).normal(size=(4, 3)))

    def energy(r):
        return 20.0 * jnp.sum(repulsion(r))

    def respond(r):
        born = properties.born_effective_charges(moments, r, lattice, pbc)
        return born, properties.field_forces(born, field) - jax.grad(energy)(r)

    @jax.jit
    def run(time_step):
        def step(state, _):
            r, v, (_, forces) = state
            half = v + 0.5 * time_step * forces / mass
            r = r + time_step * half
            response = respond(r)
            v = half + 0.5 * time_step * response[1] / mass
            return (r, v, response), (r, v, response[0])

        start = jnp.asarray(positions)
        return jax.lax.scan(step, (start, velocities, respond(start)), None, length=400)[1]

    errors = []
    for time_step, stride in ((0.5, 1), (0.25, 2)):
        r, v, born = (x[: 200 * stride] for x in run(time_step))
        dipole = properties.integrate_dipole(properties.dipole_rate(born, v), time_step)
        kinetic = 0.5 * jnp.sum(mass[None] * v * v, axis=(1, 2))
        potential, work = jax.vmap(energy)(r), dipole @ field
        total = kinetic + potential - work
        errors.append(float(jnp.max(jnp.abs(total - total[0]))))
        # they change by much more than their sum does
        assert float(jnp.ptp(work)) > 0.1
        assert errors[-1] < 0.01 * float(jnp.ptp(work))
        if not any(pbc):
            q, u = jax.vmap(moments)(r)
            of_positions = jax.vmap(lambda r, q, u: properties.dipole_moment(r, q - jnp.mean(q), dipoles=u))(r, q, u)
            np.testing.assert_allclose(dipole, of_positions - of_positions[:1], rtol=0, atol=1e-3 * time_step**2)
    assert 3.5 < errors[0] / errors[1] < 4.5
