"""Choosing structures by the spread of an ensemble, and the loop around it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import io
from lesjax.dynamics import Settings, SimulationError
from lesjax.fitting import active_learning, force_spreads, select, selection
from lesjax.models import Ensemble
from lesjax.system import System
from lesjax.training.prepare import prepare
from toy import make_config, make_frame, make_frames, moved_potential


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    first = moved_potential(prepare(make_config(tmp_path_factory.mktemp("models"))).model)
    rng = np.random.default_rng(5)

    def moved(leaf):
        return jnp.asarray(leaf + 0.05 * rng.normal(size=leaf.shape), leaf.dtype)

    return Ensemble.of([first, dataclasses.replace(first, params=jax.tree.map(moved, first.params))])


def test_spreads_are_those_of_single_structures(ensemble):
    """Of two shapes, with and without labels."""
    rng = np.random.default_rng(3)
    frames = [make_frame(rng, repeats, pbc=False) for repeats in (2, 1, 1)]
    frames[1].info.clear()
    found = force_spreads(ensemble, frames, batch_size=2)
    assert [len(spread) for spread in found] == [8, 4, 4]
    for atoms, spread in zip(frames[:2], found, strict=False):
        expected = ensemble(System.from_ase(atoms, cutoff=ensemble.cutoff)).spread.forces
        np.testing.assert_allclose(spread, np.linalg.norm(expected, axis=1), rtol=1e-5, atol=2e-5)
    assert min(spread.max() for spread in found) > 3e-4


def test_select():
    spread = np.array([0.1, 0.4, 0.2, 0.4])
    assert select(spread, 3) == [1, 3, 2]
    assert select(spread, 3, minimum=0.2) == [1, 3]
    assert select(spread, 9, minimum=0.5) == []
    with pytest.raises(ValueError, match=r"structures \[1\] is not finite"):
        select(np.array([0.1, np.nan]), 1)
    with pytest.raises(ValueError, match="`n` must be at least 1, got 0"):
        select(spread, 0)


@pytest.fixture
def trained(monkeypatch, ensemble):
    """The files that each training was given; no training takes place."""
    files = []

    def train(config, quiet=None):
        files.append(io.read(config.data.train))
        assert config.data.max_frames is None
        return ensemble

    monkeypatch.setattr(selection, "train_ensemble", train)
    return files


def label(atoms):
    """Energy and forces that say that they are new."""
    assert not {"REF_energy", "REF_forces"} & {*atoms.info, *atoms.arrays}
    atoms.info["REF_energy"] = -77.0
    atoms.arrays["REF_forces"] = np.zeros((len(atoms), 3))
    return atoms


def test_loop(trained, ensemble, tmp_path):
    config = make_config(tmp_path, ensemble=2, data={"max_frames": 5})
    pool = make_frames(6, seed=4)
    given = []

    def sample(models, frames, folder):
        assert models is ensemble
        given.append((len(frames), folder.name))
        return pool

    rounds = active_learning(config, label, rounds=2, n_new=2, sample=sample)
    assert [len(frames) for frames in trained] == [5, 7, 9]
    assert [r.n_train for r in rounds] == [5, 7, 9]
    assert given == [(5, "sample"), (7, "sample")]
    largest = np.array([spread.max() for spread in force_spreads(ensemble, pool)])
    np.testing.assert_allclose(rounds[0].largest, largest)
    for atoms, i in zip(rounds[0].labelled, np.argsort(-largest), strict=False):
        np.testing.assert_array_equal(atoms.positions, pool[i].positions)
    energies = [atoms.info["REF_energy"] for atoms in trained[1]]
    assert energies[5:] == [-77.0, -77.0]
    assert -77.0 not in energies[:5]
    assert rounds[-1].labelled == []
    assert "REF_forces" in pool[0].arrays  # what was sampled is as it was


def test_loop_ends_where_nothing_is_uncertain(trained, tmp_path):
    config = make_config(tmp_path, ensemble=2)
    rounds = active_learning(
        config, label, rounds=3, n_new=2, sample=lambda *_: make_frames(2, seed=4), minimum=1e6
    )
    assert len(rounds) == len(trained) == 1


@pytest.mark.parametrize("breaks", [False, True])
def test_simulation_as_sampler(trained, tmp_path, monkeypatch, breaks):
    """With the first member; of a simulation that breaks down the frames before that are used."""
    config = make_config(tmp_path, ensemble=2)
    pool = make_frames(3, seed=4)

    def simulate(potential, atoms, out, settings, *, quiet):
        assert settings.steps == 4
        assert atoms.calc is None
        io.write(out / "trajectory.xyz", [atoms, *pool])
        if breaks:
            raise SimulationError("Step 3 broke down.")

    monkeypatch.setattr(selection, "simulate", simulate)
    rounds = active_learning(config, label, rounds=1, n_new=8, sample=Settings(steps=4, temperature=300.0))
    assert len(rounds[0].largest) == 3
    assert [len(frames) for frames in trained] == [8, 11]


@pytest.mark.usefixtures("trained")
def test_mistakes(tmp_path):
    config = make_config(tmp_path, ensemble=2)
    settings = {"rounds": 1, "n_new": 1, "sample": lambda *_: make_frames(1, seed=4)}
    with pytest.raises(ValueError, match=r"`training\.ensemble` is missing"):
        active_learning(make_config(tmp_path), label, **settings)
    with pytest.raises(ValueError, match="`rounds` must be at least 1, got 0"):
        active_learning(config, label, **(settings | {"rounds": 0}))
    with pytest.raises(ValueError, match="`sample` gave no structure in round 0"):
        active_learning(config, label, **(settings | {"sample": lambda *_: []}))
    with pytest.raises(ValueError, match="`label` gave no finite energy: looked for REF_energy, energy"):
        active_learning(config, lambda atoms: atoms, **settings)
    with pytest.raises(ValueError, match="`label` must return the structure"):
        active_learning(config, lambda atoms: None, **settings)
