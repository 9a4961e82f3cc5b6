"""All cases of the PyTorch code: energy, derivatives, potential, field, what they induce, Born effective charges.

Charges alone take the path without multipoles. In all other cases what a case does not have is zero, and its
atoms are padded to one number, so that few functions are compiled.
"""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import ewald, response
from lesjax.properties import born_effective_charges
from lesjax.units import COULOMB
from toy import with_slow


# The reference took 1/(2 eps0) = 90.4756 eV Å, ours has all digits.
SCALE = 2.0 * math.pi * COULOMB / 90.4756

# Listed here because the file is read by a fixture, and may be missing.
SUMS = [f"{system}_{total}" for system in ("a_cubic", "b_triclinic") for total in ("neutral", "charged")]
PLAIN = [f"{name}_s1.0_dl2.0" for name in (*SUMS, "c_ortho_8x8x30", "c_ortho_8.3x8.3x30.7")]
PLAIN += ["d_molecule_neutral_s1.0_dl2.0", "d_molecule_charged_s1.0_dl2.0"]
CONVERGED = [f"{name}_s1.5_dl1.0" for name in SUMS]
CHANNELS = [f"i_nq4_{system}_s1.0_dl2.0_rsi1" for system in ("cubic", "triclinic", "molecule")]
CHARGES = [f"{name}_rsi{removed}" for name in (*PLAIN, *CONVERGED) for removed in (0, 1)] + CHANNELS

WITH_AND_WITHOUT_SELF = ("e_dipole", "f_dipole_quad", "g_kappa", "g_alpha_iso")
ALPHAS = [f"g_alpha_{shape}{also}" for shape in ("iso", "aniso") for also in ("", "_eext", "_epsr")]
MULTIPOLES = [
    f"{name}_{system}_s1.0_dl2.0_rsi{removed}"
    for system in ("cubic", "triclinic", "molecule")
    for names, removed in (
        (WITH_AND_WITHOUT_SELF, 0),
        (dict.fromkeys((*WITH_AND_WITHOUT_SELF, *ALPHAS, "f_quad_only", "g_all", "j_qmodel")), 1),
    )
    for name in names
]
MULTIPOLES += [f"i_nq4_{name}_cubic_s1.0_dl2.0_rsi1" for name in ("multipoles", "induced")]
MULTIPOLES += ["i_nq4_multipoles_cubic_s1.0_dl2.0_rsi0"]

# holds the k-grids of all cases with charges only, and of all others
GRID, SMALL_GRID = (11, 11, 16), (6, 6, 6)

N_ATOMS = 20

# float32 rounds 1e-7 of terms that cancel to a tenth and less
TOLERANCE = {"float64": 1e-8, "float32": 1e-5}


@pytest.fixture(scope="module")
def cases(shared_path):
    path = shared_path("reference/les_ewald.json")
    return {case["name"]: case for case in json.loads(path.read_text())["cases"]}


def test_all_cases_are_listed(cases):
    assert sorted(cases) == sorted(CHARGES + MULTIPOLES)


CASES = [(name, dtype) for dtype in ("float64", "float32") for name in CHARGES]
SLOW = [case for case in CASES if "nq4" in case[0] and case[1] == "float32"]


@pytest.mark.parametrize(("name", "dtype"), with_slow(CASES, SLOW))
def test_charges(cases, name, dtype):
    if dtype == "float64" and not jax.config.jax_enable_x64:
        pytest.skip("needs JAX_ENABLE_X64=1")
    case = cases[name]
    solver, cell = _solver(case, GRID, dtype)
    found = _outputs_of_charges(
        solver,
        jnp.asarray(case["inputs"]["positions"], dtype),
        cell,
        jnp.asarray(case["inputs"]["q"], dtype),
        self_interaction=not case["settings"]["remove_self_interaction"],
    )
    _compare(found, case, cell, dtype)


