r"""Sum over all pairs of Gaussian multipoles without periodic images.

.. math:: E = \sum_{i<j} (q_i + u_i \cdot \nabla + \tfrac12 Q_i : \nabla \nabla)
              (q_j - u_j \cdot \nabla + \tfrac12 Q_j : \nabla \nabla) B_0(r_i - r_j), \quad
          B_0(r) = C \, p(r)

With :math:`B_{l+1} = -B_l' / r` the derivatives of B_0 are :math:`-r_a B_1`, :math:`r_a r_b B_2 - \delta_{ab} B_1` and
so on. The B_l come from the interaction (`lesjax.ewald.interaction`) and are smooth everywhere: two atoms at one point
have finite energies and no force from each other's charge. `Coulomb` has
:math:`p = \operatorname{erf}(r / (\sqrt 2 \sigma)) / r`.

Source: Cheng, npj Comput. Mater. 11, 80 (2025), doi:10.1038/s41524-025-01577-7, for the charges.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lesjax.ewald.interaction import Interaction
from lesjax.ewald.multipoles import Multipoles
from lesjax.numerics import matmul


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class OpenSolver:
    """The sum over all pairs; it needs no plan.

    Attributes:
        sigma: smearing width σ of the Gaussians, Å. A leaf: it can be differentiated and learned.
        interaction: interaction to sum.
    """

    sigma: Float[np.ndarray | Array, "*b"]
    interaction: Interaction = field(metadata={"static": True})

    def pairs(
        self, positions: Float[Array, "n 3"], multipoles: Multipoles, pair_mask: Bool[Array, "n n"]
    ) -> Float[Array, ""]:
        """Return the energy of the pairs in `pair_mask`, eV, channels summed.

        Args:
            positions: Cartesian coordinates, Å.
            multipoles: multipoles with an axis of channels.
            pair_mask: symmetric and without diagonal; each pair is in it twice.
        """
        vectors = _vectors(positions, positions)
        # factors of B_0, B_1, … of each pair
        factors: list[Array] = [matmul(multipoles.charges, multipoles.charges.T)]
        if multipoles.dipoles is not None or multipoles.quadrupoles is not None:
            channels = range(multipoles.charges.shape[1])
            each = [_factors(vectors, jax.tree.map(lambda values, c=c: values[:, c], multipoles)) for c in channels]
            factors += [functools.reduce(jnp.add, terms) for terms in zip(*each, strict=True)]
        return 0.5 * self._sum(vectors, factors, pair_mask)

    def product(
        self,
        at: Float[Array, "m 3"],
        charges: Float[Array, " m"],
        positions: Float[Array, "n 3"],
        multipoles: Multipoles,
        pair_mask: Bool[Array, "m n"],
    ) -> Float[Array, ""]:
        """Return the energy, eV, of charges at the positions `at` with one channel of multipoles, over `pair_mask`."""
        vectors = _vectors(at, positions)
        q, u, quadrupoles = multipoles
        factors = [q[None, :]]  # of B_0, B_1, B_2
        if u is not None or quadrupoles is not None:
            factors.append(jnp.zeros_like(factors[0]) if u is None else _dot(u.T[:, None, :], vectors))
        if quadrupoles is not None:
            q_r = [_dot(quadrupoles[:, a].T[:, None, :], vectors) for a in range(3)]
            factors[1] = factors[1] - 0.5 * jnp.trace(quadrupoles, axis1=1, axis2=2)[None, :]
            factors.append(0.5 * _dot(q_r, vectors))
        return self._sum(vectors, [charges[:, None] * factor for factor in factors], pair_mask)

    def _sum(
        self, vectors: list[Float[Array, "m n"]], factors: Sequence[Float[Array, "m n"]], pair_mask: Bool[Array, "m n"]
    ) -> Float[Array, ""]:
        sigma = jnp.asarray(self.sigma, vectors[0].dtype)
        values = self.interaction.pair(_dot(vectors, vectors), sigma, len(factors) - 1)
        terms = [b * factor for b, factor in zip(values, factors, strict=True)]
        return self.interaction.constant * jnp.sum(jnp.where(pair_mask, sum(terms[1:], terms[0]), 0.0))

    def still_valid(self, cell: Float[np.ndarray | Array, "*b 3 3"]) -> Bool[Array, ""]:
        """Return True: there is no plan that a cell could leave."""
        return jnp.ones((), bool)

    def fits(self, positions: Float[np.ndarray | Array, "n 3"], cell: Float[np.ndarray | Array, "3 3"]) -> Array:
        """Return True; see `Periodic.fits`."""
        return jnp.ones((), bool)

    def check_atoms(self, positions: Float[np.ndarray, "n 3"], cell: Float[np.ndarray, "3 3"]) -> None:
        """Do nothing; see `Periodic.check_atoms`."""

    @classmethod
    def share_sizes(cls, solvers: Sequence[Any]) -> list[Any]:
        """Return the solvers, which have no sizes."""
        return list(solvers)


def _factors(vectors: list[Float[Array, "n n"]], multipoles: Multipoles) -> list[Float[Array, "n n"]]:
    """Factors of B_1, B_2, … in the energy of one channel, summed over i, j and j, i."""
    q, u, quadrupoles = multipoles
    u = jnp.zeros((len(q), 3), q.dtype) if u is None else u
    ui, uj = u.T[:, :, None], u.T[:, None, :]
    ui_r, uj_r = _dot(ui, vectors), _dot(uj, vectors)
    b1 = _dot(ui, uj) - 2.0 * ui_r * q[None, :]
    b2 = -ui_r * uj_r
    if quadrupoles is None:
        return [b1, b2]
    trace = jnp.trace(quadrupoles, axis1=1, axis2=2)
    qi_r = [_dot(quadrupoles[:, a].T[:, :, None], vectors) for a in range(3)]
    qj_r = [_dot(quadrupoles[:, a].T[:, None, :], vectors) for a in range(3)]
    r_qi_r, r_qj_r = _dot(qi_r, vectors), _dot(qj_r, vectors)
    flat = quadrupoles.reshape(-1, 9)
    b1 = b1 - trace[:, None] * q[None, :]
    b2 = b2 + r_qi_r * q[None, :] - trace[:, None] * uj_r - 2.0 * _dot(qi_r, uj)
    b2 = b2 + 0.25 * trace[:, None] * trace[None, :] + 0.5 * matmul(flat, flat.T)
    b3 = r_qi_r * uj_r - _dot(qi_r, qj_r) - 0.5 * r_qi_r * trace[None, :]
    return [b1, b2, b3, 0.25 * r_qi_r * r_qj_r]


def _vectors(at: Float[Array, "m 3"], positions: Float[Array, "n 3"]) -> list[Float[Array, "m n"]]:
    """Return the components of all differences separately, so that later steps are fused to one pass over the pairs."""
    return [at[:, a, None] - positions[None, :, a] for a in range(3)]


def _dot(left: Any, right: Any) -> Float[Array, "m n"]:
    """Sum over the three components of the products."""
    return left[0] * right[0] + left[1] * right[1] + left[2] * right[2]
