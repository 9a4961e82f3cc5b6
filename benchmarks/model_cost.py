"""Operations and memory of energy and forces of 192 atoms of water, as XLA counts them, for the models of docs/howto.

    python benchmarks/model_cost.py

Cutoff 4.5 Å, no long-range part, float32; the table of docs/howto/mace.md.
"""

from dataclasses import replace

import jax
from common import shared

from lesjax import System, io
from lesjax.models import CACEConfig, ModelConfig, Potential
from lesjax.models.mace import MACEConfig


CUTOFF, ELEMENTS = 4.5, (1, 8)
SHAPES = {"n_radial": 8, "n_embedding": 3, "max_l": 3, "max_nu": 3, "messages": (("Bchi",),), "bchi_shared": False}


def main() -> None:
    atoms = io.read(shared("data/water/rpbe_d3_40.xyz"))[0]
    system = jax.device_put(System.from_ase(atoms, cutoff=CUTOFF))
    neighbors = float(system.neighbor_mask.sum() / system.atom_mask.sum())
    models = {"cace as in les": CACEConfig(ELEMENTS, CUTOFF, **SHAPES)} | {
        f"mace {irreps}": MACEConfig(ELEMENTS, CUTOFF, hidden_irreps=irreps, avg_num_neighbors=neighbors)
        for irreps in ("64x0e", "128x0e", "128x0e+128x1o")
    }
    for name, short_range in models.items():
        potential = Potential.create(ModelConfig(short_range, None), 0)

        def energy(positions, system, potential=potential):
            return potential.energy(replace(system, positions=positions), None)

        compiled = jax.jit(jax.value_and_grad(energy)).lower(system.positions, system).compile()
        costs, memory = compiled.cost_analysis(), compiled.memory_analysis()
        assert costs is not None
        assert memory is not None
        print(f"{name:22} {costs['flops'] / 1e9:6.2f} 10⁹ operations {memory.temp_size_in_bytes / 1e6:6.0f} MB")


if __name__ == "__main__":
    main()
