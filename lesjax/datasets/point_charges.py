r"""A gas of point charges with exact energies and forces, the hardest case for a local model.

Random ions of charge +1 e (Na) and -1 e (Cl) in a periodic cubic box interact by Coulomb's
law, summed by Ewald's method, and by one r^-12 repulsion, the same for all pairs. The ions
are placed at random, not equilibrated: nothing screens them, so ions beyond a short cutoff
contribute a large share of the force.

Everything here is numpy and shares no code with the rest of lesjax. The Ewald sum is for
*point* charges and is converged in itself: `splitting` (called alpha in most texts) has no
effect on the result, unlike the smearing width of a latent charge. The boundary condition is
conducting ("tin foil"): the term k = 0 is left out.
"""

import math

import numpy as np
from ase import Atoms
from scipy.special import erfc

from lesjax.units import COULOMB


# A lone pair Na-Cl is then at rest at 2.6 Å; frames go to 2.5 Å by default, into the wall.
SIGMA = 2.6  # Å
EPSILON = 0.115  # eV
REPULSION_CUTOFF = 5.0  # Å

# Both sums of the Ewald method stop where exp(-EWALD_TAIL**2) = 7e-14 of a term is left.
EWALD_TAIL = 5.5
MAX_TRIALS = 10_000  # trials of one ion, before the insertion fails


def generate(
    n_frames: int,
    *,
    seed: int = 0,
    n_pairs: int = 64,
    box: float | int = 20.0,
    min_distance: float | int = 2.5,
) -> list[Atoms]:
    """Draw independent frames of the gas, with their energies and forces.

    Each frame is a random sequential insertion: an ion is put anywhere in the box, and again until it is at least
    `min_distance` from all before it; then the two kinds of ion are dealt out at random. Frame `i` depends on `seed`
    and `i` only, so a longer list begins with the shorter one.

    Args:
        n_frames: number of frames, at least 1.
        seed: seed of the random numbers, a non-negative integer.
        n_pairs: number of ions of each sign.
        box: edge of the cubic cell, Å.
        min_distance: smallest distance between two ions, periodic images included, Å.

    Returns:
        Frames of ``2 * n_pairs`` ions, Na first, then Cl, periodic in all directions, with

        - ``info["REF_energy"]``: total energy, eV;
        - ``arrays["REF_forces"]``: forces, eV/Å, [n, 3];
        - ``arrays["REF_charges"]``: charges, e, [n];
        - ``info["seed"]``, ``info["frame"]``: `seed` and the index of the frame.

        The names do not collide with those that ASE moves into a calculator on reading.

    Raises:
        ValueError: if an argument is out of range, or the ions do not fit.
    """
    if n_frames < 1:
        raise ValueError(f"`n_frames` must be at least 1, got {n_frames}.")
    if n_pairs < 1:
        raise ValueError(f"`n_pairs` must be at least 1, got {n_pairs}.")
    if not min_distance > 0:
        raise ValueError(f"`min_distance` must be positive, got {min_distance}. Default: 2.5 Å.")
    _check_box(box)
    charges = np.repeat([1.0, -1.0], n_pairs)
    frames = []
    for frame in range(n_frames):
        rng = np.random.default_rng([seed, frame])
        positions = _insert(rng, 2 * n_pairs, box, min_distance)
        coulomb_energy, coulomb_forces = ewald(positions, charges, box)
        repulsion_energy, repulsion_forces = repulsion(positions, box)
        atoms = Atoms(["Na"] * n_pairs + ["Cl"] * n_pairs, positions, cell=[box] * 3, pbc=True)
        energy = coulomb_energy + repulsion_energy
        atoms.info = {"REF_energy": energy, "seed": seed, "frame": frame}
        atoms.set_array("REF_forces", coulomb_forces + repulsion_forces)
        atoms.set_array("REF_charges", charges)
        frames.append(atoms)
    return frames


