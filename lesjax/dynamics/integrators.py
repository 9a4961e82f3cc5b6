"""Integrators of the ensembles: one row of `SCHEMES` for each, with the fields that the rest of dynamics uses.

NVE, Nosé-Hoover and Langevin are jax-md's, constant pressure is in `barostat`, velocity rescaling here. All but
Langevin keep a total momentum of zero: three degrees of freedom less. A chain must count the same degrees as the system
that it drives; jax-md's counts all 3n, so its number is set. (A chain of 3n at a temperature scaled by (3n - 3)/3n has
a variance of the kinetic energy that is too small by this factor.)
"""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax_md import simulate
from jaxtyping import Array, Float

from lesjax.dynamics.barostat import Barostat, chain_energy


class Setup(NamedTuple):
    """Settings of an integrator, in ase's units: eV, Å, amu.

    Attributes:
        force_virial: ``(positions, cell, **given)`` -> forces and virial -dU/dε; where the cell is fixed, it is in
            `given` under the name `cell`.
        dt: time step.
        dof: degrees of freedom.
        kT: kT of the thermostat; 0 without one.
        pressure: eV/Å³.
        thermostat_time: period or relaxation time.
        barostat_time: period of the cell.
        seed: seed of random forces.
    """

    force_virial: Callable[..., tuple[Array, Array]]
    dt: float
    dof: int
    kT: float = 0.0
    pressure: float = 0.0
    thermostat_time: float = 1.0
    barostat_time: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Integrator:
    """Functions of one simulation; all can be compiled.

    Attributes:
        initialize: ``(positions, cell, masses, momenta, **given)`` -> state, with the fields position, momentum, force
            and mass, `rng` if the scheme is random, and `virial` if it moves the cell.
        step: ``(state, **given)`` -> state.
        cell: (state, cell) -> the cell of this state; the second one where it does not move.
        extra_energy: state -> conserved quantity minus kinetic and potential energy, eV; None where nothing is
            conserved.
        pressure: state -> pressure, eV/Å³; None where the state does not know it.
    """

    initialize: Callable[..., Any]
    step: Callable[..., Any]
    cell: Callable[[Any, Array], Array] = lambda _, cell: cell
    extra_energy: Callable[[Any], Array] | None = None
    pressure: Callable[[Any], Array] | None = None


@dataclass(frozen=True)
class Scheme:
    """Row of an ensemble: its integrator and the properties of it.

    Attributes:
        make: function that makes the integrator.
        thermostat: it needs a temperature.
        moves_cell: the cell is part of the state.
        conserves_momentum: a total momentum of zero stays zero.
        random: the state has a random key, ``rng``.
    """

    make: Callable[[Setup], Integrator]
    thermostat: bool = True
    moves_cell: bool = False
    conserves_momentum: bool = True
    random: bool = False


def of_jax_md(setup: Setup, functions: tuple[Callable, Callable], **at_start: Any) -> Integrator:
    """Wrap an integrator of jax-md for a fixed cell; `at_start` are further arguments of its first function."""
    init, step = functions

    def initialize(positions: Array, cell: Array, masses: Array, momenta: Array, **inputs: Any) -> Any:
        key = jax.random.PRNGKey(setup.seed)
        return init(key, positions, mass=masses, momenta=momenta, cell=cell, **at_start, **inputs)

    return Integrator(initialize, step)


def forces_of(setup: Setup) -> Callable[..., Array]:
    """Return the forces in a fixed cell, as a function."""
    return lambda position, *, cell, **inputs: setup.force_virial(position, cell, **inputs)[0]


def shift(position: Array, displacement: Array, **_: Any) -> Array:
    """Move atoms without wrapping them: the mean squared displacement needs the path."""
    return position + displacement


def make_nve(setup: Setup) -> Integrator:
    """Velocity Verlet."""
    integrator = of_jax_md(setup, simulate.nve(forces_of(setup), shift, setup.dt), kT=setup.kT)
    return dataclasses.replace(integrator, extra_energy=lambda state: jnp.zeros((), state.position.dtype))


def make_nose_hoover(setup: Setup) -> Integrator:
    """Nosé-Hoover chain."""
    tau = setup.thermostat_time
    chain = of_jax_md(setup, simulate.nvt_nose_hoover(forces_of(setup), shift, setup.dt, setup.kT, tau=tau))

    def initialize(*arguments: Any, **inputs: Any) -> Any:
        state = chain.initialize(*arguments, **inputs)  # jax-md recomputes the masses of the chain at each step
        return state.set(chain=state.chain.set(degrees_of_freedom=setup.dof))

    return Integrator(initialize, chain.step, extra_energy=lambda state: chain_energy(state.chain, setup.kT))


def make_langevin(setup: Setup) -> Integrator:
    """Langevin dynamics, whose friction is the inverse of `thermostat_time`."""
    gamma = 1.0 / setup.thermostat_time
    return of_jax_md(setup, simulate.nvt_langevin(forces_of(setup), shift, setup.dt, setup.kT, gamma=gamma))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RescalingState:
    """State of stochastic velocity rescaling; `heat` is the energy that the thermostat has added, eV."""

    position: Float[Array, "n 3"]
    momentum: Float[Array, "n 3"]
    force: Float[Array, "n 3"]
    mass: Float[Array, "n 1"]
    rng: Array
    heat: Float[Array, ""]


