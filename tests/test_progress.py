"""Progress without a terminal: lines on the standard output, none when nobody asks for them."""

import sys

import jax
import jax.numpy as jnp
import pytest

from lesjax.progress import compilations, progress_bar


def test_lines(capsys):
    """One for each step, or few where they would come too fast: the first and the last one in any case."""
    for seconds, expected in ((0.0, ["0", "1", "2", "3"]), (1e9, ["0", "3"])):
        with progress_bar("step", 3, 0, False, seconds) as show:
            for i in range(4):
                show(i, f"{i} K")
        captured = capsys.readouterr()
        assert captured.err == ""
        assert captured.out.splitlines() == [f"step {i}/3: {i} K" for i in expected]


@pytest.mark.parametrize("quiet", [True, None])
def test_nothing_that_nobody_asked_for(capsys, quiet):
    with compilations(quiet, -1.0), progress_bar("step", 3, 0, quiet) as show:
        jax.jit(lambda x: x + 1.0)(jnp.ones(7)).block_until_ready()
        show(3, "done")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with compilations(False), progress_bar("step", 3, 0, False) as show:
        show(3, "done")
    captured = capsys.readouterr()
    assert "step 3/3" in captured.err
    assert captured.out == ""


def test_compilations_are_announced(capsys):
    def some_function(x):
        return jnp.sin(x) + 0.123

    with compilations(False, -1.0):
        jax.jit(some_function)(jnp.ones(5)).block_until_ready()
        first, *others = capsys.readouterr().out.splitlines()
        jax.jit(some_function)(jnp.ones(5)).block_until_ready()
        again = capsys.readouterr().out
    jax.jit(some_function)(jnp.ones(6)).block_until_ready()
    assert first == "compiling …"
    assert [line for line in others if line.startswith("compiled some_function in ") and line.endswith(" s")]
    assert "some_function" not in again
    assert capsys.readouterr().out == ""
