"""NequIP: equivariant messages between neighbours, with gates as nonlinearities."""

from lesjax.models.nequip.config import NequIPConfig as NequIPConfig
from lesjax.models.nequip.model import NequIP as NequIP
from lesjax.models.short_range import Kind


KIND = Kind(NequIP, NequIPConfig)
