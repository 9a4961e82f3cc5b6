"""Hyper-parameters of MACE; the fields have the names of the options of mace-torch."""

import re
from dataclasses import dataclass

from lesjax.validate import check, elements, flag, one_of, optional, positive, whole, widths


MAX_CHANNELS, MAX_L = 1024, 4
RESIDUAL = ("RealAgnosticResidualInteractionBlock", "RealAgnosticDensityResidualInteractionBlock")
NON_RESIDUAL = ("RealAgnosticInteractionBlock", "RealAgnosticDensityInteractionBlock")
WITH_DENSITY = (RESIDUAL[1], NON_RESIDUAL[1])


@dataclass(frozen=True)
class MACEConfig:
    """Equivariant message passing, with messages of any body order.

    Attributes:
        elements: atomic numbers that the model knows; those of the training set if left out.
        cutoff: range of the neighbourhood, Å (`r_max` of MACE). Each layer reaches as far beyond its neighbours.
        hidden_irreps: features of an atom, the same number of channels of each order: "64x0e", "128x0e+128x1o",
            "128x0e+128x1o+128x2e".
        num_interactions: number of layers. The last of several has only scalars.
        max_ell: largest order of the spherical harmonics.
        correlation: number of neighbours in one product; messages have the body order `correlation` + 1.
        radial_type: "bessel" or "gaussian".
        num_radial_basis: number of radial functions (`num_bessel`).
        trainable_bessel: whether the frequencies of the Bessel functions are learned.
        num_polynomial_cutoff: exponent of the polynomial envelope.
        distance_transform: "None", or "Agnesi": the radial functions are of a number that falls from one to zero, fast
            where two atoms bond by their covalent radii.
        radial_MLP: widths of the hidden layers of the radial network.
        avg_num_neighbors: divisor of the sums over neighbours; the mean of the training set if left out.
        interaction: "RealAgnosticResidualInteractionBlock", or "RealAgnosticDensityResidualInteractionBlock", which
            divides the sums over neighbours by one and a learned density of them in place of `avg_num_neighbors`.
        interaction_first: that of the first layer; also without its residual connection, as
            "RealAgnosticInteractionBlock" or "RealAgnosticDensityInteractionBlock".
        pair_repulsion: add the repulsion of Ziegler, Biersack and Littmark at short distances.
        pair_repulsion_scale: factor on it; models of mace-torch with a scale of the energies multiply it with that.
    """

    elements: tuple[int, ...] = ()
    cutoff: float = 5.0
    hidden_irreps: str = "64x0e"
    num_interactions: int = 2
    max_ell: int = 3
    correlation: int = 3
    radial_type: str = "bessel"
    num_radial_basis: int = 8
    trainable_bessel: bool = False
    num_polynomial_cutoff: float = 5.0
    distance_transform: str = "None"
    radial_MLP: tuple[int, ...] = (64, 64, 64)
    avg_num_neighbors: float | None = None
    interaction: str = RESIDUAL[0]
    interaction_first: str = RESIDUAL[0]
    pair_repulsion: bool = False
    pair_repulsion_scale: float = 1.0

    def __post_init__(self) -> None:
        check(
            self, elements=elements, cutoff=positive, num_interactions=whole(1, 8), max_ell=whole(0, MAX_L),
            correlation=whole(1, 4), radial_type=one_of("bessel", "gaussian"), num_radial_basis=whole(2, 64),
            trainable_bessel=flag, num_polynomial_cutoff=positive, radial_MLP=widths,
            distance_transform=one_of("None", "Agnesi"), avg_num_neighbors=optional(positive),
            interaction=one_of(*RESIDUAL), interaction_first=one_of(*RESIDUAL, *NON_RESIDUAL),
            pair_repulsion=flag, pair_repulsion_scale=positive,
        )  # fmt: skip
        channels, max_l = parse_irreps(self.hidden_irreps)
        if max_l > self.max_ell:
            raise ValueError(
                f"`hidden_irreps` = {self.hidden_irreps!r} has order {max_l}, more than `max_ell` = {self.max_ell}: "
                "raise that."
            )
        if channels > MAX_CHANNELS:
            raise ValueError(f"`hidden_irreps` must have at most {MAX_CHANNELS} channels, got {channels}.")

    @property
    def channels(self) -> int:
        """Number of channels of each order."""
        return parse_irreps(self.hidden_irreps)[0]

    def interaction_of(self, layer: int) -> str:
        """Kind of the interaction of a layer."""
        return self.interaction if layer else self.interaction_first

    def max_l(self, layer: int) -> int:
        """Largest order of the features that a layer gives."""
        last = self.num_interactions - 1
        return 0 if 0 < layer == last else parse_irreps(self.hidden_irreps)[1]


def parse_irreps(text: str) -> tuple[int, int]:
    """Return the number of channels and the largest order of "128x0e+128x1o".

    Raises:
        ValueError: for other numbers of channels, orders or parities than the model has.
    """
    parts = [re.fullmatch(r"\s*(\d{1,6})x(\d)([eo])\s*", part) for part in str(text).split("+")]
    names = [(int(p[1]), int(p[2]), p[3]) for p in parts if p is not None]
    wanted = [(names[0][0], l, "eo"[l % 2]) for l in range(len(parts))] if names else []
    if len(names) < len(parts) or names != wanted or not names[0][0]:
        raise ValueError(
            "`hidden_irreps` must have the same number of channels for each order from 0 on, with even parity for even "
            f"orders, as '64x0e' or '128x0e+128x1o', got {str(text)[:80]!r}."
        )
    return names[0][0], len(names) - 1
