"""Extended-xyz files: labels under all names and shapes, broken files, writing as a whole."""

import bz2
import gzip
import json
import lzma

import ase
import ase.io
import numpy as np
import pytest
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from lesjax import io
from lesjax.io import Keys


def water(**info):
    atoms = ase.Atoms("OH2", [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]], cell=[9, 9, 9], pbc=True)
    atoms.info.update(info)
    return atoms


FORCES = np.arange(9.0).reshape(3, 3)


def test_names_are_looked_up_in_order():
    atoms = water(energy=1.0)
    assert io.labels(atoms).energy == 1.0
    atoms.info["REF_energy"] = 2.0
    assert io.labels(atoms).energy == 2.0
    atoms.calc = SinglePointCalculator(atoms, energy=3.0)
    assert io.labels(atoms).energy == 2.0
    assert io.labels(atoms, Keys(energy=("energy", "REF_energy"))).energy == 1.0


def test_results_of_a_calculator_are_labels():
    atoms = water()
    atoms.calc = SinglePointCalculator(
        atoms, energy=-3.0, forces=FORCES, stress=np.arange(6.0), charges=np.array([-0.8, 0.4, 0.4])
    )
    found = io.labels(atoms)
    assert found.energy == -3.0
    np.testing.assert_array_equal(found.forces, FORCES)
    np.testing.assert_array_equal(found.charges, [-0.8, 0.4, 0.4])


def test_frozen_results_stay():
    """Those that a file keeps; the calculator goes on to another structure."""
    atoms = water()
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0, forces=FORCES)
    atoms.calc.results["node_energy"] = np.ones(3)
    copy = io.frozen(atoms)
    atoms.calc.results |= {"energy": -4.0}
    atoms.calc.results["forces"] *= 2.0
    assert io.labels(copy).energy == -3.0
    np.testing.assert_array_equal(io.labels(copy).forces, FORCES)
    assert "node_energy" not in copy.calc.results
    assert io.frozen(water(energy=1.0)).calc is None


def test_names_can_be_chosen():
    atoms = water(dft_energy=4.0, energy=1.0)
    atoms.set_array("f", FORCES)
    found = io.labels(atoms, Keys(energy=("dft_energy",), forces=("f", "forces")))
    assert found.energy == 4.0
    np.testing.assert_array_equal(found.forces, FORCES)


def test_stress_in_every_shape():
    matrix = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])
    for value in (matrix, matrix.ravel(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]):
        np.testing.assert_array_equal(io.labels(water(stress=value)).stress, matrix)


def test_missing_labels_are_nan():
    found = io.labels(water(REF_energy=1.0))
    assert found.energy == 1.0
    assert np.isnan(found.forces).all()
    assert found.forces.shape == (3, 3)
    assert np.isnan(found.stress).all()
    assert found.stress.shape == (3, 3)
    assert np.isnan(found.charges).all()
    assert found.charges.shape == (3,)
    assert np.isnan(io.labels(water()).energy)


DIPOLE, QUADRUPOLE = np.array([1.0, -2.0, 0.5]), np.arange(9.0).reshape(3, 3)
BORN = np.arange(27.0).reshape(3, 3, 3)


@pytest.mark.parametrize("shape", [lambda x: x, lambda x: x[None], lambda x: json.dumps(x.tolist()), np.ravel])
def test_moments_in_every_shape(shape):
    found = io.labels(water(dipole=shape(DIPOLE), quadrupole=shape(QUADRUPOLE)))
    np.testing.assert_array_equal(found.dipole, DIPOLE)
    np.testing.assert_array_equal(found.quadrupole, QUADRUPOLE)


@pytest.mark.parametrize("shape", [(3, 9), (3, 3, 3)])
@pytest.mark.parametrize(
    ("name", "published"), [("bec", "displacement-first"), ("BEC", "polarization-first"), ("mine", None)]
)
def test_born_effective_charges_in_both_orders(tmp_path, name, published, shape):
    """As columns of a file where they fit; the order is a setting, known only for names of published sets."""
    atoms = water()
    atoms.set_array(name, BORN.reshape(shape))
    if len(shape) == 2:
        io.write(tmp_path / "one.xyz", [atoms])
        (atoms,) = io.read(tmp_path / "one.xyz")
    for order, expected in (("polarization-first", BORN), ("displacement-first", BORN.swapaxes(1, 2))):
        keys = Keys(born_effective_charges=(name,), born_effective_charges_order=order)
        np.testing.assert_array_equal(io.labels(atoms, keys).born_effective_charges, expected)
        if order == published:
            np.testing.assert_array_equal(io.labels(atoms).born_effective_charges, expected)
    if published is not None:
        return
    with pytest.warns(UserWarning, match=rf"`{name}` are left out: say .*`keys\.born_effective_charges_order`"):
        found = io.labels(atoms, Keys(born_effective_charges=(name,))).born_effective_charges
    assert np.isnan(found).all()
    assert found.shape == (3, 3, 3)


