"""Lone atoms: the sets that are made, and the errors of a potential that is right or off by a known amount."""

import dataclasses

import lone_atoms
import numpy as np
import pytest

from lesjax import io
from lesjax.models import CACEConfig, ModelConfig, Potential
from lesjax.training import load_config


def test_forces_are_derivatives_of_the_energy():
    atoms = lone_atoms.made_atoms(1)[0]
    forces = np.zeros((3, 3))
    for i in np.ndindex(3, 3):
        step = np.zeros((3, 3))
        step[i] = 1e-5
        forces[i] = -(lone_atoms.morse(atoms.positions + step)[0] - lone_atoms.morse(atoms.positions - step)[0]) / 2e-5
    np.testing.assert_allclose(atoms.arrays["REF_forces"], forces, atol=1e-6)


def test_made_sets_are_those_of_the_configurations(tmp_path):
    for name, number in (("atoms", 26), ("ions", 4)):
        file = lone_atoms.data_file("made", name, tmp_path)
        assert len(io.read(file)) == number
        config = load_config(f"lone_{name}", [f"data.train={file}", f"output={tmp_path / 'run'}"])
        assert config.model.state_inputs == (("total_charge",) if name == "ions" else ())


def test_errors_are_of_the_total_energy():
    """A potential without interactions has the reference energies, here off by 1 meV for each O."""
    model = ModelConfig(CACEConfig(elements=(1, 8), cutoff=0.5), None, reference_energies=(-13.6, -431.999))
    potential = Potential.create(model)
    zero = dataclasses.replace(potential, config=dataclasses.replace(model, energy_scale=1e-9))
    frames = [lone_atoms.lone("O", -432.0), lone_atoms.lone("H", -13.6), *lone_atoms.made_atoms(1)[:1]]
    frames[2].info["REF_energy"] = -432.0 - 2 * 13.6
    found = lone_atoms.errors(zero, frames)
    assert found == {
        "O_meV": pytest.approx(1.0, abs=1e-3), "H_meV": pytest.approx(0.0, abs=1e-3),
        "molecules_rmse_meV_per_atom": pytest.approx(1 / 3, abs=1e-3),
        "molecules_largest_meV_per_atom": pytest.approx(1 / 3, abs=1e-3),
    }  # fmt: skip
