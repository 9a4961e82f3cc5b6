"""Every kind of solver against the equation of the paper; and what the compiled programs are made of."""

import importlib.util
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import formula
from lesjax import ewald
from lesjax.units import COULOMB


X64 = jax.config.jax_enable_x64
CELL = np.array([[4.9, 0.0, 0.0], [1.4, 5.7, 0.0], [-0.9, 1.1, 4.3]])
SIGMA, K_CUTOFF = 0.9, 3.5
METHODS = ["direct", "mesh"] + ["nufft"] * (importlib.util.find_spec("jax_finufft") is not None)
# the default accuracy of what interpolates beside a given cutoff
TOLERANCE = {"direct": 1e-12 if X64 else 1e-5, "mesh": 1e-4, "nufft": 1e-4}


def make_ions():
    rng = np.random.default_rng(3)
    return rng.uniform(0, 1, (5, 3)) @ CELL, rng.normal(size=5)


@pytest.mark.parametrize("method", METHODS)
def test_periodic_sum_is_the_equation(method):
    positions, charges = make_ions()
    solver = ewald.make_solver(CELL, True, n_atoms=5, sigma=SIGMA, k_cutoff=K_CUTOFF, method=method)
    found = ewald.energy(solver, *(jnp.asarray(x, float) for x in (positions, CELL, charges)))
    expected = formula.energy(positions, CELL, charges, SIGMA, K_CUTOFF)
    assert abs(expected) > 1.0
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[method] * 20.0)


def test_open_sum_is_the_equation():
    positions, charges = make_ions()
    solver = ewald.make_solver(CELL, False, n_atoms=5, sigma=SIGMA)
    found = ewald.energy(solver, *(jnp.asarray(x, float) for x in (positions, CELL, charges)))
    expected = formula.open_energy(positions, charges, lambda r: COULOMB * math.erf(r / (math.sqrt(2.0) * SIGMA)) / r)
    np.testing.assert_allclose(found, expected, rtol=1e-12 if X64 else 1e-5)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("pbc", "method"),
    [(True, "direct"), (True, "mesh"), (False, "open"), ((True, True, False), "direct"), ((True, True, False), "mesh")],
    ids=["direct", "mesh", "open", "slab", "mesh slab"],
)
def test_no_call_of_a_library(pbc, method, platform):
    """Energy, forces and stress of charges and multipoles, and the question whether the plan holds.

    A factorization would be a custom call, which on a GPU waits for the device, and which not every format of exported
    programs has.
    """
    solver = ewald.make_solver(CELL, pbc, n_atoms=5, method=method)
    shapes = {"charges": (5,), "dipoles": (5, 3), "quadrupoles": (5, 3, 3)}
    sources = {name: jax.ShapeDtypeStruct(shape, float) for name, shape in shapes.items()}
    places = [jax.ShapeDtypeStruct(shape, float) for shape in ((5, 3), (3, 3))]

    def forces(positions, cell, sources):
        energy = lambda positions, cell: ewald.energy(solver, positions, cell, **sources)  # noqa: E731
        holds = solver.still_valid(cell) & solver.fits(positions, cell)
        return jax.value_and_grad(energy, (0, 1))(positions, cell), holds

    text = jax.jit(forces).trace(*places, sources).lower(lowering_platforms=(platform,)).as_text()
    assert re.findall(r"custom_call.*", text) == []
