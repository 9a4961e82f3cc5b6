"""Linear equations of charges and dipoles that answer to potential and field: solved without a matrix."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float


class Response(NamedTuple):
    """What belongs to charges and dipoles, or None where nothing answers."""

    charges: Array | None
    dipoles: Array | None


# whether it converged, whether all curvatures were positive, the number of multiplications with T
Flags = tuple[Array, Array, Array]


def total_field(
    interact: Callable[[Response], Response],
    respond: Callable[[Response], Response],
    source: Response,
    *,
    tolerance: float | None,
    max_iterations: int,
    project: Callable[[Response], Response] = lambda field: field,
) -> tuple[Response, Flags]:
    """Solve f = b - T χ f for the total field f, by conjugate gradients for δ = χ f preconditioned with χ.

    For f and not for δ, as χ need not have an inverse. Derivatives to any order come from the equations, not from
    the iterations.

    Args:
        interact: δ -> T δ, symmetric.
        respond: f -> χ f, symmetric and positive semidefinite.
        source: the field b.
        tolerance: of the residual r, as the root of r·χr relative to that of b·χb; 30 times the rounding of the
            dtype by default.
        max_iterations: largest number of multiplications with T.
        project: takes out of a field what χ does not answer to and T δ is free of, for the sake of the digits of the
            rest.
    """
    if tolerance is None:
        tolerance = 30.0 * float(jnp.finfo(jax.tree.leaves(source)[0].dtype).eps)

    interact = jax.jit(interact)  # traced once: it is needed in many places, most of all for derivatives

    def minimize(source: Response) -> tuple[Response, Flags]:
        source = project(source)
        # a start without any symmetry, so that an unstable mode that b does not excite is met as well
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(source)]))
        start = project(jax.tree.map(lambda leaf: 0.1 * largest * _irregular(leaf), source))
        target = tolerance**2 * jnp.abs(dot(source, respond(source)))
        return _conjugate_gradients(interact, respond, source, start, target=target, steps=max_iterations)

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


def _conjugate_gradients(interact, respond, source, start, *, target, steps):
    """Solve δ = χ(b - Tδ) from δ = χ `start`."""
    induced = respond(start)
    residual = add(source, scale(-1.0, add(start, interact(induced))))
    direction = respond(residual)
    norm = dot(residual, direction)

    def unfinished(state):
        *_, norm, stable, step = state
        return (norm > target) & stable & (step < steps)

    def iterate(state):
        induced, residual, dual, direction, norm, _, step = state
        # `dual` is χ⁻¹ direction
        product = add(dual, interact(direction))
        curvature = dot(direction, product)
        stable = curvature > 0
        length = jnp.where(stable, norm / jnp.where(stable, curvature, 1.0), 0.0)
        induced = add(induced, scale(length, direction))
        residual = add(residual, scale(-length, product))
        answer = respond(residual)
        new_norm = dot(residual, answer)
        ratio = new_norm / norm
        dual, direction = add(residual, scale(ratio, dual)), add(answer, scale(ratio, direction))
        return induced, residual, dual, direction, new_norm, stable & (new_norm >= 0), step + 1

    state = (induced, residual, residual, direction, norm, norm >= 0, jnp.asarray(0, jnp.int32))
    induced, *_, norm, stable, step = jax.lax.while_loop(unfinished, iterate, state)
    return induced, ((norm <= target) & stable, stable, step)


def _join(values: Response) -> Array:
    return ravel_pytree(values)[0]


def _irregular(leaf: Array) -> Array:
    """Numbers between -1 and 1 without pattern, always the same."""
    return jnp.cos(1.0 + math.sqrt(5.0) * jnp.arange(leaf.size).astype(leaf.dtype) ** 1.5).reshape(leaf.shape)


def dot(left: Response, right: Response) -> Float[Array, ""]:
    """Sum of the products."""
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), left, right)
    return jnp.sum(jnp.stack(jax.tree.leaves(products)))


def add(left: Response, right: Response) -> Response:
    """Sum of two fields or two answers."""
    return jax.tree.map(jnp.add, left, right)


def scale(factor: Float[Array, ""] | float, values: Response) -> Response:
    """A field or an answer times a number."""
    return jax.tree.map(lambda leaf: factor * leaf, values)


def stationary(function: Callable[..., Float[Array, ""]]) -> Callable[..., Float[Array, ""]]:
    """`function`, with derivatives by its first argument alone: it is stationary in the others, which solve it.

    The first argument is a list of leaves: the tangents of boolean ones are no valid fields of a Solver.
    """
    wrapped = jax.custom_jvp(function)

    @wrapped.defjvp
    def _(primals: tuple[Any, ...], tangents: tuple[Any, ...]):
        leaves, *solution = primals
        return jax.jvp(lambda leaves: function(leaves, *solution), (leaves,), (tangents[0],))

    return wrapped
