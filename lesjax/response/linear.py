"""Symmetric linear equations solved without a matrix, by conjugate gradients.

`conjugate_gradients` is the one solver: of charges and dipoles that answer to potential and field (`total_field`), and
of Newton steps of minimizations (`lesjax.fitting.newton`). Unknowns are pytrees.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree


class Answer(NamedTuple):
    """Values for charges and for dipoles; None where nothing answers."""

    charges: Array | None
    dipoles: Array | None


class Solved(NamedTuple):
    """Result of conjugate gradients.

    Attributes:
        x: the last approximation.
        image: A x - A x_0 for a start x_0, A x without one.
        converged: whether the residual is as small as requested.
        positive: whether A and the preconditioner were positive in all directions met.
        lowest: smallest curvature d·Ad / d·M⁻¹d of the directions.
        highest: the largest.
        n_iterations: number of products with A, without that of the start.
    """

    x: PyTree
    image: PyTree
    converged: Bool[Array, ""]
    positive: Bool[Array, ""]
    lowest: Float[Array, ""]
    highest: Float[Array, ""]
    n_iterations: Int[Array, ""]


# whether it converged, whether all curvatures were positive, the number of multiplications with T
Flags = tuple[Array, Array, Array]


def conjugate_gradients(
    multiply: Callable[[PyTree, PyTree], PyTree],
    right: PyTree,
    *,
    target: Float[Array, ""],
    max_iterations: int,
    precondition: Callable[[PyTree], PyTree] = lambda residual: residual,
    start: PyTree | None = None,
    radius: Float[Array, ""] | None = None,
) -> Solved:
    """Solve A x = b with a symmetric A, at most to `radius` and as long as A is positive.

    Args:
        multiply: (M y, y) -> A M y with the preconditioner M. The y besides M y lets A = M⁻¹ + T be
            applied with an M that has no inverse.
        right: b.
        target: largest r·Mr of a solution, r the residual.
        max_iterations: number of iterations after which it gives up.
        precondition: r -> M r, symmetric and positive semidefinite.
        start: y_0 of a start x_0 = M y_0; zero by default.
        radius: x ends at this length if it reaches it or meets a negative curvature; without one, a negative curvature
            ends it at the current x.
    """
    if start is None:
        x, residual = jax.tree.map(jnp.zeros_like, right), right
    else:
        x = precondition(start)
        residual = add(right, scale(-1.0, multiply(x, start)))
    direction = precondition(residual)
    norm = dot(residual, direction)

    def unfinished(state: tuple[Any, ...]) -> Bool[Array, ""]:
        *_, norm, positive, inside, _, _, count = state
        return (norm > target) & positive & inside & (count < max_iterations)

    def iterate(state: tuple[Any, ...]) -> tuple[Any, ...]:
        x, image, residual, dual, direction, norm, _, _, lowest, highest, count = state
        # `dual` is M⁻¹ direction
        product = multiply(direction, dual)
        squared, work = dot(direction, dual), dot(direction, product)
        positive = work > 0
        length = jnp.where(positive, norm / jnp.where(positive, work, 1.0), 0.0)
        inside = jnp.asarray(True)
        if radius is not None:
            ahead = add(x, scale(length, direction))
            inside = positive & (dot(ahead, ahead) < radius * radius)
            along = dot(x, direction)
            room = jnp.maximum(along * along + squared * (radius * radius - dot(x, x)), 0.0)
            length = jnp.where(inside, length, (jnp.sqrt(room) - along) / squared)
        x, image = add(x, scale(length, direction)), add(image, scale(length, product))
        residual = add(residual, scale(-length, product))
        answer = precondition(residual)
        new_norm = dot(residual, answer)
        ratio = new_norm / norm
        dual, direction = add(residual, scale(ratio, dual)), add(answer, scale(ratio, direction))
        curvature = work / squared
        seen = (jnp.minimum(lowest, curvature), jnp.maximum(highest, curvature))
        return x, image, residual, dual, direction, new_norm, positive & (new_norm >= 0), inside, *seen, count + 1

    infinite, yes = jnp.full_like(norm, jnp.inf), jnp.asarray(True)
    image = jax.tree.map(jnp.zeros_like, right)
    seen = (infinite, -infinite, jnp.asarray(0, jnp.int32))
    state = (x, image, residual, residual, direction, norm, norm >= 0, yes, *seen)
    state = jax.lax.while_loop(unfinished, iterate, state)
    x, image, *_, norm, positive, inside, lowest, highest, count = state
    return Solved(x, image, (norm <= target) & positive & inside, positive, lowest, highest, count)


def total_field(
    interact: Callable[[Answer], Answer],
    respond: Callable[[Answer], Answer],
    source: Answer,
    *,
    tolerance: float | None,
    max_iterations: int,
    project: Callable[[Answer], Answer] = lambda field: field,
) -> tuple[Answer, Flags]:
    """Solve f = b - T χ f for the total field f, by conjugate gradients for δ = χ f preconditioned with χ.

    For f and not for δ, as χ need not have an inverse. Derivatives to any order come from the equations, not from
    the iterations.

    Args:
        interact: δ -> T δ, symmetric.
        respond: f -> χ f, symmetric and positive semidefinite.
        source: the field b.
        tolerance: tolerance of the residual r, as the root of r·χr relative to that of b·χb; 30 times the rounding of
            the dtype by default.
        max_iterations: largest number of multiplications with T.
        project: removes from a field the part that χ does not answer to and T δ does not contain, to keep the digits
            of the rest.
    """
    if tolerance is None:
        tolerance = 30.0 * float(jnp.finfo(jax.tree.leaves(source)[0].dtype).eps)

    interact = jax.jit(interact)  # traced once: it is needed in many places, above all for derivatives

    def minimize(source: Answer) -> tuple[Answer, Flags]:
        source = project(source)
        # a start without any symmetry, so that an unstable mode that b does not excite is met as well
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(source)]))
        solved = conjugate_gradients(
            lambda answer, field: add(field, interact(answer)),
            source,
            target=tolerance**2 * jnp.abs(dot(source, respond(source))),
            max_iterations=max_iterations,
            precondition=respond,
            start=project(jax.tree.map(lambda leaf: 0.1 * largest * irregular(leaf), source)),
        )
        return solved.x, (solved.converged, solved.positive, solved.n_iterations)

    # One array, as jax 0.10 refuses to differentiate where only some leaves of the right-hand side have a tangent: an
    # external field acts on dipoles only.
    joined, split = ravel_pytree(source)

    def multiply(joined: Array) -> Array:
        total = split(joined)
        return _join(add(total, interact(respond(total))))

    def solve(_: object, joined: Array) -> tuple[Array, Flags]:
        source = split(joined)
        induced, flags = minimize(source)
        return _join(add(source, scale(-1.0, interact(induced)))), flags

    def transpose_solve(_: object, joined: Array) -> tuple[Array, Flags]:
        # (1 + χT)^-1 = 1 - χ (1 + Tχ)^-1 T
        cotangent = split(joined)
        induced, flags = minimize(interact(cotangent))
        return _join(add(cotangent, scale(-1.0, induced))), flags

    total, flags = jax.lax.custom_linear_solve(multiply, joined, solve, transpose_solve, has_aux=True)
    return split(total), flags


def irregular(leaf: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return numbers between -1 and 1 without pattern, always the same: a start that meets all modes."""
    return jnp.cos(1.0 + math.sqrt(5.0) * jnp.arange(leaf.size).astype(leaf.dtype) ** 1.5).reshape(leaf.shape)


def dot(left: PyTree, right: PyTree) -> Float[Array, ""]:
    """Return the sum of the products of all entries."""
    products = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), left, right))
    return functools.reduce(jnp.add, products)


def add(left: PyTree, right: PyTree) -> PyTree:
    """Return the sum of two pytrees."""
    return jax.tree.map(jnp.add, left, right)


def scale(factor: Float[Array, ""] | float, values: PyTree) -> PyTree:
    """Return a pytree times a number."""
    return jax.tree.map(lambda leaf: factor * leaf, values)


def stationary(function: Callable[..., Float[Array, ""]]) -> Callable[..., Float[Array, ""]]:
    """Differentiate `function` only with respect to its first argument: it is stationary in the others.

    The first argument is a list of leaves: the tangents of boolean ones are not valid fields of a Solver.
    """
    wrapped = jax.custom_jvp(function)

    @wrapped.defjvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]):
        leaves, *solution = primals
        return jax.jvp(lambda leaves: function(leaves, *solution), (leaves,), (tangents[0],))

    return wrapped


def _join(values: Answer) -> Array:
    return ravel_pytree(values)[0]
