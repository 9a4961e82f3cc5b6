"""ASE's calculator interface to a potential."""

from collections.abc import Sequence
from typing import Any

import ase
import jax
import numpy as np
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from lesjax import ewald
from lesjax.models.potential import Potential
from lesjax.neighbors.pairs import most_pairs
from lesjax.system import System, electronic_state


class LesCalculator(Calculator):
    """Energy, forces, stress and latent charges of a potential for ASE; dipole and Born effective charges.

    ``dipole`` exists without periodic directions (with one it has no meaning of its own), ``stress`` with three.
    ``born_effective_charges`` [atom, polarization, displacement], in e, are computed when asked for, by
    ``calculator.get_property("born_effective_charges", atoms)``; ``results`` has them as nine columns, which ase can
    write. So are ``energies`` (``atoms.get_potential_energies()``), see `Potential.atomic_energies`.

    The width of the neighbour arrays has some slack and only grows, so that a simulation compiles once; where the
    number of atoms changes, it is padded likewise. The plan of the long-range sum stays while it is valid for the
    cell, so that energies stay smooth; the cells that a calculator has seen before then change an energy by up to 0.014
    meV per atom at the default accuracy (rattled NaCl with charges of one e; water: 0.003), and by a hundredth of that
    with ``accuracy = 1e-5`` of the model's `LongRangeConfig` (``benchmarks/plan_history.py``). A total charge and spin
    multiplicity are taken from ``atoms.info``, see `System.from_ase`.

    Args:
        potential: the model.
        pbc: overrides the periodicity of the atoms.
        epsilon_infinity: electronic dielectric constant for the Born effective charges.
    """

    implemented_properties = [  # noqa: RUF012 (as ASE has it)
        "energy", "free_energy", "energies", "forces", "stress", "charges", "dipole", "born_effective_charges",
    ]  # fmt: skip
    slack = 1.05
    atom_slack = 1.1

    def __init__(
        self,
        potential: Potential,
        pbc: bool | tuple[bool, bool, bool] | None = None,
        epsilon_infinity: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.potential = potential
        self.pbc = pbc
        self.epsilon_infinity = epsilon_infinity
        self._computed: tuple[Any, ...] | None = None
        self._capacity = self._pair_capacity = 0
        self._rows = 0
        self._plan: tuple[tuple[bool, bool, bool], ewald.Plan | None] | None = None

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute into `results` all, Born effective charges and atomic energies if asked for; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        atoms, self._computed = self.atoms, (self.potential, self.pbc, self.epsilon_infinity)
        if atoms is None:
            raise ValueError("`atoms` is needed: the calculator has not seen any yet.")
        system = System.from_ase(atoms, cutoff=self.potential.cutoff, pbc=self.pbc)
        n, m = system.shape
        if m > self._capacity:
            self._capacity = self._with_slack(m)
        solver = self._solver(system)
        assert system.pairs is not None
        if len(system.pairs) > self._pair_capacity:
            self._pair_capacity = self._with_slack(len(system.pairs))
        rows = self._padded_atoms(n)
        padded = system.pad_to(rows, self._capacity, min(self._pair_capacity, most_pairs(rows, self._capacity)))
        prediction = self.potential(padded, solver)
        values = jax.device_get(vars(prediction))
        energy = float(self.potential.total_energy(values["energy"], atoms.numbers))
        self.results = {"energy": energy, "free_energy": energy, "forces": np.asarray(values["forces"], float)[:n]}
        if values["stress"] is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(np.asarray(values["stress"], float))
        if values["charges"] is not None:
            self.results["charges"] = np.asarray(values["charges"], float)[:n].sum(axis=1)
            if not any(system.pbc):
                dipole = self.results["charges"] @ atoms.positions
                if values["dipoles"] is not None:
                    dipole = dipole + np.asarray(values["dipoles"], float)[:n].sum(axis=(0, 1))
                self.results["dipole"] = dipole
        if "born_effective_charges" in properties:
            born = self.potential.born_effective_charges(padded, epsilon_infinity=self.epsilon_infinity)
            self.results["born_effective_charges"] = np.asarray(born, float)[:n].reshape(n, 9)
        if "energies" in properties:
            try:
                self.results["energies"] = self.potential.atomic_energies(padded, solver)[:n]
            except ValueError as error:
                raise PropertyNotImplementedError(str(error)) from error

    def get_property(self, name: str, atoms: ase.Atoms | None = None, allow_calculation: bool = True) -> Any:
        """A result, computed if need be; Born effective charges as [atom, polarization, displacement]."""
        result = super().get_property(name, atoms, allow_calculation)
        return result.reshape(-1, 3, 3) if name == "born_effective_charges" and result is not None else result

    def _with_slack(self, number: int) -> int:
        return 4 * int(np.ceil(self.slack * number / 4))

    def _padded_atoms(self, n: int) -> int:
        """Return as many rows as atoms at first, with room once their number has changed, until it falls by half."""
        if self._rows == 0:
            self._rows = n
        elif n > self._rows or 2 * n < self._rows:
            self._rows = int(np.ceil(self.atom_slack * n))
        return self._rows

    def check_state(self, atoms: ase.Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation.

        Includes total charge, spin multiplicity and the attributes of the calculator, which ASE leaves out.
        """
        changes = super().check_state(atoms, tol=tol)
        if self.atoms is not None and not np.array_equal(
            electronic_state(self.atoms), electronic_state(atoms), equal_nan=True
        ):
            changes = [*changes, "info"]
        if self._computed is not None:
            potential, *options = self._computed
            if potential is not self.potential or options != [self.pbc, self.epsilon_infinity]:
                changes = [*changes, "options"]
        return changes

    def _solver(self, system: System) -> ewald.Plan | None:
        """Return the plan for this cell, or the last one while the cell is close to the one it was made for."""
        if not self.potential.config.has_sum:
            return None
        cell = np.asarray(system.cell, np.float64)
        if self._plan is not None:
            pbc, solver = self._plan
            if pbc == system.pbc and (solver is None or solver.still_valid(cell)):
                if solver is not None:
                    solver.check_atoms(np.asarray(system.positions, np.float64), cell)
                return solver
        solver = self.potential.make_solver(system)
        self._plan = (system.pbc, solver)
        return solver
