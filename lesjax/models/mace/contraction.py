r"""Symmetric products of the features of one atom, contracted to one order.

The products of ν factors :math:`A_{l_1} \ldots A_{l_\nu}` with :math:`l_1 \le \ldots \le l_\nu` that rotate as order L
are one path for each independent coupling that is symmetric in equal orders. MACE couples all orders of the factors by
all intermediate ones, which gives each path several times; these here are independent: 13 in place of 28 for scalars
with ν up to 3 and orders up to 3, 16 in place of 58 for vectors.

Convention: components come first, [component, z], where z counts atoms and channels, so that a contraction is one
matrix product. Source: Batatia et al., NeurIPS 2022, arXiv:2206.07697.
"""

import itertools
import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lesjax.models.irreps import coupling
from lesjax.numerics import matmul


Path = tuple[int, ...]


@cache
def paths(max_ell: int, correlation: int, order: int) -> tuple[tuple[Path, int], ...]:
    """Orders of the factors of the products that rotate as `order`, with the number of their couplings."""
    found = []
    for degree in range(1, correlation + 1):
        for path in itertools.combinations_with_replacement(range(max_ell + 1), degree):
            n = len(couplings(path, order))
            if n:
                found.append((path, n))
    return tuple(found)


@cache
def couplings(path: Path, order: int) -> Float[np.ndarray, "p M ..."]:
    """Independent symmetric couplings [path, component, m_1 … m_ν] of factors of these orders to one order.

    Orthonormal to each other for each component; of natural parity: the orders add up to an even number.
    """
    shape = (2 * order + 1, *(2 * l + 1 for l in path))
    if (sum(path) + order) % 2:
        return np.zeros((0, *shape))
    # all ways to couple one factor after the other
    chains = {path[0]: [np.eye(2 * path[0] + 1)]}
    for l in path[1:]:
        longer: dict[int, list[np.ndarray]] = {}
        for before, tensors in chains.items():
            for after in range(abs(before - l), before + l + 1):
                product = [np.tensordot(t, coupling(before, l, after), axes=1) for t in tensors]
                longer.setdefault(after, []).extend(product)
        chains = longer
    found: list[np.ndarray] = []
    for chain in chains.get(order, []):
        tensor = symmetrize(np.moveaxis(chain, -1, 0), path)
        size = np.linalg.norm(tensor)
        for _ in range(2):  # twice, so that rounding errors leave nothing of the others
            for other in found:
                tensor = tensor - np.vdot(other, tensor) / np.vdot(other, other) * other
        if np.linalg.norm(tensor) > 1e-6 * max(size, 1e-3):
            found.append(tensor * ((2 * order + 1) ** 0.5 / np.linalg.norm(tensor)))
    return np.stack(found) if found else np.zeros((0, *shape))


def symmetrize(tensor: Float[np.ndarray, "M ..."], path: Path) -> Float[np.ndarray, "M ..."]:
    """Mean over all permutations of factors of equal order."""
    permutations = [p for p in itertools.permutations(range(len(path))) if tuple(path[i] for i in p) == path]
    return np.mean([tensor.transpose(0, *(i + 1 for i in p)) for p in permutations], axis=0)


def n_paths(max_ell: int, correlation: int, order: int) -> int:
    """Number of weights of each channel and element."""
    return sum(n for _, n in paths(max_ell, correlation, order))


def start_sizes(max_ell: int, correlation: int, order: int) -> Float[np.ndarray, " p"]:
    """Standard deviations with which the weights start: one over the number of paths with as many factors.

    As in mace-torch, products of many factors start small: a potential that begins with few bodies and adds others as
    the data ask for them generalizes better than one that begins with all alike.
    """
    found = paths(max_ell, correlation, order)
    of_degree = {d: sum(n for path, n in found if len(path) == d) for d in range(1, correlation + 1)}
    return np.repeat([1.0 / of_degree[len(path)] for path, _ in found], [n for _, n in found])


def symmetric_products(
    features: Float[Array, "a z"], max_ell: int, correlation: int, orders: tuple[int, ...]
) -> list[Float[Array, "M p z"]]:
    """Products [component, path, z] of each of the `orders`, in the order of `paths`.

    Args:
        features: components of order 0 … `max_ell` of one atom and channel in each column.
        max_ell: largest order of the factors.
        correlation: largest number of factors.
        orders: those of the products.
    """
    blocks = list(jax.lax.split(features, [2 * l + 1 for l in range(max_ell + 1)]))
    products: dict[Path, Array] = {
        (l,): block for l, block in enumerate(blocks)
    }  # outer products, the last factor fastest
    found: dict[int, list[Array]] = {order: [blocks[order][:, None, :]] for order in orders}
    for degree in range(2, correlation + 1):
        heads = [path for path in products if len(path) == degree - 1]
        parts: dict[tuple[int, Path], Array] = {}
        for head in heads:
            parts |= _contract(products[head], head, blocks, orders)
            if degree < correlation:
                products |= {
                    (*head, l): (products[head][:, None, :] * blocks[l][None, :, :]).reshape(-1, features.shape[1])
                    for l in range(head[-1], max_ell + 1)
                }
        for order in orders:
            found[order] += [parts[order, p] for p, _ in paths(max_ell, correlation, order) if len(p) == degree]
    return [jnp.concatenate(found[order], axis=1) for order in orders]


def _contract(
    product: Float[Array, "b z"], head: Path, blocks: list[Array], orders: tuple[int, ...]
) -> dict[tuple[int, Path], Float[Array, "M p z"]]:
    """Contract an outer product of all factors but the last, in one matrix product, and then with the last ones."""
    keys, matrices, shapes = [], [], []
    for l, order in itertools.product(range(head[-1], len(blocks)), orders):
        tensor = couplings((*head, l), order)
        if len(tensor):
            keys.append((order, (*head, l)))
            # [component, path, last factor, the others]
            matrix = np.moveaxis(tensor.swapaxes(0, 1), -1, 2)
            shapes.append(matrix.shape[:3])
            matrices.append(matrix.reshape(math.prod(matrix.shape[:3]), -1))
    if not keys:
        return {}
    rows = matmul(jnp.asarray(np.concatenate(matrices), product.dtype), product)
    found = {}
    for key, shape, part in zip(keys, shapes, jax.lax.split(rows, [len(m) for m in matrices]), strict=True):
        last = blocks[key[1][-1]]
        found[key] = jnp.sum(part.reshape(*shape, -1) * last[None, None, :, :], axis=2)
    return found
