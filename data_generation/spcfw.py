r"""Flexible SPC/Fw water with ions, sampled and labelled with OpenMM: ``pip install 'lesjax[datasets]'``.

OpenMM is not a dependency of lesjax. The potential energy is

.. math:: E = \sum_{OH} \frac{k_r}{2} (r - r_0)^2 + \sum_{HOH} \frac{k_\theta}{2} (\theta - \theta_0)^2
          + \sum_{i<j} S(r_{ij})\, 4 \epsilon_{ij} \left[ (\sigma_{ij} / r_{ij})^{12}
          - (\sigma_{ij} / r_{ij})^6 \right] + E_\mathrm{Coulomb}

with Lorentz-Berthelot rules, point charges under conducting boundary conditions, and neither Lennard-Jones nor
Coulomb terms inside a molecule. S takes the Lennard-Jones energy from full at `SWITCH` to zero at `CUTOFF` with
two continuous derivatives (1 - 10 t³ + 15 t⁴ - 6 t⁵), and nothing is added for pairs beyond: the potential is the
truncated one, without a jump. The Coulomb energy is a converged Ewald sum.

Bonds, angles and the Lennard-Jones term of water are those of SPC/Fw (Wu, Tepper, Voth, J. Chem. Phys. 124, 024503
(2006), doi:10.1063/1.2136877). Its charges are -0.82 e and 0.41 e; the charges here are those of SPC/E, -0.8476 e and
0.4238 e, the water that the ions were fitted for: Joung, Cheatham, J. Phys. Chem. B 112, 9020 (2008),
doi:10.1021/jp8001614, the set for SPC/E.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.geometry import wrap_positions

from data_generation.storage import attach, round_positions


CHARGES = {"O": -0.8476, "H": 0.4238, "Na": 1.0, "K": 1.0, "F": -1.0, "Cl": -1.0}  # e
# Half the distance of the minimum, Å, and the depth, kcal/mol; for water σ is published, 3.165492 Å.
LENNARD_JONES = {
    "O": (3.165492 * 2 ** (1 / 6) / 2, 0.1554253),
    "Na": (1.212, 0.3526418),
    "K": (1.593, 0.4297054),
    "F": (2.257, 0.0074005),
    "Cl": (2.711, 0.0127850),
}
BOND_LENGTH, BOND_CONSTANT = 1.012, 1059.162  # Å, kcal/mol/Å²
ANGLE, ANGLE_CONSTANT = 113.24, 75.90  # degrees, kcal/mol/rad²
KCAL = 4.184  # kJ
SWITCH, CUTOFF = 5.0, 6.0  # Å
IONS = ("Na", "K", "F", "Cl")
# amu. Masses have no effect on the distribution of positions, and heavy hydrogen allows longer steps.
MASSES = {"O": 10.015, "H": 4.0, "Na": 22.990, "K": 39.098, "F": 18.998, "Cl": 35.453}
TIME_STEP = 2.0  # fs
FRICTION = 2.0  # 1/ps
SAMPLING_TOLERANCE, LABEL_TOLERANCE = 5e-4, 1e-8  # relative error of the Coulomb forces that OpenMM aims at
PROVENANCE = {
    "labels": f"OpenMM, Reference platform (double precision), Ewald sum with error tolerance {LABEL_TOLERANCE}; "
    f"Lennard-Jones switched from {SWITCH} to {CUTOFF} Å, no correction beyond; charges: of the force field",
    "force_field": "SPC/Fw (doi:10.1063/1.2136877) with charges O -0.8476 e, H 0.4238 e; ions of Joung and Cheatham "
    "for SPC/E (doi:10.1021/jp8001614); Lorentz-Berthelot",
}


def n_waters(atoms: Atoms) -> int:
    """Number of water molecules, which come first, each as O, H, H.

    Raises:
        ValueError: for another order, or an element without parameters.
    """
    symbols = atoms.get_chemical_symbols()
    n = symbols.count("O")
    ions = symbols[3 * n :]
    if symbols[: 3 * n] != ["O", "H", "H"] * n or not set(ions) <= set(IONS):
        raise ValueError(
            f"`atoms` must hold water molecules as O, H, H and then ions ({', '.join(IONS)}), got {atoms.symbols}."
        )
    return n


def charges(atoms: Atoms) -> np.ndarray:
    """Charges of the force field, e, [n]."""
    return np.array([CHARGES[symbol] for symbol in atoms.symbols])


def random_molecules(oxygens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return positions, Å, [3 n, 3], of randomly oriented water molecules with oxygens at [n, 3]."""
    half = np.radians(ANGLE) / 2
    molecule = BOND_LENGTH * np.array([[0, 0, 0], [np.cos(half), np.sin(half), 0], [np.cos(half), -np.sin(half), 0]])
    rotations = np.linalg.qr(rng.normal(size=(len(oxygens), 3, 3)))[0]
    return (molecule @ rotations + oxygens[:, None]).reshape(-1, 3)


