"""Errors against plain numpy, for padded batches, missing labels and both signs of the charges."""

import dataclasses
import math

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import io
from lesjax.models import CACEConfig, LatentCharges, LongRangeConfig, ModelConfig, Potential
from lesjax.system import System
from lesjax.training import evaluate, evaluate_file
from lesjax.training.data import make_dataset
from lesjax.training.evaluation import Parity
from toy import make_frame, make_frames
from toy_model import ToyConfig


SMALL = {"elements": (11, 17), "cutoff": 3.6, "n_bessel": 3, "n_radial": 2, "n_embedding": 1, "max_l": 1, "max_nu": 1}
CONFIG = ModelConfig(
    CACEConfig(**SMALL),
    LongRangeConfig(LatentCharges(hidden=(4,), n_channels=2), k_cutoff=2.0),
    hidden=(4,),
    reference_energies=(-500.0, -700.0),
)
RTOL = 1e-8 if jax.config.jax_enable_x64 else 1e-4


def test_parity():
    pair = Parity(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 5.0]))
    assert pair.rmse() == pytest.approx(math.sqrt(4 / 3))
    assert pair.mae() == pytest.approx(2 / 3)
    assert pair.r2() == pytest.approx(1.0 - 4.0 / 2.0)


def test_squared_correlation():
    rng = np.random.default_rng(0)
    pair = Parity(rng.normal(size=20), rng.normal(size=20))
    assert pair.corr2() == pytest.approx(np.corrcoef(pair.reference, pair.predicted)[0, 1] ** 2, rel=1e-12)
    scaled = Parity(pair.reference, 1.0 - 2.0 * pair.reference)
    assert scaled.corr2() == pytest.approx(1.0)
    assert scaled.r2() < 0.0


def test_scores_of_values_that_do_not_vary():
    """The mean of three times 0.1 is not 0.1 to the last digit."""
    constant, varying = np.full(3, 0.1), np.array([0.0, 1.0, 5.0])
    assert math.isnan(Parity(constant, varying).r2())
    assert math.isnan(Parity(constant, varying).corr2())
    assert math.isnan(Parity(varying, constant).corr2())
    assert Parity(varying, constant).r2() < 0.0


@pytest.fixture(scope="module")
def potential():
    return Potential.create(CONFIG, seed=2)


def test_metrics_are_those_of_single_predictions(potential):
    """Batches of three, the second one filled up, against the potential called on one structure after the other."""
    frames = make_frames(4)
    for atoms in frames:  # energies near those of the model
        atoms.info["REF_energy"] -= 600.0 * len(atoms)
    del frames[2].arrays["REF_forces"]
    del frames[3].info["REF_energy"]
    result = evaluate(potential, frames, batch_size=3)
    pairs = {"energy": ([], []), "forces": ([], []), "stress": ([], []), "charges": ([], [])}
    for atoms in frames:
        system = System.from_ase(atoms, cutoff=potential.cutoff)
        prediction, labels = potential(system.pad_to(6, 20)), io.labels(atoms)
        n = len(atoms)
        values = {
            "energy": (labels.energy / n + 600.0, float(prediction.energy) / n),
            "forces": (labels.forces, prediction.forces[:n]),
            "stress": (labels.stress, prediction.stress),
            "charges": (labels.charges, prediction.charges[:n].sum(axis=1)),
        }
        for name, sides in values.items():
            for side, value in zip(pairs[name], sides, strict=True):
                side.append(np.ravel(value))
    assert result.metrics["n_structures"] == 4
    for name, sides in pairs.items():
        reference, predicted = map(np.concatenate, sides)
        known = np.isfinite(reference)
        error = (predicted - reference)[known]
        if name == "charges":
            error = np.sign(reference @ predicted) * predicted - reference
        np.testing.assert_allclose(result.metrics[f"{name}_rmse"], np.sqrt(np.mean(error**2)), rtol=RTOL)
        np.testing.assert_allclose(result.metrics[f"{name}_mae"], np.mean(np.abs(error)), rtol=RTOL)
        np.testing.assert_allclose(result.parity[name].reference, reference[known], rtol=RTOL)  # in their order
    expected = 1.0 - np.sum(error**2) / np.sum((reference - reference.mean()) ** 2)
    np.testing.assert_allclose(result.metrics["charges_r2"], expected, rtol=RTOL)
    correlation = np.corrcoef(reference, predicted)[0, 1]
    np.testing.assert_allclose(result.metrics["charges_corr2"], correlation**2, rtol=RTOL)


