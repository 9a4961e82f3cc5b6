"""Derivatives of every float that the public functions return with respect to every float that they take.

Forwards with respect to each argument by itself, backwards from each output by itself, against differences. A function
or an argument that is new in `lesjax.ewald` or `lesjax.response` needs a place here.
"""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import ewald, response
from toy import with_slow


needs_x64 = pytest.mark.skipif(not jax.config.jax_enable_x64, reason="needs JAX_ENABLE_X64=1")

N, SIGMA, STEP = 4, 0.9, 1e-3
CELL = np.array([[4.9, 0.0, 0.0], [1.4, 5.7, 0.0], [-0.9, 1.1, 4.3]])
SOLVERS = {
    "direct": {"pbc": True, "k_cutoff": 2.5},
    "mesh": {"pbc": True, "method": "mesh", "accuracy": 1e-2},
    "slab": {"pbc": (True, True, False), "k_cutoff": 2.0},
    "open": {"pbc": False},
}

HOST = {
    "check_equilibration", "check_induction", "cutoff_for_accuracy", "force_error", "make_solver", "plan_bucket",
    "stack_solvers",
}  # fmt: skip
# in tests/response/test_electronic.py
APART = {"epsilon_infinity", "induced_polarizability", "polarizability"}
OPTIONS = {"solver", "atom_mask", "self_interaction", "tolerance", "max_iterations"}
OPTIONAL = {"dipoles", "quadrupoles"}
SOURCES = ["positions", "cell", "charges", "dipoles", "quadrupoles"]
RESPONSES = ["kappa", "alpha", "external_potential", "external_field"]
ARGUMENTS = {
    "energy": SOURCES,
    "self_energy": SOURCES[2:],
    "potential": SOURCES,
    "field": SOURCES,
    "one_shot_induction": SOURCES + RESPONSES,
    "self_consistent_induction": SOURCES + RESPONSES,
    "equilibrate": ["positions", "cell", "electronegativity", "hardness", "total_charge"],
}
FUNCTIONS = {name: value for name, value in (vars(ewald) | vars(response)).items() if inspect.isfunction(value)}
CASES = [(name, solver) for name in ARGUMENTS for solver in ("direct", "open")]
CASES += [("energy", "mesh"), ("energy", "slab")]
SLOW = [case for case in CASES if "induction" in case[0] and case[1] == "open"]


def test_each_function_and_argument_has_a_place():
    assert set(ARGUMENTS) <= set(FUNCTIONS) <= HOST | APART | set(ARGUMENTS)
    for name, arguments in ARGUMENTS.items():
        assert set(inspect.signature(FUNCTIONS[name]).parameters) - OPTIONS == set(arguments), name


def make_arguments(name, solver, keys):
    """Those floats that the function takes, and σ; in one case with channels, and polarizabilities as tensors."""
    rng = np.random.default_rng(0)
    shape = (N, 2) if name == "one_shot_induction" else (N,)
    roots = rng.normal(scale=0.15, size=(*shape, 3, 3))
    values = {
        "positions": rng.uniform(0.0, 1.0, (N, 3)) @ CELL,
        "cell": CELL,
        "charges": rng.normal(size=shape),
        "dipoles": rng.normal(size=(*shape, 3)),
        "quadrupoles": rng.normal(size=(*shape, 3, 3)),
        "kappa": rng.uniform(0.005, 0.02, shape),
        "alpha": roots @ np.swapaxes(roots, -1, -2) if solver == "direct" else rng.uniform(0.02, 0.05, shape),
        "external_potential": rng.normal(size=shape),
        "external_field": np.array([0.1, 0.2, -0.3]),
        "electronegativity": rng.normal(size=N),
        "hardness": rng.uniform(5.0, 10.0, N),
        "total_charge": np.array(0.7),
    }
    return {key: jnp.asarray(values[key]) for key in keys} | {"sigma": jnp.asarray(SIGMA, float)}