def ewald(
    positions: np.ndarray, charges: np.ndarray, box: float | int, *, splitting: float | None = None
) -> tuple[float, np.ndarray]:
    r"""Coulomb energy and forces of point charges in a periodic cubic box.

    .. math:: \frac{E}{K} = \sum_{i<j} q_i q_j \frac{\mathrm{erfc}(\alpha r_{ij})}{r_{ij}}
              + \frac{2 \pi}{V} \sum_{k \ne 0} \frac{e^{-k^2 / 4 \alpha^2}}{k^2} |S(k)|^2
              - \frac{\alpha}{\sqrt{\pi}} \sum_i q_i^2

    with :math:`K = e^2 / 4 \pi \varepsilon_0` and :math:`S(k) = \sum_i q_i e^{i k \cdot r_i}`. :math:`\alpha` is large
    enough for the first sum to need only the nearest image of each pair.

    Args:
        positions: Cartesian coordinates, Å, [n, 3]; they may lie outside the box.
        charges: charges, e, [n], of sum zero.
        box: edge of the cubic cell, Å.
        splitting: :math:`\alpha`, Å⁻¹, at least ``11 / box``, the default. The number of k-vectors
            grows with its cube.

    Returns:
        Energy, eV, and forces, eV/Å, [n, 3].

    Raises:
        ValueError: if the charges are not neutral or `splitting` is too small.

    References:
        Ewald, Ann. Phys. 369, 253 (1921), doi:10.1002/andp.19213690304.
    """
    if abs(charges.sum()) > 1e-10:
        raise ValueError(f"`charges` must add up to zero, got {charges.sum()}: add the opposite charge.")
    smallest = 2 * EWALD_TAIL / box
    splitting = smallest if splitting is None else splitting
    if splitting < smallest:
        raise ValueError(
            f"`splitting` must be at least {smallest} for this box, got {splitting}: below it "
            "more than the nearest images count. Leave it out for the default."
        )
    real_energy, real_forces = _real_space(positions, charges, box, splitting)
    reciprocal_energy, reciprocal_forces = _reciprocal_space(positions, charges, box, splitting)
    self_energy = -splitting / math.sqrt(math.pi) * (charges**2).sum()
    energy = COULOMB * float(real_energy + reciprocal_energy + self_energy)
    return energy, COULOMB * (real_forces + reciprocal_forces)


def repulsion(positions: np.ndarray, box: float | int) -> tuple[float, np.ndarray]:
    r"""Energy and forces of the repulsion, the r^-12 part of a Lennard-Jones potential.

    .. math:: E = \sum_{i<j, \, r_{ij} < r_c} 4 \epsilon (\sigma / r_{ij})^{12} (1 - t_{ij})^3,
              \qquad t_{ij} = (r_{ij} / r_c)^{12}

    The factor is 1 at contact and takes the energy to zero at `REPULSION_CUTOFF` with two
    continuous derivatives, so nothing is truncated.

    Args:
        positions: Cartesian coordinates, Å, [n, 3].
        box: edge of the cubic cell, Å, at least twice `REPULSION_CUTOFF`.

    Returns:
        Energy, eV, and forces, eV/Å, [n, 3].

    Raises:
        ValueError: if `box` is too small for nearest images.
    """
    _check_box(box)
    vectors, distances = _nearest_images(positions, box)
    power = (SIGMA / distances) ** 12
    t = np.minimum(distances / REPULSION_CUTOFF, 1.0) ** 12
    energy = 0.5 * (4 * EPSILON * power * (1 - t) ** 3).sum()
    # -dE/dr, over r; the derivative of p (1 - t)^3 with respect to p, t p constant
    magnitude = 4 * EPSILON * (1 - t) ** 2 * (1 + 2 * t) * 12 * power / distances**2
    return float(energy), np.einsum("ij,ijx->ix", magnitude, vectors)


def _check_box(box: float | int) -> None:
    if not box >= 2 * REPULSION_CUTOFF:
        raise ValueError(
            f"`box` must be at least {2 * REPULSION_CUTOFF} Å, twice the cutoff of the "
            f"repulsion, got {box}: make it larger, with more ions."
        )


