"""Lone atoms and ions, whose energies a trained model gives as they are."""

import numpy as np
import pytest

from lesjax import System, io
from lesjax.models import CACEConfig, LatentCharges, LongRangeConfig, ModelConfig
from lesjax.training import train
from toy import make_config, phases


ENERGIES = {("Na", 0): -100.0, ("Na", 1): -94.86, ("K", 0): -200.0, ("K", 1): -195.66}
MODEL = ModelConfig(
    CACEConfig(cutoff=3.6, n_bessel=3, n_radial=2, n_embedding=2, max_l=1, max_nu=2),
    LongRangeConfig(LatentCharges(hidden=(4,))),
    hidden=(8,),
    state_inputs=("total_charge",),
)


def test_lone_ions(tmp_path):
    """The ionization energy of each element is its own."""
    frames = []
    for (symbol, charge), energy in ENERGIES.items():
        atoms = io.Atoms(symbol, [[0.0] * 3], info={"REF_energy": energy, "total_charge": charge})
        atoms.set_array("REF_forces", np.zeros((1, 3)))
        frames.append(atoms)
    schedule = phases(1000, weights={"energy": 10.0})
    config = make_config(
        tmp_path, frames, model=MODEL, phases=schedule, batch_size=4, ema=0.0, eval_every=100, checkpoint_seconds=1e6
    )
    potential = train(config, quiet=True)
    assert potential.config.reference_energies == (-100.0, -200.0)
    for atoms, energy in zip(frames, ENERGIES.values(), strict=True):
        found = potential(System.from_ase(atoms, cutoff=potential.cutoff)).total_energy
        assert float(found) == pytest.approx(energy, abs=5e-3)
