"""Files as other programs write them: keys of any case, six-number stresses, databases, formats that ase lacks."""

import gzip
import re
import textwrap

import ase
import ase.db
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator

from lesjax import io
from lesjax.io.comment import parse_comment


CELL = np.array([[5.0, 0.1, 0.0], [0.0, 6.0, 0.0], [0.3, 0.0, 7.0]])
LATTICE = " ".join(map(str, CELL.ravel()))
ROWS = "O 0 0 0 1 2 3\nH 1 0 0 4 5 6\n"
STRESS = [[0.1, 0.6, 0.5], [0.6, 0.2, 0.4], [0.5, 0.4, 0.3]]


def file(folder, comment, rows=ROWS, name="a.xyz"):
    path = folder / name
    path.write_text(f"{len(rows.splitlines())}\n{comment}\n{rows}")
    return path


@pytest.mark.parametrize(
    "comment",
    [
        'Lattice="{}" Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5',
        'lattice="{}" properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5',
        'LATTICE="{}" PROPERTIES=Species:S:1:Pos:R:3:Forces:R:3 Energy=-1.5 PBC="t T true"',
        'lattice = "{}" Properties = species:S:1:pos:R:3:force:R:3 energy = -1.5 pbc = "1 1 1"',
        "lattice={{{}}} note=\"lattice=3 stress=4\" Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 pbc=T",
        'pbc=[T, T, T] energy=-1.5 lattice="{}" Properties=species:S:1:positions:R:3:forces:R:3',
    ],
)  # fmt: skip
def test_keys_of_any_case(tmp_path, comment):
    (atoms,) = io.read(file(tmp_path, comment.format(LATTICE)))
    np.testing.assert_allclose(atoms.cell.array, CELL)
    assert atoms.pbc.all()
    np.testing.assert_allclose(atoms.positions, [[0, 0, 0], [1, 0, 0]])
    found = io.labels(atoms)
    np.testing.assert_allclose(found.forces, [[1, 2, 3], [4, 5, 6]])
    assert found.energy == -1.5


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        (f'lattice="{LATTICE}" Lattice="{LATTICE}"', "`Lattice` is in the comment line twice"),
        (f'Lattice="{LATTICE}" pbc="T T"', "`pbc` must be T or F, or three"),
        (f'Lattice="{LATTICE}" pbc="maybe"', "`pbc` must be T or F"),
        (f'cell="{LATTICE}"', "no cell, but an entry `cell`"),
        (f'unit_cell="{LATTICE}"', "no cell, but an entry `unit_cell`"),
        ('Box="5 6 7"', "no cell, but an entry `Box`"),
        ('cellVectors="[[5, 0, 0], [0, 6, 0], [0, 0, 7]]"', "no cell, but an entry `cellVectors`"),
        ("box=60", "no cell, but an entry `box`"),
        ('cellpar="5 6 7 90 90 90"', "no cell, but an entry `cellpar`"),
        (f'boxvectors="{LATTICE}"', "no cell, but an entry `boxvectors`"),
        (f'h="{LATTICE}"', "no cell, but an entry `h`"),
        ('Tv_1="5 0 0" Tv_2="0 6 0" Tv_3="0 0 7"', "no cell, but an entry `Tv_1`"),
        ("box_x=5 box_y=6 box_z=7", "no cell, but an entry `box_x`"),
        ("Lx=5 Ly=6 Lz=7", "no cell, but an entry `Lx`"),
        ("a=5 b=6 c=7 alpha=90 beta=90 gamma=90", "no cell, but an entry `a`"),
        ("CELL(abcABC): 5 6 7 90 90 90 Step: 0", r"no cell, but an entry `CELL\(abcABC\):`"),
        ('lattice="5 6 7"', "`Lattice` must be the nine numbers of three lattice vectors"),
    ],
)
def test_cell_that_would_be_lost(tmp_path, comment, message):
    with pytest.raises(ValueError, match=rf"a\.xyz'.* (frame|Structure) 0.*{message}"):
        io.read(file(tmp_path, f"{comment} energy=1"))


def test_words_that_are_no_cell(tmp_path):
    """Free text, a name, and the cell of a frame that has one."""
    for comment in (
        "a plain comment with lattice and pbc", "cell_type=fcc lattice_type=fcc cellulose=3 n_cells=2",
        "A=1.2 B=3.4 C=5.6 alpha=2.0 h=3 lat=50", "box=none cell=fcc",
    ):  # fmt: skip
        assert not io.read(file(tmp_path, comment))[0].cell.array.any()
    assert io.read(file(tmp_path, f'Lattice="{LATTICE}" box="1 2 3"'))[0].cell.array.any()


