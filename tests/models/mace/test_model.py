"""Symmetries of MACE, and what its options change."""

import dataclasses

import ase
import jax
import numpy as np
import pytest
from ase.data import covalent_radii

import toy
from lesjax.models import LatentCharges, LongRangeConfig, ModelConfig, Potential
from lesjax.models.mace import MACE, MACEConfig
from lesjax.models.mace.config import NON_RESIDUAL, RESIDUAL
from lesjax.system import System


X64 = jax.config.jax_enable_x64
CUTOFF, ATOL = 4.6, 1e-11 if X64 else 2e-5

MODELS = {
    "scalars": {"hidden_irreps": "5x0e", "max_ell": 3, "interaction_first": NON_RESIDUAL[0], "radial_type": "gaussian"},
    "vectors": {"hidden_irreps": "4x0e+4x1o", "max_ell": 2, "num_interactions": 3, "correlation": 2},
    "densities": {
        "hidden_irreps": "4x0e+4x1o", "max_ell": 2, "interaction_first": NON_RESIDUAL[1], "interaction": RESIDUAL[1],
        "distance_transform": "Agnesi",
    },
    "tensors": {"hidden_irreps": "3x0e+3x1o+3x2e", "max_ell": 2, "pair_repulsion": True},
}  # fmt: skip


def make_config(**options):
    return MACEConfig((11, 17), CUTOFF, radial_MLP=(6,), num_radial_basis=4, avg_num_neighbors=3.0, **options)


class Model:
    """Features of a model with random parameters, compiled once for each shape."""

    def __init__(self, options):
        self.config = make_config(**options)
        frame = toy.make_frame(np.random.default_rng(1))
        self.frame = ase.Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=True)
        self.params = MACE(self.config).init(jax.random.key(0), self.system(self.frame))
        self.apply = jax.jit(MACE(self.config).apply)

    def system(self, frame, shape=(4, 24)):
        system = System.from_ase(frame, cutoff=self.config.cutoff)
        return jax.device_put(system.pad_to(*shape))

    def __call__(self, frame, shape=(4, 24)):
        features = self.apply(self.params, self.system(frame, shape))
        return jax.tree.map(np.asarray, features)


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return Model(MODELS[request.param])


def assert_close(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=ATOL * max(1.0, np.abs(a).max()))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_turned_and_reflected(model, sign):
    q = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    q *= sign * np.sign(np.linalg.det(q))
    turned = ase.Atoms(model.frame.numbers, model.frame.positions @ q, cell=model.frame.cell.array @ q, pbc=True)
    one, two = model(model.frame), model(turned)
    vectors = None if one.vectors is None else one.vectors @ q
    tensors = None if one.tensors is None else np.einsum("nkab,ac,bd->nkcd", one.tensors, q, q)
    for x in jax.tree.leaves(two._replace(energy=None)):
        assert np.abs(x).max() > 1e-3
    assert_close(one._replace(vectors=vectors, tensors=tensors), two)


def test_moved_permuted_and_padded(model):
    one, order = model(model.frame), [2, 0, 3, 1]
    moved = model.frame[order]
    moved.positions += [3.0, -1.0, 9.0]
    assert_close(jax.tree.map(lambda x: x[np.array(order)], one), model(moved))
    padded = model(model.frame, (7, 27))
    assert_close(one, jax.tree.map(lambda x: x[:4], padded))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(padded))


def test_gives_what_its_irreps_have(model):
    c = model.config
    features = model(model.frame)
    assert [x.shape for x in features.layers] == [(4, c.channels)] * c.num_interactions
    orders = c.hidden_irreps.count("x")
    assert (features.vectors is None) == (orders < 2)
    assert (features.tensors is None) == (orders < 3)
    if features.tensors is not None:
        np.testing.assert_allclose(np.trace(features.tensors, axis1=2, axis2=3), 0.0, atol=ATOL)


def test_messages_reach_beyond_the_cutoff():
    """By one cutoff for each layer."""
    chain = ase.Atoms("NaClNaCl", [[0.0, 0.0, 2.4 * i] for i in range(4)])
    for n in (1, 2, 3):
        config = make_config(hidden_irreps="3x0e", max_ell=1, num_interactions=n)
        system = jax.device_put(System.from_ase(chain, cutoff=CUTOFF))
        params = MACE(config).init(jax.random.key(0), system)

        def first(positions, config=config, system=system, params=params):
            return MACE(config).apply(params, dataclasses.replace(system, positions=positions)).layers[-1][0].sum()

        moves = np.abs(jax.jit(jax.grad(first))(system.positions)).max(axis=1)
        assert (moves > 1e-9).tolist() == [i <= n for i in range(4)]


