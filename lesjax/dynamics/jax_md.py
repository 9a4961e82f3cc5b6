"""A potential in jax-md's convention: `energy_neighbor_list`.

jax-md keeps lattice vectors as the columns of `box`, this package as the rows of `cell`: they are transposed here and
nowhere else. Its `quantity.stress` has the opposite of ASE's sign.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ase
import jax
import jax.numpy as jnp
import numpy as np
from jax_md import partition, space
from jaxtyping import Array, Bool, Float, Int

from lesjax import ewald
from lesjax.dynamics.energy import allocate_pairs, make_template, plan_solver
from lesjax.models.potential import Potential
from lesjax.neighbors.plan import DEFAULT_SKIN, NeighborPlan
from lesjax.neighbors.verlet import NeighborList, update, within_cutoff
from lesjax.numerics import matmul


# a number, one for each direction, or a matrix
Box = float | np.ndarray | Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Neighbors:
    """Arguments of the energy besides positions and box, as jax-md passes them: neighbours and plan of the Ewald sum.

    For jax-md's own functions it is a dense neighbour list; `to_sparse` gives the other format.

    Attributes:
        neighbor_list: the neighbour list.
        solver: the plan of the long-range sum; None for a short-range model.
        drifted: the cell has left the range of that plan (`still_valid`), or the atoms of a slab reach beyond the
            height that it was planned for (`fits`). It stays set.
        update_fn: function that `update` calls; static.
    """

    neighbor_list: NeighborList
    solver: ewald.Plan | None
    drifted: Bool[Array, "*b"]
    update_fn: Callable[..., "Neighbors"] = field(metadata={"static": True})

    def update(self, position: Float[Array, "n 3"], **kwargs: Any) -> "Neighbors":
        """Update the list for these positions; can be compiled."""
        return self.update_fn(position, self, **kwargs)

    @property
    def idx(self) -> Int[Array, "*b n w"]:
        """Neighbours within cutoff + skin of each atom, [n, w]; the number of atoms in empty places."""
        columns = jnp.arange(self.neighbor_list.neighbors.shape[-1], dtype=jnp.int32)
        n = self.neighbor_list.neighbors.shape[-2]
        return jnp.where(columns < self.neighbor_list.counts[..., None], self.neighbor_list.neighbors, n)

    @property
    def reference_position(self) -> Float[Array, "*b n 3"]:
        """Positions for which the list was built, Cartesian and inside the box, Å."""
        return matmul(self.neighbor_list.reference, self.neighbor_list.frame)

    @property
    def format(self) -> partition.NeighborListFormat:
        """Layout of `idx`."""
        return partition.Dense

    def to_sparse(self) -> "SparseNeighbors":
        """The same neighbours in jax-md's sparse format, for `jax_md.partition.to_jraph`."""
        senders = self.idx
        n = senders.shape[0]
        receivers = jnp.where(senders < n, jnp.arange(n, dtype=senders.dtype)[:, None], n)
        return SparseNeighbors(jnp.stack([receivers.reshape(-1), senders.reshape(-1)]), self.reference_position)

    @property
    def did_buffer_overflow(self) -> Bool[Array, "*b"]:
        """True if there was no room for all neighbours: allocate a new list on the host."""
        return self.neighbor_list.overflow

    @property
    def cell_size_too_small(self) -> Bool[Array, "*b"]:
        """True if box or slab have left the range of the plans: allocate a new list on the host."""
        return self.neighbor_list.cell_too_small | self.drifted


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SparseNeighbors:
    """Neighbours as pairs, for functions of jax-md.

    Attributes:
        idx: receiver and sender of each pair within cutoff + skin; the number of atoms in empty places.
        reference_position: as in `Neighbors`.
    """

    idx: Int[Array, "2 p"]
    reference_position: Float[Array, "n 3"]

    @property
    def format(self) -> partition.NeighborListFormat:
        """Layout of `idx`."""
        return partition.Sparse


@dataclass(frozen=True)
class NeighborFns:
    """Functions as in jax-md's `NeighborListFns`: `allocate` on the host, `update` anywhere."""

    allocate: Callable[..., Neighbors]
    update: Callable[..., Neighbors]

    def __iter__(self):
        return iter((self.allocate, self.update))


