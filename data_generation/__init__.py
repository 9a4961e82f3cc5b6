"""Generators of the sets shipped in `lesjax.datasets`: ``python -m data_generation.kf_water`` and so on."""
