r"""Phonons at Γ: normal modes of a Hessian, with the electric field of longitudinal modes on request.

The frequencies ω of the Hessian Φ (eV/Å²) and masses m solve

.. math:: \sum_{j \beta} \frac{\Phi_{i \alpha, j \beta}}{\sqrt{m_i m_j}} e_{j \beta} = \omega^2 e_{i \alpha}.

The energy of a periodic cell leaves out k = 0, so that its Hessian is that of modes without a macroscopic field:
transverse ones. For q → 0 along a direction, the field of the polarization adds

.. math:: \Phi^{NA}_{i \alpha, j \beta} = w_{i \alpha} w_{j \beta}, \qquad
          w_{i \alpha} = \sqrt{\frac{4 \pi\, e^2 / 4 \pi \varepsilon_0}{V \; q \cdot \varepsilon_\infty q}}
          \sum_\gamma q_\gamma Z^*_{i, \gamma \alpha}

which splits longitudinal from transverse optical modes (LO-TO). For two ions in the primitive cell,
:math:`\omega_{LO}^2 - \omega_{TO}^2 = 4 \pi\, (e^2 / 4 \pi \varepsilon_0) Z^{*2} / (\varepsilon_\infty \mu V)` with
the reduced mass μ. Latent charges are Z* over the root of ε∞, so that the term of a latent-charge model does not depend
on the ε∞ of its Born effective charges, if `nonanalytic_vector` gets the same ε∞.

Frequencies are wavenumbers ω / 2πc in cm⁻¹; unstable modes (ω² < 0, imaginary) have negative numbers.
First derivatives of frequencies are exact, :math:`\partial \omega^2 = e \cdot \partial D\, e`, and finite where modes
are degenerate; only symmetric functions of degenerate modes, such as their mean, have a derivative then.

Source: Born, Huang, Dynamical Theory of Crystal Lattices (1954); Gonze, Lee, Phys. Rev. B 55, 10355 (1997).
"""

import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from lesjax.ewald import Plan
from lesjax.files import atomic_path
from lesjax.numerics import check_volume, determinant, einsum
from lesjax.properties.forces import Energy
from lesjax.properties.second_derivatives import energy_gradient, in_batches
from lesjax.units import AMU, COULOMB, SPEED_OF_LIGHT, WAVENUMBER


# meV and THz of 1 cm^-1: h c / e and c, from the exact values of CODATA 2018
MEV = 6.62607015e-34 * 29979245800.0 / 1.602176634e-19 * 1e3
TERAHERTZ = SPEED_OF_LIGHT * 1e-5


class Modes(NamedTuple):
    """Normal modes.

    Attributes:
        frequencies: cm⁻¹, negative for imaginary ones, in an order that ascends up to rounding. Rigid motions are among
            them, at zero up to rounding.
        vectors: mass-weighted, orthonormal eigenvectors e; displacements are e / √m. Without derivatives.
    """

    frequencies: Float[Array, " k"]
    vectors: Float[Array, "k n 3"]


def normal_modes(
    hessian: Float[Array, "n 3 n 3"],
    masses: Float[Array | np.ndarray, " m"],
    *,
    nonanalytic: Float[Array, "n 3"] | None = None,
) -> Modes:
    """All 3 n modes of a Hessian; frequencies can be differentiated once (see the module).

    Args:
        hessian: from `lesjax.properties.hessian`, eV/Å².
        masses: one for each atom, amu.
        nonanalytic: from `nonanalytic_vector`, for modes with q → 0 along its direction.

    Raises:
        ValueError: for masses that are not positive, or a Hessian that is not finite (where they have values).
    """
    _check_masses(masses, hessian.shape[0])
    if not isinstance(hessian, Tracer) and not np.all(np.isfinite(hessian)):
        raise ValueError("`hessian` is not finite. Is the energy smooth at these positions?")
    n = hessian.shape[0]
    matrix = hessian.reshape(3 * n, 3 * n)
    if nonanalytic is not None:
        matrix = matrix + nonanalytic.reshape(3 * n, 1) * nonanalytic.reshape(1, 3 * n)
    weights = jnp.repeat(_inverse_roots(masses, hessian.dtype), 3)
    dynamical = weights[:, None] * matrix * weights[None, :]
    # Hellmann and Feynman: the derivative of the vectors, infinite where modes are degenerate, is not needed
    vectors = jnp.linalg.eigh(jax.lax.stop_gradient(dynamical))[1]
    squares = einsum("ak,ab,bk->k", vectors, dynamical, vectors)
    return Modes(_wavenumbers(squares), vectors.T.reshape(3 * n, n, 3))


def mode_frequencies(
    energy_fn: Energy,
    params: PyTree,
    system: Any,
    masses: Float[Array | np.ndarray, " m"],
    vectors: Float[Array, "k n 3"],
    *,
    solver: Plan | None = None,
    nonanalytic: Float[Array, "n 3"] | None = None,
    batch_size: int | None = None,
) -> Float[Array, " k"]:
    """Frequencies of known modes by one Hessian-vector product each, cm⁻¹: no Hessian, for fits and large systems.

    Where `vectors` are eigenvectors, values and first derivatives are those of `normal_modes`; other vectors give the
    root of their mean ω².

    Args:
        energy_fn: see `lesjax.properties.Energy`.
        params: its parameters.
        system: one structure.
        masses: one for each atom, amu.
        vectors: orthonormal eigenvectors, from `normal_modes` with the current or recent parameters.
        solver: plan of the long-range sum.
        nonanalytic: from `nonanalytic_vector`.
        batch_size: number of modes that are computed at once, see `hessian`; all by default.

    Raises:
        ValueError: for masses that are not positive (where they have values), or a `batch_size` that is not positive.
    """
    positions = jnp.asarray(system.positions)
    _check_masses(masses, len(positions))
    gradient = energy_gradient(energy_fn, params, system, solver)
    displacements = _inverse_roots(masses, positions.dtype)[None, :, None] * jax.lax.stop_gradient(vectors)

    def square(displacement: Array) -> Array:
        product = jax.jvp(gradient, (positions,), (displacement,))[1]
        return jnp.sum(displacement * product)

    squares = in_batches(square, displacements, batch_size)
    if nonanalytic is not None:
        squares = squares + jnp.sum(nonanalytic[None] * displacements, axis=(1, 2)) ** 2
    return _wavenumbers(squares)


