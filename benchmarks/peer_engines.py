"""The sums that benchmarks/peers.py compares, each in its own process: tuned, built, run on request.

All compute the same quantity: energy and forces of Gaussian charges of width σ in a periodic cube, in float32, without
self-interaction. lesjax is called through its public interface. jax-pme and torch-pme split 1/r into a short and a long
range; their long range for smearing = σ is the sum of lesjax, so they get no pairs: the k-space part and its self-term
remain. Distances are in Å, energies in eV.
"""

import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np
from engine_process import open_replies, resident, serve


COULOMB = 14.399645478425667  # eV Å, as lesjax.units, which workers without jax do not import
SIGMA = 1.0
TARGET = 5e-4  # relative error of the forces that every engine is tuned to
FINEST = 0.09  # smallest mesh spacing tried, Å

# name: (kind, largest number of atoms it is tried with). Sums over atoms times k-vectors end where memory does.
ENGINES = {
    "lesjax direct": ("lesjax", 30_000),
    "lesjax mesh": ("lesjax", 10**9),
    "lesjax nufft": ("lesjax", 10**9),
    "jax-pme Ewald": ("jax-pme", 1_000),
    "jax-pme PME": ("jax-pme", 10**9),
    "jax-pme P3M": ("jax-pme", 10**9),
    "jax-pme P3M, any grid": ("jax-pme", 10**9),  # its own planning pads to powers of two; here the grid is handed in
    "torch-pme Ewald": ("torch-pme", 1_000),
    "torch-pme PME": ("torch-pme", 10**9),
    "torch-pme P3M": ("torch-pme", 10**9),
}
BATCHED = [name for name in ENGINES if name not in ("torch-pme PME", "torch-pme P3M")]  # these two refuse batches
Call = Callable[[], tuple[np.ndarray, np.ndarray]]


def candidates(engine: str, edge: float) -> list[list[dict]]:
    """Settings to choose from: lists in which the error falls and the cost grows."""
    family, method = engine.split(" ", 1)
    if family == "lesjax":
        return [[{"accuracy": float(f"{a:.2g}")} for a in np.geomspace(8e-3, 5e-5, 16)]]
    if method == "Ewald":
        return [[{"k_max": round(k, 2)} for k in np.arange(2.5, 5.01, 0.1)]]
    nodes = {"jax-pme PME": [4], "torch-pme PME": [4, 5, 6, 7]}.get(engine, [4, 5])
    sizes = [n for n in (8, 16, 32, 64, 128, 256, 512) if edge / n > FINEST]
    if method.endswith("any grid"):
        sizes = [n for n in range(8, 512, 2) if edge / n > FINEST and _is_smooth(n)]
    return [[{"nodes": node, "mesh": n} for n in sizes] for node in nodes]


def build(engine: str, data: dict, settings: dict) -> Call:
    """Return a function without arguments that returns energies and forces; of a batch if positions have three axes."""
    family, method = engine.split(" ", 1)
    if family == "lesjax":
        return _lesjax(method, data, settings)
    return (_jax_pme if family == "jax-pme" else _torch_pme)(method, data, settings)


def _lesjax(method: str, data: dict, settings: dict) -> Call:
    import jax

    from lesjax import ewald

    cell = np.eye(3, dtype="float32") * data["edge"]
    solver = ewald.make_solver(
        cell, True, n_atoms=data["positions"].shape[-2], sigma=SIGMA, accuracy=settings["accuracy"], method=method
    )
    function = jax.value_and_grad(lambda solver, cell, r, q: ewald.energy(solver, r, cell, q), 2)
    if data["positions"].ndim == 3:
        function, n = jax.vmap(function), len(data["positions"])
        solver, cell = ewald.stack_solvers([solver] * n), np.stack([cell] * n)
    arguments = jax.device_put((solver, cell, data["positions"], data["charges"]))
    compiled = jax.jit(function)

    def call():
        energy, gradient = jax.block_until_ready(compiled(*arguments))
        return energy, -gradient

    return call


def _jax_pme(method: str, data: dict, settings: dict) -> Call:
    import jax
    import jax.numpy as jnp
    import jaxpme
    from jaxpme.kspace import get_kgrid_ewald, get_kgrid_mesh

    cell = np.eye(3, dtype="float32") * data["edge"]
    if method == "Ewald":
        calculator = jaxpme.Ewald(prefactor=COULOMB)
        kgrid = get_kgrid_ewald(cell, np.pi / settings["k_max"])
    else:
        kind = jaxpme.PME if method == "PME" else jaxpme.P3M
        calculator = kind(prefactor=COULOMB, interpolation_nodes=settings["nodes"])
        n = settings["mesh"]
        # the spacing for which it plans n, a power of two
        kgrid = np.ones((n, n, n)) if "any" in method else get_kgrid_mesh(cell, 1.0001 * data["edge"] / (n / 2 - 1))
    no_pairs = (jnp.zeros(0, int), jnp.zeros(0, int), jnp.zeros((0, 3), int))
    kgrid = np.zeros(kgrid.shape, "float32")  # its shape counts

    def function(charges, positions, cell, kgrid):
        return calculator.energy_forces(charges, cell, positions, *no_pairs, kgrid, SIGMA)

    if data["positions"].ndim == 3:
        function = jax.vmap(function, (0, 0, None, None))
    arguments = [jnp.asarray(x) for x in (data["charges"], data["positions"], cell, kgrid)]
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*arguments))


