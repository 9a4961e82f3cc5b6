"""The engines of lesjax against jax-pme and torch-pme: energy and forces over the number of atoms, in one run.

    pip install -r benchmarks/requirements.txt
    python benchmarks/peers.py --json benchmarks/results/peers.json --figure docs/images/ewald_scaling.png

Random atoms at 0.1 atoms/Å³, no two closer than 1.5 Å, charges ±1 e, a periodic cube, σ = 1 Å, float32. Every engine
is tuned to the same measured relative error of the forces, 5e-4 against a converged float64 sum, and runs in its own
process. The processes run in turn, so that other load of the machine affects all alike; medians over the turns.

The peers compute 1/r as short range plus long range. Here they get no pairs, so that they compute the same as
lesjax: the k-space part and its self-energy, for smearing = σ. The columns of errors show that it is the same sum.

Memory is the largest resident size of the process, and its excess over the size with the libraries and atoms loaded;
the compiler's is included. `--sizes` and `--engines` select a part; the file keeps other results, and with `--resume`
these as well.
"""

import argparse
import csv
import datetime
import json
import os
import pathlib
import sys
import tempfile

import matplotlib as mpl
import numpy as np
from common import write_json
from engine_process import Worker
from peer_engines import BATCHED, ENGINES, SIGMA, TARGET
from rich.console import Console
from rich.table import Table
from scipy.spatial import cKDTree

import lesjax


DENSITY, CLOSEST = 0.1, 1.5
SIZES = [100, 300, 1_000, 3_000, 10_000, 30_000, 100_000]
BATCH = (32, 200)
LONGEST = 30e3  # ms in all, after which an engine has had its turns
WORKER = pathlib.Path(__file__).with_name("peer_engines.py")
COLUMNS = ["n_atoms", "batch", "engine", "ms", "ms_min", "first_call_s", "forces_error", "energy_error"]
COLUMNS += ["peak_mb", "above_start_mb", "settings", "date", "load_average", "note"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="benchmarks/results/peers.json", help="results; a CSV goes beside them")
    parser.add_argument("--figure", default=None, help="write the figure to this file")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES, metavar="ENGINE")
    parser.add_argument("--turns", type=int, default=11, help="turns of each engine; three of those that take long")
    parser.add_argument("--no-batch", action="store_true", help="leave out the batch of 32 times 200 atoms")
    parser.add_argument("--resume", action="store_true", help="skip what the file has already")
    parser.add_argument("--scratch", default=None, help="folder of the systems and their references, kept for reruns")
    arguments = parser.parse_args()
    path = pathlib.Path(arguments.json)
    old = json.loads(path.read_text())["cases"] if path.exists() else []
    rows = {(row["n_atoms"], row["batch"], row["engine"]): row for row in old}
    scratch = pathlib.Path(arguments.scratch or pathlib.Path(tempfile.gettempdir()) / "lesjax-peers")
    scratch.mkdir(parents=True, exist_ok=True)
    tasks = [(n, 1, arguments.engines) for n in arguments.sizes]
    if not arguments.no_batch:
        tasks.append((BATCH[1], BATCH[0], [name for name in arguments.engines if name in BATCHED]))
    for n_atoms, batch, engines in tasks:
        names = [name for name in engines if batch > 1 or n_atoms <= ENGINES[name][1]]
        if arguments.resume:
            names = [name for name in names if (n_atoms, batch, name) not in rows]
        for row in measure(n_atoms, batch, names, arguments.turns, scratch):
            rows[row["n_atoms"], row["batch"], row["engine"]] = row
        order = list(ENGINES).index
        cases = sorted(rows.values(), key=lambda row: (row["batch"], row["n_atoms"], order(row["engine"])))
        write(path, cases, arguments)
        Console(width=150).print(as_table([row for row in cases if (row["n_atoms"], row["batch"]) == (n_atoms, batch)]))
    if arguments.figure:
        plot([row for row in rows.values() if "ms" in row], arguments.figure)


def measure(n_atoms: int, batch: int, engines: list[str], turns: int, scratch: pathlib.Path) -> list[dict]:
    """All engines on one system: tuned one after the other, timed in turn."""
    if not engines:
        return []
    system = make_system(n_atoms, batch, scratch)
    rows, workers = [], {}
    today = datetime.date.today().isoformat()
    for name in engines:
        load = round(os.getloadavg()[0], 1)  # of this machine, before
        row = {"n_atoms": n_atoms, "batch": batch, "engine": name, "date": today, "load_average": load}
        rows.append(row)
        tuned = start("tune", name, system).close()
        if "error" in tuned:
            row["note"] = tuned["error"]
            continue
        row["settings"] = tuned["settings"]
        if not tuned["reached"]:
            row["note"] = f"{TARGET:g} is not reached"
        worker = start("run", name, system, json.dumps(tuned["settings"]))
        reply = worker.reply
        if "error" in reply:
            row["note"] = reply["error"]
            worker.close()
            continue
        once = reply.pop("once")
        row.update(reply, times=[])
        # a turn of at least 50 ms
        workers[name] = (worker, row, max(1, round(0.05 / once)))
    for _ in range(turns):
        for worker, row, repeats in workers.values():
            if len(row["times"]) < 3 or sum(row["times"]) < LONGEST:
                row["times"].append(worker.ask(str(repeats)))
    for worker, row, _ in workers.values():
        times = row.pop("times")
        row.update(ms=round(float(np.median(times)), 3), ms_min=round(min(times), 3), **worker.ask("end"))
        worker.close()
    return rows


