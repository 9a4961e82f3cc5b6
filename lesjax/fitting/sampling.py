"""Samplers: functions that draw new frames with new parameters, from the integrators of `lesjax.dynamics`."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from lesjax import io
from lesjax.dynamics import Settings, simulate
from lesjax.dynamics.energy import forces_and_virial
from lesjax.dynamics.integrators import with_mixed_dtypes
from lesjax.dynamics.momenta import maxwell_boltzmann
from lesjax.dynamics.settings import make_integrator
from lesjax.ewald import Plan
from lesjax.models.potential import Potential
from lesjax.neighbors.batching import stack
from lesjax.properties import Energy
from lesjax.system import System


# (parameters, number of the draw, structure to start from) -> stacked frames
Sampler = Callable[[Any, int, Any], Any]
WIDTH = 8  # numbers of neighbours are rounded up to multiples of it, so that draws share their shapes
PAIRS = 256  # and numbers of pairs, to multiples of it


def number_of_frames(settings: Settings, equilibration: int) -> int:
    """Return the number of frames of a draw.

    Raises:
        ValueError: if no frame is left, for an ensemble without temperature, or an external field.
    """
    if settings.electric_field is not None:
        raise ValueError(
            "`settings.electric_field` is not possible here: the energy that goes with it is that without the field. "
            "For `make_sampler`, add the energy of the field to `energy_fn`."
        )
    if settings.ensemble == "nve":
        raise ValueError(
            "`settings.ensemble` = 'nve' keeps the energy and has no temperature to draw at: take 'langevin', 'nvt', "
            "'npt' or 'npt-flexible'."
        )
    n_frames = (settings.steps - equilibration) // settings.frame_every
    if equilibration < 0 or n_frames < 1:
        raise ValueError(
            f"`equilibration` = {equilibration} leaves no frame: `settings` has {settings.steps} steps with a frame "
            f"every {settings.frame_every}."
        )
    return n_frames


def make_sampler(
    energy_fn: Energy,
    masses: Float[np.ndarray, " n"],
    settings: Settings,
    *,
    solver: Plan | None = None,
    equilibration: int = 0,
) -> Sampler:
    """Make a sampler for any energy without a neighbour list: one compiled run of molecular dynamics.

    Each draw starts at the structure that it is given, with new momenta and random numbers.

    Args:
        energy_fn: see `lesjax.properties.Energy`.
        masses: masses of the atoms, amu.
        settings: ensemble, length (`steps`), interval of frames (`frame_every`) and so on; settings of files have no
            effect. "nvt" is the Nosé-Hoover chain: take "langevin" for a cluster, whose rotation a chain does not
            thermalize.
        solver: plan of the long-range sum, at constant pressure for the largest volume.
        equilibration: steps before the first frame, part of `steps`.

    Raises:
        ValueError: if no frame is left, for an ensemble without temperature, or an electric field.
    """
    n_frames = number_of_frames(settings, equilibration)
    solver = jax.device_put(solver)
    temperature = settings.temperature
    assert temperature is not None

    def force_virial(positions: Array, cell: Array, *, params: PyTree, frame: Any, solver: Plan | None):
        moved = dataclasses.replace(frame, positions=positions, cell=cell)
        return forces_and_virial(energy_fn, params, moved, solver=solver, with_virial=settings.constant_pressure)

    integrator, _ = make_integrator(settings, np.asarray(masses), force_virial)

    @with_mixed_dtypes
    @jax.jit
    def run(params: PyTree, frame: Any, solver: Plan | None, momenta: Array, key: Array) -> tuple[Array, Array]:
        positions, cell = jnp.asarray(frame.positions), jnp.asarray(frame.cell)
        arguments = {"params": params, "frame": frame, "solver": solver}
        fixed = {} if settings.constant_pressure else {"cell": cell}
        mass = jnp.asarray(masses, positions.dtype)
        state = integrator.initialize(positions, cell, mass, momenta, **arguments)
        if settings.scheme().random:
            state = dataclasses.replace(state, rng=key)

        def advance(state: Any, steps: int) -> Any:
            return jax.lax.fori_loop(0, steps, lambda _, state: integrator.step(state, **arguments, **fixed), state)

        def draw(state: Any, _: None) -> tuple[Any, tuple[Array, Array]]:
            state = advance(state, settings.frame_every)
            return state, (state.position, integrator.cell(state, cell))

        return jax.lax.scan(draw, advance(state, equilibration), None, length=n_frames)[1]

    def sample(params: PyTree, number: int, start: Any) -> Any:
        rng = np.random.default_rng([settings.seed, number])
        start = jax.device_put(start)
        momenta = jnp.asarray(maxwell_boltzmann(np.asarray(masses), temperature, rng), start.positions.dtype)
        key = jax.random.PRNGKey(int(rng.integers(2**31)))
        positions, cells = run(params, start, solver, momenta, key)
        repeated = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n_frames, *leaf.shape)), start)
        return dataclasses.replace(repeated, positions=positions, cell=cells)

    return sample


def potential_sampler(
    atoms: io.Atoms, settings: Settings, folder: str | pathlib.Path, *, equilibration: int = 0
) -> Sampler:
    """Make a sampler for a `Potential`: a run of `lesjax.dynamics.simulate` for each draw, with its files.

    Its energy is ``Potential.energy``, with ``solver = potential.make_solver(system)`` of one frame,
    of the largest volume at constant pressure.

    Args:
        atoms: elements, masses and periodicity; positions and cell come from the structure that a draw starts from.
        settings: the run; its `seed` counts up with the draws.
        folder: folder of the runs, ``draw-0`` and so on.
        equilibration: steps before the first frame, part of `settings.steps`.

    Raises:
        ValueError: if no frame is left, for an ensemble without temperature; from the sampler, for a draw that the
            folder already has.
    """
    number_of_frames(settings, equilibration)

    def sample(potential: Potential, number: int, start: System) -> System:
        first = atoms.copy()
        first.positions, first.cell = np.asarray(start.positions, float), np.asarray(start.cell, float)
        first.set_momenta(np.zeros((len(first), 3)))
        run = pathlib.Path(folder) / f"draw-{number}"
        if run.exists():
            raise ValueError(f"{str(run)!r} holds a run already, perhaps of other parameters. Give a new `folder`.")
        simulate(potential, first, run, dataclasses.replace(settings, seed=settings.seed + number), quiet=True)
        frames = [f for f in io.read(run / f"trajectory.{settings.format}") if f.info["step"] > equilibration]
        return stack_frames(frames, cutoff=potential.cutoff)

    return sample


def stack_frames(frames: list[io.Atoms], *, cutoff: float) -> System:
    """Stack structures of the same atoms as one system.

    Args:
        frames: structures with the same atoms.
        cutoff: ``potential.cutoff``, Å.

    Raises:
        ValueError: for no frames, or different atoms.
    """
    if not frames:
        raise ValueError("`frames` is empty: the trajectory has no frame to reweight.")
    numbers = frames[0].numbers
    for i, frame in enumerate(frames):
        if not np.array_equal(frame.numbers, numbers):
            raise ValueError(f"`frames` must be of the same atoms: frame {i} is {frame.symbols}, the first another.")
    systems = [System.from_ase(frame, cutoff=cutoff) for frame in frames]
    widest = max(system.shape[1] for system in systems)
    width = -(-widest // WIDTH) * WIDTH
    most = max(len(system.pairs) for system in systems if system.pairs is not None)
    return stack([system.pad_to(len(numbers), width, -(-most // PAIRS) * PAIRS) for system in systems])
