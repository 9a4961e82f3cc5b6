"""Files that are converted or refused, crafted here: a small model of cace, and what is wrong with others."""

import sys

import ase
import numpy as np
import pytest

import lesjax
from lesjax import cli, io
from lesjax.published import convert_with_report
from lesjax.published.family import Options
from torch_writer import Call, Named, module, tensor, write


SILU = Named("torch.nn.functional", "silu")
RNG = np.random.default_rng(0)


def random(*shape):
    return tensor(RNG.normal(size=shape))


def dense(n_in, n_out, bias):
    parameters = {"weight": random(n_out, n_in), "bias": random(n_out) if bias else None}
    return module("cace.modules.blocks.Dense", _modules={"linear": module("torch.nn.Linear", _parameters=parameters)})


def children(kind, modules):
    return module(kind, _modules={str(i): m for i, m in enumerate(modules)})


def atomwise(n_in, output_key, n_out=1, bias=True, **options):
    net = children("torch.nn.Sequential", [dense(n_in, 4, bias), dense(4, n_out, bias)])
    settings = {
        "output_key": output_key, "activation": SILU, "n_out": n_out, "n_hidden": [4], "residual": False,
        "use_batchnorm": False, "aggregation_mode": "sum", "post_process": None, "feature_key": "node_feats",
    }  # fmt: skip
    modules = {"outnet": net, "linear_nn": dense(n_in, n_out, bias)}
    return module("cace.modules.atomwise.Atomwise", _modules=modules, **settings | options)


def representation(zs=(1, 8)):
    n_l, n_rbf, n_radial, n_embedding = 2, 3, 2, 2
    embedding = "cace.modules.type.NodeEmbedding"
    weights = {str(i): random(n_rbf, n_radial, n_embedding**2) for i in range(n_l)}
    basis = {"cutoff": tensor(4.0), "prefactor": tensor(0.5**0.5)}
    modules = {
        "node_embedding_sender": module(embedding, _parameters={"embedding_weights": random(len(zs), n_embedding)}),
        "node_embedding_receiver": module(embedding, _parameters={"embedding_weights": random(len(zs), n_embedding)}),
        "edge_coding": module("cace.modules.type.EdgeEncoder", directed=True),
        "radial_basis": module(
            "cace.modules.radial.BesselRBF",
            _buffers=basis,
            _parameters={"bessel_weights": tensor(np.pi / 4.0 * np.arange(1, 4))},
        ),
        "cutoff_fn": module("cace.modules.cutoff.PolynomialCutoff", _buffers={"p": tensor(6.0), "cutoff": tensor(4.0)}),
        "radial_transform": module(
            "cace.modules.radial_transform.SharedRadialLinearTransform",
            _modules={"weights": module("torch.nn.ParameterList", _parameters=weights)},
        ),
        "message_passing_list": children("torch.nn.ModuleList", []),
    }
    return module(
        "cace.representations.cace_representation.Cace", _modules=modules, zs=list(zs), cutoff=4.0, max_l=1, max_nu=2,
        n_radial_func=n_rbf, n_radial_basis=n_radial, n_atom_basis=n_embedding, mp_norm_factor=0.3, forward_features=[],
    )  # fmt: skip


N_IN = 2 * 2 * 4


def ewald(**options):
    settings = {
        "dl": 2.0, "sigma": 1.0, "exponent": 1, "remove_self_interaction": True, "feature_key": "q",
        "norm_factor": 90.0, "output_key": "ewald_potential", "aggregation_mode": "sum", "external_field": None,
    }  # fmt: skip
    return module("cace.modules.ewald.EwaldPotential", **settings | options)


def potential(*outputs, rep=None):
    modules = {
        "representation": representation() if rep is None else rep,
        "input_modules": children("torch.nn.ModuleList", [module("cace.modules.preprocess.Preprocess")]),
        "output_modules": children("torch.nn.ModuleList", outputs),
        "postprocessors": children("torch.nn.ModuleList", []),
    }
    return module("cace.models.atomistic.NeuralNetworkPotential", _modules=modules, do_postprocessing=False)


def total(*keys):
    return module("cace.modules.feature_mix.FeatureAdd", feature_keys=list(keys), output_key="CACE_energy")


def forces(key="CACE_energy"):
    return module("cace.modules.forces.Forces", energy_key=key)


def with_charges(**options):
    charges = atomwise(N_IN, "tot_q", per_atom_output_key="q", bias=False)
    return potential(atomwise(N_IN, "sr"), charges, ewald(**options), total("sr", "ewald_potential"), forces())


