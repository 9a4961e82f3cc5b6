"""Three published CACE-LES models, converted, stage by stage against the PyTorch code."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from lesjax.models.cace import CACE
from lesjax.models.cace.convert import convert_weights
from lesjax.system import System
from lesjax.units import COULOMB


X64 = jax.config.jax_enable_x64

# and the structures they come with
MODELS = {
    "cace_water": ("s0",),
    "cace_dipeptide": ("s0", "s1"),
    "cace_dimer_CC": ("s0", "s1"),
}


class Reference:
    """A converted model and what the published code gives for its structures."""

    def __init__(self, name, path):
        self.name = name
        with np.load(path) as file:
            self.data = dict(file)
        self.info = json.loads(str(self.data["info"]))
        dtype = jax.dtypes.canonicalize_dtype(float)
        weights = {key[2:]: value.astype(dtype) for key, value in self.data.items() if key.startswith("w/")}
        self._take_constants(weights)
        self.potential = convert_weights(self.info, weights)
        if name == "cace_dimer_CC":
            # This one was computed in float32, which dropped the k-vectors on the cutoff sphere: the box of
            # 30 Å has 36 of them at |k| = 2π/3.
            long_range = self.potential.config.long_range
            long_range = dataclasses.replace(long_range, k_cutoff=0.9999 * long_range.k_cutoff)
            config = dataclasses.replace(self.potential.config, long_range=long_range)
            self.potential = dataclasses.replace(self.potential, config=config)
        systems = {key: self._system(key) for key in MODELS[name]}
        # one shape, so that both are compiled at once
        shape = np.max([system.shape for system in systems.values()], axis=0).tolist()
        self.systems = {key: system.pad_to(*shape) for key, system in systems.items()}

    def _take_constants(self, weights):
        """Take the constants of the published code: √(2 / cutoff) in float32, and 1e-9 Å added to distances."""
        for representation in self.info["representation"]:
            representation["distance_offset"] = 1e-9
        exact = np.sqrt(2.0 / self.info["representation"][0]["cutoff"])
        for name in weights:
            if "radial_transform.weights." in name:
                weights[name] = weights[name] * (np.float32(exact) / exact)

    def _system(self, key):
        numbers, positions, cell, pbc = (self.data[f"{key}/{x}"] for x in ("numbers", "positions", "cell", "pbc"))
        pbc = tuple(bool(x) for x in pbc)
        return System.from_arrays(positions, cell, numbers, pbc, cutoff=self.potential.cutoff)

    def tolerance(self, in_float64, in_float32):
        """Relative to the largest entry."""
        return in_float64 if X64 and self.name != "cace_dimer_CC" else in_float32


@pytest.fixture(scope="module", params=MODELS)
def reference(request, shared_path):
    return Reference(request.param, shared_path(f"reference/{request.param}.npz"))


def assert_equal(found, expected, tolerance, name):
    expected = np.reshape(expected, np.shape(found))
    atol = tolerance * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=name)


def test_features(reference):
    c = reference.potential.config.short_range
    params = reference.potential.params
    places = {"node_feats": params["short_range"]}
    if reference.potential.config.long_range.separate_features:
        places = {"node_feats0": params["charges"]["short_range"], "node_feats1": params["short_range"]}
    apply = jax.jit(CACE(c).apply)
    for key, system in reference.systems.items():
        for published, weights in places.items():
            (features,) = apply({"params": weights}, jax.device_put(system)).layers
            features, expected = np.asarray(features), reference.data[f"{key}/{published}"]
            features = features[: len(expected)].reshape(
                len(expected), len(c.messages) + 1, -1, c.n_radial, c.n_embedding**2
            )
            tolerance = reference.tolerance(1e-11, 2e-5)
            assert_equal(features.transpose(0, 3, 2, 4, 1), expected, tolerance, f"{key} {published}")


def test_prediction(reference):
    c = reference.potential.config
    published = {"short_range_energy": "SR_energy", "charges": "LES_charge"}
    norm_factor = reference.info["long_range"]["norm_factor"]
    if c.long_range.separate_features:
        published = {"short_range_energy": "CACE_energy_intra", "charges": "part0_q"}
    published |= {"long_range_energy": "ewald_potential", "total_energy": "CACE_energy", "forces": "CACE_forces"}
    for key, system in reference.systems.items():
        out = reference.potential(system)
        n = system.atom_mask.sum()
        found = {name: getattr(out, name) for name in published}
        found["forces"] = out.forces[:n]
        # published charges are in units of e √(2 ε0 norm_factor)
        found["charges"] = out.charges[:n] / (norm_factor / (2 * np.pi * COULOMB)) ** 0.5
        np.testing.assert_array_equal(out.charges[n:], 0.0)
        np.testing.assert_array_equal(out.forces[n:], 0.0)
        if all(system.pbc) and f"{key}/stress" in reference.data:
            published["stress"], found["stress"] = "stress", out.stress
        for name, value in found.items():
            expected = reference.data[f"{key}/{published[name]}"]
            # forces of the dimers are small differences of the two parts
            in_float32 = 3e-4 if name == "forces" else 5e-5
            assert_equal(value, expected, reference.tolerance(1e-11, in_float32), f"{key} {name}")
