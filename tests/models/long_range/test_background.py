"""Cells with a net charge: the background, and the warning where there is none."""

import dataclasses
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax.models import (
    CACEConfig,
    EquilibratedCharges,
    FixedCharges,
    Induction,
    LatentCharges,
    LongRangeConfig,
    ModelConfig,
    Potential,
    checks,
)
from lesjax.system import System
from lesjax.training.config import load_config
from lesjax.units import COULOMB
from toy import CELL, FRACTIONAL, moved_potential


X64 = jax.config.jax_enable_x64
SHORT_RANGE = CACEConfig(elements=(11, 17), cutoff=3.6, n_bessel=3, n_radial=2, n_embedding=1, max_l=1, max_nu=2)
FIXED = FixedCharges(values=(("Na", 1.0), ("Cl", -0.6)))
LATENT = LatentCharges(hidden=(4,), scale=5.0)
NET = 0.8  # of two Na and two Cl
PERIODIC = (True, True, True)


def make_config(charges=LATENT, *, background=False):
    return ModelConfig(SHORT_RANGE, LongRangeConfig(charges, k_cutoff=2.5, background=background), (4,))


def make_system(pbc=PERIODIC, scale=1.0, total_charge=0.7):
    positions = FRACTIONAL @ CELL + 0.1 * np.random.default_rng(0).normal(size=(4, 3))
    arrays = (scale * positions, scale * CELL, np.array([11, 11, 17, 17]), pbc)
    return System.from_arrays(*arrays, cutoff=SHORT_RANGE.cutoff, total_charge=total_charge)


def background_energy(charge, volume, sigma):
    """-(1/2ε0 V) (σ²/2) Q²."""
    return -math.pi * COULOMB * sigma**2 * charge**2 / volume


def test_energy_does_not_depend_on_sigma():
    """Ions more than 5 σ apart are points in the background."""
    system = make_system(scale=1.5)

    def energy(sigma):
        long_range = LongRangeConfig(FIXED, sigma=sigma, accuracy=1e-7 if X64 else 1e-5, background=True)
        out = Potential.create(ModelConfig(SHORT_RANGE, long_range, (4,)))(system)
        assert float(jnp.sum(out.charges)) == pytest.approx(NET)
        return float(out.long_range_energy)

    volume, narrow, wide = abs(np.linalg.det(system.cell)), 0.5, 0.75
    assert energy(narrow) == pytest.approx(energy(wide), abs=1e-5 if X64 else 1e-3)
    # what would be left of it
    assert background_energy(NET, volume, narrow) - background_energy(NET, volume, wide) > 0.01


@pytest.mark.skipif(not X64, reason="needs JAX_ENABLE_X64=1")
@pytest.mark.parametrize(
    "charges",
    [
        LATENT,
        pytest.param(dataclasses.replace(LATENT, induction=Induction(kappa=True)), marks=pytest.mark.slow),
        pytest.param(
            dataclasses.replace(LATENT, induction=Induction(kappa=True, alpha="none", self_consistent=True)),
            marks=pytest.mark.slow,
        ),
        EquilibratedCharges(hidden=(4,), scale=0.5),
    ],
    ids=["latent", "one-shot", "self-consistent", "equilibrated"],
)
def test_stress_is_the_derivative_of_the_energy(charges):
    config, system = make_config(charges, background=True), make_system()
    potential = moved_potential(config)
    solver = potential.make_solver(system)
    strain = np.random.default_rng(1).normal(size=(3, 3))
    strain += strain.T

    def predict(step):
        deform = np.eye(3) + step * strain
        changed = {"positions": system.positions @ deform, "cell": system.cell @ deform}
        return potential(dataclasses.replace(system, **changed), solver)

    out, step, volume = predict(0.0), 2e-5, abs(np.linalg.det(system.cell))
    difference = float(predict(step).energy - predict(-step).energy) / (2.0 * step)
    assert volume * np.sum(out.stress * strain) == pytest.approx(difference, rel=1e-6)
    net = float(jnp.sum(out.charges))
    assert abs(net) > 0.1
    if getattr(charges, "induction", None) is None:
        without = dataclasses.replace(config, long_range=dataclasses.replace(config.long_range, background=False))
        part = out.energy - dataclasses.replace(potential, config=without)(system).energy  # with a plan of its own
        assert float(part) == pytest.approx(background_energy(net, volume, 1.0), rel=1e-9)


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, False)], ids=["slab", "open"])
def test_no_background_elsewhere(pbc):
    system = make_system(pbc)
    energies = [float(Potential.create(make_config(FIXED, background=b))(system).energy) for b in (True, False)]
    assert energies[0] == energies[1]


@pytest.mark.parametrize("background", [True, False])
def test_key_of_the_configuration(tmp_path, background):
    (tmp_path / "a.xyz").touch()
    settings = [f"data.train={tmp_path / 'a.xyz'}", "output=out"]
    config = load_config("les", [*settings, *["model.long_range.background=true"] * background])
    assert config.model.long_range.background == background


def shown(potential, *systems):
    """Warnings of a process in which there was none."""
    checks._warn.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for system in systems:
            potential(system)
    return caught


def test_warning_of_a_charged_cell():
    neutral, system = dataclasses.replace(FIXED, values=(("Na", 1.0), ("Cl", -1.0))), make_system()
    (warning,) = shown(Potential.create(make_config(FIXED)), system, system)
    assert str(warning.message).startswith("The latent charges of a periodic cell add up to 0.8 e without a background")
    assert not shown(Potential.create(make_config(FIXED, background=True)), system)
    assert not shown(Potential.create(make_config(dataclasses.replace(FIXED, constraint="neutral"))), system)
    assert not shown(Potential.create(make_config(neutral)), system)
    assert not shown(Potential.create(make_config(FIXED)), make_system((False, False, False)))
    assert not shown(Potential.create(dataclasses.replace(make_config(), long_range=None)), system)
    checks._warn.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        potential = Potential.create(make_config(FIXED))
        for _ in range(2):
            with pytest.raises(UserWarning, match="without a background"):
                potential(system)