def test_unknown_order_of_born_effective_charges():
    with pytest.raises(ValueError, match=r"`born_effective_charges_order` must be 'polarization-first' or .* 'xyz'"):
        Keys(born_effective_charges_order="xyz")


def test_padded_labels_are_nan():
    atoms = water(REF_energy=1.0)
    atoms.set_array("REF_forces", FORCES)
    padded = io.labels(atoms).pad_to(5)
    np.testing.assert_array_equal(padded.forces[:3], FORCES)
    assert np.isnan(padded.forces[3:]).all()
    assert padded.charges.shape == (5,)
    assert padded.born_effective_charges.shape == (5, 3, 3)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"energy": [1.0, 2.0]}, r"`energy` has shape \(2,\) where \(\) is needed"),
        ({"forces": np.ones((2, 3))}, r"`forces` has shape \(2, 3\) where \(3, 3\)"),
        ({"REF_stress": np.ones(5)}, r"`REF_stress` has shape \(5,\); a stress has 6 \(Voigt\) or 9"),
        ({"REF_energy": "unknown"}, r"`REF_energy` must hold numbers, got 'unknown'"),
        ({"charges": {"O": -0.8}}, r"`charges` must hold numbers"),
        ({"dipole": "[1.0, 2.0]"}, r"`dipole` has shape \(2,\) where \(3,\)"),
        ({"dipole": "[1.0, 2.0"}, r"`dipole` must hold numbers, got '\[1\.0, 2\.0'"),
        ({"quadrupole": np.ones(6)}, r"`quadrupole` has shape \(6,\) where \(3, 3\)"),
        ({"bec": np.ones((3, 3))}, r"`bec` has shape \(3, 3\) where \(3, 9\) or \(3, 3, 3\)"),
    ],
)
def test_unusable_label(info, message):
    with pytest.raises(ValueError, match=message):
        io.labels(water(**info))
    with pytest.raises(ValueError, match=f"Structure 1: {message}"):
        io.all_labels([water(), water(**info)])


def test_transposed_forces_are_refused():
    atoms = ase.Atoms("OHHH", np.eye(4, 3), info={"forces": np.ones((3, 4))})
    with pytest.raises(ValueError, match=r"`forces` has shape \(3, 4\) where \(4, 3\)"):
        io.labels(atoms)


def test_file_as_ase_writes_it(tmp_path):
    """Energy, forces and stress go through ase's calculator, other names through the comment and the columns."""
    frames = [water(), water()]
    frames[0].calc = SinglePointCalculator(frames[0], energy=-1.0, forces=FORCES, stress=0.1 * np.arange(6.0))
    frames[1].calc = SinglePointCalculator(frames[1], energy=-2.0)
    frames[1].set_array("REF_charges", np.array([-0.8, 0.4, 0.4]))
    io.write(tmp_path / "two.xyz", frames)
    first, second = io.all_labels(io.read(tmp_path / "two.xyz"))
    assert (first.energy, second.energy) == (-1.0, -2.0)
    np.testing.assert_allclose(first.forces, FORCES)
    np.testing.assert_allclose(first.stress, [[0, 0.5, 0.4], [0.5, 0.1, 0.3], [0.4, 0.3, 0.2]])
    assert np.isnan(first.charges).all()
    assert np.isnan(second.forces).all()
    np.testing.assert_allclose(second.charges, [-0.8, 0.4, 0.4])


def test_comment_fields_of_all_kinds(tmp_path):
    lines = [
        "3",
        'Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3:REF_forces:R:3 pbc="T T F" energy=nan '
        'REF_energy=-1.5e1 REF_stress="1 2 3 2 4 5 3 5 6" note="_JSON {\\"a\\": [1, 2]}" flag=T list={1 2 3}',
        "O 0 0 0 0 1 2",
        "H 1 0 0 3 4 5",
        "H 0 1 0 6 7 8",
    ]
    (tmp_path / "one.xyz").write_text("\n".join(lines) + "\n")
    (atoms,) = io.read(tmp_path / "one.xyz")
    assert atoms.pbc.tolist() == [True, True, False]
    found = io.labels(atoms)
    assert found.energy == -15.0
    np.testing.assert_array_equal(found.forces, FORCES)
    np.testing.assert_array_equal(found.stress, [[1, 2, 3], [2, 4, 5], [3, 5, 6]])
    assert np.isnan(io.labels(atoms, Keys(energy=("energy",))).energy)


def test_json_array_in_comment(tmp_path):
    path = tmp_path / "one.xyz"
    path.write_text('1\nProperties=species:S:1:pos:R:3 REF_stress="_JSON [[1, 2, 3], [2, 4, 5], [3, 5, 6]]"\nO 0 0 0\n')
    np.testing.assert_array_equal(io.labels(io.read(path)[0]).stress, [[1, 2, 3], [2, 4, 5], [3, 5, 6]])


