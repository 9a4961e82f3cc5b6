"""Hyper-parameters of a whole model: frozen, hashable, written to JSON beside the parameters."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from lesjax.io import chemical_symbols
from lesjax.models.cace.config import CACEConfig
from lesjax.models.long_range import DispersionConfig, FixedCharges, LongRangeConfig
from lesjax.models.short_range import SHORT_RANGE_KINDS, ShortRangeConfig
from lesjax.schema import choice
from lesjax.validate import check, elements, energies, flag, optional, positive, widths


STATE_INPUTS = ("total_charge", "spin_multiplicity")


@dataclass(frozen=True)
class ModelConfig:
    """A short-range model, with or without charges and dispersion.

    Attributes:
        short_range: hyper-parameters of a registered model; kind = "cace" and others, see `lesjax.models.register`.
        long_range: hyper-parameters of the charges and their sum; None (in TOML: false) for a short-range model.
        hidden: widths of the hidden layers of the energy readout.
        linear: add a linear readout of the energy.
        energy_scale: factor on the energy readout, eV; the root mean square force (eV/Å) of the training set if not
            given.
        reference_energies: energy of one atom of each element, eV, in the order of the elements.
        state_inputs: parts of the system's electronic state that all readouts take, besides the environment: some of
            "total_charge" and "spin_multiplicity". One model then covers several charge states.
        state_by_element: each element sees them in inputs of its own, without which all lone ions of one charge have
            one ionization energy; true where the training set has lone ions, if it is not given.
        dispersion: hyper-parameters of a learned -C6 / r⁶, with charges or, where `long_range` is None, alone; None for
            a model without.
    """

    short_range: ShortRangeConfig = choice(SHORT_RANGE_KINDS, default=CACEConfig())
    long_range: LongRangeConfig | None = LongRangeConfig()
    hidden: tuple[int, ...] = (32, 16)
    linear: bool = True
    energy_scale: float | None = None
    reference_energies: tuple[float, ...] = ()
    state_inputs: tuple[str, ...] = ()
    state_by_element: bool | None = None
    dispersion: DispersionConfig | None = None

    def __post_init__(self) -> None:
        check(
            self,
            energy_scale=optional(positive),
            hidden=widths,
            reference_energies=energies,
            state_by_element=optional(flag),
        )
        check(self.short_range, elements=elements, cutoff=positive)
        try:
            hash(self.short_range)
        except TypeError as error:
            raise TypeError(f"`short_range` must be hashable: {error}. Take tuples for lists and arrays.") from error
        if not set(self.state_inputs) <= set(STATE_INPUTS) or len(set(self.state_inputs)) < len(self.state_inputs):
            raise ValueError(f"`state_inputs` takes some of {STATE_INPUTS}, got {self.state_inputs}.")
        known = self.short_range.elements
        if self.reference_energies and len(self.reference_energies) != len(known):
            raise ValueError(
                f"`reference_energies` needs one value for each of the elements {known}, "
                f"got {len(self.reference_energies)}."
            )
        if known and self.long_range is not None and isinstance(self.long_range.charges, FixedCharges):
            _check_values(self.long_range.charges.values, known)

    @property
    def needs_total_charge(self) -> bool:
        """True if systems need their total charge."""
        held = self.long_range is not None and self.long_range.charges.needs_total_charge
        return held or "total_charge" in self.state_inputs

    @property
    def has_sum(self) -> bool:
        """True if there is a sum to plan, of charges or of dispersion."""
        return self.long_range is not None or self.dispersion is not None

    @property
    def dispersion_sigma(self) -> float:
        """Smearing width of the dispersion, Å; see `DispersionConfig`."""
        assert self.dispersion is not None
        if self.dispersion.sigma is not None:
            return self.dispersion.sigma
        fifth = 0.2 * self.short_range.cutoff
        return fifth if self.long_range is None else min(self.long_range.sigma, fifth)

    def reference_energy(self, atomic_numbers: Int[np.ndarray, " n"]) -> float:
        """Sum of the reference energies over atoms of known elements, eV; on the host, in float64."""
        table = dict(zip(self.short_range.elements, self.reference_energies, strict=False))
        return float(sum(table.get(int(z), 0.0) for z in atomic_numbers))


def _check_values(values: tuple[tuple[str, float], ...], elements: tuple[int, ...]) -> None:
    names = [symbol for symbol, _ in values]
    symbols = [chemical_symbols[z] for z in sorted(elements)]
    if values and sorted(names) != sorted(symbols):
        raise ValueError(
            f"`values` of fixed charges needs one for each of {', '.join(symbols)}, got {', '.join(names)}."
        )