def energy_neighbor_list(
    potential: Potential,
    atoms: ase.Atoms,
    *,
    skin: float = DEFAULT_SKIN,
    fractional_coordinates: bool = False,
    pbc: bool | tuple[bool, bool, bool] | None = None,
) -> tuple[NeighborFns, Callable[..., Float[Array, ""]]]:
    """Neighbour and energy functions of a potential for jax-md's integrators, minimizers and quantities.

    An integrator uses them as ::

        neighbor_fn, energy_fn = energy_neighbor_list(potential, atoms)
        neighbors = neighbor_fn.allocate(positions)
        init, step = jax_md.simulate.nve(energy_fn, shift_fn, dt)
        state = init(key, positions, kT, mass=masses, neighbor=neighbors)
        state = step(state, neighbor=neighbors)
        neighbors = neighbors.update(state.position)       # and check neighbors.did_buffer_overflow now and then
        neighbors = neighbor_fn.allocate(position, extra_capacity=4, at_least=neighbors.neighbor_list.plan)   # if so

    ``energy_fn(R, neighbor, box=None, perturbation=None)`` is the total energy without the reference energies of the
    elements, eV, which keeps its digits in float32. Atoms may be wrapped into the box or not. `box` is that of `atoms`
    unless given; where it changes, pass it to `update`, too.

    Args:
        potential: the model.
        atoms: elements, cell and periodicity.
        skin: see `lesjax.neighbors.verlet.allocate`.
        fractional_coordinates: positions are fractional coordinates of the box; forces stay Cartesian, as in
            `jax_md.space.periodic_general`.
        pbc: overrides the periodicity of `atoms`.

    Raises:
        ValueError: for elements that the model does not know, a singular cell, or fractional coordinates without a
            cell.
    """
    template = make_template(potential, atoms, pbc)
    cell_of_atoms = np.asarray(template.cell)
    if fractional_coordinates and abs(np.linalg.det(cell_of_atoms)) == 0.0:
        raise ValueError(f"`fractional_coordinates` need a cell, got {cell_of_atoms.tolist()}.")

    def cartesian(position: Float[Array, "n 3"], box: Box | None) -> tuple[Array, Array]:
        matrix = cell_of_atoms.T if box is None else _matrix(box)
        matrix = jnp.asarray(matrix, position.dtype)
        if fractional_coordinates:
            with jax.default_matmul_precision("highest"):  # see `numerics.matmul`
                position = space.transform(matrix, position)
        return position, matrix.T

    def allocate_fn(
        position: Float[Array, "n 3"], extra_capacity: int = 0, *, box: Box | None = None,
        at_least: NeighborPlan | None = None, **_: Any,
    ) -> Neighbors:  # fmt: skip
        positions, cell = cartesian(jnp.asarray(position), box)
        neighbor_list = allocate_pairs(potential, template, positions, cell, skin, at_least)
        if extra_capacity:
            larger = dataclasses.replace(
                neighbor_list.plan,
                capacity=neighbor_list.plan.capacity + extra_capacity,
                wide_capacity=neighbor_list.plan.wide_capacity + extra_capacity,
                pair_capacity=neighbor_list.plan.pair_capacity + extra_capacity * len(positions),
                bin_capacity=neighbor_list.plan.bin_capacity + extra_capacity,
            )
            neighbor_list = allocate_pairs(potential, template, positions, cell, skin, larger)
        solver = plan_solver(potential, template, positions, cell)
        return Neighbors(neighbor_list, solver, jnp.zeros((), bool), update_fn)

    def update_fn(position: Float[Array, "n 3"], neighbors: Neighbors, *, box: Box | None = None, **_: Any):
        positions, cell = cartesian(position, box)
        drifted, solver = neighbors.drifted, neighbors.solver
        if solver is not None:
            drifted |= ~solver.fits(positions, cell)
            if box is not None:
                drifted |= ~solver.still_valid(cell)
        neighbor_list = update(neighbors.neighbor_list, positions, cell)
        return dataclasses.replace(neighbors, neighbor_list=neighbor_list, drifted=drifted)

    def energy_fn(
        R: Float[Array, "n 3"], neighbor: Neighbors, *, box: Box | None = None,
        perturbation: Float[Array, "..."] | None = None, **_: Any,
    ) -> Float[Array, ""]:  # fmt: skip
        positions, cell = cartesian(R, box)
        if perturbation is not None:
            deform = jnp.asarray(_matrix(perturbation), positions.dtype).T
            positions, cell = matmul(positions, deform), matmul(cell, deform)
        return potential.energy(within_cutoff(neighbor.neighbor_list, template, positions, cell), neighbor.solver)

    return NeighborFns(allocate_fn, update_fn), energy_fn


def _matrix(box: Any) -> Array:
    box = jnp.asarray(box)
    if box.ndim == 0:
        return box * jnp.eye(3, dtype=box.dtype)
    return jnp.diag(box) if box.ndim == 1 else box
