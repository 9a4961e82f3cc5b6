r"""Planning of the particle mesh on the host: its error, and the cheapest mesh and spline order below an error.

For uncorrelated charges the squared error of the forces, relative to their mean square, is a sum of three parts.
All are integrals over k with the weight of the squared force, :math:`(k \varphi(k))^2 d^3k \propto s(k)^2 dk` with
:math:`s = k^2 \varphi(k)` from the interaction, :math:`e^{-\sigma^2 k^2 / 2}` for Coulomb:

1. k-vectors left out, for Coulomb erfc(σ k_c);
2. interpolation: with the factor of `mesh`, B / A³ - 2 / A² + 1 along each axis, A = Σ_m W_m² / W_0² and
   B = Σ_m k_m² W_m² / (k² W_0²) over the aliases m (Hockney and Eastwood 1988; Ballenegger et al., J. Chem. Theory
   Comput. 8, 936 (2012));
3. the force of a charge on itself, which follows the mesh: the first harmonic along each axis. It does not grow with
   the number of charges, so it counts more where they are few.
"""

import functools
import math

import numpy as np
from jaxtyping import Float

from lesjax.ewald.interaction import Interaction
from lesjax.validate import check_memory


ORDERS = (4, 5, 6, 7, 8)
# What a point takes with its transforms, bytes
MESH_BYTES = 64

# Time per atom of a spline's p³ points and per mesh point, ns, on CPU; only their ratio matters.
_TIME_PER_WEIGHT = 2.0
_TIME_PER_POINT = 15.0


def mesh_error(
    spacings: Float[np.ndarray, " 3"],
    order: int,
    k_cutoff: float,
    *,
    sigma: float,
    density: float,
    interaction: Interaction,
) -> float:
    """Relative error of the forces only from the mesh, without the k-vectors left out.

    Args:
        spacings: distances of the mesh points along the lattice vectors, Å.
        order: order of the B-splines.
        k_cutoff: largest |k|, 1/Å.
        sigma: smearing width σ, Å.
        density: charges per volume, 1/Å³.
        interaction: interaction to sum.
    """
    points, weights = np.polynomial.legendre.leggauss(32)
    k = 0.5 * k_cutoff * (points + 1)[:, None]
    dk = 0.5 * k_cutoff * weights[:, None]
    cosine, dcosine = points[None, :], 0.5 * weights[None, :]
    spectrum = interaction.force_spectrum(k, sigma)
    total = _total(interaction, sigma)
    squared = 0.0
    for spacing, axes in zip(*np.unique(spacings, return_counts=True), strict=True):
        along = k * cosine
        sampling = 2 * math.pi / spacing
        images = np.arange(-2, 3)[:, None, None]
        frequency = along / sampling
        window = np.sinc(frequency + images) ** order
        ratio = window / window[2]
        k_squared = k**2 + 2 * along * images * sampling + (images * sampling) ** 2
        a = np.sum(ratio**2, 0)
        b = np.sum(ratio**2 * k_squared, 0) / k**2
        interpolation = np.sum(spectrum**2 * (b / a**3 - 2 / a**2 + 1) * dk * dcosine)
        overlap = np.sum(ratio[1:] * ratio[:-1], 0) / a**2
        # the mean square of a sine is a half; with a charge of one, the sum over pairs has the factor `density`
        self_force = sampling * np.sum(spectrum * overlap * dk * dcosine)
        squared += axes * (interpolation + self_force**2 / (2 * density) / (2 * math.pi**2)) / total
    return math.sqrt(squared)


def choose_mesh(
    cell: Float[np.ndarray, "3 3"],
    k_cutoff: float,
    accuracy: float,
    *,
    sigma: float,
    n_atoms: int,
    interaction: Interaction,
) -> tuple[tuple[int, int, int], int]:
    """Mesh points along each lattice vector and spline order: the cheapest with an error below `accuracy`."""
    lengths = np.linalg.norm(cell, axis=1)
    volume = abs(np.linalg.det(cell))
    density = n_atoms / volume
    # `mesh_error` is for an orthogonal cell. Along a lattice vector of length a and height h over the other two,
    # the aliases of a mesh of N points are 2πN / h away: a / h times as far, with forces as much larger.
    heights = volume / np.linalg.norm(np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1)
    accuracy = accuracy * float(np.min(heights / lengths))
    # all k-vectors below the cutoff have to fit, with none at half the sampling frequency
    smallest = [2 * math.floor(k_cutoff * length / (2 * math.pi) * (1 + 1e-12)) + 1 for length in lengths]
    best: tuple[float, tuple[int, int, int], int] | None = None
    for order in ORDERS:
        spacing = _largest_spacing(order, k_cutoff, accuracy, sigma, density, interaction)
        sizes = [
            five_smooth(max(math.ceil(length / spacing), order, least))
            for length, least in zip(lengths, smallest, strict=True)
        ]
        n_points = math.prod(sizes)
        cost = _TIME_PER_WEIGHT * n_atoms * order**3 + _TIME_PER_POINT * n_points * math.log2(n_points) / 20
        if best is None or cost < best[0]:
            best = cost, (sizes[0], sizes[1], sizes[2]), order
    assert best is not None
    n_points = math.prod(best[1])
    check_memory(
        f"A mesh of {n_points:.3g} points", MESH_BYTES * n_points,
        "Take a smaller cell, a larger `sigma`, a lower `k_cutoff` or less `accuracy`",
    )  # fmt: skip
    return best[1], best[2]


def five_smooth(n: int) -> int:
    """Smallest integer of at least `n` without prime factors above five, for fast Fourier transforms."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


@functools.lru_cache(maxsize=256)
def _largest_spacing(
    order: int, k_cutoff: float, accuracy: float, sigma: float, density: float, interaction: Interaction
) -> float:
    """Bisect the spacing whose error is `accuracy`."""
    low, high = 0.02 * math.pi / k_cutoff, 1.2 * math.pi / k_cutoff
    for _ in range(14):
        middle = math.sqrt(low * high)
        spacings = np.full(3, middle)
        if mesh_error(spacings, order, k_cutoff, sigma=sigma, density=density, interaction=interaction) < accuracy:
            low = middle
        else:
            high = middle
    return low


@functools.lru_cache(maxsize=256)
def _total(interaction: Interaction, sigma: float) -> float:
    """∫ s² dk over all k, of the true force."""
    points, weights = np.polynomial.legendre.leggauss(64)
    k = 6.0 / sigma * (points + 1.0)
    return float(np.sum(weights * interaction.force_spectrum(k, sigma) ** 2) * 6.0 / sigma)
