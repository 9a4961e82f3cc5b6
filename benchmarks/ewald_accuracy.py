"""Test of `accuracy`: the error of the forces over the requested one, for four kinds of systems.

    JAX_ENABLE_X64=1 python benchmarks/ewald_accuracy.py --json benchmarks/results/ewald_accuracy.json

The error is the root mean square of the force error over that of the long-range forces (`ewald.force_error`), in
float64. Kinds: random charges, water (SPC charges on molecules turned at random on a lattice), the ionic crystals NaCl,
CsCl and ZnS, and slabs of NaCl and of random charges. Cells: cubic, triclinic and 1 : 1 : 5. Ten configurations of
each: crystals are rattled by 0.01 to 0.2 Å. σ is 0.6, 1 and 1.5 Å, the accuracy 1e-2 to 1e-6, the sum direct and on a
mesh. `--stretched` plans for a cell that is 3 % smaller in all directions, the largest drift that `still_valid`
lets pass; `--earlier` plans as lesjax did before, with one factor of 3.2 on the estimates of random charges. `--cost`
times both plans instead: energy and forces of random charges at 0.1 atoms/Å³ and σ = 1 Å, interleaved.
"""

import argparse
import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.build import bulk, make_supercell
from common import interleaved, write_json
from rich.console import Console
from rich.table import Table
from scipy.special import erfcinv

from lesjax import ewald
from lesjax.ewald.solvers.mesh_plan import choose_mesh


ACCURACIES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
SIGMAS = (0.6, 1.0, 1.5)
RATTLES = np.geomspace(0.01, 0.2, 10)
CHARGES = {"Na": 1.0, "Cl": -1.0, "Cs": 1.0, "Zn": 2.0, "S": -2.0, "O": -0.82, "H": 0.41}
CRYSTALS = {
    "NaCl": ("rocksalt", 5.64, 2),
    "CsCl": ("cesiumchloride", 4.12, 3),
    "ZnS": ("zincblende", 5.42, 2),
}
TRICLINIC = np.array([[1.0, 0.0, 0.0], [0.2, 1.1, 0.0], [-0.3, 0.1, 1.2]])
SHAPES = {"cubic": np.eye(3), "triclinic": TRICLINIC, "1:1:5": np.diag([1.0, 1.0, 5.0])}


