r"""Constant pressure with one evaluation of the forces per step: isotropic or fully flexible cell.

The equations of Martyna, Tobias and Klein (J. Chem. Phys. 101, 4177 (1994)) with Nosé-Hoover chains for atoms and cell,
in the time-reversible splitting of Tuckerman et al. (J. Phys. A 39, 5629 (2006)); with the rate of strain
:math:`v = p_g / W` (symmetric, so that the cell does not rotate) and f degrees of freedom

.. math:: \dot r = p / m + v r, \quad \dot p = F - (v + \operatorname{tr} v / f)\, p, \quad \dot h = h v, \quad
          \dot p_g = \sum p p^T / m - \partial U / \partial \varepsilon - P V + \sum p^2 / (m f)

The isotropic cell has only the trace of the last line. jax-md's `npt_nose_hoover` solves the isotropic equations too,
with two evaluations of the energy per step. The chains are jax-md's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax_md import simulate
from jaxtyping import Array, Float

from lesjax.numerics import determinant, matmul


# (positions, cell, **arguments of the step) -> forces [n, 3], virial -dU/dε [3, 3]
ForceVirial = Callable[..., tuple[Array, Array]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NPTState:
    """Atoms, cell and chains; units eV, Å, amu and the time that follows from them.

    Attributes:
        position: Å.
        momentum: momentum relative to the straining cell.
        force: eV/Å.
        mass: [n, 1], amu.
        cell: lattice vectors as rows, Å.
        cell_momentum: p_g, symmetric.
        virial: -dU/dε of this configuration, eV.
        thermostat: chain of the atoms.
        barostat: chain of the cell.
    """

    position: Float[Array, "n 3"]
    momentum: Float[Array, "n 3"]
    force: Float[Array, "n 3"]
    mass: Float[Array, "n 1"]
    cell: Float[Array, "3 3"]
    cell_momentum: Float[Array, "3 3"]
    virial: Float[Array, "3 3"]
    thermostat: Any
    barostat: Any

    @property
    def velocity(self) -> Float[Array, "n 3"]:
        """Momentum over mass."""
        return self.momentum / self.mass


@dataclass(frozen=True)
class Barostat:
    """Constants of a run at constant pressure.

    Attributes:
        force_virial: forces and virial of a configuration.
        dt: time step.
        temperature: kT, eV.
        pressure: eV/Å³.
        dof: degrees of freedom of the atoms.
        thermostat_time: period of the atoms' chain.
        barostat_time: period of the cell.
        flexible: all six strains of the cell instead of only its volume.
    """

    force_virial: ForceVirial
    dt: float
    temperature: float
    pressure: float
    dof: int
    thermostat_time: float
    barostat_time: float
    flexible: bool

    @property
    def _cell_dof(self) -> int:
        return 6 if self.flexible else 1

    @property
    def _cell_mass(self) -> float:
        return (self.dof + 3) * self.temperature * self.barostat_time**2 / 3.0

    def _chain(self, time: float) -> Any:
        return simulate.nose_hoover_chain(self.dt, 3, 2, 3, time)

    def initialize(
        self,
        position: Float[Array, "n 3"],
        cell: Float[Array, "3 3"],
        mass: Float[Array, " n"],
        momentum: Float[Array, "n 3"],
        **inputs: Any,
    ) -> NPTState:
        """Return the state of a run that starts with a cell at rest."""
        force, virial = self.force_virial(position, cell, **inputs)
        cell_momentum = jnp.zeros((3, 3), position.dtype)
        kinetic = 0.5 * jnp.sum(momentum**2 / mass[:, None])
        thermostat = self._chain(self.thermostat_time).initialize(self.dof, kinetic, self.temperature)
        still = jnp.zeros((), position.dtype)
        barostat = self._chain(self.barostat_time).initialize(self._cell_dof, still, self.temperature)
        return NPTState(position, momentum, force, mass[:, None], cell, cell_momentum, virial, thermostat, barostat)

    def step(self, state: NPTState, **inputs: Any) -> NPTState:
        """Take one time step."""
        dt, mass = self.dt, state.mass
        thermostat, barostat = self._chain(self.thermostat_time), self._chain(self.barostat_time)
        chain, cell_chain = state.thermostat, state.barostat
        cell_momentum, cell_chain = barostat.half_step(state.cell_momentum, cell_chain, self.temperature)
        momentum, chain = thermostat.half_step(state.momentum, chain, self.temperature)

        cell_momentum += 0.5 * dt * self._cell_force(momentum, mass, state.virial, state.cell)
        rate = cell_momentum / self._cell_mass
        momentum = self._kick(momentum, state.force, rate)
        stretch, average = _exponentials(rate * dt)
        position = matmul(state.position, stretch) + matmul(dt * (momentum / mass), average)
        cell = matmul(state.cell, stretch)
        force, virial = self.force_virial(position, cell, **inputs)
        momentum = self._kick(momentum, force, rate)
        cell_momentum += 0.5 * dt * self._cell_force(momentum, mass, virial, cell)

        chain = chain.set(kinetic_energy=0.5 * jnp.sum(momentum**2 / mass))
        cell_chain = cell_chain.set(kinetic_energy=self._cell_energy(cell_momentum))
        momentum, chain = thermostat.half_step(momentum, chain, self.temperature)
        cell_momentum, cell_chain = barostat.half_step(cell_momentum, cell_chain, self.temperature)
        return replace(
            state, position=position, momentum=momentum, force=force, cell=cell, cell_momentum=cell_momentum,
            virial=virial, thermostat=chain, barostat=cell_chain,
        )  # fmt: skip

    def extra_energy(self, state: NPTState) -> Float[Array, ""]:
        """Energy to add to the kinetic and potential energy for the conserved quantity, eV."""
        volume = jnp.abs(determinant(state.cell))
        chains = chain_energy(state.thermostat, self.temperature) + chain_energy(state.barostat, self.temperature)
        return chains + self._cell_energy(state.cell_momentum) + self.pressure * volume

    def internal_pressure(self, state: NPTState) -> Float[Array, "3 3"]:
        """Pressure tensor with its kinetic part, eV/Å³."""
        kinetic = matmul((state.momentum / state.mass).T, state.momentum)
        return (kinetic + state.virial) / jnp.abs(determinant(state.cell))

    def _cell_energy(self, cell_momentum: Float[Array, "3 3"]) -> Float[Array, ""]:
        return 0.5 * jnp.sum(cell_momentum**2) / self._cell_mass

    def _cell_force(self, momentum: Array, mass: Array, virial: Array, cell: Array) -> Float[Array, "3 3"]:
        kinetic = matmul((momentum / mass).T, momentum)
        unit = jnp.eye(3, dtype=cell.dtype)
        pressure = self.pressure * jnp.abs(determinant(cell))
        total = kinetic + virial + (jnp.trace(kinetic) / self.dof - pressure) * unit
        return total if self.flexible else jnp.trace(total) / 3.0 * unit

    def _kick(self, momentum: Array, force: Array, rate: Array) -> Array:
        half = 0.5 * self.dt
        drag = -half * (rate + jnp.trace(rate) / self.dof * jnp.eye(3, dtype=rate.dtype))
        decay, average = _exponentials(drag)
        return matmul(momentum, decay) + matmul(half * force, average)


def chain_energy(chain: Any, temperature: float) -> Float[Array, ""]:
    """Energy of a Nosé-Hoover chain of jax-md, eV."""
    degrees = jnp.ones_like(chain.position).at[0].set(chain.degrees_of_freedom)
    return jnp.sum(chain.momentum**2 / (2.0 * chain.mass)) + temperature * jnp.sum(degrees * chain.position)


def _exponentials(x: Float[Array, "3 3"]) -> tuple[Float[Array, "3 3"], Float[Array, "3 3"]]:
    """exp(x) and ∫₀¹ exp(s x) ds of a small matrix, by their series; 1e-16 for entries below 0.1."""
    unit = jnp.eye(3, dtype=x.dtype)
    average = unit
    for k in range(11, 1, -1):
        average = unit + matmul(x, average) / k
    return unit + matmul(x, average), average