SIX, NINE = "0.1 0.2 0.3 0.4 0.5 0.6", "0.1 0.6 0.5 0.6 0.2 0.4 0.5 0.4 0.3"


@pytest.mark.parametrize("stress", [SIX, NINE, f"_JSON {STRESS}", f"[{SIX.replace(' ', ',')}]"])
@pytest.mark.parametrize("name", ["stress", "Stress", "REF_stress"])
def test_stress_of_six_and_nine_numbers(tmp_path, name, stress):
    """Six in the order of ase: xx, yy, zz, yz, xz, xy."""
    (atoms,) = io.read(file(tmp_path, f'Lattice="{LATTICE}" {name}="{stress}"'))
    np.testing.assert_allclose(io.labels(atoms).stress, STRESS)


def test_text_as_a_stress_stops_nothing_but_itself(tmp_path):
    (atoms,) = io.read(file(tmp_path, f'Lattice="{LATTICE}" energy=1 stress=none dipole=none'))
    with pytest.warns(UserWarning, match="Left out, since nothing asks for it: `(stress|dipole)` has shape"):
        assert io.select([atoms], needed=("energy",)).labels[0].energy == 1.0
    with pytest.raises(ValueError, match="`stress` has shape"):
        io.labels(atoms)


@pytest.mark.parametrize(("unit", "factor"), [("bohr", 0.529177), ("nm", 10.0), ("Angstrom", 1.0)])
def test_stated_unit_of_length(tmp_path, unit, factor):
    (atoms,) = io.read(file(tmp_path, f'Lattice="{LATTICE}" length-unit={unit} energy=1'))
    np.testing.assert_allclose(atoms.cell.array, factor * CELL, rtol=1e-5)
    np.testing.assert_allclose(atoms.positions[1], [factor, 0, 0], rtol=1e-5)
    io.write(tmp_path / "b.xyz", [atoms])
    np.testing.assert_allclose(io.read(tmp_path / "b.xyz")[0].positions, atoms.positions, rtol=1e-6)


@pytest.mark.parametrize("unit", ["length_unit=furlong", "position-units=eV", "units=real"])
def test_unknown_unit_of_length(tmp_path, unit):
    with pytest.raises(ValueError, match=rf"a\.xyz': Structure 0: `{unit.split('=')[0]}` = "):
        io.read(file(tmp_path, unit))


def test_unit_of_length_of_some_frames(tmp_path):
    path = file(tmp_path, "length-unit=bohr")
    path.write_text(path.read_text() + "1\n\nO 0 0 0\n")
    with pytest.raises(ValueError, match=r"a\.xyz': Structure 1: states no unit of length, and structure 0 does"):
        io.read(path)


@pytest.mark.parametrize("symbol", ["Bq", "Q", "H_ghost", "XX"])
def test_ghosts_under_other_names(tmp_path, symbol):
    path = file(tmp_path, "energy=1", rows=ROWS.replace("H 1", f"{symbol} 1"))
    with pytest.raises(ValueError, match=rf"at frame 0 .*unknown species '(?i:{symbol})' of atom 1,"):
        io.read(path)


def test_unknown_species(tmp_path):
    path = file(tmp_path, "energy=1")
    path.write_text(path.read_text() + path.read_text().replace("H 1", "Hx 1"))
    with pytest.raises(ValueError, match=r"a\.xyz' cannot be read at frame 1 .*unknown species 'Hx' of atom 1, which"):
        io.read(path)


def test_rows_of_a_database(tmp_path):
    """Labels among the key-value pairs, and arrays among the data."""
    path = tmp_path / "a.db"
    with ase.db.connect(path) as database:
        for i in range(3):
            atoms = ase.Atoms("OH", [[0, 0, 0], [1, 0, 0]])
            if i == 2:
                atoms.calc = SinglePointCalculator(atoms, energy=-9.0)
            database.write(atoms, dft_energy=-1.0 - i, total_charge=1, data={"REF_forces": np.full((2, 3), 0.5)})
    frames = io.read(path)
    found = io.all_labels(frames, io.Keys(energy=("dft_energy",)))
    assert [float(label.energy) for label in found] == [-1.0, -2.0, -3.0]
    np.testing.assert_allclose(found[1].forces, np.full((2, 3), 0.5))
    assert frames[0].info["total_charge"] == 1


