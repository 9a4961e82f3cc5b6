"""NequIP through training, evaluation, a saved model and ASE."""

import jax
import numpy as np
import pytest
from ase.calculators.fd import calculate_numerical_forces

import lesjax
import toy
from lesjax.dynamics import LesCalculator
from lesjax.models.nequip import NequIPConfig
from lesjax.training import evaluate, load_config, train


MODEL = """
[model]
hidden = []

[model.short_range]
kind = "nequip"
cutoff = 4.2
num_bessels = 3
num_layers = 2
num_features = 2
invariant_layers = 1
invariant_neurons = 4
avg_num_neighbors = 10.0

[model.long_range]
k_cutoff = 2.0

[model.long_range.charges]
hidden = []
dipoles = true
"""


@pytest.fixture(scope="module")
def potential(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nequip")
    return train(load_config(toy.write_run(folder, MODEL), [f"output={folder / 'run'}"]))


def test_train_evaluate_and_reload(potential, tmp_path):
    c = potential.config.short_range
    assert isinstance(c, NequIPConfig)
    assert c.elements == (11, 17)
    metrics = evaluate(potential, toy.make_frames(3, seed=2)).metrics
    assert metrics["n_structures"] == 3
    assert np.isfinite(metrics["forces_rmse"])
    potential.save(tmp_path / "model")
    loaded = lesjax.load(tmp_path / "model")
    assert loaded.config == potential.config
    jax.tree.map(np.testing.assert_array_equal, loaded.params, potential.params)


@pytest.mark.skipif(not jax.config.jax_enable_x64, reason="needs JAX_ENABLE_X64=1")
def test_calculator(potential):
    atoms = toy.make_frame(np.random.default_rng(5))
    atoms.calc = LesCalculator(potential)
    forces = atoms.get_forces()
    assert np.abs(forces).max() > 1e-4
    np.testing.assert_allclose(forces, calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)
