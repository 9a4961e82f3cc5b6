"""No matrix product leaves its digits to the device: the default of some GPUs, TF32, has three of them.

Counted in the traced functions, as no GPU is needed for that.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import io
from lesjax.dynamics import Settings, energy_neighbor_list
from lesjax.dynamics.simulation import Simulation
from lesjax.ewald import make_solver
from lesjax.models import EquilibratedCharges, Induction, LatentCharges, LongRangeConfig, Potential
from lesjax.models.potential import predict, predict_born_charges
from lesjax.system import System
from lesjax.training.config import DataConfig
from lesjax.training.prepare import model_config
from toy import MODEL, make_frame


LATENT = LatentCharges(hidden=(4,))
MULTIPOLES = LatentCharges(hidden=(4,), dipoles=True, quadrupoles=True, n_channels=2)
INDUCED = LatentCharges(hidden=(4,), induction=Induction(kappa=True, alpha="tensor", self_consistent=True))


def products(jaxpr: Any) -> Iterator[Any]:
    """Precision of each product of floats, in all that is called."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general" and jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.inexact):
            yield equation.params["precision"]
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def assert_all_digits(function: Any, *arguments: Any) -> None:
    found = list(products(jax.make_jaxpr(function)(*arguments).jaxpr))
    assert found
    highest = (jax.lax.Precision.HIGHEST,) * 2
    assert all(precision == highest for precision in found), found


def make_potential(atoms, charges=LATENT, messages=(("M", "Ar", "Bchi"),)) -> Potential:
    cace = dataclasses.replace(MODEL.short_range, max_l=2, messages=messages, bchi_shared=False)
    model = dataclasses.replace(MODEL, short_range=cace, long_range=LongRangeConfig(charges))
    return Potential.create(model_config(model, DataConfig(train="none.xyz"), [atoms], io.all_labels([atoms])))


@pytest.fixture
def atoms():
    atoms = make_frame(np.random.default_rng(0))
    atoms.info["charge"] = 0.0
    return atoms


@pytest.mark.parametrize(
    ("method", "charges"),
    [
        ("direct", MULTIPOLES),
        ("mesh", MULTIPOLES),
        ("open", MULTIPOLES),
        ("direct", INDUCED),
        ("open", EquilibratedCharges(hidden=(4,))),
    ],
)
def test_energy_forces_stress_and_born_charges(atoms, charges, method):
    potential = make_potential(atoms, charges)
    system = jax.device_put(System.from_ase(atoms, cutoff=potential.cutoff, pbc=method != "open"))
    solver = make_solver(atoms.cell.array, method != "open", n_atoms=len(atoms), method=method)
    with_stress = method != "open"
    assert_all_digits(lambda s: predict(potential, s, solver, with_stress=with_stress), system)
    assert_all_digits(lambda s: predict_born_charges(potential, s, solver)[0], system)


@pytest.mark.usefixtures("jax_md_leniency")
def test_dynamics(atoms, tmp_path):
    potential = make_potential(atoms, messages=())
    run = Simulation(potential, atoms, tmp_path, Settings("npt-flexible", temperature=300.0))
    assert_all_digits(run.motion.run_block, run.force_field, run.state, run.cell, jnp.asarray(3, jnp.int32))
    neighbor_fn, energy_fn = energy_neighbor_list(potential, atoms, fractional_coordinates=True)
    box = jnp.asarray(atoms.cell.array.T)
    positions = jnp.asarray(atoms.get_scaled_positions())
    neighbors = neighbor_fn.allocate(positions, box=box)

    def energy(positions, box, perturbation):
        return energy_fn(positions, neighbors, box=box, perturbation=perturbation)

    assert_all_digits(jax.grad(energy, (0, 1, 2)), positions, box, jnp.eye(3))
    assert_all_digits(lambda r, b: neighbor_fn.update(r, neighbors, box=b), positions, box)