def label(frames: Sequence[Atoms]) -> list[Atoms]:
    """Return labelled copies of frames of one composition and cell, by OpenMM's Reference platform in double precision.

    Raises:
        ValueError: if a lattice vector is shorter than twice `CUTOFF`, or the atoms are in another order.
        ImportError: without OpenMM.
    """
    mm = _openmm()
    rounded = [round_positions(atoms) for atoms in frames]
    system = _system(rounded[0], mm.NonbondedForce.Ewald, LABEL_TOLERANCE)
    platform = mm.Platform.getPlatformByName("Reference")
    context = mm.Context(system, mm.VerletIntegrator(0.001), platform)
    for atoms in rounded:
        if not (atoms.numbers == rounded[0].numbers).all() or not np.array_equal(atoms.cell, rounded[0].cell):
            raise ValueError("`frames` must have one composition and one cell.")
        context.setPositions(atoms.positions / 10)
        state = context.getState(energy=True, forces=True)
        energy = state.getPotentialEnergy().value_in_unit(mm.unit.kilojoule_per_mole)
        forces = state.getForces(asNumpy=True).value_in_unit(mm.unit.kilojoule_per_mole / mm.unit.angstrom)
        kilojoule_per_mole = units.kJ / units.mol
        attach(atoms, energy * kilojoule_per_mole, np.asarray(forces) * kilojoule_per_mole, charges(atoms))
    return rounded


def sample(
    start: Atoms, n_frames: int, *, temperature: float, equilibration: float, interval: float, seed: int
) -> list[Atoms]:
    """Return frames of a run at constant volume after a minimization, on one thread of OpenMM's CPU platform.

    The sum there is a particle mesh in single precision, good enough to draw configurations from. Molecules are
    moved into the cell as a whole, and the centre of mass into its middle.

    Args:
        start: water molecules, then ions; overlaps are resolved.
        n_frames: number of frames.
        temperature: K.
        equilibration: time before the first frame, ps.
        interval: time between frames, ps.
        seed: seed of OpenMM's random numbers, at least 1.

    Raises:
        ValueError: as `label`.
        ImportError: without OpenMM.
    """
    mm = _openmm()
    system = _system(start, mm.NonbondedForce.PME, SAMPLING_TOLERANCE)
    system.addForce(mm.CMMotionRemover())
    integrator = mm.LangevinMiddleIntegrator(temperature, FRICTION, TIME_STEP / 1000)
    integrator.setRandomNumberSeed(seed)
    platform = mm.Platform.getPlatformByName("CPU")
    context = mm.Context(system, integrator, platform, {"Threads": "1", "DeterministicForces": "true"})
    context.setPositions(start.positions / 10)
    mm.LocalEnergyMinimizer.minimize(context, 10, 500)
    context.setVelocitiesToTemperature(temperature, seed)
    integrator.step(round(equilibration * 1000 / TIME_STEP))
    frames = []
    for _ in range(n_frames):
        integrator.step(round(interval * 1000 / TIME_STEP))
        state = context.getState(positions=True)
        atoms = start.copy()
        atoms.positions = state.getPositions(asNumpy=True).value_in_unit(mm.unit.angstrom)
        frames.append(wrap_molecules(atoms))
    return frames


def wrap_molecules(atoms: Atoms) -> Atoms:
    """Return a copy with the centre of mass in the middle of the cell and each oxygen and ion inside it."""
    result = atoms.copy()
    n = n_waters(atoms)
    positions = atoms.positions + atoms.cell.array.sum(axis=0) / 2 - atoms.get_center_of_mass()
    heads = np.r_[np.arange(0, 3 * n, 3), np.arange(3 * n, len(atoms))]
    shifts = wrap_positions(positions[heads], atoms.cell, pbc=True, eps=0) - positions[heads]
    result.positions = positions + np.repeat(shifts, np.r_[np.full(n, 3), np.ones(len(heads) - n, int)], axis=0)
    return result


def _openmm() -> Any:
    try:
        import openmm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("Sampling and labels of water need OpenMM: pip install 'lesjax[datasets]'.") from error
    return openmm


def _system(atoms: Atoms, method: int, tolerance: float) -> Any:
    """The force field as an OpenMM System: nm, kJ/mol, amu."""
    mm = _openmm()
    n = n_waters(atoms)
    if not (atoms.pbc.all() and np.allclose(atoms.cell.array, np.diag(atoms.cell.lengths()))):
        raise ValueError(f"`atoms` must have a periodic rectangular cell, got {atoms.cell} and pbc {atoms.pbc}.")
    if atoms.cell.lengths().min() < 2 * CUTOFF:
        raise ValueError(f"`atoms` must have a cell of at least {2 * CUTOFF} Å, got {atoms.cell.lengths()} Å.")
    system = mm.System()
    system.setDefaultPeriodicBoxVectors(*(atoms.cell.array / 10))
    bonds, angles, nonbonded = mm.HarmonicBondForce(), mm.HarmonicAngleForce(), mm.NonbondedForce()
    for symbol in atoms.get_chemical_symbols():
        system.addParticle(MASSES[symbol])
        half, depth = LENNARD_JONES.get(symbol, (1.0, 0.0))
        nonbonded.addParticle(CHARGES[symbol], 2 * half / 2 ** (1 / 6) / 10, depth * KCAL)
    for oxygen in range(0, 3 * n, 3):
        first, second = oxygen + 1, oxygen + 2
        for hydrogen in (first, second):
            bonds.addBond(oxygen, hydrogen, BOND_LENGTH / 10, BOND_CONSTANT * KCAL * 100)
        angles.addAngle(first, oxygen, second, np.radians(ANGLE), ANGLE_CONSTANT * KCAL)
        for pair in ((oxygen, first), (oxygen, second), (first, second)):
            nonbonded.addException(*pair, 0.0, 0.1, 0.0)
    nonbonded.setNonbondedMethod(method)
    nonbonded.setCutoffDistance(CUTOFF / 10)
    nonbonded.setEwaldErrorTolerance(tolerance)
    nonbonded.setUseSwitchingFunction(True)
    nonbonded.setSwitchingDistance(SWITCH / 10)
    nonbonded.setUseDispersionCorrection(False)
    for force in (bonds, angles, nonbonded):
        system.addForce(force)
    return system
