"""Numbers that no one meant are refused before anything is computed; digits are kept wherever atoms lie."""

import dataclasses
import json
import math

import ase
import ase.build
import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lesjax import cli, datasets, ewald, io, load
from lesjax.dynamics import LesCalculator, Settings, simulate
from lesjax.dynamics.integrators import ENSEMBLES
from lesjax.dynamics.settings import ANGULAR_MOMENTA, FORMATS
from lesjax.models import (
    CACEConfig,
    Ensemble,
    FixedCharges,
    LatentCharges,
    LongRangeConfig,
    ModelConfig,
    Potential,
    ensemble as ensemble_module,
    potential as potential_module,
)
from lesjax.neighbors.host import bring_home, neighbor_arrays
from lesjax.runs import read_table
from lesjax.system import System
from lesjax.training import evaluate
from lesjax.training.data import make_dataset
from lesjax.validate import BOUNDS, array, check_memory, directions, number, positive
from toy import CELL, MODEL, make_frame, moved_potential


X64 = jax.config.jax_enable_x64
CONFIG = dataclasses.replace(
    MODEL,
    short_range=dataclasses.replace(MODEL.short_range, elements=(11, 17)),
    reference_energies=(-4.4e6, -1.25e7),
)


@pytest.fixture(scope="module")
def potential():
    return moved_potential(CONFIG)


@pytest.fixture
def frame():
    return make_frame(np.random.default_rng(3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CACEConfig(elements=(11, 119)), "`elements` must be different atomic numbers from 1 to 118"),
        (lambda: CACEConfig(elements=(11, 11)), "`elements` must be different atomic numbers"),
        (lambda: CACEConfig(elements=(10**12,)), "`elements`"),
        (lambda: CACEConfig(max_l=200), "`max_l` must lie from 0 to 5, got 200"),
        (lambda: CACEConfig(cutoff=1e3), r"`cutoff` must lie from 0\.1 to 50, got 1000\.0"),
        (lambda: CACEConfig(cutoff_p=1e9), "`cutoff_p` must lie from 1 to 64"),
        (lambda: CACEConfig(n_radial=10**30), "`n_radial` must lie from 1 to 128"),
        (lambda: CACEConfig(n_bessel=10**9), "`n_bessel`"),
        (lambda: CACEConfig(message_scale=0.0), "`message_scale` must be positive"),
        (lambda: CACEConfig(messages=(("M",),) * 1000), "`messages` must have at most 4 layers, got 1000"),
        (lambda: LatentCharges(n_channels=10**6), "`n_channels` must lie from 1 to 32"),
        (lambda: LatentCharges(hidden=(1,) * 100_000), r"`hidden` must have at most 16 whole widths.*…\."),
        (lambda: LatentCharges(self_energies_removed=math.nan), "`self_energies_removed` must be finite"),
        (lambda: LongRangeConfig(sigma=math.inf), "`sigma` must be positive"),
        (lambda: LongRangeConfig(k_cutoff=1e4), "`k_cutoff` must lie from"),
        (lambda: ModelConfig(reference_energies=(math.nan,)), "`reference_energies` must be finite numbers"),
        (lambda: Settings(steps=10**30), "`steps` must lie from 1 to 1e"),
        (lambda: Settings(pressure=1e9), "`pressure` must lie from -1e"),
        (lambda: Settings(seed=10**5000), "`seed` must lie from 0 to .*, got a number of thousands of digits"),
        (lambda: Settings(electric_field=(0.0, 0.0, math.nan)), "`electric_field` must be finite numbers"),
    ],
)  # fmt: skip
def test_bounds_of_configurations(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_shipped_defaults_lie_within_the_bounds():
    for config in (CACEConfig(), LongRangeConfig(), LatentCharges(), Settings()):
        for name, value in vars(config).items():
            if name in BOUNDS and isinstance(value, int | float):
                assert BOUNDS[name][0] <= value <= BOUNDS[name][1]


def test_memory_has_a_bound_that_can_be_set(monkeypatch):
    check_memory("A list", 7e9, "Less")
    with pytest.raises(ValueError, match=r"A list would take about 9 GB, more than the bound of 8 GB\. Less, or set"):
        check_memory("A list", 9e9, "Less")
    monkeypatch.setenv("LESJAX_MEMORY_GB", "10")
    check_memory("A list", 9e9, "Less")
    monkeypatch.setenv("LESJAX_MEMORY_GB", "much")
    with pytest.raises(ValueError, match="LESJAX_MEMORY_GB must be a positive number of GB, got 'much'"):
        check_memory("A list", 1.0, "Less")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (CELL * 1e-3, r"neighbours within 3\.6 Å of 4 atoms, up to about .* of one, is not made: the most is 20000"),
        (np.array([CELL[0], CELL[0] + [0, 1e-6, 0], CELL[2]]), "up to about .* of one"),
        (CELL * 1e-12, "up to about .* of one"),
    ],
)
def test_lattices_with_more_neighbors_than_sense(cell, message):
    with pytest.raises(ValueError, match=message):
        System.from_arrays(np.arange(12.0).reshape(4, 3), cell, [11] * 4, True, cutoff=3.6)


