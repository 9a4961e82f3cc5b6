"""Choosing structures by the spread of an ensemble, and the loop around it."""

import dataclasses

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms

from lesjax import io
from lesjax.dynamics import Settings, SimulationError
from lesjax.fitting import active_learning, force_spreads, select_structures, selection
from lesjax.models import Ensemble, Induction, LatentCharges, LongRangeConfig
from lesjax.system import System
from lesjax.training.config import DataConfig
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
    assert min(spread.max() for spread in found) > 2e-4


def test_charges_without_a_solution_are_an_error(ensemble):
    """Polarizabilities that far atoms have room for, and near ones have not."""
    induction = Induction(alpha="isotropic", self_consistent=True)
    induced = LongRangeConfig(LatentCharges(hidden=(4,), induction=induction), k_cutoff=2.0)
    potential = moved_potential(dataclasses.replace(ensemble.config, long_range=induced))
    heads = dict(potential.params["heads"])
    heads["alpha"] = {**heads["alpha"], "bias": jnp.full_like(heads["alpha"]["bias"], 20.0)}
    both = Ensemble.of([dataclasses.replace(potential, params={**potential.params, "heads": heads})] * 2)
    near = ase.Atoms("Na2Cl2", [[0.0, 0.0, 2.0 * i] for i in range(4)])
    far = ase.Atoms("Na2Cl2", [[0.0, 0.0, 20.0 * i] for i in range(4)])
    with pytest.raises(ValueError, match=r"Structure 1: .*polarization catastrophe"):
        force_spreads(both, [far, near])


def test_select_structures():
    spread = np.array([0.1, 0.4, 0.2, 0.4])
    assert select_structures(spread, 3) == [1, 3, 2]
    assert select_structures(spread, 3, minimum=0.2) == [1, 3]
    assert select_structures(spread, 9, minimum=0.5) == []
    with pytest.raises(ValueError, match=r"structures \[1\] is not finite"):
        select_structures(np.array([0.1, np.nan]), 1)
    with pytest.raises(ValueError, match="`n` must be at least 1, got 0"):
        select_structures(spread, 0)


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
    rounds = active_learning(config, label, rounds=3, n_new=2, sample=lambda *_: make_frames(2, seed=4), minimum=1e6)
    assert len(rounds) == len(trained) == 1


class Counting(Calculator):
    """Energy and forces that say how often it was called; breaks down at one call."""

    implemented_properties = ("energy", "forces")

    def __init__(self, dies_at=None):
        super().__init__()
        self.calls, self.dies_at = 0, dies_at

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        if self.calls == self.dies_at:
            raise RuntimeError("It did not converge.")
        self.results = {"energy": -10.0 * self.calls, "forces": np.full((len(atoms), 3), float(self.calls))}

    def label(self, atoms):
        atoms.calc = self
        atoms.get_forces()
        return atoms


def test_one_calculator_for_all_labels(trained, tmp_path):
    config = make_config(tmp_path, ensemble=2)
    rounds = active_learning(config, Counting().label, rounds=1, n_new=3, sample=lambda *_: make_frames(4, seed=4))
    for frames in (rounds[0].labelled, trained[1][8:]):
        found = io.all_labels(frames)
        assert [float(labels.energy) for labels in found] == [-10.0, -20.0, -30.0]
        assert [labels.forces[0, 0] for labels in found] == [1.0, 2.0, 3.0]


@pytest.mark.usefixtures("trained")
def test_labels_are_kept(tmp_path):
    """Of a call that died, for the structures that they belong to; the data are those of an unbroken call."""
    options = {"rounds": 1, "n_new": 3, "sample": lambda *_: pool}
    pool = make_frames(3, seed=4)
    pool[0].info["charge"] = 1
    whole = make_config(tmp_path, ensemble=2, output="whole")
    active_learning(whole, Counting().label, **options)
    broken = make_config(tmp_path, ensemble=2, output="broken")
    with pytest.raises(RuntimeError, match="did not converge"):
        active_learning(broken, Counting(dies_at=3).label, **options)
    calculator = Counting()
    calculator.calls = 2
    active_learning(broken, calculator.label, **options)
    assert calculator.calls == 3
    data = [
        prepare(dataclasses.replace(make_config(tmp_path), data=DataConfig(train=f"{c.output}/round-1/train.xyz")))
        for c in (whole, broken)
    ]
    assert data[0].fingerprint == data[1].fingerprint
    pool[0].info["charge"] = 2
    pool[1].positions[0] += 0.01
    active_learning(broken, calculator.label, **options)
    assert calculator.calls == 5


@pytest.mark.parametrize("breaks", [False, True])
def test_simulation_as_sampler(trained, tmp_path, monkeypatch, breaks):
    """With the first member; of a simulation that breaks down the frames before that are used, each once."""
    frames = make_frames(8)
    for atoms in frames:
        atoms.set_momenta(np.ones((4, 3)))
    config = make_config(tmp_path, frames, ensemble=2, data={"pbc": (True, True, False)})
    steps = [0, 2, 4, 6, 6] if breaks else [0, 2, 4, 6]

    def simulate(potential, atoms, out, settings, *, quiet):
        assert settings.steps == 6
        assert atoms.calc is None
        assert not atoms.has("momenta")
        assert atoms.pbc.tolist() == [True, True, False]
        pool = [atoms, *make_frames(3, seed=4)]
        for step in steps:
            pool[step // 2].info["step"] = step
        io.write(out / "trajectory.xyz", [pool[step // 2] for step in steps])
        if breaks:
            raise SimulationError("Step 7 broke down.")

    monkeypatch.setattr(selection, "simulate", simulate)
    options = {"rounds": 1, "n_new": 8, "sample": Settings(steps=6, temperature=300.0)}
    rounds = active_learning(config, label, **options)
    assert len(rounds[0].largest) == 3
    assert [len(frames) for frames in trained] == [8, 11]
    steps = [0, 0]
    with pytest.raises(ValueError, match=r"no structure in round 0\. .* lower `frame_every` or `timestep`"):
        active_learning(config, label, **options)


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
    held = make_frames(4)
    for atoms in held:
        atoms.set_constraint(FixAtoms([0]))
    config = make_config(tmp_path, held, ensemble=2, output="held")
    with pytest.raises(ValueError, match="has structures with constraints, which `Settings` cannot simulate"):
        active_learning(config, label, rounds=1, n_new=1, sample=Settings(temperature=300.0))
