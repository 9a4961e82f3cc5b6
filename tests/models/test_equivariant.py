"""MACE and NequIP with latent charges and multipoles: trained, evaluated, saved, in ensembles, ASE, jax-md and `md`."""

import ase
import jax
import jax.numpy as jnp
import jax_md
import numpy as np
import pytest
from ase.calculators.fd import calculate_numerical_forces

import lesjax
import toy
from lesjax.dynamics import LesCalculator, Settings, energy_neighbor_list, simulate
from lesjax.models import Ensemble
from lesjax.models.short_range import name_of
from lesjax.runs import read_table
from lesjax.system import System
from lesjax.training import evaluate, load_config, train


X64 = jax.config.jax_enable_x64

MODELS = {
    "mace": """
[model]
hidden = [4]

[model.short_range]
kind = "mace"
cutoff = 3.9
hidden_irreps = "2x0e+2x1o+2x2e"
max_ell = 2
correlation = 2
num_radial_basis = 3
radial_MLP = [4]

[model.long_range]
k_cutoff = 2.0

[model.long_range.charges]
hidden = [4]
dipoles = true
quadrupoles = true
""",
    "nequip": """
[model]
hidden = []

[model.short_range]
kind = "nequip"
cutoff = 3.9
num_bessels = 3
num_layers = 2
num_features = 2
invariant_layers = 1
invariant_neurons = 4

[model.long_range]
k_cutoff = 2.0

[model.long_range.charges]
hidden = []
dipoles = true
""",
}


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    toy.write_run(folder, MODELS[request.param])
    return folder


@pytest.fixture(scope="module")
def potential(folder):
    return train(load_config(str(folder / "run.toml"), [f"output={folder / 'run'}"]))


@pytest.fixture
def atoms(potential):
    frame = toy.make_frame(np.random.default_rng(5))
    frame.calc = LesCalculator(potential)
    return frame


def test_is_trained(folder, potential):
    """And knows the mean number of neighbours of the six frames that were not drawn to validate on.

    The features of MACE started as they were, those of NequIP scaled to a size of one.
    """
    short_range, log = potential.config.short_range, toy.log_of(folder / "run")
    assert len(log) == 2
    assert short_range.elements == (11, 17)
    assert name_of(type(short_range)) in folder.name
    numbers = [System.from_ase(f, cutoff=3.9).neighbor_mask.sum() / 4.0 for f in toy.make_frames(8)]
    assert min(numbers) < short_range.avg_num_neighbors < max(numbers)
    for values in jax.tree.leaves(potential.params):
        assert np.isfinite(values).all()
    for scale in potential.params["energy"]["feature_scale"].values():
        assert np.allclose(scale, 1.0, atol=0.1) == (name_of(type(short_range)) == "mace")


def test_is_evaluated(potential):
    frames = toy.make_frames(3, seed=2)
    metrics = evaluate(potential, frames).metrics
    assert metrics["n_structures"] == 3
    assert metrics["forces_rmse"] == pytest.approx(toy.forces_rmse(potential, frames), rel=1e-4)


def test_calculator(atoms, potential):
    assert np.abs(atoms.get_forces()).max() > 1e-4
    if X64:
        np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)
    r = -np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    turned = ase.Atoms(atoms.numbers, atoms.positions @ r, cell=atoms.cell.array @ r, pbc=True)
    one, two = (potential(System.from_ase(frame, cutoff=potential.cutoff)) for frame in (atoms, turned))
    multipoles = [(two.dipoles, one.dipoles @ r)]
    if one.quadrupoles is not None:
        multipoles.append((two.quadrupoles, np.einsum("n...ab,ac,bd->n...cd", one.quadrupoles, r, r)))
    for found, expected in multipoles:
        assert np.abs(found).max() > 1e-6
        np.testing.assert_allclose(found, expected, atol=1e-12 if X64 else 1e-6)


def test_is_saved_and_read_again(potential, tmp_path):
    potential.save(tmp_path / "model")
    loaded = lesjax.load(tmp_path / "model")
    assert loaded.config == potential.config
    jax.tree.map(np.testing.assert_array_equal, loaded.params, potential.params)
    system = System.from_ase(toy.make_frame(np.random.default_rng(5)), cutoff=potential.cutoff)
    both = Ensemble.of([potential, loaded])(system)
    np.testing.assert_allclose(both.mean.forces, potential(system).forces, atol=1e-10 if X64 else 1e-5)


@pytest.mark.slow
def test_molecular_dynamics(atoms, potential, tmp_path):
    settings = Settings("nve", steps=20, temperature=100.0, timestep=0.5, log_every=1)
    final = simulate(potential, atoms, tmp_path, settings, quiet=True)
    log = read_table(tmp_path / "log.csv")
    assert np.abs(final.positions - atoms.positions).max() > 0.01
    conserved = log["conserved_energy_eV"]
    assert np.ptp(log["potential_energy_eV"]) > 20 * np.ptp(conserved)
    atoms.positions = final.positions
    assert log["potential_energy_eV"][-1] == pytest.approx(atoms.get_potential_energy(), abs=1e-7 if X64 else 1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("jax_md_leniency")
def test_dynamics_of_jax_md(atoms, potential):
    with jax.numpy_rank_promotion("allow"):
        neighbor_fn, energy_fn = energy_neighbor_list(potential, atoms)
        positions = jnp.asarray(atoms.positions)
        init, step = jax_md.simulate.nve(energy_fn, jax_md.space.free()[1], 0.1)
        neighbors = neighbor_fn.allocate(positions)
        state = init(
            jax.random.PRNGKey(0), positions, kT=0.05, mass=jnp.asarray(atoms.get_masses()), neighbor=neighbors
        )
        total = lambda s: float(energy_fn(s.position, neighbor=neighbors) + jax_md.simulate.kinetic_energy(s))  # noqa: E731

        @jax.jit
        def run(state, neighbors):
            return jax.lax.fori_loop(0, 5, lambda _, s: step(s, neighbor=neighbors), state)

        end = run(state, neighbors)
        assert np.abs(end.position - positions).max() > 0.005
        assert total(end) == pytest.approx(total(state), abs=2e-4)
