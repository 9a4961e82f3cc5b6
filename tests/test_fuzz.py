"""A short run of the fuzz: nothing but results and refusals with a message."""

import collections

from fuzz import RIGHT, fuzz


def test_damaged_inputs_are_refused_with_a_message():
    cases, wrong = fuzz(seed=7, count=100)
    kinds = sum(cases.values(), collections.Counter())
    assert not wrong
    assert sum(kinds.values()) == 100
    assert all(kinds[kind] > 5 for kind in RIGHT)
