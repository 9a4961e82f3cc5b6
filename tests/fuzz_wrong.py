"""Inputs that are certainly wrong, although most of them would give finite numbers: all must be refused.

Those that end in "(warning)" may be taken where a warning says so.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np


def structure(**changes: Any) -> Callable[[Any], Any]:
    """Arrays of a structure with one of them replaced."""

    def make(inputs: Any) -> Any:
        from lesjax.system import System

        good = {"positions": inputs.atoms.positions, "cell": inputs.atoms.cell.array, "pbc": True, "cutoff": 3.6,
                "atomic_numbers": inputs.atoms.numbers}  # fmt: skip
        changed = {name: value(good[name]) if callable(value) else value for name, value in changes.items()}
        return inputs.short_range(System.from_arrays(**{**good, **changed}))

    return make


def comment(old: str, new: str, *, which: int = 1) -> Callable[[Any], Any]:
    """A file of two frames with a text of its first one replaced."""

    def make(inputs: Any) -> Any:
        from fuzz_inputs import FRAME
        from lesjax import io

        assert old in FRAME, old
        path = inputs.folder / "wrong.xyz"
        path.write_text(FRAME.replace(old, new, which) + FRAME)
        frames = io.read(path)
        selection = io.select(frames)
        inputs.compute(frames[0])
        return selection

    return make


def configuration(old: str, new: str) -> Callable[[Any], Any]:
    """A configuration with one line replaced."""

    def make(inputs: Any) -> Any:
        from fuzz_inputs import CONFIG
        from lesjax.training import load_config

        assert old in CONFIG, old
        path = inputs.folder / "wrong.toml"
        path.write_text(CONFIG.replace(old, new, 1))
        return load_config(path)

    return make


def model(change: Callable[[dict[str, Any]], None] | None = None, **replaced: tuple[str, str]) -> Callable[[Any], Any]:
    """A saved model with its description changed, or a text of it replaced."""

    def make(inputs: Any) -> Any:
        from lesjax.models import load

        folder = inputs.folder / "wrong"
        folder.mkdir(exist_ok=True)
        text = inputs.model["config.json"].decode()
        if change is not None:
            description = json.loads(text)
            change(description["config"])
            text = json.dumps(description)
        for old, new in replaced.values():
            assert old in text, old
            text = text.replace(old, new, 1)
        (folder / "config.json").write_text(text)
        (folder / "params.safetensors").write_bytes(inputs.model["params.safetensors"])
        return load(folder)

    return make


def parameters(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any], Any]:
    """A saved model with its largest array changed."""

    def make(inputs: Any) -> Any:
        from safetensors.numpy import load, save

        from lesjax.models import load as load_model

        folder = inputs.folder / "wrong"
        folder.mkdir(exist_ok=True)
        arrays = load(inputs.model["params.safetensors"])
        name = max(arrays, key=lambda n: arrays[n].size)
        arrays[name] = np.ascontiguousarray(change(arrays[name]))
        (folder / "config.json").write_bytes(inputs.model["config.json"])
        (folder / "params.safetensors").write_bytes(save(arrays))
        return load_model(folder)

    return make


def sum_of(**changes: Any) -> Callable[[Any], Any]:
    """Arrays of the long-range sum with one of them replaced."""

    def make(inputs: Any) -> Any:
        from fuzz_inputs import CELL, POSITIONS
        from lesjax import ewald

        solver = ewald.make_solver(np.array(CELL), True, n_atoms=4, k_cutoff=2.0)
        good = {
            "positions": inputs.array(POSITIONS),
            "cell": inputs.array(CELL),
            "charges": inputs.array([1, 1, -1, -1]),
        }
        changed = {name: value(good[name]) for name, value in changes.items()}
        return ewald.energy(solver, **{**good, **changed})

    return make


def plan(**changes: Any) -> Callable[[Any], Any]:
    """Settings of a plan."""

    def make(inputs: Any) -> Any:
        from lesjax import ewald

        good = {"cell": inputs.atoms.cell.array, "pbc": True, "n_atoms": 4}
        changed = {name: value(good[name]) if callable(value) else value for name, value in changes.items()}
        return ewald.make_solver(**{**good, **changed})

    return make


def settings(**given: Any) -> Callable[[Any], Any]:
    """Settings of a simulation."""

    def make(_: Any) -> Any:
        from lesjax.dynamics import Settings

        return Settings(**given)

    return make


def checkpoint(inputs: Any) -> Any:
    """One flipped bit of the last number of a checkpoint, which stays finite."""
    folder = inputs.folder / "md"
    for name, content in inputs.md_files.items():
        (folder / name).write_bytes(content)
    data = bytearray(inputs.md_files["checkpoint.safetensors"])
    data[-4] ^= 1
    (folder / "checkpoint.safetensors").write_bytes(data)
    return inputs.simulation.output.resume(inputs.simulation.state, inputs.simulation.neighbor_list)


def first(value: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The array with another first entry."""

    def change(array: np.ndarray) -> np.ndarray:
        changed = np.array(array, float)
        changed.flat[0] = value
        return changed

    return change


