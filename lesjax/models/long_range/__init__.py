"""The long-range part of a model: charges, heads that turn with the system, and their energy."""

from lesjax.models.long_range.charges import (
    EquilibratedCharges as EquilibratedCharges,
    FixedCharges as FixedCharges,
    LatentCharges as LatentCharges,
)
from lesjax.models.long_range.config import LongRangeConfig as LongRangeConfig
from lesjax.models.long_range.dispersion import DispersionConfig as DispersionConfig
from lesjax.models.long_range.sources import Induction as Induction
