"""Hyper-parameters of the long-range part."""

from dataclasses import dataclass

from lesjax.models.long_range.charges import CHARGE_KINDS, Charges, FixedCharges, LatentCharges
from lesjax.schema import choice
from lesjax.validate import check, not_both, optional, positive


@dataclass(frozen=True)
class LongRangeConfig:
    """Charges, other multipoles and their sum.

    Attributes:
        charges: `LatentCharges`, `FixedCharges` or `EquilibratedCharges`; kind = "latent", "fixed" or "equilibrated".
        sigma: smearing width of the charges, Å.
        k_cutoff: length of the largest k-vector of a periodic sum, 1/Å; exclusive with `accuracy`.
        accuracy: relative error of the forces of the sum; 1e-4 if neither is given.
        background: in three periodic directions, compensate charges that do not add up to zero by a uniform background;
            see `lesjax.ewald.Coulomb`. Without it energy and stress of such a cell depend on `sigma`, as in the
            published code. No effect on clusters and slabs.
        separate_features: give the charges their own short-range model, of the same kind and size.
    """

    charges: Charges = choice(CHARGE_KINDS, default=LatentCharges())
    sigma: float = 1.0
    k_cutoff: float | None = None
    accuracy: float | None = None
    background: bool = False
    separate_features: bool = False

    def __post_init__(self) -> None:
        check(self, sigma=positive, k_cutoff=optional(positive), accuracy=optional(positive))
        not_both(k_cutoff=self.k_cutoff, accuracy=self.accuracy)
        if self.separate_features and isinstance(self.charges, FixedCharges) and not self.charges.has_heads:
            raise ValueError("`separate_features` is for charges that are read out, but fixed ones have no readout.")