def start(*arguments: object) -> Worker:
    """Process of `peer_engines`."""
    precision = "1" if arguments[0] == "reference" else "0"
    settings = {"JAX_ENABLE_X64": precision, "JAX_ENABLE_COMPILATION_CACHE": "0", "PYTHONWARNINGS": "ignore"}
    worker = Worker([sys.executable, WORKER, *arguments], {**settings, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"})
    if (worker.process.poll() or 0) > 0:  # an error that it did not report; lack of memory ends it by a signal
        sys.exit(f"The process `{' '.join(map(str, arguments))}` failed: {worker.reply['error']}.")
    return worker


def make_system(n_atoms: int, batch: int, scratch: pathlib.Path) -> pathlib.Path:
    """Write random atoms with converged energy and forces to a file, once."""
    path = scratch / f"{n_atoms}x{batch}.npz"
    if not path.exists() or "forces" not in np.load(path):
        # an edge that float32 holds, so that all have the same cell
        edge = np.float32((n_atoms / DENSITY) ** (1 / 3))
        rng = np.random.default_rng([n_atoms, batch])
        positions = np.stack([random_positions(rng, n_atoms, edge) for _ in range(batch)])
        charges = np.stack([rng.permutation(np.resize([1.0, -1.0], n_atoms)) for _ in range(batch)]).astype("float32")
        only = 0 if batch == 1 else slice(None)
        np.savez(path, edge=edge, positions=positions[only], charges=charges[only])
        reply = start("reference", "none", path).close()
        if reply:
            sys.exit(f"No reference for {path.name}: {reply['error']}")
    return path


def random_positions(rng: np.random.Generator, n_atoms: int, edge: np.float32) -> np.ndarray:
    """Place atoms at random, and those too close to another one again until there are none."""
    positions = rng.uniform(0, edge, (n_atoms, 3)).astype("float32")
    while True:
        wrapped = np.mod(positions.astype(float), float(edge))
        close = cKDTree(wrapped, boxsize=float(edge)).query_pairs(CLOSEST, output_type="ndarray")
        if len(close) == 0:
            return positions
        again = np.unique(close[:, 0])
        positions[again] = rng.uniform(0, edge, (len(again), 3))


def write(path: pathlib.Path, cases: list[dict], arguments: argparse.Namespace) -> None:
    """Write the results as JSON and CSV."""
    settings = {"density": DENSITY, "closest": CLOSEST, "sigma": SIGMA, "forces_error": TARGET}
    settings["turns"] = arguments.turns
    versions = {name: _version(name) for name in ("jax-pme", "torch-pme", "torch", "jax-finufft")}
    versions["lesjax"] = lesjax.__version__  # run from a checkout, too
    head = {"dtype": "float32", "settings": settings, "versions": versions}
    write_json(path, {**head, "cases": cases})
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows({**row, "settings": json.dumps(row.get("settings", {}))} for row in cases)


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def as_table(rows: list[dict]) -> Table:
    """Table with one line per engine."""
    table = Table("atoms", "engine", "ms", "first s", "forces err", "energy err", "peak MB", "above start", "settings")
    for row in rows:
        atoms = str(row["n_atoms"]) if row["batch"] == 1 else f"{row['batch']} x {row['n_atoms']}"
        if "ms" not in row:
            table.add_row(atoms, row["engine"], *[""] * 6, row["note"])
            continue
        numbers = [f"{row['ms']:.2f}", f"{row['first_call_s']:.2f}"]
        numbers += [f"{row[key]:.1e}" for key in ("forces_error", "energy_error")]
        numbers += [str(row["peak_mb"]), str(row["above_start_mb"])]
        settings = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
        table.add_row(atoms, row["engine"], *numbers, settings + (f"; {row['note']}" if "note" in row else ""))
    return table


def plot(rows: list[dict], path: str) -> None:
    """Time and memory over the number of atoms; open symbols where the requested error is not reached."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    colors = {"lesjax": "#c1272d", "jax-pme": "#0000a7", "torch-pme": "#008176"}
    lines = {"direct": ":", "Ewald": ":", "mesh": "-", "P3M": "-", "P3M, any grid": (0, (5, 1, 1, 1)), "PME": "--"}
    markers = {"lesjax": "o", "jax-pme": "s", "torch-pme": "^"}
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    for axis, key, label in zip(axes, ("ms", "above_start_mb"), ("time, ms", "memory, MB"), strict=True):
        for name in ENGINES:
            engine_rows = [row for row in rows if row["engine"] == name and row["batch"] == 1]
            engine_rows.sort(key=lambda row: row["n_atoms"])
            if not engine_rows:
                continue
            family, method = name.split(" ", 1)
            n, values = [row["n_atoms"] for row in engine_rows], [max(row[key], 1e-3) for row in engine_rows]
            style = {"color": colors[family], "marker": markers[family], "ms": 5}
            reached = [row["forces_error"] <= TARGET for row in engine_rows]
            axis.loglog(n, values, linestyle=lines.get(method, "-."), label=name, **{**style, "marker": ""})
            for x, y, full in zip(n, values, reached, strict=True):
                axis.plot(x, y, **style, mfc=colors[family] if full else "white")
        axis.set(xlabel="atoms", ylabel=label)
        axis.grid(True, which="major", alpha=0.3)
    axes[0].set_title("energy and forces", fontsize="medium")
    axes[1].set_title("peak memory above that of the loaded libraries", fontsize="medium")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right", frameon=False, fontsize="small")
    figure.suptitle(f"force error {TARGET:g}, σ = {SIGMA:g} Å, {DENSITY} atoms/Å³, float32", fontsize="medium")
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
