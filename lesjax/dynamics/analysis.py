"""Analysis of trajectories, where ase and MDAnalysis have no single call for it.

All functions take frames of ase (`ase.io.read(path, ":")`) and return numpy arrays; `infrared_spectrum` also reads the
file itself. Positions of `lesjax.dynamics` trajectories are not wrapped, as the mean squared displacement needs them.
"""

import os
from collections.abc import Sequence

import ase
import jax
import numpy as np
from jaxtyping import Float

from lesjax import io, properties
from lesjax.neighbors.host import neighbor_arrays
from lesjax.units import AMU_PER_A3, BAR, BOLTZMANN, FEMTOSECOND


def radial_distribution(
    frames: Sequence[ase.Atoms], first: str, second: str, *, cutoff: float = 6.0, width: float = 0.05
) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, " r"]]:
    """Radial distribution function g(r) of two elements, mean over the frames; any cell, and any number of images.

    Args:
        frames: periodic structures.
        first: element at the centre.
        second: element around it.
        cutoff: largest distance, Å; may exceed half of the cell.
        width: width of the bins, Å.

    Returns:
        Middles of the bins, Å, and g.

    Raises:
        ValueError: for frames without three periodic directions, for an element that is absent, or a single
            atom for pairs of its own element.
    """
    edges = np.arange(0.0, cutoff + 0.5 * width, width)
    total = np.zeros(len(edges) - 1)
    for atoms in _not_empty(frames):
        if not atoms.pbc.all():
            raise ValueError(f"`frames` must be periodic in three directions for a density, got pbc {atoms.pbc}.")
        at, around = _select(atoms, first), _select(atoms, second)
        if first == second and at.sum() == 1:
            raise ValueError(f"There is one {first!r} in {atoms.symbols}: no other one is around it.")
        pbc = (True, True, True)
        neighbors, shifts, real = neighbor_arrays(atoms.positions, atoms.cell.array, pbc, float(edges[-1]))
        real &= at[:, None] & around[neighbors]
        vectors = atoms.positions[neighbors] - atoms.positions[:, None] + shifts @ atoms.cell.array
        counts, _ = np.histogram(np.linalg.norm(vectors[real], axis=1), edges)
        # an atom is not its own neighbour
        density = (around.sum() - (first == second)) / atoms.get_volume()
        total += counts / (at.sum() * density)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    return 0.5 * (edges[1:] + edges[:-1]), total / (shells * len(frames))


