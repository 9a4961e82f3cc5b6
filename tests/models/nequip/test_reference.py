"""NequIP against the PyTorch code: a published NequIP-LES model, and small ones with all representations."""

import json

import jax
import jax.numpy as jnp
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
        system = jax.tree.map(jnp.asarray, reference.system(key))
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
