"""Planning on the host: what is refused, and that the accuracy asked for is the accuracy found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import ewald, response
from lesjax.ewald.arguments import check_arrays, check_geometry
from lesjax.ewald.solvers.periodic import _warn_of_empty_sum
from lesjax.ewald.sums import check_charges


CUBE = np.eye(3) * 8.0
COORDINATES = np.eye(4, 3)
SINGULAR = np.array([[8.0, 0.0, 0.0], [0.0, 8.0, 0.0], [8.0, 8.0, 0.0]])


@pytest.mark.parametrize(
    ("cell", "pbc", "options", "message"),
    [
        (SINGULAR, True, {}, r"`cell` is singular: .*set pbc to False"),
        (np.zeros((3, 3)), True, {}, r"`cell` is singular"),
        (CUBE * np.nan, True, {}, r"`cell` must be finite numbers up to 1e\+06, got nan at \[0, 0\]"),
        (CUBE, (True, False, False), {}, r"`pbc` must .*, got \(True, False, False\): .*one periodic.*vacuum"),
        (CUBE, (True, True), {}, r"`pbc` must be True, False or three of them, got \(True, True\)"),
        (CUBE, True, {"sigma": 0.0}, r"`sigma` must be positive, got 0\.0"),
        (CUBE, True, {"sigma": -1.0}, r"`sigma` must be positive, got -1\.0"),
        (CUBE, False, {"sigma": float("nan")}, r"`sigma` must be positive, got nan"),
        (CUBE, True, {"k_cutoff": 3.0, "accuracy": 1e-3}, r"`k_cutoff` or `accuracy`, not both; got 3\.0 and 0\.001"),
        (CUBE, True, {"k_cutoff": 0.0}, r"`k_cutoff` must be positive"),
        (CUBE, True, {"k_cutoff": float("inf")}, r"`k_cutoff` must be positive, got inf"),
        (CUBE, True, {"accuracy": 0.0}, r"`accuracy` must lie from 1e-12 to 0\.5, got 0\.0"),
        (CUBE, True, {"accuracy": 1.0}, r"`accuracy` must lie from 1e-12 to 0\.5, got 1\.0"),
        (CUBE, True, {"n_atoms": 0}, r"`n_atoms` must be at least 1, got 0"),
        (CUBE, True, {"method": "open"}, r"`method` must be 'auto'.*'direct'.* got 'open'"),
        (CUBE, False, {"method": "direct"}, r"`method` must be 'auto'.*'open'.* got 'direct'"),
    ],
)
def test_errors(cell, pbc, options, message):
    with pytest.raises(ValueError, match=message):
        ewald.make_solver(cell, pbc, **{"n_atoms": 2, **options})


def test_cell_without_k_vectors_has_an_empty_sum():
    """Minus the self-energy is left, with all methods; it is said once."""
    _warn_of_empty_sum.cache_clear()
    positions, charges = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.5]]), np.array([1.0, -1.0])
    with pytest.warns(UserWarning, match=r"leaves no k-vector .*\[3\.0, 3\.0, 3\.0\] Å.*empty.*said once"):
        solver = ewald.make_solver(3.0 * np.eye(3), True, n_atoms=2, sigma=1.0, k_cutoff=2.0)
    for method in ("direct", "mesh"):
        solver = ewald.make_solver(3.0 * np.eye(3), True, n_atoms=2, sigma=1.0, k_cutoff=2.0, method=method)
        arguments = (jnp.asarray(positions), jnp.asarray(3.0 * np.eye(3)), jnp.asarray(charges))
        energy, gradient = jax.jit(jax.value_and_grad(ewald.energy, argnums=1))(solver, *arguments)
        np.testing.assert_allclose(energy, -ewald.self_energy(solver, arguments[2]), rtol=1e-6)
        assert np.all(np.abs(gradient) < 1e-6)


def test_charges_that_do_not_fit_are_refused():
    """The axes of atoms and channels the wrong way round, or one charge for all, would be broadcast.

    Here rather than through `energy`, whose annotations say the same while tests run.
    """
    positions, solver = jnp.asarray(np.eye(4, 3)), ewald.make_solver(CUBE, True, n_atoms=4)
    for charges in (jnp.ones((1, 4)), jnp.ones(1), jnp.ones((4, 1, 1))):
        with pytest.raises(ValueError, match=r"`charges` must have the shape \(4,\), or \(4, 'channels'\), .* got"):
            check_charges(solver, positions, jnp.asarray(CUBE), charges, None)
    with pytest.raises(ValueError, match=r"`atom_mask` must have the shape \(4,\) for 4 positions, got \(3,\)"):
        check_charges(solver, positions, jnp.asarray(CUBE), jnp.ones(4), jnp.ones(3, bool))


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_geometry(COORDINATES * (1 + 0j), CUBE), "`positions` must be real numbers, got complex numbers"),
        (
            lambda: check_geometry(COORDINATES * np.nan, CUBE),
            r"`positions` must be finite numbers up to 1e\+06, got nan",
        ),
        (lambda: check_geometry(COORDINATES[:, :2], CUBE), r"`positions` must have the shape \(n, 3\), got \(4, 2\)"),
        (lambda: check_geometry(None, CUBE), "`positions` must be an array of jax or numpy, got NoneType"),
        (lambda: check_geometry(COORDINATES, CUBE[:2]), r"`cell` must have the shape \(3, 3\)"),
        (lambda: check_geometry(COORDINATES, CUBE, np.ones(4)), "`atom_mask` must be an array of True and False, got"),
        (lambda: check_geometry(COORDINATES, None, [True] * 4), r"`atom_mask` must have the shape \(4,\)"),
        (lambda: check_arrays(charges=np.ones(4) * 1j), "`charges` must be real numbers, got complex numbers"),
        (lambda: check_arrays(charges=np.ones(4, bool)), "`charges` must be real numbers, got entries of type bool"),
        (lambda: check_arrays(charges=np.full(4, np.inf)), r"`charges` must be finite numbers up to 1e\+09, got inf"),
        (lambda: check_arrays(charges=[1.0, -1.0]), "`charges` must be an array of jax or numpy, got list"),
        (lambda: jax.jit(lambda q: check_arrays(charges=q))(jnp.ones(4, complex)), "got complex numbers"),
    ],
)
def test_arrays_of_the_sum_are_checked(check, message):
    with pytest.raises(ValueError, match=message):
        check()


def test_charges_that_are_not_finite_are_refused():
    solver = ewald.make_solver(CUBE, True, n_atoms=4)
    positions, cell, charges = jnp.asarray(COORDINATES), jnp.asarray(CUBE), jnp.full(4, jnp.nan)
    for function in (ewald.energy, ewald.potential, ewald.field):
        with pytest.raises(ValueError, match="`charges` must be finite numbers"):
            function(solver, positions, cell, charges)
    with pytest.raises(ValueError, match="`alpha` must be finite numbers"):
        response.one_shot_induction(solver, positions, cell, jnp.ones(4), alpha=charges)


def test_methods_follow_the_boundaries():
    assert isinstance(ewald.make_solver(CUBE, True, n_atoms=2), ewald.DirectSolver)
    assert isinstance(ewald.make_solver(CUBE, (True, True, True), n_atoms=2, method="direct"), ewald.DirectSolver)
    assert isinstance(ewald.make_solver(CUBE, False, n_atoms=2), ewald.OpenSolver)
    assert isinstance(ewald.make_solver(np.zeros((3, 3)), [False] * 3, n_atoms=2, method="open"), ewald.OpenSolver)
    slab = ewald.make_solver(CUBE, (True, False, True), n_atoms=2)
    assert slab.interaction == ewald.SlabCoulomb(1)
    again = ewald.make_solver(CUBE, (True, False, True), n_atoms=2, interaction=slab.interaction)
    assert again.interaction == slab.interaction
    with pytest.raises(ValueError, match=r"`pbc` must be \(True, False, True\) for the interaction SlabCoulomb"):
        ewald.make_solver(CUBE, (True, True, False), n_atoms=2, interaction=slab.interaction)


# ---- buckets


def test_solvers_that_differ_do_not_stack():
    """Never another sum than the one that was planned."""

    def plan(**options):
        return ewald.make_solver(CUBE, **{"pbc": True, "n_atoms": 2, **options})

    for other, message in (
        (plan(pbc=False), r"of one kind to be stacked, got \['DirectSolver', 'OpenSolver'\]: .*`plan_bucket`"),
        (plan(method="mesh"), r"of one kind .*\['DirectSolver', 'MeshSolver'\]"),
        (plan(interaction=ewald.Coulomb(background=True)), r"of one interaction .*background=False.*background=True"),
        (plan(accuracy=1e-6), r"of one size to be stacked"),
    ):
        with pytest.raises(ValueError, match=message):
            ewald.stack_solvers([plan(), other])


@pytest.mark.parametrize("method", ["auto", "direct", "mesh", "open"])
def test_a_bucket_has_one_kind_and_one_set_of_sizes(method):
    cells, n_atoms = [CUBE, 2 * CUBE, np.diag([12.0, 6.0, 9.0])], [64, 512, 80]
    pbc = method != "open"
    solvers = ewald.plan_bucket(cells, pbc, n_atoms=n_atoms, method=method, accuracy=1e-3)
    alone = [
        ewald.make_solver(cell, pbc, n_atoms=n, method="mesh" if method == "auto" else method, accuracy=1e-3)
        for cell, n in zip(cells, n_atoms, strict=True)
    ]
    kind = {"direct": ewald.DirectSolver, "open": ewald.OpenSolver}.get(method, ewald.MeshSolver)
    assert {type(solver) for solver in solvers} == {kind}
    assert jax.tree.structure(ewald.stack_solvers(solvers)) == jax.tree.structure(solvers[0])
    if method == "open":
        return
    for solver, own in zip(solvers, alone, strict=True):
        # the k-vectors are its own: what is added is masked
        assert solver.kmask.sum() == own.kmask.sum()
        assert solver.k_shape == tuple(np.max([s.k_shape for s in alone], axis=0))
        if kind is ewald.MeshSolver:
            assert solver.mesh == tuple(np.max([s.mesh for s in alone], axis=0))
            assert solver.order == max(s.order for s in alone)


def test_errors_of_buckets():
    with pytest.raises(ValueError, match=r"`n_atoms` must be one number for each of `cells`, got 1 for 2"):
        ewald.plan_bucket([CUBE, CUBE], True, n_atoms=[2])
    with pytest.raises(ValueError, match=r"`n_atoms` must be one number for each of `cells`, got 0 for 0"):
        ewald.plan_bucket([], True, n_atoms=2)
    with pytest.raises(ValueError, match=r"`cell` is singular"):
        ewald.plan_bucket([CUBE, SINGULAR], True, n_atoms=2)


# ---- while the cell drifts


@pytest.mark.parametrize("traced", [False, True], ids=["host", "traced"])
def test_still_valid(traced):
    """Up to 3 % longer and 10 % shorter along any direction, however the cell is turned."""
    cell = np.array([[11.0, 0.0, 0.0], [5.5, 10.0, 0.0], [-4.0, 3.0, 11.0]])
    solver = ewald.make_solver(cell, True, n_atoms=100)
    still_valid = jax.jit(type(solver).still_valid) if traced else type(solver).still_valid
    rng = np.random.default_rng(5)
    for _ in range(20):
        u, v = (np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(2))
        for stretches, expected in (
            ((1.0, 1.0, 1.0), True),
            ((1.0299, 1.0299, 1.0299), True),
            ((1.0299, 0.9001, 1.0), True),
            ((1.0, 0.9001, 0.9001), True),
            ((1.0301, 1.0, 1.0), False),
            ((1.0301, 1.0301, 0.95), False),
            ((1.1, 1.1, 1.1), False),
            ((0.8999, 1.0, 1.02), False),
            ((0.8, 0.8, 1.0), False),
            ((1.2, 0.5, 1.0), False),
        ):
            drifted = cell @ u @ np.diag(stretches) @ v
            assert bool(still_valid(solver, jnp.asarray(drifted) if traced else drifted)) is expected, stretches
    assert not still_valid(solver, cell * np.nan)
    # a sum with open boundaries has nothing to plan
    assert ewald.make_solver(cell, False, n_atoms=2).still_valid(2 * cell)


def test_still_valid_of_stacked_solvers():
    cells = np.stack([CUBE, 1.5 * CUBE])
    stacked = ewald.stack_solvers(ewald.plan_bucket(list(cells), True, n_atoms=2))
    assert stacked.still_valid(1.02 * cells)
    assert not stacked.still_valid(cells * [[[1.0]], [[1.04]]])


@pytest.mark.parametrize("sigma", [0.8, 1.5])
@pytest.mark.parametrize("accuracy", [1e-2, 1e-4])
def test_accuracy(sigma, accuracy):
    """The error for random charges is a few hundredths of the one asked for, which crystals reach."""
    if accuracy < 1e-3 and not jax.config.jax_enable_x64:
        pytest.skip("needs JAX_ENABLE_X64=1: the error is as small as float32 rounds")
    rng = np.random.default_rng(0)
    cell = np.array([[19.0, 0.0, 0.0], [2.0, 21.0, 0.0], [-3.0, 1.0, 20.0]])
    positions = jnp.asarray(rng.uniform(0, 1, (60, 3)) @ cell, float)
    charges = jnp.asarray(rng.normal(size=60), float)
    gradient = jax.jit(jax.grad(ewald.energy, 1))
    forces, exact = (
        gradient(
            ewald.make_solver(cell, True, n_atoms=60, sigma=sigma, accuracy=a),
            positions,
            jnp.asarray(cell, float),
            charges,
        )
        for a in (accuracy, 1e-7)
    )
    error = jnp.linalg.norm(forces - exact) / jnp.linalg.norm(exact)
    assert accuracy / 200 < error < accuracy / 10


@pytest.mark.skipif(not jax.config.jax_enable_x64, reason="the error is as small as float32 rounds")
@pytest.mark.parametrize(("name", "axes", "factor"), [("dipoles", (3,), 0.7), ("quadrupoles", (3, 3), 4.0)])
def test_accuracy_of_multipoles(name, axes, factor):
    """As the documentation has it, within a factor of three: their fields reach further in k."""
    rng = np.random.default_rng(0)
    positions, cell = jnp.asarray(rng.uniform(0, 20, (60, 3))), 20.0 * jnp.eye(3)
    moments = rng.normal(size=(60, *axes))
    if name == "quadrupoles":
        moments = moments + moments.swapaxes(1, 2)
        moments -= np.trace(moments, axis1=1, axis2=2)[:, None, None] / 3 * np.eye(3)

    def forces(accuracy):
        solver = ewald.make_solver(np.asarray(cell), True, n_atoms=60, accuracy=accuracy)
        energy = lambda x: ewald.energy(solver, x, cell, jnp.zeros(60), **{name: jnp.asarray(moments)})  # noqa: E731
        return jax.jit(jax.grad(energy))(positions)

    exact = forces(1e-8)
    error = jnp.linalg.norm(forces(1e-4) - exact) / jnp.linalg.norm(exact)
    assert factor / 3 < error / 1e-4 < factor * 3


def test_default_accuracy():
    default, explicit = (ewald.make_solver(CUBE, True, n_atoms=2, **options) for options in ({}, {"accuracy": 1e-4}))
    np.testing.assert_array_equal(default.kmask, explicit.kmask)