def test_pairs_are_estimated(monkeypatch):
    """The bound lies between half and twice of what a list has."""
    atoms = ase.build.bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(6)
    pairs = int(neighbor_arrays(atoms.positions, atoms.cell.array, (True,) * 3, 6.0)[2].sum())
    for factor, fits in ((2.0, True), (0.5, False)):
        monkeypatch.setenv("LESJAX_MEMORY_GB", str(85e-9 * factor * pairs))
        if fits:
            neighbor_arrays(atoms.positions, atoms.cell.array, (True,) * 3, 6.0)
        else:
            with pytest.raises(ValueError, match=r"neighbours within 6 Å of 1728 atoms, about .* pairs, would take"):
                neighbor_arrays(atoms.positions, atoms.cell.array, (True,) * 3, 6.0)


def test_k_vectors_are_counted_first():
    with pytest.raises(ValueError, match=r"A sum over .* k-vectors up to .* 1/Å for edges \[3000.0.* would take about"):
        ewald.make_solver(np.eye(3) * 3e3, True, n_atoms=8)
    with pytest.raises(ValueError, match="k-vectors up to 90 1/Å"):
        ewald.make_solver(np.eye(3) * 50.0, True, n_atoms=8, k_cutoff=90.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k_cutoff": 1e4}, r"`k_cutoff` must lie from 0\.001 to 100, got 10000\.0"),
        ({"k_cutoff": 1e-300}, "`k_cutoff` must lie from"),
        ({"accuracy": 1e-30}, "`accuracy` must lie from 1e-12 to"),
        ({"sigma": 1e9}, r"`sigma` must lie from 0\.01 to 50"),
        ({"n_atoms": 10**12}, r"`n_atoms` must lie from 1 to 1e\+09"),
    ],
)
def test_settings_of_a_plan_have_the_same_bounds(settings, message):
    with pytest.raises(ValueError, match=message):
        ewald.make_solver(CELL, True, **{"n_atoms": 4, **settings})


def test_lattices_that_are_lower_than_atoms_are_apart():
    with pytest.raises(ValueError, match=r"`cell` has lattice planes 0\.00.* Å apart, less than 0\.1 Å"):
        ewald.make_solver(CELL * 1e-3, True, n_atoms=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": np.ones((2, 3)) * 1j}, "`positions` must be real numbers, got complex numbers"),
        ({"positions": [[0, 0, 0], [1e308, 0, 0]]}, r"`positions` of atom 1 are beyond 1e\+06 Å"),
        ({"positions": [["a", 0, 0], [1, 0, 0]]}, "`positions` must be real numbers, got entries of type"),
        ({"positions": [[0, 0], [1, 0, 0]]}, "`positions` must be an array of numbers"),
        ({"cell": np.full((3, 3), np.nan)}, "`cell` must be finite numbers"),
        ({"atomic_numbers": [1.5, 1]}, r"`atomic_numbers` must be whole numbers up to 118, got 1\.5 at \[0\]"),
        ({"atomic_numbers": [1, 119]}, r"`atomic_numbers` must be whole numbers up to 118, got 119 at \[1\]"),
        ({"atomic_numbers": [1, 0]}, "[aA]tom 1 .*ghost atom"),
        ({"atomic_numbers": [np.nan, 1]}, "`atomic_numbers` must be whole numbers"),
        ({"pbc": "false"}, "`pbc` must be True, False or three of them, got 'false'"),
        ({"pbc": (True, False)}, "`pbc` must be True"),
        ({"cutoff": 1e3}, r"`cutoff` must be at most 70 Å, got 1000\.0"),
        ({"spin_multiplicity": math.inf}, "`spin_multiplicity` must be a number"),
    ],
)
def test_arrays_of_a_system(changes, message):
    good = {"positions": [[0, 0, 0], [1, 0, 0]], "cell": np.eye(3) * 9, "atomic_numbers": [1.0, 1], "pbc": (1, 0, True)}
    assert System.from_arrays(**good, cutoff=4.0).pbc == (True, False, True)
    with pytest.raises(ValueError, match=message):
        System.from_arrays(**{**good, "cutoff": 4.0, **changes})


