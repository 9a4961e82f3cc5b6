"""Ensembles: cost of a step of eight models relative to one, and whether the spread ranks the errors.

    python benchmarks/ensembles.py --json benchmarks/results/ensembles.json

The cost is measured for the dimer configuration. The spread is for small models on part of the dipeptides, for the
forces on the validation set, on which the best epoch of each member was selected. A part that is not run keeps its old
result.
"""

import argparse
import json
import pathlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
from common import interleaved, shared, train, write_json

from lesjax.runs import read_log
from lesjax.training import load_config
from lesjax.training.ensemble import available_cores
from lesjax.training.initialize import initial_state, scaled_potential
from lesjax.training.loop import phase_weights
from lesjax.training.prepare import prepare
from lesjax.training.step import adam_step, update_rule


STEPS = 5
SETTINGS = (
    "data.max_frames=200",
    "model.short_range.n_radial=8",
    "model.short_range.n_embedding=3",
    "model.short_range.max_l=2",
    "model.short_range.max_nu=2",
    "model.short_range.messages=[]",
    "training.phases.0.epochs=40",
    "training.ensemble=6",
)
KEPT = ("n_structures", *(f"{kind}_{name}" for kind in ("forces", "energy") for name in ("rmse", "spread", "spearman")))


def cost(n_members: int, rounds: int) -> dict:
    """Milliseconds of a step of one model, of several on all cores, and of several by `vmap`."""
    settings = [f"data.train={shared('data/dimers/CC_train.xyz')}", "output=unused"]
    config = load_config("dimers_les", settings)
    prepared = prepare(config)
    (bucket,) = prepared.train.buckets
    rows, mask = jnp.arange(len(prepared.train)), jnp.ones(len(prepared.train), bool)
    arguments = (jnp.asarray(1e-4), phase_weights(config.training.phases[0]))
    step = partial(adam_step, update_rule(config.training))
    potentials = [scaled_potential(prepared.model, seed, prepared.train) for seed in range(n_members)]
    states = [initial_state(config.training, potential) for potential in potentials]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    all_steps = jax.jit(jax.vmap(step, in_axes=(0, None, 0, 0, None, None)))
    all_rows, masks = (jnp.stack([x] * n_members) for x in (rows, mask))
    pool = ThreadPoolExecutor(available_cores())

    def member_step(i: int) -> jax.Array:
        for _ in range(STEPS):
            states[i], loss = step(states[i], bucket, rows, mask, *arguments)
        return jax.block_until_ready(loss)

    def together() -> jax.Array:
        nonlocal stacked
        for _ in range(STEPS):
            stacked, loss = all_steps(stacked, bucket, all_rows, masks, *arguments)
        return loss

    on_cores = lambda: list(pool.map(member_step, range(n_members)))  # noqa: E731
    functions = {"one": lambda: member_step(0), "on_cores": on_cores, "vmap": together}
    times, _ = interleaved(functions, rounds)
    milliseconds = {name: round(time / STEPS, 3) for name, time in times.items()}
    return {
        "config": "dimers_les",
        "members": n_members,
        "cores": available_cores(),
        "dtype": str(arguments[0].dtype),
        "ms": milliseconds,
        "ratio": round(times["on_cores"] / times["one"], 2),
        "ratio_vmap": round(times["vmap"] / times["one"], 2),
    }


def ranking(folder: pathlib.Path) -> dict:
    """Errors, spread and their rank correlation on the validation set of the dipeptides."""
    files = [f"data.{name}={shared(f'data/dipeptides/{name}.xyz')}" for name in ("train", "valid")]
    run = train("dipeptides", [*files, *SETTINGS], folder / "dipeptides")
    metrics = run["metrics"]["validation"]
    logs = [read_log(log) for log in (folder / "dipeptides" / "members").glob("*/log.jsonl")]
    return {
        "config": run["config"],
        "settings": list(SETTINGS),
        "epochs": run["epochs"],
        "seconds": round(sum(log[-1]["seconds"] for log in logs)),
        "metrics": {key: metrics.get(key) for key in KEPT},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["cost", "ranking"], help="cost, ranking")
    parser.add_argument("--json", type=pathlib.Path, default=None)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/ensembles"))
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    earlier = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    results = {name: earlier[name] for name in ("cost", "ranking") if name in earlier}
    if "cost" in arguments.parts:
        results["cost"] = cost(arguments.members, arguments.rounds)
    if "ranking" in arguments.parts:
        results["ranking"] = ranking(arguments.folder)
    print(json.dumps(results, indent=1))
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
