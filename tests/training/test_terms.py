"""The rows of the labels: names that are promised, and what other modules count on."""

import numpy as np
import pytest

from lesjax import io
from lesjax.models import ModelConfig
from lesjax.training.data import make_dataset
from lesjax.training.terms import TERMS, check_weights, find, labelled, labelled_rows, metrics_help
from toy import make_frame
from toy_model import ToyConfig


SIGNED = ("charges", "dipole", "quadrupole", "bec")
PROMISED = {
    "energy_rmse", "energy_mae", "forces_rmse", "forces_mae", "stress_rmse", "stress_mae",
    *(f"{name}_{score}" for name in SIGNED for score in ("r2", "corr2", "rmse", "mae")),
    *(f"bec_{part}_{score}" for part in ("diagonal", "off_diagonal") for score in ("r2", "corr2")),
}  # fmt: skip
CONFIG = ModelConfig(ToyConfig(elements=(11, 17)), None, reference_energies=(0.0, 0.0))


def test_names_of_metrics_are_those_that_were_promised():
    assert {name for term in TERMS for name in term.metrics()} == PROMISED
    assert all(name in metrics_help() for name in PROMISED)
    assert max(map(len, metrics_help().splitlines())) <= 80


def test_every_label_that_is_read_has_a_row_and_a_key():
    names = [term.name for term in TERMS]
    assert len(set(names)) == len(names)
    assert set(io.Labels.shapes(2)) == set(names)
    states = {"total_charge", "spin_multiplicity"}
    weights = {f"{name}_weight" for name in ("config", "energy", "forces", "stress")}
    assert set(vars(io.Keys())) == {*names, "born_effective_charges_order", "virial", *states, *weights}
    assert [find(term.short) for term in TERMS] == list(TERMS)


def test_structures_that_have_labels():
    """Of a stress the periodic ones count, of a dipole the open ones; one component is enough."""
    rng = np.random.default_rng(0)
    frames = [make_frame(rng, pbc=pbc) for pbc in (True, False, False)]
    for atoms in frames:
        atoms.info["REF_stress"], atoms.info["REF_dipole"] = np.eye(3), np.ones(3)
    frames[1].info["REF_dipole"] = np.array([np.nan, np.nan, 1.0])
    del frames[2].info["REF_dipole"], frames[2].arrays["REF_forces"]
    dataset = make_dataset(CONFIG, frames, io.all_labels(frames))
    rows = labelled_rows(dataset.buckets[0])
    assert (rows["dipole"].tolist(), rows["forces"].tolist()) == ([True, False], [True, False])
    assert rows["quadrupole"].tolist() == [False, False]
    assert "stress" not in rows
    assert labelled(dataset) == {"energy", "forces", "stress", "charges", "dipole"}
    assert "dipole" not in labelled(make_dataset(CONFIG, frames[:1], io.all_labels(frames[:1])))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"energy": 1.0, "force": 1.0}, r"`weights` has no term 'force'; give some of energy, forces, "),
        ({"energy": 1.0, "forces": -1.0}, r"`weights` must not be negative and not all zero, got .*-1"),
        ({"energy": 0.0}, "not all zero"),
        ({}, "not all zero"),
    ],
)
def test_weights_that_are_none(weights, message):
    with pytest.raises(ValueError, match=message):
        check_weights(weights)
