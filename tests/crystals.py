"""Rock salt of Gaussian charges with Lennard-Jones interactions, as a function of its parameters."""

import itertools

import jax.numpy as jnp
import numpy as np

from lesjax import ewald


UNIT = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], float) / 2
PRIMITIVE = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
PARAMS = {"charge": 1.0, "epsilon": 0.4, "size": 2.5}


def rock_salt(a, primitive=False):
    """Positions, cell and signs of the charges; eight atoms, or two."""
    cell = a * (PRIMITIVE if primitive else np.eye(3))
    fractional = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]) if primitive else UNIT
    signs = np.repeat([1.0, -1.0], len(fractional) // 2)
    return jnp.asarray(fractional @ cell, float), jnp.asarray(cell, float), jnp.asarray(signs, float)


def parameters(**changes):
    return {name: jnp.asarray(value, float) for name, value in (PARAMS | changes).items()}


def make_energy(positions, cell, signs, *, cutoff=3.4, sigma=0.8, k_cutoff=4.0, power=6):
    """Energy and solver, with the pairs and the k-grid of the given structure.

    Pairs within `cutoff` interact as Lennard-Jones ones, wherever they move: smooth. With power 0 the attraction is
    left out.
    """
    solver = ewald.make_solver(np.asarray(cell), True, n_atoms=len(signs), sigma=sigma, k_cutoff=k_cutoff)
    r, h = np.asarray(positions, float), np.asarray(cell, float)
    images = np.array(list(itertools.product(range(-3, 4), repeat=3)))
    vectors = r[None, :, None] - r[:, None, None] + (images @ h)[None, None]
    distances = np.linalg.norm(vectors, axis=-1)
    i, j, k = np.nonzero((distances < cutoff) & (distances > 1e-6))
    shifts = jnp.asarray(images[k], float)

    def energy(params, system, solver):
        positions, cell = system.positions, system.cell
        vectors = positions[j] - positions[i] + shifts @ cell
        inverse = params["size"] ** 2 / jnp.sum(vectors * vectors, axis=1)
        pairs = inverse**6 - (inverse**3 if power else 0.0)
        charges = params["charge"] * signs
        return 2.0 * params["epsilon"] * jnp.sum(pairs) + ewald.energy(solver, positions, cell, charges)

    return energy, solver