def test_kinds_that_annotations_exclude():
    """They are not checked where users run."""
    for pbc in (None, math.nan, "true", 2, [None] * 3, np.array("x")):
        with pytest.raises(ValueError, match="`pbc` must be True, False or three of them"):
            directions(pbc)
    assert directions(np.array([True, False, True])) == (True, False, True)
    for value in ("4", None, [4.0], 1j, True, 10**400, math.nan):
        with pytest.raises(ValueError, match=r"`cutoff` must be .*, got "):
            number("cutoff", value, positive)
    assert number("cutoff", jnp.asarray(4.0), positive) == 4.0


def test_cutoff_shorter_than_that_of_the_model(potential, frame):
    with pytest.raises(
        ValueError, match=r"`system` has neighbours within 3 Å, but the model needs those within 3\.6 Å"
    ):
        potential(System.from_ase(frame, cutoff=3.0))
    longer = potential(System.from_ase(frame, cutoff=4.5)).energy
    exact = potential(System.from_ase(frame, cutoff=potential.cutoff)).energy
    np.testing.assert_allclose(longer, exact, rtol=1e-9 if X64 else 1e-4)


def test_labels_that_are_infinite(frame):
    frame.info["REF_energy"] = math.inf
    with pytest.raises(ValueError, match="`energy` must be finite numbers"):
        io.labels(frame)


def test_labels_that_are_nan_are_told(frame):
    """NaN stands for none."""
    other = frame.copy()
    other.info["REF_energy"] = math.nan
    other.arrays["REF_forces"][1, 2] = math.nan
    with pytest.warns(UserWarning, match="has NaN in") as told:
        selection = io.select([frame, other])
    texts = [str(warning.message) for warning in told]
    for name in ("REF_energy", "REF_forces"):
        assert f"`{name}` has NaN in 1 of 2 structures (first: 1), which counts as no label." in texts
    assert np.isnan(selection.labels[1].energy)


def test_masked_entries():
    with pytest.raises(ValueError, match="`positions` must be real numbers, got masked entries"):
        array("positions", np.ma.array([1.0, 2.0], mask=[False, True]))


def test_options_of_md_are_checked_before_anything_is_imported(tmp_path, capsys):
    """Their names and bounds are those of `Settings`, which takes seconds to import."""
    assert cli.ENSEMBLES == ENSEMBLES
    choices = {name: options.get("choices") for name, _, options in cli.MD_OPTIONS}
    assert (choices["angular_momentum"], choices["format"]) == (ANGULAR_MOMENTA, FORMATS)
    command = ["md", "no model", "no structure", "--out", str(tmp_path / "md")]
    for option, value, message in (
        ("--steps", "0", "`steps` must lie from 1 to 1e+09, got 0"),
        ("--pressure", "1e9", "`pressure` must lie from"),
        ("--timestep", "nan", "`timestep` must lie from"),
        ("--temperature", "inf", "`temperature` must lie from"),
        ("--seed", "9" * 400, "`seed` must lie from"),
    ):
        assert cli.main([*command, option, value]) == 1
        assert message in capsys.readouterr().err
    assert cli.main([*command, "--electric-field", "0", "nan", "0"]) == 1
    assert "`electric_field` must lie from" in capsys.readouterr().err
    for option, value in (("--steps", "1.5"), ("--log-every", "10.0"), ("--ensemble", "nvtt"), ("--format", "pdb")):
        with pytest.raises(SystemExit):
            cli.main([*command, option, value])
        assert f"error: argument {option}: invalid" in capsys.readouterr().err
    assert not (tmp_path / "md").exists()


