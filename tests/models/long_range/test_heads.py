"""Dipoles, quadrupoles, induced and equilibrated charges, total charges: variants of the long-range part.

One list of variants that together have every option, times one list of properties.
"""

import dataclasses
import functools

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lesjax
from lesjax import ewald
from lesjax.models import (
    CACEConfig,
    EquilibratedCharges,
    FixedCharges,
    Induction,
    LatentCharges,
    LongRangeConfig,
    ModelConfig,
    Potential,
)
from lesjax.models.potential import apply, energy_parts, predict
from lesjax.neighbors.batching import stack_systems
from lesjax.system import System
from toy import moved_potential


X64 = jax.config.jax_enable_x64
needs_x64 = pytest.mark.skipif(not X64, reason="needs JAX_ENABLE_X64=1")
RTOL = 1e-10 if X64 else 1e-4

CELL = np.array([[4.6, 0.0, 0.0], [1.3, 5.2, 0.0], [-0.8, 1.1, 4.2]])
NUMBERS = np.array([8, 1, 1, 8, 1])
FRACTIONAL = np.array([[0.1, 0.1, 0.1], [0.3, 0.15, 0.1], [0.05, 0.3, 0.15], [0.5, 0.6, 0.55], [0.7, 0.6, 0.6]])
POSITIONS = (FRACTIONAL + 0.02 * np.random.default_rng(0).normal(size=(5, 3))) @ CELL
TOTAL_CHARGE, MULTIPLICITY = 1.0, 2.0

SMALL = {"elements": (1, 8), "cutoff": 3.0, "n_bessel": 3, "n_radial": 2, "n_embedding": 1, "max_l": 2, "max_nu": 2}
READOUT = {"hidden": (4,)}
CHARGES = {
    "multipoles": LatentCharges(dipoles=True, quadrupoles=True, n_channels=2, constraint="total", **READOUT),
    "one-shot": FixedCharges(dipoles=True, induction=Induction(kappa=True)),
    "self-consistent": LatentCharges(induction=Induction(kappa=True, alpha="tensor", self_consistent=True), **READOUT),
    "equilibration": EquilibratedCharges(element_charges=True, **READOUT),
}
# wide enough for the polarizabilities of random parameters
SIGMA = {"self-consistent": 2.5}
MODELS = {
    name: ModelConfig(
        CACEConfig(**SMALL), LongRangeConfig(charges, sigma=SIGMA.get(name, 1.2), k_cutoff=2.5), **READOUT,
        state_inputs=("total_charge", "spin_multiplicity") if name == "multipoles" else (),
    )
    for name, charges in CHARGES.items()
}  # fmt: skip


@functools.cache
def random_potential(name):
    return moved_potential(MODELS[name])


@pytest.fixture(scope="module", params=MODELS)
def potential(request):
    return random_potential(request.param)


def make_system(positions=POSITIONS, cell=CELL, pbc=(True, True, True), **state):
    state = {"total_charge": TOTAL_CHARGE, "spin_multiplicity": MULTIPLICITY} | state
    return System.from_arrays(positions, cell, NUMBERS, pbc, cutoff=3.0, **state)


def predicted_parts(potential, system, solver):
    """Charges and multipoles, and the energy under its name in a prediction."""
    parts = energy_parts(potential, system, solver)[2]
    names = ("charges", "dipoles", "quadrupoles")
    return {"long_range_energy": parts.energy} | {name: getattr(parts, name) for name in names}


def assert_close(found, expected, name, rtol=RTOL):
    atol = rtol * max(0.1, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["proper", "improper"])
def test_rotation(potential, sign):
    r = sign * np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    one, two = potential(make_system()), potential(make_system(POSITIONS @ r, CELL @ r))
    expected = {"energy": one.energy, "forces": one.forces @ r, "charges": one.charges}
    expected["stress"] = r.T @ one.stress @ r
    if one.dipoles is not None:
        expected["dipoles"] = one.dipoles @ r
        assert np.abs(one.dipoles).max() > 1e-5
    if one.quadrupoles is not None:
        expected["quadrupoles"] = np.einsum("ncab,ai,bj->ncij", one.quadrupoles, r, r)
        assert np.abs(one.quadrupoles).max() > 1e-3
        assert_close(np.trace(one.quadrupoles, axis1=2, axis2=3), np.zeros((5, 2)), "trace")
    for name, value in expected.items():
        assert_close(getattr(two, name), value, name)


