"""Names of labels in a file, and the labels themselves."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from lesjax.validate import check, one_of, optional


BORN_ORDERS = ("polarization-first", "displacement-first")
# The first two are names of lesjax; "BEC" and "bec" are the columns of the published sets of superionic water (Zhong
# et al., 2025) and of dipeptides (King et al., 2025).
BORN_ORDER_OF_NAME = {
    "REF_born_effective_charges": "polarization-first",
    "born_effective_charges": "polarization-first",
    "BEC": "polarization-first",
    "bec": "displacement-first",
}


@dataclass(frozen=True)
class Keys:
    """Names under which a file holds its labels; the first one that the file has is used for all of its frames.

    They are looked up in the comment line, in the columns, and in the results of ase's calculator, where ase
    puts some names while reading; upper and lower case are the same where no name is spelled exactly so. Numbers may
    also come as JSON text. Energy, forces and stress are taken from one family of names where the file has it, as
    `REF_energy`, `REF_forces` and `REF_stress`.

    Born effective charges are nine numbers per atom. Published files hold them in both orders, and nothing in the
    numbers tells which. Without `born_effective_charges_order` the names of `BORN_ORDER_OF_NAME` are read as they
    are published, and those under another name are left out with a warning.

    Attributes:
        energy: total energy, eV.
        forces: eV/Å.
        stress: eV/Å³, nine numbers or six in the order xx, yy, zz, yz, xz, xy of ase.
        virial: eV, in place of a stress: minus the stress times the volume of the cell.
        charges: e.
        dipole: dipole moment of a molecule, e Å.
        quadrupole: second moment of a molecule, e Å², see `Labels`.
        born_effective_charges: e.
        born_effective_charges_order: "polarization-first" for [atom, polarization, displacement], or
            "displacement-first" for [atom, displacement, polarization]; by the name if it is not given.
        total_charge: of the structure, e.
        spin_multiplicity: 2S + 1.
        config_weight: factor of a frame in the loss, 1 if it is not given; a frame of weight 0 is left out.
        energy_weight: further factor of its energy.
        forces_weight: further factor of its forces.
        stress_weight: further factor of its stress.
    """

    energy: tuple[str, ...] = ("REF_energy", "energy")
    forces: tuple[str, ...] = ("REF_forces", "forces", "force")
    stress: tuple[str, ...] = ("REF_stress", "stress")
    virial: tuple[str, ...] = ("REF_virial", "virial")
    charges: tuple[str, ...] = ("REF_charges", "charges", "mbi_charges")
    dipole: tuple[str, ...] = ("REF_dipole", "dipole")
    quadrupole: tuple[str, ...] = ("REF_quadrupole", "quadrupole")
    born_effective_charges: tuple[str, ...] = ("REF_born_effective_charges", "born_effective_charges", "bec", "BEC")
    born_effective_charges_order: str | None = None
    total_charge: tuple[str, ...] = ("total_charge", "charge")
    spin_multiplicity: tuple[str, ...] = ("spin_multiplicity", "multiplicity", "spin")
    config_weight: tuple[str, ...] = ("config_weight",)
    energy_weight: tuple[str, ...] = ("energy_weight", "config_energy_weight")
    forces_weight: tuple[str, ...] = ("forces_weight", "force_weight", "config_forces_weight")
    stress_weight: tuple[str, ...] = ("stress_weight", "config_stress_weight")

    def __post_init__(self) -> None:
        check(self, born_effective_charges_order=optional(one_of(*BORN_ORDERS)))
        for field, other in (("stress", "virial"), ("virial", "stress")):
            wrong = next((name for name in getattr(self, field) if other in name.lower()), None)
            if wrong is not None:
                raise ValueError(
                    f"`{field}` = {wrong!r} names a {other}: give it as `data.keys.{other}` (--key {other}={wrong}). "
                    "A virial is in eV, and minus the stress (eV/Å³) times the volume."
                )

    def names(self, kind: str) -> tuple[str, ...]:
        """Names under which a label is looked up: of a stress those of the virial, too."""
        return getattr(self, kind) + (self.virial if kind == "stress" else ())

    def chosen(self) -> set[str]:
        """Labels for which another name than the usual ones was given."""
        usual = Keys()
        different = {f.name for f in dataclasses.fields(self) if getattr(self, f.name) != getattr(usual, f.name)}
        return different | ({"stress"} if "virial" in different else set())


def label_field(*shape: int | str) -> Any:
    """Field of `Labels` with this shape, in which "n" is the number of atoms."""
    return dataclasses.field(metadata={"shape": shape})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Labels:
    """Reference values of one structure, NaN where there is none. Leading axes ``*b`` when stacked.

    Attributes:
        energy: total energy, eV.
        forces: eV/Å.
        stress: eV/Å³, ASE's sign.
        charges: e.
        dipole: dipole moment of a molecule about its centre of mass, e Å; about any point if it is neutral.
        quadrupole: second moment of a molecule about its centre of mass, sum of q x x^T over electrons and nuclei
            (no factor 3/2, as SPICE and Psi4 give it), e Å². Its trace is that of the electron cloud, which no point
            charges have: only the traceless part is compared, so that either may be given.
        born_effective_charges: [atom, polarization, displacement], e.
    """

    energy: Float[Array | np.ndarray, "*b"] = label_field()
    forces: Float[Array | np.ndarray, "*b n 3"] = label_field("n", 3)
    stress: Float[Array | np.ndarray, "*b 3 3"] = label_field(3, 3)
    charges: Float[Array | np.ndarray, "*b n"] = label_field("n")
    dipole: Float[Array | np.ndarray, "*b 3"] = label_field(3)
    quadrupole: Float[Array | np.ndarray, "*b 3 3"] = label_field(3, 3)
    born_effective_charges: Float[Array | np.ndarray, "*b n 3 3"] = label_field("n", 3, 3)

    @classmethod
    def shapes(cls, n_atoms: int) -> dict[str, tuple[int, ...]]:
        """Shape of each label of one structure."""
        return {
            f.name: tuple(n_atoms if size == "n" else size for size in f.metadata["shape"])
            for f in dataclasses.fields(cls)
        }

    @classmethod
    def missing(cls, n_atoms: int) -> "Labels":
        """Labels of a structure that has none."""
        return cls(**{name: np.full(shape, np.nan) for name, shape in cls.shapes(n_atoms).items()})

    def pad_to(self, n_atoms: int) -> "Labels":
        """Pad the rows of one structure with NaN; host only."""
        padded = self.missing(n_atoms)
        for name, value in vars(self).items():
            getattr(padded, name)[tuple(map(slice, np.shape(value)))] = value
        return padded


def assigned_keys(assignments: Sequence[str], born_order: str | None) -> Keys:
    """Label names from the assignments "label=name" of a command line, and the order of Born effective charges."""
    labels = {f.name for f in dataclasses.fields(Keys)} - {"born_effective_charges_order"}
    label_names = {}
    for assignment in assignments:
        label, separator, name = assignment.partition("=")
        if not separator or not name or label not in labels:
            raise ValueError(f"`--key` needs one of {', '.join(sorted(labels))} = NAME, got {assignment!r}.")
        if label in label_names:
            raise ValueError(f"`--key {label}` is given twice: {label_names[label][0]} and {name}.")
        label_names[label] = (name,)
    return Keys(**label_names, born_effective_charges_order=born_order)
