"""Reference energies, buckets, batches."""

import ase
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import ewald, io
from lesjax.models import CACEConfig, LongRangeConfig, ModelConfig
from lesjax.training.data import epoch_batches, is_lone, make_dataset, reference_energies, subtract_reference, take
from toy import make_frame, make_frames


DTYPE = jax.dtypes.canonicalize_dtype(float)
SALT = ModelConfig(
    CACEConfig(elements=(11, 17), cutoff=3.6), LongRangeConfig(k_cutoff=2.0), reference_energies=(-5.0, -7.0)
)


def labelled(formulas, energies):
    frames = [ase.Atoms(formula, info={"energy": energy}) for formula, energy in zip(formulas, energies, strict=True)]
    return frames, io.all_labels(frames)


def test_reference_energies_by_least_squares():
    frames, labels = labelled(["H2O", "OH", "H2", "H2"], [-34.1, -22.1, -24.0, np.nan])
    np.testing.assert_allclose(reference_energies((1, 8), frames, labels), (-12.0, -10.1))


def test_reference_energies_of_one_composition():
    """The sum is fixed, the parts are not: the smallest ones are taken."""
    frames, labels = labelled(["H2O", "H2O"], [-30.0, -32.0])
    hydrogen, oxygen = reference_energies((1, 8), frames, labels)
    np.testing.assert_allclose(2 * hydrogen + oxygen, -31.0)
    np.testing.assert_allclose(hydrogen, 2 * oxygen)


def test_reference_energies_of_lone_atoms():
    """The lone neutral atom is exact, the lowest of several; the rest is fitted to what it leaves."""
    frames, labels = labelled(["O", "O", "O", "H2O", "H2O", "H2O"], [-430.0, -432.0, -300.0, -462.0, -463.0, -464.0])
    frames[2].info["charge"] = 1
    np.testing.assert_allclose(reference_energies((1, 8), frames, labels), (-15.5, -432.0))
    frames[1].set_cell([20.0] * 3)
    frames[1].pbc = True
    for cutoff, expected in ((None, -430.0), (19.9, -432.0), (20.1, -430.0)):
        assert reference_energies((1, 8), frames, labels, cutoff=cutoff)[1] == pytest.approx(expected)
    frames[1].info["config_type"] = "IsolatedAtom"
    assert reference_energies((1, 8), frames, labels)[1] == -432.0


@pytest.mark.parametrize(
    "mark",
    [
        {"config_type": "isolated_atom"}, {"Config-Type": "Isolated Atoms"}, {"config_type": "single_atom"},
        {"configtype": "IsolatedAtom_O"}, {"config_type": "isolated_ion"}, {"config_type": "atom"},
    ],
)  # fmt: skip
def test_marks_of_lone_atoms(mark):
    atoms = ase.Atoms("O", cell=[2.5] * 3, pbc=True)
    assert not is_lone(atoms, 3.0)
    atoms.info["config_type"] = "atomic_layer"
    assert not is_lone(atoms, 3.0)
    atoms.info = mark
    assert is_lone(atoms, 3.0)
    assert not is_lone(atoms.repeat((2, 1, 1)), 3.0)


def test_reference_energies_without_energies():
    frames, labels = labelled(["H2O"], [np.nan])
    assert reference_energies((1, 8), frames, labels) == (0.0, 0.0)


def test_energies_are_subtracted_in_double_precision():
    found = subtract_reference(SALT, np.array([11, 17, 17]), -19.0 + 1e-9)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, 1e-9, rtol=1e-5)


def test_dataset_keeps_every_structure():
    rng = np.random.default_rng(0)
    frames = [make_frame(rng, repeats) for repeats in (2, 1, 1, 2)]
    frames[3].arrays.pop("REF_forces")
    labels = io.all_labels(frames)
    dataset = make_dataset(SALT, frames, labels)
    assert len(dataset) == 4
    assert [members.tolist() for members in dataset.members] == [[1, 2], [0, 3]]
    for bucket, members in zip(dataset.buckets, dataset.members, strict=True):
        assert bucket.system_mask.all()
        assert bucket.solver.kmask.shape[0] == len(members)
        for row, i in enumerate(members):
            n = len(frames[i])
            np.testing.assert_allclose(bucket.system.positions[row, :n], frames[i].positions, rtol=1e-6)
            energy = labels[i].energy - n / 2 * (-5.0 - 7.0)
            np.testing.assert_allclose(bucket.labels.energy[row], energy, rtol=1e-5)
            assert bucket.labels.energy.dtype == DTYPE
            np.testing.assert_allclose(bucket.labels.forces[row, :n], labels[i].forces, rtol=1e-6)