def test_tensor_of_polarizability():
    """Turns with the system, is symmetric and positive definite, and far from a multiple of one."""
    potential = random_potential("self-consistent")
    heads = dict(potential.params["heads"])
    heads["anisotropy"] = jax.tree.map(lambda p: 80.0 * p, heads["anisotropy"])
    potential = dataclasses.replace(potential, params={**potential.params, "heads": heads})
    alpha_of = jax.jit(lambda system: apply(potential, system)[1].alpha)
    r = -np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    alpha, turned = alpha_of(make_system()), alpha_of(make_system(POSITIONS @ r, CELL @ r))
    assert_close(turned, np.einsum("ncab,ai,bj->ncij", alpha, r, r), "alpha")
    np.testing.assert_array_equal(alpha, np.swapaxes(alpha, 2, 3))
    eigenvalues = np.linalg.eigvalsh(alpha)
    assert eigenvalues.min() > 0
    assert np.max(eigenvalues[..., 2] / eigenvalues[..., 0]) > 1.2


@needs_x64
def test_forces_and_stress_are_derivatives(potential):
    """Finite differences at fixed neighbours and k-vectors, along random directions."""
    system = make_system()
    solver = potential.make_solver(system)
    out = potential(system, solver)
    rng, step = np.random.default_rng(1), 1e-5

    def energy(displacement, strain):
        deformation = np.eye(3) + strain
        moved = (system.positions + displacement) @ deformation
        return potential(dataclasses.replace(system, positions=moved, cell=system.cell @ deformation), solver).energy

    for _ in range(3):
        move, strain = rng.normal(size=(5, 3)), rng.normal(size=(3, 3))
        slope = (energy(step * move, 0.0) - energy(-step * move, 0.0)) / (2 * step)
        np.testing.assert_allclose(-np.sum(out.forces * move), slope, rtol=1e-6, atol=1e-6)
        strain = 0.1 * (strain + strain.T)
        slope = (energy(0.0, step * strain) - energy(0.0, -step * strain)) / (2 * step)
        volume = abs(np.linalg.det(CELL))
        np.testing.assert_allclose(volume * np.sum(out.stress * strain), slope, rtol=1e-6, atol=1e-6)
    assert abs(out.long_range_energy) > 1e-3


def test_padded_and_mapped_is_alone(potential):
    """The forces, which take longest to compile, of one variant."""
    systems = [make_system(), make_system(POSITIONS @ np.diag([1.1, 1.0, 1.0]), total_charge=-1.0)]
    solvers = [potential.make_solver(system) for system in systems]
    batch = jax.device_put(stack_systems(systems, (7, 40)))
    names = ["charges", "dipoles", "quadrupoles", "long_range_energy"]
    if isinstance(potential.config.long_range.charges, EquilibratedCharges):
        one = lambda *arguments: vars(predict(potential, *arguments, with_stress=True))  # noqa: E731
        names += ["energy", "forces", "stress"]
    else:
        one = functools.partial(predicted_parts, potential)
    mapped = jax.jit(jax.vmap(one))(batch, ewald.stack_solvers(type(solvers[0]).share_sizes(solvers)))
    for i, system in enumerate(systems):
        single = potential(system, solvers[i])
        for name in names:
            expected = getattr(single, name)
            if expected is None:
                continue
            found = mapped[name][i]
            if name in ("charges", "dipoles", "quadrupoles", "forces"):
                np.testing.assert_array_equal(found[5:], 0.0, err_msg=name)
                found = found[:5]
            assert_close(found, expected, name)
    # the same parameters, another total charge
    if potential.config.needs_total_charge:
        np.testing.assert_allclose(np.sum(mapped["charges"], (1, 2)), [1.0, -1.0], rtol=0, atol=1e-13 if X64 else 1e-6)


@pytest.mark.parametrize("name", [pytest.param("one-shot", marks=pytest.mark.slow), "equilibration"])
def test_born_effective_charges_are_the_derivative_of_the_dipole(name):
    """With latent and induced dipoles, and the response of the charges."""
    potential = random_potential(name)
    cluster = {"cell": np.zeros((3, 3)), "pbc": (False, False, False)}

    def dipole(positions):
        out = potential(make_system(positions, **cluster))
        charges = np.asarray(out.charges, float).sum(axis=1)
        latent = 0.0 if out.dipoles is None else np.asarray(out.dipoles, float).sum(axis=(0, 1))
        if name == "one-shot":  # kappa: the sum of the charges is not held
            charges -= charges.mean()
        return positions.T @ charges + latent

    born = potential.born_effective_charges(make_system(**cluster))
    total = 0.0 if name == "one-shot" else TOTAL_CHARGE
    np.testing.assert_allclose(np.sum(born, axis=0), total * np.eye(3), atol=1e-8 if X64 else 1e-4)
    step = 1e-4 if X64 else 1e-2
    moved = np.zeros((5, 3))
    moved[3, 1] = step
    slope = (dipole(POSITIONS + moved) - dipole(POSITIONS - moved)) / (2 * step)
    np.testing.assert_allclose(born[3, :, 1], slope, rtol=0, atol=1e-7 if X64 else 1e-2)


