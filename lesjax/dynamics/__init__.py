"""Simulation with a potential: jax-md's interface, molecular dynamics, the ASE calculator."""

# ruff: noqa: E402
from lesjax.processes import check_process


check_process()  # jax_md computes while it is imported

from lesjax.dynamics.ase_calculator import LesCalculator as LesCalculator
from lesjax.dynamics.jax_md import energy_neighbor_list as energy_neighbor_list
from lesjax.dynamics.settings import Settings as Settings
from lesjax.dynamics.simulation import SimulationError as SimulationError, simulate as simulate