class TestWithCheapModel:
    """A model whose charges are 0.5 e for Na and -0.5 e for Cl, wherever they are."""

    @pytest.fixture(scope="class")
    @classmethod
    def cheap(cls):
        charges = LatentCharges(hidden=(), element_charges=True)
        config = ModelConfig(
            ToyConfig(elements=(11, 17)), LongRangeConfig(charges, k_cutoff=2.0), hidden=(),
            reference_energies=(-500.0, -700.0),
        )  # fmt: skip
        potential = Potential.create(config)
        of_charges = jax.tree.map(jnp.zeros_like, potential.params["charges"])
        of_charges["element_charges"] = of_charges["element_charges"].at[:, 0].set(jnp.array([0.5, -0.5]))
        return dataclasses.replace(potential, params={**potential.params, "charges": of_charges})

    def test_sign_of_the_charges_is_free(self, cheap):
        frames = make_frames(2)
        assert evaluate(cheap, frames).metrics["charges_mae"] == pytest.approx(0.5)
        for atoms in frames:
            atoms.arrays["REF_charges"] *= -1.0
        result = evaluate(cheap, frames)
        assert result.metrics["charges_mae"] == pytest.approx(0.5)
        assert (result.parity["charges"].predicted * result.parity["charges"].reference > 0).all()

    def test_sign_that_the_model_holds_stays(self, cheap):
        """A net charge tells the signs apart: labels of the other sign are errors."""
        charges = dataclasses.replace(cheap.config.long_range.charges, constraint="total")
        long_range = dataclasses.replace(cheap.config.long_range, charges=charges)
        held = dataclasses.replace(cheap, config=dataclasses.replace(cheap.config, long_range=long_range))
        frames = make_frames(2)
        for atoms in frames:
            atoms.info["charge"] = 1.0
        maes = []
        for _ in range(2):
            for atoms in frames:
                atoms.arrays["REF_charges"] *= -1.0
            maes.append(evaluate(held, frames).metrics["charges_mae"])
        assert abs(maes[0] - maes[1]) > 0.1

    def test_pairs_come_in_the_order_of_the_frames(self, cheap):
        """Open and periodic structures are evaluated in batches of their own."""
        rng = np.random.default_rng(0)
        frames = [make_frame(rng, pbc=pbc) for pbc in (False, True, False, True)]
        for i, atoms in enumerate(frames):
            atoms.info["REF_energy"] = 4.0 * (i - 600.0)
        assert evaluate(cheap, frames).parity["energy"].reference == pytest.approx([0.0, 1.0, 2.0, 3.0], abs=1e-3)

    def test_kinds_without_references_are_absent(self, cheap):
        frames = make_frames(2)
        for atoms in frames:
            del atoms.info["REF_stress"], atoms.arrays["REF_charges"]
        expected = {"n_structures", "energy_rmse", "energy_mae", "forces_rmse", "forces_mae"}
        assert set(evaluate(cheap, frames).metrics) == expected

    def test_charges_that_do_not_vary_have_no_scores(self, cheap):
        frames = make_frames(1)
        frames[0].arrays["REF_charges"] = np.ones(4)
        metrics = evaluate(cheap, frames).metrics
        assert not {"charges_r2", "charges_corr2"} & set(metrics)
        assert all(math.isfinite(value) for value in metrics.values())

    def test_periodicity_can_be_overridden(self, cheap):
        result = evaluate(cheap, make_frames(1), pbc=False)
        assert "stress_rmse" not in result.metrics
        assert "energy_rmse" in result.metrics

    def test_names_can_be_chosen(self, cheap):
        frames = make_frames(1)
        frames[0].info["mine"] = -1200.0 * 2
        result = evaluate(cheap, frames, keys=io.Keys(energy=("mine",), forces=("REF_forces",), stress=("REF_stress",)))
        assert result.parity["energy"].reference == pytest.approx(0.0)

    def test_no_labels(self, cheap, tmp_path):
        atoms = ase.Atoms("NaCl", [[0, 0, 0], [0, 0, 2.5]])
        with pytest.raises(
            ValueError, match=r"No structure has any of energy per atom, .* Born effective charges under"
        ):
            evaluate(cheap, [atoms])
        io.write(tmp_path / "bare.xyz", [atoms])
        with pytest.raises(ValueError, match=r"bare\.xyz': No structure has any of energy"):
            evaluate_file(cheap, tmp_path / "bare.xyz")

    def test_dataset_is_evaluated_as_its_frames(self, cheap):
        """Of two shapes and two periodicities, with labels missing."""
        rng = np.random.default_rng(0)
        frames = [make_frame(rng, repeats, pbc=pbc) for repeats, pbc in ((2, True), (1, False), (1, True), (1, True))]
        del frames[2].arrays["REF_forces"]
        frames[1].info["REF_dipole"] = np.ones(3)
        dataset = make_dataset(cheap.config, frames, io.all_labels(frames))
        expected, found = evaluate(cheap, frames), evaluate(cheap, dataset)
        assert found.metrics == expected.metrics
        assert found.metrics["n_structures"] == 4
        assert list(found.parity) == ["energy", "forces", "stress", "charges", "dipole"]
        for name, pair in found.parity.items():
            np.testing.assert_array_equal(pair.predicted, expected.parity[name].predicted)
        with pytest.raises(ValueError, match="`keys` and `pbc` are for structures"):
            evaluate(cheap, dataset, pbc=False)
        other = dataclasses.replace(cheap, config=dataclasses.replace(cheap.config, reference_energies=(0.0, 0.0)))
        with pytest.raises(ValueError, match=r"another configuration, .* make it with `potential\.config`"):
            evaluate(other, dataset)

    def test_unknown_element_is_named(self, cheap, tmp_path):
        frames = make_frames(2)
        frames[1].symbols[2] = "Br"
        io.write(tmp_path / "other.xyz", frames)
        message = r"other\.xyz': Structure 1 contains Br, but the model knows only Na, Cl\. Train on structures"
        with pytest.raises(ValueError, match=message):
            evaluate_file(cheap, tmp_path / "other.xyz")