def test_lists_and_patterns(tmp_path, monkeypatch):
    for name, energy in (("b1.xyz", 1), ("b2.xyz", 2), ("c.xyz", 3), ("odd[1].xyz", 4)):
        file(tmp_path, f"energy={energy}", name=name)

    def energies(path):
        return [float(io.labels(atoms).energy) for atoms in io.read(path)]

    assert energies(tmp_path / "b*.xyz") == [1, 2]
    assert energies([tmp_path / "c.xyz", tmp_path / "b?.xyz"]) == [3, 1, 2]
    assert energies(tmp_path / "odd[1].xyz") == [4]
    monkeypatch.chdir(tmp_path)
    assert energies("b[12].xyz") == [1, 2]
    assert energies(["c.xyz", "*.xyz", str(tmp_path / "c.xyz")]) == [3, 1, 2, 4]  # each once
    with pytest.raises(FileNotFoundError, match=r"no file 'd\*\.xyz'"):
        io.read("d*.xyz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", b"PK", "arrays of numpy"),
        ("arrays", b"\x93NUMPY\x01", "arrays of numpy"),
        ("a.h5", b"", "HDF5"),
        ("structures", b"\x89HDF\r\n", "HDF5"),
        ("train.cfg", b"BEGIN_CFG\n Size\n", r"configurations of MLIP \(MTP\)"),
        ("set.000/energy.npy", b"", "arrays of numpy"),
        ("type.raw", b"0 1\n", "data of DeePMD-kit"),
    ],
)
def test_formats_that_ase_does_not_read(tmp_path, name, content, message):
    path = tmp_path / "system" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"{re.escape(name)}' holds {message}, which ase does not read. Convert"
    ) as error:
        io.read(path)
    assert 'ase.io.write("data.xyz", frames, format="extxyz")' in str(error.value)


def test_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is a folder\. Name its files, as .*\*\.xyz'"):
        io.read(tmp_path)
    (tmp_path / "set.000").mkdir()
    (tmp_path / "set.000" / "energy.npy").touch()
    for path in (tmp_path, tmp_path / "set.000"):
        with pytest.raises(ValueError, match="holds data of DeePMD-kit"):
            io.read(path)


def converted(path, monkeypatch):
    """Frames that the lines of the message make of a file."""
    with pytest.raises(ValueError, match="Convert them to extended xyz") as error:
        io.read(path)
    monkeypatch.chdir(path.parent)
    exec(textwrap.dedent(str(error.value).partition("\n")[2]), {})
    return io.read("data.xyz")


def test_lines_that_convert_arrays(tmp_path, monkeypatch):
    positions, forces = np.arange(12.0).reshape(2, 2, 3), np.ones((2, 2, 3))
    np.savez(tmp_path / "a.npz", z=[11, 17], R=positions, E=[[-1.0], [-2.0]], F=forces)
    frames = converted(tmp_path / "a.npz", monkeypatch)
    np.testing.assert_allclose([atoms.positions for atoms in frames], positions)
    assert [float(label.energy) for label in io.all_labels(frames)] == [-1.0, -2.0]
    np.testing.assert_allclose(io.labels(frames[1]).forces, forces[1])


MTP = """BEGIN_CFG
 Size
    2
 Supercell
    5.0 0.1 0.0
    0.0 6.0 0.0
    0.3 0.0 7.0
 AtomData:  id type       cartes_x      cartes_y      cartes_z           fx          fy          fz
             1    0       0.0           0.0           0.0           1.0         2.0         3.0
             2    1       2.5           0.0           0.0          -1.0        -2.0        -3.0
 Energy
        -7.5
 PlusStress:  xx          yy          zz          yz          xz          xy
     1.0 2.0 3.0 4.0 5.0 6.0
 Feature   EFS_by       VASP
END_CFG
"""


def test_lines_that_convert_configurations_of_mtp(tmp_path, monkeypatch):
    (tmp_path / "train.cfg").write_text(2 * MTP)
    first, atoms = converted(tmp_path / "train.cfg", monkeypatch)
    assert str(first.symbols) == str(atoms.symbols) == "NaCl"
    np.testing.assert_allclose(atoms.cell.array, CELL)
    found = io.labels(atoms)
    assert found.energy == -7.5
    np.testing.assert_allclose(found.forces, [[1, 2, 3], [-1, -2, -3]])
    np.testing.assert_allclose(found.stress[0], -np.array([1, 6, 5]) / np.linalg.det(CELL))


