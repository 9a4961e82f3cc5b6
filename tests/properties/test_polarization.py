"""Born effective charges: reference values, finite differences of the polarization, invariances."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import properties


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
    ("open", (False, False, False)),
]
IDS = [f"{name}-{''.join('FT'[p] for p in pbc)}" for name, pbc in BOUNDARIES]


def model(cell, pbc, q0, strength, u0=None):
    """Charges (and dipoles) that follow the neighbours smoothly and know the periodic images."""
    lattice = cell if any(pbc) else np.eye(3)
    inverse = np.linalg.inv(lattice)

    def moments(positions):
        s = (positions[None, :, :] - positions[:, None, :]) @ inverse
        ways = [(1.0 - jnp.cos(2 * np.pi * s[..., a])) if pbc[a] else (s[..., a] * np.linalg.norm(lattice[a])) ** 2 / 4
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
    kept = born_effective_charges(shifted, positions, cell, (True, True, True), remove_mean=False)
    np.testing.assert_allclose(kept, (q0 + 0.3)[:, None, None] * np.eye(3), atol=1e-12)


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


def reference_cases(shared_path):
    """With charges and dipoles that follow the positions or are fixed; those of one σ, on which nothing depends."""
    cases = json.loads(shared_path("reference/les_ewald.json").read_text())["cases"]
    return [c for c in cases if c["outputs"].get("bec") and c["name"][0] in "abcdej" and "s1.0_dl2.0_rsi1" in c["name"]]


def test_reference_values(shared_path):
    cases = reference_cases(shared_path)
    assert len(cases) == 14
    for case in cases:
        given = {k: np.array(v, float) for k, v in case["inputs"].items() if v is not None and k != "atomic_numbers"}
        periodic = case["settings"]["branch"] != "realspace"
        pbc = (periodic,) * 3
        cell = given["cell"] if periodic else np.zeros((3, 3))
        q0, n = given["q"].reshape(len(given["positions"]), -1)[:, 0], len(given["positions"])
        strength = given.get("qmodel_c", np.zeros(n))
        moments = model(cell, pbc, q0, strength, given["u"] if case["name"].startswith("e_") else None)
        expected = np.array(case["outputs"]["bec"])
        born = born_effective_charges(moments, given["positions"], cell, pbc)
        total = expected.sum(axis=1) if expected.ndim == 4 else expected
        np.testing.assert_allclose(born, total, atol=1e-8, err_msg=case["name"])
