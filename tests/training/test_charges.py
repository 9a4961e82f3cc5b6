"""Statistics of latent charges, and what is said of charged cells and of charges that collapse."""

import dataclasses
import warnings

import numpy as np
import pytest

import lesjax
from lesjax import io
from lesjax.models import EquilibratedCharges, FixedCharges, Induction, LatentCharges, LongRangeConfig, ModelConfig
from lesjax.models.provenance import has_collapsed
from lesjax.models.sign import flip
from lesjax.training import evaluate, loop, train, train_ensemble
from lesjax.training.charges import StructureCharges, charge_size, charge_statistics
from lesjax.training.prepare import prepare
from toy import Killed, killing, log_of, make_config, make_frame, make_frames, phases


CHARGED = "The latent charges of neutral cells add up to as much as"
COLLAPSED = "The latent charges have collapsed"


def structure(numbers, charges, is_neutral_cell=True):
    return StructureCharges(np.array(charges, float), np.array(numbers), is_neutral_cell)


TWO_CHANNELS = [
    structure([11, 17], [[0.9, 0.1], [-0.8, 0.3]]),
    structure([11, 17, 17], [[0.7, 0.1], [-0.6, 0.3], [-0.7, -0.1]]),
    structure([11], [[1.0, 0.0]], is_neutral_cell=False),
]
MODEL = ModelConfig(long_range=LongRangeConfig(LatentCharges(n_channels=2)))


def with_charges(charges):
    return ModelConfig(long_range=LongRangeConfig(charges))


def test_statistics_by_element_and_structure():
    statistics = charge_statistics(TWO_CHANNELS, 2.0)
    assert statistics.mean == {
        "Na": pytest.approx((np.mean([0.9, 0.7, 1.0]), 0.2 / 3), abs=1e-6),
        "Cl": pytest.approx((-0.7, 0.5 / 3), abs=1e-6),
    }
    assert statistics.std["Cl"] == pytest.approx((np.std([0.8, 0.6, 0.7]), np.std([0.3, 0.3, -0.1])), abs=1e-6)
    assert statistics.net_mean == pytest.approx((0.5 / 3, 0.7 / 3), abs=1e-6)
    assert statistics.net_largest == (1.0, 0.4)
    assert (statistics.n_structures, statistics.n_cells, statistics.n_charged_cells) == (3, 2, 2)
    assert statistics.largest_of_cells == pytest.approx(0.6)  # of the second, in its first channel
    squares = [0.82, 0.73, 0.5, 0.45, 0.5, 1.0]
    assert charge_size(TWO_CHANNELS) == pytest.approx(np.sqrt(np.mean(squares)))


def test_flipped_channels_have_the_other_sign():
    signs = np.array([1.0, -1.0])
    flipped = [s._replace(charges=s.charges * signs) for s in TWO_CHANNELS]
    assert charge_statistics(TWO_CHANNELS).flipped(signs) == charge_statistics(flipped)


@pytest.mark.parametrize(
    ("charges", "remedy"),
    [
        (LatentCharges(n_channels=2), "`model.long_range.charges.constraint` = 'neutral'"),
        (LatentCharges(n_channels=2, induction=Induction(kappa=True)), "`kind` = 'equilibrated'"),
    ],
)
def test_warning_of_charged_cells(charges, remedy):
    """With the number, the threshold, and the setting."""
    texts = charge_statistics(TWO_CHANNELS).warnings(with_charges(charges))
    assert list(texts) == ["net charge"]
    assert f"{CHARGED} 0.6 e; to more than 0.01 e in 2 of 2 cells" in texts["net charge"]
    assert remedy in texts["net charge"]


def test_no_warning_of_charges_that_are_meant():
    meant = [s._replace(is_neutral_cell=False) for s in TWO_CHANNELS]
    nearly = structure([11, 17], [[0.904, 0.0], [-0.9, 0.0]])
    for structures in (meant, [nearly]):
        assert charge_statistics(structures).warnings(MODEL) == {}


