"""One atomic structure, or several stacked ones, as a frozen pytree."""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lesjax.neighbors.host import bring_home, check_geometry, neighbor_arrays
from lesjax.neighbors.pairs import find_unique_pairs, most_pairs, pad_pairs, unique_pairs
from lesjax.neighbors.types import Dense
from lesjax.numerics import matmul
from lesjax.validate import MAX_ELEMENT, MAX_LENGTH, array, directions


if TYPE_CHECKING:
    import ase


Values = np.ndarray | Array | Sequence[Any]
# names in the `info` of ASE's atoms; the first one present is used
CHARGE_NAMES = ("total_charge", "charge")
MAX_CHARGE = 1e6  # e
SPIN_NAMES = ("spin_multiplicity", "multiplicity", "spin")
# entries that hold a cell: a word of their name, or the name without digits and marks; short names take several numbers
CELL_WORD = re.compile(r"(unit|super|sim|simulation|primitive)?(cell|box|lattice)")
CELL_NAME = re.compile(
    CELL_WORD.pattern + "(par|param|parameter|vec|vector|dim|dimension|size|length|matrix|constant|[xyzhabc])?s?"
)
CELL_SHORT = ("lat", "hmat", "h", "abc", "tv")
CELL_SCALARS = ({"lx", "ly", "lz"}, {"a", "b", "c", "alpha", "beta", "gamma"}, {"xlo", "xhi"})
CELL_OF_IPI = re.compile(r"cell[({]", re.IGNORECASE)  # CELL(abcABC): 10 10 10 90 90 90
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def _not_given() -> np.ndarray:
    return np.full((), np.nan, jax.dtypes.canonicalize_dtype(float))