def test_saved_numbers(potential, tmp_path):
    path = tmp_path / "model"
    potential.save(path)
    file, good = path / "params.safetensors", load_file(path / "params.safetensors")
    name = max(good, key=lambda n: good[n].size)
    for change in (
        lambda x: np.where(np.arange(x.size).reshape(x.shape) == 0, np.nan, x),
        lambda x: np.full_like(x, np.inf),
        lambda x: x > 0,
        lambda x: x.astype(np.int8),
    ):
        save_file(good | {name: np.ascontiguousarray(change(good[name]))}, file)
        with pytest.raises(ValueError, match=r"params\.safetensors' is damaged: .* Take another"):
            load(path)
    save_file(good, file)
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    first = next(iter(json.loads(data[8 : 8 + length])))
    entry = json.dumps({first: json.loads(data[8 : 8 + length])[first]})[1:-1]
    header = data[8 : 8 + length].rstrip()[:-1] + b"," + entry.encode() + b"}"
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    with pytest.raises(ValueError, match="is damaged"):
        load(path)


def test_results_that_are_not_finite(potential, frame):
    huge = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), potential.params)
    with pytest.raises(FloatingPointError, match=r"The energy of this structure is not finite"):
        dataclasses.replace(potential, params=huge)(System.from_ase(frame, cutoff=potential.cutoff))


def test_counts_of_atoms_in_headers(tmp_path, frame):
    path = tmp_path / "a.xyz"
    io.write(path, [frame, frame])
    lines = path.read_text().splitlines()
    lines[6] = "1000000000"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        ValueError, match=r"at frame 1 .*line 7 announces 1000000000 atoms, but 4 lines of atoms follow"
    ):
        io.read(path)


# digits -------------------------------------------------------------------------------------------------------------


def test_total_energies_keep_their_digits(potential, frame, tmp_path):
    """All-electron energies of 3e7 eV: float32 would have steps of 2 eV."""
    ensemble = Ensemble.of([potential, Potential.create(CONFIG, seed=9)])
    reference = 2 * (-4.4e6 - 1.25e7)
    system = System.from_ase(frame, cutoff=potential.cutoff)
    single, several = potential(system), ensemble(system)
    for prediction in (single, several.mean):
        assert prediction.total_energy.dtype == np.float64
        np.testing.assert_allclose(prediction.total_energy - reference, float(prediction.energy), rtol=0, atol=1e-8)
    frame.calc = LesCalculator(potential)
    np.testing.assert_allclose(frame.get_potential_energy() - reference, float(single.energy), rtol=0, atol=1e-5)
    final = simulate(potential, frame, tmp_path / "md", Settings(steps=1, temperature=1.0, log_every=1), quiet=True)
    assert abs(final.get_potential_energy() - reference - float(single.energy)) < 0.1


def test_other_reference_energies_compile_nothing(potential, frame):
    other = dataclasses.replace(potential, config=dataclasses.replace(CONFIG, reference_energies=(-1.0, -2.0)))
    system = System.from_ase(frame, cutoff=potential.cutoff)
    Ensemble.of([potential, potential])(system)
    calculators = [LesCalculator(p) for p in (potential, other)]
    calculators[0].get_potential_energy(frame)
    calculators[0].get_property("energies", frame)
    functions = (potential_module._predict, potential_module._atomic_energies, ensemble_module._predict)
    before = [function._cache_size() for function in functions]
    Ensemble.of([other, other])(system)
    calculators[1].get_potential_energy(frame)
    calculators[1].get_property("energies", frame)
    assert [function._cache_size() for function in functions] == before


@pytest.mark.parametrize("pbc", [True, (True, True, False), False])
def test_far_from_the_origin(potential, frame, pbc):
    frame.pbc = pbc
    if pbc == (True, True, False):
        frame.cell[2] = [0.0, 0.0, 12.0]
    moved = frame.copy()
    moved.positions += np.array([317, -211, 45]) @ CELL if pbc is True else [0.0, 0.0, 1000.0]
    moved.positions[1] += 200 * frame.cell[0] if pbc is not False else 0.0
    results = []
    for atoms in (frame, moved):
        atoms.calc = LesCalculator(potential)
        results.append((atoms.get_forces(), atoms.get_potential_energy(), atoms.get_charges()))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8 if X64 else 2e-5)
    if pbc is False:  # about the origin of the coordinates, as ever
        expected = moved.get_charges() @ moved.positions
        np.testing.assert_allclose(moved.get_dipole_moment(), expected, rtol=1e-12)
        prediction = potential(System.from_ase(moved, cutoff=potential.cutoff))
        np.testing.assert_allclose(prediction.dipole_moment, expected, rtol=1e-9 if X64 else 1e-5)


