r"""Interactions of Gaussians that a solver sums, as static, hashable objects without arrays.

With sources c (charges of any kind), φ the Fourier transform and p the pair function of one interaction,

.. math:: E = \frac{C}{2 V} \sum_k \varphi(k) |S(k)|^2 - \frac{C}{2} p(0) \sum_i c_i^2, \quad
          S(k) = \sum_i c_i e^{i k \cdot r_i}

in a periodic cell and :math:`E = C \sum_{i<j} c_i c_j\, p(r_{ij})` without one. `Coulomb` has
:math:`\varphi = 4 \pi e^{-\sigma^2 k^2 / 2} / k^2` and :math:`p = \operatorname{erf}(r / \sqrt 2 \sigma) / r`;
`InversePower6` is the :math:`-1 / r^6` of London dispersion. Another interaction is another subclass of `Interaction`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Bool, Float

from lesjax.numerics import safe_norm, safe_reciprocal
from lesjax.units import COULOMB


class Interaction(ABC):
    """Interface of interactions to the solvers; derive a frozen dataclass without arrays.

    Attributes:
        constant: C, eV in the units of sources and lengths, 14.4 eV Å for charges in e.
        max_order: largest order of multipoles that it has: 0 for charges only, 1 with dipoles, 2 with quadrupoles.
        coherence: error that the interpolation of a mesh leaves in crystals, in units of its estimate, which assumes
            uncorrelated sources.
        periodic: directions that are periodic where the sum is periodic at all.
    """

    constant: ClassVar[float]
    max_order: ClassVar[int] = 0
    coherence: ClassVar[float] = 200.0

    @property
    def periodic(self) -> tuple[bool, bool, bool]:
        return (True, True, True)

    @abstractmethod
    def kernel(
        self, kvectors: Float[Array, "*k 3"], cell: Float[Array, "3 3"], sigma: Float[Array, ""]
    ) -> Float[Array, "*k"]:
        """Return φ(k), finite and with finite derivatives everywhere; its value at k = 0 is used as it is.

        Args:
            kvectors: Cartesian, 1/Å.
            cell: the cell that is repeated, from `repeated_cell`; lattice vectors as rows, Å.
            sigma: smearing width σ, Å.
        """

    @abstractmethod
    def pair(
        self, r_squared: Float[Array, "*shape"], sigma: Float[Array, ""], order: int
    ) -> list[Float[Array, "*shape"]]:
        """Return B_0 = p(r), B_1, …, B_order with B_{l+1} = -B_l' / r, smooth in r² down to zero.

        `order` is at most twice `max_order`: an interaction of charges is only asked for [B_0].
        """

    @abstractmethod
    def at_origin(self, sigma: Float[Array, ""], order: int) -> list[Float[Array, ""]]:
        """Return B_0, …, B_order of `pair` at r = 0; `order` is at most `max_order`."""

    @abstractmethod
    def force_tail(self, x: float) -> float:
        """Bound of the relative error of the forces that a cutoff σ k_c = x leaves; falls with x. Runs on the host."""

    @abstractmethod
    def force_spectrum(self, k: Float[np.ndarray, "*k"], sigma: float) -> Float[np.ndarray, "*k"]:
        """Return k² φ(k) up to a factor, for the error of a mesh. Runs on the host."""

    def for_boundaries(self, periodic: tuple[bool, bool, bool]) -> "Interaction":
        """Return the interaction for these periodic directions, two of which are a slab. Runs on the host.

        Raises:
            ValueError: if there is none.
        """
        if sum(periodic) in (0, 3):
            return self
        raise ValueError(
            f"`pbc` = {periodic} is a slab, which the interaction {self} does not have: set three periodic directions "
            "with a cell that has vacuum, or none."
        )

    def plan_cell(
        self, cell: Float[np.ndarray, "3 3"], sigma: float
    ) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, ""] | None]:
        """Return the cell that is repeated, and its period along the normal of a slab, Å, or None. Runs on the host."""
        return cell, None

    def repeated_cell(self, cell: Float[Array, "3 3"], period: Float[Array, ""] | None) -> Float[Array, "3 3"]:
        """Return the cell that is repeated; a slab has its period along the normal."""
        return cell


class _SmearedCoulomb(Interaction):
    """Common part of the interactions in three and two periodic directions."""

    constant: ClassVar[float] = COULOMB
    max_order: ClassVar[int] = 2

    def pair(
        self, r_squared: Float[Array, "*shape"], sigma: Float[Array, ""], order: int
    ) -> list[Float[Array, "*shape"]]:
        r"""Return :math:`B_l = \sqrt{2 / \pi}\, \sigma^{-2l-1} F_l(r^2 / 2 \sigma^2)`, see `boys_functions`."""
        scale = math.sqrt(2.0 / math.pi) / sigma
        boys = boys_functions(0.5 * r_squared / sigma**2, order)
        return [scale * sigma ** (-2 * l) * function for l, function in enumerate(boys)]

    def at_origin(self, sigma: Float[Array, ""], order: int) -> list[Float[Array, ""]]:
        scale = math.sqrt(2.0 / math.pi) / sigma
        return [scale * sigma ** (-2 * l) / (2 * l + 1) for l in range(order + 1)]

    def force_tail(self, x: float) -> float:
        """Largest error that a cutoff left in rattled ionic crystals: benchmarks/ewald_accuracy.py."""
        x = max(x, math.sqrt(2.0))  # where it is largest
        return 0.95 * x**2 * math.exp(-0.5 * x**2)

    def force_spectrum(self, k: Float[np.ndarray, "*k"], sigma: float) -> Float[np.ndarray, "*k"]:
        return np.exp(-0.5 * (sigma * k) ** 2)


@dataclass(frozen=True)
class Coulomb(_SmearedCoulomb):
    r"""Coulomb interaction of Gaussian charges, dipoles and quadrupoles.

    Attributes:
        background: compensate a net charge Q by a uniform background of charge -Q. The term k = 0 is left out without
            it, as in the published code, which leaves a part in the energy that depends on σ; with it φ(0) is the
            finite part of φ for k → 0, :math:`-2 \pi \sigma^2`, and the energy is that of point charges in the
            background wherever the Gaussians do not overlap. Forces are the same with and without; the stress is not.
            Three periodic directions only: a charged slab and a charged cluster have no background.
    """

    background: bool = False

    def kernel(
        self, kvectors: Float[Array, "*k 3"], cell: Float[Array, "3 3"], sigma: Float[Array, ""]
    ) -> Float[Array, "*k"]:
        k_squared = jnp.sum(kvectors * kvectors, axis=-1)
        finite = k_squared > 0.0
        values = _unlimited(k_squared, sigma, finite)
        return jnp.where(finite, values, -2.0 * math.pi * sigma**2) if self.background else values

    def for_boundaries(self, periodic: tuple[bool, bool, bool]) -> Interaction:
        if self.background and not all(periodic):
            boundaries = "a slab" if any(periodic) else "open boundaries"
            raise ValueError(f"`background` needs three periodic directions, got {boundaries}; leave it out.")
        return SlabCoulomb(periodic.index(False)) if sum(periodic) == 2 else self


@dataclass(frozen=True)
class SlabCoulomb(_SmearedCoulomb):
    r"""Coulomb interaction in two periodic directions, truncated along the surface normal.

    In the plane the sum stays in reciprocal space. Along the normal n̂ the interaction is cut off at \|z\| = R, and the
    system is repeated with the period L = 2R, chosen so that atoms whose distance along n̂ is at most the height h of
    the cell interact as in two dimensions and no atom meets an image: R = h + m, L = 2R, with the margin m = 6σ for the
    smearing (the Gaussian leaves φ(6) ≈ 6e-9 beyond it).

    With k = k_p + k_z n̂, k_z = 2πn/L and R = L/2, the Fourier transform of θ(R - \|z\|)/r is

    .. math:: \frac{4 \pi}{k^2} \bigl(1 - (-1)^n e^{-k_p R}\bigr), \qquad k = 0: \; -2 \pi R^2.

    It holds for k_p = 0 as well, where the interaction in the plane is -2π\|z\| (a divergent constant times the squared
    net charge is left out, as in every two-dimensional sum). So the third lattice vector never enters the energy, only
    its component along the normal, when the host plans L: the vacuum carries no physics, and its size changes nothing
    but the time.

    **A slab with a net charge** Q has no background. Its energy is that of the isolated charged slab, with the zero of
    the potential such that a charged plane has -Q\|z\|/(2 ε0 A); the term k = 0 above belongs to it. Energy and
    forces are independent of R.

    Source: Rozzi et al., Phys. Rev. B 73, 205119 (2006), doi:10.1103/PhysRevB.73.205119, and Sohier, Calandra and
    Mauri, Phys. Rev. B 96, 075448 (2017), doi:10.1103/PhysRevB.96.075448; the term k = 0 here is the integral itself.

    Attributes:
        axis: the lattice vector without periodicity.
    """

    axis: int
    margin: ClassVar[float] = 6.0  # in units of sigma

    @property
    def periodic(self) -> tuple[bool, bool, bool]:
        return (self.axis != 0, self.axis != 1, self.axis != 2)

    def kernel(
        self, kvectors: Float[Array, "*k 3"], cell: Float[Array, "3 3"], sigma: Float[Array, ""]
    ) -> Float[Array, "*k"]:
        k_squared = jnp.sum(kvectors * kvectors, axis=-1)
        finite = k_squared > 0.0
        values = _unlimited(k_squared, sigma, finite)
        period = jnp.linalg.norm(cell[self.axis])
        normal = cell[self.axis] / period
        k_z = jnp.einsum("...x,x->...", kvectors, normal, precision=jax.lax.Precision.HIGHEST)
        n = jnp.round(jax.lax.stop_gradient(k_z * period / (2.0 * math.pi)))
        sign = 1.0 - 2.0 * jnp.mod(n, 2.0)
        in_plane = kvectors - k_z[..., None] * jnp.reshape(normal, (1,) * k_z.ndim + (3,))
        # rounding leaves a k_p without direction on the line k_p = 0; nonzero ones are 2π over a length of the cell
        off_line = jnp.sum(jax.lax.stop_gradient(in_plane) ** 2, axis=-1) > 1e-9 * jax.lax.stop_gradient(k_squared)
        k_p = jnp.where(off_line, safe_norm(in_plane, off_line), 0.0)
        truncated = values * (1.0 - sign * jnp.exp(-0.5 * period * k_p))
        return jnp.where(finite, truncated, -0.5 * math.pi * jnp.sum(cell[self.axis] ** 2))

    def for_boundaries(self, periodic: tuple[bool, bool, bool]) -> Interaction:
        if periodic != self.periodic:
            raise ValueError(f"`pbc` must be {self.periodic} for the interaction {self}, got {periodic}.")
        return self

    def plan_cell(
        self, cell: Float[np.ndarray, "3 3"], sigma: float
    ) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, ""] | None]:
        """Return the cell with the period L along the surface normal in the place of lattice vector `axis`, and L.

        Raises:
            ValueError: for a cell that is singular in the plane or has no height.
        """
        first, second = (cell[i] for i in range(3) if i != self.axis)
        area = np.linalg.norm(np.cross(first, second))
        if not (np.all(np.isfinite(cell)) and area > 1e-9 * np.linalg.norm(first) * np.linalg.norm(second)):
            raise ValueError(
                f"`cell` is singular in its periodic plane, without lattice vector {self.axis}: {cell.tolist()}."
            )
        normal = self._normal(np, cell)
        height = abs(float(cell[self.axis] @ normal))
        if height <= 1e-9 * math.sqrt(area):
            raise ValueError(
                f"`cell` has no height along the normal of the slab: {cell.tolist()}. Give a lattice vector "
                f"{self.axis} that reaches over all atoms; the size of the vacuum does not matter."
            )
        period = 2.0 * (height + self.margin * sigma)
        repeated = np.array(cell)
        repeated[self.axis] = period * normal
        return repeated, np.asarray(period, jax.dtypes.canonicalize_dtype(float))

    def repeated_cell(self, cell: Float[Array, "3 3"], period: Float[Array, ""] | None) -> Float[Array, "3 3"]:
        """Return the cell with the surface normal times `period` in the place of lattice vector `axis`.

        `period` stays while the cell strains, so that only the atoms strain along the normal.
        """
        assert period is not None
        return cell.at[self.axis].set(period * self._normal(jnp, cell))

    def extent_and_height(self, xp: Any, positions: Any, cell: Any, period: Any, sigma: Any) -> tuple[Any, Any]:
        """Return the extent of the atoms along the normal, and the extent that the plan allows, rounding included; Å.

        Args:
            xp: `numpy` on the host, `jax.numpy` for traced arrays.
            positions: Cartesian coordinates [n, 3], Å.
            cell: lattice vectors as rows, Å.
            period: L, Å.
            sigma: smearing width σ, Å.
        """
        extent = xp.ptp(positions @ self._normal(xp, cell))
        return extent, (0.5 * period - self.margin * sigma) * (1.0 + 1e-5)

    def _normal(self, xp: Any, cell: Any) -> Any:
        """Unit normal of the two periodic lattice vectors, along the third one or against it."""
        first, second = (cell[i] for i in range(3) if i != self.axis)
        normal = xp.cross(first, second)
        return normal / xp.linalg.norm(normal)


@dataclass(frozen=True)
class InversePower6(Interaction):
    r"""London dispersion: the attraction :math:`-c_i c_j / r^6` between sources c = √C6, damped where atoms overlap.

    With :math:`\alpha = 1 / (\sqrt 2 \sigma)`, :math:`x = \alpha r` and :math:`b = k / (2 \alpha)`

    .. math:: p &= \bigl[1 - e^{-x^2} (1 + x^2 + \tfrac12 x^4)\bigr] / r^6, \quad p(0) = \alpha^6 / 6, \\
              \varphi &= \frac{\pi^{3/2} \alpha^3}{3}
              \bigl[(1 - 2 b^2) e^{-b^2} + 2 \sqrt\pi\, b^3 \operatorname{erfc} b\bigr]

    All sources have one sign, so that φ(0) counts: every atom attracts every other one. It has a part in the stress.
    Energies are in eV for c in eV½ Å³. There are no multipoles, and no slab.

    Source: Williams, Acta Cryst. A 27, 452 (1971), doi:10.1107/S0567739471000998, whose sum in real space is what the
    damping leaves to the short range.
    """

    constant: ClassVar[float] = -1.0

    def kernel(
        self, kvectors: Float[Array, "*k 3"], cell: Float[Array, "3 3"], sigma: Float[Array, ""]
    ) -> Float[Array, "*k"]:
        k_squared = jnp.sum(kvectors * kvectors, axis=-1)
        finite = k_squared > 0.0
        k = jnp.where(finite, safe_norm(kvectors, finite), 0.0)
        return _inverse_power_6(jnp.exp, jax.scipy.special.erfc, k, sigma)

    def pair(
        self, r_squared: Float[Array, "*shape"], sigma: Float[Array, ""], order: int
    ) -> list[Float[Array, "*shape"]]:
        """Return [p(r)]: by a series below x = 1, where the closed form is a small difference of large terms."""
        y = 0.5 * r_squared / sigma**2
        near = y < 1.0
        small, large = jnp.where(near, y, 0.0), jnp.where(near, 1.0, y)
        series = jnp.zeros_like(y)
        for k in reversed(range(17)):
            series = series * small + 1.0 / math.factorial(k + 3)
        closed = (1.0 - jnp.exp(-large) * (1.0 + large + 0.5 * large**2)) / large**3
        return [jnp.where(near, jnp.exp(-small) * series, closed) / (8.0 * sigma**6)]

    def at_origin(self, sigma: Float[Array, ""], order: int) -> list[Float[Array, ""]]:
        return [1.0 / (48.0 * sigma**6)]

    def force_tail(self, x: float) -> float:
        """Largest error that a cutoff left in rattled crystals whose nearest atoms are up to 4.5 σ apart.

        Sources of one sign add up in phase in every Bragg reflection, while the forces of a crystal are small.
        """
        x = max(x, math.sqrt(2.0))
        return 20.0 * x**2 * math.exp(-0.5 * x**2)

    def force_spectrum(self, k: Float[np.ndarray, "*k"], sigma: float) -> Float[np.ndarray, "*k"]:
        return k**2 * _inverse_power_6(np.exp, scipy.special.erfc, k, sigma)


def _inverse_power_6(exp: Any, erfc: Any, k: Any, sigma: Any) -> Any:
    """φ of `InversePower6`, with the functions of numpy or jax."""
    b, alpha = k * sigma / math.sqrt(2.0), 1.0 / (math.sqrt(2.0) * sigma)
    shape = (1.0 - 2.0 * b**2) * exp(-(b**2)) + 2.0 * math.sqrt(math.pi) * b**3 * erfc(b)
    return math.pi**1.5 * alpha**3 / 3.0 * shape


def _unlimited(k_squared: Float[Array, "*k"], sigma: Float[Array, ""], finite: Bool[Array, "*k"]) -> Float[Array, "*k"]:
    """4π exp(-σ²k²/2) / k² where it is finite, elsewhere zero."""
    return 4.0 * math.pi * jnp.exp(-0.5 * sigma**2 * k_squared) * safe_reciprocal(k_squared, finite)


def boys_functions(x: Float[Array, "*shape"], order: int) -> list[Float[Array, "*shape"]]:
    r"""Return F_0 … F_order of :math:`F_l(x) = \int_0^1 t^{2l} e^{-x t^2} dt`, x >= 0, to the rounding of the dtype.

    Their derivative is :math:`F_l' = -F_{l+1}`. Near zero the Taylor series of the highest order and the recursion
    downwards, elsewhere the error function and the recursion upwards; each is used where its terms do not cancel, also
    after three derivatives.
    """
    # for charges only, change over close to zero, where a short series is as fast as none: at 0.04 σ their forces
    # lose three digits, of a force that is zero at contact
    threshold, n_terms = (1e-3, 5) if order == 0 else (1.0, 19)
    near = x < threshold
    small, large = jnp.where(near, x, 0.0), jnp.where(near, threshold, x)
    series = jnp.zeros_like(x)
    for k in reversed(range(n_terms)):
        series = series * small + (-1) ** k / (math.factorial(k) * (2 * k + 2 * order + 1))
    root = jnp.sqrt(large)
    downwards, upwards = [series], [0.5 * math.sqrt(math.pi) * jax.scipy.special.erf(root) / root]
    if order:
        exp_small, exp_large = jnp.exp(-small), jnp.exp(-large)
        for l in range(order):
            upwards.append(((2 * l + 1) * upwards[-1] - exp_large) / (2.0 * large))
        for l in range(order, 0, -1):
            downwards.insert(0, (2.0 * small * downwards[0] + exp_small) / (2 * l - 1))
    return [jnp.where(near, a, b) for a, b in zip(downwards, upwards, strict=True)]
