"""Cartesian atomic cluster expansion."""

from lesjax.models.cace.config import CACEConfig as CACEConfig
from lesjax.models.cace.model import CACE as CACE
from lesjax.models.short_range import Kind


KIND = Kind(CACE, CACEConfig)