def _torch_pme(method: str, data: dict, settings: dict) -> Call:
    import torch
    import torchpme
    from torchpme.lib import generate_kvectors_for_ewald

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(settings.get("threads", 1))
    potential = torchpme.CoulombPotential(smearing=SIGMA, prefactor=COULOMB)
    if method == "Ewald":
        # as in jax-pme, what it plans for a wavelength reaches to half of the k-vectors of its length
        calculator = torchpme.EwaldCalculator(potential, lr_wavelength=np.pi / settings["k_max"])
    else:
        kind = torchpme.PMECalculator if method == "PME" else torchpme.P3MCalculator
        spacing = 2 * float(data["edge"]) / (settings["mesh"] - 1.01)  # for which it plans a power of two
        calculator = kind(potential, mesh_spacing=spacing, interpolation_nodes=settings["nodes"])
    calculator.to(device)
    positions, charges = (torch.tensor(data[key], device=device) for key in ("positions", "charges"))
    charges = charges.unsqueeze(-1)
    cell = torch.eye(3, device=device) * float(data["edge"])
    pairs, distances = torch.zeros((0, 2), dtype=torch.int64, device=device), torch.zeros(0, device=device)
    positions.requires_grad_()
    if positions.ndim == 3:
        n = int(np.ceil(settings["k_max"] * float(data["edge"]) / np.pi))
        kvectors = generate_kvectors_for_ewald(ns=torch.tensor([n] * 3, device=device), cell=cell)
        reciprocal = lambda q, r: calculator._compute_kspace(q, cell, r, kvectors=kvectors)  # noqa: E731
        potentials = torch.func.vmap(reciprocal)
    else:
        potentials = lambda q, r: calculator(q, cell, r, pairs, distances)  # noqa: E731

    def call():
        positions.grad = None
        energies = (charges * potentials(charges, positions)).sum((-1, -2))
        energies.sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return energies.detach().cpu(), -positions.grad.cpu()

    return call


def reference(data: dict) -> tuple[np.ndarray, np.ndarray]:
    """Energy and forces in float64, converged to 1e-7: the direct sum of lesjax, tested against other codes."""
    import jax
    import jax.numpy as jnp

    from lesjax import ewald

    assert jax.config.jax_enable_x64
    cell = np.eye(3) * np.float64(data["edge"])
    solver = ewald.make_solver(
        cell, True, n_atoms=data["positions"].shape[-2], sigma=SIGMA, accuracy=1e-7, method="direct"
    )
    function = jax.jit(jax.value_and_grad(ewald.energy, 1))
    positions, charges = (jnp.asarray(data[key], float) for key in ("positions", "charges"))
    if positions.ndim == 2:
        energy, gradient = function(solver, positions, jnp.asarray(cell), charges)
    else:
        results = [function(solver, r, jnp.asarray(cell), q) for r, q in zip(positions, charges, strict=True)]
        energy, gradient = (jnp.stack(x) for x in zip(*results, strict=True))
    return np.asarray(energy), -np.asarray(gradient)


def errors(result: tuple, data: dict) -> dict:
    """Relative errors of energies and forces, over the whole batch for a batch."""
    energy, forces = (np.asarray(x, "float64") for x in result)
    relative = {
        "energy_error": np.linalg.norm(energy - data["energy"]) / np.linalg.norm(data["energy"]),
        "forces_error": np.linalg.norm(forces - data["forces"]) / np.linalg.norm(data["forces"]),
    }
    return {key: float(f"{value:.2e}") for key, value in relative.items()}


def tune(engine: str, data: dict) -> dict:
    """Return the fastest of the cheapest settings that reach the target, or the most accurate ones if none does."""
    reached, missed = [], []
    for group in candidates(engine, float(data["edge"])):
        low, high = 0, len(group)  # the first that reaches it lies in between
        while low < high:
            middle = (low + high) // 2
            error = errors(build(engine, data, group[middle])(), data)["forces_error"]
            if error > TARGET:
                missed.append((error, group[middle]))
                low = middle + 1
                continue
            high = middle
        if high < len(group):
            reached.append((_median(build(engine, data, group[high])), group[high]))
    settings = min(reached or missed, key=lambda x: x[0])[1]
    if engine.startswith("torch"):
        # for small systems, or where another process has a core, several threads cost it a factor of up to 100
        options = [{**settings, "threads": threads} for threads in sorted({1, os.cpu_count() or 1})]
        settings = min(options, key=lambda option: _median(build(engine, data, option)))
    return {"settings": settings, "reached": bool(reached)}


def _median(call: Call) -> float:
    call()
    return float(np.median([_timed(call) for _ in range(3)]))


def _timed(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _is_smooth(n: int) -> bool:
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    return n == 1


def worker() -> None:
    """Run one engine on one system: tune, or build, run as standard input asks, and report the memory."""
    task, engine, path = sys.argv[1:4]
    replies, call, before = open_replies(), None, 0.0
    data = dict(np.load(path))
    try:
        if task == "reference":
            energy, forces = reference(data)
            np.savez(path, **{**data, "energy": energy, "forces": forces})
            reply = {}
        elif task == "tune":
            reply = tune(engine, data)
        else:
            settings = json.loads(sys.argv[4])
            build(engine, _small(data), candidates(engine, 8.0)[0][-1])()  # libraries loaded, threads started
            before = resident()
            call = build(engine, data, settings)
            start = time.perf_counter()
            result = call()
            first = time.perf_counter() - start
            once = min(_timed(call) for _ in range(2))
            reply = {**errors(result, data), "first_call_s": round(first, 3), "once": once}
    except (ImportError, ValueError, NotImplementedError) as error:
        reply = {"error": f"{type(error).__name__}: {error}"}
    serve(replies, reply, call, before)


def _small(data: dict) -> dict:
    """Return a few of the atoms in a cell of 8 Å."""
    return {"positions": data["positions"][..., :30, :], "charges": data["charges"][..., :30], "edge": np.float32(8.0)}


if __name__ == "__main__":
    worker()
