"""Signs of latent charges and reference energies: what a potential carries beside its parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toy
from lesjax.models import (
    EquilibratedCharges,
    FixedCharges,
    Induction,
    LatentCharges,
    LongRangeConfig,
    ModelConfig,
    Potential,
    potential as module,
)
from lesjax.models.sign import flip
from lesjax.system import System
from lesjax.training.config import TrainingSection
from lesjax.training.initialize import initial_state
from lesjax.training.prepare import prepare
from lesjax.training.step import adam_step, make_optimizer, update_rule
from toy_model import ToyConfig


X64 = jax.config.jax_enable_x64
ATOL, RTOL = (1e-11, 1e-10) if X64 else (1e-5, 1e-4)
CACE = dataclasses.replace(toy.MODEL.short_range, elements=(11, 17), max_l=2)
TOY = ToyConfig((11, 17))
LATENT = LatentCharges(n_channels=2, hidden=(3,))

# short-range model, charges, and the total charge of the system
CASES = {
    "free": (TOY, LATENT, 0.0),
    "neutral": (TOY, dataclasses.replace(LATENT, constraint="neutral", element_charges=True), 0.0),
    "total charge of zero": (TOY, dataclasses.replace(LATENT, constraint="total"), 0.0),
    "multipoles": (CACE, dataclasses.replace(LATENT, dipoles=True, quadrupoles=True, hidden=()), 0.0),
    "induced": (TOY, dataclasses.replace(LATENT, dipoles=True, induction=Induction(kappa=True)), 0.0),
    "learned": (TOY, FixedCharges(n_channels=2), 0.0),
    "equilibrated": (TOY, EquilibratedCharges(element_charges=True, hidden=(3,)), 0.0),
}


def make_potential(short_range, charges):
    long_range = LongRangeConfig(charges, sigma=1.5, k_cutoff=2.0)
    return toy.moved_potential(ModelConfig(short_range, long_range, hidden=(), reference_energies=(-1.0, -2.0)))


def make_system(total_charge=0.0):
    atoms = toy.make_frame(np.random.default_rng(1))
    atoms.info["charge"] = total_charge
    return System.from_ase(atoms, cutoff=3.6)


@pytest.mark.parametrize("case", toy.with_slow(CASES, ["induced"]))
def test_flipping_the_signs(case):
    """Energies, forces and stress stay; all that is linear in the charges changes its sign."""
    short_range, charges, total_charge = CASES[case]
    potential, system = make_potential(short_range, charges), make_system(total_charge)
    assert charges.sign_is_free(np.array([total_charge]))
    np.testing.assert_array_equal(potential.signs, np.ones(charges.n_channels))
    one, two = potential(system), flip(potential, -1.0)(system)
    for name in ("energy", "total_energy", "short_range_energy", "long_range_energy", "forces", "stress"):
        np.testing.assert_allclose(getattr(two, name), getattr(one, name), rtol=0, atol=ATOL, err_msg=name)
    assert abs(one.long_range_energy) > 1e-5
    for name in ("charges", "dipoles", "quadrupoles"):
        expected = getattr(one, name)
        if expected is None:
            continue
        largest = np.abs(expected).max()
        assert largest > 1e-6
        np.testing.assert_allclose(getattr(two, name), -expected, rtol=0, atol=RTOL * largest, err_msg=name)
    born = [p.born_effective_charges(system) for p in (potential, flip(potential, -1.0))]
    assert np.abs(born[0]).max() > 1e-5
    np.testing.assert_allclose(born[1], -born[0], rtol=0, atol=10 * ATOL)


def test_channels_have_signs_of_their_own():
    potential, system = make_potential(*CASES["multipoles"][:2]), make_system()
    one, two = potential(system), flip(potential, np.array([1.0, -1.0]))(system)
    np.testing.assert_allclose(two.energy, one.energy, rtol=0, atol=ATOL)
    for name in ("charges", "dipoles", "quadrupoles"):
        found, expected = (np.asarray(getattr(out, name)) for out in (two, one))
        np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=RTOL, err_msg=name)
        np.testing.assert_allclose(found[:, 1], -expected[:, 1], rtol=RTOL, err_msg=name)


VALUES = (("Na", 1.0), ("Cl", -1.0))


@pytest.mark.parametrize(
    ("charges", "total_charge", "free"),
    [
        (LatentCharges(), 1.0, True),
        (LatentCharges(constraint="neutral"), 1.0, True),
        (LatentCharges(constraint="total"), 0.0, True),
        (LatentCharges(constraint="total", scale=2.0), 1.0, False),
        (FixedCharges(), 1.0, True),
        (FixedCharges(constraint="total"), 0.0, True),
        (FixedCharges(constraint="total"), 1.0, False),
        (FixedCharges(VALUES), 0.0, False),
        (EquilibratedCharges(), 0.0, True),
        (EquilibratedCharges(), 1.0, False),
    ],
)
def test_where_the_sign_is_free(charges, total_charge, free):
    """As `sign_is_free` says, for a set in which one structure has the charge; and as the energy says."""
    assert charges.sign_is_free(np.array([0.0, total_charge, 0.0])) == free
    if charges == FixedCharges(VALUES):
        return  # the energy is even in them, but their sign is given
    potential, system = make_potential(TOY, charges), make_system(total_charge)
    change = abs(float(potential(system).energy - flip(potential, -1.0)(system).energy))
    assert change < ATOL if free else change > 1e-4


def test_short_range_model_has_none():
    assert Potential.create(ModelConfig(TOY, None)).signs is None


def test_weight_decay_leaves_signs_and_exempt_parameters(tmp_path):
    """No gradient and no decay reach the signs; a step with a large decay keeps what they are."""
    config = toy.make_config(tmp_path, toy.make_frames(4), model=ModelConfig(ToyConfig(), hidden=()))
    prepared = prepare(dataclasses.replace(config, data=dataclasses.replace(config.data, valid_fraction=0.0)))
    section = TrainingSection(optimizer="adamw", weight_decay=0.5, clip=0.0)
    potential = flip(Potential.create(prepared.model, seed=1), -1.0)
    state = initial_state(section, potential)
    rows, real = np.arange(4), np.ones(4, bool)
    rate, weights = jnp.asarray(1e-3), {"energy": 1.0, "forces": 1.0}
    for _ in range(2):
        state, _ = adam_step(update_rule(section), state, prepared.train.buckets[0], rows, real, rate, weights)
    np.testing.assert_array_equal(state["potential"].signs, [-1.0])
    # without any gradient only decay is left
    optimizer = make_optimizer(update_rule(section), prepared.model)
    zeros = jax.tree.map(jnp.zeros_like, potential.params)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(potential.params), potential.params)
    np.testing.assert_array_equal(updates["short_range"]["widths"], 0.0)
    kernel = potential.params["energy"]["readout"]["layer0"]["output"]["kernel"]
    np.testing.assert_allclose(updates["energy"]["readout"]["layer0"]["output"]["kernel"], -0.5 * kernel, rtol=1e-6)


# ---- reference energies


def with_references(potential, *values):
    return dataclasses.replace(potential, config=dataclasses.replace(potential.config, reference_energies=values))


def test_other_reference_energies_compile_nothing():
    potential, system = make_potential(TOY, LATENT), make_system()
    first = potential(system)
    before = module._predict._cache_size()
    other = with_references(potential, -100.0, -300.0)(system)
    none = with_references(potential)(system)
    assert module._predict._cache_size() == before
    # two atoms of each element
    for out, total in ((first, -6.0), (other, -800.0), (none, 0.0)):
        np.testing.assert_array_equal(out.energy, first.energy)
        np.testing.assert_allclose(out.total_energy - np.float64(out.energy), total, rtol=0, atol=1e-12)


def test_total_energy_keeps_its_digits_in_float32():
    """Near -5e5 eV, float32 has steps of 0.03 eV."""
    potential = with_references(make_potential(TOY, LATENT), -1e5, -1.5e5)
    system = make_system()
    floats = lambda tree: jax.tree.map(  # noqa: E731
        lambda x: x.astype("float32") if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )
    out = floats(potential)(floats(system), floats(potential.make_solver(system)))
    assert out.energy.dtype == np.float32
    assert out.total_energy.dtype == np.float64
    assert out.total_energy + 5e5 == pytest.approx(float(out.energy), abs=1e-9)
    assert float(out.energy) == pytest.approx(float(potential(system).energy), abs=1e-5)


def test_energy_under_jit_is_the_energy_of_interaction():
    potential, system = with_references(make_potential(TOY, LATENT), -1e5, -1.5e5), make_system()
    solver = potential.make_solver(system)
    out = potential(system)
    energy = jax.jit(lambda p, s: p.energy(s, solver))(potential, system)
    np.testing.assert_allclose(energy, out.energy, rtol=0, atol=ATOL)
    # a whole prediction that is traced has no total energy
    assert jax.jit(lambda p, s: p(s, solver))(potential, system).total_energy is None
    total = potential.total_energy(np.array([1.0, 2.0]), system.atomic_numbers)
    np.testing.assert_allclose(total, [-5e5 + 1.0, -5e5 + 2.0], rtol=0, atol=1e-9)