def mean_squared_displacement(
    positions: Float[np.ndarray, "t n 3"], masses: Float[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, " t"]:
    """Mean over atoms and time origins of the squared displacement after each number of frames, Å².

    By Fourier transform, in O(t log t).

    Args:
        positions: unwrapped positions, Å.
        masses: masses of the same atoms; if given, the drift of their centre of mass is removed.
    """
    positions = np.asarray(positions, float) - positions[:1]  # the differences of large sums need all digits
    if masses is not None:
        positions = positions - np.average(positions, axis=1, weights=masses)[:, None]
    t = len(positions)
    spectrum = np.fft.rfft(positions, n=2 * t, axis=0)
    products = np.fft.irfft(np.abs(spectrum) ** 2, axis=0)[:t].sum(axis=2)
    squares = np.sum(positions**2, axis=2)
    # Σ over origins of r(τ)² + r(τ + m)², from both ends
    sums = 2.0 * squares.sum(axis=0) - np.concatenate(
        [np.zeros((1, squares.shape[1])), np.cumsum(squares[:-1] + squares[:0:-1], axis=0)]
    )
    return np.mean((sums - 2.0 * products) / (t - np.arange(t))[:, None], axis=1)


def diffusion(msd: Float[np.ndarray, " t"], interval: float, *, start: float = 0.2, stop: float = 0.6) -> float:
    """Diffusion coefficient from the slope of the mean squared displacement, Å²/ps.

    Args:
        msd: from `mean_squared_displacement`, Å².
        interval: time between frames, fs.
        start: beginning of the fit as a fraction of the longest time.
        stop: its end; long times have few origins.

    Raises:
        ValueError: if the fit has fewer than two points.
    """
    low, high = int(start * len(msd)), int(stop * len(msd))
    if high - low < 2:
        raise ValueError(f"`msd` has {len(msd)} points, of which {high - low} lie between `start` and `stop`: too few.")
    times = 1e-3 * interval * np.arange(len(msd))
    return float(np.polyfit(times[low:high], msd[low:high], 1)[0] / 6.0)


def density_profile(
    frames: Sequence[ase.Atoms], *, axis: int = 2, width: float = 0.5, element: str | None = None
) -> tuple[Float[np.ndarray, " z"], Float[np.ndarray, " z"]]:
    """Mass density along the normal of two lattice vectors, g/cm³, mean over the frames.

    Args:
        frames: structures with a cell that is fixed along this direction.
        axis: the other lattice vector.
        width: width of the bins, Å.
        element: element that is counted; all by default.

    Returns:
        Middles of the bins, Å, from 0 to the height of the cell, and the density.
    """
    height = _height(_not_empty(frames)[0], axis)
    n_bins = max(1, round(height / width))
    total = np.zeros(n_bins)
    for atoms in frames:
        masses = atoms.get_masses() * (True if element is None else _select(atoms, element))
        fractional = atoms.get_scaled_positions(wrap=True)[:, axis] % 1.0
        total += np.histogram(fractional, n_bins, (0.0, 1.0), weights=masses)[0] / (atoms.get_volume() / n_bins)
    return (np.arange(n_bins) + 0.5) * height / n_bins, AMU_PER_A3 * total / len(frames)


def pressure(frames: Sequence[ase.Atoms]) -> Float[np.ndarray, " t"]:
    """Pressure of each frame with its kinetic part, bar, from the stress and the velocities in it."""
    stresses = np.array([atoms.get_stress(voigt=False, include_ideal_gas=True) for atoms in _not_empty(frames)])
    return -np.trace(stresses, axis1=1, axis2=2) / 3.0 / BAR


def temperature(frames: Sequence[ase.Atoms], *, dof: int | None = None) -> Float[np.ndarray, " t"]:
    """Temperature of each frame, K.

    Args:
        frames: structures with velocities.
        dof: degrees of freedom; 3n - 3 by default, as in all ensembles except "langevin", which has 3n.
    """
    dof = max(1, 3 * len(_not_empty(frames)[0]) - 3) if dof is None else dof
    return np.array([2.0 * atoms.get_kinetic_energy() / (dof * BOLTZMANN) for atoms in frames])


def born_effective_charges(frames: Sequence[ase.Atoms]) -> Float[np.ndarray, "t n 3 3"]:
    """Born effective charges that `lesjax md` wrote into the frames, e: [frame, atom, polarization, displacement].

    ase keeps them in ``atoms.calc.results["born_effective_charges"]``, with nine columns from extended xyz.

    Raises:
        ValueError: for frames that have none, or not the same number of atoms.
    """
    read = [io.labels(atoms).born_effective_charges for atoms in _not_empty(frames)]
    if len({len(values) for values in read}) > 1:
        raise ValueError("`frames` have different numbers of atoms.")
    values = np.array(read)
    if np.isnan(values).any():
        frame = int(np.argwhere(np.isnan(values))[0, 0])
        raise ValueError(
            f"`frames` have no Born effective charges, first frame {frame}: run `lesjax md` with "
            "--born-effective-charges (`Settings(born_effective_charges=True)`). Polarizations alone give no spectrum."
        )
    return values


def infrared_spectrum(
    trajectory: str | os.PathLike | Sequence[ase.Atoms],
    *,
    skip: float = 0.0,
    temperature: float | None = None,
    volume: float | None = None,
    resolution: float = 30.0,
    n_blocks: int = 5,
) -> properties.Spectrum:
    r"""Infrared absorption n(ω) α(ω) over the wavenumber, both in cm⁻¹, of a run with Born effective charges.

    From the autocorrelation of :math:`\dot M = \sum_i Z^*_i v_i`, see `lesjax.properties.infrared_spectrum`. Frames
    every 2.5 fs reach to 6670 cm⁻¹; bands beyond 16678 / interval cm⁻¹ would be folded back.

    Args:
        trajectory: file of `lesjax md`, ``trajectory.xyz`` or ``.traj``, or its frames.
        skip: time at the start that is left out, for equilibration, fs.
        temperature: K; by default that of the velocities, mean over the frames, with 3n - 3 degrees of freedom.
        volume: volume per absorbing system, Å³; by default that of the cell, mean over the frames. Needed without three
            periodic directions: for a gas the volume per molecule.
        resolution: full width at half maximum that a sharp line gets, cm⁻¹. Lower needs a longer run.
        n_blocks: number of blocks for the average and its errors.

    Raises:
        ValueError: for frames without Born effective charges, velocities or ``info["time_fs"]``, or not at equal steps
            of time; a missing volume; a trajectory too short for `resolution` and `n_blocks`.
    """
    frames = io.read(trajectory) if isinstance(trajectory, str | os.PathLike) else _not_empty(trajectory)
    missing = [i for i, atoms in enumerate(frames) if "time_fs" not in atoms.info or not atoms.has("momenta")]
    if missing:
        raise ValueError(
            f"`trajectory` needs velocities and `info['time_fs']` in each frame, as `lesjax md` writes them: frame "
            f"{missing[0]} lacks them."
        )
    times = np.array([float(atoms.info["time_fs"]) for atoms in frames])
    kept = times >= times[0] + skip
    frames, times = [atoms for atoms, keep in zip(frames, kept, strict=True) if keep], times[kept]
    intervals = np.diff(times)
    if len(intervals) == 0 or not intervals[0] > 0 or np.ptp(intervals) > 1e-3 * intervals[0]:
        raise ValueError(
            f"`trajectory` must have at least two frames after `skip` = {skip} fs, at equal steps of time; the steps "
            f"are {sorted(set(intervals.round(6).tolist()))[:5]} fs."
        )
    if volume is None:
        if not all(atoms.pbc.all() for atoms in frames):
            raise ValueError("`volume` per molecule, in Å³, is needed for frames without three periodic directions.")
        volume = float(np.mean([atoms.get_volume() for atoms in frames]))
    mean = _mean_temperature(frames) if temperature is None else temperature
    velocities = np.array([atoms.get_velocities() for atoms in frames]) * FEMTOSECOND
    rate = np.einsum("tnad,tnd->ta", born_effective_charges(frames), velocities)
    spectrum = properties.infrared_spectrum(
        rate, float(np.mean(intervals)), volume, mean, resolution=resolution, n_blocks=n_blocks
    )
    return jax.device_get(spectrum)


def _mean_temperature(frames: Sequence[ase.Atoms]) -> float:
    return float(np.mean(temperature(frames)))


def _not_empty(frames: Sequence[ase.Atoms]) -> Sequence[ase.Atoms]:
    if len(frames) == 0:
        raise ValueError("`frames` is empty.")
    return frames


def _select(atoms: ase.Atoms, element: str) -> np.ndarray:
    selected = np.array(atoms.symbols) == element
    if not selected.any():
        raise ValueError(f"There is no {element!r} in {atoms.symbols}.")
    return selected


def _height(atoms: ase.Atoms, axis: int) -> float:
    area = np.linalg.norm(np.cross(*np.delete(atoms.cell.array, axis, axis=0)))
    if not area > 0 or not atoms.get_volume() > 0:
        raise ValueError(f"`frames` need a cell, got {atoms.cell.array.tolist()}.")
    return float(atoms.get_volume() / area)
