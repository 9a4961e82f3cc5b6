"""NequIP-LES checkpoints: a published one, and what its hyper-parameters may say besides."""

import copy
import dataclasses

import jax
import numpy as np
import pytest

import lesjax
from lesjax.published import nequip
from lesjax.published.family import Options
from lesjax.published.torch_file import TorchFile, read
from lesjax.system import System


X64 = jax.config.jax_enable_x64


@pytest.fixture(scope="module")
def path(shared_path):
    return shared_path("checkpoints/nequip_dipep_r4_nl3_l1.ckpt")


@pytest.fixture(scope="module")
def file(path):
    return read(path)


def changed(file, **settings):
    """The file with other hyper-parameters."""
    root = dict(file.root)
    root["hyper_parameters"] = copy.deepcopy(root["hyper_parameters"])
    root["hyper_parameters"]["model"] |= settings
    return TorchFile(file.path, root, file.names)


def test_published_file(path, shared_path):
    potential = lesjax.convert(path)
    with np.load(shared_path("checkpoints/nequip_dipep_r4_nl3_l1.npz")) as data:
        reference = dict(data)
    arrays = (reference[f"s1/{name}"] for name in ("positions", "cell", "numbers"))
    out = potential(System.from_arrays(*arrays, (False,) * 3, cutoff=potential.cutoff))
    atol = 1e-9 if X64 else 1e-3
    np.testing.assert_allclose([out.total_energy], reference["s1/total_energy"], rtol=0, atol=atol)
    np.testing.assert_allclose([out.long_range_energy], reference["s1/energy_lr"], rtol=0, atol=atol)
    np.testing.assert_allclose(out.forces, reference["s1/forces"], rtol=0, atol=atol)
    charges, expected = np.abs(out.charges) / potential.config.long_range.charges.scale, np.abs(reference["s1/charges"])
    np.testing.assert_allclose(charges, expected, rtol=0, atol=atol)


def test_what_the_file_does_not_say(file):
    converted = nequip.convert_file(file, Options())
    assert converted.family == "NequIP-LES"
    assert converted.reference_energies == "the file"
    assert [("90.0474" in note, "removed" in note) for note in converted.notes] == [(True, False), (False, True)]
    given = nequip.convert_file(file, Options(norm_factor=4.0 * 90.0474, self_interaction=True))
    assert given.notes == ()
    one, other = (x.potential.config.long_range.charges for x in (converted, given))
    np.testing.assert_allclose(other.scale, 2.0 * one.scale)
    assert (one.self_energies_removed, other.self_energies_removed) == (1.0, 0.0)


def test_short_range_file(file):
    state = {name: value for name, value in file.root["state_dict"].items() if "latent_charge" not in name}
    state = {name: value for name, value in state.items() if name != "ema.ema_weight_20"}
    short = changed(file, use_les=False)
    short.root["state_dict"] = state
    converted = nequip.convert_file(short, Options())
    assert converted.family == "NequIP"
    assert converted.potential.config.long_range is None
    assert converted.notes == ()


def test_file_without_average(file):
    """The weights of the network are taken; or they are the average, where it was swapped in."""
    state = file.root["state_dict"]
    last = {name: value for name, value in state.items() if not name.startswith("ema.")}
    swapped = {**state, "ema._extra_state": {**state["ema._extra_state"], "is_holding_ema_weights": False}}
    embedding = next(value for name, value in state.items() if name.endswith("type_embed.embed_module.weight"))
    for weights, notes in ((last, 3), (swapped, 2)):
        converted = nequip.convert_file(
            TorchFile(file.path, file.root | {"state_dict": weights}, file.names), Options()
        )
        found = np.asarray(converted.potential.params["short_range"]["embedding"])
        np.testing.assert_allclose(found, embedding, rtol=1e-6)
        assert len(converted.notes) == notes
    average = np.asarray(nequip.convert_file(file, Options()).potential.params["short_range"]["embedding"])
    assert np.abs(average - embedding).max() > 1e-4


def test_parity_of_the_harmonics(file):
    """Later versions have fewer products without parity, which the sizes of the radial networks show."""
    converted = nequip.convert_file(file, Options()).potential.config.short_range
    assert not converted.reflection_symmetric
    weights = {f"layer{i}_convnet.conv.edge_mlp.mlp.4.weight": np.zeros((64, n)) for i, n in enumerate((64, 128, 64))}
    settings = file.root["hyper_parameters"]["model"]
    assert nequip._config(settings, weights) == dataclasses.replace(
        converted, reflection_symmetric=True, readout_by_element=False
    )


def test_options_that_are_the_defaults(file):
    functions = {"e": "silu", "o": "tanh"}
    given = {f"convnet_nonlinearity_{name}": functions for name in ("scalars", "gates")}
    given |= {"compile_mode": "compile", "convnet_nonlinearity_type": "gate", "convnet_resnet": False}
    one, other = (nequip.convert_file(f, Options()).potential.config for f in (file, changed(file, **given)))
    assert one == other
    residual = nequip.convert_file(changed(file, convnet_resnet=True), Options()).potential.config.short_range
    assert residual == dataclasses.replace(one.short_range, resnet=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"convnet_nonlinearity_type": "norm"}, "does not know: {'convnet_nonlinearity_type': 'norm'}"),
        ({"_target_": "nequip.model.ZBL"}, r"made by nequip\.model\.ZBL; lesjax knows"),
        ({"pair_potential": {"_target_": "ZBL"}}, "options that lesjax does not know: {'pair_potential'"),
        ({"num_features": [32, 16]}, r"num_features = \[32, 16\]; lesjax takes one number"),
        ({"num_layers": 4}, r"layer2_convnet\.conv\.edge_mlp\.mlp\.4\.weight.* has 4096 numbers"),
        ({"type_names": ["H", "C", "N", "Q"]}, "lesjax takes different chemical symbols"),
        ({"les_args": {"use_atomwise": True}}, r"les_args\.use_atomwise = True, which lesjax does not know"),
        ({"bessel_trainable": False}, "21 averaged weights for 20 that are learned"),
    ],
)
def test_files_that_are_refused(file, settings, message):
    with pytest.raises(ValueError, match=message):
        nequip.convert_file(changed(file, **settings), Options())


def test_version_that_is_not_known(file):
    other = changed(file)
    other.root["hyper_parameters"]["info_dict"]["versions"]["nequip"] = "0.12.0"
    with pytest.raises(ValueError, match=r"written by nequip 0\.12\.0; lesjax knows the layout of nequip 0\.7"):
        nequip.convert_file(other, Options())