def nonanalytic_vector(
    born_charges: Float[Array, "n 3 3"],
    epsilon_infinity: float | Float[Array, ""] | Float[Array, "3 3"],
    cell: Float[Array, "3 3"],
    direction: Float[Array | np.ndarray, "3"],
) -> Float[Array, "n 3"]:
    """Return the vector w of the module; its outer product is the non-analytic part of the Hessian. √eV/Å.

    Args:
        born_charges: [atom, polarization, displacement], e, from `born_effective_charges`.
        epsilon_infinity: electronic dielectric constant or tensor.
        cell: lattice vectors as rows, Å.
        direction: Cartesian direction of q; its length does not matter.

    Raises:
        ValueError: for a direction without length, a dielectric constant that is not positive along it, or a cell
            without volume (where they have values).
    """
    check_volume(cell)
    dtype = born_charges.dtype
    if not isinstance(direction, Tracer):
        length = float(np.linalg.norm(np.asarray(direction, float)))
        if not 0.0 < length < math.inf:
            raise ValueError(f"`direction` must have a length, got {np.asarray(direction).tolist()}: give that of q.")
    q = jnp.asarray(direction).astype(dtype)
    q = q / jnp.sqrt(jnp.sum(q * q))
    epsilon = jnp.asarray(epsilon_infinity).astype(dtype)
    screening = epsilon if epsilon.ndim == 0 else einsum("a,ab,b->", q, epsilon, q)
    value = jax.lax.stop_gradient(screening)
    if not isinstance(value, Tracer) and not float(value) > 0.0:
        raise ValueError(f"`epsilon_infinity` must be positive along `direction`, got {float(value)}.")
    volume = jnp.abs(determinant(cell))
    along = einsum("g,nga->na", q, born_charges)
    return jnp.sqrt(4.0 * math.pi * COULOMB / (volume * screening)) * along


def mode_table(frequencies: Float[Array | np.ndarray, " k"]) -> str:
    """Format frequencies (cm⁻¹, as in `Modes`) as a table in meV, THz and cm⁻¹; imaginary ones are marked with an i."""
    line = "-" * 42
    rows = [line, f"{'#':>4}{'meV':>11}{'THz':>13}{'cm^-1':>13}", line]
    for i, value in enumerate(np.asarray(frequencies, float)):
        mark = "i" if value < 0 else " "
        size = abs(value)
        rows.append(f"{i:>4}{size * MEV:>11.2f}{mark}{size * TERAHERTZ:>12.4f}{mark}{size:>12.2f}{mark}".rstrip())
    return "\n".join([*rows, line])


def write_force_constants(path: str | os.PathLike, hessian: Float[Array | np.ndarray, "n 3 n 3"]) -> None:
    """Write a Hessian as phonopy's FORCE_CONSTANTS, the full matrix in eV/Å²; the file appears whole or not at all.

    Atoms keep their order, which must be that of phonopy's supercell: compute the Hessian for the positions of its
    SPOSCAR (all images of the first atom first; ASE's `repeat` has all atoms of the first image first).

    Raises:
        ValueError: for a Hessian that is not finite.
    """
    values = np.asarray(hessian, float)
    if not np.all(np.isfinite(values)):
        raise ValueError("`hessian` is not finite: nothing is written.")
    n = len(values)
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(f"{n:4d} {n:4d}\n")
        for i, j in np.ndindex(n, n):
            file.write(f"{i + 1} {j + 1}\n")
            file.writelines("".join(f"{x:22.15f}" for x in row) + "\n" for row in values[i, :, j])


def _check_masses(masses: Float[Array | np.ndarray, " m"], n: int) -> None:
    if len(masses) != n:
        raise ValueError(f"`masses` must have one entry for each of the {n} atoms, got {len(masses)}.")
    if not isinstance(masses, Tracer) and not np.all(np.asarray(masses) > 0):
        raise ValueError(f"`masses` must be positive, got {np.min(np.asarray(masses))}. Units: amu.")


def _inverse_roots(masses: Float[Array | np.ndarray, " m"], dtype: jnp.dtype) -> Float[Array, " m"]:
    return 1.0 / jnp.sqrt(AMU * jnp.asarray(masses).astype(dtype))


def _wavenumbers(squares: Float[Array, " k"]) -> Float[Array, " k"]:
    """Signed roots of ω² (1/fs²) as wavenumbers; zero has a zero derivative."""
    size = jnp.abs(squares)
    roots = jnp.where(size > 0, jnp.sqrt(jnp.where(size > 0, size, 1.0)), 0.0)
    return jnp.sign(squares) * roots * (WAVENUMBER / (2.0 * math.pi))
