"""From latent properties of the atoms to the long-range energy, with what it induces or equilibrates."""

import functools
import warnings
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from lesjax import ewald, response
from lesjax.models.config import LongRangeConfig
from lesjax.models.heads import Latent
from lesjax.system import System


# sum of a channel's charges, e, up to which a cell counts as neutral
NEUTRAL = 1e-2

# of induced and of equilibrated charges
Solution = tuple[response.Induction | None, response.Equilibration | None]


class Parts(NamedTuple):
    """What a model finds on the way to its energy, named as in `Prediction`."""

    short_range_energy: Array
    long_range_energy: Array | None = None
    charges: Array | None = None
    dipoles: Array | None = None
    quadrupoles: Array | None = None
    induction: response.Induction | None = None
    equilibration: response.Equilibration | None = None


def long_range_parts(c: LongRangeConfig, latent: Latent, system: System, solver: ewald.Solver) -> dict[str, Any]:
    """Energy and multipoles of the long-range part, under the names of `Parts`."""
    positions, cell, mask = (jnp.asarray(x) for x in (system.positions, system.cell, system.atom_mask))
    if c.charges == "equilibration":
        assert latent.electronegativity is not None
        assert latent.hardness is not None
        found = response.equilibrate(
            solver, positions, cell, latent.electronegativity, latent.hardness, jnp.asarray(system.total_charge),
            atom_mask=mask,
        )  # fmt: skip
        return {"long_range_energy": found.energy, "charges": found.charges[:, None], "equilibration": found}
    charges, dipoles, quadrupoles = latent.charges, latent.dipoles, latent.quadrupoles
    assert charges is not None
    sources: dict[str, Any] = {"dipoles": dipoles, "quadrupoles": quadrupoles, "atom_mask": mask}
    if c.induction == "none":
        long_range = ewald.energy(solver, positions, cell, charges, **sources)
        extra_self_energies = c.self_energies_removed - 1.0
        if extra_self_energies:
            long_range -= extra_self_energies * ewald.self_energy(solver, charges)
        return {
            "long_range_energy": long_range, "charges": charges, "dipoles": dipoles, "quadrupoles": quadrupoles,
        }  # fmt: skip
    induce = response.one_shot_induction if c.induction == "one_shot" else response.self_consistent_induction
    induced = induce(solver, positions, cell, charges, kappa=latent.kappa, alpha=latent.alpha, **sources)
    if latent.kappa is not None:
        charges = charges + induced.charges
    if latent.alpha is not None:
        dipoles = induced.dipoles if dipoles is None else dipoles + induced.dipoles
    return {
        "long_range_energy": induced.energy, "charges": charges, "dipoles": dipoles, "quadrupoles": quadrupoles,
        "induction": induced,
    }  # fmt: skip


def check_solution(solution: Solution) -> None:
    """Do nothing if the charges were found, or while they are traced.

    Raises:
        ValueError: for a polarization catastrophe or a solution that did not converge, with the way out.
    """
    induction, equilibration = solution
    if induction is not None and not isinstance(induction.converged, Tracer):
        response.check_induction(induction)
    if equilibration is not None and not isinstance(equilibration.converged, Tracer):
        response.check_equilibration(equilibration)


def warn_if_charged(c: LongRangeConfig | None, system: System, charges: Array | None) -> None:
    """Warn, once in a process, of a periodic cell with a net charge and no background. Does nothing while traced."""
    if c is None or c.background or c.charge_constraint == "neutral" or not all(system.pbc):
        return
    if charges is None or isinstance(charges, Tracer) or _warn.cache_info().currsize:
        return
    net = float(np.max(np.abs(np.sum(np.asarray(charges, float), axis=-2))))
    if net > NEUTRAL:
        _warn(net)


@functools.cache  # an exception, which a filter may make of the warning, is not kept
def _warn(net: float) -> None:
    warnings.warn(
        f"The latent charges of a periodic cell add up to {net:.3g} e without a background, so that its energy and "
        "stress depend on `sigma`. Train with `charge_constraint` = 'neutral' or, where cells are meant to be charged, "
        "with `background` = true. This is said once.",
        stacklevel=4,
    )