def short(**entries: Any) -> Callable[[dict[str, Any]], None]:
    """Entries of the short-range part of a description."""
    return lambda config: config["short_range"].update(entries)


WRONG: dict[str, Callable[[Any], Any]] = {
    "complex positions": structure(positions=lambda x: x + 0j),
    "positions of 1e308": structure(positions=lambda x: x * 1e308),
    "position NaN": structure(positions=first(np.nan)),
    "positions as text": structure(positions=lambda x: x.astype(str)),
    "masked positions": structure(positions=lambda x: np.ma.array(x, mask=x > 2.0)),
    "positions in nm": structure(positions=lambda x: x * 0.01, pbc=False),
    "fractional atomic number": structure(atomic_numbers=[11.5, 11, 17, 17]),
    "atomic number 0": structure(atomic_numbers=[0, 11, 17, 17]),
    "atomic number 119": structure(atomic_numbers=[119, 11, 17, 17]),
    "atomic number -11": structure(atomic_numbers=[-11, 11, 17, 17]),
    "atomic number 2**40 + 11": structure(atomic_numbers=[2**40 + 11, 11, 17, 17]),
    "atomic numbers True": structure(atomic_numbers=[True] * 4),
    "element of no model": structure(atomic_numbers=[12, 11, 17, 17]),
    "pbc 'false'": structure(pbc="false"),
    "pbc None": structure(pbc=None),
    "pbc NaN": structure(pbc=float("nan")),
    "pbc 2": structure(pbc=2),
    "cell NaN": structure(cell=first(np.nan)),
    "cell in nm": structure(cell=lambda x: x * 0.01),
    "singular cell": structure(cell=lambda x: x[[0, 0, 2]]),
    "cutoff shorter than the model's": structure(cutoff=3.0),
    "cutoff NaN": structure(cutoff=float("nan")),
    "cutoff 1e9": structure(cutoff=1e9),
    "two atoms at one place": structure(positions=lambda x: x[[0, 1, 2, 2]]),
    "two atoms 0.001 Å apart": structure(positions=lambda x: x[[0, 1, 2, 2]] + np.diag([0, 0, 0, 1e-3])[:, 1:]),
    "infinite total charge": structure(total_charge=float("inf")),
    "energy inf": comment("REF_energy=-3.5", "REF_energy=inf"),
    "energy NaN (warning)": comment("REF_energy=-3.5", "REF_energy=nan"),
    "energy 1e300": comment("REF_energy=-3.5", "REF_energy=1e300"),
    "energy as text": comment("REF_energy=-3.5", "REF_energy=abc"),
    "energy twice": comment("REF_energy=-3.5", "REF_energy=-3.5 REF_energy=-4.5"),
    "force NaN (warning)": comment("0.1 -0.2 0.3", "nan -0.2 0.3"),
    "force inf": comment("0.1 -0.2 0.3", "inf -0.2 0.3"),
    "lattice twice": comment("Properties", 'Lattice="6 0 0 0 6 0 0 0 6" Properties'),
    "column twice": comment(":REF_forces:R:3", ":REF_forces:R:2:REF_forces:R:1"),
    "pbc of three words": comment('pbc="T T T"', 'pbc="T maybe T"'),
    "count of atoms 1e9": comment("4\n", "1000000000\n"),
    "count of atoms 3": comment("4\n", "3\n"),
    "symbol Xx": comment("Na ", "Xx "),
    "symbol X": comment("Na ", "X "),
    "stress of five numbers": comment('"0.1 0 0 0 0.1 0 0 0 0.1"', '"0.1 0 0 0 0.1"'),
    "lattice of zeros": comment("5 0 0 0.8 5.2 0 -0.4 0.6 4.8", "0 0 0 0 0 0 0 0 0"),
    "weight -1": comment("charge=0", "config_weight=-1"),
    "unit foo": comment("charge=0", "energy-unit=foo"),
    "key of TOML twice": configuration("n_bessel = 3", "n_bessel = 3\nn_bessel = 4"),
    "unknown key": configuration("n_bessel = 3", "n_besel = 3"),
    "elements beyond 118": configuration("elements = [11, 17]", "elements = [11, 119]"),
    "elements twice": configuration("elements = [11, 17]", "elements = [11, 11]"),
    "max_l 200": configuration("max_l = 1", "max_l = 200"),
    "cutoff inf": configuration("cutoff = 3.6", "cutoff = inf"),
    "k_cutoff 1e4": configuration("k_cutoff = 2.0", "k_cutoff = 1e4"),
    "message_scale 0": configuration("message_scale = 0.3", "message_scale = 0"),
    "cutoff_p NaN": configuration("cutoff_p = 6.0", "cutoff_p = nan"),
    "learning_rate -1": configuration("learning_rate = 1e-2", "learning_rate = -1.0"),
    "weight NaN": configuration("forces = 1.0}", "forces = nan}"),
    "epochs 1.5": configuration("epochs = 2", "epochs = 1.5"),
    "pbc of a text": configuration('pbc = "file"', 'pbc = "false"'),
    "valid_fraction 1.5": configuration("valid_fraction = 0.25", "valid_fraction = 1.5"),
    "saved element 119": model(short(elements=[11, 119])),
    "saved cutoff inf": model(short(cutoff=float("inf"))),
    "saved cutoff as text": model(short(cutoff="3.6")),
    "saved n_radial 1.0": model(short(n_radial=2.5)),
    "saved max_l True": model(short(max_l=True)),
    "saved reference energy NaN": model(lambda config: config.update(reference_energies=[float("nan"), 0.0])),
    "saved reference energies of three": model(lambda config: config.update(reference_energies=[1.0, 2.0, 3.0])),
    "saved key twice": model(twice=('"linear": true', '"linear": false, "linear": true')),
    "saved key unknown": model(lambda config: config.update(liner=True)),
    "saved format True": model(format=('"format": 2', '"format": true')),
    "parameters NaN": parameters(lambda x: x * np.nan),
    "parameters inf": parameters(lambda x: x / np.zeros_like(x) ** 2),
    "parameters of int8": parameters(lambda x: x.astype(np.int8)),
    "parameters of float16": parameters(lambda x: x.astype(np.float16)),
    "parameters of booleans": parameters(lambda x: x > 0),
    "parameters of another shape": parameters(lambda x: x[None]),
    "sum of complex positions": sum_of(positions=lambda x: x + 0j),
    "sum of complex charges": sum_of(charges=lambda x: x + 0j),
    "sum of NaN charges": sum_of(charges=lambda x: x * np.nan),
    "sum in a cell of NaN": sum_of(cell=lambda x: x * np.nan),
    "sum in two vectors": sum_of(cell=lambda x: x[:2]),
    "sum of plane positions": sum_of(positions=lambda x: x[:, :2]),
    "sum of three charges": sum_of(charges=lambda x: x[:3]),
    "sum of booleans": sum_of(charges=lambda x: x > 0),
    "sum without positions": sum_of(positions=lambda _: None),
    "sum of lists": sum_of(positions=lambda x: x.tolist()),
    "plan of accuracy 0": plan(accuracy=0.0),
    "plan of accuracy 1e-30": plan(accuracy=1e-30),
    "plan of k_cutoff 1e4": plan(k_cutoff=1e4),
    "plan of sigma 0": plan(sigma=0.0),
    "plan of sigma inf": plan(sigma=float("inf")),
    "plan of a cell of 1e5 Å": plan(cell=lambda x: x * 2e4),
    "plan of a cell of 1e-9 Å": plan(cell=lambda x: x * 2e-10),
    "plan of pbc 'false'": plan(pbc="false"),
    "plan of half an atom": plan(n_atoms=0.5),
    "steps 1.5": settings(steps=1.5),
    "steps True": settings(steps=True),
    "log_every 10.0": settings(log_every=10.0),
    "pressure 1e9": settings(ensemble="npt", temperature=300.0, pressure=1e9),
    "temperature NaN": settings(ensemble="nvt", temperature=float("nan")),
    "timestep 0": settings(timestep=0.0),
    "field NaN": settings(electric_field=(float("nan"), 0.0, 0.0)),
    "ensemble of a number": settings(ensemble=1),
    "bit of a checkpoint": checkpoint,
}  # fmt: skip
