"""A short-range model that is registered from outside of the package does all that CACE does; mistakes are told apart.

`toy_model` is the whole of such a model. `Variant` adds to it what a test needs.
"""

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import ase
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.fd import calculate_numerical_forces
from jax_md import simulate, space

import lesjax
import toy
from lesjax.dynamics import LesCalculator, energy_neighbor_list
from lesjax.models import (
    Ensemble,
    Features,
    LatentCharges,
    LongRangeConfig,
    ModelConfig,
    register,
)
from lesjax.models.potential import apply
from lesjax.numerics import safe_norm
from lesjax.system import System
from lesjax.training import evaluate, load_config, train
from lesjax.training.initialize import scaled_potential
from lesjax.training.prepare import prepare
from toy_model import Toy, ToyConfig


X64 = jax.config.jax_enable_x64
needs_x64 = pytest.mark.skipif(not X64, reason="needs JAX_ENABLE_X64=1")

MODEL = """
[model]
hidden = [4]

[model.short_range]
kind = "toy"
n_widths = 3

[model.long_range]
k_cutoff = 2.0

[model.long_range.charges]
hidden = [4]
dipoles = true
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    toy.write_run(folder, MODEL)
    return folder


@pytest.fixture(scope="module")
def potential(folder):
    config = load_config(str(folder / "run.toml"), [f"output={folder / 'run'}"])
    assert config.model.short_range == ToyConfig(n_widths=3)
    return train(config)


@pytest.fixture
def atoms(potential):
    frame = toy.make_frame(np.random.default_rng(5))
    frame.calc = LesCalculator(potential)
    return frame


# ---- all that a potential is used for


def test_is_trained(folder, potential):
    assert len(toy.log_of(folder / "run")) == 2
    assert potential.config.short_range.elements == (11, 17)
    assert not np.allclose(potential.params["short_range"]["widths"], [1.0, 2.0, 3.0], atol=1e-4)
    # the features have got a scale
    assert not np.allclose(potential.params["energy"]["feature_scale"]["layer0"], 1.0)


def test_is_evaluated(potential):
    frames = toy.make_frames(3, seed=2)
    metrics = evaluate(potential, frames).metrics
    assert metrics["forces_rmse"] == pytest.approx(toy.forces_rmse(potential, frames), rel=1e-4)
    assert metrics["n_structures"] == 3
    assert "charges_r2" in metrics


@needs_x64
def test_calculator(atoms):
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)


def test_latent_dipoles_are_made_of_its_vectors(atoms, potential):
    r = -np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    one = potential(System.from_ase(atoms, cutoff=potential.cutoff))
    turned = ase.Atoms(atoms.numbers, atoms.positions @ r, cell=atoms.cell.array @ r, pbc=True)
    two = potential(System.from_ase(turned, cutoff=potential.cutoff))
    assert np.abs(one.dipoles).max() > 1e-4
    np.testing.assert_allclose(two.dipoles, one.dipoles @ r, atol=1e-12 if X64 else 1e-6)
    np.testing.assert_allclose(two.energy, one.energy, rtol=1e-10 if X64 else 1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("jax_md_leniency")
def test_dynamics_of_jax_md(atoms, potential):
    with jax.numpy_rank_promotion("allow"):
        neighbor_fn, energy_fn = energy_neighbor_list(potential, atoms)
        _, shift = space.free()
        positions, masses = jnp.asarray(atoms.positions), jnp.asarray(atoms.get_masses())
        init, step = simulate.nve(energy_fn, shift, 0.1)
        neighbors = neighbor_fn.allocate(positions)
        state = init(jax.random.PRNGKey(0), positions, kT=0.05, mass=masses, neighbor=neighbors)

        @jax.jit
        def run(state, neighbors):
            def one(_, carry):
                state = step(carry[0], neighbor=carry[1])
                return state, carry[1].update(state.position)

            return jax.lax.fori_loop(0, 10, one, (state, neighbors))

        total = lambda s: float(energy_fn(s.position, neighbor=neighbors) + simulate.kinetic_energy(s))  # noqa: E731
        end, neighbors_end = run(state, neighbors)
        assert not neighbors_end.did_buffer_overflow
        assert np.abs(end.position - positions).max() > 0.01
        expected, neighbors = total(state), neighbors_end
        assert total(end) == pytest.approx(expected, abs=2e-4)


def test_ensemble(atoms, potential):
    system = System.from_ase(atoms, cutoff=potential.cutoff)
    other = dataclasses.replace(potential, params=toy.moved_potential(potential.config).params)
    ensemble = Ensemble.of([potential, other])
    alone, both = [potential(system), other(system)], ensemble(system)
    rtol = 1e-10 if X64 else 1e-4
    np.testing.assert_allclose(both.mean.total_energy, np.mean([p.total_energy for p in alone]), rtol=rtol)
    np.testing.assert_allclose(both.members.forces, [p.forces for p in alone], atol=rtol)
    assert both.spread.energy > 1e-3


# a process that has not imported the module, and then does
FRESH = """
import lesjax
try:
    lesjax.load("model")
