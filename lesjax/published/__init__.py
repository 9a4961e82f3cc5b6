"""Published checkpoints of CACE-LES, MACE-LES and NequIP-LES, read without torch; nothing in them is executed."""

from lesjax.published.conversion import (
    Conversion as Conversion,
    convert as convert,
    convert_with_report as convert_with_report,
)