def make_outputs(name, solver):
    """The function of the dictionary of its arguments; its outputs by name."""
    function = FUNCTIONS[name]
    parameters = inspect.signature(function).parameters
    interaction = ewald.Coulomb(background=solver == "direct")
    plan = ewald.make_solver(CELL, n_atoms=N, sigma=SIGMA, interaction=interaction, **SOLVERS[solver])
    options = {"self_interaction": solver == "open"} if "self_interaction" in parameters else {}

    def outputs(arguments):
        given = {key: value for key, value in arguments.items() if key != "sigma"}
        result = function(dataclasses.replace(plan, sigma=arguments["sigma"]), **given, **options)
        named = vars(result) if dataclasses.is_dataclass(result) else {name: result}
        return {key: value for key, value in named.items() if jnp.issubdtype(value.dtype, jnp.floating)}

    return outputs


@needs_x64
@pytest.mark.parametrize(("name", "solver"), with_slow(CASES, SLOW))
def test_derivatives(name, solver):
    outputs, arguments = make_outputs(name, solver), make_arguments(name, solver, ARGUMENTS[name])

    @jax.jit
    def evaluate(arguments, tangents, cotangents):
        """Values, and both modes: the linear map of the tangents and its transpose."""
        values, pushforward = jax.linearize(outputs, arguments)
        (gradients,) = jax.linear_transpose(pushforward, arguments)(cotangents)
        return values, pushforward(tangents), gradients

    rng = np.random.default_rng(1)
    tangents = {key: rng.normal(size=leaf.shape) * jnp.mean(jnp.abs(leaf)) for key, leaf in arguments.items()}
    results = jax.eval_shape(outputs, arguments)
    cotangents = {key: jnp.asarray(rng.normal(size=leaf.shape)) for key, leaf in results.items()}
    zeros = jax.tree.map(jnp.zeros_like, (tangents, cotangents))

    gradients = {
        output: evaluate(arguments, zeros[0], zeros[1] | {output: cotangents[output]})[2] for output in cotangents
    }
    for key, tangent in tangents.items():
        slopes = evaluate(arguments, zeros[0] | {key: tangent}, zeros[1])[1]
        a, b, c, d = (
            evaluate(arguments | {key: arguments[key] + step * STEP * tangent}, *zeros)[0] for step in (-2, -1, 1, 2)
        )
        for output, cotangent in cotangents.items():
            difference = (a[output] - 8.0 * b[output] + 8.0 * c[output] - d[output]) / (12.0 * STEP)
            atol, where = 1e-7 * max(1.0, float(np.abs(difference).max())), f"{output} with respect to {key}"
            np.testing.assert_allclose(slopes[output], difference, rtol=0, atol=atol, err_msg=where)
            work = np.sum(gradients[output][key] * tangent)
            np.testing.assert_allclose(work, np.sum(cotangent * difference), rtol=0, atol=10 * atol, err_msg=where)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_one_argument_or_output_by_itself(name):
    """Where nothing depends on an argument, jax leaves out its derivative while it traces: others may then fail."""
    outputs = make_outputs(name, "open")
    needed = [key for key in ARGUMENTS[name] if key not in OPTIONAL]
    for key in [*ARGUMENTS[name], "sigma"]:
        arguments = make_arguments(name, "open", {*needed, key} - {"sigma"})

        def forwards(value, arguments=arguments, key=key):
            return jax.jvp(lambda value: outputs(arguments | {key: value}), (value,), (value,))[1]

        results = jax.eval_shape(forwards, arguments[key])

    arguments = make_arguments(name, "open", needed)
    for output in results:

        def backwards(arguments, output=output):
            found, pullback = jax.vjp(lambda arguments: outputs(arguments)[output], arguments)
            return pullback(found)[0]

        assert jax.eval_shape(backwards, arguments).keys() == arguments.keys()
