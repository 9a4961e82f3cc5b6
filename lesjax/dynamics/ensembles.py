"""Integrators of the ensembles, with one face: initial state, step, cell, degrees of freedom, conserved quantity.

NVE, Nosé-Hoover and Langevin are jax-md's, constant pressure is `barostat`. All but Langevin keep a total momentum of
zero: three degrees of freedom less. A chain must count the same degrees as the system that it drives; jax-md's counts
all 3n, so its number is set. (A chain of 3n at a temperature scaled by (3n - 3)/3n has a variance of the kinetic energy
that is too small by this factor.)
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ase
import jax
import jax.numpy as jnp
import numpy as np
from jax_md import simulate
from jaxtyping import Array, Float, PyTree

from lesjax import ewald
from lesjax.dynamics.barostat import Barostat, chain_energy
from lesjax.dynamics.settings import Settings
from lesjax.numerics import determinant
from lesjax.properties.forces import Energy, energy_forces_stress
from lesjax.units import BAR, BOLTZMANN, FEMTOSECOND


@dataclass(frozen=True)
class Ensemble:
    """What a simulation needs to know of an ensemble; all functions can be compiled.

    Attributes:
        initialize: (positions, cell, masses [n], momenta, **given) -> state.
        step: (state, **given) -> state.
        cell: (state, cell) -> the cell of this state; the second one where it does not move.
        extra_energy: state -> what kinetic and potential energy lack of a conserved quantity, eV; None where there is
            none.
        pressure: state -> pressure, eV/Å³; None where the state does not know it.
        dof: degrees of freedom, for the temperature.
        conserves_momentum: a total momentum of zero stays zero.
        random: the state has a random key, ``rng``.
    """

    initialize: Callable[..., Any]
    step: Callable[..., Any]
    cell: Callable[[Any, Array], Array]
    extra_energy: Callable[[Any], Array] | None
    pressure: Callable[[Any], Array] | None
    dof: int
    conserves_momentum: bool
    random: bool = False


def make_ensemble(
    settings: Settings,
    masses: Float[np.ndarray, " n"],
    force_virial: Callable[..., tuple[Array, Array]],
    *,
    pbc: Sequence[bool] = (True, True, True),
    positions: Float[np.ndarray, "n 3"] | None = None,
) -> Ensemble:
    """Build the integrator.

    Args:
        settings: the run.
        masses: amu.
        force_virial: (positions, cell, **given) -> forces and virial -dU/dε; the cell of fixed-cell ensembles is in
            `given`, under the name `cell`.
        pbc: periodic directions, by which "nvt" chooses its thermostat.
        positions: at the start, Å: with ``angular_momentum = "zero"`` their rotations, which all but Langevin keep at
            rest, are no degrees of freedom.
    """
    name = settings.integrator(pbc)
    dt = settings.timestep * FEMTOSECOND
    conserving = name != "langevin" and len(masses) > 1
    at_rest = positions if settings.angular_momentum == "zero" else None
    dof = degrees_of_freedom(masses, at_rest) if conserving else 3 * len(masses)
    kT = (settings.temperature or 0.0) * BOLTZMANN
    thermostat_time = settings.thermostat_time * FEMTOSECOND
    if settings.constant_pressure:
        barostat = Barostat(
            force_virial=force_virial,
            dt=dt,
            temperature=kT,
            pressure=settings.pressure * BAR,
            dof=dof,
            thermostat_time=thermostat_time,
            barostat_time=settings.barostat_time * FEMTOSECOND,
            flexible=name == "npt-flexible",
        )

        def pressure(state: Any) -> Array:
            return jnp.trace(barostat.internal_pressure(state)) / 3.0

        face = (barostat.initialize, barostat.step, lambda s, _: s.cell, barostat.extra_energy, pressure)
        return Ensemble(*face, dof, conserving)

    def force(position: Array, *, cell: Array, **given: Any) -> Array:
        return force_virial(position, cell, **given)[0]

    def shift(position: Array, displacement: Array, **_: Any) -> Array:
        return position + displacement  # not wrapped: the mean squared displacement needs the way

    extra: Callable[[Any], Array] | None
    if name == "nve":
        init, step = simulate.nve(force, shift, dt)
        extra = lambda state: jnp.zeros((), state.position.dtype)  # noqa: E731
    elif name == "nose-hoover":
        init, step = simulate.nvt_nose_hoover(force, shift, dt, kT, tau=thermostat_time)
        extra = lambda state: chain_energy(state.chain, kT)  # noqa: E731
    else:
        init, step = simulate.nvt_langevin(force, shift, dt, kT, gamma=1.0 / thermostat_time)
        extra = None
    if settings.electric_field is not None:  # whose work is no function of the state
        extra = None
    key = jax.random.PRNGKey(settings.seed)

    def initialize(positions: Array, cell: Array, masses: Array, momenta: Array, **given: Any) -> Any:
        temperature = {"kT": kT} if name == "nve" else {}
        state = init(key, positions, mass=masses, momenta=momenta, cell=cell, **temperature, **given)
        if name == "nose-hoover":  # jax-md makes the masses of the chain anew at each step
            state = state.set(chain=state.chain.set(degrees_of_freedom=dof))
        return state

    return Ensemble(initialize, step, lambda _, cell: cell, extra, None, dof, conserving, random=name == "langevin")


def forces_and_virial(
    energy_fn: Energy, params: PyTree, system: Any, *, solver: ewald.Solver | None = None, with_virial: bool
) -> tuple[Float[Array, "n 3"], Float[Array, "3 3"]]:
    """Forces, eV/Å, and the virial -dU/dε, eV, zero unless asked for."""
    _, forces, stress = energy_forces_stress(energy_fn, params, system, solver=solver, with_stress=with_virial)
    if stress is None:
        return forces, jnp.zeros((3, 3), forces.dtype)
    return forces, -stress * jnp.abs(determinant(jnp.asarray(system.cell)))


def temperature_of(momentum: Float[Array, "n 3"], mass: Float[Array, "n 1"], dof: int) -> Float[Array, ""]:
    """Temperature, K."""
    return jnp.sum(momentum**2 / mass) / (dof * BOLTZMANN)


def degrees_of_freedom(masses: Float[np.ndarray, " n"], at_rest: Float[np.ndarray, "n 3"] | None) -> int:
    """Return 3n, without the drift of several atoms, and without rotations at these positions where they are given."""
    drift = 3 if len(masses) > 1 else 0
    return 3 * len(masses) - drift - (0 if at_rest is None else count_rotations(masses, at_rest))


def initial_momenta(settings: Settings, atoms: ase.Atoms, *, conserves_momentum: bool) -> Float[np.ndarray, "n 3"]:
    """Momenta of the structure, without what the integrator keeps at rest, or drawn at random.

    Raises:
        ValueError: for a structure without velocities where the settings have no temperature.
    """
    momenta, masses = atoms.get_momenta(), atoms.get_masses()
    at_rest = atoms.positions if settings.angular_momentum == "zero" else None
    if np.any(momenta):
        if conserves_momentum:  # its degrees of freedom do not count a drift
            momenta = remove_drift(momenta, masses)
        return momenta if at_rest is None else remove_rotation(momenta, masses, at_rest)
    if settings.temperature is None:
        raise ValueError("`temperature` is missing: the structure has no velocities to start with.")
    if settings.temperature == 0:
        return momenta
    for name in sorted({"vel", "velo", "velocity", "velocities"} & set(atoms.arrays)):
        warnings.warn(
            f"Velocities are drawn at random: the unit of column {name!r} is not known. To start from it, write "
            "`momenta` in ase's units, `atoms.set_velocities(...)`.",
            stacklevel=2,
        )
    rng = np.random.default_rng(settings.seed)
    return maxwell_boltzmann(masses, settings.temperature, rng, without_rotation=at_rest)


def maxwell_boltzmann(
    masses: Float[np.ndarray, " n"],
    temperature: float,
    rng: np.random.Generator,
    *,
    without_rotation: Float[np.ndarray, "n 3"] | None = None,
) -> Float[np.ndarray, "n 3"]:
    """Draw momenta of exactly this temperature (K) and total momentum zero.

    Args:
        masses: amu.
        temperature: K.
        rng: random numbers.
        without_rotation: positions about which the angular momentum is to be zero, too, Å.
    """
    momenta = rng.normal(size=(len(masses), 3)) * np.sqrt(masses)[:, None]
    if len(masses) > 1:
        momenta = remove_drift(momenta, masses)
    if without_rotation is not None:
        momenta = remove_rotation(momenta, masses, without_rotation)
    dof = degrees_of_freedom(masses, without_rotation)
    current = np.sum(momenta**2 / masses[:, None]) / (dof * BOLTZMANN)
    return momenta * np.sqrt(temperature / current)


def remove_drift(momenta: Float[np.ndarray, "n 3"], masses: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    """Return momenta whose sum is zero."""
    return momenta - masses[:, None] * (momenta.sum(axis=0) / masses.sum())


def remove_rotation(
    momenta: Float[np.ndarray, "n 3"], masses: Float[np.ndarray, " n"], positions: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """Return momenta without angular momentum about the centre of mass."""
    arms, inertia = _inertia(masses, positions)
    # the inverse of a linear molecule's tensor leaves out its axis
    velocity = np.linalg.pinv(inertia, rcond=_LINEAR, hermitian=True) @ np.cross(arms, momenta).sum(axis=0)
    return momenta - masses[:, None] * np.cross(velocity, arms)


def count_rotations(masses: Float[np.ndarray, " n"], positions: Float[np.ndarray, "n 3"]) -> int:
    """Return the number of rotations of a cluster: 3, or 2 if it is linear, or 0 for one atom."""
    if len(masses) == 1:
        return 0
    return int(np.linalg.matrix_rank(_inertia(masses, positions)[1], rtol=_LINEAR, hermitian=True))


# Smallest moment of inertia, relative to the largest, that is a rotation
_LINEAR = 1e-8


def _inertia(masses: Float[np.ndarray, " n"], positions: Float[np.ndarray, "n 3"]) -> tuple[np.ndarray, np.ndarray]:
    """Positions about the centre of mass and the tensor of inertia."""
    arms = positions - masses @ positions / masses.sum()
    squares = np.einsum("i,ix,iy->xy", masses, arms, arms)
    return arms, np.trace(squares) * np.eye(3) - squares


def leniently(function: Any) -> Any:
    """Run a function that calls jax-md, which mixes dtypes and asks for float64 where there is none."""

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
            warnings.filterwarnings("ignore", "scatter inputs have incompatible types", FutureWarning)
            return function(*arguments, **keywords)

    return call
