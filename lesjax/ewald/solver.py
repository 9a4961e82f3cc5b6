"""Planning of the sum and its k-vectors on the host; it needs values, so it cannot be traced."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from lesjax.ewald.interaction import Coulomb, Interaction
from lesjax.ewald.solvers import DirectSolver, MeshSolver, NufftSolver, OpenSolver
from lesjax.ewald.solvers.mesh_plan import choose_mesh
from lesjax.ewald.solvers.nufft import require_finufft
from lesjax.ewald.solvers.periodic import make_kmask
from lesjax.neighbors.host import check_height
from lesjax.validate import MAX_LENGTH, array, directions, finite, number, positive, whole


DEFAULT_ACCURACY = 1e-4
# Number of atoms from which the mesh is faster than the direct sum on CPU: benchmarks/crossover.py
CROSSOVER = 500
# Parts of the error that are allowed to the cutoff and to the structure factor of the non-uniform transform.
TRUNCATION_SHARE, NUFFT_SHARE = 0.5, 0.5
PERIODIC_METHODS = ("direct", "mesh", "nufft")

# Plans that `energy`, `potential` and `field` take: frozen pytrees with arrays as leaves and static sizes. All
# have `sigma`, `interaction`, `still_valid`, `fits`, `check_atoms` and `share_sizes`; periodic ones (`Periodic`) have
# `grid`, `factor`, `square` and `product`, `OpenSolver` has `pairs` and `product`.
Solver = DirectSolver | MeshSolver | NufftSolver | OpenSolver


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Solvers:
    """Plans of two sums over the same atoms, each with its own interaction and width.

    Attributes:
        charges: plan of the sum over charges; None without any.
        dispersion: plan of the sum over coefficients of dispersion.
    """

    charges: Solver | None
    dispersion: Solver

    @property
    def planned_cell(self) -> Float[np.ndarray | Array, "*b 3 3"] | None:
        """The cell that both were made for; None for open boundaries."""
        return None if isinstance(self.dispersion, OpenSolver) else self.dispersion.planned_cell

    def still_valid(self, cell: Float[np.ndarray | Array, "*b 3 3"]) -> Bool[Array, ""]:
        """Return whether both plans hold; see `Periodic.still_valid`."""
        return self.dispersion.still_valid(cell)

    def fits(self, positions: Float[np.ndarray | Array, "n 3"], cell: Float[np.ndarray | Array, "3 3"]) -> Array:
        """Return True: slabs, which could not, have no dispersion; see `Periodic.fits`."""
        return self.dispersion.fits(positions, cell)

    def check_atoms(self, positions: Float[np.ndarray, "n 3"], cell: Float[np.ndarray, "3 3"]) -> None:
        """Do nothing; see `Periodic.check_atoms`."""


# What an energy takes: the plan of its only sum, or those of two
Plan = Solver | Solvers


def make_solver(
    cell: Float[np.ndarray | Array, "3 3"],
    pbc: bool | Sequence[bool] | np.ndarray,
    *,
    n_atoms: int,
    sigma: float = 1.0,
    k_cutoff: float | None = None,
    accuracy: float | None = None,
    method: str = "auto",
    interaction: Interaction = Coulomb(),
) -> Solver:
    r"""Plan the sum for a cell. Runs on the host in numpy and cannot be traced.

    `accuracy` bounds the error of the forces, as a root mean square relative to that of the long-range forces, for
    charges in any arrangement, up to a factor of 2 in the worst case; `force_error` measures it. The worst are
    crystals: the Bragg reflections that the cutoff :math:`k_c` leaves out add up in phase, in rattled NaCl, CsCl and
    ZnS to at most

    .. math:: 0.95 \, x^2 e^{-x^2 / 2}, \qquad x = \sigma k_c,

    (fitted), which gives the cutoff. Uncorrelated charges have :math:`\sqrt{\operatorname{erfc}(x)}`, the tail of
    :math:`\int (k\, w(k))^2 k^2 dk` with :math:`w = e^{-\sigma^2 k^2 / 2} / k^2`: a few hundredths of it; molecular
    liquids have a few tenths. Fields of multipoles reach further in k: random dipoles have 0.7 times `accuracy`, random
    quadrupoles 4 times. Another `interaction` has its own bound (`Interaction.force_tail`). With "mesh" and "nufft"
    half of `accuracy` is left to the cutoff and the rest to the interpolation (`mesh_plan`). With an explicit
    `k_cutoff` they agree with the direct sum over the same k-vectors to the default accuracy.

    Args:
        cell: lattice vectors as rows, Å; ignored for open boundaries. For a slab, the height along the surface normal
            must reach over all atoms; neither the size of the vacuum nor where the atoms lie in it matters.
        pbc: periodic in all directions, in two (a slab), or in none.
        n_atoms: number of atoms; "auto" takes the mesh from `CROSSOVER` atoms.
        sigma: smearing width σ, Å.
        k_cutoff: largest \|k\|, 1/Å (2π/dl of the published code). Exclusive with `accuracy`.
        accuracy: relative error of the forces of charges; 1e-4 if neither is given.
        method: "auto", or "direct", "mesh", "nufft" (periodic; the last with the extra of that name) or "open" (no
            direction periodic).
        interaction: interaction to sum. In a slab `Coulomb` becomes `SlabCoulomb`.

    Raises:
        ValueError: for a singular cell, one periodic direction, an interaction that these directions do not have,
            non-positive or contradictory settings.
        ImportError: for "nufft" without jax-finufft.
    """
    periodic = _periodic_directions(pbc)
    allowed = PERIODIC_METHODS if any(periodic) else ("open",)
    if method not in ("auto", *allowed):
        names = ", ".join(map(repr, allowed))
        raise ValueError(f"`method` must be 'auto' or one of {names} for pbc {periodic}, got {method!r}.")
    number("n_atoms", n_atoms, whole(1), bounded=True)
    sigma = number("sigma", sigma, positive, bounded=True)
    if k_cutoff is not None and accuracy is not None:
        raise ValueError(f"Give `k_cutoff` or `accuracy`, not both; got {k_cutoff} and {accuracy}.")
    interaction = interaction.for_boundaries(periodic)
    width = np.asarray(sigma, dtype=jax.dtypes.canonicalize_dtype(float))
    if not any(periodic):
        return OpenSolver(sigma=width, interaction=interaction)
    if method == "auto":
        method = _periodic_method(n_atoms)
    target = DEFAULT_ACCURACY if accuracy is None else number("accuracy", accuracy, finite, bounded=True)
    # the part of the error that the cutoff leaves to interpolation
    share = 1.0 if k_cutoff is not None else math.sqrt(1.0 - TRUNCATION_SHARE**2)
    if k_cutoff is not None:
        k_cutoff = number("k_cutoff", k_cutoff, positive, bounded=True)
    else:
        k_cutoff = cutoff_for_accuracy(target if method == "direct" else target * TRUNCATION_SHARE, sigma, interaction)
    planned_cell = array("cell", cell, largest=MAX_LENGTH).astype(float)
    if planned_cell.shape != (3, 3):
        raise ValueError(f"`cell` must have the shape (3, 3), got {planned_cell.shape}.")
    repeated_cell, period = interaction.plan_cell(planned_cell, sigma)
    if abs(np.linalg.det(planned_cell)) > 1e-9 * np.prod(
        np.linalg.norm(planned_cell, axis=1)
    ):  # else `make_kmask` says it
        check_height(planned_cell, periodic)
    kmask = make_kmask(repeated_cell, k_cutoff)
    plan = {
        "sigma": width, "kmask": kmask, "planned_cell": planned_cell.astype(width.dtype),
        "period": period, "interaction": interaction,
    }  # fmt: skip
    if method == "direct":
        return DirectSolver(**plan)
    if method == "nufft":
        require_finufft()
        return NufftSolver(**plan, tolerance=NUFFT_SHARE * target)
    mesh, order = choose_mesh(
        repeated_cell, k_cutoff, share * target / interaction.coherence,
        sigma=sigma, n_atoms=n_atoms, interaction=interaction,
    )  # fmt: skip
    return MeshSolver(**plan, mesh=mesh, order=order)


def plan_bucket(
    cells: Sequence[Float[np.ndarray | Array, "3 3"]],
    pbc: bool | Sequence[bool] | np.ndarray,
    *,
    n_atoms: int | Sequence[int],
    sigma: float = 1.0,
    k_cutoff: float | None = None,
    accuracy: float | None = None,
    method: str = "auto",
    interaction: Interaction = Coulomb(),
) -> list[Solver]:
    """Plan the sums of systems that are stacked: one kind of solver and the same static sizes for all.

    The largest k-grid, mesh and order of all serve each of them; `stack_solvers` stacks the result.

    Args:
        cells: cells of the systems.
        pbc: periodic directions of all of them.
        n_atoms: numbers of atoms, or the largest; "auto" goes by the largest.
        sigma: as in `make_solver`.
        k_cutoff: as in `make_solver`.
        accuracy: as in `make_solver`.
        method: as in `make_solver`.
        interaction: as in `make_solver`.

    Raises:
        ValueError: as `make_solver`; for no cells, or if the numbers of atoms are not one per cell.
    """
    numbers = [n_atoms] * len(cells) if isinstance(n_atoms, int) else list(n_atoms)
    if not cells or len(numbers) != len(cells):
        raise ValueError(f"`n_atoms` must be one number for each of `cells`, got {len(numbers)} for {len(cells)}.")
    if method == "auto" and any(_periodic_directions(pbc)):
        method = _periodic_method(max(numbers))
    solvers = [
        make_solver(
            cell, pbc, n_atoms=n, sigma=sigma, k_cutoff=k_cutoff, accuracy=accuracy, method=method,
            interaction=interaction,
        )
        for cell, n in zip(cells, numbers, strict=True)
    ]  # fmt: skip
    return type(solvers[0]).share_sizes(solvers)


def stack_solvers(solvers: Sequence[Plan]) -> Plan:
    """Stack the solvers of several systems along a leading axis for `vmap`.

    Raises:
        ValueError: unless all are of one kind, with one interaction and the same sizes: see `plan_bucket`.
    """
    for name, of in (("kind", _kind), ("interaction", _interactions), ("size", _sizes)):
        values = sorted({of(solver) for solver in solvers})
        if len(values) != 1:
            raise ValueError(
                f"`solvers` must be of one {name} to be stacked, got {values}: plan them with `plan_bucket`."
            )
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *solvers)


def _single(solver: Plan) -> list[Solver]:
    """Return the plans of single sums."""
    if not isinstance(solver, Solvers):
        return [solver]
    return [one for one in (solver.charges, solver.dispersion) if one is not None]


def _kind(solver: Plan) -> str:
    return " and ".join(type(one).__name__ for one in _single(solver))


def _interactions(solver: Plan) -> str:
    return " and ".join(repr(one.interaction) for one in _single(solver))


def _sizes(solver: Plan) -> str:
    leaves, structure = jax.tree.flatten(solver)
    return f"{[np.shape(leaf) for leaf in leaves]} {structure}"


def cutoff_for_accuracy(accuracy: float, sigma: float, interaction: Interaction) -> float:
    """Return the reciprocal cutoff, 1/Å, that leaves the relative force error `accuracy`; see `make_solver`."""
    from scipy.optimize import brentq  # slow to import, and not every command plans a sum

    if not 0 < accuracy < 1:
        raise ValueError(f"`accuracy` must lie between 0 and 1, got {accuracy}.")
    excess = lambda x: math.log(max(interaction.force_tail(x), 1e-300) / accuracy)  # noqa: E731
    lowest, highest = math.sqrt(2.0), 30.0
    x = brentq(excess, lowest, highest) if excess(lowest) > 0.0 else lowest
    return float(x) / sigma  # pyright: ignore[reportArgumentType]


def _periodic_method(n_atoms: int) -> str:
    return "direct" if n_atoms < CROSSOVER else "mesh"


def _periodic_directions(pbc: bool | Sequence[bool] | np.ndarray) -> tuple[bool, bool, bool]:
    a, b, c = directions(pbc)
    if a + b + c == 1:
        raise ValueError(
            f"`pbc` must be periodic in three, two or no directions for the long-range sum, got {(a, b, c)}: "
            "there is no sum for one periodic direction. Put a wire into a cell with vacuum and set two or three."
        )
    return a, b, c
