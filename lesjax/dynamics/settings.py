"""Settings of a simulation, and whether a structure can be simulated with them."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ase
import numpy as np
from jaxtyping import Array, Float

from lesjax.dynamics.integrators import ENSEMBLES, Integrator, Scheme, Setup, scheme_of
from lesjax.dynamics.momenta import degrees_of_freedom
from lesjax.models.potential import Potential
from lesjax.neighbors.host import neighbor_arrays
from lesjax.neighbors.plan import DEFAULT_SKIN
from lesjax.system import System
from lesjax.units import BAR, BOLTZMANN, FEMTOSECOND
from lesjax.validate import BOUNDS, array, check, finite, flag, not_negative, one_of, optional, positive, whole


# closer pairs are an error in the structure, Å
MIN_DISTANCE = 0.4
ANGULAR_MOMENTA = ("keep", "zero")
FORMATS = ("xyz", "traj")


@dataclass(frozen=True)
class Settings:
    """One run of molecular dynamics.

    Attributes:
        ensemble: "nve"; "nvt", which is "nose-hoover" (a chain) in a periodic cell and "langevin" without one; "csvr"
            (velocity rescaling after Bussi, Donadio and Parrinello); "npt" (isotropic) or "npt-flexible", both after
            Martyna, Tobias and Klein.
        steps: length of the run, counted from its start.
        timestep: fs.
        temperature: K; for the thermostat, and for the initial velocities where the structure has none.
        pressure: bar, for "npt" and "npt-flexible".
        thermostat_time: fs; period of the Nosé-Hoover chain, inverse friction of "langevin", relaxation time of "csvr".
        barostat_time: fs; period of the cell.
        seed: seed of the initial velocities and random forces.
        angular_momentum: angular momentum of a cluster at the start: "keep" that of the given or drawn velocities, or
            "zero". All ensembles except "langevin" conserve its direction.
        log_every: steps between the lines of the log.
        frame_every: steps between the frames of the trajectory.
        checkpoint_every: steps between checkpoints.
        format: format of the trajectory, "xyz" (extended xyz) or "traj" (ase's binary format).
        polarization: write the polarization of each frame; latent and induced dipoles are part of the dipole moment,
            and in a periodic cell are written separately, as ``latent_dipole`` (e Å).
        born_effective_charges: write Z* of each frame.
        electric_field: homogeneous external field, V/Å; costs Z* at each step.
        epsilon_infinity: electronic dielectric constant for Z*.
        skin: skin of the neighbour list, Å.
    """

    ensemble: str = "nve"
    steps: int = 1000
    timestep: float = 0.5
    temperature: float | None = None
    pressure: float = 0.0
    thermostat_time: float = 100.0
    barostat_time: float = 1000.0
    seed: int = 0
    angular_momentum: str = "keep"
    log_every: int = 100
    frame_every: int = 100
    checkpoint_every: int = 1000
    format: str = "xyz"
    polarization: bool = False
    born_effective_charges: bool = False
    electric_field: Sequence[float] | np.ndarray | None = None
    epsilon_infinity: float = 1.0
    skin: float = DEFAULT_SKIN

    def __post_init__(self) -> None:
        """Raise ValueError for settings that cannot be run."""
        check(
            self,
            ensemble=one_of(*ENSEMBLES),
            steps=whole(1),
            timestep=positive,
            temperature=optional(not_negative),
            pressure=finite,
            thermostat_time=positive,
            barostat_time=positive,
            seed=whole(0),
            angular_momentum=one_of(*ANGULAR_MOMENTA),
            log_every=whole(1),
            frame_every=whole(1),
            checkpoint_every=whole(1),
            format=one_of(*FORMATS),
            polarization=flag,
            born_effective_charges=flag,
            epsilon_infinity=positive,
            skin=not_negative,
        )
        if self.electric_field is not None:
            field = array("electric_field", self.electric_field, largest=BOUNDS["electric_field"][1]).astype(float)
            if field.shape != (3,):
                raise ValueError(f"`electric_field` must be three finite numbers, got {self.electric_field}.")
            object.__setattr__(self, "electric_field", tuple(field.tolist()))
        if self.scheme().thermostat:
            if self.temperature is None:
                raise ValueError(f"`temperature` is missing: ensemble {self.ensemble!r} needs one, in K.")
            # a thermostat divides by it; velocities of zero are a legitimate start of "nve"
            check(self, temperature=positive)
        if self.electric_field is not None and self.constant_pressure:
            raise ValueError(f"`electric_field` needs a fixed cell, which ensemble {self.ensemble!r} does not keep.")

    @property
    def constant_pressure(self) -> bool:
        """True if the cell moves."""
        return self.scheme().moves_cell

    def scheme(self, pbc: Sequence[bool] = (True, True, True)) -> Scheme:
        """Return the scheme of the ensemble for these periodic directions."""
        return scheme_of(self.ensemble, pbc)


def make_integrator(
    settings: Settings,
    masses: Float[np.ndarray, " n"],
    force_virial: Callable[..., tuple[Array, Array]],
    *,
    pbc: Sequence[bool] = (True, True, True),
    positions: Float[np.ndarray, "n 3"] | None = None,
) -> tuple[Integrator, int]:
    """Build the integrator of a run, and count its degrees of freedom.

    Args:
        settings: the run.
        masses: amu.
        force_virial: see `Setup`.
        pbc: periodic directions, by which "nvt" chooses its thermostat.
        positions: positions at the start, Å: with ``angular_momentum = "zero"`` their rotations, which all schemes that
            conserve momentum keep at rest, do not count as degrees of freedom.
    """
    scheme = settings.scheme(pbc)
    at_rest = positions if settings.angular_momentum == "zero" else None
    dof = degrees_of_freedom(masses, at_rest) if scheme.conserves_momentum else 3 * len(masses)
    setup = Setup(
        force_virial,
        dt=settings.timestep * FEMTOSECOND,
        dof=dof,
        kT=(settings.temperature or 0.0) * BOLTZMANN,
        pressure=settings.pressure * BAR,
        thermostat_time=settings.thermostat_time * FEMTOSECOND,
        barostat_time=settings.barostat_time * FEMTOSECOND,
        seed=settings.seed,
    )
    integrator = scheme.make(setup)
    if settings.electric_field is not None:  # whose work is not a function of the state
        integrator = dataclasses.replace(integrator, extra_energy=None)
    return integrator, dof


def check_structure(settings: Settings, potential: Potential, template: System, atoms: ase.Atoms) -> None:
    """Raise ValueError for a structure or potential that this ensemble cannot run."""
    if atoms.constraints:
        kinds = ", ".join(sorted({type(constraint).__name__ for constraint in atoms.constraints}))
        raise ValueError(
            f"The structure has constraints ({kinds}), which would not be kept. Remove them with "
            "`atoms.set_constraint()`, or use the dynamics of ase with `LesCalculator`."
        )
    if settings.constant_pressure and not all(template.pbc):
        raise ValueError(
            f"Ensemble {settings.ensemble!r} needs a cell that is periodic in three directions, got pbc "
            f"{template.pbc}. Use 'nvt' for a cluster or a slab."
        )
    if settings.angular_momentum == "zero" and any(template.pbc):
        raise ValueError(
            f"`angular_momentum` = 'zero' is for clusters, got pbc {template.pbc}: periodic cells do not conserve it."
        )
    wants_charges = settings.born_effective_charges or settings.electric_field or settings.polarization
    if wants_charges and potential.config.long_range is None:
        raise ValueError("`potential` is a short-range model: it has no charges, no polarization, and no field.")
    neighbors, shifts, real = neighbor_arrays(atoms.positions, atoms.cell.array, template.pbc, MIN_DISTANCE)
    if real.any():
        i, column = np.argwhere(real)[0]
        j, translation = neighbors[i, column], shifts[i, column] @ atoms.cell.array
        distance = np.linalg.norm(atoms.positions[j] + translation - atoms.positions[i])
        raise ValueError(f"The structure overlaps: atoms {i} and {j} are {distance:.2g} Å apart. Relax or correct it.")
