"""GFN-xTB labels from tblite, which is not a dependency of lesjax: ``pip install 'lesjax[datasets]'``.

References:
    GFN1-xTB: Grimme, Bannwarth, Shushkov, J. Chem. Theory Comput. 13, 1989 (2017), doi:10.1021/acs.jctc.7b00118.
    GFN2-xTB: Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019), doi:10.1021/acs.jctc.8b01176.
"""

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes

from data_generation.storage import attach, round_positions


# Of tblite's convergence thresholds, relative to its defaults (1e-6 hartree for the energy).
ACCURACY = 0.1
# damping of the mixer and largest number of cycles: of tblite, and where that does not converge, slower ones
MIXING = ((0.4, 250), (0.1, 1000), (0.02, 4000))


class NotConverged(RuntimeError):
    """The self-consistent field of xTB did not converge."""


class XTB(Calculator):
    """GFN1-xTB or GFN2-xTB for ASE.

    Each call starts from the same guess, unlike tblite's own calculator, so that energy and forces are
    functions only of the geometry, also where two electronic states are close.

    Args:
        charge: total charge, e.
        unpaired: number of unpaired electrons.
        method: "GFN1-xTB" or "GFN2-xTB".
    """

    implemented_properties = ["energy", "forces", "charges"]  # noqa: RUF012, as ase declares it

    def __init__(self, charge: int, unpaired: int, method: str) -> None:
        super().__init__()
        self.charge, self.unpaired, self.method = charge, unpaired, method

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """Compute all three; raises `NotConverged`."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        self.results = singlepoint(self.atoms, self.charge, self.unpaired, self.method)


def singlepoint(atoms: Atoms, charge: int, unpaired: int, method: str) -> dict:
    """Energy, eV, forces, eV/Å, and Mulliken charges, e.

    Raises:
        NotConverged: if the self-consistent field does not converge.
        ImportError: without tblite.
    """
    try:
        from tblite import interface  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("xTB needs tblite: pip install 'lesjax[datasets]'.") from error
    positions = atoms.positions / units.Bohr
    result = None
    for damping, cycles in MIXING:
        calculator = interface.Calculator(method, atoms.numbers, positions, charge=charge, uhf=unpaired)
        calculator.set("verbosity", 0)
        calculator.set("accuracy", ACCURACY)
        calculator.set("mixer-damping", damping)
        calculator.set("max-iter", cycles)
        try:
            result = calculator.singlepoint()
        except interface.TBLiteRuntimeError as error:
            if (damping, cycles) == MIXING[-1]:
                raise NotConverged(str(error)) from error
        else:
            break
    assert result is not None
    labels = {
        "energy": result.get("energy") * units.Hartree,
        "forces": -result.get("gradient") * (units.Hartree / units.Bohr),
        "charges": result.get("charges"),
    }
    if not all(np.isfinite(value).all() for value in labels.values()):
        raise NotConverged("The results are not finite.")
    return labels


def label(atoms: Atoms, charge: int, unpaired: int, method: str) -> Atoms:
    """Return a labelled copy: energy, forces, Mulliken charges, total charge and unpaired electrons in ``info``.

    Raises:
        NotConverged: if the self-consistent field does not converge.
        ImportError: without tblite.
    """
    result = round_positions(atoms)
    result.info |= {"charge": charge, "unpaired_electrons": unpaired}
    return attach(result, **singlepoint(result, charge, unpaired, method))
