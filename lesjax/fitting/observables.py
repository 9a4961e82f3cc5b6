"""Observables of frames, for averages over an ensemble (`ensemble_averages`) or of one structure (`Observable.at`).

An observable is a function of parameters, one frame and a solver, like energies, and a rule that makes the property
from the values of all frames and their weights. If parameters do not change it, its values are computed once for each
trajectory.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from lesjax import properties
from lesjax.dynamics import analysis
from lesjax.ewald import Plan
from lesjax.io import Atoms
from lesjax.numerics import determinant
from lesjax.properties import Energy
from lesjax.properties.dielectric import dipole_fluctuation
from lesjax.units import AMU_PER_A3, BAR, BOLTZMANN


# (parameters, one frame, solver) -> charges, e, [n] or [n, c]
Charges = Callable[[PyTree, Any, Plan | None], Array]


def mean(weights: Float[Array, " t"], values: Float[Array, "t ..."]) -> Float[Array, "..."]:
    """Weighted mean over frames."""
    return jnp.sum(weights.reshape(-1, *(1,) * (values.ndim - 1)) * values, axis=0)


@dataclass(frozen=True)
class Observable:
    """A quantity that has a value in each frame.

    Attributes:
        function: (params, frame, solver) -> values, a pure function; for a fixed observable a function on the host,
            stacked frames -> values of each.
        fixed: the values of a frame do not depend on parameters.
        reduce: (weights [t], values [t, ...]) -> property; the weighted mean by default.
    """

    function: Callable[..., Any]
    fixed: bool = False
    reduce: Callable[[Array, Array], Array] = mean

    def at(self, frame: PyTree, *, solver: Plan | None = None) -> Callable[[PyTree], Array]:
        """Return the observable of one structure as a function of the parameters.

        Raises:
            ValueError: for a fixed observable, which no parameter changes, or a property of many frames, such as
                a fluctuation.
        """
        if self.fixed:
            raise ValueError("A fixed observable is not a function of the parameters: one frame cannot fit it.")
        if self.reduce is not mean:
            raise ValueError(
                "This observable is a property of many frames, such as a fluctuation, and has no value in one: put it "
                "into a `Reweighting`."
            )
        return lambda params: self.function(params, frame, solver)


def density(masses: Float[np.ndarray, " n"] | Sequence[float]) -> Observable:
    """Mass density of the cell, g/cm³.

    Args:
        masses: masses of the atoms, amu.
    """
    total = float(np.sum(masses)) * AMU_PER_A3
    return Observable(lambda frames: total / np.abs(np.linalg.det(np.asarray(frames.cell))), fixed=True)


def radial_distribution(
    symbols: str | Sequence[str], first: str, second: str, *, cutoff: float = 6.0, width: float = 0.2
) -> Observable:
    """Radial distribution function of two elements in bins, see `lesjax.dynamics.analysis.radial_distribution`.

    Histograms have no derivative: parameters act on it only through the weights, which is exact.

    Args:
        symbols: symbols of the atoms in a frame, in a form that ase takes.
        first: element at the centre.
        second: element around it.
        cutoff: largest distance, Å; may exceed half of the cell.
        width: width of the bins, Å. A frame has few pairs: narrow bins are noisy.
    """

    def function(frames: PyTree) -> Float[np.ndarray, "t r"]:
        atoms = Atoms(symbols, pbc=True)
        rows = []
        for positions, cell in zip(np.asarray(frames.positions, float), np.asarray(frames.cell, float), strict=True):
            atoms.positions, atoms.cell = positions, cell
            rows.append(analysis.radial_distribution([atoms], first, second, cutoff=cutoff, width=width)[1])
        return np.array(rows)

    return Observable(function, fixed=True)


def pressure(energy_fn: Energy, temperature: float) -> Observable:
    r"""Pressure from the virial, bar.

    .. math:: p = \frac{n k_B T}{V} - \tfrac13 \operatorname{tr} \text{stress}

    Args:
        energy_fn: see `lesjax.properties.Energy`.
        temperature: K.
    """

    def function(params: PyTree, frame: Any, solver: Plan | None) -> Float[Array, ""]:
        _, _, stress = properties.energy_forces_stress(energy_fn, params, frame, solver=solver, with_stress=True)
        assert stress is not None
        ideal = len(frame.positions) * BOLTZMANN * temperature / jnp.abs(determinant(jnp.asarray(frame.cell)))
        return (ideal - jnp.trace(stress) / 3.0) / BAR

    return Observable(function)


def dipole_moment(charges_fn: Charges) -> Observable:
    """Dipole moment, e Å, [3], of a molecule or of a cell whose molecules are not broken.

    Args:
        charges_fn: charges, e, [n] or [n, c], of parameters, one frame and a solver.
    """

    def function(params: PyTree, frame: Any, solver: Plan | None) -> Float[Array, "3"]:
        charges = charges_fn(params, frame, solver)
        return jnp.asarray(properties.dipole_moment(jnp.asarray(frame.positions), charges))

    return Observable(function)


def dielectric_constant(charges_fn: Charges, temperature: float, *, epsilon_infinity: float = 1.0) -> Observable:
    """Static dielectric constant from the fluctuation of the dipole moment, see `lesjax.properties.dielectric`.

    For molecules without net charge that the cell does not break. At constant pressure the mean volume is taken.

    Args:
        charges_fn: latent charges, e, [n] or [n, c], of parameters, one frame and a solver; their dipole moment times
            the root of `epsilon_infinity` is the dipole moment of the system.
        temperature: K.
        epsilon_infinity: electronic dielectric constant; one for the charges of a force field.
    """

    moment_of = dipole_moment(charges_fn).function

    def function(params: PyTree, frame: Any, solver: Plan | None) -> Float[Array, "4"]:
        moment = math.sqrt(epsilon_infinity) * moment_of(params, frame, solver)
        return jnp.append(moment, jnp.abs(determinant(jnp.asarray(frame.cell))))

    def reduce(weights: Float[Array, " t"], values: Float[Array, "t 4"]) -> Float[Array, ""]:
        volume = jnp.sum(weights * values[:, 3])
        return epsilon_infinity + jnp.mean(dipole_fluctuation(values[:, :3], volume, temperature, weights=weights))

    return Observable(function, reduce=reduce)


def born_effective_charges(
    charges_fn: Charges, pbc: tuple[bool, bool, bool], *, epsilon_infinity: float = 1.0
) -> Observable:
    """Born effective charges, e, [atom, polarization, displacement], of latent charges.

    Args:
        charges_fn: latent charges, e, [n] or [n, c], of parameters, one frame and a solver.
        pbc: which directions are periodic.
        epsilon_infinity: electronic dielectric constant; the charges are multiplied by its root.
    """

    def function(params: PyTree, frame: Any, solver: Plan | None) -> Float[Array, "n 3 3"]:
        def moments(positions: Array) -> Array:
            return charges_fn(params, replace(frame, positions=positions), solver)

        positions, cell = jnp.asarray(frame.positions), jnp.asarray(frame.cell)
        return properties.born_effective_charges(moments, positions, cell, pbc, epsilon_infinity=epsilon_infinity)

    return Observable(function)