def test_forces_and_stress_are_derivatives():
    if not X64:
        pytest.skip("needs JAX_ENABLE_X64=1")
    charges = LatentCharges(dipoles=True, quadrupoles=True, hidden=(3,))
    options = {
        "hidden_irreps": "2x0e+2x1o+2x2e", "max_ell": 2, "correlation": 2, "pair_repulsion": True,
        "interaction": RESIDUAL[1], "distance_transform": "Agnesi",
    }  # fmt: skip
    config = ModelConfig(make_config(**options), LongRangeConfig(charges, k_cutoff=2.0), hidden=(4,))
    potential = toy.moved_potential(config)
    frame = toy.make_frame(np.random.default_rng(1))
    width = System.from_ase(frame, cutoff=CUTOFF).shape[1] + 4
    out = potential(System.from_ase(frame, cutoff=CUTOFF).pad_to(4, width))
    direction = np.random.default_rng(2).normal(size=(4, 3))
    strain = np.random.default_rng(3).normal(size=(3, 3))
    strain = strain + strain.T

    def energy(step, strained):
        moved = frame.copy()
        if strained:
            moved.set_cell(frame.cell @ (np.eye(3) + step * strain), scale_atoms=True)
        else:
            moved.positions += step * direction
        return float(potential(System.from_ase(moved, cutoff=CUTOFF).pad_to(4, width)).energy)

    for strained, expected in (
        (False, -np.sum(out.forces * direction)),
        (True, frame.get_volume() * np.sum(out.stress * strain)),
    ):
        slope = (energy(3e-5, strained) - energy(-3e-5, strained)) / 6e-5
        assert abs(expected) > 1e-2
        assert slope == pytest.approx(float(expected), rel=1e-6)


def test_repulsion_of_two_atoms():
    """The formula of Ziegler, Biersack and Littmark; none beyond the sum of the covalent radii."""
    config = make_config(hidden_irreps="2x0e", max_ell=0, pair_repulsion=True)
    reach = covalent_radii[11] + covalent_radii[17]
    a = 0.4543 * 0.529 / (11**0.3 + 17**0.3)
    params, apply = None, jax.jit(MACE(config).apply)
    for r in (0.7, 1.3, reach + 0.1):
        atoms = ase.Atoms("NaCl", [[0.0, 0.0, 0.0], [0.0, r, 0.0]])
        system = jax.device_put(System.from_ase(atoms, cutoff=CUTOFF))
        params = MACE(config).init(jax.random.key(0), system) if params is None else params
        energies = apply(params, system).energy
        terms = zip((0.1818, 0.5099, 0.2802, 0.02817), (3.2, 0.9423, 0.4028, 0.2016), strict=True)
        x = r / reach
        envelope = 1.0 - 21.0 * x**5 + 35.0 * x**6 - 15.0 * x**7 if x < 1.0 else 0.0
        expected = 0.5 * 14.3996 * 11 * 17 / r * sum(c * np.exp(-b * r / a) for c, b in terms) * envelope
        np.testing.assert_allclose(energies, [expected] * 2, rtol=1e-10 if X64 else 1e-5, atol=1e-12)


def test_density_and_transformed_distances():
    """The layer of two atoms with two radial functions, written out."""
    options = {"num_radial_basis": 2, "radial_MLP": (), "distance_transform": "Agnesi", "correlation": 1}
    config = MACEConfig(
        (11, 17), CUTOFF, "1x0e", num_interactions=1, max_ell=0, interaction_first=NON_RESIDUAL[1], **options
    )
    r = 2.3
    system = jax.device_put(System.from_ase(ase.Atoms("NaCl", [[0.0, 0.0, 0.0], [0.0, r, 0.0]]), cutoff=CUTOFF))
    params = MACE(config).init(jax.random.key(0), system)
    found = MACE(config).apply(params, system).layers[0][:, 0]

    weights = jax.tree.map(lambda x: np.asarray(x, float), params["params"])
    layer, x = weights["layer0"], r / (0.5 * (covalent_radii[11] + covalent_radii[17]))
    transformed = 1.0 / (1.0 + 1.0805 * x**0.9183 / (1.0 + x ** (0.9183 - 4.5791)))
    y = r / CUTOFF
    envelope = 1.0 - 21.0 * y**5 + 35.0 * y**6 - 15.0 * y**7
    waves = np.sin(np.array([1, 2]) * np.pi * transformed / CUTOFF)
    radial = (2.0 / CUTOFF) ** 0.5 * waves / transformed * envelope
    density = np.tanh((radial @ layer["density"]) ** 2)[0]
    assert density > 1e-3
    sums = weights["embedding"][::-1, 0] * layer["up0"] * (radial @ layer["radial0"]) * layer["mix0"] / (1.0 + density)
    expected = sums[0] * layer["skip0"][:, 0, 0] * layer["product0"][:, 0, 0] * layer["out0"][0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-11 if X64 else 1e-4)


def test_parameters_start_of_the_order_of_one():
    config = ModelConfig(make_config(hidden_irreps="16x0e+16x1o"), None, hidden=(4,))
    potential = Potential.create(config)
    system = jax.device_put(System.from_ase(toy.make_frame(np.random.default_rng(1)), cutoff=CUTOFF))
    features = jax.jit(MACE(config.short_range).apply)({"params": potential.params["short_range"]}, system)
    for layer in features.layers:
        assert 0.1 < np.sqrt(np.mean(np.square(layer))) < 30.0
