"""Reweighted averages and gradients: harmonic oscillators, dipoles in a field, an ideal gas at constant pressure.

All ensembles are drawn from their exact distributions, so that the only errors are those of sampling, which the
jackknife over blocks gives.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lesjax import fitting, units
from lesjax.fitting.reweighting import frame_energies
from lesjax.properties import block_error


KT = units.BOLTZMANN * 300.0
X64 = jax.config.jax_enable_x64


def asarray(values):
    return jnp.asarray(values, float)


def frames_of(positions, edges=10.0):
    cells = np.broadcast_to(np.asarray(edges, float)[..., None, None] * np.eye(3), (len(positions), 3, 3))
    return fitting.Frame(asarray(positions), asarray(cells))


def springs(params, frame, solver):
    return 0.5 * params["k"] * jnp.sum(frame.positions**2)


def draw_springs(k, n_frames, rng, n_atoms=4):
    return frames_of(math.sqrt(KT / k) * rng.normal(size=(n_frames, n_atoms, 3)))


SQUARE = fitting.Observable(lambda params, frame, solver: jnp.mean(frame.positions**2))


def spring_average(trajectory):
    return lambda k: fitting.ensemble_averages(springs, {"k": k}, trajectory, {"x2": SQUARE})[0]["x2"]


def test_mean_square_of_oscillators_and_its_derivative_by_the_spring():
    k0, k = 2.0, 2.1
    frames = draw_springs(k0, 4000, np.random.default_rng(0))
    trajectory = fitting.make_trajectory(springs, {"k": asarray(k0)}, frames, temperature=300.0)
    found, slope = jax.jit(jax.value_and_grad(spring_average(trajectory)))(asarray(k))
    # the same by hand, for the error bars
    squares = jnp.sum(frames.positions**2, axis=(1, 2))

    def by_hand(squares):
        def average(k):
            return jnp.sum(jax.nn.softmax(-0.5 * (k - k0) / KT * squares) * squares) / 12.0

        return jnp.stack(jax.value_and_grad(average)(asarray(k)))

    errors = block_error(squares, by_hand)
    assert np.allclose([found, slope], by_hand(squares), rtol=1e-9 if X64 else 2e-3)
    for value, error, exact, limit in zip((found, slope), errors, (KT / k, -KT / k**2), (0.01, 0.03), strict=True):
        assert abs(value - exact) < 3.0 * error
        assert error < limit * abs(exact)


def test_gradient_at_the_drawn_parameters_is_the_covariance():
    frames = draw_springs(2.0, 500, np.random.default_rng(1))
    trajectory = fitting.make_trajectory(springs, {"k": asarray(2.0)}, frames, temperature=300.0)
    slope = jax.grad(spring_average(trajectory))(asarray(2.0))
    squares = np.sum(np.asarray(frames.positions) ** 2, axis=(1, 2))
    assert slope == pytest.approx(-np.var(squares) / (24.0 * KT), rel=1e-9 if X64 else 1e-4)


def langevin_function(a):
    return 1.0 / math.tanh(a) - 1.0 / a


DISTANCE, N_DIPOLES, VOLUME = 1.2, 5, 1000.0


def dipoles_in_field(rng, scale, field, n_frames):
    """Pairs of charges ±scale e of fixed distance, their directions drawn from the exact distribution in a field."""
    a = scale * DISTANCE * field / KT
    u = rng.uniform(size=(n_frames, N_DIPOLES))
    cosine = 2.0 * u - 1.0 if a == 0 else np.log(np.exp(-a) + u * (np.exp(a) - np.exp(-a))) / a
    azimuth = rng.uniform(0.0, 2.0 * np.pi, size=u.shape)
    sine = np.sqrt(1.0 - cosine**2)
    directions = np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), cosine], axis=-1)
    centres = rng.uniform(0.0, 10.0, size=directions.shape)
    ends = [centres - 0.5 * DISTANCE * directions, centres + 0.5 * DISTANCE * directions]
    return frames_of(np.concatenate(ends, axis=1))


def charges(scale, frame, solver):
    n = frame.positions.shape[0] // 2
    return scale * jnp.concatenate([-jnp.ones(n, frame.positions.dtype), jnp.ones(n, frame.positions.dtype)])


def test_dipole_in_a_field_and_its_derivative_by_the_charge_scale():
    field, scale = 0.04, 1.05

    def energy(scale, frame, solver):
        return -field * jnp.sum(charges(scale, frame, solver) * frame.positions[:, 2])

    frames = dipoles_in_field(np.random.default_rng(2), 1.0, field, 3000)
    trajectory = fitting.make_trajectory(energy, asarray(1.0), frames, temperature=300.0, batch_size=100)

    def average(scale, trajectory=trajectory):
        observables = {"dipole": fitting.dipole_moment(charges)}
        return fitting.ensemble_averages(energy, scale, trajectory, observables, batch_size=100)[0]["dipole"][2]

    found = np.array(jax.value_and_grad(average)(asarray(scale)))
    a = scale * DISTANCE * field / KT
    slope = 1.0 / a**2 - 1.0 / math.sinh(a) ** 2
    moment = N_DIPOLES * DISTANCE * np.array([scale * langevin_function(a), langevin_function(a) + a * slope])
    lengths = np.einsum("n,tn->t", np.repeat([-1.0, 1.0], N_DIPOLES), frames.positions[:, :, 2])

    def by_hand(lengths):
        def average(scale):
            return jnp.sum(jax.nn.softmax((scale - 1.0) * field / KT * lengths) * scale * lengths)

        return jnp.stack(jax.value_and_grad(average)(asarray(scale)))

    errors = np.asarray(block_error(asarray(lengths), by_hand))
    assert np.allclose(found, by_hand(asarray(lengths)), rtol=1e-9 if X64 else 1e-3)
    assert np.all(np.abs(found - moment) < 3.0 * errors)
    assert np.all(errors < 0.02 * moment)


def test_dielectric_constant_of_an_ideal_gas_of_dipoles_and_its_derivative():
    frames = dipoles_in_field(np.random.default_rng(3), 1.0, 0.0, 3000)

    def energy(scale, frame, solver):
        return 0.0 * scale * jnp.sum(frame.positions)

    trajectory = fitting.make_trajectory(energy, asarray(1.0), frames, temperature=300.0, batch_size=100)
    observables = {"epsilon": fitting.dielectric_constant(charges, 300.0, epsilon_infinity=1.5)}

    def epsilon(scale):
        return fitting.ensemble_averages(energy, scale, trajectory, observables, batch_size=100)[0]["epsilon"]

    found, slope = jax.value_and_grad(epsilon)(asarray(0.9))
    exact = 1.5 + 1.5 * N_DIPOLES * (0.9 * DISTANCE) ** 2 / (3.0 * units.VACUUM_PERMITTIVITY * VOLUME * KT)
    # relative spread of the square of a vector in 3 t dimensions
    error = (exact - 1.5) * math.sqrt(2.0 / (3.0 * 3000))
    assert abs(found - exact) < 3.0 * error
    assert slope == pytest.approx(2.0 * (float(found) - 1.5) / 0.9, rel=1e-9 if X64 else 1e-4)


N_GAS, PRESSURE = 6, 2000.0


@pytest.fixture(scope="module")
def gas():
    """Frames of an ideal gas at constant pressure, for an energy of a pressure more: U = a V."""
    rng = np.random.default_rng(4)
    volumes = rng.gamma(N_GAS + 1.0, KT / (PRESSURE * units.BAR), size=4000)
    edges = volumes ** (1.0 / 3.0)
    return frames_of(edges[:, None, None] * rng.uniform(size=(4000, N_GAS, 3)), edges), volumes


def more_pressure(extra, frame, solver):
    return extra * units.BAR * jnp.abs(jnp.linalg.det(frame.cell))


VOLUME_OF_FRAME = fitting.Observable(lambda params, frame, solver: jnp.abs(jnp.linalg.det(frame.cell)))


def test_volume_follows_a_parameter_and_the_pressure(gas):
    frames, volumes = gas
    make = fitting.make_trajectory
    trajectory = make(more_pressure, asarray(0.0), frames, temperature=300.0, pressure=PRESSURE, batch_size=500)
    observables = {"volume": VOLUME_OF_FRAME, "pressure": fitting.pressure(more_pressure, 300.0)}

    def average(extra, name, **state):
        values, _ = fitting.ensemble_averages(more_pressure, extra, trajectory, observables, batch_size=500, **state)
        return values[name]

    # at p + a, twice: by the energy, and by the pressure
    exact = (N_GAS + 1.0) * KT / (1.1 * PRESSURE * units.BAR)
    error = 1.5 * exact / math.sqrt((N_GAS + 1.0) * 4000)
    found, slope = jax.value_and_grad(average)(asarray(0.1 * PRESSURE), "volume")
    assert abs(found - exact) < 3.0 * error
    assert slope == pytest.approx(-exact / (1.1 * PRESSURE), rel=0.1)
    by_pressure, by_slope = jax.value_and_grad(lambda p: average(asarray(0.0), "volume", pressure=p))(
        asarray(1.1 * PRESSURE)
    )
    assert by_pressure == pytest.approx(float(found), rel=1e-9 if X64 else 1e-4)
    assert by_slope == pytest.approx(float(slope), rel=1e-9 if X64 else 1e-3)
    # another temperature: at constant pressure as much as 1 / 1.1 of the pressure
    warmer = average(asarray(0.0), "volume", temperature=330.0)
    assert abs(warmer - 1.1 * volumes.mean()) < 6.0 * error
    # the virial gives back the pressure of the barostat, whatever the energy
    for extra in (0.0, 0.1 * PRESSURE):
        assert average(asarray(extra), "pressure") == pytest.approx(PRESSURE, rel=0.03)


@pytest.mark.skipif(not X64, reason="finite differences need float64")
def test_gradients_against_finite_differences():
    """Energy, charges, temperature and pressure at once, through weights and observables."""
    rng = np.random.default_rng(5)
    edges = rng.uniform(6.0, 6.5, size=30)
    frames = frames_of(rng.normal(size=(30, 4, 3)), edges)

    def energy(params, frame, solver):
        r2 = jnp.sum((frame.positions[:, None] - frame.positions[None]) ** 2, axis=-1)
        strain = jnp.trace(frame.cell) / 18.0
        return 0.01 * params["a"] * jnp.sum(jnp.exp(-r2)) * strain**2 + 0.02 * params["q"] ** 2 * jnp.sum(r2 / (1 + r2))

    def of_charge(params, frame, solver):
        return params["q"] * jnp.asarray([1.0, -1.0, 1.0, -1.0])

    start = {"a": asarray(1.0), "q": asarray(0.5)}
    trajectory = fitting.make_trajectory(energy, start, frames, temperature=300.0, pressure=1.0)
    observables = {
        "epsilon": fitting.dielectric_constant(of_charge, 300.0),
        "pressure": fitting.pressure(energy, 300.0),
        "dipole": fitting.dipole_moment(of_charge),
        "density": fitting.density([1.0, 2.0, 3.0, 4.0]),
        "born": fitting.born_effective_charges(of_charge, (True, True, True), epsilon_infinity=4.0),
    }

    def everything(vector):
        params = {"a": vector[0], "q": vector[1]}
        state = {"temperature": 300.0 * vector[2], "pressure": 1e3 * vector[3]}
        values, _ = fitting.ensemble_averages(energy, params, trajectory, observables, **state)
        return jnp.concatenate([jnp.ravel(values[name]) for name in observables])

    point = asarray([1.1, 0.55, 1.05, 1.0])
    jacobian = jax.jit(jax.jacrev(everything))(point)
    evaluate, h = jax.jit(everything), 1e-4
    numeric = np.stack([(evaluate(point + h * e) - evaluate(point - h * e)) / (2 * h) for e in np.eye(4)], axis=1)
    scale = np.maximum(np.abs(numeric).max(axis=1, keepdims=True), 1e-12)
    assert np.all(np.abs(jacobian - numeric) < 1e-6 * scale)
    assert np.count_nonzero(np.abs(numeric[0]) > 1e-3 * scale[0]) == 4
    born = fitting.ensemble_averages(energy, start, trajectory, {"born": observables["born"]})[0]["born"]
    np.testing.assert_allclose(born, 2.0 * np.array(of_charge(start, None, None))[:, None, None] * np.eye(3), atol=1e-6)


def test_effective_fraction_counts_frames():
    assert fitting.effective_fraction(asarray([0.25] * 4)) == pytest.approx(1.0)
    assert fitting.effective_fraction(asarray([0.5, 0.0, 0.5, 0.0])) == pytest.approx(0.5)
    assert fitting.effective_fraction(asarray([0.0, 1.0, 0.0, 0.0])) == pytest.approx(0.25)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_do_not_matter(batch_size):
    frames = draw_springs(2.0, 7, np.random.default_rng(6))
    found = frame_energies(springs, {"k": asarray(2.0)}, frames, batch_size=batch_size)
    assert np.allclose(found, np.sum(np.asarray(frames.positions) ** 2, axis=(1, 2)), rtol=1e-6)


def test_errors_of_trajectories():
    frames = draw_springs(2.0, 5, np.random.default_rng(7))
    k = {"k": asarray(2.0)}

    def make(frames, energy=springs, temperature=300.0, **given):
        return fitting.make_trajectory(energy, k, frames, temperature=temperature, **given)

    with pytest.raises(ValueError, match="`frames` is empty"):
        make(jax.tree.map(lambda x: x[:0], frames))
    with pytest.raises(ValueError, match=r"arrays of lengths \[3, 5\]"):
        make({"positions": frames.positions, "cell": frames.cell[:3]})
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        make(frames, temperature=0.0)
    with pytest.raises(ValueError, match="energies of 1 of 5 frames are not finite, first that of frame 3"):
        make(fitting.Frame(frames.positions.at[3, 0, 0].set(jnp.nan), frames.cell))
    short = fitting.Observable(lambda frames: np.zeros(4), fixed=True)
    with pytest.raises(ValueError, match=r"'short' gave an array of shape \(4,\) for 5 frames"):
        make(frames, observables={"short": short})
    infinite = fitting.Observable(lambda frames: np.full(5, np.inf), fixed=True)
    with pytest.raises(ValueError, match="'infinite' is not finite"):
        make(frames, observables={"infinite": infinite})
    trajectory = make(frames)
    with pytest.raises(ValueError, match="trajectory has 5 frames"):
        fitting.boltzmann_weights(trajectory.energies[:3], trajectory)
    with pytest.raises(ValueError, match="one of constant volume"):
        fitting.boltzmann_weights(trajectory.energies, trajectory, pressure=1.0)
    density = {"density": fitting.density([1.0])}
    with pytest.raises(ValueError, match="'density' is computed on the host"):
        jax.jit(lambda t: fitting.ensemble_averages(springs, k, t, density)[0])(trajectory)
    with pytest.raises(ValueError, match="not a function of the parameters"):
        fitting.density([1.0]).at(frames)
    with pytest.raises(ValueError, match=r"property of many frames.*`Reweighting`"):
        fitting.dielectric_constant(charges, 300.0).at(frames)


def test_fixed_observables_of_frames():
    """Density of argon-like masses, and g(r) of two atoms at 3 Å in every second frame."""
    positions = np.zeros((4, 2, 3))
    positions[::2, 1, 0], positions[1::2, 1, 0] = 3.0, 4.5
    frames = frames_of(positions, np.array([10.0, 10.0, 10.0, 20.0]))
    observables = {
        "density": fitting.density([39.95, 39.95]),
        "rdf": fitting.radial_distribution("ArNe", "Ar", "Ne", cutoff=5.0, width=1.0),
    }

    def energy(params, frame, solver):
        return params * frame.positions[1, 0]

    trajectory = fitting.make_trajectory(energy, asarray(0.0), frames, temperature=300.0, observables=observables)
    found, weights = fitting.ensemble_averages(energy, asarray(0.02), trajectory, observables)
    density = 2 * 39.95 * 1.66053906660 / np.array([1e3, 1e3, 1e3, 8e3])
    assert found["density"] == pytest.approx(np.sum(np.asarray(weights) * density), rel=1e-6)
    shell = 4.0 / 3.0 * np.pi * np.array([4.0**3 - 3.0**3, 5.0**3 - 4.0**3])
    w = np.asarray(weights)
    expected = [(w[0] + w[2]) * 1e3 / shell[0], w[1] * 1e3 / shell[1] + w[3] * 8e3 / shell[1]]
    assert np.allclose(found["rdf"], [0.0, 0.0, 0.0, *expected], rtol=1e-5)
    ratio = math.exp(-0.02 * 1.5 / KT)
    assert w[1] / w[0] == pytest.approx(ratio, rel=1e-5)
