"""Symmetries and derivatives of NequIP with charges, latent dipoles and quadrupoles."""

import dataclasses

import ase
import jax
import numpy as np
import pytest

import toy
from lesjax.models import LatentCharges, LongRangeConfig, ModelConfig
from lesjax.models.nequip import NequIP, NequIPConfig
from lesjax.models.nequip.config import layer_irreps
from lesjax.models.nequip.model import SCALES
from lesjax.system import System


X64 = jax.config.jax_enable_x64
ATOL = 1e-10 if X64 else 1e-4
SMALL = NequIPConfig(
    (11, 17), cutoff=4.8, num_bessels=3, num_features=2, l_max=2, invariant_layers=1, invariant_neurons=4,
    avg_num_neighbors=0.05,
)  # fmt: skip
PARITIES = {
    "both parities": {"num_layers": 2},
    "those of the harmonics": {"l_max": 1, "parity": False, "resnet": True, "nonlinearity_gates": "tanh"},
    "all even": {"l_max": 1, "parity": False, "reflection_symmetric": False, "readout_by_element": True},
}


def make_potential(options):
    config = dataclasses.replace(SMALL, **options)
    charges = LatentCharges(hidden=(), dipoles=True, quadrupoles=config.l_max > 1)
    long_range = LongRangeConfig(charges, k_cutoff=2.0)
    return toy.moved_potential(ModelConfig(config, long_range, hidden=(3,), energy_scale=1.0))


@pytest.fixture(scope="module", params=PARITIES)
def potential(request):
    return make_potential(PARITIES[request.param])


@pytest.fixture(scope="module")
def atoms():
    return toy.make_frame(np.random.default_rng(5))


def make_system(atoms):
    """One shape for all frames of four atoms, so that they are compiled once."""
    system = System.from_ase(atoms, cutoff=SMALL.cutoff)
    return system.pad_to(system.shape[0], 28)


def turned(atoms, matrix):
    return ase.Atoms(atoms.numbers, atoms.positions @ matrix, cell=atoms.cell.array @ matrix, pbc=True)


def assert_turned(one, two, matrix):
    np.testing.assert_allclose(two.energy, one.energy, atol=ATOL)
    np.testing.assert_allclose(two.charges, one.charges, atol=ATOL)
    np.testing.assert_allclose(two.forces, one.forces @ matrix, atol=ATOL)
    np.testing.assert_allclose(two.stress, matrix.T @ one.stress @ matrix, atol=ATOL)
    np.testing.assert_allclose(two.dipoles, one.dipoles @ matrix, atol=ATOL)
    if one.quadrupoles is not None:
        np.testing.assert_allclose(two.quadrupoles, matrix.T @ one.quadrupoles @ matrix, atol=ATOL)


def test_rotation_and_reflection(potential, atoms):
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    one = potential(make_system(atoms))
    assert np.abs(one.dipoles).max() > 1e-6
    assert one.quadrupoles is None or np.abs(one.quadrupoles).max() > 1e-6
    assert_turned(one, potential(make_system(turned(atoms, rotation))), rotation)
    mirrored = potential(make_system(turned(atoms, -rotation)))
    if potential.config.short_range.reflection_symmetric:
        assert_turned(one, mirrored, -rotation)
    else:
        assert abs(mirrored.energy - one.energy) > 1e-6


def test_permutation_translation_and_padding(potential, atoms):
    order = [2, 0, 3, 1]
    moved = atoms[order]
    moved.positions += [0.7, -1.3, 2.9]
    one, two = potential(make_system(atoms)), potential(make_system(moved))
    padded = potential(make_system(atoms).pad_to(6, 30))
    for name in ("energy", "stress"):
        np.testing.assert_allclose(getattr(two, name), getattr(one, name), atol=ATOL)
        np.testing.assert_allclose(getattr(padded, name), getattr(one, name), atol=ATOL)
    for name in ("forces", "charges", "dipoles"):
        np.testing.assert_allclose(getattr(two, name), getattr(one, name)[np.array(order)], atol=ATOL)
        np.testing.assert_allclose(getattr(padded, name)[:4], getattr(one, name), atol=ATOL)
        np.testing.assert_array_equal(getattr(padded, name)[4:], 0.0)


