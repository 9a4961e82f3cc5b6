"""Planning on the host: which sum, which k-vectors. Needs values, so it cannot be traced."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.optimize import brentq

from lesjax.ewald.mesh_plan import choose_mesh
from lesjax.ewald.nufft import require_finufft
from lesjax.ewald.slab import check_extent, plan_slab


DEFAULT_ACCURACY = 1e-4
# Number of atoms from which the mesh is faster than the direct sum on CPU: benchmarks/crossover.py
CROSSOVER = 500
# Largest relative error of the forces that a cutoff leaves in rattled ionic crystals, in units of x² exp(-x²/2) with
# x = σ k_c; and what the interpolation of a mesh leaves there in units of its estimate, which is that of uncorrelated
# charges: benchmarks/ewald_accuracy.py
COHERENT_TRUNCATION, COHERENT_INTERPOLATION = 0.95, 200.0
# Parts of the error that are left to the cutoff and to the structure factor of the non-uniform transform.
TRUNCATION_SHARE, NUFFT_SHARE = 0.5, 0.5
MAX_STRETCH, MIN_STRETCH = 1.03, 0.9
PERIODIC_METHODS = ("direct", "mesh", "nufft")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Solver:
    """What `energy`, `potential` and `field` need besides the atoms; made by `make_solver`.

    Attributes:
        sigma: smearing width σ of the Gaussian charges, Å. A leaf: it can be differentiated and learned, by
            `dataclasses.replace`. The plan is that of the σ it was made with, and loses accuracy for smaller ones,
            which `still_valid` does not see: plan with the smallest one that you expect.
        kmask: which of the k-vectors (n1, ±n2, ±n3) take part, for the four signs; None for open boundaries.
            It stays fixed while the cell strains, so that energy and stress are smooth.
        planned_cell: the cell that it was made for, lattice vectors as rows, Å; None for open boundaries.
        method: "direct", "mesh", "nufft" or "open".
        mesh: mesh points along each lattice vector, fixed like `kmask`; None without a mesh.
        order: order of the mesh's B-splines; energies have `order` - 2 continuous derivatives by the positions.
        tolerance: relative error of the structure factor of "nufft".
        period: length along the surface normal after which a slab repeats, Å; see `lesjax.ewald.slab`. None otherwise.
        slab_axis: the lattice vector without periodicity of a slab; None otherwise.
    """

    sigma: Float[np.ndarray | Array, "*b"]
    kmask: Bool[np.ndarray | Array, "*b 4 n1 n2 n3"] | None
    planned_cell: Float[np.ndarray | Array, "*b 3 3"] | None
    method: str = field(metadata={"static": True})
    period: Float[np.ndarray | Array, "*b"] | None = None
    slab_axis: int | None = field(default=None, metadata={"static": True})
    mesh: tuple[int, int, int] | None = field(default=None, metadata={"static": True})
    order: int = field(default=0, metadata={"static": True})
    tolerance: float = field(default=0.0, metadata={"static": True})

    def still_valid(self, cell: Float[np.ndarray | Array, "*b 3 3"]) -> bool:
        """Whether the plan still holds its accuracy in a cell that has drifted. Reads values: for the host.

        Results stay smooth and consistent in any cell. But where the cell has grown, the k-vectors of the plan reach
        less far and the mesh is coarser. With x = σ k_c, 3 % in all directions multiply the bound of the error by
        exp(0.03 (x² - 2)): 2.0 at an accuracy of 1e-4, 2.3 at 1e-5, 2.7 at 1e-6. Where the cell has shrunk by 10 %, a
        new plan needs less work. Rotations do not matter. Open boundaries need no plan.
        """
        if self.planned_cell is None:
            return True
        strained = np.linalg.inv(np.asarray(self.planned_cell, float)) @ np.asarray(cell, float)
        stretches = np.linalg.svd(strained, compute_uv=False)
        return bool(np.all(stretches <= MAX_STRETCH) and np.all(stretches >= MIN_STRETCH))

    def check_atoms(self, positions: Float[np.ndarray, "n 3"], cell: Float[np.ndarray, "3 3"]) -> None:
        """Refuse atoms that reach beyond what a slab was planned for; host only, and nothing for other solvers.

        Raises:
            ValueError: if they are further apart along the normal than the cell was high.
        """
        if self.slab_axis is not None and self.period is not None:
            check_extent(positions, cell, self.slab_axis, float(self.period), float(self.sigma))


def make_solver(
    cell: Float[np.ndarray | Array, "3 3"],
    pbc: bool | Sequence[bool] | np.ndarray,
    *,
    n_atoms: int,
    sigma: float = 1.0,
    k_cutoff: float | None = None,
    accuracy: float | None = None,
    method: str = "auto",
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
    quadrupoles 4 times. With "mesh" and "nufft" half of `accuracy` is left to the cutoff and the rest to the
    interpolation (`mesh_plan`). With an explicit `k_cutoff` they agree with the direct sum over the same k-vectors to
    the default accuracy.

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

    Raises:
        ValueError: for a singular cell, one periodic direction, non-positive or contradictory settings.
        ImportError: for "nufft" without jax-finufft.
    """
    if np.shape(pbc) not in ((), (3,)):
        raise ValueError(f"`pbc` must be true, false or three of them, got {pbc}.")
    periodic = tuple(bool(p) for p in np.broadcast_to(pbc, 3))
    allowed = PERIODIC_METHODS if any(periodic) else ("open",)
    if sum(periodic) == 1:
        raise ValueError(
            f"`pbc` must be periodic in three, two or no directions for the long-range sum, got {periodic}: "
            "there is no sum for one periodic direction. Put a wire into a cell with vacuum and set two or three."
        )
    if method not in ("auto", *allowed):
        names = ", ".join(map(repr, allowed))
        raise ValueError(f"`method` must be 'auto' or one of {names} for pbc {periodic}, got {method!r}.")
    if n_atoms < 1:
        raise ValueError(f"`n_atoms` must be at least 1, got {n_atoms}.")
    if not sigma > 0:
        raise ValueError(f"`sigma` must be positive, got {sigma}.")
    if k_cutoff is not None and accuracy is not None:
        raise ValueError(f"Give `k_cutoff` or `accuracy`, not both; got {k_cutoff} and {accuracy}.")
    width = np.asarray(sigma, dtype=jax.dtypes.canonicalize_dtype(float))
    if not any(periodic):
        return Solver(sigma=width, kmask=None, planned_cell=None, method="open")
    if method == "auto":
        method = "direct" if n_atoms < CROSSOVER else "mesh"
    target = DEFAULT_ACCURACY if accuracy is None else accuracy
    given_cutoff = k_cutoff is not None
    if k_cutoff is None:
        k_cutoff = cutoff_for_accuracy(target if method == "direct" else target * TRUNCATION_SHARE, sigma)
    box = np.asarray(cell, float)
    plan: dict = {"planned_cell": box.astype(width.dtype)}
    if not all(periodic):
        plan["slab_axis"] = periodic.index(False)
        plan["period"], box = plan_slab(box, plan["slab_axis"], sigma)
    kmask = make_kmask(box, k_cutoff)
    if not all(periodic):
        kmask[:, 0, 0, 0] = True  # the kernel of a slab has a term k = 0
    if method == "mesh":
        share = 1.0 if given_cutoff else math.sqrt(1.0 - TRUNCATION_SHARE**2)
        interpolation = share * target / COHERENT_INTERPOLATION
        plan["mesh"], plan["order"] = choose_mesh(box, k_cutoff, interpolation, sigma=sigma, n_atoms=n_atoms)
    elif method == "nufft":
        require_finufft()
        plan["tolerance"] = NUFFT_SHARE * target
    return Solver(sigma=width, kmask=kmask, method=method, **plan)


