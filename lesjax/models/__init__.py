"""Models: the only Flax modules of lesjax, and `Potential`, which joins them."""

from lesjax.models.config import (
    CACEConfig as CACEConfig,
    LongRangeConfig as LongRangeConfig,
    ModelConfig as ModelConfig,
)
from lesjax.models.ensemble import (
    Ensemble as Ensemble,
    EnsemblePrediction as EnsemblePrediction,
    load_ensemble as load_ensemble,
)
from lesjax.models.potential import Potential as Potential, Prediction as Prediction, load as load
