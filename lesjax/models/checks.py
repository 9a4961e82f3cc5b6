"""Errors on the host for systems that a model cannot take and for solutions that failed. Traced values pass."""

import functools
import warnings

import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike

from lesjax import response
from lesjax.io import element_names
from lesjax.models.config import ModelConfig
from lesjax.processes import check_process
from lesjax.system import System, check_ghosts


# sum of a channel's charges, e, up to which a cell counts as neutral
NEUTRAL = 1e-2


def check_elements(elements: tuple[int, ...], atomic_numbers: np.ndarray, name: str = "`system`") -> None:
    """Raise ValueError for atoms of an element that the model was not trained on; 0 is for padding.

    Args:
        elements: of the model.
        atomic_numbers: of the atoms.
        name: what they are the atoms of, the start of the message.
    """
    unknown = sorted(set(np.unique(atomic_numbers).tolist()) - {0, *elements})
    if unknown:
        raise ValueError(
            f"{name} contains {element_names(unknown)}, but the model knows only {element_names(elements)}. Train on "
            "structures that contain all elements."
        )


def check_system(config: ModelConfig, system: System) -> None:
    """Raise ValueError for a system, if not traced, that the model cannot take; see `check_elements`, `check_state`.

    Every call of a potential passes here, and is refused in a forked process that would hang.
    """
    check_process()
    if not isinstance(system.atomic_numbers, Tracer):
        numbers = np.asarray(system.atomic_numbers)
        if not isinstance(system.atom_mask, Tracer):
            check_ghosts(numbers, np.asarray(system.atom_mask))
        check_elements(config.short_range.elements, numbers)
    if not isinstance(system.cutoff, Tracer):
        cutoff, needed = np.asarray(system.cutoff, float), config.short_range.cutoff
        if np.any(cutoff < needed * (1.0 - 1e-6)):  # False for NaN
            raise ValueError(
                f"`system` has neighbours within {np.min(cutoff):g} Å, but the model needs those within {needed:g} Å: "
                "make it with `cutoff=potential.cutoff`."
            )
    check_state(config, system.total_charge, system.spin_multiplicity)


def check_state(config: ModelConfig, total_charge: ArrayLike, spin_multiplicity: ArrayLike) -> None:
    """Raise ValueError where the model needs a total charge or spin multiplicity that is NaN, or none."""
    needed = []
    if config.needs_total_charge:
        needed.append(("total_charge", total_charge, "in e", "charge", -1))
    if "spin_multiplicity" in config.state_inputs:
        needed.append(("spin_multiplicity", spin_multiplicity, "2S + 1", "spin", 2))
    for name, value, meaning, key, example in needed:
        if isinstance(value, Tracer):
            continue
        valid = np.isfinite(value) if name == "total_charge" else np.greater_equal(value, 1.0)
        if not np.all(valid):
            raise ValueError(
                f"`{name}` ({meaning}) is needed by this model, got {np.asarray(value).tolist()} (nan: not given). Set "
                f"`atoms.info[{key!r}] = {example}`, for example, before `System.from_ase`, or give `{name}` to "
                "`System.from_arrays`."
            )


def check_finite(energy: ArrayLike, forces: ArrayLike) -> None:
    """Raise FloatingPointError for results that are not finite; the arrays are fetched from the device."""
    for name, values in (("energy", energy), ("forces", forces)):
        if not np.all(np.isfinite(np.asarray(values))):
            raise FloatingPointError(
                f"The {name} of this structure is not finite. Its atoms may be far from all that the model was trained "
                "on, or the parameters of the model wrong: look at the distances, or train again."
            )


def check_solution(induction: response.InducedMultipoles | None, equilibration: response.Equilibration | None) -> None:
    """Check that induced or equilibrated charges were solved, where they are not traced.

    Raises:
        ValueError: for a polarization catastrophe or a solution that did not converge, with the remedy.
    """
    if induction is not None and not isinstance(induction.converged, Tracer):
        response.check_induction(induction)
    if equilibration is not None and not isinstance(equilibration.converged, Tracer):
        response.check_equilibration(equilibration)


def warn_if_charged(config: ModelConfig, system: System, charges: Array | None) -> None:
    """Warn, once in a process, of a periodic cell with a net charge and no background. Does nothing while traced."""
    if config.long_range is None or config.long_range.background or not all(system.pbc):
        return
    if charges is None or isinstance(charges, Tracer) or _warn.cache_info().currsize:
        return
    net = float(np.max(np.abs(np.sum(np.asarray(charges, float), axis=-2))))
    if net > NEUTRAL:
        _warn(net)


@functools.cache  # an exception, which a filter may make of the warning, is not cached
def _warn(net: float) -> None:
    warnings.warn(
        f"The latent charges of a periodic cell add up to {net:.3g} e without a background, so that its energy and "
        "stress depend on `sigma`. Train with `constraint` = 'neutral' or, where cells are meant to be charged, "
        "with `background` = true. This warning is shown once.",
        stacklevel=4,
    )