@pytest.mark.parametrize("pbc", [True, pytest.param((True, True, False), marks=pytest.mark.slow), False])
def test_far_from_the_origin_in_evaluation_training_and_dynamics(potential, frame, pbc, tmp_path):
    """1000 Å away: the same arrays in a batch, errors of forces, and first frames of a run, to rounding."""
    frame.pbc = pbc
    if pbc == (True, True, False):
        frame.cell[2] = [0.0, 0.0, 12.0]
    for name in ("REF_stress", "REF_charges"):
        frame.info.pop(name, None), frame.arrays.pop(name, None)
    moved = frame.copy()
    moved.positions += np.array([200, -200, 100]) @ CELL if pbc is True else [400 * CELL[0, 0], 0.0, 1000.0]
    tolerance = 1e-8 if X64 else 2e-5
    pairs = [evaluate(potential, [atoms]).parity["forces"] for atoms in (frame, moved)]
    np.testing.assert_allclose(pairs[0].predicted, pairs[1].predicted, rtol=0, atol=tolerance)
    systems = [
        make_dataset(CONFIG, [atoms], io.all_labels([atoms])).buckets[0].system for atoms in (frame, moved)
    ]  # what a step of training takes
    vectors = [
        np.sort(np.asarray(jax.vmap(lambda s: s.neighborhood().vectors)(system)), axis=None) for system in systems
    ]
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=0, atol=1e-8 if X64 else 1e-5)
    settings = Settings(steps=1, timestep=0.01, temperature=1.0)
    for name, atoms in (("near", frame), ("far", moved)):
        simulate(potential, atoms, tmp_path / name, settings, quiet=True)
    first = [ase.io.read(tmp_path / name / "trajectory.xyz", 0).get_forces() for name in ("near", "far")]
    np.testing.assert_allclose(first[0], first[1], rtol=0, atol=max(tolerance, 1e-7))  # digits of the file


def test_logs_keep_their_digits(potential, frame, tmp_path):
    """The total energy of a run goes on in small steps at -3e7 eV; float32 has steps of 2 eV there."""
    settings = Settings(steps=20, timestep=1.0, temperature=300.0, log_every=1)
    simulate(potential, frame, tmp_path / "md", settings, quiet=True)
    log = read_table(tmp_path / "md" / "log.csv")
    assert log["potential_energy_eV"][0] < -3e7
    kinetic = log["total_energy_eV"] - log["potential_energy_eV"]
    assert np.ptp(kinetic) > 1e-3
    assert np.ptp(log["total_energy_eV"]) < 0.05 * np.ptp(kinetic)
    assert len(set(np.diff(log["potential_energy_eV"]))) == 20


def test_home_is_where_the_atoms_are(frame):
    inside = bring_home(frame.positions, CELL, (True,) * 3)
    np.testing.assert_array_equal(inside[0], frame.positions)
    far = frame.positions + np.array([[0, 0, 0], [7, 0, 0], [0, -9, 2], [1000, 1000, 1000]]) @ CELL
    for pbc in ((True, True, True), (True, True, False), (False, True, False), (False, False, False)):
        home, turns, origin = bring_home(far, CELL, pbc)
        np.testing.assert_allclose(home + turns @ CELL + origin, far, rtol=0, atol=1e-8)
        assert not turns[:, ~np.array(pbc)].any()


@pytest.mark.parametrize("pbc", [True, False])
def test_trajectories_stay_where_they_are(potential, frame, tmp_path, pbc):
    frame.pbc = pbc
    frame.positions += [2000.0, 0.0, -1000.0]
    frame.positions[0] += 3 * CELL[0] if pbc else 0.0
    settings = Settings(steps=1, timestep=0.01, temperature=1.0, polarization=not pbc)
    final = simulate(potential, frame, tmp_path / "md", settings, quiet=True)
    np.testing.assert_allclose(final.positions, frame.positions, rtol=0, atol=1e-3)
    if not pbc:
        np.testing.assert_allclose(final.info["dipole"], final.get_charges() @ final.positions, rtol=1e-6)


