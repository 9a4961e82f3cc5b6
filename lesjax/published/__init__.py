"""Published checkpoints of CACE-LES, MACE-LES and NequIP-LES, read without torch."""
