"""Random models of mace-torch with random options, converted, against what mace-torch gives for them.

    python benchmarks/mace_variants.py --python A/bin/python --json benchmarks/results/mace_variants.json

where A is an environment with mace-torch. In float64; models that are refused are counted with their reasons. A file
in float32 has couplings that are rounded, see `lesjax.published.mace`: its errors are of the order of 1e-6.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import tempfile

import jax
import numpy as np
from common import ROOT, write_json

import lesjax
from lesjax import System


MODELS = ROOT / "mace_torch_models.py"


def errors(path: pathlib.Path) -> dict[str, float]:
    """Largest errors of energies, eV, forces, eV/Å, and stress, eV/Å³, of the structures of one model."""
    potential = lesjax.convert(path)
    with np.load(path.with_suffix(".npz")) as file:
        data = dict(file)
    found: dict[str, float] = collections.defaultdict(float)
    for i in range(2):
        numbers, positions, cell, pbc = (data[f"{i}/{name}"] for name in ("numbers", "positions", "cell", "pbc"))
        out = potential(System.from_arrays(positions, cell, numbers, pbc, cutoff=potential.cutoff))
        values = {"energy": out.total_energy, "forces": out.forces[: len(numbers)], "stress": out.stress}
        for name, value in values.items():
            if f"{i}/{name}" in data:
                expected = data[f"{i}/{name}"].reshape(np.shape(value))
                found[name] = max(found[name], float(np.abs(np.asarray(value) - expected).max()))
    return dict(found)


def make_models(python: str, folder: pathlib.Path, first: int, last: int) -> None:
    """Write the models of these seeds, in a process with mace-torch."""
    # e3nn 0.4 reads its constants with pickle
    environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    subprocess.run([python, MODELS, folder, str(first), str(last)], check=True, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="Python of an environment with mace-torch")
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 39), metavar=("FIRST", "LAST"))
    parser.add_argument("--json", default=None)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    first, last = arguments.seeds
    largest: dict[str, dict[str, float]] = {}
    refused: collections.Counter[str] = collections.Counter()
    options: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        make_models(arguments.python, folder, first, last)
        for seed in range(first, last + 1):
            path = folder / f"{seed}.model"
            chosen = json.loads(path.with_suffix(".json").read_text())
            try:
                found = errors(path)
            except ValueError as error:
                refused[re.sub(r"^'.*?': ", "", str(error))] += 1
                continue
            print(seed, found, flush=True)
            options.update(f"{key} {value}" for key, value in chosen.items() if key != "avg_num_neighbors")
            of_dtype = largest.setdefault(chosen["dtype"], {})
            for key, value in found.items():
                of_dtype[key] = max(of_dtype.get(key, 0.0), value)
    result = {
        "models": last - first + 1,
        "read": last - first + 1 - refused.total(),
        "refused": dict(refused),
        "largest_errors": largest,
        "options_read": dict(sorted(options.items())),
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
