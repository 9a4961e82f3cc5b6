"""Integrators of the ensembles, with one face: initial state, step, cell, degrees of freedom, conserved quantity.

NVE, Nosé-Hoover and Langevin are jax-md's, constant pressure is `barostat`. Momenta are those of a total momentum of
zero, which all but Langevin keep: three degrees of freedom less, for which the temperature handed to jax-md's chain,
which counts all 3n, is corrected.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ase.units
import jax
import jax.numpy as jnp
import numpy as np
from jax_md import simulate
from jaxtyping import Array, Float

from lesjax.dynamics.barostat import Barostat, chain_energy
from lesjax.dynamics.settings import Settings
from lesjax.properties.forces import EnergyFunction, energy_forces_stress


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
    """

    initialize: Callable[..., Any]
    step: Callable[..., Any]
    cell: Callable[[Any, Array], Array]
    extra_energy: Callable[[Any], Array] | None
    pressure: Callable[[Any], Array] | None
    dof: int


def make_ensemble(settings: Settings, n_atoms: int, force_virial: Callable[..., tuple[Array, Array]]) -> Ensemble:
    """Build the integrator.

    Args:
        settings: the run.
        n_atoms: number of atoms.
        force_virial: (positions, cell, **given) -> forces and virial -dU/dε; the cell of fixed-cell ensembles is in
            `given`, under the name `cell`.
    """
    dt = settings.timestep * ase.units.fs
    conserving = settings.ensemble != "langevin" and n_atoms > 1
    dof = 3 * n_atoms - (3 if conserving else 0)
    kT = (settings.temperature or 0.0) * ase.units.kB
    thermostat_time = settings.thermostat_time * ase.units.fs
    if settings.constant_pressure:
        barostat = Barostat(
            force_virial=force_virial,
            dt=dt,
            temperature=kT,
            pressure=settings.pressure * 1e-4 * ase.units.GPa,
            dof=dof,
            thermostat_time=thermostat_time,
            barostat_time=settings.barostat_time * ase.units.fs,
            flexible=settings.ensemble == "npt-flexible",
        )

        def pressure(state: Any) -> Array:
            return jnp.trace(barostat.internal_pressure(state)) / 3.0

        return Ensemble(barostat.initialize, barostat.step, lambda s, _: s.cell, barostat.extra_energy, pressure, dof)

    def force(position: Array, *, cell: Array, **given: Any) -> Array:
        return force_virial(position, cell, **given)[0]

    def shift(position: Array, displacement: Array, **_: Any) -> Array:
        return position + displacement  # not wrapped: the mean squared displacement needs the way

    extra: Callable[[Any], Array] | None
    if settings.ensemble == "nve":
        init, step = simulate.nve(force, shift, dt)
        extra = lambda state: jnp.zeros((), state.position.dtype)  # noqa: E731
    elif settings.ensemble == "nvt":
        counted = kT * dof / (3 * n_atoms)
        init, step = simulate.nvt_nose_hoover(force, shift, dt, counted, tau=thermostat_time)
        extra = lambda state: chain_energy(state.chain, counted)  # noqa: E731
    else:
        init, step = simulate.nvt_langevin(force, shift, dt, kT, gamma=1.0 / thermostat_time)
        extra = None
    if settings.electric_field is not None:  # whose work is no function of the state
        extra = None
    key = jax.random.PRNGKey(settings.seed)

    def initialize(positions: Array, cell: Array, masses: Array, momenta: Array, **given: Any) -> Any:
        temperature = {"kT": kT} if settings.ensemble == "nve" else {}
        return init(key, positions, mass=masses, momenta=momenta, cell=cell, **temperature, **given)

    return Ensemble(initialize, step, lambda _, cell: cell, extra, None, dof)


def forces_and_virial(
    energy_fn: EnergyFunction, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"], *, with_virial: bool
) -> tuple[Float[Array, "n 3"], Float[Array, "3 3"]]:
    """Forces, eV/Å, and the virial -dU/dε, eV, zero unless asked for."""
    _, forces, stress, _ = energy_forces_stress(energy_fn, positions, cell, with_stress=with_virial)
    if stress is None:
        return forces, jnp.zeros((3, 3), forces.dtype)
    return forces, -stress * jnp.abs(jnp.linalg.det(cell))


def temperature_of(momentum: Float[Array, "n 3"], mass: Float[Array, "n 1"], dof: int) -> Float[Array, ""]:
    """Temperature, K."""
    return jnp.sum(momentum**2 / mass) / (dof * ase.units.kB)


def maxwell_boltzmann(
    masses: Float[np.ndarray, " n"], temperature: float, rng: np.random.Generator
) -> Float[np.ndarray, "n 3"]:
    """Random momenta of exactly this temperature (K) and total momentum zero."""
    momenta = rng.normal(size=(len(masses), 3)) * np.sqrt(masses)[:, None]
    if len(masses) > 1:
        momenta -= masses[:, None] * (momenta.sum(axis=0) / masses.sum())
    dof = 3 * len(masses) - (3 if len(masses) > 1 else 0)
    current = np.sum(momenta**2 / masses[:, None]) / (dof * ase.units.kB)
    return momenta * np.sqrt(temperature / current)


def leniently(function: Any) -> Any:
    """Run a function that calls jax-md, which mixes dtypes and asks for float64 where there is none."""

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
            warnings.filterwarnings("ignore", "scatter inputs have incompatible types", FutureWarning)
            return function(*arguments, **keywords)

    return call
