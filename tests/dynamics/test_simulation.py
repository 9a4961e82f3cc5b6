"""The driver: conserved quantities, reversal, restarts, overflow, breakdown, what is written."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from ase.constraints import FixAtoms

from lesjax import cli, io
from lesjax.dynamics import Settings, SimulationError, simulate
from lesjax.dynamics.barostat import _exponentials
from lesjax.dynamics.records import run_folder
from lesjax.dynamics.simulation import Simulation
from lesjax.models import EquilibratedCharges, LatentCharges, Potential
from lesjax.runs import read_table
from lesjax.system import System, electronic_state
from toy import with_slow


X64 = jax.config.jax_enable_x64
SHORT = Settings(
    "nve",
    steps=20,
    temperature=100.0,
    pressure=2e4,
    thermostat_time=20.0,
    barostat_time=2000.0,
    log_every=5,
    frame_every=10,
    checkpoint_every=10,
)


def run(potential, atoms, folder, **changes):
    return simulate(potential, atoms, folder, dataclasses.replace(SHORT, **changes), quiet=True)


def test_two_at_a_time_are_refused(ions, small_potential, tmp_path):
    with run_folder(tmp_path / "md", SHORT).locked(), pytest.raises(ValueError, match="Another process is working in"):
        run(small_potential, ions, tmp_path / "md")
    assert not (tmp_path / "md").exists()


@pytest.mark.parametrize(
    "ensemble", with_slow(["nve", "nvt", "csvr", "langevin", "npt", "npt-flexible"], ["nvt", "npt"])
)
def test_ensembles(ensemble, ions, small_potential, tmp_path):
    final = run(small_potential, ions, tmp_path, ensemble=ensemble, steps=60)
    log = read_table(tmp_path / "log.csv")
    np.testing.assert_array_equal(log["step"], np.arange(0, 61, 5))
    # Langevin moves the centre of mass as well, which starts at rest
    first = 87.5 if ensemble == "langevin" else 100.0
    assert log["temperature_K"][0] == pytest.approx(first, rel=1e-5)
    frames = ase.io.read(tmp_path / "trajectory.xyz", ":")
    assert [frame.info["step"] for frame in frames] == [0, 10, 20, 30, 40, 50, 60]
    assert frames[-1].get_potential_energy() == pytest.approx(log["potential_energy_eV"][-1], abs=1e-6 if X64 else 1e-3)
    np.testing.assert_allclose(frames[-1].positions, final.positions, atol=1e-7)
    assert frames[-1].get_charges().shape == (8,)
    assert np.abs(frames[-1].positions - frames[0].positions).max() > 0.05
    assert (tmp_path / "md.png").stat().st_size > 1000
    if ensemble == "langevin":
        assert "conserved_energy_eV" not in log
        return
    conserved = log["conserved_energy_eV"]
    assert np.ptp(conserved) < (2e-5 if X64 else 2e-4) * 8
    # the energy goes to and fro between its parts by much more
    assert np.ptp(log["potential_energy_eV"]) > 100 * np.ptp(conserved)
    np.testing.assert_allclose(final.get_momenta().sum(axis=0), 0.0, atol=1e-8 if X64 else 1e-3)
    cell = final.cell.array @ np.linalg.inv(ions.cell.array)
    if ensemble == "npt":
        np.testing.assert_allclose(cell, cell[0, 0] * np.eye(3), atol=1e-5)
        assert abs(cell[0, 0] - 1) > 1e-4
    elif ensemble == "npt-flexible":
        strain = np.linalg.inv(ions.cell.array) @ final.cell.array
        np.testing.assert_allclose(strain, strain.T, atol=1e-2)
        assert np.abs(strain - strain[0, 0] * np.eye(3)).max() > 1e-4
        assert log["volume_A3"][-1] == pytest.approx(final.get_volume(), rel=1e-6)
    else:
        np.testing.assert_allclose(cell, np.eye(3), atol=1e-6)


@pytest.mark.skipif(not X64, reason="digits")
@pytest.mark.slow
def test_time_reversal(ions, small_potential, tmp_path):
    there = run(small_potential, ions, tmp_path / "there", steps=100, log_every=100)
    start = ase.io.read(tmp_path / "there" / "trajectory.xyz", 0)
    there.set_momenta(-there.get_momenta())
    back = run(small_potential, there, tmp_path / "back", steps=100, log_every=100)
    # start: as the file has it, with eight digits
    np.testing.assert_allclose(back.positions, start.positions, atol=2e-8)
    assert np.abs(there.positions - start.positions).max() > 0.1


@pytest.mark.parametrize(
    ("ensemble", "form"), with_slow([("langevin", "xyz"), ("csvr", "xyz"), ("npt", "traj")], [("csvr", "xyz")])
)
def test_resumed_run_equals_an_unbroken_one(ensemble, form, ions, small_potential, tmp_path, monkeypatch):
    changes = {"ensemble": ensemble, "format": form, "steps": 30, "frame_every": 5}
    ions.info = {"charge": 1, "spin": 2, "total": 3}
    whole = run(small_potential, ions, tmp_path / "whole", **changes)
    replan = Simulation.replan_if_drifted

    def die(self):
        if self.progress.step == 25:
            raise KeyboardInterrupt
        replan(self)

    monkeypatch.setattr(Simulation, "replan_if_drifted", die)
    with pytest.raises(KeyboardInterrupt):
        run(small_potential, ions, tmp_path / "broken", **changes)
    monkeypatch.undo()
    with open(tmp_path / "broken" / "log.csv", "a") as file:
        file.write("half a li")
    resumed = run(small_potential, ions, tmp_path / "broken", **changes)
    np.testing.assert_array_equal(resumed.positions, whole.positions)
    np.testing.assert_array_equal(resumed.get_momenta(), whole.get_momenta())
    assert (tmp_path / "broken" / "log.csv").read_bytes() == (tmp_path / "whole" / "log.csv").read_bytes()
    both = [ase.io.read(tmp_path / name / f"trajectory.{form}", ":") for name in ("whole", "broken")]
    assert len(both[0]) == len(both[1]) == 7
    for a, b in zip(*both, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_array_equal(a.get_forces(), b.get_forces())
        assert a.info == b.info
        assert (electronic_state(b), "total" in b.info) == ((1.0, 2.0), False)
    if form == "traj":
        return
    # and a longer one goes on from its end
    longer = run(small_potential, ions, tmp_path / "broken", **{**changes, "steps": 35})
    assert longer.info["step"] == 35
    with pytest.raises(ValueError, match=r"holds a run with other settings \(timestep\)"):
        run(small_potential, ions, tmp_path / "broken", **{**changes, "timestep": 0.25})


@pytest.mark.slow
def test_killed_run_goes_on(ions, small_potential, tmp_path):
    """By SIGKILL, which leaves no time to tidy up, at a moment that the machine chooses."""
    small_potential.save(tmp_path / "model")
    ase.io.write(tmp_path / "ions.xyz", ions)
    settings = Settings(temperature=300.0, steps=300, log_every=5, frame_every=10, checkpoint_every=10)
    options = {key: value for key, value in dataclasses.asdict(settings).items() if value != getattr(Settings(), key)}
    words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, "-m", "lesjax", "md", tmp_path / "model", tmp_path / "ions.xyz", "--out", broken, *words],
        env={**os.environ, "JAX_ENABLE_X64": str(int(X64))},
    )
    while process.poll() is None and not (broken / "checkpoint.safetensors").exists():
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    start = ase.io.read(tmp_path / "ions.xyz")
    for folder in (whole, broken):
        simulate(small_potential, start, folder, settings, quiet=True)
    for name in ("log.csv", "trajectory.xyz", "final.xyz"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


def test_list_that_overflows_grows_without_losing_a_step(ions, small_potential, tmp_path):
    expected = run(small_potential, ions, tmp_path / "enough")
    simulation = Simulation(small_potential, ions, tmp_path / "crowded", SHORT)
    wide = simulation.allocate(1.6 * simulation.state.position, 1.6 * simulation.cell, None)
    assert wide.plan.capacity < simulation.neighbor_list.plan.capacity
    # as after a jump of the density: room for the thin gas, and a reference far away
    simulation.neighbor_list = wide
    final = simulation.run(quiet=True)
    assert simulation.progress.step == 20
    assert simulation.neighbor_list.plan.capacity > wide.plan.capacity
    np.testing.assert_allclose(final.positions, expected.positions, atol=1e-9 if X64 else 1e-4)


def test_cell_that_shrinks(ions, small_potential, tmp_path):
    """By 20 % in volume and more: new neighbour lists, new plans of the sum, a conserved quantity without jumps."""
    ions.set_cell(1.06 * ions.cell.array, scale_atoms=True)
    settings = dataclasses.replace(SHORT, ensemble="npt", pressure=4e5, steps=70)
    simulation = Simulation(small_potential, ions, tmp_path, settings)
    simulation.run(quiet=True)
    log = read_table(tmp_path / "log.csv")
    assert log["volume_A3"].min() < 0.8 * log["volume_A3"][0]
    assert simulation.progress.replanned > 0
    jumps = np.abs(np.diff(log["conserved_energy_eV"])) / len(ions)
    assert jumps.max() < (1e-4 if X64 else 1e-3)


def test_new_plan_of_the_sum(ions, small_potential, tmp_path):
    simulation = Simulation(small_potential, ions, tmp_path, dataclasses.replace(SHORT, ensemble="npt"))
    positions, cell = 1.05 * simulation.state.position, 1.05 * simulation.cell
    simulation.state = dataclasses.replace(simulation.state, position=positions, cell=cell)
    simulation.neighbor_list = simulation.allocate(positions, cell, None)
    before = simulation.potential_energy()
    old = simulation.solver
    simulation.replan_if_drifted()
    assert simulation.solver is not old
    after = simulation.potential_energy() + simulation.progress.energy_offset
    assert after == pytest.approx(before, abs=8e-5 * 1e-1)
    forces = simulation.motion.predict(simulation.force_field, positions, cell).forces
    np.testing.assert_allclose(simulation.state.force, forces, atol=1e-9 if X64 else 1e-5)
    simulation.replan_if_drifted()
    assert simulation.progress.replanned == 1


def test_breakdown_keeps_the_last_good_frame(ions, small_potential, tmp_path):
    with pytest.raises(SimulationError, match=r"Step \d+ broke down: .*Lower `timestep`"):
        run(small_potential, ions, tmp_path, timestep=40.0, temperature=3000.0)
    frames = ase.io.read(tmp_path / "trajectory.xyz", ":")
    assert all(np.isfinite(frame.positions).all() and np.isfinite(frame.get_forces()).all() for frame in frames)


def test_velocities_without_a_unit_are_named(ions, small_potential, tmp_path):
    atoms = ions.copy()
    atoms.set_array("vel", np.ones((len(atoms), 3)))
    with pytest.warns(UserWarning, match="drawn at random: the unit of column 'vel' is not known"):
        Simulation(small_potential, atoms, tmp_path, SHORT)


def test_folder_of_another_model_or_start_is_refused(ions, small_potential, tmp_path):
    run(small_potential, ions, tmp_path)
    other = dataclasses.replace(small_potential, params=jax.tree.map(lambda p: 1.1 * p, small_potential.params))
    with pytest.raises(ValueError, match=r"holds a run with other settings \(model\)"):
        run(other, ions, tmp_path)
    config = small_potential.config
    wider = dataclasses.replace(config.long_range, sigma=1.1 * config.long_range.sigma)
    other = dataclasses.replace(small_potential, config=dataclasses.replace(config, long_range=wider))
    with pytest.raises(ValueError, match=r"holds a run with other settings \(model\)"):
        run(other, ions, tmp_path)
    moved = ions.copy()
    moved.positions[0, 0] += 0.1
    with pytest.raises(ValueError, match=r"holds a run with other settings \(start\)"):
        run(small_potential, moved, tmp_path)
    log = tmp_path / "log.csv"
    log.write_text(log.read_text()[:50])
    with pytest.raises(ValueError, match=r"log.csv' lacks what was written before the last checkpoint"):
        run(small_potential, ions, tmp_path)


def test_momenta_of_the_structure_lose_their_drift(ions, small_potential, tmp_path):
    ions.set_velocities(np.ones((8, 3)) + 0.1 * np.random.default_rng(0).normal(size=(8, 3)))
    simulation = Simulation(small_potential, ions, tmp_path, SHORT)
    momenta = np.asarray(simulation.state.momentum)
    np.testing.assert_allclose(momenta.sum(axis=0), 0.0, atol=1e-5)
    velocities = ions.get_velocities() - ions.get_momenta().sum(axis=0) / ions.get_masses().sum()
    np.testing.assert_allclose(momenta / ions.get_masses()[:, None], velocities, atol=1e-5)


@pytest.mark.parametrize(
    "charges",
    [
        pytest.param(EquilibratedCharges(), id="equilibration", marks=pytest.mark.slow),
        pytest.param(LatentCharges(dipoles=True), id="dipoles"),
    ],
)
def test_charges_that_respond_and_dipoles(charges, ions, small_potential, tmp_path):
    config = small_potential.config
    long_range = dataclasses.replace(config.long_range, charges=charges)
    potential = Potential.create(dataclasses.replace(config, long_range=long_range), seed=4)
    cluster = ions[:4]
    cluster.pbc = False
    cluster.info["charge"] = 0.0
    written = {"polarization": True, "born_effective_charges": True}
    settings = dataclasses.replace(SHORT, electric_field=(0.0, 0.1, 0.0), **written)
    frame = Simulation(potential, cluster, tmp_path, settings).frame()
    system = System.from_ase(cluster, cutoff=potential.cutoff)
    expected = potential.born_effective_charges(system)
    np.testing.assert_allclose(frame.calc.results["born_effective_charges"], expected, atol=1e-8 if X64 else 1e-4)
    out = potential(system)
    dipole = np.asarray(out.charges, float)[:, 0] @ cluster.positions
    if out.dipoles is not None:
        dipole += np.asarray(out.dipoles, float).sum(axis=(0, 1))
    np.testing.assert_allclose(frame.info["dipole"], dipole, atol=1e-8 if X64 else 1e-4)


def test_external_field_and_what_is_written(ions, small_potential, tmp_path):
    field = (0.0, 2.0, 1.0)
    settings = dataclasses.replace(
        SHORT,
        steps=5,
        format="traj",
        polarization=True,
        born_effective_charges=True,
        electric_field=field,
        frame_every=5,
    )
    simulation = Simulation(small_potential, ions, tmp_path, settings)
    prediction = simulation.motion.predict(simulation.force_field, simulation.state.position, simulation.cell)
    born = simulation.frame().calc.results["born_effective_charges"]
    extra = np.asarray(simulation.state.force - prediction.forces)
    np.testing.assert_allclose(extra, np.einsum("a,nad->nd", field, born), atol=1e-9 if X64 else 1e-5)
    assert np.abs(extra).max() > 1e-3
    simulation.run(quiet=True)
    frame = ase.io.read(tmp_path / "trajectory.traj")
    assert frame.calc.results["born_effective_charges"].shape == (8, 3, 3)
    # as training and evaluation read the text
    labels = io.labels(ase.io.read(tmp_path / "final.xyz"))
    np.testing.assert_allclose(labels.born_effective_charges, frame.calc.results["born_effective_charges"], atol=1e-7)
    assert "conserved_energy_eV" not in read_table(tmp_path / "log.csv")  # which the field works on
    total = np.hypot(frame.info["polarization_real"], frame.info["polarization_imag"])
    assert total.shape == (3,)
    assert np.all(total > 0)


def test_command(ions, small_potential, tmp_path, capsys):
    small_potential.save(tmp_path / "model")
    ase.io.write(tmp_path / "ions.xyz", ions)
    command = [
        "md",
        str(tmp_path / "model"),
        str(tmp_path / "ions.xyz"),
        "--out",
        str(tmp_path / "out"),
        "--steps",
        "10",
    ]
    assert cli.main([*command, "--ensemble", "nvt"]) == 1
    assert "`temperature` is missing" in capsys.readouterr().err
    assert cli.main([*command, "--temperature", "300", "--pressure", "1"]) == 1
    assert "`--pressure 1.0` has no effect in 'nve': take npt" in capsys.readouterr().err
    assert cli.main([*command, "--ensemble", "nvt", "--temperature", "300", "--log-every", "5"]) == 0
    last = read_table(tmp_path / "out" / "log.csv")["temperature_K"][-1]
    assert f"10 steps of 8 atoms, {last:.0f} K at the end" in capsys.readouterr().out
    assert cli.main([*command[:-1], "5", "--ensemble", "nvt", "--temperature", "300", "--log-every", "5"]) == 1
    assert "holds a run of 10 steps already, more than `steps` = 5" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["run"]["steps"] == 10
    open_ends = [*command, "--temperature", "300", "--pbc", "false", "--out", str(tmp_path / "open")]
    assert cli.main(open_ends) == 0
    assert not ase.io.read(tmp_path / "open" / "final.xyz").pbc.any()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "settings.json", "log.csv", "trajectory.xyz", "checkpoint.safetensors", "final.xyz", "md.png"
    }  # fmt: skip


def test_cluster_at_constant_temperature(ions, small_potential, tmp_path):
    """ "nvt" is Langevin, which has no conserved quantity; a chain of a cluster at rest counts 3n - 6 degrees."""
    cluster = ions[:4]
    cluster.pbc = False
    run(small_potential, cluster, tmp_path / "nvt", ensemble="nvt", steps=2, log_every=1)
    assert "conserved_energy_eV" not in read_table(tmp_path / "nvt" / "log.csv")
    changes = {"ensemble": "nose-hoover", "angular_momentum": "zero"}
    final = run(small_potential, cluster, tmp_path / "still", steps=20, log_every=1, **changes)
    log = read_table(tmp_path / "still" / "log.csv")
    assert np.ptp(log["conserved_energy_eV"]) < 1e-3
    assert log["temperature_K"][0] == pytest.approx(100.0, rel=1e-5)
    assert final.get_angular_momentum() == pytest.approx(np.zeros(3), abs=1e-6 if X64 else 1e-2)
    cluster.set_velocities(np.cross(cluster.positions, [0.0, 0.0, 0.01]))  # which nothing is left of
    rotating = run(small_potential, cluster, tmp_path / "rotating", ensemble="nve", steps=1, angular_momentum="zero")
    assert rotating.get_kinetic_energy() < 1e-3 * cluster.get_kinetic_energy()
    with pytest.raises(ValueError, match=r"`angular_momentum` = 'zero' is for clusters, got pbc \(True, True, True\)"):
        run(small_potential, ions, tmp_path / "periodic", angular_momentum="zero")


def test_slab_that_evaporates(ions, small_potential, tmp_path):
    """Atoms beyond the height of the cell have no interaction: the run ends, with the frames up to there."""
    slab = ions.copy()
    slab.pbc = (True, True, False)
    slab.positions[:, 2] -= slab.positions[:, 2].min()
    slab.cell[2] = [0.0, 0.0, np.ptp(slab.positions[:, 2]) + 0.02]
    velocities = np.zeros((8, 3))
    velocities[np.argmax(slab.positions[:, 2]), 2] = 0.3
    slab.set_velocities(velocities)
    with pytest.raises(SimulationError, match=r"Step \d+: `positions` extend over"):
        run(small_potential, slab, tmp_path, steps=100)
    assert len(ase.io.read(tmp_path / "trajectory.xyz", ":")) >= 1
    # also where no frame is due before the end
    with pytest.raises(SimulationError, match=r"Step 100: `positions` extend over"):
        run(small_potential, slab, tmp_path / "other", steps=100, frame_every=1000)


def test_structures_that_cannot_be_run(ions, small_potential, short_range_potential, tmp_path):
    npt = dataclasses.replace(SHORT, ensemble="npt")
    slab = ions.copy()
    slab.pbc = (True, True, False)
    with pytest.raises(
        ValueError, match=r"'npt' needs a cell that is periodic in three directions, got pbc \(True, True"
    ):
        simulate(small_potential, slab, tmp_path, npt)
    with pytest.raises(ValueError, match=r"`temperature` is missing: the structure has no velocities"):
        run(small_potential, ions, tmp_path, temperature=None)
    with pytest.raises(ValueError, match=r"short-range model"):
        run(short_range_potential, ions, tmp_path, polarization=True)
    close = ions.copy()
    close.positions[3] = close.positions[0] + close.cell.array[0] + [0.2, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"overlaps: atoms 0 and 3 are 0\.2 Å apart"):
        run(small_potential, close, tmp_path)
    held = ions.copy()
    held.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match=r"has constraints \(FixAtoms\), which would not be kept"):
        run(small_potential, held, tmp_path)
    assert not any(tmp_path.iterdir())


def test_exponentials():
    x = 0.03 * np.random.default_rng(0).normal(size=(3, 3))
    exponential, average = _exponentials(jnp.asarray(x))
    tolerance = 1e-14 if X64 else 1e-6
    np.testing.assert_allclose(exponential, scipy.linalg.expm(x), atol=tolerance)
    np.testing.assert_allclose(x @ average, scipy.linalg.expm(x) - np.eye(3), atol=tolerance)
