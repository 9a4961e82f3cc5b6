"""What the readers of all families take and give."""

from collections.abc import Mapping
from dataclasses import dataclass

from lesjax.models.potential import Potential


@dataclass(frozen=True)
class Options:
    """What a file may not say.

    Attributes:
        reference_energies: energy of one atom of each element, eV, by symbol; those of the file if not given.
        norm_factor: factor of the long-range sum of the published code, eV Å.
        self_interaction: whether the published sum kept the energy of each Gaussian with itself.
    """

    reference_energies: Mapping[str, float] | None = None
    norm_factor: float | None = None
    self_interaction: bool | None = None


@dataclass(frozen=True)
class Converted:
    """A converted potential and a report.

    Attributes:
        potential: the model, in JAX's default floating-point type; its signs and provenance are set later.
        family: name of the package that wrote the file, such as "CACE-LES".
        says: name and value of what the file says.
        notes: sentences on what the file does not say, with what was taken, and on where the model here differs.
        reference_energies: how those of the model were found: "the file", "given" or "none".
    """

    potential: Potential
    family: str
    says: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()
    reference_energies: str = "none"