def cutoff_for_accuracy(accuracy: float, sigma: float) -> float:
    """Reciprocal cutoff, 1/Å, that leaves the relative force error `accuracy`; see `make_solver`."""
    if not 0 < accuracy < 1:
        raise ValueError(f"`accuracy` must lie between 0 and 1, got {accuracy}.")
    excess = lambda x: 2.0 * math.log(x) - 0.5 * x * x + math.log(COHERENT_TRUNCATION / accuracy)  # noqa: E731
    peak = math.sqrt(2.0)  # the bound falls beyond
    x = brentq(excess, peak, 40.0) if excess(peak) > 0.0 else peak
    return float(x) / sigma  # pyright: ignore[reportArgumentType]


def make_kmask(cell: Float[np.ndarray, "3 3"], k_cutoff: float) -> Bool[np.ndarray, "4 n1 n2 n3"]:
    """Mark the k-vectors (n1, ±n2, ±n3), n >= 0, with 0 < |k| <= `k_cutoff`, 1/Å."""
    if not 0 < k_cutoff < math.inf:
        raise ValueError(f"`k_cutoff` must be positive and finite, got {k_cutoff}.")
    lengths = np.linalg.norm(cell, axis=1)
    if not np.all(np.isfinite(cell)) or abs(np.linalg.det(cell)) <= 1e-9 * np.prod(lengths):
        raise ValueError(f"`cell` is singular: {cell.tolist()}. For a system without periodic images set pbc to False.")
    # n_a = k·a/2π, so |n_a| <= k_c |a|/2π; the tolerance keeps vectors that lie on the sphere
    sizes = [math.floor(k_cutoff * length / (2 * math.pi) * (1 + 1e-12)) + 1 for length in lengths]
    n1, n2, n3 = np.meshgrid(*map(np.arange, sizes), indexing="ij")
    integers = np.stack([np.stack([n1, s2 * n2, s3 * n3], -1) for s2 in (1, -1) for s3 in (1, -1)])
    kvectors = integers @ (2 * math.pi * np.linalg.inv(cell).T)
    k_squared = np.sum(kvectors**2, axis=-1)
    kmask = (k_squared > 0) & (k_squared <= k_cutoff**2 * (1 + 1e-12)) & np.any(integers != 0, axis=-1)
    if not kmask.any():
        raise ValueError(
            f"`k_cutoff` = {k_cutoff:.3g} 1/Å leaves no k-vector in a cell with edges {lengths.round(3).tolist()} Å: "
            "the box is too small for this smearing. Repeat the cell or raise `k_cutoff`."
        )
    return kmask