def crystal(name: str, shape: str) -> tuple[Atoms, np.ndarray]:
    """A perfect crystal and its charges."""
    structure, a, n = CRYSTALS[name]
    repeats = {
        "cubic": n * np.eye(3),
        "triclinic": [[n, 0, 0], [1, n, 0], [0, -1, n]],
        "1:1:5": np.diag([n // 2 or 1, n // 2 or 1, 5 * (n // 2 or 1)]),
    }[shape]
    atoms = make_supercell(bulk(name, structure, a=a, cubic=True), np.asarray(repeats, int))
    return atoms, np.array([CHARGES[symbol] for symbol in atoms.symbols])


def water(shape: str, rng: np.random.Generator) -> tuple[Atoms, np.ndarray]:
    """Randomly oriented molecules, one in 30 Å³, on a lattice."""
    repeats = {"cubic": (4, 4, 4), "triclinic": (3, 4, 4), "1:1:5": (2, 2, 10)}[shape]
    angle = np.deg2rad(109.47)
    hydrogens = np.array([[1.0, 0.0, 0.0], [np.cos(angle), np.sin(angle), 0.0]])
    edge = 30.0 ** (1 / 3)
    sheared = TRICLINIC if shape == "triclinic" else np.eye(3)
    lattice = edge * sheared / np.linalg.det(sheared) ** (1 / 3)
    sites = np.array(list(itertools.product(*map(range, repeats)))) @ lattice
    positions = []
    for oxygen in sites + 0.3 * rng.normal(size=sites.shape):
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        positions += [oxygen, *(oxygen + hydrogens @ rotation)]
    atoms = Atoms("OH2" * len(sites), positions, cell=np.diag(repeats) @ lattice, pbc=True)
    return atoms, np.array([CHARGES[symbol] for symbol in atoms.symbols])


def configurations(kind: str, shape: str) -> list[tuple[Atoms, np.ndarray]]:
    """Ten configurations with their charges, in one cell."""
    rng = np.random.default_rng(0)
    if kind == "water":
        return [water(shape, rng) for _ in RATTLES]
    name = kind.removesuffix(" slab")
    slab = kind.endswith(" slab")
    if name == "random":
        cell = SHAPES[shape] * 14.0 / np.linalg.det(SHAPES[shape]) ** (1 / 3)
        charges = rng.permutation(np.repeat([1.0, -1.0], 32))
        position_sets = [rng.uniform(0, 1, (64, 3)) @ cell for _ in RATTLES]
    else:
        atoms, charges = crystal(name, shape)
        cell = atoms.cell.array
        position_sets = [atoms.positions + size * rng.normal(size=(len(atoms), 3)) for size in RATTLES]
    pbc = (True, True, not slab)
    return [(Atoms(f"X{len(charges)}", positions, cell=cell, pbc=pbc), charges) for positions in position_sets]


def kinds() -> list[tuple[str, str]]:
    """Pairs of kind of system and shape of the cell."""
    bulks = [(kind, shape) for kind in ("random", "water", *CRYSTALS) for shape in SHAPES]
    return bulks + [(kind, shape) for kind in ("NaCl slab", "random slab") for shape in ("cubic", "triclinic")]


def plan(cell: np.ndarray, pbc: np.ndarray, method: str, *, earlier: bool, **options: float) -> ewald.Solver:
    """Return today's plan, or the one before the reflections of crystals were taken into account."""
    if not earlier:
        return ewald.make_solver(cell, pbc, method=method, **options)
    accuracy, sigma = options["accuracy"], options["sigma"]
    share = accuracy * (0.5 if method == "mesh" else 1.0)
    k_cutoff = float(erfcinv((share / 3.2) ** 2)) / sigma
    sizes = {key: options[key] for key in ("n_atoms", "sigma")}
    solver = ewald.make_solver(cell, pbc, method=method, k_cutoff=k_cutoff, **sizes)
    if method == "direct":
        return solver
    cell, _ = solver.interaction.plan_cell(cell, sigma)
    mesh, order = choose_mesh(cell, k_cutoff, math.sqrt(0.75) * accuracy / 3.2, **sizes, interaction=solver.interaction)
    return dataclasses.replace(solver, mesh=mesh, order=order)


def measure(
    kind: str, shape: str, sigma: float, method: str, accuracy: float, stretch: float = 1.0, earlier: bool = False
) -> dict:
    """Errors of ten configurations over the requested accuracy, and the size of the plan."""
    systems = configurations(kind, shape)
    atoms = systems[0][0]
    height = max(np.ptp(atoms.positions[:, 2]) + 1.0 for atoms, _ in systems)
    cell = atoms.cell.array
    if not atoms.pbc[2]:
        cell = np.vstack([cell[:2], [0.0, 0.0, height]])
    options = {"n_atoms": len(atoms), "sigma": sigma, "accuracy": accuracy}
    solver = plan(cell / stretch, atoms.pbc, method, earlier=earlier, **options)
    ratios = [ewald.force_error(solver, a.positions, cell, q) / accuracy for a, q in systems]
    mesh = {"mesh": solver.mesh, "order": solver.order} if method == "mesh" else {"mesh": None, "order": 0}
    return {
        "kind": kind, "cell": shape, "sigma": sigma, "method": method, "accuracy": accuracy, "n_atoms": len(atoms),
        "median": round(float(np.median(ratios)), 4), "worst": round(max(ratios), 4),
        "n_kvectors": int(solver.kmask.sum()), **mesh,
    }  # fmt: skip


def cost(n_atoms: int, method: str, accuracy: float) -> dict:
    """Run times of today's plan and of the earlier one, ms, and their ratio."""
    edge = (n_atoms / 0.1) ** (1 / 3)
    cell, rng = edge * np.eye(3), np.random.default_rng(0)
    arrays = [jnp.asarray(x, float) for x in (rng.uniform(0, edge, (n_atoms, 3)), cell, rng.normal(size=n_atoms))]
    options = {"n_atoms": n_atoms, "sigma": 1.0, "accuracy": accuracy}
    both = {
        name: jax.device_put(plan(cell, np.array([True] * 3), method, earlier=earlier, **options))
        for name, earlier in (("now", False), ("earlier", True))
    }
    function = jax.jit(jax.value_and_grad(ewald.energy, 1))
    times, _ = interleaved({name: functools.partial(function, solver, *arrays) for name, solver in both.items()}, 9)
    sizes = {name: list(solver.mesh if method == "mesh" else solver.kmask.shape) for name, solver in both.items()}
    ratio = round(times["now"] / times["earlier"], 2)
    return {"n_atoms": n_atoms, "method": method, "accuracy": accuracy, "ms": times, "ratio": ratio, "plans": sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default=None, help="write the results to this file")
    parser.add_argument("--methods", nargs="+", default=["direct", "mesh"])
    parser.add_argument("--accuracies", type=float, nargs="+", default=ACCURACIES)
    parser.add_argument("--sigmas", type=float, nargs="+", default=SIGMAS)
    names = ", ".join(dict.fromkeys(kind for kind, _ in kinds()))
    parser.add_argument("--kinds", nargs="+", default=None, help=f"of {names}; all by default")
    parser.add_argument("--stretched", action="store_true", help="with a plan for a cell that is 3 %% smaller")
    parser.add_argument("--earlier", action="store_true", help="with the plans of before")
    parser.add_argument("--cost", action="store_true", help="times of both plans instead of errors")
    arguments = parser.parse_args()
    if arguments.cost:
        plans = [(192, "direct"), (1536, "mesh"), (12_288, "mesh")]
        rows = [cost(*system, accuracy) for system in plans for accuracy in (1e-3, 1e-4)]
        for row in rows:
            print(row)
        if arguments.json:
            write_json(arguments.json, {"dtype": str(jnp.zeros(()).dtype), "rows": rows})
        return
    assert jax.config.jax_enable_x64, "Set JAX_ENABLE_X64=1: the errors are below the rounding of float32."
    stretch = 1.03 if arguments.stretched else 1.0
    selected = [k for k in kinds() if arguments.kinds is None or k[0] in arguments.kinds]
    plans = itertools.product(selected, arguments.sigmas, arguments.methods, arguments.accuracies)
    cases = [
        measure(*system, sigma, method, accuracy, stretch, arguments.earlier)
        for system, sigma, method, accuracy in plans
    ]
    report(cases, {"stretch": stretch, "earlier": arguments.earlier}, arguments.json)


def report(cases: list[dict], settings: dict, path: str | None) -> None:
    """Print the median and the worst of each kind of system, and write all cases, those of one plan in a row."""
    table = Table("kind", "method", "median", "worst")
    summary = {}
    for kind, method in dict.fromkeys((case["kind"], case["method"]) for case in cases):
        rows = [case for case in cases if (case["kind"], case["method"]) == (kind, method)]
        median = float(np.median([row["median"] for row in rows]))
        worst = max(row["worst"] for row in rows)
        summary[f"{kind}, {method}"] = {"median": round(median, 3), "worst": worst}
        table.add_row(kind, method, f"{median:.2f}", f"{worst:.2f}")
    Console().print(table)
    rows: dict[str, dict] = {}
    for case in cases:
        row = rows.setdefault("{kind}, {cell}, sigma {sigma:g}, {method}".format(**case), {})
        mesh = "x".join(map(str, case["mesh"])) + f"/{case['order']}" if case["mesh"] else f"{case['n_kvectors']}"
        row[f"{case['accuracy']:g}"] = f"{case['median']:.3g} {case['worst']:.3g} {mesh}"
    if path:
        meaning = "by accuracy: median and worst of ten, in units of it; number of k-vectors, or mesh and spline order"
        content = {"dtype": "float64", "settings": settings, "summary": summary, "rows": meaning, "cases": rows}
        write_json(path, content)


if __name__ == "__main__":
    main()