def test_supercell(atoms):
    potential = make_potential(PARITIES["both parities"])
    one, two = (potential(System.from_ase(x, cutoff=SMALL.cutoff)) for x in (atoms, atoms.repeat((2, 1, 1))))
    np.testing.assert_allclose(two.energy, 2.0 * one.energy, atol=10.0 * ATOL)
    np.testing.assert_allclose(two.forces, np.tile(one.forces, (2, 1)), atol=10.0 * ATOL)
    np.testing.assert_allclose(two.stress, one.stress, atol=10.0 * ATOL)


@pytest.mark.skipif(not X64, reason="needs JAX_ENABLE_X64=1")
def test_finite_differences(potential, atoms):
    """Of forces and stress, along a random displacement and a random strain."""
    rng = np.random.default_rng(7)
    system = make_system(atoms)
    solver = potential.make_solver(system)
    displacement, strain = rng.normal(size=(4, 3)), rng.normal(size=(3, 3))
    strain = strain + strain.T
    energy = jax.jit(lambda system: potential.energy(system, solver))

    def moved(h):
        return energy(dataclasses.replace(system, positions=system.positions + h * displacement))

    def strained(h):
        deformed = np.eye(3) + h * strain
        return energy(
            dataclasses.replace(system, positions=system.positions @ deformed, cell=np.asarray(system.cell) @ deformed)
        )

    out, h = potential(system, solver), 1e-5
    work, volume = np.sum(out.forces * displacement), atoms.get_volume()
    np.testing.assert_allclose((moved(h) - moved(-h)) / (2 * h), -work, atol=1e-7)
    np.testing.assert_allclose((strained(h) - strained(-h)) / (2 * h), volume * np.sum(out.stress * strain), atol=1e-5)
    assert abs(work) > 1e-3


@pytest.mark.parametrize(
    "options", [{}, {"l_max": 0, "num_layers": 1, "use_sc": False, "invariant_layers": 0, "resnet": True}]
)
def test_layers_of_one_atom(options):
    """A lone atom has features of its element, the same for all orientations, and no vectors."""
    config = dataclasses.replace(SMALL, **options)
    lone = System.from_ase(ase.Atoms("Na"), cutoff=4.8)
    features, _ = jax.jit(NequIP(config).init_with_output)(jax.random.key(0), jax.device_put(lone))
    np.testing.assert_array_equal(features.layers[0], 0.0)
    if options:
        assert features.vectors is None
    else:
        np.testing.assert_array_equal(features.vectors, 0.0)


def test_representations():
    """Both parities of all orders, once products reach them: scalars first, then what has gates."""
    layers = layer_irreps(dataclasses.replace(SMALL, num_layers=4))
    assert [layer.outputs for layer in layers] == [
        ((0, 1), (2, 1), (1, -1)),
        ((0, 1), (1, 1), (2, 1), (1, -1), (2, -1)),
        ((0, 1), (0, -1), (1, 1), (2, 1), (1, -1), (2, -1)),
        ((0, 1),),
    ]
    assert layers[3].paths == (((0, 1), 0, (0, 1)), ((2, 1), 2, (0, 1)), ((1, -1), 1, (0, 1)))


def test_scales_of_nonlinear_functions():
    """Second moments under a normal distribution are one, up to the sampling error of e3nn."""
    z = np.linspace(-12.0, 12.0, 24_001)
    weights = np.exp(-(z**2) / 2.0) / np.sqrt(2.0 * np.pi) * (z[1] - z[0])
    for name, function in (("silu", z / (1.0 + np.exp(-z))), ("tanh", np.tanh(z))):
        np.testing.assert_allclose(np.sum(weights * function**2) * SCALES[name] ** 2, 1.0, atol=4e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "`num_layers` must be at least 1, got 0"),
        ({"num_layers": 100}, "`num_layers` must lie from 1 to 32, got 100"),
        ({"l_max": 9}, "`l_max` must lie from 0 to 6, got 9"),
        ({"nonlinearity_gates": "relu"}, "`nonlinearity_gates` must be 'silu' or 'tanh', got 'relu'"),
        ({"reflection_symmetric": False}, "`parity` = true is of use with `reflection_symmetric` = true only"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NequIPConfig(**options)
