"""Minimization by Newton steps within a trust region, without a matrix.

Each step minimizes the quadratic model by conjugate gradients until its residual is small, a direction of negative
curvature is met, or the step leaves the trust region (Steihaug). Close to the minimum they are Newton steps, so
that forces vanish to rounding after a few of them.

The variables are the displacements of the atoms in the frame of the first cell h0 and the components of a symmetric
strain ε, scaled to have a similar curvature: r = (r0 + u)(1 + ε), h = h0 (1 + ε). Rigid motions are projected out.

Source: Steihaug, SIAM J. Numer. Anal. 20, 626 (1983); Nocedal, Wright, Numerical Optimization, ch. 7.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from lesjax.ewald import Plan
from lesjax.neighbors.verlet import NeighborList, within_cutoff
from lesjax.numerics import determinant, einsum, matmul
from lesjax.properties import Energy
from lesjax.properties.second_derivatives import SOFT
from lesjax.response.linear import Solved, conjugate_gradients, irregular


class MinimumError(RuntimeError):
    """There is no minimum, or it was not found."""


class Problem(NamedTuple):
    """An energy and its variables.

    Attributes:
        energy_fn: see `lesjax.properties.Energy`; a pytree.
        system: the first structure, r0 and h0.
        solver: plan of the long-range sum.
        neighbor_list: if given, the neighbours of the system come from it.
        strains: symmetric matrices of the free components of the strain, [k, 3, 3], scaled.
        rotations: generators of the rotations that are free, [0, 3, 3] or [3, 3, 3].
    """

    energy_fn: Energy
    system: Any
    solver: Plan | None
    neighbor_list: NeighborList | None
    strains: Float[Array, "k 3 3"]
    rotations: Float[Array, "m 3 3"]


def geometry(problem: Problem, x: Float[Array, " d"]) -> tuple[Float[Array, "n 3"], Float[Array, "3 3"]]:
    """Positions and cell, Å, of the variables."""
    positions, cell = problem.system.positions, problem.system.cell
    n, dtype = len(positions), positions.dtype
    deform = jnp.eye(3, dtype=dtype) + einsum("s,sab->ab", x[3 * n :], problem.strains)
    return matmul(positions + x[: 3 * n].reshape(n, 3), deform), matmul(cell, deform)


def energy(problem: Problem, params: PyTree, x: Float[Array, " d"]) -> Float[Array, ""]:
    """Energy at the variables, eV."""
    positions, cell = geometry(problem, x)
    if problem.neighbor_list is None:
        system = replace(problem.system, positions=positions, cell=cell)
    else:
        system = within_cutoff(problem.neighbor_list, problem.system, positions, cell)
    return problem.energy_fn(params, system, problem.solver)


def enthalpy(problem: Problem, params: PyTree, pressure: Float[Array, ""], x: Float[Array, " d"]) -> Float[Array, ""]:
    """Energy, plus pressure times volume where the cell is free, eV."""
    value = energy(problem, params, x)
    return value + pressure * jnp.abs(determinant(geometry(problem, x)[1])) if len(problem.strains) else value


def find_minimum(
    problem: Problem,
    params: PyTree,
    pressure: Float[Array, ""],
    *,
    tolerance: float,
    max_iterations: int,
    renew: Callable[[Problem, Array], Problem],
) -> tuple[Problem, Float[Array, " d"]]:
    """Find the minimum; returns the problem, renewed, and the variables there; host only.

    Args:
        problem: problem to minimize.
        params: parameters of the energy.
        pressure: eV/Å³.
        tolerance: largest component of the gradient, eV/Å.
        max_iterations: largest number of steps.
        renew: (problem, variables) -> the problem with plans that hold there.

    Raises:
        MinimumError: if it was not found, or if the Hessian is not positive definite there.
    """
    dtype = problem.system.positions.dtype
    rounding = float(jnp.finfo(dtype).eps)
    n = len(problem.system.positions)
    radius, largest = 0.1 * n**0.5, 0.3 * n**0.5
    x = jnp.zeros(3 * n + len(problem.strains), dtype)
    problem = renew(problem, x)
    value, gradient = _value_and_grad(problem, params, pressure, x)
    for _ in range(max_iterations):
        force = _checked_force(gradient)
        if force <= tolerance:
            break
        accuracy = min(0.1, float(jnp.linalg.norm(gradient)) ** 0.5)
        step = _solve(problem, params, pressure, x, -gradient, jnp.asarray(accuracy, dtype), jnp.asarray(radius, dtype))
        # by how much the quadratic model falls
        predicted = float(-jnp.sum(step.x * gradient) - 0.5 * jnp.sum(step.x * step.image))
        if not np.isfinite(predicted):
            raise MinimumError("The second derivatives of the energy are not finite: is it smooth at this structure?")
        trial = x + step.x
        trial_problem = renew(problem, trial)
        if trial_problem is not problem and renew(trial_problem, x) is trial_problem:
            # two plans differ by more than a small step does
            problem = trial_problem
            value, gradient = _value_and_grad(problem, params, pressure, x)
            force = _checked_force(gradient)
        trial_value, trial_gradient = _value_and_grad(trial_problem, params, pressure, trial)
        # energies have no digits left close to the minimum, gradients have
        rounded = predicted < 100.0 * rounding * max(1.0, abs(float(value)))
        if rounded:
            accepted = float(jnp.max(jnp.abs(trial_gradient))) < force
            gain = 1.0
        else:
            gain = float(value - trial_value) / predicted
            accepted = gain > 1e-3
        if not accepted and rounded:
            raise MinimumError(
                f"The minimum is not found to `tolerance` = {tolerance:.2g} eV/Å: rounding leaves a gradient of "
                f"{force:.2g} eV/Å at the energy {float(value):.6g} eV. Raise `tolerance`, or use float64 "
                "(JAX_ENABLE_X64=1); where these values are huge, the energy falls without limit."
            )
        length = float(jnp.linalg.norm(step.x))
        if gain > 0.75 and length > 0.9 * radius:
            radius = min(2.0 * radius, largest)
        elif not gain > 0.25:  # so that an energy that is not finite counts as a failure
            radius = 0.25 * length
        if accepted:
            problem, x, value, gradient = trial_problem, trial, trial_value, trial_gradient
    else:
        force = float(jnp.max(jnp.abs(gradient)))
        if not force <= tolerance:
            raise MinimumError(
                f"The minimum is not found in {max_iterations} steps: the gradient is {force:.2g} eV/Å where "
                f"`tolerance` = {tolerance:.2g}. Raise `max_iterations`, start closer, or look whether the energy has "
                "a minimum."
            )
    _check(problem, params, pressure, x)
    return problem, x


def _checked_force(gradient: Float[Array, " d"]) -> float:
    force = float(jnp.max(jnp.abs(gradient)))
    if not np.isfinite(force):
        raise MinimumError("The energy or its gradient is not finite: check `system` and `params`.")
    return force


def rooted(problem: Problem, params: PyTree, pressure: Float[Array, ""], x: Float[Array, " d"]) -> Float[Array, " d"]:
    """Return the variables `x` of the minimum, with derivatives with respect to parameters, pressure and cell.

    The gradient vanishes for all of them, so that :math:`dx = -H^{-1} d(\\nabla E)`, solved by conjugate gradients.
    """
    null = jax.lax.stop_gradient(_rigid_motions(problem, x))

    def solve(matvec: Callable[[Array], Array], right: Array) -> Array:
        def filled(vector: Array) -> Array:
            rigid = matmul(null, matmul(null.T, vector))
            image = matvec(vector - rigid)
            return image - matmul(null, matmul(null.T, image)) + rigid

        def conjugate(matvec: Callable[[Array], Array], right: Array) -> Array:
            return _conjugate_gradients(matvec, right, tolerance=_exact(right)).x

        projected = right - matmul(null, matmul(null.T, right))
        return jax.lax.custom_linear_solve(filled, projected, conjugate, symmetric=True)

    def gradient(x: Array) -> Array:
        return jax.grad(enthalpy, argnums=3)(problem, params, pressure, x)

    return jax.lax.custom_root(gradient, jax.lax.stop_gradient(x), lambda _, x: x, solve)


@jax.jit
def _value_and_grad(
    problem: Problem, params: PyTree, pressure: Float[Array, ""], x: Float[Array, " d"]
) -> tuple[Float[Array, ""], Float[Array, " d"]]:
    return jax.value_and_grad(enthalpy, argnums=3)(problem, params, pressure, x)


@jax.jit
def _solve(
    problem: Problem,
    params: PyTree,
    pressure: Float[Array, ""],
    x: Float[Array, " d"],
    right: Float[Array, " d"],
    tolerance: Float[Array, ""],
    radius: Float[Array, ""],
) -> Solved:
    """`conjugate_gradients` with the Hessian, without rigid motions."""
    null = _rigid_motions(problem, x)
    gradient = jax.grad(enthalpy, argnums=3)

    def matvec(vector: Array) -> Array:
        image = jax.jvp(lambda x: gradient(problem, params, pressure, x), (x,), (vector,))[1]
        return image - matmul(null, matmul(null.T, image))

    projected = right - matmul(null, matmul(null.T, right))
    return _conjugate_gradients(matvec, projected, tolerance=tolerance, radius=radius)


def _conjugate_gradients(
    matvec: Callable[[Array], Array],
    right: Float[Array, " d"],
    *,
    tolerance: float | Float[Array, ""],
    radius: Float[Array, ""] | None = None,
) -> Solved:
    """Iterate until the residual is `tolerance` times the right-hand side."""
    target = tolerance**2 * jnp.sum(right * right)
    limit = 6 * len(right) + 20
    multiply = lambda x, _: matvec(x)  # noqa: E731
    return conjugate_gradients(multiply, right, target=target, max_iterations=limit, radius=radius)


def _check(problem: Problem, params: PyTree, pressure: Float[Array, ""], x: Float[Array, " d"]) -> None:
    """Refuse a stationary point whose Hessian, without rigid motions, is not positive definite."""
    if len(problem.strains) == 0 and x.size <= 3:  # one atom in a fixed cell
        return
    limits = (jnp.asarray(value, x.dtype) for value in (_exact(x), jnp.inf))
    step = _solve(problem, params, pressure, x, irregular(x), *limits)
    lowest, highest = float(step.lowest), float(step.highest)
    if step.converged:
        lowest = min(lowest, float(jnp.sum(step.x * step.image) / jnp.sum(step.x * step.x)))
    soft = SOFT * float(jnp.finfo(x.dtype).eps) ** 0.5
    if lowest < -soft * highest or highest <= 0.0:
        raise MinimumError(
            f"The forces vanish, but the energy falls in some direction (curvature {lowest:.3g} eV/Å²): this is a "
            "saddle point, often one of a symmetric start. Displace the atoms at random and relax again."
        )
    if not step.converged or lowest <= soft * highest:
        raise MinimumError(
            f"The Hessian is singular: a soft mode or a free part (curvature {lowest:.3g} of at most {highest:.3g} "
            "eV/Å²). The minimum has no derivatives there. Make a molecule with `pbc=False`, or as a `Frame` with a "
            "cell of zeros, so that its rotations are free; remove atoms that interact with nothing; or choose another "
            "`strain`."
        )


def _rigid_motions(problem: Problem, x: Float[Array, " d"]) -> Float[Array, "d m"]:
    """Orthonormal translations and free rotations as columns; those that a linear molecule lacks are zero."""
    n, dtype = len(problem.system.positions), x.dtype
    moved = problem.system.positions + x[: 3 * n].reshape(n, 3)
    centered = moved - jnp.mean(moved, axis=0, keepdims=True)
    shifts = jnp.broadcast_to(jnp.eye(3, dtype=dtype)[:, None, :], (3, n, 3))
    turns = einsum("na,mab->mnb", centered, problem.rotations)
    motions = jnp.concatenate([shifts, turns]).reshape(-1, 3 * n)
    vectors, sizes, _ = jnp.linalg.svd(motions.T, full_matrices=False)
    vectors = jnp.where(sizes[None, :] > 1e-3 * sizes[0], vectors, 0.0)
    return jnp.pad(vectors, ((0, x.size - 3 * n), (0, 0)))


def _exact(vector: Float[Array, " d"]) -> float:
    """Residual that linear equations are solved to, relative to their right-hand side."""
    return 1e3 * float(jnp.finfo(vector.dtype).eps)
