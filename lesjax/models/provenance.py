"""Where a potential comes from, and the latent charges that it had at the end of its training.

Written beside the configuration, shown by ``lesjax info``. It takes no part in computations: a `Potential` loses it in
transformations of jax, where it could come out of a function that was compiled for another one.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from lesjax.models.checks import NEUTRAL
from lesjax.models.config import ModelConfig
from lesjax.models.long_range import FixedCharges


# root mean square of the charges, in units of that before training, below which they count as collapsed
COLLAPSED = 0.1
# e; below it, and below half of those before training, charges that started from electronegativities have collapsed
NEAR_ZERO = 0.1


@dataclass(frozen=True)
class ChargeStatistics:
    """Latent charges of the atoms of a data set, and their sums over its structures; e, one number for each channel.

    Attributes:
        n_structures: number of structures.
        mean: mean over the atoms of each element, by symbol.
        std: standard deviation over the atoms of each element.
        net_mean: mean over the structures of their sum of charges.
        net_largest: sum of charges with the largest magnitude, with its sign.
        n_cells: number of cells (periodic in some direction) whose total charge is zero or not given.
        n_charged_cells: number of these whose charges add up to more than 0.01 e.
        largest_of_cells: largest magnitude of the sum in these, of all channels.
        size: root mean square over the atoms of the charge, with all its channels.
        initial_size: the same before training, on the structures to validate on; None if it is not known.
    """

    n_structures: int
    mean: dict[str, tuple[float, ...]]
    std: dict[str, tuple[float, ...]]
    net_mean: tuple[float, ...]
    net_largest: tuple[float, ...]
    n_cells: int
    n_charged_cells: int
    largest_of_cells: float
    size: float
    initial_size: float | None = None

    def flipped(self, signs: Float[np.ndarray, " c"]) -> "ChargeStatistics":
        """Return the statistics of charges that are multiplied by a sign for each channel."""

        def times(values: tuple[float, ...]) -> tuple[float, ...]:
            # no minus zero
            return tuple(0.0 + float(value * sign) for value, sign in zip(values, signs, strict=True))

        mean = {symbol: times(values) for symbol, values in self.mean.items()}
        net = {"net_mean": times(self.net_mean), "net_largest": times(self.net_largest)}
        return dataclasses.replace(self, mean=mean, **net)

    def metrics(self) -> dict[str, dict]:
        """Entries ``charges`` and ``net_charge`` of a JSON file; a list of the channels where there are several."""

        def plain(values: tuple[float, ...]) -> float | list[float]:
            return values[0] if len(values) == 1 else list(values)

        of_elements = {s: {"mean": plain(self.mean[s]), "std": plain(self.std[s])} for s in self.mean}
        return {
            "charges": of_elements,
            "net_charge": {"mean": plain(self.net_mean), "largest": plain(self.net_largest)},
        }

    def lines(self) -> list[str]:
        """A table for people."""

        def row(title: str, *texts: str) -> str:
            return f"  {title:30}" + "".join(f"{text:>20}" for text in texts)

        lines = []
        for channel in range(len(self.net_mean)):
            of_channel = f", channel {channel}" if len(self.net_mean) > 1 else ""
            lines.append(row(f"latent charges{of_channel} (e)", "mean", "standard deviation"))
            lines += [row(s, f"{self.mean[s][channel]:.4f}", f"{self.std[s][channel]:.4f}") for s in self.mean]
            lines.append(row("", "mean", "largest"))
            lines.append(
                row("sum over a structure", f"{self.net_mean[channel]:.4f}", f"{self.net_largest[channel]:.4f}")
            )
        return lines

    def warnings(self, config: ModelConfig) -> dict[str, str]:
        """Sentences about neutral cells with a net charge ("net charge"), and charges that have gone ("collapse")."""
        texts = {}
        if self.n_charged_cells:
            assert config.long_range is not None
            held = not getattr(getattr(config.long_range.charges, "induction", None), "kappa", False)
            remedy = (
                "Train with `model.long_range.charges.constraint` = 'neutral', or 'total' where structures have a "
                "total charge"
                if held
                else "Train without `model.long_range.charges.induction.kappa`, which leaves the sum open, or with "
                "charges of `kind` = 'equilibrated'"
            )
            texts["net charge"] = (
                f"The latent charges of neutral cells add up to as much as {self.largest_of_cells:.3g} e; to more than "
                f"{NEUTRAL:g} e in {self.n_charged_cells} of {self.n_cells} cells. Their energy and stress then have a "
                f"part that depends on the volume and `sigma`. {remedy}."
            )
        if has_collapsed(config, self.size, self.initial_size):
            texts["collapse"] = collapse_text(config, self.size, self.initial_size)
        return texts


def has_collapsed(config: ModelConfig, size: float, initial: float | None) -> bool:
    """Return whether charges are below a tenth of those before training, or near zero with `element_charges`."""
    if initial is None or not initial > 0.0 or config.long_range is None:
        return False
    near_zero = getattr(config.long_range.charges, "element_charges", False) and size < min(NEAR_ZERO, 0.5 * initial)
    return near_zero or size < COLLAPSED * initial


def collapse_text(config: ModelConfig, size: float, initial: float | None) -> str:
    """A sentence about charges that have collapsed, with how to fix it."""
    assert config.long_range is not None
    charges = config.long_range.charges
    start = "" if getattr(charges, "element_charges", True) else (
        "set `model.long_range.charges.element_charges` = true, "
    )  # fmt: skip
    return (
        f"The latent charges have collapsed: their root mean square is {size:.2g} e, and was {initial:.2g} e before "
        "training. At zero the energy is stationary, so that they may stay there. If the structures have charges, "
        f"{start}hold the charges in a first phase (its `rates` = {{charges = 0.0}}), lower `learning_rate`, or train "
        "for longer."
    )


def has_learned_charges(config: ModelConfig) -> bool:
    """Return whether training changes the charges."""
    charges = None if config.long_range is None else config.long_range.charges
    return charges is not None and not (isinstance(charges, FixedCharges) and charges.values)


@dataclass(frozen=True)
class Provenance:
    """Where a potential comes from.

    Attributes:
        lesjax: version that trained it.
        data: a line for each file of structures to train and validate on: its name, without its folder, the number of
            structures, the names of the labels.
        fingerprint: SHA-256 hash of these structures and labels in their order.
        n_train: number of structures to train on.
        n_valid: number of structures to validate on.
        units: of the model: energy, length, charge.
        reference_energies: how that of each element was found, by symbol: "lone atom", "fitted", "given" or "none".
        sign: what has set the sign of the latent charges; None before the end of the training.
        charges: latent charges at the end of the training.
        start: the model that the training started from, with its hash, and lines about what that was trained on; empty
            where it started from fresh parameters.
        errors: of shipped models, on structures that took no part in the training, as `lesjax evaluate` writes them.
    """

    lesjax: str
    data: tuple[str, ...] = ()
    fingerprint: str | None = None
    n_train: int | None = None
    n_valid: int | None = None
    units: str = "eV, Å, e"
    reference_energies: dict[str, str] = field(default_factory=dict)
    sign: str | None = None
    charges: ChargeStatistics | None = None
    start: tuple[str, ...] = ()
    errors: dict[str, float] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, str]]:
        """Names and values for people; "unknown" where there is none."""
        counts = f"{_or_unknown(self.n_train)} to train on, {_or_unknown(self.n_valid)} to validate"
        found: dict[str, list[str]] = {}
        for symbol, how in self.reference_energies.items():
            found.setdefault(how, []).append(symbol)
        references = "; ".join(f"{', '.join(symbols)}: {how}" for how, symbols in found.items())
        return [
            ("trained by lesjax", self.lesjax),
            *([("started from", "\n".join(self.start))] if self.start else []),
            ("data", "\n".join(self.data) or "unknown"),
            ("hash of the data", _or_unknown(self.fingerprint)),
            ("structures", counts),
            ("units", self.units),
            ("reference energies from", references or "unknown"),
            ("sign of the charges from", _or_unknown(self.sign)),
            *((f"{name} on other structures", f"{value:.4g}") for name, value in self.errors.items()),
        ]


def _or_unknown(value: object) -> str:
    return "unknown" if value is None else str(value)


def describe(provenances: Sequence[Provenance | None]) -> list[str]:
    """Lines about where a potential, or the members of an ensemble, come from, and their charges after training."""
    first = provenances[0]
    lines = [f"{name}: {value}" for name, value in ([("provenance", "unknown")] if first is None else first.rows())]
    for i, provenance in enumerate(provenances):
        if provenance is not None and provenance.charges is not None:
            of_member = f" of member {i}" if len(provenances) > 1 else ""
            lines.append(f"charges{of_member} after training (structures: {provenance.charges.n_structures}):")
            lines += provenance.charges.lines()
    return lines
