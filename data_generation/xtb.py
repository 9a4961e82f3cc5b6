"""GFN2-xTB labels from tblite, which is not a dependency of lesjax: ``pip install 'lesjax[datasets]'``.

References:
    Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019), doi:10.1021/acs.jctc.8b01176.
"""

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes

from data_generation.storage import attach, round_positions


# Of tblite's convergence thresholds, relative to its defaults (1e-6 hartree for the energy).
ACCURACY = 0.1


class NotConverged(RuntimeError):
    """The self-consistent field of GFN2-xTB did not converge."""


class GFN2(Calculator):
    """GFN2-xTB for ASE.

    Each call starts from the same guess, unlike tblite's own calculator, so that energy and forces are
    functions only of the geometry, also where two electronic states are close.

    Args:
        charge: total charge, e.
        unpaired: number of unpaired electrons.
    """

    implemented_properties = ["energy", "forces", "charges"]  # noqa: RUF012, as ase declares it

    def __init__(self, charge: int, unpaired: int) -> None:
        super().__init__()
        self.charge, self.unpaired = charge, unpaired

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """Compute all three; raises `NotConverged`."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        self.results = singlepoint(self.atoms, self.charge, self.unpaired)


def singlepoint(atoms: Atoms, charge: int, unpaired: int) -> dict:
    """Energy, eV, forces, eV/Å, and Mulliken charges, e.

    Raises:
        NotConverged: if the self-consistent field does not converge.
        ImportError: without tblite.
    """
    try:
        from tblite import interface  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("GFN2-xTB needs tblite: pip install 'lesjax[datasets]'.") from error
    positions = atoms.positions / units.Bohr
    method = interface.Calculator("GFN2-xTB", atoms.numbers, positions, charge=charge, uhf=unpaired)
    method.set("verbosity", 0)
    method.set("accuracy", ACCURACY)
    try:
        result = method.singlepoint()
    except interface.TBLiteRuntimeError as error:
        raise NotConverged(str(error)) from error
    labels = {
        "energy": result.get("energy") * units.Hartree,
        "forces": -result.get("gradient") * (units.Hartree / units.Bohr),
        "charges": result.get("charges"),
    }
    if not all(np.isfinite(value).all() for value in labels.values()):
        raise NotConverged("The results are not finite.")
    return labels


def label(atoms: Atoms, charge: int, unpaired: int) -> Atoms:
    """Return a labelled copy: energy, forces, Mulliken charges, total charge and unpaired electrons in ``info``.

    Raises:
        NotConverged: if the self-consistent field does not converge.
        ImportError: without tblite.
    """
    result = round_positions(atoms)
    result.info |= {"charge": charge, "unpaired_electrons": unpaired}
    return attach(result, **singlepoint(result, charge, unpaired))
