"""Simulation with a potential: the ASE calculator."""

from lesjax.dynamics.calculator import LesCalculator as LesCalculator
