"""The graph networks that benchmarks/graph_models.py compares, each in its own process: built, run on request.

All have the same options, random parameters, float32, and give energy and forces of one structure, or the gradient of a
squared error of energies and forces of a batch with respect to all parameters. Neighbours are found before.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import distributions

import ase.io
import numpy as np
from engine_process import open_replies, resident, serve


# MACE: channels of each order; NequIP: features of each of the orders up to 2 with the parity of the order
MODELS = {
    "MACE 64x0e": {"kind": "mace", "hidden_irreps": "64x0e", "max_l": 0, "channels": 64},
    "MACE 128x0e+128x1o": {"kind": "mace", "hidden_irreps": "128x0e+128x1o", "max_l": 1, "channels": 128},
    "NequIP 32 l2": {"kind": "nequip", "num_features": 32, "l_max": 2, "num_layers": 3},
}
ENGINES = {
    "lesjax": ("mace", "nequip"), "lesjax LES": ("mace", "nequip"), "mace-torch": ("mace",), "mlip": ("mace", "nequip"),
    "nequip": ("nequip",),
}  # fmt: skip
PACKAGES = ("jax", "torch", "mace-torch", "mlip", "nequip")  # whose versions are reported, where installed
Call = Callable[[], object]


def build(engine: str, model: dict, frames: list, cutoff: float, neighbors: float, training: bool) -> Call:
    """Return a function that computes and waits for the results."""
    make = {"lesjax": _lesjax, "lesjax LES": _lesjax, "mace-torch": _mace_torch, "mlip": _mlip, "nequip": _nequip}
    return make[engine](engine, model, frames, cutoff, neighbors, training)


def elements_of(frames: list) -> list[int]:
    return sorted({int(z) for atoms in frames for z in atoms.numbers})


def _lesjax(engine: str, model: dict, frames: list, cutoff: float, neighbors: float, training: bool) -> Call:
    import dataclasses

    import jax
    import jax.numpy as jnp

    from lesjax import System, ewald
    from lesjax.models import LongRangeConfig, ModelConfig, Potential
    from lesjax.models.mace import MACEConfig
    from lesjax.models.nequip import NequIPConfig
    from lesjax.models.potential import predict
    from lesjax.neighbors.batching import stack_systems
    from lesjax.processes import keep_freed_memory

    if training:
        keep_freed_memory()  # as `lesjax train` does
    options = {"elements": tuple(elements_of(frames)), "cutoff": cutoff, "avg_num_neighbors": neighbors}
    if model["kind"] == "mace":
        short_range = MACEConfig(**options, hidden_irreps=model["hidden_irreps"])
    else:
        names = ("num_features", "l_max", "num_layers")
        short_range = NequIPConfig(**options, parity=False, **{name: model[name] for name in names})
    long_range = LongRangeConfig() if engine == "lesjax LES" else None
    potential = Potential.create(ModelConfig(short_range, long_range, hidden=(16,)))
    systems = [System.from_ase(atoms, cutoff=cutoff) for atoms in frames]
    solvers = None if long_range is None else [potential.make_solver(system) for system in systems]
    if not training:
        arguments = jax.device_put((systems[0], None if solvers is None else solvers[0]))
        function = jax.jit(lambda p, s, plan: (lambda r: (r.energy, r.forces))(predict(p, s, plan, with_stress=False)))
        return lambda: jax.block_until_ready(function(potential, *arguments))
    batch = jax.device_put(stack_systems(systems))
    plans = None if solvers is None else jax.device_put(ewald.stack_solvers(solvers))
    energies = jnp.asarray([atoms.get_potential_energy() for atoms in frames], jnp.float32)
    n = batch.positions.shape[1]
    forces = jnp.asarray(np.stack([np.pad(a.get_forces(), ((0, n - len(a)), (0, 0))) for a in frames]), jnp.float32)

    def loss(params):
        own = dataclasses.replace(potential, params=params)
        found = jax.vmap(lambda s, plan: predict(own, s, plan, with_stress=False))(batch, plans)
        return jnp.mean((found.energy - energies) ** 2) + jnp.mean((found.forces - forces) ** 2)

    gradient = jax.jit(jax.value_and_grad(loss))
    return lambda: jax.block_until_ready(gradient(potential.params))


def _mace_torch(engine: str, model: dict, frames: list, cutoff: float, neighbors: float, training: bool) -> Call:
    import torch
    from e3nn import o3
    from mace import data, modules
    from mace.tools import AtomicNumberTable, torch_geometric

    torch.set_default_dtype(torch.float32)
    elements = elements_of(frames)
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    network = modules.ScaleShiftMACE(
        r_max=cutoff, num_bessel=8, num_polynomial_cutoff=5, max_ell=3, interaction_cls=block,
        interaction_cls_first=block, num_interactions=2, num_elements=len(elements),
        hidden_irreps=o3.Irreps(model["hidden_irreps"]), MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(elements)), avg_num_neighbors=neighbors, atomic_numbers=elements, correlation=3,
        gate=torch.nn.functional.silu, radial_MLP=[64, 64, 64], atomic_inter_scale=1.0, atomic_inter_shift=0.0,
    )  # fmt: skip
    table = AtomicNumberTable(elements)
    keys = data.KeySpecification(info_keys={"energy": "energy"}, arrays_keys={"forces": "forces"})
    for atoms in frames:
        if training:
            atoms.info["energy"], atoms.arrays["forces"] = atoms.get_potential_energy(), atoms.get_forces()
    configs = [data.config_from_atoms(atoms, key_specification=keys) for atoms in frames]
    graphs = [data.AtomicData.from_config(c, z_table=table, cutoff=cutoff) for c in configs]
    loader = torch_geometric.dataloader.DataLoader(dataset=graphs, batch_size=len(graphs), shuffle=False)
    batch = next(iter(loader))

    def evaluate():
        return network(batch.to_dict(), training=False, compute_force=True, compute_stress=False)["forces"].sum().item()

    def step():
        network.zero_grad()
        found = network(batch.to_dict(), training=True, compute_force=True, compute_stress=False)
        loss = ((found["energy"] - batch.energy) ** 2).mean() + ((found["forces"] - batch.forces) ** 2).mean()
        loss.backward()
        return loss.item()

    return step if training else evaluate


def _mlip(engine: str, model: dict, frames: list, cutoff: float, neighbors: float, training: bool) -> Call:
    import jax
    import jax.numpy as jnp
    from mlip.data import DatasetInfo
    from mlip.data.chemical_system import ChemicalSystem
    from mlip.graph import Graph
    from mlip.graph.batching_helpers import batch_graphs
    from mlip.models import ForceField, Mace, Nequip

    elements = elements_of(frames)
    info = DatasetInfo(
        atomic_energies_map=dict.fromkeys(elements, 0.0), graph_cutoff_angstrom=cutoff, avg_num_neighbors=neighbors,
        avg_r_min_angstrom=0.95,
    )  # fmt: skip
    if model["kind"] == "mace":
        config = Mace.Config(
            num_layers=2, num_channels=model["channels"], l_max=3, node_symmetry=model["max_l"], correlation=3,
            num_rbf=8, residual_connection_first_layer=True,
        )  # fmt: skip
        network = Mace(config, info)
    else:
        u = model["num_features"]
        irreps = " + ".join(f"{u}x{l}{'eo'[l % 2]}" for l in range(model["l_max"] + 1))
        config = Nequip.Config(
            num_layers=model["num_layers"], target_irreps=irreps, l_max=model["l_max"], num_rbf=8,
            radial_mlp_hidden=[64, 64],
        )  # fmt: skip
        network = Nequip(config, info)
    field = ForceField.from_mlip_network(network)
    graphs = []
    for atoms in frames:
        periodic = bool(atoms.pbc.any())
        system = ChemicalSystem(
            atomic_numbers=atoms.numbers, positions=atoms.positions.astype(np.float32),
            cell=atoms.cell.array.astype(np.float32) if periodic else None, pbc=tuple(map(bool, atoms.pbc)),
            energy=float(atoms.get_potential_energy()) if training else None,
            forces=atoms.get_forces().astype(np.float32) if training else None,
        )  # fmt: skip
        graphs.append(Graph.from_chemical_system(system, cutoff))
    graph = jax.device_put(batch_graphs(graphs))
    if not training:
        function = jax.jit(lambda params, graph: (lambda g: (g.globals.energy, g.nodes.forces))(
            field.predictor.apply(params, graph)))  # fmt: skip
        return lambda: jax.block_until_ready(function(field.params, graph))

    def loss(params):
        found = field.predictor.apply(params, graph)
        of_energy = jnp.mean((found.globals.energy - graph.globals.energy) ** 2)
        return of_energy + jnp.mean((found.nodes.forces - graph.nodes.forces) ** 2)

    gradient = jax.jit(jax.value_and_grad(loss))
    return lambda: jax.block_until_ready(gradient(field.params))


def _nequip(engine: str, model: dict, frames: list, cutoff: float, neighbors: float, training: bool) -> Call:
    import torch
    from nequip.data import AtomicDataDict, compute_neighborlist_, from_ase
    from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper
    from nequip.model import NequIPGNNModel
    from nequip.utils.global_state import set_global_state

    set_global_state()
    torch.set_default_dtype(torch.float32)
    symbols = [ase.data.chemical_symbols[z] for z in elements_of(frames)]
    network = NequIPGNNModel(
        seed=0, model_dtype="float32", r_max=cutoff, type_names=symbols, num_bessels=8, polynomial_cutoff_p=6,
        num_layers=model["num_layers"], l_max=model["l_max"], parity=False, num_features=model["num_features"],
        radial_mlp_depth=2, radial_mlp_width=64, avg_num_neighbors=neighbors,
    )  # fmt: skip
    types = ChemicalSpeciesToAtomTypeMapper(symbols)
    data = [types(compute_neighborlist_(from_ase(atoms), r_max=cutoff)) for atoms in frames]
    batch = AtomicDataDict.batched_from_list(data)
    inputs = {k: v.to(torch.float32) if v.is_floating_point() else v for k, v in batch.items() if v is not None}
    network.train(training)

    def evaluate():
        return network(dict(inputs))["forces"].sum().item()

    def step():
        network.zero_grad()
        found = network(dict(inputs))
        of_energy = ((found["total_energy"] - inputs["total_energy"]) ** 2).mean()
        loss = of_energy + ((found["forces"] - inputs["forces"]) ** 2).mean()
        loss.backward()
        return loss.item()

    return step if training else evaluate


def worker() -> None:
    """Build one engine for one task, run it as standard input asks, and report times and memory."""
    engine, name, path, options = sys.argv[1:5]
    replies, call, before = open_replies(), None, 0.0
    frames = ase.io.read(path, ":")
    try:
        if "torch" in engine or engine == "nequip":
            import torch

            torch.set_num_threads(json.loads(options).pop("threads"))
        chosen = {key: value for key, value in json.loads(options).items() if key != "threads"}
        call = build(engine, MODELS[name], frames, **chosen)
        before = resident()
        start = time.perf_counter()
        call()
        first = time.perf_counter() - start
        call()
        installed = {d.name: d.version for d in distributions() if d.name in PACKAGES}
        reply = {"first_call_s": round(first, 2), "versions": dict(sorted(installed.items()))}
    except (ImportError, ValueError, TypeError, NotImplementedError) as error:
        reply = {"error": f"{type(error).__name__}: {error}"}
    serve(replies, reply, call, before)


if __name__ == "__main__":
    worker()
