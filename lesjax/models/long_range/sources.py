"""Sources of the sum, their response to it, and the result."""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Array, Float

from lesjax import response
from lesjax.validate import check, one_of


@dataclass(frozen=True)
class Induction:
    """Response of charges and dipoles to the potential and the field of the permanent multipoles.

    Attributes:
        kappa: each atom answers to the potential by a charge, κ (e/V, the inverse of a hardness) times it.
        alpha: each atom answers to the field by a dipole, by its polarizability α: "none", "isotropic" or "tensor".
        self_consistent: induced multipoles induce each other, too; otherwise only the permanent ones induce, to
            second order, as in the published code.
    """

    kappa: bool = False
    alpha: str = "isotropic"
    self_consistent: bool = False

    def __post_init__(self) -> None:
        check(self, alpha=one_of("none", "isotropic", "tensor"))
        if not self.kappa and self.alpha == "none":
            raise ValueError("`induction` needs `kappa` = true or an `alpha`, got false and 'none': leave it out.")


class Sources(NamedTuple):
    """Permanent sources of n atoms in c channels, and their response; None for entries that a model lacks.

    Zero for padded atoms.

    Attributes:
        charges: e.
        dipoles: e Å.
        quadrupoles: e Å², symmetric and without trace.
        kappa: charge per potential, e/V.
        alpha: polarizability, e Å²/V, one number or a tensor.
        electronegativity: V; in place of the charges where these are equilibrated.
        hardness: V/e; with it.
    """

    charges: Float[Array, "n c"] | None = None
    dipoles: Float[Array, "n c 3"] | None = None
    quadrupoles: Float[Array, "n c 3 3"] | None = None
    kappa: Float[Array, "n c"] | None = None
    alpha: Float[Array, "n c"] | Float[Array, "n c 3 3"] | None = None
    electronegativity: Float[Array, " n"] | None = None
    hardness: Float[Array, " n"] | None = None


class LongRange(NamedTuple):
    """The long-range part of an energy and its charges and multipoles, named as in `Prediction`.

    Attributes:
        energy: eV.
        charges: charges of each atom and channel, e, induced ones included.
        dipoles: e Å, induced ones included; None without latent and induced dipoles.
        quadrupoles: e Å²; None without.
        induction: the induced part, with the flags of its solution.
        equilibration: the solution for equilibrated charges, with its flag.
    """

    energy: Float[Array, ""]
    charges: Float[Array, "n c"]
    dipoles: Float[Array, "n c 3"] | None = None
    quadrupoles: Float[Array, "n c 3 3"] | None = None
    induction: response.InducedMultipoles | None = None
    equilibration: response.Equilibration | None = None
