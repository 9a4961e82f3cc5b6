"""Write random models of mace-torch with random options, and what they give; run by benchmarks/mace_variants.py.

    python mace_torch_models.py FOLDER FIRST LAST

Each seed makes `seed.model`, `seed.json` with the options, and `seed.npz` with energies, forces and stress of a
molecule and a crystal in float64. An environment with mace-torch is enough.
"""

import itertools
import json
import pathlib
import sys

import ase
import numpy as np
import torch
from ase.build import molecule
from e3nn import o3
from mace import data
from mace.modules import MACE, ScaleShiftMACE, interaction_classes
from mace.tools import AtomicNumberTable, torch_geometric


ELEMENTS = [1, 6, 8]
KINDS = ("RealAgnostic{}InteractionBlock", "RealAgnostic{}ResidualInteractionBlock")
GATES = {"silu": torch.nn.functional.silu, "None": None, "tanh": torch.tanh}


def random_options(rng: np.random.Generator) -> dict:
    """Options of a model, as mace-torch names them."""

    def one_of(*values: object) -> object:
        return values[rng.integers(len(values))]

    channels, order = one_of(4, 8, 16), int(rng.integers(3))
    density = one_of("", "Density")
    return {
        "r_max": one_of(3.5, 4.2),
        "num_bessel": one_of(4, 8, 10),
        "num_polynomial_cutoff": one_of(3, 5, 6),
        "max_ell": int(rng.integers(max(order, 1), 4)),
        "num_interactions": one_of(1, 2, 3),
        "hidden_irreps": "+".join(f"{channels}x{l}{'eo'[l % 2]}" for l in range(order + 1)),
        "MLP_irreps": one_of("4x0e", "16x0e"),
        "avg_num_neighbors": float(rng.uniform(3.0, 20.0)),
        "correlation": one_of(1, 2, 3),
        "interaction_cls_first": one_of(*KINDS).format(density),
        "interaction_cls": KINDS[1].format(density),
        "pair_repulsion": one_of(True, False, False),
        "use_reduced_cg": one_of(True, False),
        "radial_MLP": one_of([64, 64, 64], [8], [16, 12]),
        "radial_type": one_of("bessel", "bessel", "gaussian"),
        "distance_transform": one_of("None", "Agnesi"),
        "gate": one_of("silu", "silu", "silu", "None", "tanh"),
        "keep_last_layer_irreps": one_of(True, False, False, False),
        "class": one_of("MACE", "ScaleShiftMACE"),
        "dtype": one_of("float32", "float64"),
    }


def make(options: dict, rng: np.random.Generator) -> torch.nn.Module:
    """A model with these options."""
    options = dict(options)
    kind, _ = options.pop("class"), options.pop("dtype")
    for name in ("hidden_irreps", "MLP_irreps"):
        options[name] = o3.Irreps(options[name])
    for name in ("interaction_cls", "interaction_cls_first"):
        options[name] = interaction_classes[options[name]]
    options |= {"gate": GATES[options["gate"]], "num_elements": len(ELEMENTS), "atomic_numbers": ELEMENTS}
    options["atomic_energies"] = rng.normal(size=len(ELEMENTS))
    if kind == "MACE":
        return MACE(**options)
    return ScaleShiftMACE(float(rng.uniform(0.5, 2.0)), float(rng.normal()), **options)


def structures(rng: np.random.Generator) -> list[ase.Atoms]:
    """Ethanol, and hydroxyl groups in a cell that is smaller than twice the cutoff."""
    ethanol = molecule("CH3CH2OH", cell=[12.0] * 3, pbc=False)
    sites = np.array(list(itertools.product((0.0, 2.4), (0.0, 2.4), (0.0, 1.8, 3.6))))
    cell = np.diag([5.1, 5.0, 5.6]) + 0.1 * rng.normal(size=(3, 3))
    crystal = ase.Atoms("OHC" * 4, sites + 0.3 * rng.normal(size=sites.shape), cell=cell, pbc=True)
    ethanol.positions += 0.05 * rng.normal(size=ethanol.positions.shape)
    return [ethanol, crystal]


def predictions(model: torch.nn.Module, atoms: ase.Atoms) -> dict[str, np.ndarray]:
    """The structure and what the model gives for it."""
    graph = data.AtomicData.from_config(
        data.config_from_atoms(atoms), z_table=AtomicNumberTable(ELEMENTS), cutoff=float(model.r_max)
    )
    batch = next(iter(torch_geometric.dataloader.DataLoader([graph], batch_size=1))).to_dict()
    periodic = bool(atoms.pbc.all())
    out = model(batch, compute_stress=periodic)
    found = {name: out[name].detach().numpy() for name in ("energy", "forces", *(["stress"] if periodic else []))}
    cell = atoms.cell.array if periodic else np.zeros((3, 3))
    return found | {"numbers": atoms.numbers, "positions": atoms.positions, "cell": cell, "pbc": atoms.pbc}


def main() -> None:
    folder, first, last = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])
    for seed in range(first, last + 1):
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        options = random_options(rng)
        torch.set_default_dtype(getattr(torch, options["dtype"]))
        path = folder / f"{seed}.model"
        torch.save(make(options, rng), path)
        torch.set_default_dtype(torch.float64)
        model = torch.load(path, weights_only=False).double()
        found = {
            f"{i}/{name}": value
            for i, atoms in enumerate(structures(rng))
            for name, value in predictions(model, atoms).items()
        }
        np.savez(path.with_suffix(".npz"), **found)
        path.with_suffix(".json").write_text(json.dumps(options))


if __name__ == "__main__":
    main()
