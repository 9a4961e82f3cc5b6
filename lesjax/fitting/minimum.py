r"""Relaxed structures as differentiable functions of parameters, pressure and fixed cell components.

At a minimum x of E(x; p) the gradient vanishes for all p, so that

.. math:: \frac{dx}{dp} = -\left( \frac{\partial^2 E}{\partial x^2} \right)^{-1}
          \frac{\partial^2 E}{\partial x\, \partial p}

by whatever path the search reached it. p has the parameters, the pressure and the cell; with the cell free, x has the
strain besides the positions, and a pressure P adds P V to the energy. Rigid translations, and the rotations of a
molecule, are projected out: they have no derivative.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PyTree

from lesjax.dynamics.energy import allocate_pairs, plan_solver
from lesjax.ewald import Plan
from lesjax.fitting.newton import Problem, energy, find_minimum, geometry, rooted
from lesjax.models.checks import check_solution, check_system
from lesjax.models.potential import Potential, Solved, energy_parts
from lesjax.neighbors.verlet import NeighborList, crowded, skin_used
from lesjax.properties import Energy
from lesjax.system import System
from lesjax.units import BAR


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
        system: the structure, of the type of the first one; with a potential its neighbours are those at the minimum.
        energy: eV, without pressure times volume.
        solver: the plan of the long-range sum that holds at the minimum.
    """

    system: Any
    energy: Float[Array, ""]
    solver: Plan | None


def relax(
    energy_fn: Energy,
    params: PyTree,
    system: Any,
    *,
    solver: Plan | None = None,
    strain: str = "none",
    pressure: ArrayLike = 0.0,
    tolerance: float | None = None,
    max_iterations: int = 100,
    skin: float = 1.0,
) -> Relaxed:
    """Find the minimum of an energy, with its derivatives with respect to parameters, pressure and cell.

    The minimum is searched on the host by Newton steps in a trust region, which only need products with the Hessian.
    It can be differentiated (`jax.grad`, `jax.jacrev`, `jax.jacfwd`, any order), but not be compiled: only the
    energy is, once for each `energy_fn`. The result does not depend on the start within the same minimum, so that a
    fit may start each time from the last one. There are derivatives with respect to the cell components that are not
    free: all of them with "none", the shape with "isotropic", the orientation with "full"; none with respect to the
    first positions and the solver.

    Args:
        energy_fn: see `lesjax.properties.Energy`, a pure and smooth function; `Potential.energy` for a potential. Keep
            and pass the same function, as a new one (a lambda in a loop) is compiled again.
        params: parameters of the energy. If they are a `Potential`, neighbours and the plan of the long-range sum are
            renewed during the search; other energies keep theirs.
        system: structure to start from; the result has the dtype of its positions. Without periodic directions,
            or for a `Frame` with a cell of zeros, it is a molecule that is free to rotate.
        solver: plan of the long-range sum; made here for a `Potential` by default.
        strain: "none" for a fixed cell; "isotropic" for its volume; "full" for all six components of a symmetric strain
            of the first cell.
        pressure: external pressure, bar, with a free cell.
        tolerance: largest component of the gradient, eV/Å, with the strain in the scale of displacements;
            1e-9 in double precision and 7e-4 in single precision by default.
        max_iterations: largest number of steps.
        skin: skin of the neighbour list of a `Potential`, Å; see `lesjax.neighbors.verlet.allocate`.

    Returns:
        The relaxed structure.

    Raises:
        ValueError: for a `strain` that is not known or has no cell, or a pressure on a fixed cell; for a system that
            the potential cannot take; for induced or equilibrated charges that have no solution at the minimum.
        TypeError: inside `jit` or `vmap`, or for a potential with a system without neighbours.
        MinimumError: if the minimum is not found, is a saddle point, or has a singular Hessian (a soft mode).
    """
    if strain not in STRAINS:
        raise ValueError(f"`strain` must be one of {', '.join(map(repr, STRAINS))}, got {strain!r}.")
    arguments = jax.lax.stop_gradient((params, system, solver, pressure))
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arguments)):
        raise TypeError(
            "`relax` searches on the host and needs values: call it outside of jit and vmap. It can be differentiated; "
            "compile what comes before and after it. A `Target` of a fit that is made with it needs `compiled=False`."
        )
    params_here, start, solver_here, pressure_here = arguments
    start, solver_here = jax.device_put((start, solver_here))
    dtype, cell = start.positions.dtype, np.asarray(start.cell, float)
    periodic = any(start.pbc) if isinstance(start, System) else bool(np.any(cell))
    volume = abs(float(np.linalg.det(cell))) if periodic else 0.0
    if strain != "none" and not volume > 0.0:
        raise ValueError(f"`strain` = {strain!r} needs a periodic cell with a volume, got {cell.tolist()}.")
    if strain == "none" and np.any(np.asarray(pressure_here) != 0):
        raise ValueError(f"`pressure` acts on a free cell: set `strain`, got {strain!r}.")
    # a strain has n times the curvature of an atom and the square of their distance
    scale = len(start.positions) ** 0.5 * (volume / len(start.positions)) ** (1.0 / 3.0) if volume else 1.0
    problem = Problem(
        jax.tree_util.Partial(energy_fn),
        start,
        solver_here,
        None,
        jnp.asarray(STRAINS[strain] / scale, dtype),
        jnp.asarray(_GENERATORS[:0] if periodic else _GENERATORS, dtype),
    )
    if isinstance(params, Potential):
        params, params_here = params.core(), params_here.core()
        problem = _with_plans(problem, params_here, skin)
    renew = functools.partial(_renewed, params_here)
    pressure = BAR * jnp.asarray(pressure, dtype)
    problem, x = find_minimum(
        problem,
        params_here,
        jax.lax.stop_gradient(pressure),
        tolerance=30.0 * float(jnp.finfo(dtype).eps) ** (2.0 / 3.0) if tolerance is None else tolerance,
        max_iterations=max_iterations,
        renew=renew,
    )
    relaxed = problem.system
    if isinstance(params_here, Potential):
        relaxed = _with_neighbors(problem, params_here, x)
        _check_solved(params_here, relaxed, problem.solver)
    # the cell with its derivatives in place of its values
    live = problem._replace(system=dataclasses.replace(start, cell=jnp.asarray(system.cell, dtype)))
    positions, cell, value = _at_root(live, params, pressure, x)
    return Relaxed(dataclasses.replace(relaxed, positions=positions, cell=cell), value, problem.solver)