def test_plans_of_other_cells_change_energies_little():
    """Charges of one e in NaCl at the default accuracy: about 0.01 meV per atom by the history of a calculator."""
    atoms = ase.build.bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(2)
    atoms.rattle(0.1, seed=1)
    charges, fractional = jnp.asarray(np.where(atoms.symbols == "Na", 1.0, -1.0)), atoms.get_scaled_positions()
    kept = ewald.make_solver(atoms.cell.array, True, n_atoms=len(atoms))
    for strain in (-0.05, 0.029):
        cell = (1.0 + strain) * atoms.cell.array
        assert kept.still_valid(cell)
        solvers = kept, ewald.make_solver(cell, True, n_atoms=len(atoms))
        energies = [float(ewald.energy(s, jnp.asarray(fractional @ cell), jnp.asarray(cell), charges)) for s in solvers]
        assert abs(energies[0] - energies[1]) / len(atoms) < (1e-5 if X64 else 5e-5)


def test_history_of_a_calculator_changes_energies_of_water_little():
    """Cells of a run at constant pressure up to where the plan ends: below 0.003 meV per atom (the bound is 0.05)."""
    water = next(a for a in datasets.load("kf_water_test") if a.info["kind"] == "bulk" and a.info["n_pairs"] == 0)
    short_range = dataclasses.replace(MODEL.short_range, elements=(1, 8), cutoff=2.0, max_nu=1)
    charges = FixedCharges((("H", 0.4238), ("O", -0.8476)))
    model = dataclasses.replace(MODEL, short_range=short_range, long_range=LongRangeConfig(charges))
    calculators = LesCalculator(Potential.create(model)), LesCalculator(Potential.create(model))
    calculators[0].get_potential_energy(water)
    plan = calculators[0]._plan
    for strain in (0.029, -0.09, [0.028, -0.08, 0.0]):
        changed = water.copy()
        changed.set_cell(water.cell.array @ (np.eye(3) * (1.0 + np.asarray(strain))), scale_atoms=True)
        changed.rattle(0.05, seed=2)
        calculators[1]._plan = None
        kept, fresh = (c.get_potential_energy(changed) for c in calculators)
        assert calculators[0]._plan is plan
        assert calculators[1]._plan[1] is not plan[1]
        assert abs(kept - fresh) / len(water) < (4e-6 if X64 else 1e-5)


def test_born_charges_can_be_written(potential, frame, tmp_path):
    frame.calc = LesCalculator(potential)
    born = frame.calc.get_property("born_effective_charges", frame)
    assert born.shape == (4, 3, 3)
    ase.io.write(tmp_path / "ase.xyz", frame)
    io.write(tmp_path / "ours.xyz", [frame])
    for name in ("ase.xyz", "ours.xyz"):
        again = io.read(tmp_path / name)[0]
        np.testing.assert_allclose(io.labels(again).born_effective_charges, born, rtol=0, atol=1e-7)


def test_energies_of_atoms(potential, frame):
    frame.calc = LesCalculator(potential)
    energies = frame.get_potential_energies()
    assert energies.shape == (4,)
    scale = abs(frame.get_potential_energy())
    np.testing.assert_allclose(energies.sum(), frame.get_potential_energy(), rtol=0, atol=1e-8 * scale / 1e3)
    supercell = frame.repeat((2, 1, 1))
    supercell.calc = LesCalculator(potential)
    expected = np.tile(energies, 2)
    np.testing.assert_allclose(supercell.get_potential_energies(), expected, rtol=0, atol=1e-6 if X64 else 1e-3)


def test_energies_of_atoms_that_are_none(potential, frame):
    charges = dataclasses.replace(CONFIG.long_range.charges, dipoles=True)
    config = dataclasses.replace(CONFIG, long_range=dataclasses.replace(CONFIG.long_range, charges=charges))
    frame.calc = LesCalculator(Potential.create(config))
    with pytest.raises(NotImplementedError, match="no energies of single atoms"):
        frame.get_potential_energies()
