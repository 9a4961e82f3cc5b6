"""Generators of training sets with exactly known energies and forces."""