def test_survives_the_disk(potential, tmp_path):
    potential.save(tmp_path / "model")
    loaded = lesjax.load(tmp_path / "model")
    assert loaded.config == potential.config
    assert_close(loaded(make_system()).energy, potential(make_system()).energy, "energy")


def test_state_is_read_from_atoms():
    potential = random_potential("multipoles")
    atoms = ase.Atoms(NUMBERS, POSITIONS, cell=CELL, pbc=True, info={"charge": 1, "spin": np.int64(2)})
    expected = potential(make_system())
    assert_close(potential(System.from_ase(atoms, cutoff=3.0)).energy, expected.energy, "energy")
    other = potential(make_system(spin_multiplicity=4.0))
    assert abs(other.energy - expected.energy) > 1e-3
    for info, message in (
        ({}, r"`total_charge` \(in e\) is needed by this model, got nan.*`atoms\.info\['charge'\] = -1`"),
        ({"charge": 0}, r"`spin_multiplicity` \(2S \+ 1\) is needed.*`atoms\.info\['spin'\] = 2`"),
        ({"charge": 0, "spin": 0}, r"`spin_multiplicity` \(2S \+ 1\) is needed by this model, got 0\.0"),
        ({"charge": "neutral"}, r"`total_charge` \(in e\) is needed by this model, got nan"),
    ):
        atoms.info = info
        for use in (potential, potential.energy, potential.born_effective_charges):
            with pytest.raises(ValueError, match=message):
                use(System.from_ase(atoms, cutoff=3.0))


def test_each_element_sees_the_state_for_itself():
    """Lone ions have no features: what sets the energies of one charge apart is the element."""
    for by_element in (None, True):
        potential = moved_potential(dataclasses.replace(MODELS["multipoles"], state_by_element=by_element))

        def energy(z, charge, potential=potential):
            state = {"total_charge": charge, "spin_multiplicity": 1.0}
            return float(
                potential(
                    System.from_arrays(np.zeros((1, 3)), np.zeros((3, 3)), [z], False, cutoff=3.0, **state)
                ).energy
            )

        assert abs(energy(1, 0.0) - energy(8, 0.0)) < 1e-6
        assert (abs(energy(1, 1.0) - energy(8, 1.0)) > 1e-3) == bool(by_element)


def test_fixed_charges_from_a_table():
    """The plain sum of point charges, whatever the parameters."""
    long_range = LongRangeConfig(FixedCharges(values=(("O", -0.8), ("H", 0.4))))
    potential = moved_potential(dataclasses.replace(MODELS["one-shot"], long_range=long_range))
    charges = jax.jit(lambda system: apply(potential, system)[1].charges)(make_system())
    np.testing.assert_allclose(charges[:, 0], [-0.8, 0.4, 0.4, -0.8, 0.4], rtol=1e-6)
    assert "charges" not in potential.params


def test_polarization_catastrophe_is_an_error():
    potential = random_potential("self-consistent")
    heads = dict(potential.params["heads"])
    heads["alpha"] = {**heads["alpha"], "bias": jnp.full_like(heads["alpha"]["bias"], 100.0)}
    broken = dataclasses.replace(potential, params={**potential.params, "heads": heads})
    with pytest.raises(ValueError, match=r"polarization catastrophe.*Make them smaller"):
        broken(make_system())


@pytest.mark.parametrize(
    ("options", "max_l", "message"),
    [
        ({"dipoles": True}, 0, r"`dipoles` need vectors, which the short-range .* `max_l` to at least 1"),
        ({"quadrupoles": True}, 1, r"`quadrupoles` need tensors, .* `max_l` to at least 2"),
        ({"induction": Induction(alpha="tensor")}, 1, r"`anisotropy` need tensors"),
    ],
)
def test_heads_that_the_short_range_model_cannot_serve(options, max_l, message):
    config = ModelConfig(CACEConfig(**{**SMALL, "max_l": max_l}), LongRangeConfig(LatentCharges(**options)))
    with pytest.raises(ValueError, match=message):
        Potential.create(config)
