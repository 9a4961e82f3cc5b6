"""Checks of the arrays that the sums take; entries are looked at where they have values, and pass while traced."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lesjax.validate import MAX_LENGTH, array


# of charges (e), moments (e Å, e Å²), fields (V/Å) and responses: their squares are far from the end of float32
MAX_SOURCE = 1e9


def check_geometry(positions: Any, cell: Any, atom_mask: Any = None) -> None:
    """Raise ValueError for positions and mask of other shapes than (n, 3) and (n,), or as `check_arrays`.

    Args:
        positions: Cartesian coordinates, Å.
        cell: lattice vectors as rows, Å; None where the boundaries are open.
        atom_mask: True for real atoms; may be None.
    """
    check_arrays(MAX_LENGTH, positions=positions, **({} if cell is None else {"cell": cell}))
    n = len(positions) if positions.ndim else -1
    if positions.shape != (n, 3):
        raise ValueError(f"`positions` must have the shape (n, 3), got {positions.shape}.")
    if cell is not None and cell.shape != (3, 3):
        raise ValueError(f"`cell` must have the shape (3, 3), got {cell.shape}.")
    if atom_mask is None:
        return
    if getattr(atom_mask, "shape", None) != (n,):
        raise ValueError(
            f"`atom_mask` must have the shape {(n,)} for {n} positions, got {getattr(atom_mask, 'shape', atom_mask)}."
        )
    if atom_mask.dtype != bool:
        raise ValueError(f"`atom_mask` must be an array of True and False, got entries of type {atom_mask.dtype}.")


def check_arrays(largest: float = MAX_SOURCE, /, **arrays: Any) -> None:
    """Raise ValueError for anything but arrays of real numbers, finite and not larger than makes sense.

    Args:
        largest: largest magnitude of an entry.
        **arrays: by their names.
    """
    for name, value in arrays.items():
        dtype = getattr(value, "dtype", None)
        if dtype is None:
            raise ValueError(f"`{name}` must be an array of jax or numpy, got {type(value).__name__}.")
        if not jnp.issubdtype(dtype, jnp.floating) and not jnp.issubdtype(dtype, jnp.integer):
            kind = "complex numbers" if jnp.issubdtype(dtype, jnp.complexfloating) else f"entries of type {dtype}"
            raise ValueError(f"`{name}` must be real numbers, got {kind}.")
        if not isinstance(value, Tracer):
            array(name, np.asarray(value), largest=largest)