def test_solvers_of_a_bucket_are_of_one_kind(monkeypatch):
    """The one for the largest system, where each by itself would be summed in another way."""
    rng = np.random.default_rng(0)
    frames = [make_frame(rng, repeats) for repeats in (1, 2)]
    sizes = sorted(map(len, frames))
    monkeypatch.setattr("lesjax.ewald.solver.CROSSOVER", sizes[1])
    (bucket,) = make_dataset(SALT, frames, io.all_labels(frames), max_buckets=1).buckets
    assert isinstance(bucket.solver, ewald.MeshSolver)


def test_one_large_box_has_a_bucket_of_its_own():
    """Its k-grid would be the grid of all: for fewer atoms, as many, and more than in the small cells."""
    small = make_frames(6)
    for n in (2, 4):
        large = small[0].copy()[:n]
        large.set_cell([60.0, 60.0, 60.0])
        frames = [*small[:3], large, *small[3:]]

        def work(frames):
            buckets = make_dataset(SALT, frames, [io.Labels.missing(len(atoms)) for atoms in frames]).buckets
            return sum(bucket.solver.kmask.size * bucket.system.shape[0] for bucket in buckets)

        assert work(frames) <= 1.1 * (work(small) + work([large]))


def test_short_range_dataset_has_no_solver():
    frames = make_frames(1)
    config = ModelConfig(SALT.short_range, None)
    assert make_dataset(config, frames, io.all_labels(frames)).buckets[0].solver is None


def test_periodic_and_open_structures_go_apart():
    rng = np.random.default_rng(0)
    frames = [make_frame(rng, pbc=pbc) for pbc in (True, False, True)]
    labels = io.all_labels(frames)
    dataset = make_dataset(SALT, frames, labels)
    assert [bucket.system.pbc for bucket in dataset.buckets] == [(False,) * 3, (True,) * 3]
    assert [members.tolist() for members in dataset.members] == [[1], [0, 2]]
    overridden = make_dataset(SALT, frames, labels, pbc=False)
    assert [bucket.system.pbc for bucket in overridden.buckets] == [(False,) * 3]


def test_slabs_go_apart_and_a_wire_is_refused_by_the_long_range_sum():
    frames = make_frames(2)
    frames[1].pbc, frames[1].cell[2] = (True, True, False), [0.0, 0.0, 12.0]
    dataset = make_dataset(SALT, frames, io.all_labels(frames))
    assert [bucket.system.pbc for bucket in dataset.buckets] == [(True, True, False), (True,) * 3]
    frames[1].pbc = (True, False, False)
    with pytest.raises(ValueError, match=r"Structure 1: `pbc` must be periodic in three, two or no directions"):
        make_dataset(SALT, frames, io.all_labels(frames))


def test_unknown_element_is_named():
    frames = make_frames(3)
    frames[2].symbols[1] = "K"
    with pytest.raises(ValueError, match=r"Structure 2 contains K, but the model knows only Na, Cl\. Train on"):
        make_dataset(SALT, frames, io.all_labels(frames))
    with pytest.raises(ValueError, match="Structure 40 contains K"):
        make_dataset(SALT, frames, io.all_labels(frames), indices=[7, 9, 40])


def test_broken_coordinates_are_named():
    frames = make_frames(2)
    frames[1].positions[3] = np.nan
    with pytest.raises(ValueError, match=r"Structure 1: `positions` of atom 3 are not finite"):
        make_dataset(SALT, frames, io.all_labels(frames))


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    frames = [make_frame(rng, repeats) for repeats in (1, 1, 1, 2, 1, 1, 2)]
    return make_dataset(SALT, frames, io.all_labels(frames))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_batches_hold_every_structure_once(dataset, batch_size, seed):
    rng = None if seed is None else np.random.default_rng(seed)
    batches = epoch_batches(dataset, batch_size, rng)
    seen = [int(i) for bucket, rows, mask in batches for i in dataset.members[bucket][rows[mask]]]
    assert sorted(seen) == list(range(7))
    for bucket, rows, mask in batches:
        assert len(rows) == len(mask) == min(batch_size, len(dataset.members[bucket]))


def test_order_of_batches_follows_the_generator(dataset):
    def order(seed):
        batches = epoch_batches(dataset, 2, np.random.default_rng(seed))
        return [(bucket, rows.tolist()) for bucket, rows, _ in batches]

    assert order(0) == order(0)
    assert order(0) != order(1)


def test_take_masks_the_rows_that_fill_up(dataset):
    batch = take(dataset.buckets[0], jnp.array([4, 4, 0]), jnp.array([True, False, True]))
    np.testing.assert_array_equal(batch.system_mask, [True, False, True])
    np.testing.assert_array_equal(batch.system.positions[0], dataset.buckets[0].system.positions[4])
    np.testing.assert_array_equal(batch.labels.forces[2], dataset.buckets[0].labels.forces[0])


def test_ghost_atom_is_named():
    frames = make_frames(2)
    frames[1].symbols[2] = "X"
    with pytest.raises(ValueError, match=r"Structure 1: Atom 2 is a ghost atom \(symbol X, atomic number 0\)"):
        make_dataset(SALT, frames, io.all_labels(frames))
