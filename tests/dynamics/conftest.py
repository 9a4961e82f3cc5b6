"""A small potential with latent charges, and ions for it."""

import dataclasses

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax.models import CACEConfig, LatentCharges, LongRangeConfig, ModelConfig, Potential
from toy import CELL, FRACTIONAL


CONFIG = ModelConfig(
    CACEConfig(elements=(11, 17), cutoff=3.6, n_bessel=3, n_radial=2, n_embedding=1, max_l=1, max_nu=2),
    LongRangeConfig(LatentCharges(hidden=(4,), scale=0.5), k_cutoff=2.6),
    hidden=(4,),
    reference_energies=(-5.0, -7.0),
)


def make_potential(config=CONFIG):
    created = Potential.create(config, seed=4)
    rng = np.random.default_rng(0)
    move = lambda p: jnp.asarray(p + 0.2 * rng.normal(size=p.shape), p.dtype)  # noqa: E731
    return dataclasses.replace(created, params=jax.tree.map(move, created.params))


@pytest.fixture(scope="session")
def small_potential():
    return make_potential()


@pytest.fixture(scope="session")
def short_range_potential():
    return make_potential(dataclasses.replace(CONFIG, long_range=None))


@pytest.fixture
def ions():
    """Eight ions in a triclinic cell, on two sides of its walls."""
    rng = np.random.default_rng(3)
    atoms = ase.Atoms("Na2Cl2", FRACTIONAL @ CELL, cell=CELL, pbc=True).repeat((2, 1, 1))
    atoms.positions += 0.15 * rng.normal(size=(8, 3))
    return atoms
