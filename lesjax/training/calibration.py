"""Whether the spread of an ensemble says where it errs."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Calibration:
    """Errors of the mean of an ensemble and its spread, for the same quantities.

    Attributes:
        error: magnitudes of the difference to the references.
        spread: standard deviations over the members.

    Forces are taken atom by atom: the error is the length of the difference, and the spread the root of the sum of the
    squares of its three components. All else is taken number by number.
    """

    error: np.ndarray
    spread: np.ndarray

    def spearman(self) -> float:
        """Rank correlation of spread and error: 1 where a larger spread always means a larger error."""
        return spearman(self.spread, self.error)

    def ratio(self) -> float:
        """Root mean square error over root mean square spread; above one where the spread is too small."""
        spread = float(np.sqrt(np.mean(self.spread**2)))
        return float(np.sqrt(np.mean(self.error**2))) / spread if spread > 0 else math.inf


def calibration(kind: str, reference: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> Calibration:
    """Of flattened values without references that are missing; `spread` belongs to each number of `mean`."""
    error = np.abs(mean - reference)
    if kind == "forces" and len(error) % 3 == 0:
        error, spread = (np.linalg.norm(x.reshape(-1, 3), axis=1) for x in (error, spread))
    return Calibration(error, spread)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    r"""Spearman's correlation: Pearson's of the ranks; NaN where one of them does not vary.

    .. math:: \rho = \frac{\sum_i (r_i - \bar r)(s_i - \bar s)}{\sqrt{\sum_i (r_i - \bar r)^2 \sum_i (s_i - \bar s)^2}}
    """
    r, s = (ranks(x) - (len(x) + 1) / 2 for x in (a, b))
    size = math.sqrt(float(np.sum(r * r)) * float(np.sum(s * s)))
    return float(np.sum(r * s)) / size if size > 0 else math.nan


def ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from one, equal values with the mean of theirs."""
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
