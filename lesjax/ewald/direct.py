r"""Direct reciprocal-space sum over Gaussian charges in product form.

.. math:: E = \frac{1}{2 \varepsilon_0 V} \sum_{0 < |k| \le k_c} \frac{e^{-\sigma^2 k^2 / 2}}{k^2} |S(k)|^2,
          \quad S(k) = \sum_i q_i e^{i k \cdot r_i}

With fractional coordinates s the phase of k = n · (reciprocal vectors) factorises,
e^{ik·r} = e^{2πi n1 s1} e^{2πi n2 s2} e^{2πi n3 s3}. The trigonometric structure factor

    T[p1, n1, p2, n2, p3, n3] = Σ_i q_i f_p1(2π n1 s1) f_p2(2π n2 s2) f_p3(2π n3 s3),  f_0 = cos, f_1 = sin,

over n >= 0 only is one real matrix product; S for all four relative signs of (n1, n2, n3) is recombined from
its entries, and (n1, n2, n3) and its negative have the same |S|². There is never an array of atoms times
k-vectors, and the largest one (atoms times n1 n2) is cut into blocks of atoms that are recomputed backwards.

Source: Cheng, npj Comput. Mater. 11, 80 (2025), doi:10.1038/s41524-025-01577-7, here with 1/(2ε0) explicit.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lesjax.ewald.kernel import reciprocal_kernel
from lesjax.numerics import cospi, sinpi


# Atoms are summed in blocks once the largest intermediate would exceed this number of elements.
_MAX_INTERMEDIATE = 2**24
_SIGNS = ((1, 1), (1, -1), (-1, 1), (-1, -1))


def structure_factor(
    positions: Float[Array, "n 3"],
    charges: Float[Array, " n"],
    cell: Float[Array, "3 3"],
    shape: tuple[int, int, int],
) -> Float[Array, "2 n1 2 n2 2 n3"]:
    """Trigonometric structure factor T of the module's docstring, for 0 <= n < `shape`.

    Args:
        positions: Cartesian coordinates, Å.
        charges: charges, e; zero for padded atoms.
        cell: lattice vectors as rows, Å.
        shape: numbers of k-grid points along each reciprocal vector, zero included.
    """
    fractional = positions @ jnp.linalg.inv(cell)
    # float32 phases keep their digits however far the atoms have drifted
    fractional = fractional - jax.lax.stop_gradient(jnp.round(fractional))

    def summed(fractional: Float[Array, "n 3"], charges: Float[Array, " n"]) -> Float[Array, "x z"]:
        # atoms last: every product runs over long rows, and T takes half the time of the other order
        f1, f2, f3 = (_cos_sin(fractional[:, axis], shape[axis]) for axis in range(3))
        pairs = (f1 * charges[None, :])[:, None, :] * f2[None, :, :]
        # TF32, the default of some GPUs, would lose three digits
        return jnp.einsum("xn,zn->xz", pairs.reshape(-1, len(charges)), f3, precision=jax.lax.Precision.HIGHEST)

    n = len(charges)
    block = max(1, _MAX_INTERMEDIATE // (4 * shape[0] * shape[1]))
    if n <= block:
        total = summed(fractional, charges)
    else:
        n_blocks = math.ceil(n / block)
        padding = n_blocks * math.ceil(n / n_blocks) - n
        blocks = (
            jnp.pad(fractional, ((0, padding), (0, 0))).reshape(n_blocks, -1, 3),
            jnp.pad(charges, (0, padding)).reshape(n_blocks, -1),
        )
        one_block = jax.checkpoint(lambda carry, block: (carry + summed(*block), None))
        zeros = jnp.zeros((4 * shape[0] * shape[1], 2 * shape[2]), positions.dtype)
        total, _ = jax.lax.scan(one_block, zeros, blocks)
    return total.reshape(2, shape[0], 2, shape[1], 2, shape[2])


def quadratic_form(
    left: Float[Array, "2 n1 2 n2 2 n3"],
    right: Float[Array, "2 n1 2 n2 2 n3"],
    weights: Float[Array, "4 n1 n2 n3"],
) -> Float[Array, ""]:
    """Return Σ_k w(k) Re[S_left(k)* S_right(k)] over the whole k-grid; the energy for ``left is right``."""
    real_l, imag_l = _complex_parts(left)
    real_r, imag_r = (real_l, imag_l) if left is right else _complex_parts(right)
    return jnp.sum(weights * (real_l * real_r + imag_l * imag_r))


def kspace_weights(
    cell: Float[Array, "3 3"], kmask: Bool[Array, "4 n1 n2 n3"], sigma: Float[Array, ""]
) -> Float[Array, "4 n1 n2 n3"]:
    r"""Weights :math:`\frac{1}{2 \varepsilon_0 V} e^{-\sigma^2 k^2 / 2} / k^2`, times the multiplicity of k.

    `kmask` was planned for a nearby cell and stays while `cell` strains, so the energy is smooth.
    """
    _, n1, n2, n3 = kmask.shape
    reciprocal = 2.0 * math.pi * jnp.linalg.inv(cell).T
    a, b, c = (jnp.arange(n).astype(cell.dtype)[:, None] * reciprocal[i][None] for i, n in enumerate((n1, n2, n3)))
    kvectors = jnp.stack(
        [a[:, None, None, :] + s2 * b[None, :, None, :] + s3 * c[None, None, :, :] for s2, s3 in _SIGNS]
    )
    return reciprocal_kernel(kvectors, kmask, cell, sigma) * _multiplicity(n1, n2, n3, cell.dtype)


def _multiplicity(n1: int, n2: int, n3: int, dtype: jnp.dtype) -> Float[Array, "1 n1 n2 n3"]:
    """Two for k and -k, halved for each zero index: there the two signs are the same k-vector."""

    def half_at_zero(n: int) -> Float[Array, " n"]:
        return jnp.ones(n, dtype).at[0].set(0.5)

    product = half_at_zero(n1)[:, None, None] * half_at_zero(n2)[None, :, None] * half_at_zero(n3)[None, None, :]
    return 2.0 * product[None]


def _complex_parts(
    t: Float[Array, "2 n1 2 n2 2 n3"],
) -> tuple[Float[Array, "4 n1 n2 n3"], Float[Array, "4 n1 n2 n3"]]:
    """Real and imaginary part of S(n1, ±n2, ±n3) by the addition theorems."""
    ccc, ccs, csc, css = t[0, :, 0, :, 0], t[0, :, 0, :, 1], t[0, :, 1, :, 0], t[0, :, 1, :, 1]
    scc, scs, ssc, sss = t[1, :, 0, :, 0], t[1, :, 0, :, 1], t[1, :, 1, :, 0], t[1, :, 1, :, 1]
    real = [ccc - s2 * ssc - s3 * scs - s2 * s3 * css for s2, s3 in _SIGNS]
    imag = [scc + s2 * csc + s3 * ccs - s2 * s3 * sss for s2, s3 in _SIGNS]
    return jnp.stack(real), jnp.stack(imag)


def _cos_sin(fractional: Float[Array, " n"], size: int) -> Float[Array, "two_size n"]:
    half_turns = 2.0 * jnp.arange(size).astype(fractional.dtype)[:, None] * fractional[None, :]
    return jnp.concatenate([cospi(half_turns), sinpi(half_turns)])
