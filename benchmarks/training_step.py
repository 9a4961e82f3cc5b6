"""Time of one training step, compared with the published PyTorch code.

    python benchmarks/training_step.py --json benchmarks/results/training_step.json

The times of the PyTorch code are not measured here, see `common.TORCH_TIMINGS`.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from common import TORCH_TIMINGS, interleaved, shared, write_json

from lesjax import io
from lesjax.models import CACEConfig, LatentCharges, LongRangeConfig, ModelConfig, Potential
from lesjax.training.config import TrainingSection
from lesjax.training.data import make_dataset, reference_energies
from lesjax.training.initialize import initial_state
from lesjax.training.step import adam_step, update_rule


PEPTIDE = {"n_radial": 12, "n_embedding": 4}
# reference_ms: one step of the published PyTorch code, see `TORCH_TIMINGS`
CASES = {
    "dipeptides_l4_nu3_bchi": {
        "file": "data/dipeptides/train.xyz",
        "frames": 4,
        "reference_ms": 1380.0,
        "short_range": {
            "cutoff": 4.5, "max_l": 4, "max_nu": 3, "messages": (("Bchi",),), "bchi_shared": False, **PEPTIDE,
        },
        "long_range": LongRangeConfig(),
    },
    "dipeptides_l2_nu2": {
        "file": "data/dipeptides/train.xyz",
        "frames": 4,
        "reference_ms": 110.0,
        "short_range": {"cutoff": 5.5, "max_l": 2, "max_nu": 2, **PEPTIDE},
        "long_range": LongRangeConfig(),
    },
    "dimers_CC_epoch": {
        "file": "data/dimers/CC_train.xyz",
        "frames": 10,
        "reference_ms": 447.0,
        "short_range": {
            "cutoff": 5.0, "cutoff_p": 5.0, "max_l": 2, "max_nu": 2, "n_radial": 8, "n_embedding": 3,
            "messages": (("M", "Ar", "Bchi"),),
        },
        "long_range": LongRangeConfig(
            LatentCharges(n_channels=4, hidden=(24, 12)), separate_features=True, k_cutoff=2 * np.pi / 3
        ),
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default=None)
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    results = {}
    for name, case in CASES.items():
        frames = io.read(shared(case["file"]))[: case["frames"]]
        labels = [io.labels(atoms) for atoms in frames]
        elements = tuple(sorted({int(z) for atoms in frames for z in atoms.numbers}))
        config = ModelConfig(
            short_range=CACEConfig(elements=elements, **case["short_range"]),
            long_range=case["long_range"],
            reference_energies=reference_energies(elements, frames, labels),
        )
        section = TrainingSection()
        # one bucket: the published code takes the four structures in one step as well
        (bucket,) = make_dataset(config, frames, labels, max_buckets=1).buckets
        rows, mask = jnp.arange(len(frames)), jnp.ones(len(frames), bool)
        weights = {"energy": 1.0, "forces": 1.0}
        rate = jnp.asarray(1e-4, jnp.float32)
        state = initial_state(section, Potential.create(config))

        def run() -> jax.Array:
            nonlocal state
            state, value = adam_step(update_rule(section), state, bucket, rows, mask, rate, weights)  # noqa: B023
            return value

        times, first = interleaved({"step": run}, arguments.rounds)
        results[name] = {
            "ms": times["step"],
            "compile_s": first["step"],
            "reference_torch_ms": case["reference_ms"],
            "speedup": round(case["reference_ms"] / times["step"], 2),
            "padded_shape": list(bucket.system.neighbors.shape),
        }
        print(name, results[name], flush=True)
    if arguments.json:
        write_json(arguments.json, {"dtype": str(rate.dtype), "reference_torch": TORCH_TIMINGS, "cases": results})


if __name__ == "__main__":
    main()
