r"""Ensemble averages as differentiable functions of the parameters, by reweighting of a trajectory (DiffTRe).

Frames x_i were drawn with parameters θ0 at temperature T0 and pressure p0. Under other parameters they have the weights

.. math:: w_i \propto e^{-u_\theta(x_i) + u_{\theta_0}(x_i)}, \qquad \sum_i w_i = 1, \qquad
          u = \frac{U + p V}{k_B T}, \qquad \langle O \rangle_\theta = \sum_i w_i O_\theta(x_i)

with pV only at constant pressure. No step of the simulation is differentiated, and yet the gradient is that of the
average, including the weights:

.. math:: \frac{d \langle O \rangle}{d \theta} = \Bigl\langle \frac{\partial O}{\partial \theta} \Bigr\rangle
          - \frac{1}{k_B T} \Bigl( \Bigl\langle O \frac{\partial U}{\partial \theta} \Bigr\rangle
          - \langle O \rangle \Bigl\langle \frac{\partial U}{\partial \theta} \Bigr\rangle \Bigr)

pV of one pressure cancels in the weights: a density is fitted by the dependence of U on the parameters in frames of
many volumes.

Source: Thaler, Zavadlav, Nat. Commun. 12, 6884 (2021), doi:10.1038/s41467-021-27241-4.
"""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from lesjax.ewald import Plan
from lesjax.fitting.observables import Observable
from lesjax.numerics import determinant
from lesjax.properties import Energy
from lesjax.properties.series import check_positive
from lesjax.units import BAR, BOLTZMANN


BATCH_SIZE = 16


