"""NequIP against the PyTorch code: a published NequIP-LES model, and small ones with all representations."""

import json

import jax
import numpy as np
import pytest

from lesjax.io import chemical_symbols
from lesjax.models.nequip import NequIP, NequIPConfig
from lesjax.models.nequip.convert import convert_weights
from lesjax.system import System


X64 = jax.config.jax_enable_x64


class Reference:
    """The published model, converted, and what the published code gives for its structures."""

    def __init__(self, path):
        with np.load(path) as file:
            self.data = dict(file)
        self.info = json.loads(str(self.data["info"]))
        c = self.info["hyper_parameters"]
        config = NequIPConfig(
            elements=tuple(chemical_symbols.index(symbol) for symbol in c["type_names"]),
            cutoff=c["r_max"],
            polynomial_cutoff_p=float(c["polynomial_cutoff_p"]),
            num_bessels=c["num_bessels"],
            bessel_trainable=c["bessel_trainable"],
            num_layers=c["num_layers"],
            num_features=c["num_features"],
            l_max=c["l_max"],
            parity=False,
            reflection_symmetric=False,
            invariant_layers=c["radial_mlp_depth"],
            invariant_neurons=c["radial_mlp_width"],
            avg_num_neighbors=c["avg_num_neighbors"],
        )
        dtype = jax.dtypes.canonicalize_dtype(float)
        self.weights = {key[2:]: value.astype(dtype) for key, value in self.data.items() if key.startswith("w/")}
        self.options = {
            "scales": c["per_type_energy_scales"],
            "shifts": c["per_type_energy_shifts"],
            "long_range": self.info["long_range"],
        }
        self.potential = convert_weights(config, self.weights, **self.options)

    def system(self, key):
        numbers, positions, cell, pbc = (self.data[f"{key}/{x}"] for x in ("numbers", "positions", "cell", "pbc"))
        pbc = tuple(bool(x) for x in pbc)
        # one shape, so that both are compiled at once
        return System.from_arrays(positions, cell, numbers, pbc, cutoff=self.potential.cutoff).pad_to(51, 40)


@pytest.fixture(scope="module")
def reference(shared_path):
    return Reference(shared_path("checkpoints/nequip_dipep_r4_nl3_l1.npz"))


def test_features_of_published_model(reference):
    c = reference.potential.config.short_range
    apply = jax.jit(NequIP(c).apply)
    for key in ("s0", "s1"):
        system = jax.device_put(reference.system(key))
        (features,) = apply({"params": reference.potential.params["short_range"]}, system).layers
        expected = reference.data[f"{key}/node_feats"]
        # one block for each element, of which an atom has its own
        features = np.asarray(features)[: len(expected)].reshape(len(expected), len(c.elements), -1)
        np.testing.assert_allclose(features.sum(axis=1), expected, atol=1e-12 if X64 else 2e-5)


def test_prediction_of_published_model(reference):
    """To 1e-9 eV and 1e-9 eV/Å: the constants of the file are those of the model."""
    published = {
        "energy": "energy", "short_range_energy": "energy_sr", "long_range_energy": "energy_lr",
        "total_energy": "total_energy", "forces": "forces", "charges": "charges",
    }  # fmt: skip
    to_e = reference.potential.config.long_range.charges.scale  # the published sum has another prefactor
    for key in ("s0", "s1"):
        system = reference.system(key)
        n = int(system.atom_mask.sum())
        out = reference.potential(system)
        for name, place in published.items():
            found = np.asarray(getattr(out, name))
            found = found / to_e if name == "charges" else found
            expected = reference.data[f"{key}/{place}"]
            found = found[:n] if found.ndim else found[None]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 if X64 else 1e-3, err_msg=f"{key} {name}")


@pytest.mark.skipif(not X64, reason="needs JAX_ENABLE_X64=1")
def test_born_effective_charges_of_published_model(reference):
    """The published ones are from finite differences."""
    found = np.asarray(reference.potential.born_effective_charges(reference.system("s0")))
    to_e = reference.potential.config.long_range.charges.scale
    np.testing.assert_allclose(found / to_e, reference.data["s0/bec"], atol=1e-7)