@pytest.mark.parametrize(
    ("charges", "size", "start", "expected"),
    [
        (LatentCharges(), 0.069, 0.7, True),
        (LatentCharges(), 0.071, 0.7, False),
        (LatentCharges(element_charges=True), 0.071, 0.7, True),  # near zero
        (LatentCharges(element_charges=True), 0.11, 0.7, False),
        (LatentCharges(element_charges=True), 0.06, 0.1, False),  # small from the start
        (LatentCharges(element_charges=True), 0.04, 0.1, True),
        (FixedCharges(), 0.0, 0.1, True),
        (EquilibratedCharges(), 0.0, None, False),
        (EquilibratedCharges(), 0.0, 0.0, False),
    ],
)
def test_collapse(charges, size, start, expected):
    assert has_collapsed(with_charges(charges), size, start) is expected


def test_statistics_of_an_evaluation(cheap_model, tmp_path):
    """Labels or not: energies are enough. Those of the structures as the model predicts them, one by one."""
    frames = make_frames(3)
    potential = train(make_config(tmp_path, frames, data={"valid_fraction": 0.0}))
    for atoms in frames:
        del atoms.arrays["REF_charges"]
    clusters = [make_frame(np.random.default_rng(4), pbc=False)]
    found = evaluate(potential, [*frames, *clusters]).charges
    systems = [lesjax.System.from_ase(atoms, cutoff=potential.cutoff) for atoms in [*frames, *clusters]]
    with warnings.catch_warnings(action="ignore"):
        charges = [np.asarray(potential(system).charges, float) for system in systems]
    numbers, values = np.concatenate([atoms.numbers for atoms in [*frames, *clusters]]), np.concatenate(charges)
    sodium, chlorine = values[numbers == 11], values[numbers == 17]
    assert found.mean["Na"] == pytest.approx(sodium.mean(axis=0), abs=2e-6)
    assert found.std["Cl"] == pytest.approx(chlorine.std(axis=0), abs=2e-6)
    assert found.net_mean == pytest.approx(np.mean([q.sum(axis=0) for q in charges], axis=0), abs=2e-6)
    assert (found.n_structures, found.n_cells) == (4, 3)
    assert found.metrics()["charges"]["Na"]["mean"] == found.mean["Na"][0]
    ensemble = lesjax.models.Ensemble.of([potential, potential])
    mean = evaluate(ensemble, [*frames, *clusters]).charges
    assert mean.mean["Na"] == pytest.approx(found.mean["Na"], abs=2e-6)


