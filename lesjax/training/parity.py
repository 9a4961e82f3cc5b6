"""Pairs of reference and prediction, and their errors."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Parity:
    """Reference and predicted values of one kind, where there is a reference.

    Attributes:
        reference: values of the labels, flat.
        predicted: values of the model.
        structures: place of the structure of each value in the data; None where it is not known.
        numbers: atomic number of the atom of each value; None for labels of structures.
    """

    reference: np.ndarray
    predicted: np.ndarray
    structures: np.ndarray | None = None
    numbers: np.ndarray | None = None

    def take(self, selected: np.ndarray) -> "Parity":
        """Return some of the values."""
        return Parity(*(None if values is None else values[selected] for values in vars(self).values()))  # pyright: ignore[reportArgumentType]

    def n_structures(self) -> int:
        """Number of structures that have a label."""
        return 0 if self.structures is None else len(np.unique(self.structures))

    def rmse(self) -> float:
        """Root mean square error."""
        return float(np.sqrt(np.mean((self.predicted - self.reference) ** 2)))

    def mae(self) -> float:
        """Mean absolute error."""
        return float(np.mean(np.abs(self.predicted - self.reference)))

    def r2(self) -> float:
        """Coefficient of determination; NaN where the reference does not vary."""
        if np.ptp(self.reference) == 0:
            return math.nan
        spread = np.sum((self.reference - self.reference.mean()) ** 2)
        return float(1.0 - np.sum((self.predicted - self.reference) ** 2) / spread)

    def corr2(self) -> float:
        """Square of Pearson's correlation, blind to a factor and an offset; NaN where one of the two does not vary."""
        if np.ptp(self.reference) == 0 or np.ptp(self.predicted) == 0:
            return math.nan
        reference, predicted = self.reference - self.reference.mean(), self.predicted - self.predicted.mean()
        return float((reference @ predicted) ** 2 / ((reference @ reference) * (predicted @ predicted)))
