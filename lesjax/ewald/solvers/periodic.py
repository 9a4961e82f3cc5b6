"""Common part of the sums over k-vectors: the k-grid, its weights, and when they hold."""

import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lesjax.ewald.interaction import Interaction, SlabCoulomb
from lesjax.numerics import determinant, inverse
from lesjax.validate import check_memory


MAX_STRETCH, MIN_STRETCH = 1.03, 0.9
# What a k-vector takes while a plan is made and used, bytes
KVECTOR_BYTES = 200
SIGNS = ((1, 1), (1, -1), (-1, 1), (-1, -1))


class Grid(NamedTuple):
    """Arrays that depend on the cell, needed once for an energy.

    Attributes:
        inverse_cell: inverse of the cell that is repeated, 1/Å.
        weights: factors of |S(k)|² in the energy, eV per square of the sources, in the layout of the solver.
    """

    inverse_cell: Float[Array, "3 3"]
    weights: Float[Array, "..."]


@dataclass(frozen=True, kw_only=True)
class Periodic:
    """A sum over the k-vectors of a cell.

    A solver adds `grid`, `factor`, which is linear in the atoms, and the forms `square` and `product` of its
    results: the energy of one set of multipoles, and that of one with another.

    Attributes:
        sigma: smearing width σ of the Gaussians, Å. A leaf: it can be differentiated and learned, by
            `dataclasses.replace`. The plan holds for the σ it was made with and loses accuracy for smaller ones,
            which `still_valid` does not see: plan with the smallest σ that you expect.
        kmask: mask of the k-vectors (n1, ±n2, ±n3) in the sum, for the four signs; k = 0 always does, with the value
            that the interaction has there. It stays fixed while the cell strains, so that energy and stress are smooth.
        planned_cell: the cell that it was made for, lattice vectors as rows, Å.
        period: length along the surface normal after which a slab repeats, Å; None otherwise.
        interaction: interaction to sum.
    """

    sigma: Float[np.ndarray | Array, "*b"]
    kmask: Bool[np.ndarray | Array, "*b 4 n1 n2 n3"]
    planned_cell: Float[np.ndarray | Array, "*b 3 3"]
    period: Float[np.ndarray | Array, "*b"] | None = None
    interaction: Interaction = field(metadata={"static": True})

    @property
    def k_shape(self) -> tuple[int, int, int]:
        """Numbers of k-grid points along each reciprocal vector, zero included."""
        n1, n2, n3 = self.kmask.shape[-3:]
        return (n1, n2, n3)

    def half_grid(self, cell: Float[Array, "3 3"]) -> Grid:
        r"""Return the weights :math:`\frac{C}{2V} \varphi(k)`, times the multiplicity of k, of (n1, ±n2, ±n3), n >= 0.

        `kmask` was planned for a nearby cell and stays while `cell` strains, so the energy is smooth.
        """
        sigma, period = (None if x is None else jnp.asarray(x, cell.dtype) for x in (self.sigma, self.period))
        assert sigma is not None
        cell = self.interaction.repeated_cell(cell, period)
        inverse_cell = inverse(cell)
        reciprocal_cell = 2.0 * math.pi * inverse_cell.T
        a, b, c = (
            jnp.arange(n).astype(cell.dtype)[:, None] * reciprocal_cell[i][None] for i, n in enumerate(self.k_shape)
        )
        kvectors = jnp.stack(
            [a[:, None, None, :] + s2 * b[None, :, None, :] + s3 * c[None, None, :, :] for s2, s3 in SIGNS]
        )
        factors = 0.5 * self.interaction.constant / jnp.abs(determinant(cell)) * _multiplicity(self.k_shape, cell.dtype)
        weights = jnp.where(jnp.asarray(self.kmask), self.interaction.kernel(kvectors, cell, sigma), 0.0) * factors
        return Grid(inverse_cell, weights)

    def still_valid(self, cell: Float[np.ndarray | Array, "*b 3 3"]) -> Bool[Array, ""]:
        """Return whether the plan still holds its accuracy in a cell that has drifted; on the host and while traced.

        True if no length has grown by more than 3 % or shrunk by more than 10 % since `planned_cell`, in any direction
        and up to rounding: with F the deformation, where 1.03² - FFᵀ and FFᵀ - 0.9² are positive definite, from their
        leading minors, all of them for stacked solvers. Rotations do not matter.

        Results stay smooth and consistent in any cell. But where the cell has grown, the k-vectors of the plan reach
        less far and the mesh is coarser. With x = σ k_c, 3 % in all directions multiply the bound of the error of a
        Coulomb sum by exp(0.03 (x² - 2)): 2.0 at an accuracy of 1e-4, 2.3 at 1e-5, 2.7 at 1e-6. Where the cell has
        shrunk by 10 %, a new plan needs less work.
        """
        return _is_close(self.planned_cell, cell)

    def fits(self, positions: Float[np.ndarray | Array, "n 3"], cell: Float[np.ndarray | Array, "3 3"]) -> Array:
        """Return whether the atoms of a slab are within the height that it was planned for; True for other cells."""
        if not isinstance(self.interaction, SlabCoulomb):
            return jnp.ones((), bool)
        positions, cell = jnp.asarray(positions), jnp.asarray(cell)
        extent, height = self.interaction.extent_and_height(jnp, positions, cell, self.period, self.sigma)
        return extent <= height

    def check_atoms(self, positions: Float[np.ndarray, "n 3"], cell: Float[np.ndarray, "3 3"]) -> None:
        """Refuse atoms that reach beyond the planned height of a slab; host only. Other cells are not checked.

        Raises:
            ValueError: if they are further apart along the normal than the cell was high; the forces between those
                atoms would be those of a truncated interaction.
        """
        if not isinstance(self.interaction, SlabCoulomb):
            return
        assert self.period is not None
        sizes = float(self.period), float(self.sigma)
        extent, height = self.interaction.extent_and_height(np, positions, cell, *sizes)
        if extent > height:
            raise ValueError(
                f"`positions` extend over {extent:.4g} Å along the normal of the slab, more than the height "
                f"{height:.4g} Å of the cell. Unwrap atoms that were wrapped along lattice vector "
                f"{self.interaction.axis}, or make it longer."
            )

    @classmethod
    def share_sizes(cls, solvers: Sequence[Any]) -> list[Any]:
        """Return the solvers with the largest k-grid of all, so that they can be stacked."""
        shape = np.max([solver.k_shape for solver in solvers], axis=0)

        def padded(solver: Periodic) -> np.ndarray:
            added = np.array([(0, 0), *((0, int(n - m)) for n, m in zip(shape, solver.k_shape, strict=True))])
            return np.pad(np.asarray(solver.kmask), added)

        return [replace(solver, kmask=padded(solver)) for solver in solvers]


