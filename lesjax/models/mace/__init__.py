"""Message passing with symmetric contractions of many-body order (MACE)."""

from lesjax.models.mace.config import MACEConfig as MACEConfig
from lesjax.models.mace.model import MACE as MACE
from lesjax.models.short_range import Kind


KIND = Kind(MACE, MACEConfig)