except ValueError as error:
    print(error)
import toy_model
print(lesjax.load("model").cutoff)
"""


def test_is_saved_and_read_again(potential, tmp_path):
    potential.save(tmp_path / "model")
    description = json.loads((tmp_path / "model/config.json").read_text())
    assert description["config"]["short_range"] == {"kind": "toy", "elements": [11, 17], "cutoff": 3.6, "n_widths": 3}
    loaded = lesjax.load(tmp_path / "model")
    assert loaded.config == potential.config
    jax.tree.map(np.testing.assert_array_equal, loaded.params, potential.params)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(p) for p in (Path(__file__).parents[1], *sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", FRESH], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    refused, cutoff = done.stdout.splitlines()
    assert "config.json' does not describe a model: `short_range.kind`: There is no short-range model 'toy'" in refused
    assert "Import the module that registers it" in refused
    assert cutoff == "3.6"


# ---- what a model may give


@dataclass(frozen=True)
class VariantConfig:
    elements: tuple[int, ...] = ()
    cutoff: float = 3.6
    n_layers: int = 1
    repulsion: float = 0.0
    careless: bool = False


class Variant(nn.Module):
    """The toy model with more layers, with a repulsion of its own, or with padded atoms that have features."""

    config: VariantConfig

    @nn.compact
    def __call__(self, system):
        c = self.config
        features = Toy(ToyConfig(c.elements, c.cutoff), name="toy")(system)
        (first,) = features.layers
        layers = tuple(jnp.tanh((i + 1.0) * first)[:, : first.shape[1] - i] for i in range(c.n_layers))
        features = features._replace(layers=layers)
        if c.repulsion:
            features = features._replace(energy=repulsion(c.repulsion, c.cutoff, system))
        if c.careless:
            real = jnp.asarray(system.atom_mask)[:, None]
            features = Features(
                tuple(jnp.where(real, x, 7.0) for x in features.layers),
                vectors=jnp.where(real[..., None], features.vectors, 3.0),
                energy=jnp.where(real[:, 0], 0.5 * first[:, 2], 11.0),
            )
        return features


def repulsion(strength, cutoff, system):
    """Half of strength · (1 - r/cutoff)³ for each neighbour, eV."""
    neighbors = system.neighborhood()
    distances = safe_norm(neighbors.vectors, neighbors.mask)
    return neighbors.sum(0.5 * strength * jnp.maximum(1.0 - distances / cutoff, 0.0) ** 3)


register("variant", Variant, VariantConfig)


def make_variant(charges=None, **options):
    long_range = None if charges is None else LongRangeConfig(charges, k_cutoff=2.0)
    config = ModelConfig(VariantConfig((11, 17), **options), long_range, hidden=(4,), energy_scale=0.7)
    return toy.moved_potential(config)


def make_system():
    return System.from_ase(toy.make_frame(np.random.default_rng(1)), cutoff=3.6)


def without(readout, layer):
    """A readout in which that of one layer gives zero."""
    return {**readout, f"layer{layer}": jax.tree.map(jnp.zeros_like, readout[f"layer{layer}"])}


def test_each_layer_has_a_readout_and_their_outputs_add_up():
    """Of the energies and of the charges, which are linear in the outputs."""
    potential, system = make_variant(LatentCharges(n_channels=2, hidden=(3,)), n_layers=2), make_system()
    readouts = {name: potential.params[name]["readout"] for name in ("energy", "charges")}
    widths = {
        (name, layer): {part: dense["kernel"].shape for part, dense in readout[layer].items()}
        for name, readout in readouts.items()
        for layer in sorted(readout)
    }
    assert widths == {
        ("energy", "layer0"): {"hidden0": (6, 4), "output": (4, 1), "linear": (6, 1)},
        ("energy", "layer1"): {"hidden0": (5, 4), "output": (4, 1), "linear": (5, 1)},
        ("charges", "layer0"): {"hidden0": (6, 3), "output": (3, 2), "linear": (6, 2)},
        ("charges", "layer1"): {"hidden0": (5, 3), "output": (3, 2), "linear": (5, 2)},
    }

    @jax.jit
    def outputs(potential):
        energies, sources, _ = apply(potential, system)
        return energies, sources.charges

    parts = []
    for layer in (0, 1):
        changed = {
            name: {**potential.params[name], "readout": without(readout, layer)} for name, readout in readouts.items()
        }
        parts.append(outputs(dataclasses.replace(potential, params={**potential.params, **changed})))
    for whole, one, other in zip(outputs(potential), *parts, strict=True):
        assert np.abs(one).max() > 1e-3
        assert np.abs(other).max() > 1e-3
        np.testing.assert_allclose(whole, one + other, rtol=0, atol=1e-12 if X64 else 1e-5)


def test_its_own_energy_is_added():
    """As it is, without `energy_scale`, and to the forces."""
    system = make_system()
    with_repulsion = make_variant(LatentCharges(hidden=()), repulsion=20.0)
    config = dataclasses.replace(with_repulsion.config, short_range=VariantConfig((11, 17)))
    plain = dataclasses.replace(with_repulsion, config=config)

    def energy(positions):
        return jnp.sum(repulsion(20.0, 3.6, dataclasses.replace(system, positions=positions)))

    expected, gradient = jax.value_and_grad(energy)(jnp.asarray(system.positions))
    one, two = with_repulsion(system), plain(system)
    assert expected > 0.1
    atol = 1e-11 if X64 else 1e-5
    np.testing.assert_allclose(one.energy - two.energy, expected, atol=atol)
    np.testing.assert_allclose(one.short_range_energy - two.short_range_energy, expected, atol=atol)
    np.testing.assert_allclose(one.forces - two.forces, -gradient, atol=atol)


def test_features_of_padded_atoms_have_no_effect():
    charges = LatentCharges(n_channels=2, constraint="neutral", dipoles=True, hidden=(3,))
    potential, system = make_variant(charges, n_layers=2, careless=True), make_system()
    n, m = system.shape
    alone, padded = potential(system), potential(system.pad_to(n + 3, m + 2))
    for name in ("energy", "short_range_energy", "long_range_energy", "stress", "total_energy"):
        np.testing.assert_allclose(getattr(padded, name), getattr(alone, name), atol=1e-12 if X64 else 1e-5)
    for name in ("forces", "charges", "dipoles"):
        found = np.asarray(getattr(padded, name))
        np.testing.assert_array_equal(found[n:], 0.0)
        np.testing.assert_allclose(found[:n], getattr(alone, name), atol=1e-12 if X64 else 1e-5)


@dataclass(frozen=True)
class CountConfig:
    elements: tuple[int, ...] = ()
    cutoff: float = 3.6


class Count(nn.Module):
    """Each atom's element and its neighbours in number; there is nothing to learn."""

    config: CountConfig

    def __call__(self, system):
        neighbors, elements = system.neighborhood(), np.array([self.config.elements], np.int32)
        species = (system.atomic_numbers[:, None] == elements).astype(neighbors.vectors.dtype)
        return Features((jnp.concatenate([species, neighbors.sum(neighbors.gather(species))], axis=1),))


register("count", Count, CountConfig)


@pytest.mark.parametrize("separate", [False, True])
def test_model_without_parameters(folder, separate):
    long_range = LongRangeConfig(LatentCharges(hidden=()), k_cutoff=2.0, separate_features=separate)
    config = load_config(str(folder / "run.toml"), [f"output={folder / 'unused'}"])
    prepared = prepare(dataclasses.replace(config, model=ModelConfig(CountConfig(), long_range, hidden=())))
    potential = scaled_potential(prepared.model, 0, prepared.train)
    assert "short_range" not in potential.params
    scale = potential.params["energy"]["feature_scale"]["layer0"]
    np.testing.assert_allclose(scale[:2], 0.5**-0.5, rtol=1e-6)  # half of the atoms are of each element


def test_heads_need_vectors_and_tensors():
    with pytest.raises(ValueError, match=r"`quadrupoles` need tensors, which the short-range model does not have"):
        make_variant(LatentCharges(quadrupoles=True))