WATER = ase.Atoms("OH2", [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("cace") / "best_model.pth", with_charges())


def test_file_becomes_a_folder(file, tmp_path, capsys):
    energies = ["--reference-energies", "H=-13.6,O=-2043.1"]
    assert cli.main(["convert", str(file), str(tmp_path / "model"), *energies]) == 0
    printed = capsys.readouterr().out
    for text in ("CACE-LES", "H, O", "4 Å, PolynomialCutoff", "σ = 1 Å, dl = 2 Å", "90 eV Å", "set in small molecules"):
        assert text in printed
    found = lesjax.load(tmp_path / "model")
    assert found.config.reference_energies == (-13.6, -2043.1)
    assert found.provenance.reference_energies == {"H": "given", "O": "given"}
    assert cli.main(["info", str(tmp_path / "model")]) == 0
    described = capsys.readouterr().out
    assert "converted from best_model.pth, a published CACE-LES model" in described
    assert "electronegativities: O is negative in small molecules" in described
    assert not any(name.partition(".")[0] == "torch" for name in sys.modules)


def test_short_range_model(tmp_path):
    path = write(tmp_path / "m.pth", potential(atomwise(N_IN, "CACE_energy"), forces()))
    found = convert_with_report(path)
    assert found.potential.config.long_range is None
    assert found.potential.provenance.sign is None
    assert ("family", "CACE") in found.rows
    assert not any("sign" in note for note in found.notes)


def test_terms_of_a_combined_potential(tmp_path):
    """The weight of a term is in the energy, whether the features are shared or not."""
    own = representation()
    for rep in (own, representation()):
        short = potential(atomwise(N_IN, "CACE_energy"), forces(), rep=own)
        charges = atomwise(N_IN, "tot_q", per_atom_output_key="q", n_out=2)
        long = potential(charges, ewald(), forces("ewald_potential"), rep=rep)
        energies = []
        for weight in (1.0, 0.25):
            keys = [{"CACE_energy": "CACE_energy"}, {"CACE_energy": "ewald_potential", "weight": weight}]
            models = children("torch.nn.ModuleList", [short, long])
            combined = module("cace.models.combined.CombinePotential", _modules={"models": models}, potential_keys=keys)
            found = convert_with_report(write(tmp_path / "m.pth", combined))
            prediction = found.potential(lesjax.System.from_ase(WATER, cutoff=4.0))
            energies.append((float(prediction.short_range_energy), float(prediction.long_range_energy)))
            assert found.potential.config.long_range.separate_features == (rep is not own)
            assert any("is in the charges" in note for note in found.notes) == (weight != 1.0)
            assert any("2 channels from each" in note for note in found.notes)
        assert energies[1] == pytest.approx((energies[0][0], 0.25 * energies[0][1]), rel=1e-5)


@pytest.mark.parametrize("label", ["charges", "dipole", "none"])
def test_structures_set_the_sign(file, tmp_path, label):
    base = lesjax.convert(file)
    prediction = base(lesjax.System.from_ase(WATER, cutoff=4.0))
    charges = np.asarray(prediction.charges)[:3, 0]
    charges = charges - charges.mean()
    for sign in (1.0, -1.0):
        atoms = WATER.copy()
        if label == "charges":
            atoms.arrays["REF_charges"] = sign * charges
        elif label == "dipole":
            atoms.info["REF_dipole"] = sign * charges @ WATER.positions
        io.write(tmp_path / "s.xyz", [atoms])
        found = lesjax.convert(file, structures=io.read(tmp_path / "s.xyz"))
        out = np.asarray(found(lesjax.System.from_ase(WATER, cutoff=4.0)).charges)[:3, 0]
        if label == "none":
            assert out[0] < 0.0
            assert found.provenance.sign == "electronegativities: O is negative in 1 given structures"
        else:
            assert (out - out.mean()) @ charges * sign > 0.0
            assert found.provenance.sign.startswith("labels of ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (module("somewhere.Model"), r"holds a somewhere\.Model, which lesjax does not know"),
        (Call("torch.hub", "load", "x"), r"holds a torch\.hub\.load, which lesjax does not know"),
        ({"representation.weight": random(2)}, "bare state dict: weights without the hyper-parameters"),
        ([1, 2], "holds a list"),
        (3, "holds a int"),
        ({"epoch": 1}, "holds a dict with epoch"),
        ({"model": {"weight": random(2)}, "optimizer": {}}, "is a checkpoint of a training"),
        (module("cace.models.atomistic.Other"), r"cace\.models\.atomistic\.Other"),
        (potential(module("lib.Spy")), r"output module lib\.Spy"),
        (potential(atomwise(N_IN, "x"), forces()), "No output module gives 'CACE_energy'"),
        (potential(atomwise(N_IN, "CACE_energy"), rep=module("lib.Features")), r"representation lib\.Features"),
        (potential(atomwise(N_IN, "CACE_energy", activation=Named("torch", "tanh"))), r"activation 'torch\.tanh'"),
        (potential(atomwise(N_IN, "CACE_energy", residual=True)), "residual = True"),
        (potential(atomwise(N_IN + 1, "CACE_energy")), "m.pth"),
        (potential(total("CACE_energy")), "FeatureAdd|No output module|16"),
        (with_charges(exponent=6), "exponent = 6"),
        (with_charges(feature_key="p"), "No output module gives the charges 'p'"),
        (with_charges(sigma=float("nan")), "`sigma`"),
        (with_charges(sigma="wide"), "m.pth"),
        (with_charges(dl=0.0), "m.pth"),
        (module("cace.models.atomistic.NeuralNetworkPotential"), "has no 'output_modules'"),
    ],
)
def test_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        lesjax.convert(write(tmp_path / "m.pth", content))


def test_weights_that_are_not_finite(tmp_path):
    content = with_charges()
    embedding = content.state["_modules"]["representation"].state["_modules"]["node_embedding_sender"]
    embedding.state["_parameters"]["embedding_weights"] = tensor([[np.nan, 1.0], [1.0, 1.0]])
    with pytest.raises(ValueError, match=r"sender_embedding.* not finite"):
        lesjax.convert(write(tmp_path / "m.pth", content))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reference-energies", "H=-13.6"], "one value for each of H, O, got H"),
        (["--reference-energies", "H:3"], "SYMBOL=ENERGY"),
        (["--reference-energies", "H=x,O=1"], "takes numbers, got 'x'"),
        (["--self-interaction", "yes"], "true or false"),
        (["--norm-factor", "90"], "`norm_factor` is in the file"),
        (["--self-interaction", "true"], "`self_interaction` is in the file"),
    ],
)
def test_wrong_options(file, tmp_path, capsys, arguments, message):
    assert cli.main(["convert", str(file), str(tmp_path / "model"), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_given_reference_energies_of_a_function(file):
    found = convert_with_report(file, Options(reference_energies={"O": -2.0, "H": -1.0})).potential
    assert found.config.reference_energies == (-1.0, -2.0)
