"""Charges only, against the PyTorch code: energy, derivatives, potential and field of all cases."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import ewald
from lesjax.units import COULOMB


# The reference took 1/(2 eps0) = 90.4756 eV Å, ours has all digits.
SCALE = 2.0 * math.pi * COULOMB / 90.4756

SUMS = [f"{system}_{total}" for system in ("a_cubic", "b_triclinic") for total in ("neutral", "charged")]
PLAIN = [f"{name}_s1.0_dl2.0" for name in (*SUMS, "c_ortho_8x8x30", "c_ortho_8.3x8.3x30.7")]
PLAIN += ["d_molecule_neutral_s1.0_dl2.0", "d_molecule_charged_s1.0_dl2.0"]
CONVERGED = [f"{name}_s1.5_dl1.0" for name in SUMS]
CHANNELS = [f"i_nq4_{system}_s1.0_dl2.0_rsi1" for system in ("cubic", "triclinic", "molecule")]
CASES = [f"{name}_rsi{removed}" for name in (*PLAIN, *CONVERGED) for removed in (0, 1)] + CHANNELS

# holds the k-grids of all cases
GRID = (11, 11, 16)

# float32 rounds 1e-7 of terms that cancel to a tenth and less
TOLERANCE = {"float64": 1e-8, "float32": 1e-5}


@pytest.fixture(scope="module")
def cases(shared_path):
    path = shared_path("reference/les_ewald.json")
    return {case["name"]: case for case in json.loads(path.read_text())["cases"]}


def test_all_cases_with_charges_only_are_listed(cases):
    others = ("u", "quad", "kappa", "alpha", "e_ext", "qmodel_c")
    plain = [name for name, case in cases.items() if all(case["inputs"][key] is None for key in others)]
    assert sorted(plain) == sorted(CASES)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_reference(cases, name, dtype):
    if dtype == "float64" and not jax.config.jax_enable_x64:
        pytest.skip("needs JAX_ENABLE_X64=1")
    inputs, settings, reference = (cases[name][key] for key in ("inputs", "settings", "outputs"))
    periodic = settings["branch"] == "triclinic"
    cell = np.array(inputs["cell"], dtype) if periodic else np.zeros((3, 3), dtype)
    solver = ewald.make_solver(
        np.array(inputs["cell"], float) if periodic else cell,
        periodic,
        n_atoms=settings["n_atoms"],
        sigma=settings["sigma"],
        k_cutoff=2.0 * math.pi / settings["dl"] if periodic else None,
    )
    if periodic:
        assert _number_of_kvectors(solver.kmask) == settings["n_k"]
        solver = dataclasses.replace(solver, kmask=_padded(solver.kmask))
    found = _outputs(
        solver,
        jnp.asarray(inputs["positions"], dtype),
        jnp.asarray(cell),
        jnp.asarray(inputs["q"], dtype),
        self_interaction=not settings["remove_self_interaction"],
    )
    if periodic:
        virial = found["strain_grad"]
        found["stress"] = 0.5 * (virial + virial.T) / abs(np.linalg.det(cell))
    for key, value in found.items():
        expected = SCALE * np.reshape(reference[key], value.shape)
        assert value.dtype == dtype, key
        atol = TOLERANCE[dtype] * np.abs(expected).max()
        np.testing.assert_allclose(value, expected, rtol=0, atol=atol, err_msg=key)


@functools.partial(jax.jit, static_argnames="self_interaction")
def _outputs(solver, positions, cell, charges, *, self_interaction):
    def energy(positions, cell):
        return ewald.energy(solver, positions, cell, charges, self_interaction=self_interaction)

    value, (gradient, cell_gradient) = jax.value_and_grad(energy, (0, 1))(positions, cell)
    return {
        "energy": value,
        "forces": -gradient,
        "strain_grad": positions.T @ gradient + cell.T @ cell_gradient,
        "phi": ewald.potential(solver, positions, cell, charges, self_interaction=self_interaction),
        "field": ewald.field(solver, positions, cell, charges),
    }


def _padded(kmask):
    """One shape for all cases, so that less is compiled; what is added has no weight."""
    return np.pad(kmask, [(0, 0), *((0, size - n) for size, n in zip(GRID, kmask.shape[1:], strict=True))])


def _number_of_kvectors(kmask):
    """Half of all: the mask holds one of k and -k, and both of them where an index is zero."""
    _, *sizes = kmask.shape
    n1, n2, n3 = np.meshgrid(*map(np.arange, sizes), indexing="ij")
    both = [
        np.stack([sign * n1, sign * s2 * n2, sign * s3 * n3], -1)[mask]
        for sign in (1, -1)
        for (s2, s3), mask in zip(((1, 1), (1, -1), (-1, 1), (-1, -1)), kmask, strict=True)
    ]
    return len(np.unique(np.concatenate(both), axis=0)) / 2
