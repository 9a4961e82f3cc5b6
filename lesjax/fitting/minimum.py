r"""Relaxed structures as functions of the parameters of the potential and of what of the cell is not free.

At a minimum x of E(x; p) the gradient vanishes for all p, so that

.. math:: \frac{dx}{dp} = -\left( \frac{\partial^2 E}{\partial x^2} \right)^{-1}
          \frac{\partial^2 E}{\partial x\, \partial p}

whatever way the minimum was found. p has the parameters, the pressure and the cell; with the cell free, x has the
strain beside the positions, and a pressure P adds P V to the energy. Rigid translations, and the rotations of a
molecule, are projected out: they have no derivative.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PyTree

from lesjax import ewald
from lesjax.dynamics.adapter import allocate_pairs, energy, make_template, plan_solver
from lesjax.fitting.newton import Problem, geometry, minimum, rooted
from lesjax.io import Atoms
from lesjax.models.checks import check_solution
from lesjax.models.potential import Potential, Solved, energy_parts
from lesjax.neighbors.verlet import NeighborList, crowded, skin_used, within_cutoff
from lesjax.system import System
from lesjax.units import BAR


# (parameters, positions [n, 3], cell [3, 3]) -> energy, eV
EnergyFunction = Callable[[PyTree, Array, Array], Array]

STRAINS = {
    "none": np.zeros((0, 3, 3)),
    "isotropic": np.eye(3)[None] / np.sqrt(3.0),
    "full": np.array(
        [np.diag(row) for row in np.eye(3)]
        + [(np.outer(a, b) + np.outer(b, a)) / np.sqrt(2.0) for a, b in np.eye(3)[[[1, 2], [0, 2], [0, 1]]]]
    ),
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Relaxed:
    """A structure at its minimum. Positions, cell and energy have the derivatives of the minimum.

    Attributes:
        positions: Å.
        cell: lattice vectors as rows, Å; zeros for a molecule.
        energy: eV, without pressure times volume.
        energy_fn: the energy function, with the plans that hold at the minimum.
    """

    positions: Float[Array, "n 3"]
    cell: Float[Array, "3 3"]
    energy: Float[Array, ""]
    energy_fn: Callable[[PyTree, Array, Array], Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PotentialEnergy:
    """Energy of a `Potential` as a function of (parameters, positions, cell); made by `potential_energy`.

    It has its neighbour list and the plan of its Ewald sum with it, and holds while the atoms and the cell stay within
    their range. `relax` makes new ones on the way.

    Attributes:
        potential: the model, whose parameters are replaced by those of the call.
        template: the system whose positions and cell change.
        pairs: the neighbour list.
        solver: the plan of the long-range sum; None for a short-range model.
    """

    potential: Potential
    template: System
    pairs: NeighborList
    solver: ewald.Solver | None

    def __call__(self, params: PyTree, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"]) -> Float[Array, ""]:
        """Energy without the reference energies of the elements, eV."""
        potential = dataclasses.replace(self.potential, params=params)
        return energy(potential, self.template, self.pairs, self.solver, positions, cell)

    def holds(self, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"]) -> bool:
        """Whether neighbour list and plan are good for this geometry; host only."""
        used, full = _used(self.pairs, positions, cell)
        near = bool(used <= self.pairs.plan.skin) and not bool(full)
        return near and (self.solver is None or bool(self.solver.still_valid(cell)))

    def check_solved(self, params: PyTree, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"]) -> None:
        """Check that induced or equilibrated charges were found in this geometry; host only.

        Raises:
            ValueError: for a polarization catastrophe or a solution that did not converge, with the way out.
        """
        long_range = self.potential.config.long_range
        if long_range is not None and long_range.charges.responds:
            check_solution(*_solved(self, params, positions, cell))

    def renewed(self, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"]) -> "PotentialEnergy":
        """This energy with plans for this geometry; host only."""
        skin, old = self.pairs.plan.skin, self.pairs.plan
        solver = self.solver
        if solver is not None and not solver.still_valid(cell):
            solver = plan_solver(self.potential, self.template, positions, cell)
        if solver is not None:
            solver.check_atoms(np.asarray(positions, float), np.asarray(cell, float))
        pairs = allocate_pairs(self.potential, self.template, positions, cell, skin, old)
        return dataclasses.replace(self, pairs=pairs, solver=solver)


def potential_energy(
    potential: Potential, atoms: Atoms, *, skin: float = 1.0, pbc: bool | tuple[bool, bool, bool] | None = None
) -> PotentialEnergy:
    """The energy of `potential` for the elements of `atoms`, for `relax`, Hessians and phonons; host only.

    Args:
        potential: the model; the parameters are an argument of the energy.
        atoms: elements, cell and periodicity, and positions that the plans are made for.
        skin: the neighbour list holds until atoms have come closer by this much, Å.
        pbc: overrides the periodicity of `atoms`.

    Raises:
        ValueError: for elements that the model does not know, a total charge that it needs and `atoms` have not, or a
            singular cell.
    """
    template = make_template(potential, atoms, pbc)
    positions, cell = jnp.asarray(template.positions), jnp.asarray(template.cell)
    pairs = allocate_pairs(potential, template, positions, cell, skin, None)
    return PotentialEnergy(potential.core(), template, pairs, plan_solver(potential, template, positions, cell))


def relax(
    energy_fn: EnergyFunction | PotentialEnergy,
    params: PyTree,
    positions: Float[Array | np.ndarray, "n 3"],
    cell: Float[Array | np.ndarray, "3 3"] | None = None,
    *,
    strain: str = "none",
    pressure: ArrayLike = 0.0,
    tolerance: float | None = None,
    max_iterations: int = 100,
) -> Relaxed:
    """The minimum of an energy, with its derivatives by the parameters of the potential, pressure and cell.

    The minimum is searched on the host by Newton steps in a trust region, which only need products with the Hessian.
    It can be differentiated (`jax.grad`, `jax.jacrev`, `jax.jacfwd`, any order), but not be compiled: what is compiled
    is the energy, once for each `energy_fn`. Its result does not depend on where it starts, as long as it is the same
    minimum, so that a fit may start each time from the last one. There is no derivative by `positions`, and one by
    what of `cell` is not free: all of it with "none", its shape with "isotropic", its orientation with "full".

    Args:
        energy_fn: (parameters, positions, cell) -> energy, eV, a pure and smooth function; or `potential_energy`. Keep
            and hand over the same function, as a new one (a lambda in a loop) is compiled again.
        params: parameters of the potential, a pytree.
        positions: where to start, Å; their dtype is that of the result.
        cell: lattice vectors as rows, Å; where to start if it is free. None or zeros for a molecule.
        strain: "none" for a fixed cell; "isotropic" for its volume; "full" for all six components of a symmetric strain
            of the first cell.
        pressure: external pressure, bar, with a free cell.
        tolerance: largest component of the gradient, eV/Å, that of the strain in the scale of displacements;
            1e-9 in double precision and 7e-4 in single precision by default.
        max_iterations: largest number of steps.

    Returns:
        The relaxed structure.

    Raises:
        ValueError: for a `strain` that is not known or has no cell, a pressure on a fixed cell, or a periodic potential
            without a cell; for induced or equilibrated charges that have no solution at the minimum.
        TypeError: inside `jit` or `vmap`.
        MinimumError: where the minimum is not found, is a saddle point, or has a singular Hessian (a soft mode).
    """
    if strain not in STRAINS:
        raise ValueError(f"`strain` must be one of {', '.join(map(repr, STRAINS))}, got {strain!r}.")
    known = jax.lax.stop_gradient((params, positions, cell, pressure))
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(known)):
        raise TypeError(
            "`relax` searches on the host and needs values: call it outside of jit and vmap. It can be differentiated; "
            "compile what comes before and after it. A `Target` of a fit that is made with it needs `compiled=False`."
        )
    values, start, box, _ = known
    start = jnp.asarray(start)
    dtype = start.dtype
    if box is not None and not np.any(np.asarray(box)):  # as `Relaxed` has it for a molecule
        box = cell = None
    first = np.zeros((3, 3)) if box is None else np.asarray(box, float)
    volume = abs(float(np.linalg.det(first)))
    if strain != "none" and not volume > 0.0:
        raise ValueError(f"`strain` = {strain!r} needs a cell with a volume, got {first.tolist()}.")
    if strain == "none" and np.any(np.asarray(known[3]) != 0):
        raise ValueError(f"`pressure` acts on a free cell: set `strain`, got {strain!r}.")
    if isinstance(energy_fn, PotentialEnergy) and any(energy_fn.template.pbc) and not volume > 0.0:
        raise ValueError(
            f"`energy_fn` is periodic and needs a `cell` with a volume, got {first.tolist()}. For a molecule in a box, "
            "make it with `potential_energy(..., pbc=False)`."
        )
    # a strain has n times the curvature of an atom and the square of their distance
    scale = len(start) ** 0.5 * (volume / len(start)) ** (1.0 / 3.0) if volume else 1.0
    rotations = _GENERATORS if box is None else _GENERATORS[:0]
    problem = Problem(
        energy_fn if isinstance(energy_fn, PotentialEnergy) else jax.tree_util.Partial(energy_fn),
        start,
        jnp.asarray(first, dtype),
        jnp.asarray(STRAINS[strain] / scale, dtype),
        jnp.asarray(rotations, dtype),
    )
    pressure = BAR * jnp.asarray(pressure, dtype)
    problem, x = minimum(
        problem,
        values,
        jax.lax.stop_gradient(pressure),
        tolerance=30.0 * float(jnp.finfo(dtype).eps) ** (2.0 / 3.0) if tolerance is None else tolerance,
        max_iterations=max_iterations,
        renew=_renew,
    )
    if isinstance(problem.energy_fn, PotentialEnergy):
        problem.energy_fn.check_solved(values, *geometry(problem, x))
    # the cell with its derivatives in place of its values
    live = problem if cell is None else problem._replace(cell=jnp.asarray(cell, dtype))
    relaxed, final, value = _at_root(live, params, pressure, x)
    return Relaxed(relaxed, final, value, problem.energy_fn)


@jax.jit
def _at_root(
    problem: Problem, params: PyTree, pressure: Float[Array, ""], x: Float[Array, " d"]
) -> tuple[Float[Array, "n 3"], Float[Array, "3 3"], Float[Array, ""]]:
    positions, cell = geometry(problem, rooted(problem, params, pressure, x))
    return positions, cell, problem.energy_fn(params, positions, cell)


def _renew(problem: Problem, x: Float[Array, " d"]) -> Problem:
    if not isinstance(problem.energy_fn, PotentialEnergy):
        return problem
    positions, cell = geometry(problem, x)
    if problem.energy_fn.holds(positions, cell):
        return problem
    return problem._replace(energy_fn=problem.energy_fn.renewed(positions, cell))


@jax.jit
def _solved(
    energy_fn: PotentialEnergy, params: PyTree, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"]
) -> Solved:
    system = within_cutoff(energy_fn.pairs, energy_fn.template, positions, cell)
    potential = dataclasses.replace(energy_fn.potential, params=params)
    long_range = energy_parts(potential, system, energy_fn.solver)[2]
    assert long_range is not None
    return long_range.induction, long_range.equilibration


@jax.jit
def _used(pairs: NeighborList, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"]) -> tuple[Array, Array]:
    return skin_used(pairs, positions, cell), crowded(pairs, positions, cell)


# rotations about the axes: r -> r G
_GENERATORS = np.array(
    [[[0, 0, 0], [0, 0, 1], [0, -1, 0]], [[0, 0, -1], [0, 0, 0], [1, 0, 0]], [[0, 1, 0], [-1, 0, 0], [0, 0, 0]]], float
)
