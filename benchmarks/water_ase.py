"""Energy and forces of CACE-LES water through ASE, and the share of the long-range part.

    python benchmarks/water_ase.py --json benchmarks/results/water_ase.json

The model has the shape of the published water model (cutoff 4.5 Å, 6 Bessel functions, 12 radial channels, embedding
2, l 3, nu 3, no message passing; sigma 1, k_cutoff pi), with random weights: speed does not depend on them. Each
call moves the atoms, so neighbour lists, transfer and ASE's own work are included. The times of the PyTorch code are
not measured here, see `common.TORCH_TIMINGS`.
"""

import argparse

import ase
import numpy as np
from common import TORCH_TIMINGS, interleaved, shared, write_json

from lesjax import io
from lesjax.dynamics import LesCalculator
from lesjax.models import CACEConfig, LongRangeConfig, ModelConfig, Potential


# published PyTorch code through ASE, see `TORCH_TIMINGS`, ms
REFERENCE_MS = {192: 68.0, 1536: 518.0, 12288: 15_400.0}


def model(long_range: bool) -> Potential:
    """Model of the published shape with random weights."""
    cace = CACEConfig(elements=(1, 8), cutoff=4.5, n_bessel=6, n_radial=12, n_embedding=2, max_l=3, max_nu=3)
    les = LongRangeConfig(sigma=1.0, k_cutoff=float(np.pi)) if long_range else None
    return Potential.create(ModelConfig(cace, les))


def moving(atoms: ase.Atoms, potential: Potential):
    """Return a function that displaces the atoms a little and returns their forces."""
    atoms = atoms.copy()
    atoms.calc = LesCalculator(potential)
    start = atoms.positions.copy()
    rng = np.random.default_rng(0)

    def call() -> np.ndarray:
        atoms.positions = start + rng.normal(scale=0.01, size=start.shape)
        atoms.get_potential_energy()
        return atoms.get_forces()

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default=None)
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    water = io.read(shared("data/water/rpbe_d3_40.xyz"))[0]
    rows = []
    for repeat in (1, 2, 4):
        atoms = water * (repeat, repeat, repeat)
        functions = {"les": moving(atoms, model(True)), "short_range": moving(atoms, model(False))}
        times, first = interleaved(functions, arguments.rounds)
        kernels = {name: kernel(atoms, model(name == "les")) for name in ("les", "short_range")}
        inside, _ = interleaved(kernels, arguments.rounds)
        reference = REFERENCE_MS[len(atoms)]
        rows.append(
            {
                "n_atoms": len(atoms),
                "ase_ms": times["les"],
                "ase_short_range_ms": times["short_range"],
                "reference_torch_ms": reference,
                "speedup": round(reference / times["les"], 2),
                "energy_and_forces_ms": inside["les"],
                "energy_and_forces_short_range_ms": inside["short_range"],
                "long_range_share": round(inside["les"] / inside["short_range"] - 1.0, 3),
                "compile_s": first["les"],
            }
        )
        print(rows[-1], flush=True)
    if arguments.json:
        write_json(arguments.json, {"dtype": "float32", "reference_torch": TORCH_TIMINGS, "rows": rows})


def kernel(atoms: ase.Atoms, potential: Potential):
    """Return only the compiled energy and forces, on arrays on the device."""
    import jax

    from lesjax.models.potential import predict
    from lesjax.system import System

    system = jax.tree.map(jax.numpy.asarray, System.from_ase(atoms, cutoff=potential.cutoff))
    solver = jax.tree.map(jax.numpy.asarray, potential.make_solver(system))
    compiled = jax.jit(lambda p, s, k: predict(p, s, k, with_stress=False))
    return lambda: compiled(potential, system, solver)


if __name__ == "__main__":
    main()
