"""Rules of configurations name the field and the value; damaged JSON is refused."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from lesjax.validate import (
    check,
    finite,
    flag,
    fraction,
    not_both,
    not_negative,
    one_of,
    optional,
    parse_json,
    positive,
    read_json,
    whole,
    widths,
)


@dataclass(frozen=True)
class Config:
    x: Any = 1.0


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("rule", "good", "bad", "message"),
    [
        (positive, (1e-300, 3), (0.0, -1, NAN, INF, "1", True, None), "`x` must be positive, got "),
        (not_negative, (0, 0.0, 2.5), (-1e-9, NAN, INF, "1", False), "`x` must not be negative, got "),
        (finite, (-3.0, 0), (NAN, -INF, "1"), "`x` must be finite, got "),
        (fraction, (0, 0.999), (1, 1.0, -0.1, NAN, False), r"`x` must lie in \[0, 1\), got "),
        (flag, (True, False), (1, 0, None, "no"), "`x` must be True or False, got "),
        (whole(1), (1, 10**30), (0, -2), "`x` must be at least 1, got "),
        (whole(0), (0, 4), (-1,), "`x` must not be negative, got -1"),
        (whole(1, 4), (1, 4), (0, 5), "`x` must lie from 1 to 4, got "),
        (whole(1), (1,), (1.0, True, "1", None, NAN), "`x` must be a whole number, got "),
        (one_of("a", "b", "c"), ("a", "c"), ("d", None), "`x` must be 'a', 'b' or 'c', got "),
        (
            widths,
            ((), (1, 2)),
            ((4, 0), (2.5,), (4097,), (1,) * 17),
            r"`x` must have at most 16 whole widths from 1 to ",
        ),
        (optional(positive), (None, 2.0), (0.0,), r"`x` must be positive, got 0\.0\."),
    ],
)
def test_rules(rule, good, bad, message):
    for value in good:
        check(Config(value), x=rule)
    for value in bad:
        with pytest.raises(ValueError, match=message):
            check(Config(value), x=rule)


def test_numbers_of_numpy_become_those_of_python():
    numbers = ((np.float64(2.5), positive), (np.int64(3), whole(1)), (np.float32(0.5), fraction), (np.True_, flag))
    for value, rule in numbers:
        config = Config(value)
        check(config, x=rule)
        assert type(config.x) in (int, float, bool)
        assert config.x == value


def test_not_both():
    not_both(k_cutoff=None, accuracy=None)
    not_both(k_cutoff=3.0, accuracy=None)
    with pytest.raises(ValueError, match=r"Give `k_cutoff` or `accuracy`, not both; got 3\.0 and 0\.001\."):
        not_both(k_cutoff=3.0, accuracy=1e-3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b'{"a": 1', "Expecting"),
        (b"\xff\xfe", "codec"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "it has the key 'b' twice"),
        (b"[1, NaN]", "it has the number NaN, which is not finite"),
        (b"-Infinity", "it has the number -Infinity"),
        (b"[1e999]", "it has the number 1e999"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_damaged_json(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json' is damaged: .*{message}.*\. Delete it\.$"):
        read_json(path, remedy="Delete it.")


def test_json_that_is_whole(tmp_path):
    (tmp_path / "a.json").write_text('{"ä": [1, 2.5, null, true]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"ä": [1, 2.5, None, True]}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")
    nan, infinite = parse_json("[NaN, -Infinity]", nonfinite=True)
    assert math.isnan(nan)
    assert infinite == -math.inf
