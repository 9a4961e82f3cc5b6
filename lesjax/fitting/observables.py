"""Observables of frames, for averages over an ensemble (`averages`) or of one structure (`Observable.at`).

An observable is a function of parameters and one frame, and a rule that makes the property of the values of all frames
and their weights. Where parameters do not change it, its values are computed once for each trajectory.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from lesjax.dynamics import analysis
from lesjax.io import Atoms
from lesjax.numerics import determinant
from lesjax.properties import born_effective_charges, dipole_moment, energy_forces_stress
from lesjax.properties.dielectric import dipole_fluctuation
from lesjax.units import AMU_PER_A3, BAR, BOLTZMANN


def mean(weights: Float[Array, " t"], values: Float[Array, "t ..."]) -> Float[Array, "..."]:
    """Weighted mean over frames."""
    return jnp.sum(weights.reshape(-1, *(1,) * (values.ndim - 1)) * values, axis=0)


@dataclass(frozen=True)
class Observable:
    """What can be measured in a frame.

    Attributes:
        function: (params, frame) -> values, a pure function; for a fixed observable a function on the host,
            stacked frames -> values of each.
        fixed: the values of a frame depend on no parameter.
        reduce: (weights [t], values [t, ...]) -> property; the weighted mean by default.
    """

    function: Callable[..., Any]
    fixed: bool = False
    reduce: Callable[[Array, Array], Array] = mean

    def at(self, frame: PyTree) -> Callable[[PyTree], Array]:
        """The observable of one structure as a function of the parameters.

        Raises:
            ValueError: for a fixed observable, which no parameter changes, or a property of many frames, as a
                fluctuation is.
        """
        if self.fixed:
            raise ValueError("A fixed observable is no function of the parameters: it cannot be fitted in one frame.")
        if self.reduce is not mean:
            raise ValueError(
                "This observable is a property of many frames, such as a fluctuation, and has no value in one: put it "
                "into a `Reweighting`."
            )
        return partial(_swapped, self.function, frame)


def _swapped(function: Callable[..., Array], frame: PyTree, params: PyTree) -> Array:
    return function(params, frame)


def density(masses: Float[np.ndarray, " n"] | Sequence[float]) -> Observable:
    """Mass density of the cell, g/cm³.

    Args:
        masses: of the atoms, amu.
    """
    total = float(np.sum(masses)) * AMU_PER_A3
    return Observable(lambda frames: total / np.abs(np.linalg.det(np.asarray(frames.cell))), fixed=True)


def radial_distribution(
    symbols: str | Sequence[str], first: str, second: str, *, cutoff: float = 6.0, width: float = 0.2
) -> Observable:
    """Radial distribution function of two elements in bins, see `lesjax.dynamics.analysis.radial_distribution`.

    Histograms have no derivative: parameters act on it through the weights alone, which is exact.

    Args:
        symbols: of the atoms in a frame, as ase takes them.
        first: element at the centre.
        second: element around it.
        cutoff: largest distance, Å; may exceed half of the cell.
        width: of the bins, Å. A frame has few pairs: narrow bins are noisy.
    """

    def function(frames: PyTree) -> Float[np.ndarray, "t r"]:
        atoms = Atoms(symbols, pbc=True)
        rows = []
        for positions, cell in zip(np.asarray(frames.positions, float), np.asarray(frames.cell, float), strict=True):
            atoms.positions, atoms.cell = positions, cell
            rows.append(analysis.radial_distribution([atoms], first, second, cutoff=cutoff, width=width)[1])
        return np.array(rows)

    return Observable(function, fixed=True)


def pressure(energy_fn: Callable[[Any, Any], Array], temperature: float) -> Observable:
    r"""Pressure from the virial, bar.

    .. math:: p = \frac{n k_B T}{V} - \tfrac13 \operatorname{tr} \text{stress}

    Args:
        energy_fn: potential energy, eV, of parameters and one frame.
        temperature: K.
    """

    def function(params: PyTree, frame: Any) -> Float[Array, ""]:
        def energy_of(positions: Array, cell: Array) -> tuple[Array, None]:
            return energy_fn(params, replace(frame, positions=positions, cell=cell)), None

        positions, cell = jnp.asarray(frame.positions), jnp.asarray(frame.cell)
        _, _, stress, _ = energy_forces_stress(energy_of, positions, cell, with_stress=True)
        assert stress is not None
        ideal = len(positions) * BOLTZMANN * temperature / jnp.abs(determinant(cell))
        return (ideal - jnp.trace(stress) / 3.0) / BAR

    return Observable(function)


def dipole(charges_fn: Callable[[Any, Any], Array]) -> Observable:
    """Dipole moment, e Å, [3], of a molecule or of a cell whose molecules are not broken.

    Args:
        charges_fn: charges, e, [n] or [n, c], of parameters and one frame.
    """
    return Observable(lambda params, frame: dipole_moment(jnp.asarray(frame.positions), charges_fn(params, frame)))


def dielectric_constant(
    charges_fn: Callable[[Any, Any], Array], temperature: float, *, epsilon_infinity: float = 1.0
) -> Observable:
    """Static dielectric constant from the fluctuation of the dipole moment, see `lesjax.properties.dielectric`.

    For molecules without net charge that the cell does not break. At constant pressure the mean volume is taken.

    Args:
        charges_fn: latent charges, e, [n] or [n, c], of parameters and one frame; their dipole moment times the root of
            `epsilon_infinity` is that of the system.
        temperature: K.
        epsilon_infinity: electronic dielectric constant; one for the charges of a force field.
    """

    def function(params: PyTree, frame: Any) -> Float[Array, "4"]:
        moment = dipole_moment(jnp.asarray(frame.positions), charges_fn(params, frame))
        moment = math.sqrt(epsilon_infinity) * moment
        return jnp.append(moment, jnp.abs(determinant(jnp.asarray(frame.cell))))

    def reduce(weights: Float[Array, " t"], values: Float[Array, "t 4"]) -> Float[Array, ""]:
        volume = jnp.sum(weights * values[:, 3])
        return epsilon_infinity + jnp.mean(dipole_fluctuation(values[:, :3], volume, temperature, weights=weights))

    return Observable(function, reduce=reduce)


def born_charges(
    charges_fn: Callable[[Any, Any], Array], pbc: tuple[bool, bool, bool], *, epsilon_infinity: float = 1.0
) -> Observable:
    """Born effective charges, e, [atom, polarization, displacement], of latent charges.

    Args:
        charges_fn: latent charges, e, [n] or [n, c], of parameters and one frame.
        pbc: which directions are periodic.
        epsilon_infinity: electronic dielectric constant; the charges are multiplied by its root.
    """

    def function(params: PyTree, frame: Any) -> Float[Array, "n 3 3"]:
        def moments(positions: Array) -> Array:
            return charges_fn(params, replace(frame, positions=positions))

        positions, cell = jnp.asarray(frame.positions), jnp.asarray(frame.cell)
        return born_effective_charges(moments, positions, cell, pbc, epsilon_infinity=epsilon_infinity)

    return Observable(function)
