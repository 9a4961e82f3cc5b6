"""`Potential`: parameters and configuration of a trained model, with its energy as a pure function."""

import dataclasses
import functools
import pathlib
from dataclasses import dataclass
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PyTree

from lesjax import ewald, response
from lesjax.models import storage
from lesjax.models.checks import check_finite, check_solution, check_system, warn_if_charged
from lesjax.models.config import ModelConfig
from lesjax.models.les import LesModel
from lesjax.models.long_range.dispersion import Dispersion, dispersion_energy
from lesjax.models.long_range.plan import make_solver, split
from lesjax.models.long_range.sources import LongRange, Sources
from lesjax.models.prediction import Prediction
from lesjax.models.provenance import Provenance
from lesjax.numerics import check_volume
from lesjax.processes import check_process
from lesjax.properties import born_effective_charges, dipole_moment, energy_forces_stress
from lesjax.system import System
from lesjax.validate import check_memory


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("params", "signs"),
    meta_fields=("config",),
    drop_fields=("provenance",),
)
@dataclass(frozen=True)
class Potential:
    """A model with its parameters.

    Calling it returns everything; `energy` is the pure function to differentiate, compile and map.

    Attributes:
        params: parameters as a plain pytree, under the names of `LesModel`.
        signs: 1 or -1 for each channel of latent charges, which energies and forces leave open; None for a short-range
            model. They are not parameters: gradients of energies with respect to them have no use.
        config: hyper-parameters; static.
        provenance: where it comes from, which is saved with it; None if that is not known. It is no part of the
            pytree: what `jax.tree.map` or a compiled function returns has none.
    """

    params: PyTree
    signs: Float[Array, "*b c"] | None
    config: ModelConfig
    provenance: Provenance | None = None

    @classmethod
    def create(cls, config: ModelConfig, seed: int = 0) -> "Potential":
        """Return a potential with fresh parameters; their shapes depend only on the configuration.

        Raises:
            ValueError: for a configuration without elements, or a short-range model without the vectors or
                tensors that the long-range part needs.
        """
        check_process()
        elements = config.short_range.elements
        if not elements:
            raise ValueError("`config.short_range.elements` is empty: give the atomic numbers that the model knows.")
        positions, key = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), jax.random.key(seed)
        system = System.from_arrays(
            positions, np.zeros((3, 3)), np.full(2, elements[0]), False, cutoff=config.short_range.cutoff
        )
        system = jax.device_put(system)
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(_initialize.eval_shape(config, key, system)))
        check_memory("`config`: the parameters", 3 * size, "Take fewer channels and narrower layers")
        variables = _initialize(config, key, system)
        signs = variables["signs"]["channels"] if config.long_range is not None else None
        return cls(variables["params"], signs, config)

    @property
    def cutoff(self) -> float:
        """Range of the short-range model, Å, for `System.from_ase`."""
        return self.config.short_range.cutoff

    def make_solver(self, system: System) -> ewald.Plan | None:
        """Plan the long-range sum for the cell of `system`; host only. None for a short-range model.

        With dispersion it is the pair of plans `ewald.Solvers`.

        Raises:
            ValueError: for a cell that cannot be summed, a slab whose atoms extend over more than its height, or one
                for a model with dispersion.
        """
        return make_solver(self.config, system)

    def energy(self, system: System, solver: ewald.Plan | None = None) -> Float[Array, ""]:
        """Energy of interaction, eV: a pure function of the potential and the system.

        `Potential.energy` itself is an `Energy` whose parameters are a potential, for `lesjax.properties` and
        `lesjax.fitting`.

        It excludes the reference energies of the elements, for which float32 has too few digits; see `total_energy`.

        Args:
            system: one structure.
            solver: from `make_solver`. It can be left out if the cell of `system` has values; if the cell itself is
                traced, plan before and pass it.

        Raises:
            ValueError: for elements that the model does not know, or a total charge that it needs and the system lacks
                (where they have values).
            TypeError: if the solver is missing and the cell is traced.
        """
        return energy_parts(self, system, self.checked_solver(system, solver))[0]

    def total_energy(self, energy: ArrayLike, atomic_numbers: np.ndarray) -> np.ndarray:
        """Energies of interaction of one composition plus the reference energies of its elements, eV, in float64."""
        return np.asarray(np.asarray(energy, float) + self.config.reference_energy(atomic_numbers))

    def __call__(self, system: System, solver: ewald.Plan | None = None) -> Prediction:
        """Energy, forces, stress and charges of one structure; compiled once per shape. See `energy`.

        Warns, once in a process, where the latent charges of a periodic cell do not add up to zero and no `background`
        compensates them.

        Raises:
            ValueError: as `energy`; and for induced or equilibrated charges that have no solution.
            RuntimeError: in a fork of a process that has already computed.
        """
        solver = self.checked_solver(system, solver)
        prediction = _predict(self.core(), system, solver)
        check_solution(prediction.induction, prediction.equilibration)
        warn_if_charged(self.config, system, prediction.charges)
        return self.with_total_energy(prediction, system)

    def born_effective_charges(
        self,
        system: System,
        *,
        epsilon_infinity: float | Float[Array, ""] = 1.0,
        acoustic_sum_rule: bool = False,
        direction: int | None = None,
    ) -> Float[Array, "n 3 3"] | Float[Array, "n 3"]:
        """Born effective charges of the latent charges and dipoles, e: [atom, polarization, displacement].

        Induced and equilibrated ones included, with their response to the displacement. They add up to zero over the
        atoms, except in ions without periodic directions whose total charge the model constrains. Arguments as in
        `lesjax.properties.born_effective_charges`. Z* has the sign of the latent charges, which energies and
        forces leave open; training sets it (see `lesjax.training.sign`).

        Raises:
            ValueError: for a short-range model, elements that the model does not know, a total charge that it needs
                and the system lacks, an `epsilon_infinity` that is not positive, or induced or equilibrated charges
                that have no solution.
        """
        long_range = self.config.long_range
        if long_range is None:
            raise ValueError("`potential` is a short-range model: it has no latent charges, and no Born charges.")
        check_system(self.config, system)
        if any(system.pbc):
            check_volume(jnp.asarray(system.cell))
        solver = self.make_solver(system) if long_range.charges.responds else None
        options = (float(epsilon_infinity), acoustic_sum_rule, direction)
        result, solved = _born_effective_charges(self.core(), jax.device_put(system), solver, *options)
        check_solution(*solved)
        return result

    def atomic_energies(self, system: System, solver: ewald.Plan | None = None) -> Float[np.ndarray, " n"]:
        r"""Energies of the atoms, eV, which add up to the total energy; on the host, in float64.

        .. math:: E_i = E_i^{ref} + E_i^{short} + \frac{1}{2} \sum_c q_{ic} \varphi_{ic}

        and likewise for dispersion. How the energy of a sum is shared out among the atoms is this convention. Arguments
        and errors as for `energy`, and a ValueError for multipoles and charges that respond: theirs has no such form.
        """
        charges = None if self.config.long_range is None else self.config.long_range.charges
        if charges is not None and not charges.is_sum_over_atoms:
            raise ValueError(
                f"`potential` has no energies of single atoms: that of its charges ({type(charges).__name__}) is no "
                "sum over atoms. Ask for the energy of the whole system."
            )
        energies = np.asarray(_atomic_energies(self.core(), system, self.checked_solver(system, solver)), float)
        numbers = np.asarray(system.atomic_numbers)[:, None]  # padded ones have no reference
        return energies + [self.config.reference_energy(number) for number in numbers]

    def save(self, path: str | pathlib.Path) -> None:
        """Write the potential to a folder: JSON for the configuration, safetensors for the parameters."""
        storage.save(self.config, variables(self), path, self.provenance)

    def core(self) -> "Potential":
        """Return the potential without reference energies, for compiled functions.

        Other reference energies then need no new compilation.
        """
        return dataclasses.replace(self, config=dataclasses.replace(self.config, reference_energies=()))

    def checked_solver(self, system: System, solver: ewald.Plan | None) -> ewald.Plan | None:
        """Check a system, and plan its sum where no plan is given; see `energy`."""
        check_system(self.config, system)
        if solver is not None or not self.config.has_sum:
            if self.config.dispersion is not None and not isinstance(solver, ewald.Solvers):
                raise ValueError(
                    f"`solver` is a plan of one sum ({type(solver).__name__}), but the model has dispersion: make it "
                    "with `potential.make_solver(system)`."
                )
            return solver
        if isinstance(system.cell, Tracer):
            raise TypeError(
                "`solver` is needed where `system.cell` is traced (inside jit, vmap or a derivative with respect to "
                "the cell): plan it outside with `solver = potential.make_solver(system)` and pass it."
            )
        return self.make_solver(system)

    def with_total_energy(self, prediction: Prediction, system: System) -> Prediction:
        """Return the prediction with its total energy if the elements and the energy have values."""
        if isinstance(prediction.energy, Tracer) or isinstance(system.atomic_numbers, Tracer):
            return prediction
        check_finite(prediction.energy, prediction.forces)
        total = self.total_energy(prediction.energy, np.asarray(system.atomic_numbers))
        return dataclasses.replace(prediction, total_energy=total)