@pytest.mark.parametrize("name", MULTIPOLES)
def test_multipoles_and_induction(cases, name):
    dtype = "float64" if jax.config.jax_enable_x64 else "float32"
    case = cases[name]
    inputs = case["inputs"]
    solver, cell = _solver(case, SMALL_GRID, dtype)
    n, *channels = np.shape(inputs["q"])
    shapes = {"u": (3,), "quad": (3, 3), "kappa": (), "alpha": (3, 3), "qmodel_c": ()}
    arrays = {key: np.zeros((n, *channels, *shape)) for key, shape in shapes.items()}
    for key, values in arrays.items():
        if inputs[key] is not None:
            given = np.array(inputs[key])
            values[...] = given[..., None, None] * np.eye(3) if key == "alpha" and given.ndim < values.ndim else given
    arrays |= {"positions": np.array(inputs["positions"]), "q": np.array(inputs["q"])}
    arrays = {key: np.pad(value, [(0, N_ATOMS - n), *[(0, 0)] * (value.ndim - 1)]) for key, value in arrays.items()}
    external_field = np.zeros(3) if inputs["e_ext"] is None else np.array(inputs["e_ext"])
    # volts that differ by the same factor as the energies induce the same charges and dipoles
    arrays |= {"kappa": arrays["kappa"] / SCALE, "alpha": arrays["alpha"] / SCALE}
    external_field *= SCALE
    with_dipoles = inputs["u"] is not None or inputs["alpha"] is not None
    found = _outputs(
        solver,
        {key: jnp.asarray(value, dtype) for key, value in arrays.items()},
        cell,
        jnp.asarray(external_field, dtype),
        jnp.asarray(1.0 if inputs["umodel"] else 0.0, dtype),
        jnp.arange(N_ATOMS) < n,
        self_interaction=not case["settings"]["remove_self_interaction"],
    )
    found = {key: value[:n] if value.shape[:1] == (N_ATOMS,) else value for key, value in found.items()}
    # what the reference does not have where the input is missing
    optional = {"dE_du": "u", "dE_dquad": "quad", "q_of_r": "qmodel_c", "u_of_r": "umodel"}
    for key, needed in optional.items():
        if inputs[needed] is None or inputs[needed] is False:
            del found[key]
    if not with_dipoles:
        del found["latent_dipoles_out"]
    _compare(found, case, cell, dtype)


def _solver(case, grid, dtype):
    settings = case["settings"]
    periodic = settings["branch"] == "triclinic"
    cell = np.array(case["inputs"]["cell"], float) if periodic else np.zeros((3, 3))
    k_cutoff = 2.0 * math.pi / settings["dl"] if periodic else None
    n_atoms, sigma = settings["n_atoms"], settings["sigma"]
    solver = ewald.make_solver(cell, periodic, n_atoms=n_atoms, sigma=sigma, k_cutoff=k_cutoff)
    if periodic:
        assert _number_of_kvectors(solver.kmask) == settings["n_k"]
        solver = dataclasses.replace(solver, kmask=_padded(solver.kmask, grid))
    return solver, jnp.asarray(cell, dtype)


# what is in e and e Å and so the same for every value of eps0
SOURCES = ("q_of_r", "u_of_r", "q_induced", "u_induced", "latent_charges_out", "latent_dipoles_out", "bec")


def _compare(found, case, cell, dtype):
    if case["settings"]["branch"] == "triclinic":
        virial = found["strain_grad"]
        found["stress"] = 0.5 * (virial + virial.T) / abs(np.linalg.det(cell))
    # the dielectric constant is in tests/properties/test_response.py
    outputs = {key: value for key, value in case["outputs"].items() if value is not None}
    assert set(outputs) - {"bec_error", "epsilon_r", "energy_float32_les"} <= set(found)
    if "bec" in outputs:
        bec = np.array(outputs["bec"])
        # the parts of charges and dipoles
        outputs["bec"] = bec.sum(axis=1) if bec.ndim == 4 else bec
    else:
        found.pop("bec", None)
    for key, value in found.items():
        expected = np.reshape(outputs[key], value.shape) * (1.0 if key in SOURCES else SCALE)
        assert value.dtype == dtype, key
        # in float32 an energy is no better than that of the atoms with themselves, 10 to 60 eV, which was removed
        size = 10.0 if key == "energy" and dtype == "float32" else 1e-3
        atol = TOLERANCE[dtype] * max(np.abs(expected).max(), size)
        np.testing.assert_allclose(value, expected, rtol=0, atol=atol, err_msg=key)


@functools.partial(jax.jit, static_argnames="self_interaction")
def _outputs_of_charges(solver, positions, cell, charges, *, self_interaction):
    def energy(positions, cell, charges):
        return ewald.energy(solver, positions, cell, charges, self_interaction=self_interaction)

    value, (gradient, cell_gradient, by_charges) = jax.value_and_grad(energy, (0, 1, 2))(positions, cell, charges)
    return {
        "energy": value,
        "forces": -gradient,
        "strain_grad": positions.T @ gradient + cell.T @ cell_gradient,
        "phi": ewald.potential(solver, positions, cell, charges, self_interaction=self_interaction),
        "field": ewald.field(solver, positions, cell, charges, self_interaction=self_interaction),
        "dE_dq": by_charges,
        "latent_charges_out": charges,
        "q_induced": jnp.zeros_like(charges),
        "u_induced": jnp.zeros((*charges.shape, 3), charges.dtype),
        "bec": born_effective_charges(lambda _: charges, positions, cell, _pbc(solver)),
    }