class ReweightingError(RuntimeError):
    """The frames of a trajectory no longer represent the ensemble of other parameters."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trajectory:
    """Frames, and the ensemble that they were drawn from; made by `make_trajectory`.

    Attributes:
        frames: stacked frames: `lesjax.properties.Frame`, `lesjax.System`, or another dataclass that is a pytree with
            `positions` and `cell`.
        energies: energies with the parameters that they were drawn with, eV.
        temperature: K.
        pressure: bar; None for a constant volume.
        measured: values of the observables that no parameter changes, by name.
        solver: plan of the long-range sum for the energies of all frames.
    """

    frames: PyTree
    energies: Float[Array, " t"]
    temperature: Float[Array, ""]
    pressure: Float[Array, ""] | None
    measured: Mapping[str, Float[Array, "t ..."]] = dataclasses.field(default_factory=dict)
    solver: Plan | None = None

    def __len__(self) -> int:
        return len(self.energies)


def make_trajectory(
    energy_fn: Energy,
    params: PyTree,
    frames: PyTree,
    *,
    temperature: float,
    pressure: float | None = None,
    observables: Mapping[str, Observable] | None = None,
    solver: Plan | None = None,
    batch_size: int = BATCH_SIZE,
) -> Trajectory:
    """Compute energies of the frames, and the values of observables that no parameter changes.

    Args:
        energy_fn: see `lesjax.properties.Energy`; `Potential.energy` for a potential.
        params: the parameters that the frames were drawn with.
        frames: stacked frames, equilibrated, and far enough apart to be nearly independent: the effective sample size
            counts frames.
        temperature: K.
        pressure: bar, for frames at constant pressure; None for a constant volume.
        observables: observables that will be averaged.
        solver: plan of the long-range sum, for all frames: at constant pressure the plan of the largest volume.
        batch_size: frames whose energies are computed at once.

    Raises:
        ValueError: for no frames, leaves of different lengths, energies that are not finite, or a temperature that is
            not positive.
    """
    check_positive("temperature", temperature)
    n_frames = count_frames(frames)
    solver = jax.device_put(solver)
    energies = frame_energies(energy_fn, params, frames, solver, batch_size)
    finite = np.isfinite(np.asarray(energies))
    if not finite.all():
        raise ValueError(
            f"The energies of {np.sum(~finite)} of {n_frames} frames are not finite, first that of frame "
            f"{np.argmin(finite)}. Did the simulation blow up, or do atoms overlap?"
        )
    measured = {
        name: measure(name, observable, frames) for name, observable in (observables or {}).items() if observable.fixed
    }
    dtype = energies.dtype
    return Trajectory(
        jax.device_put(frames),
        energies,
        jnp.asarray(temperature, dtype),
        None if pressure is None else jnp.asarray(pressure, dtype),
        measured,
        solver,
    )


def count_frames(frames: PyTree) -> int:
    """Number of stacked frames.

    Raises:
        ValueError: for none, or arrays of different lengths.
    """
    lengths = {len(leaf) if np.ndim(leaf) else -1 for leaf in jax.tree.leaves(frames)}
    if len(lengths) != 1 or -1 in lengths:
        raise ValueError(f"`frames` must be stacked along one leading axis, got arrays of lengths {sorted(lengths)}.")
    n_frames = lengths.pop()
    if n_frames == 0:
        raise ValueError("`frames` is empty: the trajectory has no frame to reweight.")
    return n_frames


def measure(name: str, observable: Observable, frames: PyTree) -> Float[Array, "t ..."]:
    """Values of a fixed observable, computed on the host.

    Raises:
        ValueError: if there is not one value per frame, or for values that are not finite.
    """
    values = np.asarray(observable.function(jax.tree.map(np.asarray, frames)))
    n_frames = count_frames(frames)
    if values.shape[:1] != (n_frames,):
        raise ValueError(
            f"Observable {name!r} gave an array of shape {values.shape} for {n_frames} frames. A fixed observable is "
            "called once with all frames and returns one value, or row, for each."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"Observable {name!r} is not finite in some frame.")
    return jnp.asarray(values, frames.positions.dtype)


def frame_energies(
    energy_fn: Energy, params: PyTree, frames: PyTree, solver: Plan | None = None, batch_size: int = BATCH_SIZE
) -> Float[Array, " t"]:
    """Energies of stacked frames, eV."""
    return _map_frames(energy_fn, params, jax.device_put(frames), solver, batch_size)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _map_frames(function: Energy, params: PyTree, frames: PyTree, solver: Plan | None, batch_size: int) -> Array:
    """Map a function over the frames; the backward pass computes it again, so that memory is that of one batch."""
    of_frame = jax.checkpoint(lambda frame: function(params, frame, solver))
    return jax.lax.map(of_frame, frames, batch_size=batch_size)


def boltzmann_weights(
    energies: Float[Array, " t"],
    trajectory: Trajectory,
    *,
    temperature: float | Float[Array, ""] | None = None,
    pressure: float | Float[Array, ""] | None = None,
) -> Float[Array, " t"]:
    """Weights of the frames under energies of other parameters, of sum one; formula in the module.

    Args:
        energies: energies of the frames, eV.
        trajectory: the frames with the energies that they were drawn with.
        temperature: K; by default of the trajectory.
        pressure: bar; by default of the trajectory.

    Raises:
        ValueError: if there is not one energy per frame, or for a pressure for frames of constant volume.
    """
    if energies.shape != trajectory.energies.shape:
        raise ValueError(
            f"`energies` has shape {energies.shape}, but the trajectory has {len(trajectory)} frames. Compute them of "
            "`trajectory.frames`, with `frame_energies`."
        )
    if pressure is not None and trajectory.pressure is None:
        raise ValueError(
            f"`pressure` = {pressure} was given, but the trajectory is one of constant volume: its frames cannot be "
            "reweighted to a pressure. Draw them at constant pressure, and give `pressure` to `make_trajectory`."
        )
    dtype = energies.dtype
    drawn_beta = 1.0 / (BOLTZMANN * trajectory.temperature)
    beta = drawn_beta if temperature is None else 1.0 / (BOLTZMANN * jnp.asarray(temperature, dtype))
    # the difference first keeps the digits of large energies
    exponents = -beta * (energies - trajectory.energies) + (drawn_beta - beta) * trajectory.energies
    if trajectory.pressure is not None:
        drawn = trajectory.pressure
        new_pressure = drawn if pressure is None else jnp.asarray(pressure, dtype)
        exponents += BAR * (drawn_beta * drawn - beta * new_pressure) * volumes(trajectory.frames)
    return jax.nn.softmax(exponents)


def volumes(frames: PyTree) -> Float[Array, " t"]:
    """Volumes of stacked frames, Å³."""
    return jnp.abs(determinant(jnp.asarray(frames.cell)))


def effective_fraction(weights: Float[Array, " t"]) -> Float[Array, ""]:
    r"""Effective sample size by the entropy of the weights, as a fraction of the number t of frames.

    .. math:: \frac{1}{t} \exp \Bigl( - \sum_i w_i \ln w_i \Bigr)

    One for equal weights, 1 / t where a single frame has all the weight.
    """
    logs = jnp.log(jnp.where(weights > 0, weights, 1.0))
    return jnp.exp(-jnp.sum(weights * logs)) / len(weights)


def ensemble_averages(
    energy_fn: Energy,
    params: PyTree,
    trajectory: Trajectory,
    observables: Mapping[str, Observable],
    *,
    temperature: float | Float[Array, ""] | None = None,
    pressure: float | Float[Array, ""] | None = None,
    batch_size: int = BATCH_SIZE,
) -> tuple[dict[str, Float[Array, "..."]], Float[Array, " t"]]:
    """Observables under `params`, and the weights of the frames: a pure function to differentiate and compile.

    Its gradient includes the weights and the observables.

    Args:
        energy_fn: as for `make_trajectory`.
        params: other parameters.
        trajectory: frames drawn with parameters that are not far away; look at `effective_fraction` of the weights.
        observables: observables by name; those that no parameter changes by their names in `make_trajectory`.
        temperature: K; by default of the trajectory.
        pressure: bar; by default of the trajectory.
        batch_size: frames that are computed at once.

    Raises:
        ValueError: as `boltzmann_weights`; for a traced trajectory that was made without a fixed observable.
    """
    energies = frame_energies(energy_fn, params, trajectory.frames, trajectory.solver, batch_size)
    weights = boltzmann_weights(energies, trajectory, temperature=temperature, pressure=pressure)
    result = {}
    for name, observable in observables.items():
        values = observable_values(name, observable, params, trajectory, batch_size)
        result[name] = observable.reduce(weights, values)
    return result, weights


def observable_values(
    name: str, observable: Observable, params: PyTree, trajectory: Trajectory, batch_size: int = BATCH_SIZE
) -> Float[Array, "t ..."]:
    """Values of an observable in each frame."""
    if not observable.fixed:
        return _map_frames(observable.function, params, trajectory.frames, trajectory.solver, batch_size)
    if name in trajectory.measured:
        return trajectory.measured[name]
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trajectory.frames)):
        raise ValueError(
            f"Observable {name!r} is computed on the host, and the trajectory, which is traced, was made without it. "
            "Give it to `make_trajectory` under `observables`."
        )
    return measure(name, observable, trajectory.frames)
