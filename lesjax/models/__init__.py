"""Models: the only Flax modules of lesjax, and `Potential`, which joins them with their parameters."""

from lesjax.models.cace.config import CACEConfig as CACEConfig
from lesjax.models.config import ModelConfig as ModelConfig
from lesjax.models.ensemble import (
    Ensemble as Ensemble,
    EnsemblePrediction as EnsemblePrediction,
    load_ensemble as load_ensemble,
)
from lesjax.models.long_range import (
    DispersionConfig as DispersionConfig,
    EquilibratedCharges as EquilibratedCharges,
    FixedCharges as FixedCharges,
    Induction as Induction,
    LatentCharges as LatentCharges,
    LongRangeConfig as LongRangeConfig,
)
from lesjax.models.potential import Potential as Potential, load as load
from lesjax.models.prediction import Prediction as Prediction
from lesjax.models.short_range import Features as Features, Kind as Kind, register as register