@functools.partial(jax.jit, static_argnames="self_interaction")
def _outputs(solver, arrays, cell, external_field, u_model, atom_mask, *, self_interaction):
    positions = arrays["positions"]
    options = {"atom_mask": atom_mask, "self_interaction": self_interaction}

    def model(positions, cell, changes):
        charges, dipoles = _charges_and_dipoles(solver, positions, cell, arrays, u_model, atom_mask)
        return charges + changes[0], {"dipoles": dipoles + changes[1], "quadrupoles": arrays["quad"] + changes[2]}

    def induce(positions, cell, changes):
        charges, others = model(positions, cell, changes)
        return response.one_shot_induction(
            solver,
            positions,
            cell,
            charges,
            kappa=arrays["kappa"],
            alpha=arrays["alpha"],
            external_field=external_field,
            **others,
            **options,
        )

    def energy(positions, cell, changes):
        induction = induce(positions, cell, changes)
        return induction.energy, induction

    def moments(positions):
        charges, others = model(positions, cell, changes)
        induction = induce(positions, cell, changes)
        return charges + induction.charges, others["dipoles"] + induction.dipoles

    changes = tuple(jnp.zeros_like(arrays[key]) for key in ("q", "u", "quad"))
    (_, induction), gradients = jax.value_and_grad(energy, (0, 1, 2), has_aux=True)(positions, cell, changes)
    gradient, cell_gradient, (by_charges, by_dipoles, by_quadrupoles) = gradients
    charges, others = model(positions, cell, changes)
    # the reference has none of several channels
    pbc, single = _pbc(solver), charges.ndim == 1
    born = {"bec": born_effective_charges(moments, positions, cell, pbc, atom_mask=atom_mask)} if single else {}
    return born | {
        "energy": induction.energy,
        "forces": -gradient,
        "strain_grad": positions.T @ gradient + cell.T @ cell_gradient,
        "phi": ewald.potential(solver, positions, cell, charges, **others, **options),
        "field": ewald.field(solver, positions, cell, charges, **others, **options),
        "dE_dq": by_charges,
        "dE_du": by_dipoles,
        "dE_dquad": by_quadrupoles,
        "q_of_r": charges,
        "u_of_r": others["dipoles"],
        "q_induced": induction.charges,
        "u_induced": induction.dipoles,
        "latent_charges_out": charges + induction.charges,
        "latent_dipoles_out": others["dipoles"] + induction.dipoles,
    }


def _charges_and_dipoles(solver, positions, cell, arrays, u_model, atom_mask):
    """The models `q_model` and `u_model` of the file, in which charges and dipoles depend on the positions."""
    if arrays["q"].ndim > 1:
        return arrays["q"], arrays["u"]
    differences = positions[None, :, :] - positions[:, None, :]
    if isinstance(solver, ewald.OpenSolver):
        weights, directions = jnp.exp(-0.25 * jnp.sum(differences**2, -1)), differences
    else:
        fractional = 2.0 * math.pi * differences @ jnp.linalg.inv(cell)
        weights, directions = jnp.exp(-jnp.sum(1.0 - jnp.cos(fractional), -1)), jnp.sin(fractional)
    pairs = ~jnp.eye(len(positions), dtype=bool) & atom_mask[None, :] & atom_mask[:, None]
    shares = 0.05 * jnp.where(pairs, weights, 0.0) * arrays["qmodel_c"][None, :]
    return arrays["q"] + jnp.sum(shares, 1), arrays["u"] + u_model * jnp.sum(shares[:, :, None] * directions, 1)


def _pbc(solver):
    return (not isinstance(solver, ewald.OpenSolver),) * 3


def _padded(kmask, grid):
    """One shape for all cases, so that less is compiled; what is added has no weight."""
    return np.pad(kmask, [(0, 0), *((0, size - n) for size, n in zip(grid, kmask.shape[1:], strict=True))])


def _number_of_kvectors(kmask):
    """Half of all but k = 0: the mask holds one of k and -k, and both of them where an index is zero."""
    _, *sizes = kmask.shape
    n1, n2, n3 = np.meshgrid(*map(np.arange, sizes), indexing="ij")
    both = [
        np.stack([sign * n1, sign * s2 * n2, sign * s3 * n3], -1)[mask]
        for sign in (1, -1)
        for (s2, s3), mask in zip(((1, 1), (1, -1), (-1, 1), (-1, -1)), kmask, strict=True)
    ]
    return len(np.unique(np.concatenate(both), axis=0)) // 2