# a model of five layers, with which also odd scalars have an effect on the energy: names and sizes of its weights
SIZES = {
    "layer0_convnet.conv.edge_mlp.mlp.0.weight": (3, 4), "layer0_convnet.conv.edge_mlp.mlp.2.weight": (4, 6),
    "layer0_convnet.conv.linear_1.weight": (4,), "layer0_convnet.conv.linear_2.weight": (20,),
    "layer1_convnet.conv.edge_mlp.mlp.0.weight": (3, 4), "layer1_convnet.conv.edge_mlp.mlp.2.weight": (4, 30),
    "layer1_convnet.conv.linear_1.weight": (12,), "layer1_convnet.conv.linear_2.weight": (108,),
    "layer1_convnet.conv.sc.weight": (56,),
    "layer2_convnet.conv.edge_mlp.mlp.0.weight": (3, 4), "layer2_convnet.conv.edge_mlp.mlp.2.weight": (4, 54),
    "layer2_convnet.conv.linear_1.weight": (20,), "layer2_convnet.conv.linear_2.weight": (156,),
    "layer2_convnet.conv.sc.weight": (72,),
    "layer3_convnet.conv.edge_mlp.mlp.0.weight": (3, 4), "layer3_convnet.conv.edge_mlp.mlp.2.weight": (4, 60),
    "layer3_convnet.conv.linear_1.weight": (24,), "layer3_convnet.conv.linear_2.weight": (168,),
    "layer3_convnet.conv.sc.weight": (80,),
    "layer4_convnet.conv.edge_mlp.mlp.0.weight": (3, 4), "layer4_convnet.conv.edge_mlp.mlp.2.weight": (4, 6),
    "layer4_convnet.conv.linear_1.weight": (24,), "layer4_convnet.conv.linear_2.weight": (12,),
    "layer4_convnet.conv.sc.weight": (8,),
    "per_atom_energy_readout.mlp_module.mlp.0.weight": (2, 1), "type_embed.embed_module.weight": (2, 2),
}  # fmt: skip
POSITIONS = np.array([[0.0, 0.0, 0.0], [2.1, 0.3, -0.2], [-0.4, 1.9, 0.8], [1.2, 1.5, 2.0], [0.3, -0.9, 1.9]])
# nequip 0.7.0 with e3nn 0.5.9 in float64: NequIPGNNModel(l_max=2, parity=True, num_layers=5, num_features=2, …), with
# the weights below and the scales 1 and 1.5 of the energies
ENERGY = -0.04422247725040665
FORCES = [
    [-0.10509045631771, -0.02488286598475, -0.11269743225007],
    [0.10079041936082, 0.02989032519948, 0.03092010145268],
    [-0.0966652428758, 0.10614305987705, -0.02284946202834],
    [0.06576625253478, -0.08158209406921, -0.00504406327432],
    [0.03519902729791, -0.02956842502258, 0.10967085610006],
]


def test_both_parities_up_to_order_two():
    config = NequIPConfig(
        (11, 17), 3.6, num_bessels=3, num_layers=5, num_features=2, l_max=2, invariant_layers=1, invariant_neurons=4,
        avg_num_neighbors=0.3,
    )  # fmt: skip
    rng, dtype = np.random.default_rng(0), jax.dtypes.canonicalize_dtype(float)
    weights = {name: rng.normal(size=size).astype(dtype) for name, size in SIZES.items()}
    weights["bessel_encode.bessel_weights"] = np.arange(1, 4).astype(dtype)
    potential = convert_weights(config, weights, scales=[1.0, 1.5], shifts=0.0, long_range=None)
    numbers = np.array([11, 17, 17, 11, 17])
    out = potential(System.from_arrays(POSITIONS, np.zeros((3, 3)), numbers, (False,) * 3, cutoff=3.6))
    np.testing.assert_allclose(out.energy, ENERGY, rtol=0, atol=1e-12 if X64 else 1e-5)
    np.testing.assert_allclose(out.forces, FORCES, rtol=0, atol=1e-12 if X64 else 1e-5)


def test_weights_that_do_not_fit(reference):
    config = reference.potential.config.short_range
    weights = dict(reference.weights)
    name = "layer1_convnet.conv.linear_2.weight"
    whole = weights.pop(name)
    with pytest.raises(ValueError, match=r"`weights` has no 'layer1_convnet\.conv\.linear_2\.weight'"):
        convert_weights(config, weights, **reference.options)
    with pytest.raises(ValueError, match=r"linear_2 are 7167 numbers, expected 7168 for \[\(0, 1\), \(1, 1\)\]"):
        convert_weights(config, weights | {name: whole[1:]}, **reference.options)
    with pytest.raises(ValueError, match=r"without a place in the model: \['surprise'\]"):
        convert_weights(config, weights | {name: whole, "surprise": whole}, **reference.options)