VASPRUN = """<modeling>
<parameters><separator name="electronic"><i type="int" name="NELM">2</i></separator></parameters>
<kpoints><generation param="Gamma"/><varray name="kpointlist"><v>0 0 0</v></varray>
<varray name="weights"><v>1</v></varray></kpoints>
<atominfo><array name="atoms"><set><rc><c>H</c><c>1</c></rc></set></array></atominfo>
<structure name="initialpos"><crystal><varray name="basis">{basis}</varray></crystal>
<varray name="positions"><v>0 0 0</v></varray></structure>
{steps}</modeling>"""
STEP = """<calculation>{scf}
<structure><crystal><varray name="basis">{basis}</varray></crystal>
<varray name="positions"><v>0 0 0</v></varray></structure>
<varray name="forces"><v>0 0 {force}</v></varray>
<energy><i name="e_fr_energy">{energy}</i><i name="e_wo_entrp">{energy}</i><i name="e_0_energy">0</i></energy>
</calculation>"""
SCF = """<scstep><energy>
<i name="e_fr_energy">{e}</i><i name="e_wo_entrp">{e}</i><i name="e_0_energy">0</i></energy></scstep>"""


def test_steps_of_vasp_that_did_not_converge(tmp_path):
    """`free_energy` belongs to the forces; electrons that took all of NELM steps have not converged."""
    basis = "<v>5 0 0</v><v>0 5 0</v><v>0 0 5</v>"
    steps = [
        STEP.format(scf=n * SCF.format(e=-i), basis=basis, force=i, energy=-i) for i, n in enumerate((1, 2, 1), start=1)
    ]
    path = tmp_path / "vasprun.xml"
    path.write_text(VASPRUN.format(basis=basis, steps="".join(steps)))
    with pytest.warns(UserWarning, match=r"vasprun\.xml': 1 of 3 structures are left out, .* electrons did not"):
        frames = io.read(path)
    found = io.all_labels(frames, io.Keys(energy=("free_energy",)))
    assert [float(label.energy) for label in found] == [-1.0, -3.0]
    path.write_text(path.read_text().replace('name="NELM">2', 'name="NELM">60'))
    assert len(io.read(path)) == 3


OUTCAR = """ vasp.6.3.0
 POTCAR:    PAW_PBE H 15Jun2001
   ions per type =               1
--------------------------------------- Iteration      1(   1)  ---------------------------------------
"""
OUTCAR_STEP = """------------------------ aborting loop {end} ----------------------------------------
      direct lattice vectors                 reciprocal lattice vectors
     5.0  0.0  0.0     0.2  0.0  0.0
     0.0  5.0  0.0     0.0  0.2  0.0
     0.0  0.0  5.0     0.0  0.0  0.2
 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
      0.0      0.0      {force}         0.0      0.0       {force}
 -----------------------------------------------------------------------------------
  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  =       -{force} eV

  energy  without entropy=       0.0  energy(sigma->0) =       -0.5
"""


@pytest.mark.parametrize("name", ["OUTCAR", "OUTCAR.gz"])
def test_steps_of_an_outcar_that_did_not_converge(tmp_path, name):
    ends = ("because EDIFF is reached", "EDIFF was not reached (unconverged)", "because EDIFF is reached")
    steps = [OUTCAR_STEP.format(end=end, force=float(i)) for i, end in enumerate(ends, start=1)]
    with (gzip.open if name.endswith("gz") else open)(tmp_path / name, "wt") as output:
        output.write(OUTCAR + "".join(steps))
    with pytest.warns(UserWarning, match=rf"{name}': 1 of 3 structures are left out, .* electrons did not converge"):
        frames = io.read(tmp_path / name)
    found = io.all_labels(frames, io.Keys(energy=("free_energy",)))
    assert [float(label.energy) for label in found] == [-1.0, -3.0]
    assert [float(label.forces[0, 2]) for label in found] == [1.0, 3.0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("energy=-1.0 energy=-2.0", "`energy` is in the comment line twice"),
        ('Lattice="5 0 0 0 5 0 0 0 5" lattice="6 0 0 0 6 0 0 0 6"', "`Lattice` is in the comment line twice"),
        ("Properties=species:S:1:pos:R:3:f:R:1:f:R:2", "`Properties` has the column `f` twice"),
        ("Properties=species:S:1:pos:R:3:f:R:1000000000", "`Properties` has a column of '1000000000' numbers"),
    ],
)
def test_keys_and_columns_that_no_one_meant(line, message):
    with pytest.raises(ValueError, match=message):
        parse_comment(line)
    assert parse_comment("energy=-1.0 config_type=bulk config_type=bulk")["config_type"] == "bulk"