@pytest.mark.usefixtures("cheap_model")
class TestTraining:
    def test_what_is_said_at_the_end_and_stored(self, tmp_path):
        config = make_config(tmp_path, data={"reference_energies": {"Na": -0.7, "Cl": -0.8}})
        with pytest.warns(UserWarning, match=CHARGED):
            potential = train(config)
        provenance = lesjax.load(f"{config.output}/model").provenance
        assert provenance == potential.provenance
        assert provenance.lesjax == lesjax.__version__
        assert provenance.data == (
            "data.train: train.xyz: 8 structures; REF_energy, REF_forces, REF_stress, REF_charges",
        )
        assert (provenance.n_train, provenance.n_valid, len(provenance.fingerprint)) == (6, 2, 64)
        assert provenance.reference_energies == {"Na": "given", "Cl": "given"}
        assert provenance.sign == "electronegativities: Cl is negative"
        assert provenance.charges.n_structures == 2
        assert provenance.charges.mean["Cl"][0] < 0
        assert provenance.charges.initial_size > 0
        assert lesjax.load(f"{config.output}/model-last").provenance.charges is not None

    def test_held_charges_are_silent(self, tmp_path):
        model = dataclasses.replace(
            make_config(tmp_path).model, long_range=LongRangeConfig(LatentCharges(hidden=(), constraint="neutral"))
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("error", CHARGED)
            train(make_config(tmp_path, model=model))

    def test_short_range_model_has_no_charges(self, tmp_path):
        model = dataclasses.replace(make_config(tmp_path).model, long_range=None)
        potential = train(make_config(tmp_path, model=model))
        assert (potential.provenance.sign, potential.provenance.charges) == (None, None)
        assert "charges_size" not in log_of(f"{tmp_path}/run")[0]

    @pytest.mark.parametrize("weights", [{"energy": 1.0, "charges": 1.0}])
    def test_labels_that_set_the_sign(self, tmp_path, weights):
        potential = train(make_config(tmp_path, phases=phases(1, weights=weights)))
        assert potential.provenance.sign == "labels of charges, moments or Born effective charges"

    def test_how_reference_energies_were_found(self, tmp_path):
        lone = make_frame(np.random.default_rng(0), pbc=False)[:1]
        lone.info["REF_energy"] = -0.5
        lone.set_cell(np.zeros((3, 3)))
        potential = train(make_config(tmp_path, [lone, *make_frames(7)], phases=phases(1)))
        assert potential.provenance.reference_energies == {"Na": "lone atom", "Cl": "fitted"}

    def test_same_model_from_another_folder(self, tmp_path):
        """Byte by byte: no folder and no date."""
        files = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            config = make_config(tmp_path / name, phases=phases(1), output=f"run-{name}")
            train(config)
            files.append([(tmp_path / name / f"run-{name}" / model / "config.json").read_bytes() for model in
                          ("model", "model-last")])  # fmt: skip
            train(config)  # once more: nothing is left to do
            assert (tmp_path / name / f"run-{name}" / "model" / "config.json").read_bytes() == files[-1][0]
        assert files[0] == files[1]

    def test_collapse_is_reported_once_and_at_the_end(self, tmp_path, monkeypatch):
        """The start and the report are remembered over a restart."""
        known, sizes = loop.dataset_errors, []

        def errors(potential, *arguments):
            loss, metrics = known(potential, *arguments)
            sizes.append(metrics["charges_size"])
            # no charges from the second validation on
            return loss, {**metrics, "charges_size": sizes[-1] if len(sizes) == 1 else 1e-3 * sizes[0]}

        monkeypatch.setattr(loop, "dataset_errors", errors)
        config = make_config(tmp_path, phases=phases(6), checkpoint_seconds=0.0)
        seen = []
        for times in (4, None):
            with warnings.catch_warnings(record=True) as caught, monkeypatch.context() as patch:
                warnings.simplefilter("always")
                if times is not None:
                    patch.setattr(loop.Run, "run_epoch", killing(loop.Run.run_epoch, times, iter(range(99))))
                    with pytest.raises(Killed):
                        train(config)
                else:
                    potential = train(config)
            seen.append([str(w.message) for w in caught if COLLAPSED in str(w.message)])
        assert [len(texts) for texts in seen] == [1, 0]
        assert seen[0][0].startswith(f"Epoch 2: {COLLAPSED}: their root mean square is ")
        assert "`model.long_range.charges.element_charges` = true, hold the charges in a first phase" in seen[0][0]
        log = log_of(config.output)
        assert log[0]["charges_size"] == sizes[0] != log[1]["charges_size"]
        # of the initial parameters, at the end as at the start
        assert potential.provenance.charges.initial_size > 0.3 * sizes[0]

    def test_collapsed_at_the_end(self, tmp_path, monkeypatch):
        """The size before training is measured a hundred times too large."""
        monkeypatch.setattr(loop, "charge_size", lambda structures: 100.0 * charge_size(structures))
        config = make_config(tmp_path, phases=phases(2))
        with pytest.warns(UserWarning, match=f"^{COLLAPSED}"), pytest.warns(UserWarning, match=f"Epoch 1: {COLLAPSED}"):
            potential = train(config)
        texts = evaluate(potential, io.read(tmp_path / "train.xyz")).charges.warnings(potential.config)
        assert set(texts) == {"net charge", "collapse"}

    def test_ensemble(self, tmp_path):
        config = make_config(tmp_path, phases=phases(1), ensemble=2)
        prepared = prepare(config)
        ensemble = train_ensemble(config, prepared=prepared)
        loaded = lesjax.models.load_ensemble(f"{config.output}/model")
        for member, again in zip(ensemble.members(), loaded.members(), strict=True):
            assert again.provenance == member.provenance
            assert member.provenance.charges.n_structures == 2
            for potential in (again, flip(again, -1.0)):  # as of members that are aligned with the first
                found = evaluate(potential, prepared.valid).charges
                assert found.mean["Na"] == pytest.approx(potential.provenance.charges.mean["Na"], abs=2e-6)
                assert found.net_largest == pytest.approx(potential.provenance.charges.net_largest, abs=2e-6)