def make_csvr(setup: Setup) -> Integrator:
    r"""Velocity Verlet with stochastic velocity rescaling.

    After each step the momenta are multiplied by α, with

    .. math:: \alpha^2 = c + (1 - c) \frac{k_B T}{2 K} \Bigl( R_1^2 + \sum_{i=2}^{f} R_i^2 \Bigr)
              + 2 R_1 \sqrt{c (1 - c) \frac{k_B T}{2 K}}, \quad c = e^{-\Delta t / \tau}

    and normally distributed R, so that the kinetic energy K of f degrees of freedom has the canonical distribution.

    Source: Bussi, Donadio, Parrinello, J. Chem. Phys. 126, 014101 (2007), doi:10.1063/1.2408420.
    """
    force, keep = forces_of(setup), math.exp(-setup.dt / setup.thermostat_time)

    def kinetic_energy(momentum: Array, mass: Array) -> Float[Array, ""]:
        return 0.5 * jnp.sum(momentum**2 / mass)

    def initialize(positions: Array, cell: Array, masses: Array, momenta: Array, **inputs: Any) -> RescalingState:
        key, heat = jax.random.PRNGKey(setup.seed), jnp.zeros((), positions.dtype)
        return RescalingState(positions, momenta, force(positions, cell=cell, **inputs), masses[:, None], key, heat)

    def step(state: RescalingState, **inputs: Any) -> RescalingState:
        momentum = state.momentum + 0.5 * setup.dt * state.force
        position = state.position + setup.dt * momentum / state.mass
        new_force = force(position, **inputs)
        momentum = momentum + 0.5 * setup.dt * new_force
        kinetic = kinetic_energy(momentum, state.mass)
        rng, normal_key, gamma_key = jax.random.split(state.rng, 3)
        normal = jax.random.normal(normal_key, (), kinetic.dtype)
        # the sum of f - 1 squares
        squares = 2.0 * jax.random.gamma(gamma_key, 0.5 * (setup.dof - 1), (), kinetic.dtype) if setup.dof > 1 else 0.0
        ratio = (1.0 - keep) * 0.5 * setup.kT / jnp.maximum(kinetic, 1e-30)
        cross = jnp.sqrt(keep * ratio)
        squared = keep + ratio * (normal**2 + squares) + 2.0 * normal * cross
        # the sign of the paper, without which one degree of freedom would never turn round
        sign = jnp.where(normal * jnp.sqrt(ratio) + math.sqrt(keep) < 0.0, -1.0, 1.0).astype(kinetic.dtype)
        scaled = sign * jnp.sqrt(jnp.maximum(squared, 0.0)) * momentum
        heat = state.heat + kinetic_energy(scaled, state.mass) - kinetic
        return RescalingState(position, scaled, new_force, state.mass, rng, heat)

    return Integrator(initialize, step, extra_energy=lambda state: -state.heat)


def make_barostat(setup: Setup, *, flexible: bool) -> Integrator:
    """Constant pressure after Martyna, Tobias and Klein."""
    barostat = Barostat(
        force_virial=setup.force_virial,
        dt=setup.dt,
        temperature=setup.kT,
        pressure=setup.pressure,
        dof=setup.dof,
        thermostat_time=setup.thermostat_time,
        barostat_time=setup.barostat_time,
        flexible=flexible,
    )

    def pressure(state: Any) -> Array:
        return jnp.trace(barostat.internal_pressure(state)) / 3.0

    return Integrator(barostat.initialize, barostat.step, lambda state, _: state.cell, barostat.extra_energy, pressure)


SCHEMES = {
    "nve": Scheme(make_nve, thermostat=False),
    "nose-hoover": Scheme(make_nose_hoover),
    "csvr": Scheme(make_csvr, random=True),
    "langevin": Scheme(make_langevin, conserves_momentum=False, random=True),
    "npt": Scheme(functools.partial(make_barostat, flexible=False), moves_cell=True),
    "npt-flexible": Scheme(functools.partial(make_barostat, flexible=True), moves_cell=True),
}
# "nvt" leaves the thermostat to `scheme_of`
ENSEMBLES = ("nvt", *SCHEMES)


def scheme_of(ensemble: str, pbc: Sequence[bool]) -> Scheme:
    """Return the scheme of an ensemble for these periodic directions.

    Thermostats that scale velocities keep the direction of the angular momentum, unless a lattice in at least two
    directions takes it up. Elsewhere the energy of the rotation would always depend on the start: "nvt" is Langevin
    there, and a Nosé-Hoover chain otherwise.
    """
    if ensemble == "nvt":
        ensemble = "nose-hoover" if sum(pbc) >= 2 else "langevin"
    return SCHEMES[ensemble]


def with_mixed_dtypes(function: Any) -> Any:
    """Run a function that calls jax-md, which mixes dtypes and asks for float64 where there is none."""

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
            warnings.filterwarnings("ignore", "scatter inputs have incompatible types", FutureWarning)
            return function(*arguments, **keywords)

    return call
