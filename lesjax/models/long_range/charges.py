"""Ways to get charges: a configuration, a Flax module and an energy for each.

Energies and forces leave the sign of the charges of each channel open. It is kept apart from the parameters, in the
Flax collection ``signs``, and multiplies all permanent sources of a channel before their sum is constrained: the energy
is even in it wherever `sign_is_free` says so.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from lesjax import ewald, response
from lesjax.ewald.multipoles import mask_atoms
from lesjax.io import chemical_symbols
from lesjax.models.long_range.heads import HARDNESS_SCALE
from lesjax.models.long_range.sources import Induction, LongRange, Sources
from lesjax.models.readout import FeatureScale, Readout
from lesjax.models.short_range import ShortRangeConfig, make_module, species_index
from lesjax.schema import Kinds, kinds
from lesjax.system import System
from lesjax.validate import MAX_ELEMENT, check, finite, one_of, positive, whole, widths


class _Permanent:
    """Common part of latent and fixed charges: permanent multipoles, with or without induced ones."""

    constraint: str
    dipoles: bool
    quadrupoles: bool
    induction: Induction | None

    @property
    def has_heads(self) -> bool:
        """True if there are dipoles, quadrupoles or induced multipoles."""
        return self.dipoles or self.quadrupoles or self.induction is not None

    @property
    def needs_total_charge(self) -> bool:
        """True if systems need their total charge."""
        return self.constraint == "total"

    @property
    def responds(self) -> bool:
        """True if charges or dipoles depend on the potential, so that they are not known before the sum."""
        return self.induction is not None

    def check_constraint(self) -> None:
        """Raise ValueError where induced charges would break the constraint on their sum."""
        if self.induction is not None and self.induction.kappa and self.constraint != "free":
            raise ValueError(
                f"`induction.kappa` induces charges whose sum is not held, so that `constraint` must be 'free', got "
                f"{self.constraint!r}. Charges that answer at a fixed total are of the kind 'equilibrated'."
            )


@dataclass(frozen=True)
class LatentCharges(_Permanent):
    """Charges from a readout of the surroundings of each atom.

    Attributes:
        n_channels: number of independent kinds of charge.
        constraint: "free"; "neutral": the same number is subtracted from all atoms of a channel, so that they add up to
            zero; "total": likewise, so that each of the c channels adds up to one c-th of the total charge of the
            system, and all channels together to the total charge.
        element_charges: add a learned number for each element. Training starts it from the electronegativities: charges
            near zero, where the energy is stationary, may stay there for long if the short-range model can explain most
            of the forces. An atom without neighbours has no features; this is then all of its charge.
        dipoles: latent dipoles on the atoms.
        quadrupoles: latent quadrupoles, symmetric and without trace.
        induction: multipoles that these induce.
        scale: factor on the output of the readout, e; of dipoles and quadrupoles with e Å and e Å².
        hidden: widths of the hidden layers of the readout.
        linear: add a linear readout.
        self_energies_removed: how many times the energy of each Gaussian with itself is subtracted. One is LES; early
            published checkpoints with several channels removed it once per channel.
    """

    n_channels: int = 1
    constraint: str = "free"
    element_charges: bool = False
    dipoles: bool = False
    quadrupoles: bool = False
    induction: Induction | None = None
    scale: float = 0.1
    hidden: tuple[int, ...] = (32, 16)
    linear: bool = True
    self_energies_removed: float = 1.0

    def __post_init__(self) -> None:
        check(
            self, n_channels=whole(1), constraint=one_of("free", "neutral", "total"), scale=positive, hidden=widths,
            self_energies_removed=finite,
        )  # fmt: skip
        self.check_constraint()
        if self.self_energies_removed != 1.0 and (self.dipoles or self.quadrupoles or self.induction):
            raise ValueError(
                f"`self_energies_removed` = {self.self_energies_removed} is for published models with charges only: "
                "leave it at 1."
            )

    @property
    def n_outputs(self) -> int:
        """Numbers per atom that are read out."""
        return self.n_channels

    @property
    def holds_charge(self) -> bool:
        """True if displaced atoms do not change the sum of the charges."""
        return self.constraint != "free" and not (self.induction and self.induction.kappa)

    @property
    def is_sum_over_atoms(self) -> bool:
        """Whether the energy is half of the sum of charges times potentials."""
        return not self.has_heads and self.self_energies_removed == 1.0

    def sign_is_free(self, total_charges: np.ndarray) -> bool:
        """Return whether energies and forces of systems with these total charges leave the sign open."""
        return not (self.constraint == "total" and bool(np.any(total_charges)))

    def module(self, elements: tuple[int, ...], own_features: ShortRangeConfig | None) -> "AtomicCharges":
        """Make the Flax module."""
        return AtomicCharges(self, elements, own_features)

    def energy(self, sources: Sources, system: System, solver: ewald.Solver) -> LongRange:
        """Energy of the charges and multipoles, permanent and induced. A pure function."""
        result = multipole_energy(sources, self.induction, system, solver)
        extra = self.self_energies_removed - 1.0
        if not extra:
            return result
        return result._replace(energy=result.energy - extra * ewald.self_energy(solver, result.charges))


@dataclass(frozen=True)
class FixedCharges(_Permanent):
    """One charge for each element.

    Attributes:
        values: (symbol, charge in e) of each element; learned if empty.
        n_channels: number of independent kinds of learned charges.
        constraint: as for latent charges.
        dipoles: latent dipoles on the atoms.
        quadrupoles: latent quadrupoles, symmetric and without trace.
        induction: multipoles that these induce.
        scale: standard deviation of learned charges at the start, e; factor on dipoles and quadrupoles.
    """

    values: tuple[tuple[str, float], ...] = ()
    n_channels: int = 1
    constraint: str = "free"
    dipoles: bool = False
    quadrupoles: bool = False
    induction: Induction | None = None
    scale: float = 0.1

    def __post_init__(self) -> None:
        check(self, n_channels=whole(1), constraint=one_of("free", "neutral", "total"), scale=positive)
        self.check_constraint()
        if not all(abs(charge) <= MAX_ELEMENT for _, charge in self.values):
            raise ValueError(f"`values` must be charges in e, at most that of a nucleus, got {self.values}.")
        if self.values and self.n_channels != 1:
            raise ValueError(f"`values` are the charges of one channel, got `n_channels` = {self.n_channels}.")

    @property
    def n_outputs(self) -> int:
        """Numbers per atom that are read out."""
        return 0

    @property
    def holds_charge(self) -> bool:
        """True if displaced atoms do not change the sum of the charges."""
        return not (self.induction and self.induction.kappa)

    @property
    def is_sum_over_atoms(self) -> bool:
        """Whether the energy is half of the sum of charges times potentials."""
        return not self.has_heads

    def sign_is_free(self, total_charges: np.ndarray) -> bool:
        """Return whether energies and forces of systems with these total charges leave the sign open."""
        return not self.values and not (self.constraint == "total" and bool(np.any(total_charges)))

    def module(self, elements: tuple[int, ...], own_features: ShortRangeConfig | None) -> "AtomicCharges":
        """Make the Flax module."""
        return AtomicCharges(self, elements, own_features)

    def energy(self, sources: Sources, system: System, solver: ewald.Solver) -> LongRange:
        """Energy of the charges and multipoles, permanent and induced. A pure function."""
        return multipole_energy(sources, self.induction, system, solver)


@dataclass(frozen=True)
class EquilibratedCharges:
    """Charges that minimize the energy at the total charge of the system; see `lesjax.response.equilibrate`.

    Electronegativity χ and hardness J of each atom are read out of its surroundings.

    Attributes:
        element_charges: add a number for each element to the electronegativity: minus the initial hardness of 10 V/e
            times a charge, as for latent charges.
        scale: factor on the output of the readout, in units of the initial hardness times e.
        hidden: widths of the hidden layers of the readout.
        linear: add a linear readout.
    """

    element_charges: bool = False
    scale: float = 0.1
    hidden: tuple[int, ...] = (32, 16)
    linear: bool = True

    # fields that all ways to get charges share
    n_channels = 1
    n_outputs = 2
    needs_total_charge = responds = holds_charge = True
    has_heads = is_sum_over_atoms = False

    def __post_init__(self) -> None:
        check(self, scale=positive, hidden=widths)

    def sign_is_free(self, total_charges: np.ndarray) -> bool:
        """Return whether energies and forces of systems with these total charges leave the sign open."""
        return not np.any(total_charges)

    def module(self, elements: tuple[int, ...], own_features: ShortRangeConfig | None) -> "Electronegativities":
        """Make the Flax module."""
        return Electronegativities(self, elements, own_features)

    def energy(self, sources: Sources, system: System, solver: ewald.Solver) -> LongRange:
        """Energy of the charges that equilibrate. A pure function."""
        assert sources.electronegativity is not None
        assert sources.hardness is not None
        solution = response.equilibrate(
            solver, jnp.asarray(system.positions), jnp.asarray(system.cell), sources.electronegativity,
            sources.hardness, jnp.asarray(system.total_charge), atom_mask=jnp.asarray(system.atom_mask),
        )  # fmt: skip
        return LongRange(solution.energy, solution.charges[:, None], equilibration=solution)


Charges = LatentCharges | FixedCharges | EquilibratedCharges
CHARGE_KINDS: Kinds = kinds(latent=LatentCharges, fixed=FixedCharges, equilibrated=EquilibratedCharges)


class AtomicCharges(nn.Module):
    """Latent charges, from a readout or of the elements, with their constraint."""

    config: LatentCharges | FixedCharges
    elements: tuple[int, ...]
    own_features: ShortRangeConfig | None = None

    def setup(self) -> None:
        c = self.config
        if self.own_features is not None:
            self.short_range, self.feature_scale = make_module(self.own_features), FeatureScale()
        shape, dtype = (len(self.elements), c.n_channels), jax.dtypes.canonicalize_dtype(float)
        if isinstance(c, LatentCharges):
            self.readout = Readout(c.hidden, c.n_outputs, c.linear)
            if c.element_charges:
                self.element_charges = self.param("element_charges", nn.initializers.zeros, shape, dtype)
        elif c.values:
            table = dict(c.values)
            self.element_charges = jnp.asarray([[table[chemical_symbols[z]]] for z in self.elements], dtype)
        else:  # not zero, where the energy is stationary
            self.element_charges = self.param("element_charges", nn.initializers.normal(c.scale), shape, dtype)

    def __call__(self, outputs: Float[Array, "n c"] | None, system: System, signs: Float[Array, " c"]) -> Sources:
        """Charges of the atoms from the readout; zero for padded atoms."""
        c, mask = self.config, jnp.asarray(system.atom_mask)
        charges = 0.0 if outputs is None else c.scale * outputs
        if isinstance(c, FixedCharges) or c.element_charges:
            charges = charges + of_elements(self.element_charges, self.elements, system)
        charges = jnp.where(mask[:, None], charges * signs[None, :], 0.0)
        return Sources(constrain(charges, mask, system, c.constraint))


class Electronegativities(nn.Module):
    """Electronegativity and hardness of the atoms."""

    config: EquilibratedCharges
    elements: tuple[int, ...]
    own_features: ShortRangeConfig | None = None

    def setup(self) -> None:
        c = self.config
        if self.own_features is not None:
            self.short_range, self.feature_scale = make_module(self.own_features), FeatureScale()
        self.readout = Readout(c.hidden, c.n_outputs, c.linear)
        if c.element_charges:
            shape, dtype = (len(self.elements), 1), jax.dtypes.canonicalize_dtype(float)
            self.element_charges = self.param("element_charges", nn.initializers.zeros, shape, dtype)

    def __call__(self, outputs: Float[Array, "n 2"] | None, system: System, signs: Float[Array, " 1"]) -> Sources:
        """Electronegativity and hardness in which charges equilibrate; zero for padded atoms."""
        assert outputs is not None
        c, mask = self.config, jnp.asarray(system.atom_mask)
        electronegativity = HARDNESS_SCALE * c.scale * outputs[:, 0]
        if c.element_charges:  # large charges where it is small
            electronegativity -= HARDNESS_SCALE * of_elements(self.element_charges, self.elements, system)[:, 0]
        # The scale itself at the start, and as slow as the electronegativity afterwards: in the first steps, which
        # lower all forces of charges, it would run ahead and leave the charges near zero.
        hardness = HARDNESS_SCALE * jax.nn.softplus(c.scale * outputs[:, 1] + np.log(np.e - 1.0).item())
        return Sources(
            electronegativity=mask_atoms(signs[0] * electronegativity, mask), hardness=mask_atoms(hardness, mask)
        )


def multipole_energy(sources: Sources, induction: Induction | None, system: System, solver: ewald.Solver) -> LongRange:
    """Energy of given charges and multipoles and of those that they induce."""
    positions, cell, mask = (jnp.asarray(x) for x in (system.positions, system.cell, system.atom_mask))
    charges, dipoles, quadrupoles = sources.charges, sources.dipoles, sources.quadrupoles
    assert charges is not None
    if induction is None:
        energy = ewald.energy(
            solver, positions, cell, charges, dipoles=dipoles, quadrupoles=quadrupoles, atom_mask=mask
        )
        return LongRange(energy, charges, dipoles, quadrupoles)
    induce = response.self_consistent_induction if induction.self_consistent else response.one_shot_induction
    induced = induce(
        solver, positions, cell, charges, dipoles=dipoles, quadrupoles=quadrupoles, kappa=sources.kappa,
        alpha=sources.alpha, atom_mask=mask,
    )  # fmt: skip
    if induction.kappa:
        charges = charges + induced.charges
    if induction.alpha != "none":
        dipoles = induced.dipoles if dipoles is None else dipoles + induced.dipoles
    return LongRange(induced.energy, charges, dipoles, quadrupoles, induction=induced)


def of_elements(table: Float[Array, "e c"], elements: tuple[int, ...], system: System) -> Float[Array, "n c"]:
    """Return the row of each atom's element."""
    return table[jnp.asarray(species_index(elements))[system.atomic_numbers]]


def constrain(
    charges: Float[Array, "n c"], mask: Bool[Array, " n"], system: System, constraint: str
) -> Float[Array, "n c"]:
    """Shift the charges of all atoms so that each channel adds up to zero, or to its part of the total charge."""
    if constraint == "free":
        return charges
    excess = jnp.sum(charges, axis=0)
    if constraint == "total":
        excess = excess - jnp.asarray(system.total_charge).astype(charges.dtype) / charges.shape[1]
    excess = excess / jnp.sum(mask).astype(charges.dtype)
    return jnp.where(mask[:, None], charges - excess[None, :], 0.0)
