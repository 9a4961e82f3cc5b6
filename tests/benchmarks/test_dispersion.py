"""The labels of the benchmark of dispersion."""

import dispersion
import numpy as np


def test_forces_are_derivatives_of_the_energy():
    """Of a cluster and of a crystal, whose energy is that of the sum over the face-centred cubic lattice."""
    cluster, crystal = dispersion.frames(np.random.default_rng(0), 1, 1)
    for atoms in (cluster, crystal):
        cell = atoms.cell.array if atoms.pbc.any() else None
        step = np.zeros_like(atoms.positions)
        step[3, 1] = 1e-4
        energies = [dispersion.lennard_jones(atoms.positions + h * step, cell)[0] for h in (1, -1)]
        # twice the step of 1e-4; the sum ends at 20 Å, where a neighbour that leaves takes 1e-9 eV along
        np.testing.assert_allclose(atoms.arrays["REF_forces"][3, 1], (energies[1] - energies[0]) / 2e-4, atol=1e-4)
    primitive = 2.7 * (1.0 - np.eye(3))
    energy, _ = dispersion.lennard_jones(np.zeros((1, 3)), primitive)
    nearest = 2.7 * 2**0.5 / dispersion.SIGMA
    expected = 2.0 * dispersion.EPSILON * (12.1318802 / nearest**12 - 14.4539210 / nearest**6)
    np.testing.assert_allclose(energy, expected, rtol=1e-3)