def test_nan_in_a_column_is_a_missing_label(tmp_path):
    atoms = water(REF_energy=np.nan)
    forces = FORCES.copy()
    forces[1] = np.nan
    atoms.set_array("REF_forces", forces)
    io.write(tmp_path / "one.xyz", [atoms])
    found = io.labels(io.read(tmp_path / "one.xyz")[0])
    assert np.isnan(found.energy)
    np.testing.assert_array_equal(found.forces, forces)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file '.*nothing\.xyz'"):
        io.read(tmp_path / "nothing.xyz")
    with pytest.raises(FileNotFoundError):
        io.read(tmp_path)


def test_empty_file(tmp_path):
    (tmp_path / "empty.xyz").touch()
    with pytest.raises(ValueError, match=r"empty\.xyz' cannot be read at frame 0.*Empty file"):
        io.read(tmp_path / "empty.xyz")


def test_truncated_file_names_the_frame(tmp_path):
    path = tmp_path / "cut.xyz"
    io.write(path, [water(), water(), water()])
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:13]) + "\n")
    with pytest.raises(
        ValueError, match=r"cut\.xyz' cannot be read at frame 2 \(counted from 0\).*announces 3 atoms, but 1 lines of"
    ):
        io.read(path)


def test_unreadable_number_names_the_frame(tmp_path):
    path = tmp_path / "bad.xyz"
    io.write(path, [water(), water()])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:7], "O 0.0 zero 0.0", *lines[8:]]) + "\n")
    with pytest.raises(ValueError, match=r"bad\.xyz' cannot be read at frame 1.*'zero'"):
        io.read(path)


@pytest.mark.parametrize("name", ["frames.xyz", "frames.xyz.gz", "frames.XYZ", "frames.xyz.bz2", "frames"])
def test_frames_after_a_blank_line_are_not_lost(name, tmp_path):
    """ase ends there."""
    path = tmp_path / "one.xyz"
    io.write(path, [water()])
    frame, opener = path.read_text(), {"gz": gzip.open, "bz2": bz2.open}.get(name.split(".")[-1], open)

    def read(text):
        with opener(tmp_path / name, "wt") as file:
            file.write(text)
        return io.read(tmp_path / name)

    assert len(read(frame + frame + "\n\n")) == 2
    with pytest.raises(ValueError, match=rf"Line 6 of .*{name}' is blank, and more follows\. Delete the line"):
        read(frame + "\n" + frame)
    with pytest.raises(ValueError, match=r"Line 1 of|cannot be read at frame 0"):
        read("\n" + frame)


def test_file_that_is_no_structure(tmp_path):
    path = tmp_path / "notes.xyz"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"notes\.xyz' cannot be read at frame 0"):
        io.read(path)


def test_name_with_an_at_sign(tmp_path):
    """ase takes what follows the sign for an index."""
    path = tmp_path / "run@1.xyz"
    with open(path, "w") as file:
        ase.io.write(file, [water(), water()], format="extxyz")
    assert len(io.read(path)) == 2


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    def fail(path, frames, **options):
        path.write_text("half of it")
        raise OSError("No space left on device")

    path = tmp_path / "deep" / "data.xyz"
    io.write(path, [water(REF_energy=1.0)])
    before = path.read_bytes()
    monkeypatch.setattr(ase.io, "write", fail)
    with pytest.raises(OSError, match="No space left"):
        io.write(path, [water(REF_energy=2.0)])
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["data.xyz"]


def test_results_of_a_calculator_that_went_on_are_refused():
    calculator = LennardJones()
    frames = [ase.Atoms("Ar2", [[0.0, 0.0, 0.0], [x, 0.0, 0.0]], calculator=calculator) for x in (1.1, 1.2)]
    energies = [atoms.get_potential_energy() for atoms in frames]
    with pytest.raises(ValueError, match=r"Structure 0: The calculator .* another one.*`lesjax.io.frozen"):
        io.all_labels(frames)
    kept = []
    for atoms in frames:
        atoms.get_potential_energy()
        kept.append(io.frozen(atoms))
    assert [float(label.energy) for label in io.all_labels(kept)] == energies


@pytest.mark.parametrize(("module", "ending"), [(gzip, "gz"), (bz2, "bz2"), (lzma, "xz")])
def test_compressed_file_that_explodes(module, ending, tmp_path):
    """A few kilobytes that would fill the memory are refused at once; what compresses well is read."""
    path = tmp_path / f"frames.xyz.{ending}"
    frames = [water(REF_energy=-1.0) for _ in range(200)]
    ase.io.write(tmp_path / "frames.xyz", frames, format="extxyz")
    text = (tmp_path / "frames.xyz").read_bytes()
    path.write_bytes(module.compress(text.replace(b"\n", b"\r\n")))
    assert len(io.read(path)) == 200
    path.write_bytes(module.compress(text + bytes(50_000_000)))
    with pytest.raises(ValueError, match=r"frames\.xyz.*has more than \d+ bytes when decompressed"):
        io.read(path)
    path = tmp_path / f"OUTCAR.{ending}"  # which ase would read to its end
    path.write_bytes(module.compress(b"\n" * 10_000_000))
    with pytest.raises(ValueError, match=r"OUTCAR.*has more than \d+ bytes when decompressed"):
        io.read(path)