def stack_solvers(solvers: list[Solver]) -> Solver:
    """Stack the solvers of several systems along a leading axis for `vmap`, k-grids and meshes of one shape.

    The largest k-grid, mesh, order and the smallest tolerance serve all. Periodic solvers of different methods
    become direct ones, which any k-grid allows.

    Raises:
        ValueError: for periodic and open boundaries together, or different surface normals.
    """
    methods = {solver.method for solver in solvers}
    if len(methods) > 1 and "open" in methods:
        raise ValueError(f"`solvers` must share one method to be stacked, got {sorted(methods)}.")
    axes = {solver.slab_axis for solver in solvers}
    if len(axes) != 1:
        raise ValueError(f"`solvers` must share one `slab_axis` to be stacked, got {sorted(axes, key=str)}.")
    sigma = np.stack([np.asarray(solver.sigma) for solver in solvers])
    masks = [np.asarray(solver.kmask) for solver in solvers if solver.kmask is not None]
    if not masks:
        return Solver(sigma=sigma, kmask=None, planned_cell=None, method="open")
    shape = np.max([mask.shape for mask in masks], axis=0)
    padded = [np.pad(mask, [(0, int(n - m)) for n, m in zip(shape, mask.shape, strict=True)]) for mask in masks]
    periods = [np.asarray(solver.period) for solver in solvers if solver.period is not None]
    method = methods.pop() if len(methods) == 1 else "direct"
    meshes = [solver.mesh for solver in solvers if solver.mesh is not None and method == "mesh"]
    return Solver(
        sigma=sigma,
        kmask=np.stack(padded),
        planned_cell=np.stack([np.asarray(solver.planned_cell) for solver in solvers]),
        method=method,
        period=np.stack(periods) if periods else None,
        slab_axis=axes.pop(),
        mesh=(max(m[0] for m in meshes), max(m[1] for m in meshes), max(m[2] for m in meshes)) if meshes else None,
        order=max(solver.order for solver in solvers) if meshes else 0,
        tolerance=min(solver.tolerance for solver in solvers) if method == "nufft" else 0.0,
    )