def variables(potential: Potential) -> PyTree:
    """Parameters and signs, as they are written to disk."""
    return {"params": potential.params} | ({} if potential.signs is None else {"signs": potential.signs})


def load(path: str | pathlib.Path) -> Potential:
    """Read a potential that `Potential.save` wrote, or a shipped one by its name, in JAX's default floating-point type.

    Raises:
        FileNotFoundError: if `path` is not such a folder.
        ValueError: for an ensemble, a damaged file, or one from a version that this one cannot read.
    """
    check_process()
    path = storage.locate(path)
    config, arrays, provenance = storage.read(path)
    description, parameters = (str(pathlib.Path(path) / name) for name in storage.FILES)
    try:
        like = jax.eval_shape(lambda: variables(Potential.create(config)))  # shapes only: nothing is compiled
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"{description!r} does not describe a model: {error}") from error
    values = storage.unflatten(like, arrays, parameters)
    return Potential(values["params"], values.get("signs"), config, provenance)


def energy_parts(
    potential: Potential, system: System, solver: ewald.Plan | None
) -> tuple[Float[Array, ""], Float[Array, ""], LongRange | None, Dispersion | None]:
    """Energy of interaction and its short-range part, eV, the part of the charges and the dispersion. Pure function."""
    atomic, sources, coefficients = apply(potential, system)
    of_charges, of_dispersion = split(solver)
    energy = short_range = jnp.sum(atomic)
    long_range, dispersion = None, None
    if sources is not None:
        assert of_charges is not None
        assert potential.config.long_range is not None
        long_range = potential.config.long_range.charges.energy(sources, system, of_charges)
        energy = energy + long_range.energy
    if coefficients is not None:
        assert of_dispersion is not None
        dispersion = dispersion_energy(coefficients, system, of_dispersion)
        energy = energy + dispersion.energy
    return energy, short_range, long_range, dispersion


