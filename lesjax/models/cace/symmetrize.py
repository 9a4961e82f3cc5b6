r"""Rotationally invariant products of the atomic basis A (CACE, eqs. for the B features).

With the multinomial coefficient C(l) = l! / (lx! ly! lz!) of a vector of exponents **l**:

    nu = 1   B     = A_0
    nu = 2   B_l   = sum_l       C(l)           A_l^2
    nu = 3   B_lm  = sum_lm      C(l) C(m)      A_l A_{l+m} A_m            l <= m
    nu = 4   B_lmn = sum_lmn     C(l) C(m) C(n) A_l A_{l+m} A_{m+n} A_n    l <= n

Each is a chain in which neighbouring factors share one vector of exponents, so that the sum over the
exponents is a full contraction of Cartesian tensors and hence invariant. Sums of orders stay within
`max_l`. On top of A_0 for every order, nu = 2, 3 use orders >= 1.

Source: Cheng, npj Comput. Mater. 10, 157 (2024).
"""

import collections
import functools
import itertools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lesjax.models.basis import monomials


# One invariant: {indices of the factors: coefficient}.
Polynomial = dict[tuple[int, ...], float]


@functools.cache
def invariants(max_l: int, max_nu: int) -> tuple[Polynomial, ...]:
    """The invariants as polynomials in the entries of A, in the order nu, then orders (l, m, …).

    Raises:
        ValueError: for `max_nu` outside 1 … 4.
    """
    if not 1 <= max_nu <= 4:
        raise ValueError(f"`max_nu` must be 1, 2, 3 or 4, got {max_nu}.")
    index = {exponents: i for i, exponents in enumerate(monomials(max_l))}
    of_order = {l: [e for e in index if sum(e) == l] for l in range(max_l + 1)}
    orders = range(1, max_l + 1)

    def add(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(x + y for x, y in zip(a, b, strict=True))

    def polynomial(chain: tuple[int, ...]) -> Polynomial:
        terms: Polynomial = collections.defaultdict(float)
        links: list[tuple[tuple[int, int, int], ...]] = [()]
        for l in chain:
            links = [(*head, e) for head in links for e in of_order[l]]
        for link in links:
            ends = [link[0], *(add(a, b) for a, b in itertools.pairwise(link)), link[-1]]
            factors = tuple(sorted(index[e] for e in ends))  # equal monomials are collected
            terms[factors] += math.prod(map(_multinomial, link))
        return dict(terms)

    result: list[Polynomial] = [{(0,): 1.0}]
    if max_nu >= 2:
        result += [polynomial((l,)) for l in orders]
    if max_nu >= 3:
        result += [polynomial((l, m)) for l in orders for m in orders if l <= m and l + m <= max_l]
    if max_nu >= 4:
        result += [
            polynomial((l, m, n))
            for l in orders
            for m in orders
            for n in orders
            if l <= n and l + m <= max_l and m + n <= max_l
        ]
    return tuple(result)


def symmetrized_products(a: Float[Array, "a z"], max_l: int, max_nu: int) -> Float[Array, "f z"]:
    """Invariants of each column of the atomic basis.

    `jax.lax.split` transposes to one concatenation; indexing each row would transpose to as many padded
    copies of the whole array and make the backward pass twenty times slower.
    """
    rows = list(jax.lax.split(a, (1,) * a.shape[0]))
    return jnp.concatenate([_evaluate(terms, rows) for terms in invariants(max_l, max_nu)])


def _evaluate(terms: Polynomial, rows: list[Float[Array, "1 z"]]) -> Float[Array, "1 z"]:
    """Sum of the terms, Horner-like: the terms are grouped by their first factor."""
    groups: dict[int, Polynomial] = collections.defaultdict(dict)
    constant = None
    for factors, coefficient in terms.items():
        if len(factors) == 1:
            constant = rows[factors[0]] if coefficient == 1.0 else coefficient * rows[factors[0]]
        else:
            groups[factors[0]][factors[1:]] = coefficient
    parts = [rows[first] * _evaluate_inner(rest, rows) for first, rest in groups.items()]
    if not parts:
        assert constant is not None
        return constant
    return sum(parts[1:], parts[0])


def _evaluate_inner(terms: Polynomial, rows: list[Float[Array, "1 z"]]) -> Float[Array, "1 z"]:
    if all(len(factors) == 1 for factors in terms):
        parts = [coefficient * rows[factors[0]] for factors, coefficient in terms.items()]
        return sum(parts[1:], parts[0])
    return _evaluate(terms, rows)


def _multinomial(exponents: tuple[int, ...]) -> int:
    return math.factorial(sum(exponents)) // math.prod(map(math.factorial, exponents))
