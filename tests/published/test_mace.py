"""Three published MACE-LES models, converted, stage by stage against the PyTorch code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax.models.irreps import spherical_harmonics
from lesjax.models.mace import MACE
from lesjax.models.mace.model import sum_messages
from lesjax.models.mace.radial import radial_functions
from lesjax.neighbors import Dense
from lesjax.published import mace
from lesjax.published.conversion import convert_with_report
from lesjax.published.torch_file import Record, read
from lesjax.system import System
from lesjax.units import COULOMB


X64 = jax.config.jax_enable_x64
MODELS = ("mace_synthetic_L1", "mace_dipep_r4_l0", "mace_water_r45_nl0")
# the couplings of mace-torch in the files are rounded to float32; those of the synthetic model came out exact
TOLERANCE = {"mace_synthetic_L1": 1e-9}


class Reference:
    """A converted model and what the published code gives for its structures."""

    def __init__(self, name, shared_path):
        with np.load(shared_path(f"checkpoints/{name}.npz")) as file:
            self.data = dict(file)
        self.potential = mace.convert_model(read(shared_path(f"checkpoints/{name}.model")).root)
        self.atol = TOLERANCE.get(name, 1e-6) if X64 else 3e-3
        keys = [key for key in ("s0", "s1") if f"{key}/numbers" in self.data]
        systems = {key: self._system(key) for key in keys}
        # one shape for each kind of boundary
        self.systems = {}
        for key, system in systems.items():
            alike = [other.shape for other in systems.values() if other.pbc == system.pbc]
            self.systems[key] = system.pad_to(*np.max(alike, axis=0).tolist())

    def _system(self, key):
        numbers, positions, cell, pbc = (self.data[f"{key}/{x}"] for x in ("numbers", "positions", "cell", "pbc"))
        pbc = tuple(bool(x) for x in pbc)
        return System.from_arrays(positions, cell, numbers, pbc, cutoff=self.potential.cutoff)


@pytest.fixture(scope="module", params=MODELS)
def reference(request, shared_path):
    return Reference(request.param, shared_path)


def silu_network(params, x):
    for i in range(sum(name.startswith("radial") for name in params)):
        x = (jax.nn.silu(x) if i else x) @ params[f"radial{i}"]
    return x


def test_stages(reference):
    """Edges, radial networks, messages and features of each layer."""
    c, params = reference.potential.config.short_range, reference.potential.params["short_range"]
    stage = {key.removeprefix("s0/stage/"): value for key, value in reference.data.items() if "s0/stage/" in key}
    numbers, positions = reference.data["s0/numbers"], reference.data["s0/positions"]
    sender, receiver = stage["edge_index"]
    vectors = positions[receiver] - positions[sender] + stage["shifts"]
    distances = np.linalg.norm(vectors, axis=1)
    close = {"rtol": 0, "atol": 1e-7 if X64 else 1e-4}
    n_edges = len(stage["edge_feats"])

    # one row of neighbours for each atom
    n, m = len(numbers), np.bincount(receiver).max()
    dense, mask = np.zeros((n, m), np.int32), np.zeros((n, m), bool)
    places = np.zeros(len(sender), int)
    for e, i in enumerate(receiver):
        places[e] = mask[i].sum()
        dense[i, places[e]], mask[i, places[e]] = e, True
    senders = jnp.asarray(sender[dense].astype(np.int32))
    neighbors = Dense(jnp.asarray(-vectors[dense]), jnp.asarray(mask), senders, jnp.zeros((1, 2), jnp.int32))
    harmonics = spherical_harmonics(jnp.asarray((vectors / distances[:, None])[dense]), c.max_ell)
    of_edges = np.concatenate(harmonics, axis=2)[receiver, places]
    np.testing.assert_allclose(of_edges[:n_edges], stage["edge_attrs"], **close)
    functions = jnp.where(
        mask[..., None], radial_functions(jnp.asarray(distances[dense]), params["bessel_frequencies"], c), 0.0
    )
    np.testing.assert_allclose(np.asarray(functions)[receiver, places][:n_edges], stage["edge_feats"], **close)

    system = reference.systems["s0"]
    features = jax.jit(MACE(c).apply)({"params": params}, jax.device_put(system))
    embedding = np.asarray(params["embedding"])[np.searchsorted(c.elements, numbers)]
    np.testing.assert_allclose(embedding, stage["node_embedding"], **close)
    sources = [jnp.asarray(embedding)[None]]
    for i in range(c.num_interactions):
        layer = params[f"layer{i}"]
        up = [x @ layer[f"up{l}"] for l, x in enumerate(sources)]
        filters = jnp.split(silu_network(layer, functions), layer["radial3"].shape[1] // c.channels, axis=2)
        sums = jax.jit(lambda up, filters: sum_messages(up, filters, harmonics, neighbors, c.max_ell))(up, filters)
        messages = [x @ layer[f"mix{l}"] / c.avg_num_neighbors for l, x in enumerate(sums)]
        found = np.concatenate(messages).transpose(1, 2, 0)[: len(stage[f"message{i}"])]
        scale = np.abs(found).max()
        np.testing.assert_allclose(found, stage[f"message{i}"], rtol=0, atol=scale * (1e-6 if X64 else 1e-4))
        expected = reference.data[f"s0/node_feats{i}"]
        np.testing.assert_allclose(
            features.layers[i][: len(numbers)], expected[:, : c.channels], rtol=0,
            atol=np.abs(expected).max() * (2e-6 if X64 else 1e-4),
        )  # fmt: skip
        if expected.shape[1] > c.channels:
            vectors_of_layer = expected[:, c.channels :].reshape(len(numbers), c.channels, 3)
            sources = [jnp.asarray(expected[:, : c.channels])[None], jnp.asarray(vectors_of_layer.transpose(2, 0, 1))]
            found = features.vectors[: len(numbers)]
            np.testing.assert_allclose(found, vectors_of_layer, atol=np.abs(expected).max() * (2e-6 if X64 else 1e-4))
        else:
            sources = [jnp.asarray(expected)[None]]


def test_prediction(reference):
    c, norm = reference.potential.config, reference.potential.config.long_range.charges.scale
    names = {"energy": "energy", "total_energy": "total_energy", "short_range_energy": "energy_sr"}
    names |= {"long_range_energy": "energy_lr", "forces": "forces", "charges": "charges"}
    for key, system in reference.systems.items():
        out, n = reference.potential(system), int(system.atom_mask.sum())
        periodic = all(system.pbc)
        for name, published in (names | ({"stress": "stress"} if periodic else {})).items():
            value = np.asarray(getattr(out, name), np.float64)
            value = value[:n] if name in ("forces", "charges") else value
            value = value / norm if name == "charges" else value
            expected = reference.data[f"{key}/{published}"].reshape(value.shape)
            atol = reference.atol * (1.0 if X64 else max(1.0, np.abs(expected).max()))
            np.testing.assert_allclose(value, expected, rtol=0, atol=atol, err_msg=f"{key} {name}")
    assert c.long_range.charges.self_energies_removed in (0.0, 1.0)
    assert norm == pytest.approx((90.0474 / (2.0 * np.pi * COULOMB)) ** 0.5, rel=3e-3)


def test_born_effective_charges(reference):
    system, expected = reference.systems["s0"], reference.data["s0/bec"]
    scale = reference.potential.config.long_range.charges.scale
    found = np.asarray(reference.potential.born_effective_charges(system))[: len(expected)] / scale
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7 if X64 else 1e-3)


def test_report(shared_path):
    found = convert_with_report(shared_path("checkpoints/mace_dipep_r4_l0.model"))
    rows = dict(found.rows)
    assert rows["family"] == "MACE-LES"
    assert rows["features"] == "64x0e, 2 interactions, max_ell 3, correlation 3"
    assert rows["self-energy"] == "not removed"
    assert found.potential.provenance.reference_energies == dict.fromkeys(["H", "C", "N", "O"], "the file")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("use_so3", True, "The file's MACELES has `use_so3` = True, which has no counterpart here"),
        ("heads", ["one", "two"], "several heads"),
    ],
)
def test_refused(shared_path, name, value, message):
    root = read(shared_path("checkpoints/mace_dipep_r4_l0.model")).root
    root.state[name] = value
    with pytest.raises(ValueError, match=message):
        mace.convert_model(root)


def network(weight):
    """A radial network of e3nn with one matrix."""
    layer = Record("e3nn.nn._fc._Layer", (), {"_parameters": {"weight": weight}})
    return Record("e3nn.nn._fc.FullyConnectedNet", (), {"_modules": {"layer0": layer}})


def test_density_transform_and_scaled_repulsion(shared_path):
    """Parts that the published files do not have; benchmarks/mace_variants.py has whole models with them."""
    root = read(shared_path("checkpoints/mace_synthetic_L1.model")).root
    constants = {"q": np.array(0.9), "p": np.array(4.5), "a": np.array(1.1)}
    transform = Record("mace.modules.radial.AgnesiTransform", (), {"_buffers": constants})
    root["radial_embedding"].state["_modules"]["distance_transform"] = transform
    root.state["_modules"]["pair_repulsion_fn"] = Record("mace.modules.radial.ZBLBasis", (), {})
    root["scale_shift"].state["_buffers"]["scale"] = np.array(0.7)
    weights = np.arange(8.0).reshape(8, 1)
    kinds = ("RealAgnosticDensityInteractionBlock", "RealAgnosticDensityResidualInteractionBlock")
    for layer, kind in zip(root["interactions"].children().values(), kinds, strict=True):
        layer.name = f"mace.modules.blocks.{kind}"
        layer.state["_modules"]["density_fn"] = network(weights)
    potential = mace.convert_model(root)
    c, params = potential.config.short_range, potential.params["short_range"]
    assert (c.interaction_first, c.interaction, c.distance_transform) == (*kinds, "Agnesi")
    assert (c.pair_repulsion, c.pair_repulsion_scale) == (True, 0.7)
    np.testing.assert_allclose(params["agnesi"], [0.9, 4.5, 1.1], rtol=1e-6)
    for i in range(2):
        np.testing.assert_allclose(params[f"layer{i}"]["density"], weights / 8.0**0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transform": "SoftTransform"}, "has a SoftTransform; only AgnesiTransform is read"),
        ({"later": "RealAgnosticAttResidualInteractionBlock"}, "are read, the last two as the first only"),
        ({"exponent": 0.31}, "the constants of its pair repulsion"),
        ({"activation": "tanh"}, "activation is tanh; only silu is read"),
    ],
)
def test_parts_that_are_refused(shared_path, change, message):
    root = read(shared_path("checkpoints/mace_dipep_r4_l0.model")).root
    modules = root["radial_embedding"].state["_modules"]
    if "transform" in change:
        modules["distance_transform"] = Record(f"mace.modules.radial.{change['transform']}", (), {})
    if "later" in change:
        root["interactions"].children()["1"].name = f"mace.modules.blocks.{change['later']}"
    if "exponent" in change:
        buffers = {"_buffers": {"a_exp": np.array(change["exponent"])}}
        root.state["_modules"]["pair_repulsion_fn"] = Record("mace.modules.radial.ZBLBasis", (), buffers)
    if "activation" in change:
        readout = root["readouts"].children()["1"]
        readout["non_linearity.acts.0"].state["f"] = Record("builtins.getattr", (None, change["activation"]))
    with pytest.raises(ValueError, match=message):
        mace.convert_model(root)


def test_readout_without_activation_is_linear(shared_path):
    root = read(shared_path("checkpoints/mace_dipep_r4_l0.model")).root
    readout = root["readouts"].children()["1"]
    readout["non_linearity.acts"].state["_modules"] = {}
    matrices = [np.asarray(readout[f"linear_{i}.weight"], float) for i in (1, 2)]
    expected = matrices[0].reshape(64, 16) @ matrices[1] / 8.0 / 4.0
    potential = mace.convert_model(root)
    assert potential.config.hidden == ()
    found = potential.params["energy"]["readout"]["layer1"]["output"]["kernel"]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)


def test_higher_orders_of_the_last_layer_are_left_out(shared_path):
    """mace-torch has them with `keep_last_layer_irreps`; its readouts are of scalars."""
    root = read(shared_path("checkpoints/mace_synthetic_L1.model")).root
    products = root["products"].state["_modules"]
    products["1"] = products["0"]
    first, last = (mace.convert_model(root).params["short_range"][f"layer{i}"] for i in range(2))
    assert {"out1", "product1"} <= set(first)
    assert not {"out1", "product1"} & set(last)
    np.testing.assert_array_equal(last["out0"], first["out0"])


def test_couplings_that_do_not_rotate_are_refused(shared_path):
    root = read(shared_path("checkpoints/mace_dipep_r4_l0.model")).root
    table = root["products"].children()["0"]["symmetric_contractions.contractions"].children()["0"]
    table.state["_buffers"]["U_matrix_2"] = np.ones((16, 16, 4), np.float32)
    with pytest.raises(ValueError, match=r"The file's couplings of \(0, 0\) to order 0|are not those of rotations"):
        mace.convert_model(root)