def apply(potential: Potential, system: System) -> tuple[Float[Array, " n"], Sources | None, Float[Array, " n"] | None]:
    """Short-range energies of the atoms, eV, the sources of the charges and the √C6."""
    variables = {"params": potential.params}
    if potential.signs is not None:
        variables["signs"] = {"channels": jax.lax.stop_gradient(potential.signs)}
    return cast(tuple[Array, Sources | None, Array | None], LesModel(potential.config).apply(variables, system))


def predict(potential: Potential, system: System, solver: ewald.Plan | None, *, with_stress: bool) -> Prediction:
    """All outputs for one system as a pure function; map it over stacked systems with `jax.vmap`."""

    def energy_fn(
        potential: Potential, system: System, solver: ewald.Plan | None
    ) -> tuple[Array, tuple[Array, LongRange | None, Dispersion | None]]:
        energy, short_range, long_range, dispersion = energy_parts(potential, system, solver)
        return energy, (short_range, long_range, dispersion)

    (energy, (short_range, long_range, dispersion)), forces, stress = energy_forces_stress(
        energy_fn, potential, system, solver=solver, with_stress=with_stress, has_aux=True
    )
    prediction = Prediction(energy, None, short_range, None, forces, stress)
    if dispersion is not None:
        prediction = dataclasses.replace(
            prediction, dispersion_energy=dispersion.energy, dispersion_coefficients=dispersion.coefficients
        )
    if long_range is None:
        return prediction
    moment = None
    if not any(system.pbc):
        charges = long_range.charges
        moment = jnp.asarray(dipole_moment(system.positions, charges, dipoles=long_range.dipoles))
        # apart: the positions have digits for a neutral molecule that is far away
        moment += jnp.sum(charges) * jnp.asarray(system.origin)
    return dataclasses.replace(
        prediction,
        long_range_energy=long_range.energy,
        charges=long_range.charges,
        dipoles=long_range.dipoles,
        quadrupoles=long_range.quadrupoles,
        dipole_moment=moment,
        induction=long_range.induction,
        equilibration=long_range.equilibration,
    )


