"""Published weights that do not fit are refused by name."""

import copy
import json

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax.dynamics import energy_neighbor_list
from lesjax.models.cace.convert import convert_weights


@pytest.fixture(scope="module")
def published(shared_path):
    with np.load(shared_path("reference/cace_water.npz")) as file:
        weights = {key[2:]: file[key] for key in file.files if key.startswith("w/")}
        return json.loads(str(file["info"])), weights


def test_all_weights_have_a_place(published):
    info, weights = published
    potential = convert_weights(info, weights)
    assert potential.config.long_range.k_cutoff == pytest.approx(np.pi)
    assert potential.config.short_range.elements == (1, 8)


@pytest.mark.usefixtures("jax_md_leniency")
def test_parameters_are_arrays_of_jax(published):
    """Arrays of numpy cannot be indexed by what is traced, as by the neighbours of a list under jit."""
    potential = convert_weights(*published)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(potential.params))
    atoms = ase.Atoms("OH2", [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]], cell=np.eye(3) * 6.0, pbc=True)
    neighbor_fn, energy_fn = energy_neighbor_list(potential, atoms)
    positions = jnp.asarray(atoms.positions)
    with jax.numpy_rank_promotion("allow"):
        assert jax.eval_shape(energy_fn, positions, neighbor_fn.allocate(positions)).shape == ()


@pytest.mark.parametrize(
    "name",
    [
        "representation.node_embedding_sender.embedding_weights",
        "representation.radial_transform.weights.3",
        "output_modules.0.les.atomwise.outnet.2.linear.bias",
    ],
)
def test_missing_name(published, name):
    info, weights = published
    with pytest.raises(ValueError, match=rf"`weights` has no '{name}'"):
        convert_weights(info, {key: value for key, value in weights.items() if key != name})


def test_missing_readout(published):
    info, weights = published
    rest = {key: value for key, value in weights.items() if "outnet" not in key}
    with pytest.raises(ValueError, match=r"`weights` has no readout under 'output_modules\.1\.outnet'"):
        convert_weights(info, rest)


def test_unknown_name(published):
    info, weights = published
    with pytest.raises(ValueError, match=r"without a place in the model: \['representation\.extra'\]"):
        convert_weights(info, {**weights, "representation.extra": np.zeros(1)})


def test_two_different_representations(published):
    info, weights = published
    info = copy.deepcopy(info)
    info["representation"].append({**info["representation"][0], "cutoff": 3.0})
    with pytest.raises(ValueError, match=r"two different representations"):
        convert_weights(info, weights)
