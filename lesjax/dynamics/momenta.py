"""Momenta at the start, and the degrees of freedom that a temperature counts."""

import warnings

import ase
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lesjax.units import BOLTZMANN


def temperature_of(momentum: Float[Array, "n 3"], mass: Float[Array, "n 1"], dof: int) -> Float[Array, ""]:
    """Temperature, K."""
    return jnp.sum(momentum**2 / mass) / (dof * BOLTZMANN)


def degrees_of_freedom(masses: Float[np.ndarray, " n"], at_rest: Float[np.ndarray, "n 3"] | None) -> int:
    """Return 3n, less the drift of several atoms and, where positions are given, the rotations at them."""
    drift = 3 if len(masses) > 1 else 0
    return 3 * len(masses) - drift - (0 if at_rest is None else count_rotations(masses, at_rest))


def initial_momenta(
    atoms: ase.Atoms, temperature: float | None, seed: int, *, without_rotation: bool, conserves_momentum: bool
) -> Float[np.ndarray, "n 3"]:
    """Momenta of the structure, or drawn at random, without motions that the integrator keeps at rest.

    Args:
        atoms: the structure.
        temperature: temperature of drawn momenta, K.
        seed: seed of drawn momenta.
        without_rotation: remove the angular momentum.
        conserves_momentum: remove the drift, which the degrees of freedom then do not count.

    Raises:
        ValueError: for a structure without velocities and no temperature.
    """
    momenta, masses = atoms.get_momenta(), atoms.get_masses()
    at_rest = atoms.positions if without_rotation else None
    if np.any(momenta):
        if conserves_momentum:
            momenta = remove_drift(momenta, masses)
        return momenta if at_rest is None else remove_rotation(momenta, masses, at_rest)
    if temperature is None:
        raise ValueError("`temperature` is missing: the structure has no velocities to start with.")
    if temperature == 0:
        return momenta
    for name in sorted({"vel", "velo", "velocity", "velocities"} & set(atoms.arrays)):
        warnings.warn(
            f"Velocities are drawn at random: the unit of column {name!r} is not known. To start from it, write "
            "`momenta` in ase's units, `atoms.set_velocities(...)`.",
            stacklevel=2,
        )
    rng = np.random.default_rng(seed)
    return maxwell_boltzmann(masses, temperature, rng, without_rotation=at_rest)


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