@jax.jit
def _predict(potential: Potential, system: System, solver: ewald.Plan | None) -> Prediction:
    return predict(potential, system, solver, with_stress=all(system.pbc))


@jax.jit
def _atomic_energies(potential: Potential, system: System, solver: ewald.Plan | None) -> Float[Array, " n"]:
    energies, sources, coefficients = apply(potential, system)
    positions, cell, mask = (jnp.asarray(x) for x in (system.positions, system.cell, system.atom_mask))
    of_charges, of_dispersion = split(solver)
    if sources is not None:
        assert of_charges is not None
        assert sources.charges is not None
        potentials = ewald.potential(of_charges, positions, cell, sources.charges, atom_mask=mask)
        energies = energies + 0.5 * jnp.sum(sources.charges * potentials, axis=1)
    if coefficients is not None:
        assert of_dispersion is not None
        potentials = ewald.potential(of_dispersion, positions, cell, coefficients, atom_mask=mask)
        energies = energies + 0.5 * coefficients * potentials
    return energies


# solutions for induced and for equilibrated charges
Solved = tuple[response.InducedMultipoles | None, response.Equilibration | None]


def predict_born_charges(
    potential: Potential,
    system: System,
    solver: ewald.Plan | None = None,
    epsilon_infinity: float | Float[Array, ""] = 1.0,
    acoustic_sum_rule: bool = False,
    direction: int | None = None,
) -> tuple[Float[Array, "n 3 3"] | Float[Array, "n 3"], Solved]:
    """Born effective charges of one system, e, as a pure function, and the flags of induced or equilibrated charges.

    See `Potential.born_effective_charges`. Where the charges do not respond, the solver is not needed.
    """
    assert potential.config.long_range is not None
    config = potential.config.long_range.charges
    assert solver is not None or not config.responds

    def moments(positions: Array) -> tuple[Array, Array | None, Solved]:
        moved = dataclasses.replace(system, positions=positions)
        if config.responds:
            parts = energy_parts(potential, moved, solver)[2]
            assert parts is not None
            return parts.charges, parts.dipoles, (parts.induction, parts.equilibration)
        sources = apply(potential, moved)[1]
        assert sources is not None
        assert sources.charges is not None
        return sources.charges, sources.dipoles, (None, None)

    def without_flags(positions: Array) -> Array | tuple[Array, Array]:
        charges, dipoles, _ = moments(positions)
        return charges if dipoles is None else (charges, dipoles)

    positions, cell, mask = (jnp.asarray(x) for x in (system.positions, system.cell, system.atom_mask))
    # the charge of an ion is its own: it feels the field
    remove_mean = any(system.pbc) or not config.holds_charge
    result = born_effective_charges(
        without_flags, positions, cell, system.pbc, atom_mask=mask, epsilon_infinity=epsilon_infinity,
        remove_mean=remove_mean, acoustic_sum_rule=acoustic_sum_rule, direction=direction,
    )  # fmt: skip
    return result, moments(positions)[2] if config.responds else (None, None)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _born_effective_charges(
    potential: Potential,
    system: System,
    solver: ewald.Plan | None,
    epsilon_infinity: float,
    acoustic_sum_rule: bool,
    direction: int | None,
) -> tuple[Float[Array, "n 3 3"] | Float[Array, "n 3"], Solved]:
    return predict_born_charges(potential, system, solver, epsilon_infinity, acoustic_sum_rule, direction)


@functools.partial(jax.jit, static_argnums=0)
def _initialize(config: ModelConfig, key: Array, system: System) -> PyTree:
    """Initialize the parameters; compiled, so that the cost of the energy is left out."""
    return LesModel(config).init(key, system)
