"""Training on energies, forces and stress, and evaluation."""

from lesjax.training.config import RunConfig as RunConfig, load_config as load_config
from lesjax.training.data import make_dataset as make_dataset
from lesjax.training.ensemble import train_ensemble as train_ensemble
from lesjax.training.evaluation import (
    Evaluation as Evaluation,
    evaluate as evaluate,
    evaluate_file as evaluate_file,
)
from lesjax.training.loop import DivergedError as DivergedError, train as train