@jax.jit
def _at_root(
    problem: Problem, params: PyTree, pressure: Float[Array, ""], x: Float[Array, " d"]
) -> tuple[Float[Array, "n 3"], Float[Array, "3 3"], Float[Array, ""]]:
    x = rooted(problem, params, pressure, x)
    return *geometry(problem, x), energy(problem, params, x)


def _with_plans(problem: Problem, potential: Potential, skin: float) -> Problem:
    """Return the problem with the neighbour list and the solver of a potential at its first structure; host only."""
    system = problem.system
    if not isinstance(system, System):
        raise TypeError(
            f"`system` must be a `lesjax.System` for a potential, which needs elements and neighbours, got a "
            f"{type(system).__name__}: make it with `System.from_ase(atoms, cutoff=potential.cutoff)`."
        )
    check_system(potential.config, system)
    positions, cell, solver = jnp.asarray(system.positions), jnp.asarray(system.cell), problem.solver
    if solver is None:
        solver = plan_solver(potential, system, positions, cell)
    else:
        solver.check_atoms(np.asarray(positions, float), np.asarray(cell, float))
    neighbor_list = allocate_pairs(potential, system, positions, cell, skin, None)
    return problem._replace(solver=solver, neighbor_list=neighbor_list)


def _renewed(params: PyTree, problem: Problem, x: Float[Array, " d"]) -> Problem:
    """Return the problem with plans that hold at `x`, the same one if they do already; host only."""
    if not isinstance(params, Potential):
        return problem
    positions, cell = geometry(problem, x)
    solver, neighbor_list = problem.solver, problem.neighbor_list
    assert neighbor_list is not None
    used, is_crowded = _skin_used(neighbor_list, positions, cell)
    valid = solver is None or bool(solver.still_valid(cell))
    if valid and bool(used <= neighbor_list.plan.skin) and not bool(is_crowded):
        return problem
    if not valid:
        solver = plan_solver(params, problem.system, positions, cell)
    if solver is not None:
        solver.check_atoms(np.asarray(positions, float), np.asarray(cell, float))
    plan = neighbor_list.plan
    neighbor_list = allocate_pairs(params, problem.system, positions, cell, plan.skin, plan)
    return problem._replace(solver=solver, neighbor_list=neighbor_list)


def _with_neighbors(problem: Problem, potential: Potential, x: Float[Array, " d"]) -> System:
    """Return the system at `x` with its neighbours within the cutoff; host only.

    Rows have the width of the neighbour list, so that functions compiled for it can be used at the next minimum.
    """
    first = problem.system
    assert problem.neighbor_list is not None
    positions, cell = (np.asarray(array) for array in geometry(problem, x))
    system = System.from_arrays(positions, cell, first.atomic_numbers, first.pbc, cutoff=potential.cutoff)
    plan = problem.neighbor_list.plan
    assert system.pairs is not None
    n_pairs = max(len(system.pairs), plan.pair_capacity)
    system = system.pad_to(len(positions), max(system.shape[1], plan.capacity), n_pairs)
    neighbors = {name: getattr(system, name) for name in ("neighbors", "cell_shifts", "neighbor_mask", "pairs")}
    return dataclasses.replace(first, positions=positions, cell=cell, **jax.device_put(neighbors))


def _check_solved(potential: Potential, system: System, solver: Plan | None) -> None:
    """Raise ValueError for induced or equilibrated charges without a solution; host only."""
    long_range = potential.config.long_range
    if long_range is not None and long_range.charges.responds:
        check_solution(*_solved(potential, system, solver))


@jax.jit
def _solved(potential: Potential, system: System, solver: Plan | None) -> Solved:
    long_range = energy_parts(potential, system, solver)[2]
    assert long_range is not None
    return long_range.induction, long_range.equilibration


@jax.jit
def _skin_used(
    neighbor_list: NeighborList, positions: Float[Array, "n 3"], cell: Float[Array, "3 3"]
) -> tuple[Array, Array]:
    return skin_used(neighbor_list, positions, cell), crowded(neighbor_list, positions, cell)


# rotations about the axes: r -> r G
_GENERATORS = np.array(
    [[[0, 0, 0], [0, 0, 1], [0, -1, 0]], [[0, 0, -1], [0, 0, 0], [1, 0, 0]], [[0, 1, 0], [-1, 0, 0], [0, 0, 0]]], float
)