def _zero() -> np.ndarray:
    return np.zeros(3, jax.dtypes.canonicalize_dtype(float))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class System:
    """Atoms, cell and padded neighbours. Leading axes ``*b`` appear when systems are stacked for `vmap`.

    Attributes:
        positions: Cartesian coordinates, Å, near to zero: without the `origin`, and with atoms far outside of the cell
            brought back by whole lattice vectors, see `lesjax.neighbors.host.bring_home`.
        cell: lattice vectors as rows, Å; zeros for a cluster.
        atomic_numbers: 0 for padded atoms.
        atom_mask: True for real atoms.
        neighbors: index of each neighbour; a padded entry points to the atom itself.
        cell_shifts: lattice translation of each neighbour, integers.
        neighbor_mask: True for real neighbours.
        pbc: which directions are periodic; static.
        total_charge: e; NaN where it is not given, which matters only to models that need it.
        spin_multiplicity: 2S + 1, one for a closed shell; NaN where it is not given.
        cutoff: range within which the neighbours are complete, Å; NaN where it is not known.
        origin: the point that `positions` are about, Å; a multiple of 16 Å across the periodic directions, zero for
            atoms near to it.
        pairs: the two slots of each unique pair in the arrays of neighbours, see `lesjax.neighbors.pairs`. Without them
            they are found where a model asks for them.
    """

    positions: Float[Array | np.ndarray, "*b n 3"]
    cell: Float[Array | np.ndarray, "*b 3 3"]
    atomic_numbers: Int[Array | np.ndarray, "*b n"]
    atom_mask: Bool[Array | np.ndarray, "*b n"]
    neighbors: Int[Array | np.ndarray, "*b n m"]
    cell_shifts: Int[Array | np.ndarray, "*b n m 3"]
    neighbor_mask: Bool[Array | np.ndarray, "*b n m"]
    pbc: tuple[bool, bool, bool] = field(metadata={"static": True})
    total_charge: Float[Array | np.ndarray, "..."] = field(default_factory=_not_given)
    spin_multiplicity: Float[Array | np.ndarray, "..."] = field(default_factory=_not_given)
    cutoff: Float[Array | np.ndarray, "..."] = field(default_factory=_not_given)
    origin: Float[Array | np.ndarray, "..."] = field(default_factory=_zero)
    pairs: Int[Array | np.ndarray, "*b p 2"] | None = None

    @classmethod
    def from_ase(cls, atoms: "ase.Atoms", *, cutoff: float, pbc: bool | tuple[bool, bool, bool] | None = None):
        """Build a system from ASE atoms; host only.

        Args:
            atoms: structure; its cell, periodicity, numbers and positions are used, and from ``atoms.info`` the total
                charge ("total_charge" or "charge", e) and the spin multiplicity ("spin_multiplicity",
                "multiplicity" or "spin", 2S + 1) if they are present and are numbers.
            cutoff: range of the short-range model, Å (``potential.cutoff``).
            pbc: overrides the periodicity of `atoms`, for example False for a molecule in a box.

        Raises:
            ValueError: for no atoms, ghost atoms, coordinates that are not finite, a singular cell, and a cell among
                the entries of ``atoms.info`` only.
        """
        check_cell_entries(atoms)
        total_charge, spin_multiplicity = electronic_state(atoms)
        return cls.from_arrays(
            atoms.positions,
            atoms.cell.array,
            atoms.numbers,
            atoms.pbc if pbc is None else pbc,
            cutoff=cutoff,
            total_charge=total_charge,
            spin_multiplicity=spin_multiplicity,
        )

    @classmethod
    def from_arrays(
        cls,
        positions: Values,
        cell: Values,
        atomic_numbers: Values,
        pbc: bool | Values,
        *,
        cutoff: float,
        total_charge: float = np.nan,
        spin_multiplicity: float = np.nan,
    ) -> "System":
        """Build a system from arrays, in JAX's default floating-point type; host only. See `from_ase`.

        Args:
            positions: Cartesian coordinates, [n, 3], Å.
            cell: lattice vectors as rows, [3, 3], Å.
            atomic_numbers: one for each of the n atoms.
            pbc: which directions are periodic, or one for all.
            cutoff: range of the short-range model, Å.
            total_charge: e.
            spin_multiplicity: 2S + 1.

        Raises:
            ValueError: for shapes that do not fit, entries that are no real numbers or no atomic numbers from 1 to 118,
                and as `from_ase`.
        """
        # geometry says which atom is not finite
        positions, cell = (
            array("positions", positions, largest=np.inf, missing=True).astype(float),
            array("cell", cell, largest=MAX_LENGTH).astype(float),
        )
        atomic_numbers = array("atomic_numbers", atomic_numbers, largest=MAX_ELEMENT, integer=True)
        check_ghosts(atomic_numbers)
        n = len(atomic_numbers) if atomic_numbers.ndim == 1 else -1
        if positions.shape != (n, 3) or cell.shape != (3, 3):
            raise ValueError(
                "`positions`, `cell` and `atomic_numbers` must have the shapes (n, 3), (3, 3) and (n,), got "
                f"{positions.shape}, {cell.shape} and {atomic_numbers.shape}."
            )
        pbc = directions(pbc)
        check_geometry(positions, cell, pbc)
        positions, _, origin = bring_home(positions, cell, pbc)
        neighbors, cell_shifts, neighbor_mask = neighbor_arrays(positions, cell, pbc, cutoff)
        dtype = jax.dtypes.canonicalize_dtype(float)
        return cls(
            positions=positions.astype(dtype),
            cell=cell.astype(dtype),
            atomic_numbers=atomic_numbers.astype(np.int32),
            atom_mask=np.ones(len(positions), bool),
            neighbors=neighbors,
            cell_shifts=cell_shifts,
            neighbor_mask=neighbor_mask,
            pbc=pbc,
            total_charge=np.asarray(_state("total_charge", total_charge), dtype),
            spin_multiplicity=np.asarray(_state("spin_multiplicity", spin_multiplicity), dtype),
            cutoff=np.asarray(cutoff, dtype),
            origin=origin.astype(dtype),
            pairs=unique_pairs(neighbors, cell_shifts, neighbor_mask),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Padded numbers of atoms and of neighbours per atom."""
        return self.neighbors.shape[-2], self.neighbors.shape[-1]

    def neighborhood(self) -> Dense:
        """The neighbours of one system, with the vectors r_j - r_i + shift · cell to them, Å."""
        positions, senders = jax.numpy.asarray(self.positions), jax.numpy.asarray(self.neighbors)
        cell_shifts, mask = jax.numpy.asarray(self.cell_shifts), jax.numpy.asarray(self.neighbor_mask)
        vectors = positions[senders] - positions[:, None, :]
        vectors = vectors + matmul(cell_shifts.astype(positions.dtype), jax.numpy.asarray(self.cell))
        if self.pairs is None:
            pairs = find_unique_pairs(senders, cell_shifts, mask, most_pairs(*mask.shape))
        else:
            pairs = jax.numpy.asarray(self.pairs)
        return Dense(vectors, mask, senders, pairs)

    def pad_to(self, n_atoms: int, n_neighbors: int, n_pairs: int | None = None) -> "System":
        """Pad one system with atoms that carry nothing and have no neighbours; host only.

        Args:
            n_atoms: rows.
            n_neighbors: width of the rows of neighbours.
            n_pairs: number of unique pairs; by default the most that these rows can hold.

        Raises:
            ValueError: if the system is larger.
        """
        n, m = self.shape
        n_pairs = most_pairs(n_atoms, n_neighbors) if n_pairs is None else n_pairs
        own_pairs = 0 if self.pairs is None else self.pairs.shape[-2]
        if n_atoms < n or n_neighbors < m:
            raise ValueError(f"A system of {n} atoms and {m} neighbours does not fit into ({n_atoms}, {n_neighbors}).")
        if n_pairs < own_pairs:
            raise ValueError(f"`n_pairs` = {n_pairs} is too small: the system has {own_pairs} pairs.")
        # widths as an array: checkers of types do not follow numpy's nested sequences
        padding = np.array([[0, n_atoms - n]])
        two, wider = np.array([[0, n_atoms - n], [0, 0]]), np.array([[0, n_atoms - n], [0, n_neighbors - m]])
        neighbors = np.repeat(np.arange(n_atoms, dtype=np.int32)[:, None], n_neighbors, axis=1)
        neighbors[:n, :m] = self.neighbors
        return dataclasses.replace(
            self,
            positions=np.pad(self.positions, two),
            atomic_numbers=np.pad(self.atomic_numbers, padding),
            atom_mask=np.pad(self.atom_mask, padding),
            neighbors=neighbors,
            cell_shifts=np.pad(self.cell_shifts, np.concatenate([wider, [[0, 0]]])),
            neighbor_mask=np.pad(self.neighbor_mask, wider),
            pairs=None if self.pairs is None else pad_pairs(np.asarray(self.pairs), m, n_neighbors, n_pairs),
        )


def _state(name: str, value: Any) -> float:
    """A total charge or multiplicity, NaN where it is not given."""
    number = np.asarray(value)
    if number.shape == () and number.dtype.kind in "iuf" and (np.isnan(number) or abs(number) <= MAX_CHARGE):
        return float(number)
    raise ValueError(
        f"`{name}` must be a number of at most {MAX_CHARGE:g}, or NaN where it is not given, got {value!r}."
    )


def check_ghosts(atomic_numbers: np.ndarray, mask: np.ndarray | None = None, *, where: str = "") -> None:
    """Raise ValueError for an atom without an element, with its index: number 0 is for padding alone.

    Args:
        atomic_numbers: of the atoms; leading axes where systems are stacked.
        mask: True for real atoms; all are if it is not given.
        where: file and structure, the start of the message.
    """
    is_element = (atomic_numbers >= 1) & (atomic_numbers <= MAX_ELEMENT)
    others = np.argwhere(~is_element & (True if mask is None else mask))
    if not len(others):
        return
    number, atom = atomic_numbers[tuple(others[0])], ", ".join(map(str, others[0]))
    if number == 0:
        raise ValueError(
            f"{where}Atom {atom} is a ghost atom (symbol X, atomic number 0), which no model knows: remove it, or give "
            "it an element."
        )
    raise ValueError(f"{where}Atom {atom} has the atomic number {number}; elements have 1 to {MAX_ELEMENT}.")


def check_cell_entries(atoms: "ase.Atoms") -> None:
    """Raise ValueError for a structure without a cell that has one in ``atoms.info``, under a name that is not read."""
    if not atoms.info or atoms.cell.array.any():
        return
    entries = {str(key): value for key, value in atoms.info.items() if value is not None}
    sizes = {key: len(NUMBER.findall(x)) if isinstance(x, str) else np.size(x) for key, x in entries.items()}
    scalars = {key.lower() for key, size in sizes.items() if size == 1}
    for key, value in entries.items():
        words = re.findall("[a-z]+", re.sub("([a-z])([A-Z])", r"\1_\2", key).lower())
        name, size = "".join(words), sizes[key]
        if isinstance(value, bool):
            is_cell = CELL_OF_IPI.match(key)
        elif size == 1:
            is_cell = CELL_NAME.fullmatch(name) or any(key.lower() in names <= scalars for names in CELL_SCALARS)
        else:
            is_cell = size in (3, 6, 9) and (
                name in CELL_SHORT or CELL_NAME.fullmatch(name) or any(map(CELL_WORD.fullmatch, words))
            )
        if is_cell:
            raise ValueError(
                f"it has no cell, but an entry `{key}` = {str(value)[:60]!r}. Write the lattice vectors as "
                '`Lattice="ax ay az bx by bz cx cy cz"`, or rename the entry if it is something else.'
            )


def electronic_state(atoms: "ase.Atoms") -> tuple[float, float]:
    """Total charge (e) and spin multiplicity in ``atoms.info``, NaN where there is none that is a finite number.

    A file may hold "restricted" as the spin of structures that no model asks it of.
    """

    def find(names: tuple[str, ...]) -> float:
        value = next((np.asarray(atoms.info[name]) for name in names if atoms.info.get(name) is not None), None)
        is_number = value is not None and value.size == 1 and value.dtype.kind in "iuf" and np.isfinite(value).all()
        return float(value.reshape(())) if value is not None and is_number else np.nan

    return find(CHARGE_NAMES), find(SPIN_NAMES)


def electronic_info(atoms: "ase.Atoms") -> dict[str, Any]:
    """Entries of ``atoms.info`` that `electronic_state` reads, to be copied to other frames of these atoms."""
    return {name: atoms.info[name] for name in (*CHARGE_NAMES, *SPIN_NAMES) if name in atoms.info}