def _insert(rng: np.random.Generator, n: int, box: float | int, min_distance: float | int) -> np.ndarray:
    """Return `n` random positions, Å, no two of them nearer than `min_distance`."""
    positions = np.empty((n, 3))
    for i in range(n):
        for _ in range(MAX_TRIALS):
            trial = rng.uniform(0.0, box, size=3)
            vectors = positions[:i] - trial
            vectors -= box * np.round(vectors / box)
            if ((vectors**2).sum(axis=1) >= min_distance**2).all():
                positions[i] = trial
                break
        else:
            raise ValueError(
                f"`min_distance` = {min_distance} leaves no room for ion {i + 1} of {n} in a "
                f"box of {box} Å: lower `min_distance` or `n_pairs`, or enlarge `box`."
            )
    return rng.permutation(positions)  # the last ions have nearer neighbours: shuffle the kinds


def _nearest_images(positions: np.ndarray, box: float | int) -> tuple[np.ndarray, np.ndarray]:
    """Return r_i - r_j of nearest images, [n, n, 3], and distances, [n, n], inf for i = j."""
    vectors = positions[:, None] - positions[None]
    vectors -= box * np.round(vectors / box)
    distances = np.sqrt((vectors**2).sum(axis=-1))
    np.fill_diagonal(distances, np.inf)
    return vectors, distances


def _real_space(
    positions: np.ndarray, charges: np.ndarray, box: float | int, splitting: float
) -> tuple[float, np.ndarray]:
    """Return the erfc sum, e²/Å, and its forces, e²/Å², [n, 3]."""
    vectors, distances = _nearest_images(positions, box)
    products = charges[:, None] * charges
    potential = products * erfc(splitting * distances) / distances
    gaussian = products * np.exp(-((splitting * distances) ** 2))
    magnitude = (potential + 2 * splitting / math.sqrt(math.pi) * gaussian) / distances**2
    return 0.5 * potential.sum(), np.einsum("ij,ijx->ix", magnitude, vectors)


def _reciprocal_space(
    positions: np.ndarray, charges: np.ndarray, box: float | int, splitting: float
) -> tuple[float, np.ndarray]:
    """Return the sum over k, e²/Å, and its forces, e²/Å², [n, 3].

    The phases factorise, exp(ikr) = X Y Z, so both S(k) and the forces are matrix products.
    k and -k are equal: k_x runs from 0, and planes of k_x > 0 count twice.
    """
    k_cutoff = 2 * EWALD_TAIL * splitting
    n_max = math.floor(k_cutoff * box / (2 * math.pi))
    k = 2 * math.pi / box * np.arange(-n_max, n_max + 1)
    k_half = k[n_max:]
    x = np.exp(1j * positions[:, 0, None] * k_half)
    y = np.exp(1j * positions[:, 1, None] * k)
    z = np.exp(1j * positions[:, 2, None] * k)
    yz = (y[:, :, None] * z[:, None, :]).reshape(len(positions), -1)

    k_squared = k_half[:, None, None] ** 2 + k[:, None] ** 2 + k**2
    inside = (k_squared > 0) & (k_squared <= k_cutoff**2)
    k_squared[~inside] = 1.0
    weights = np.where(inside, np.exp(-k_squared / (4 * splitting**2)) / k_squared, 0.0)
    weights[1:] *= 2
    weights = 2 * math.pi / box**3 * weights.reshape(len(k_half), -1)

    structure_factor = (charges[:, None] * x).T @ yz
    energy = (weights * np.abs(structure_factor) ** 2).sum()

    weighted = weights * structure_factor.conj()
    terms = ((x @ weighted) * yz).imag.reshape(len(positions), len(k), len(k))
    sums = [
        (((x * k_half) @ weighted) * yz).imag.sum(axis=1),
        terms.sum(axis=2) @ k,
        terms.sum(axis=1) @ k,
    ]
    return energy, 2 * charges[:, None] * np.stack(sums, axis=1)