def fractional_coordinates(positions: Float[Array, "n 3"], inverse_cell: Float[Array, "3 3"]) -> Float[Array, "n 3"]:
    """Fractional coordinates of the image nearest to the origin, between -1/2 and 1/2."""
    # TF32, the default of some GPUs, would lose three digits
    fractional = jnp.matmul(positions, inverse_cell, precision=jax.lax.Precision.HIGHEST)
    # float32 phases keep their digits however far the atoms have drifted
    return fractional - jax.lax.stop_gradient(jnp.round(fractional))


def half_spectrum(weights: Float[Array, "4 k1 k2 k3"], shape: tuple[int, int, int]) -> Float[Array, "n1 n2 h"]:
    """Bring the weights of the k-vectors (n1, ±n2, ±n3), n >= 0, into the layout of a real FFT of a mesh.

    Weights of k and -k are added: both have the same |S|².
    """
    _, *sizes = weights.shape
    assert all(2 * (size - 1) < n for size, n in zip(sizes, shape, strict=True)), (sizes, shape)
    # (n1, ±n2, -n3) is minus (-n1, ∓n2, n3)
    positive = _two_sided(weights[0], weights[2], 1, shape[1])
    negative = _two_sided(weights[3], weights[1], 1, shape[1])
    both = _two_sided(positive, negative, 0, shape[0])
    return jnp.pad(both, ((0, 0), (0, 0), (0, shape[2] // 2 + 1 - sizes[2])))


def make_kmask(cell: Float[np.ndarray, "3 3"], k_cutoff: float) -> Bool[np.ndarray, "4 n1 n2 n3"]:
    """Mark the k-vectors (n1, ±n2, ±n3), n >= 0, with |k| <= `k_cutoff`, 1/Å.

    Warns, once in a process, of a cell that has none but zero: its sum is empty, and minus the self-energy is left.

    Raises:
        ValueError: for a singular cell, or a cutoff that is not positive.
    """
    if not 0 < k_cutoff < math.inf:
        raise ValueError(f"`k_cutoff` must be positive and finite, got {k_cutoff}.")
    lengths = np.linalg.norm(cell, axis=1)
    if not np.all(np.isfinite(cell)) or abs(np.linalg.det(cell)) <= 1e-9 * np.prod(lengths):
        raise ValueError(f"`cell` is singular: {cell.tolist()}. For a system without periodic images set pbc to False.")
    # n_a = k·a/2π, so |n_a| <= k_c |a|/2π; the tolerance keeps vectors that lie on the sphere
    extents = [k_cutoff * length / (2 * math.pi) * (1 + 1e-12) for length in lengths]
    n_points = len(SIGNS) * math.prod(extent + 1.0 for extent in extents)
    check_memory(
        f"A sum over {n_points:.3g} k-vectors up to {k_cutoff:.3g} 1/Å for edges {lengths.round(3).tolist()} Å",
        KVECTOR_BYTES * n_points,
        "Take a smaller cell (pbc False for a molecule), a larger `sigma`, a lower `k_cutoff` or less `accuracy`",
    )
    a, b, c = (np.arange(math.floor(extent) + 1.0) for extent in extents)
    reciprocal_cell = 2 * math.pi * np.linalg.inv(cell).T
    metric = reciprocal_cell @ reciprocal_cell.T
    kmask = np.empty((len(SIGNS), len(a), len(b), len(c)), bool)
    # |k|² from products of pairs of indices: an array of all k-vectors would take most of the time and memory
    for mask, (s2, s3) in zip(kmask, SIGNS, strict=True):
        plane = metric[0, 0] * a[:, None] ** 2 + metric[1, 1] * b**2 + 2 * s2 * metric[0, 1] * a[:, None] * b
        slope = 2 * s3 * (metric[0, 2] * a[:, None] + s2 * metric[1, 2] * b)
        squared = slope[:, :, None] * c
        squared += plane[:, :, None]
        squared += metric[2, 2] * c**2
        mask[:] = squared <= k_cutoff**2 * (1 + 1e-12)
    if np.sum(kmask) == len(SIGNS) and not _warn_of_empty_sum.cache_info().currsize:
        _warn_of_empty_sum(k_cutoff, str(lengths.round(3).tolist()))
    return kmask


@functools.cache  # an exception, which a filter may make of the warning, is not kept
def _warn_of_empty_sum(k_cutoff: float, lengths: str) -> None:
    warnings.warn(
        f"`k_cutoff` = {k_cutoff:.3g} 1/Å leaves no k-vector in a cell with edges {lengths} Å: its long-range sum is "
        "empty, so that charges act by their self-energy only. Repeat the cell, or raise `k_cutoff` or the accuracy, "
        "if it should not be. This is said once.",
        stacklevel=4,
    )


def _multiplicity(shape: tuple[int, int, int], dtype: jnp.dtype) -> Float[Array, "1 n1 n2 n3"]:
    """Two for k and -k, halved for each zero index: there the two signs are the same k-vector."""
    n1, n2, n3 = (jnp.ones(n, dtype).at[0].set(0.5) for n in shape)
    return 2.0 * (n1[:, None, None] * n2[None, :, None] * n3[None, None, :])[None]


def _two_sided(positive: Array, negative: Array, axis: int, n: int) -> Array:
    """Frequencies 0, 1, …, k - 1, zeros, -(k - 1), …, -1 of `n` in all; both arguments hold zero."""
    k = positive.shape[axis]
    gap = list(positive.shape)
    gap[axis] = n - 2 * k + 1
    zero, above = jnp.split(positive, [1], axis)
    other_zero, below = jnp.split(negative, [1], axis)
    return jnp.concatenate([zero + other_zero, above, jnp.zeros(gap, positive.dtype), jnp.flip(below, axis)], axis)


@jax.jit
def _is_close(planned_cell: Float[Array, "*b 3 3"], cell: Float[Array, "*b 3 3"]) -> Bool[Array, ""]:
    """Compute `still_valid`, compiled, since a simulation asks at every step."""
    deformation = jnp.matmul(inverse(planned_cell.astype(cell.dtype)), cell, precision=jax.lax.Precision.HIGHEST)
    transposed = jnp.swapaxes(deformation, -1, -2)
    squared = jnp.matmul(deformation, transposed, precision=jax.lax.Precision.HIGHEST)
    identity = jnp.broadcast_to(jnp.eye(3, dtype=cell.dtype), squared.shape)
    limits = (MAX_STRETCH**2 * identity - squared, squared - MIN_STRETCH**2 * identity)
    return jnp.all(jnp.stack([_is_positive_definite(limit) for limit in limits]))


def _is_positive_definite(matrix: Float[Array, "*b 3 3"]) -> Bool[Array, "*b"]:
    """Sylvester's criterion, for which no eigenvalues are needed."""
    second = matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]
    return (matrix[..., 0, 0] > 0.0) & (second > 0.0) & (determinant(matrix) > 0.0)
