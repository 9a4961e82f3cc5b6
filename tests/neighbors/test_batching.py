"""Padded shapes: few, large enough, and the cheapest."""

import itertools

import numpy as np
import pytest

from lesjax.neighbors.batching import assign_bucket, plan_buckets, stack, stack_systems
from lesjax.system import System


def cost(shapes, buckets):
    chosen = [buckets[assign_bucket(shape, buckets)] for shape in shapes]
    return sum(n * m for n, m in chosen)


def test_many_sizes_need_three_shapes():
    rng = np.random.default_rng(0)
    shapes = [(n, int(rng.integers(10, 40))) for n in range(16, 52) for _ in range(3)]
    buckets = plan_buckets(shapes)
    assert len(buckets) == 3
    assert buckets == sorted(buckets)
    for n, m in shapes:
        chosen = buckets[assign_bucket((n, m), buckets)]
        assert chosen[0] >= n
        assert chosen[1] >= m


def test_one_size_needs_one_shape():
    assert plan_buckets([(8, 10), (8, 12), (8, 11)]) == [(8, 12)]


def test_few_sizes_are_not_padded():
    assert plan_buckets([(8, 10), (3, 2), (8, 12), (5, 4)]) == [(3, 2), (5, 4), (8, 12)]


@pytest.mark.parametrize("seed", range(5))
def test_plan_is_the_best_of_all_cuts(seed):
    """Against all ways of cutting the sorted sizes into at most three groups."""
    rng = np.random.default_rng(seed)
    shapes = [(int(n), int(3 * n + rng.integers(20))) for n in rng.integers(3, 60, size=12)]
    sizes = sorted({n for n, _ in shapes})
    best = np.inf
    for n_cuts in range(3):
        for cuts in itertools.combinations(sizes[:-1], n_cuts):
            groups = np.digitize([n for n, _ in shapes], cuts, right=True)
            plan = []
            for group in sorted(set(groups)):
                members = [shape for shape, g in zip(shapes, groups, strict=True) if g == group]
                plan.append((max(n for n, _ in members), max(m for _, m in members)))
            best = min(best, sum(plan[g][0] * plan[g][1] for g in groups))
    assert cost(shapes, plan_buckets(shapes)) <= best


def test_max_buckets():
    shapes = [(n, n) for n in (4, 8, 16, 32)]
    assert plan_buckets(shapes, 1) == [(32, 32)]
    assert len(plan_buckets(shapes, 2)) == 2
    assert plan_buckets(shapes, 7) == shapes


def test_nothing_to_batch():
    with pytest.raises(ValueError, match="`shapes` is empty"):
        plan_buckets([])


def test_no_bucket_fits():
    with pytest.raises(ValueError, match=r"9 atoms with 3 neighbours fits into none of \[\(8, 4\)\]"):
        assign_bucket((9, 3), [(8, 4)])
    with pytest.raises(ValueError, match="fits into none"):
        assign_bucket((8, 5), [(8, 4)])


def make_system(n, pbc=(False, False, False)):
    positions = np.arange(3.0 * n).reshape(n, 3) / n
    return System.from_arrays(positions, 9.0 * np.eye(3), np.full(n, 8), pbc, cutoff=4.0)


def test_stacked_systems_are_the_padded_ones():
    systems = [make_system(2), make_system(4)]
    stacked = stack_systems(systems)
    assert stacked.shape == (4, 3)
    np.testing.assert_array_equal(stacked.atom_mask, [[True, True, False, False], [True] * 4])
    np.testing.assert_array_equal(stacked.positions[1], systems[1].positions)
    np.testing.assert_array_equal(stacked.neighbors[0], systems[0].pad_to(4, 3).neighbors)
    assert stack_systems(systems, (6, 5)).shape == (6, 5)
    assert not stack_systems(systems, (6, 5)).neighbor_mask[:, 4:].any()


def test_systems_that_cannot_be_stacked():
    with pytest.raises(ValueError, match="share their periodic directions"):
        stack_systems([make_system(2), make_system(2, (True, True, True))])
    with pytest.raises(ValueError, match=r"must be non-empty .* got \[\]"):
        stack_systems([])
    with pytest.raises(ValueError, match="4 atoms and 3 neighbours does not fit into"):
        stack_systems([make_system(2), make_system(4)], (3, 3))


def test_stack_keeps_the_structure():
    stacked = stack([{"a": np.zeros(2), "b": None}, {"a": np.ones(2), "b": None}])
    np.testing.assert_array_equal(stacked["a"], [[0, 0], [1, 1]])
    assert stacked["b"] is None


def test_grids_count():
    """A k-grid as large as that of one system would be the work of all."""
    small, large = (8, 10, 5, 5, 5), (8, 10, 50, 50, 50)
    assert plan_buckets([small, large, small], 2) == [small, large]
    assert plan_buckets([(6, 9, 50, 50, 50), *[small] * 9], 2) == [small, (6, 9, 50, 50, 50)]
    # atoms matter where the grids are alike
    assert plan_buckets([small, (64, 12, 6, 5, 5), (9, 10, 5, 6, 5)], 2) == [(9, 10, 5, 6, 5), (64, 12, 6, 5, 5)]
    assert assign_bucket((2, 3, 9, 9, 9), [small, large]) == 1


def test_many_sizes_are_joined():
    shapes = [(n, 10) for n in range(1, 400)]
    plan = plan_buckets(shapes)
    assert len(plan) == 3
    assert plan[-1] == (399, 10)
