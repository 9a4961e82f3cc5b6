"""Fitting: what is learned from more than energies and forces, and which data to learn from."""

from lesjax.fitting.selection import (
    Round as Round,
    active_learning as active_learning,
    force_spreads as force_spreads,
    select as select,
)
