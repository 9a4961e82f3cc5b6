"""Published files of cace, converted, against the values of the published code in float64."""

import json

import jax
import numpy as np
import pytest

import lesjax
from lesjax.published import cace, torch_file
from lesjax.published.family import Options
from lesjax.system import System
from lesjax.units import COULOMB


X64 = jax.config.jax_enable_x64

# file, its smallest structure, and whether there are Born effective charges for it
FILES = (
    ("au_mgo_les_nu2", "s1", True),
    ("au_mgo_lr", "s1", True),
    ("lesbec_water_v1", "s1", False),
    ("lesbec_water_v3", "s1", False),
    ("lesbec_water_v3", "s0", True),
    ("licl_gaf3_lr0", "s0", False),
    ("random_charge_lr5", "s0", True),
    ("water_interface_mp0", "s1", False),
)


@pytest.mark.filterwarnings("ignore:The latent charges of a periodic cell add up")
@pytest.mark.parametrize(("name", "structure", "has_born"), FILES)
def test_prediction(shared_path, name, structure, has_born):
    path = shared_path(f"checkpoints/cace_{name}.pth")
    with np.load(shared_path(f"checkpoints/cace_{name}.npz")) as file:
        expected = {k.partition("/")[2]: file[k] for k in file.files if k.startswith(f"{structure}/")}
        info = json.loads(str(file["info"]))
    potential = cace.convert_file(torch_file.read(path), Options()).potential
    pbc = tuple(bool(x) for x in expected["pbc"])
    system = System.from_arrays(
        expected["positions"], expected["cell"], expected["numbers"], pbc, cutoff=potential.cutoff
    )
    n = len(expected["numbers"])
    out = potential(system)
    # charges whose Coulomb energy is the published one, weight included
    to_e = (info["long_range"]["weight"] * info["long_range"]["norm_factor"] / (2.0 * np.pi * COULOMB)) ** 0.5
    found = {
        "energy": out.energy,
        "energy_lr": out.long_range_energy,
        "energy_sr": out.short_range_energy,
        "forces": out.forces[:n],
        "stress": out.stress,
        "charges": out.charges[:n] / to_e,
    }
    if has_born:
        factor = info["bec"]["normalization_factor"] / to_e
        found["bec"] = factor * potential.born_effective_charges(system)[:n]
        if info["long_range"]["norm_factor"] == 1.0:  # cace has the displacement first, les the polarization
            expected["bec"] = expected["bec"].swapaxes(1, 2)
    for key, value in found.items():
        atol = 1e-11 if X64 else 2e-4 * max(1.0, np.abs(expected[key]).max())
        reference = expected[key].reshape(np.shape(value))
        np.testing.assert_allclose(value, reference, rtol=1e-11, atol=atol, err_msg=key)


def test_structures_orient_charges(shared_path):
    """Fluorine is positive in the published file."""
    with np.load(shared_path("checkpoints/cace_licl_gaf3_lr0.npz")) as file:
        numbers, positions, cell, charges = (file[f"s0/{x}"] for x in ("numbers", "positions", "cell", "charges"))
    atoms = lesjax.io.Atoms(numbers, positions, cell=cell, pbc=True)
    path = shared_path("checkpoints/cace_licl_gaf3_lr0.pth")
    assert charges[numbers == 9].mean() > 0.0
    np.testing.assert_array_equal(lesjax.convert(path, structures=[atoms]).signs, -1.0)
