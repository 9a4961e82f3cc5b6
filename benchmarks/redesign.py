"""Speed after the redesign over speed before it: two checkouts, called in turn, in one run.

    python benchmarks/redesign.py --before 61ed614 --json benchmarks/results/redesign.json

Each checkout has a process of its own, which imports lesjax from there; a round calls one after the other, so that what
else the machine does hits both. The ratio is that of the medians over all rounds; below one, the new code is faster.
Cases: energy and forces of the CACE-LES water model (`water_ase.py`) for 192, 1536 and 12 288 atoms, training steps of
four dipeptides and ten dimers (`training_step.py`), the first call of each, which is compilation, and `import lesjax`.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time


ROOT = pathlib.Path(__file__).resolve().parents[1]
SIZES = {"water_192": 1, "water_1536": 2, "water_12288": 4}
STEPS = ("dipeptides_l4_nu3_bchi", "dimers_CC_epoch")


def water(name: str):
    """Energy and forces of a water cell, compiled, with the neighbours and the plan that it starts with."""
    import jax
    import water_ase
    from common import shared

    from lesjax import System, io

    potential = water_ase.model(True)
    atoms = io.read(shared("data/water/rpbe_d3_40.xyz"))[0] * ((SIZES[name],) * 3)
    system = System.from_ase(atoms, cutoff=potential.cutoff)
    solver = jax.device_put(potential.make_solver(system))
    system = jax.device_put(system)

    def energy_of(positions, potential, system, solver):
        from dataclasses import replace

        return potential.energy(replace(system, positions=positions), solver)

    compiled = jax.jit(jax.value_and_grad(energy_of))
    return lambda: jax.block_until_ready(compiled(system.positions, potential, system, solver))


def training(name: str):
    """A training step, compiled; the state stays that of the start."""
    import jax
    import jax.numpy as jnp
    import training_step
    from common import shared

    from lesjax import io
    from lesjax.training.config import TrainingSection
    from lesjax.training.data import make_dataset, reference_energies
    from lesjax.training.initialize import initial_state

    case, section = training_step.CASES[name], TrainingSection()
    frames = io.read(shared(case["file"]))[: case["frames"]]
    labels = [io.labels(atoms) for atoms in frames]
    elements = tuple(sorted({int(z) for atoms in frames for z in atoms.numbers}))
    references = reference_energies(elements, frames, labels)
    rows, mask, rate = jnp.arange(len(frames)), jnp.ones(len(frames), bool), jnp.asarray(1e-4, jnp.float32)
    if hasattr(training_step, "make_step"):  # before the redesign
        from lesjax.models.config import CACEConfig, LongRangeConfig, ModelConfig
        from lesjax.models.potential import initial_parameters
        from lesjax.training.losses import Weights
        from lesjax.training.step import make_step

        config = ModelConfig(
            CACEConfig(elements=elements, **case["representation"]),
            LongRangeConfig(**case["long_range"]),
            reference_energies=references,
        )
        step, state = make_step(config, section), initial_state(section, initial_parameters(config, 0))
        weights = Weights(energy=1.0, forces=1.0)
    else:
        from functools import partial

        from lesjax.models import CACEConfig, ModelConfig, Potential
        from lesjax.training.step import adam_step, update_rule

        short_range = CACEConfig(elements=elements, **case["short_range"])
        config = ModelConfig(short_range, case["long_range"], reference_energies=references)
        step = partial(adam_step, update_rule(section))
        state, weights = initial_state(section, Potential.create(config)), {"energy": 1.0, "forces": 1.0}
    (bucket,) = make_dataset(config, frames, labels, max_buckets=1).buckets
    return lambda: jax.block_until_ready(step(state, bucket, rows, mask, rate, weights))


def serve() -> None:
    """Answer each line with the seconds of one call; the first one of a case contains its compilation."""
    calls = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in calls:
            calls[name] = (water if name in SIZES else training)(name)
        start = time.perf_counter()
        calls[name]()
        print(time.perf_counter() - start, flush=True)


class Checkout:
    """A process that works in a checkout."""

    def __init__(self, path: pathlib.Path) -> None:
        folders = f"{path}:{path / 'benchmarks'}"
        shared = os.environ.get("LESJAX_SHARED") or str(ROOT.parent / "shared")
        self.environment = {**os.environ, "PYTHONPATH": folders, "LESJAX_SHARED": shared, "JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__, "--serve"],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, name: str) -> float:
        """Seconds of one call."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def run(self, *command: str) -> float:
        """Seconds of a command."""
        start = time.perf_counter()
        subprocess.run([sys.executable, "-P", *command], env=self.environment, check=True, capture_output=True)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--before", help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", default=None)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    from common import write_json

    results = {}
    with tempfile.TemporaryDirectory() as folder:
        earlier = pathlib.Path(folder) / "before"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", earlier, arguments.before], cwd=ROOT, check=True)
        try:
            checkouts = [Checkout(earlier), Checkout(ROOT)]
            for name in (*SIZES, *STEPS):
                first = [checkout.ask(name) for checkout in checkouts]
                times = [[checkout.ask(name) for checkout in checkouts] for _ in range(arguments.rounds)]
                medians = [statistics.median(column) for column in zip(*times, strict=True)]
                results[name] = {
                    "before_ms": 1e3 * medians[0],
                    "after_ms": 1e3 * medians[1],
                    "ratio": medians[1] / medians[0],
                    "ratio_of_fastest": min(t[1] for t in times) / min(t[0] for t in times),
                    "first_call_ratio": first[1] / first[0],
                }
                print(name, results[name], flush=True)
            times = [[checkout.run("-c", "import lesjax") for checkout in checkouts] for _ in range(arguments.rounds)]
            medians = [statistics.median(column) for column in zip(*times, strict=True)]
            results["import"] = {"before_s": medians[0], "after_s": medians[1], "ratio": medians[1] / medians[0]}
            print("import", results["import"], flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", earlier], cwd=ROOT, check=True)
    if arguments.json:
        write_json(arguments.json, {"before": arguments.before, "rounds": arguments.rounds, "cases": results})


if __name__ == "__main__":
    main()
