"""The demo as a benchmark: results of `make demo`, with the device.

python benchmarks/demo.py --json benchmarks/results/demo.json
"""

import argparse
import pathlib

import jax
from common import write_json

from lesjax import demo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=None)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/demo"))
    arguments = parser.parse_args()
    metrics = demo.run(arguments.work, quiet=True)
    if arguments.json:
        write_json(arguments.json, {"dtype": str(jax.numpy.zeros(()).dtype), **metrics})


if __name__ == "__main__":
    main()
