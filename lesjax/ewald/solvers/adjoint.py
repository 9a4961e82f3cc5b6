r"""A sum over points onto a grid and its transpose, as two primitives that are differentiated into each other.

    spread:       grid[x]      = Σ_i Σ_t values[i, t] ∂^t w(x, u_i)
    interpolate:  values[i, t] = Σ_x grid[x] ∂^t w(x, u_i)

A term t = (a, b, c) differentiates the weight w a, b and c times along the three axes of u. Both are linear in the
values or the grid, each is the transpose of the other, and the derivative of both with respect to u has the same form
with other terms. That closes the family: derivatives of any order and in both modes are again one pass over the points,
and XLA's own transposes of scatter and gather never appear. `jax.custom_jvp` cannot state a transpose, `jax.custom_vjp`
has no forward mode, hence the primitives.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array


Term = tuple[int, int, int]
Terms = tuple[Term, ...]


# spread(scaled [b, n, 3], values [b, n, t], terms=, plan=) or interpolate(scaled, grid [b, …], terms=, plan=)
Sum = Callable[..., Array]


def make_adjoint_pair(
    name: str,
    grid_shape: Callable[[Any], tuple[int, ...]],
    spread: dict[str | None, Sum],
    interpolate: dict[str | None, Sum],
) -> tuple[Sum, Sum]:
    """Make `spread` and `interpolate` from implementations that need no derivatives of their own.

    Args:
        name: name of the primitives.
        grid_shape: shape of one system's grid from `plan`, which is static and hashable.
        spread: implementations by platform; None for all others.
        interpolate: the same.
    """
    spread_p, interpolate_p = Primitive(f"{name}_spread"), Primitive(f"{name}_interpolate")

    def spread_jvp(primals: Any, tangents: Any, *, terms: Terms, plan: Any) -> Any:
        (scaled, values), (scaled_dot, values_dot) = primals, tangents
        out = spread_p.bind(scaled, values, terms=terms, plan=plan)
        parts: dict[Term, Array] = {}
        if type(values_dot) is not ad.Zero:
            parts |= {term: values_dot[..., t] for t, term in enumerate(terms)}
        if type(scaled_dot) is not ad.Zero:
            for t, term in enumerate(terms):
                for axis in range(3):
                    part, key = values[..., t] * scaled_dot[..., axis], _raised(term, axis)
                    parts[key] = parts[key] + part if key in parts else part
        # jax asks for a rule only where one of the tangents is not zero
        return out, spread_p.bind(scaled, jnp.stack(list(parts.values()), -1), terms=tuple(parts), plan=plan)

    def interpolate_jvp(primals: Any, tangents: Any, *, terms: Terms, plan: Any) -> Any:
        (scaled, grid), (scaled_dot, grid_dot) = primals, tangents
        out = interpolate_p.bind(scaled, grid, terms=terms, plan=plan)
        dots = []
        if type(grid_dot) is not ad.Zero:
            dots.append(interpolate_p.bind(scaled, grid_dot, terms=terms, plan=plan))
        if type(scaled_dot) is not ad.Zero:
            raised = tuple(dict.fromkeys(_raised(term, axis) for term in terms for axis in range(3)))
            slopes = interpolate_p.bind(scaled, grid, terms=raised, plan=plan)
            rows = [[slopes[..., raised.index(_raised(term, axis))] for axis in range(3)] for term in terms]
            gradients = jnp.stack([jnp.stack(row, -1) for row in rows], -2)
            dots.append(jnp.sum(gradients * scaled_dot[..., None, :], -1))
        return out, sum(dots[1:], dots[0])

    def transposed(other: Primitive) -> Callable[..., Any]:
        def transpose(cotangent: Any, scaled: Any, carried: Any, *, terms: Terms, plan: Any) -> Any:
            assert not ad.is_undefined_primal(scaled)
            if type(cotangent) is ad.Zero:
                return None, ad.Zero(carried.aval)
            return None, other.bind(scaled, cotangent, terms=terms, plan=plan)

        return transpose

    spread_p.def_abstract_eval(lambda u, values, *, terms, plan: values.update(shape=(u.shape[0], *grid_shape(plan))))
    interpolate_p.def_abstract_eval(lambda u, grid, *, terms, plan: u.update(shape=(*u.shape[:2], len(terms))))
    rules = (
        (spread_p, spread_jvp, transposed(interpolate_p), spread),
        (interpolate_p, interpolate_jvp, transposed(spread_p), interpolate),
    )
    for primitive, jvp, transpose, implementations in rules:
        primitive.def_impl(functools.partial(_eager, functools.cache(functools.partial(_compiled, primitive))))
        ad.primitive_jvps[primitive] = jvp
        ad.primitive_transposes[primitive] = transpose
        batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
        for platform, function in implementations.items():
            mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False), platform=platform)
    return spread_p.bind, interpolate_p.bind


def _raised(term: Term, axis: int) -> Term:
    return (term[0] + (axis == 0), term[1] + (axis == 1), term[2] + (axis == 2))


def _compiled(primitive: Primitive, terms: Terms, plan: Any) -> Any:
    return jax.jit(functools.partial(primitive.bind, terms=terms, plan=plan))


def _eager(compiled: Callable[..., Any], *arguments: Array, terms: Terms, plan: Any) -> Array:
    return compiled(terms, plan)(*arguments)


def _batch(primitive: Primitive, arguments: Any, dims: Any, **parameters: Any) -> Any:
    """Make mapped systems part of the leading axis."""
    size = next(x.shape[d] for x, d in zip(arguments, dims, strict=True) if d is not None)
    moved = [
        jnp.broadcast_to(x[None], (size, *x.shape)) if d is None else jnp.moveaxis(x, d, 0)
        for x, d in zip(arguments, dims, strict=True)
    ]
    out = primitive.bind(*(x.reshape(-1, *x.shape[2:]) for x in moved), **parameters)
    return out.reshape(size, -1, *out.shape[1:]), 0
