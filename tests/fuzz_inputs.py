"""What `tests.fuzz` damages, how, and what reads it."""

import dataclasses
import json
import math
import pathlib
import random
from typing import Any


NUMBERS = (
    0, -1, 1, 2, 7, 119, 1000, 10**6, 2**31, 2**63, 10**30, 10**400, 0.5, 1.5, -0.0, 1e-300, 1e-9, 1e-3, 50.0, 1e4, 1e9,
    1e38, 1e308, math.nan, math.inf, -math.inf,
)  # fmt: skip
OTHERS = (True, False, None, "", "x", "nan", "false", "1e9", [], {}, [1] * 5000, [[1]], ["a"], {"a": 1}, [math.nan] * 3)
CONFIG = """
output = "run"
[data]
train = "train.xyz"
valid_fraction = 0.25
pbc = "file"
max_frames = 10
epsilon_infinity = 1.0
[data.keys]
energy = "REF_energy"
[model]
hidden = [4]
linear = true
energy_scale = 1.0
[model.short_range]
elements = [11, 17]
cutoff = 3.6
cutoff_p = 6.0
n_bessel = 3
n_radial = 2
n_embedding = 1
embedding_scale = 1.0
max_l = 1
max_nu = 2
messages = [["M", "Ar"]]
message_scale = 0.3
[model.long_range]
sigma = 1.0
k_cutoff = 2.0
[model.long_range.charges]
n_channels = 1
scale = 0.1
hidden = [4]
[training]
seed = 0
batch_size = 2
weight_decay = 1e-4
clip = 10.0
ema = 0.99
ensemble = 2
[[training.phases]]
epochs = 2
learning_rate = 1e-2
weights = {energy = 1.0, forces = 1.0}
"""
CELL = [[5.0, 0.0, 0.0], [0.8, 5.2, 0.0], [-0.4, 0.6, 4.8]]
POSITIONS = [[0.1, 0.0, 0.0], [2.9, 2.8, 0.1], [2.2, 0.3, 2.4], [0.2, 2.9, 2.3]]
SYMBOLS = ("Na", "Na", "Cl", "Cl")
FRAME = (
    '4\nLattice="5 0 0 0.8 5.2 0 -0.4 0.6 4.8" Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-3.5 '
    'REF_stress="0.1 0 0 0 0.1 0 0 0 0.1" charge=0 pbc="T T T"\n'
    + "".join(f"{s} {x} {y} {z} 0.1 -0.2 0.3\n" for s, (x, y, z) in zip(SYMBOLS, POSITIONS, strict=True))
)


class Wrong(Exception):
    """An input that must not pass has passed, or its results are not finite."""


class Refused(Exception):
    """A command has refused its input with a message."""


class Inputs:
    """Everything that the inputs are made of, and what reads them."""

    def __init__(self, folder: pathlib.Path) -> None:
        import lesjax.dynamics
        import lesjax.training  # noqa: F401 (imports take seconds, which are no part of an input)
        from lesjax import io
        from lesjax.models import CACEConfig, LatentCharges, LongRangeConfig, ModelConfig, Potential

        self.folder = folder
        (folder / "train.xyz").write_text(2 * FRAME)
        short_range = CACEConfig((11, 17), 3.6, n_bessel=3, n_radial=2, n_embedding=1, max_l=1, max_nu=2)
        long_range = LongRangeConfig(LatentCharges(hidden=(4,)), k_cutoff=2.0)
        self.config = ModelConfig(short_range, long_range, hidden=(4,), reference_energies=(-1.0, -2.0))
        self.potential = Potential.create(self.config)
        self.potential.save(folder / "good")
        self.model = {file.name: file.read_bytes() for file in (folder / "good").iterdir()}
        self.atoms = io.read(folder / "train.xyz")[0]
        self.short_range = Potential.create(dataclasses.replace(self.config, long_range=None))

    # damage -------------------------------------------------------------------------------------------------------

    def value(self, rng: random.Random, old: Any = None) -> Any:
        """A value in the place of another one: hostile, of another kind, or scaled."""
        if isinstance(old, int | float) and not isinstance(old, bool) and rng.random() < 0.4:
            return old * rng.choice((-1, 10, 100, 1e3, 1e6, 1e-2, 1e-4, 1e-8))
        if isinstance(old, list) and old and rng.random() < 0.6:
            entries = list(old)
            i = rng.randrange(len(entries))
            entries[i] = self.value(rng, entries[i])
            return entries
        return rng.choice(NUMBERS if rng.random() < 0.6 else OTHERS)

    def text(self, rng: random.Random, text: str) -> str:
        """Bytes of a text changed, lines doubled, or the end cut off."""
        how, i = rng.randrange(5), rng.randrange(len(text))
        if how == 0:
            return text[:i]
        if how == 1:
            return text[:i] + rng.choice('\x00"\n=[]{}e9-,. ü∞') + text[i + rng.randrange(2) :]
        lines = text.splitlines(keepends=True)
        j = rng.randrange(len(lines))
        if how == 2:
            return "".join([*lines[:j], lines[j], *lines[j:]])
        if how == 3:
            return "".join([*lines[:j], *lines[j + 1 :]])
        numbers = [k for k, c in enumerate(text) if c.isdigit()]
        k = rng.choice(numbers)
        number = rng.choice(("1e9", "1000000000", "nan", "inf", "-7", "1e308", "0", "0.00001", "9" * 400))
        return text[:k] + number + text[k + 1 :]

    def plain(self, rng: random.Random, tree: Any) -> Any:
        """One entry of nested dictionaries changed, removed or added."""
        if not isinstance(tree, dict) or not tree or rng.random() < 0.05:
            return self.value(rng, tree)
        key = rng.choice(list(tree))
        changed = dict(tree)
        how = rng.random()
        if how < 0.05:
            del changed[key]
        elif how < 0.1:
            changed[f"{key}_"] = changed[key]
        elif isinstance(changed[key], dict) and how < 0.95:
            changed[key] = self.plain(rng, changed[key])
        else:
            changed[key] = self.value(rng, changed[key])
        return changed

    # readers ------------------------------------------------------------------------------------------------------

    def toml(self, rng: random.Random) -> None:
        """A configuration, by its text or by its values, and the shapes of its model."""
        import jax

        from lesjax.models import Potential
        from lesjax.training import load_config

        text = CONFIG
        if rng.random() < 0.35:
            text = self.text(rng, CONFIG)
        else:
            lines = CONFIG.splitlines()
            for _ in range(rng.choice((1, 1, 2))):
                i = rng.choice([k for k, line in enumerate(lines) if " = " in line])
                key, old = lines[i].split(" = ", 1)
                number = old if not old.replace(".", "").replace("e-", "").isdigit() else json.loads(old)
                lines[i] = f"{key} = {toml(self.value(rng, number))}"
            text = "\n".join(lines)
        path = self.folder / "config.toml"
        path.write_text(text)
        config = load_config(path).model
        if config.short_range.elements:
            jax.eval_shape(lambda: Potential.create(config).params)

    def saved(self, rng: random.Random) -> None:
        """A folder of a model with a damaged description, header or numbers."""
        import jax
        import numpy as np

        from lesjax.models import load
        from lesjax.system import System

        folder = self.folder / "model"
        folder.mkdir(exist_ok=True)
        description, parameters = (self.model[name] for name in ("config.json", "params.safetensors"))
        how, must_fail = rng.randrange(6), False
        length = int.from_bytes(parameters[:8], "little")
        header, body = json.loads(parameters[8 : 8 + length]), bytearray(parameters[8 + length :])
        if how == 0:
            description = self.text(rng, description.decode()).encode()
        elif how == 1:
            description = json.dumps(self.plain(rng, json.loads(description))).encode()
        elif how == 2:
            parameters = with_header(self.plain(rng, header), body)
        elif how == 3:
            name = rng.choice([n for n in header if n != "__metadata__"])
            header[name]["dtype"] = rng.choice("F8_E4M3 F8_E5M2 BF16 F16 BOOL I8 I64 U64 C64 F64".split())
            parameters = with_header(header, body)
        elif how == 4:
            values = np.frombuffer(bytes(body), np.dtype(self.dtype)).copy()
            bad = rng.choice((math.nan, math.inf, -math.inf, 1e20, 1e30, -1e38))
            values[rng.randrange(len(values))] = bad
            must_fail = not math.isfinite(bad)
            parameters = with_header(header, values.tobytes())
        else:
            data = bytearray(parameters)
            for _ in range(rng.choice((1, 8))):
                data[rng.randrange(len(data))] = rng.randrange(256)
            parameters = bytes(data[: rng.choice((len(data), rng.randrange(len(data))))])
        (folder / "config.json").write_bytes(description)
        (folder / "params.safetensors").write_bytes(parameters)
        potential = load(folder)
        if must_fail:
            raise Wrong("parameters that are not finite were read")
        finite(potential.params)
        if potential.config == self.config:
            prediction = potential(System.from_ase(self.atoms, cutoff=potential.cutoff))
            finite((prediction.energy, prediction.forces, prediction.stress))
        else:
            numbers = [potential.config.short_range.elements[0]] * 4
            system = System.from_arrays(POSITIONS, CELL, numbers, False, cutoff=potential.cutoff)
            jax.eval_shape(lambda: potential.energy(system, potential.make_solver(system)))

    def xyz(self, rng: random.Random) -> None:
        """A file of structures, its labels, and what a model says of them."""
        from lesjax import io

        text = 2 * FRAME
        for _ in range(rng.choice((1, 1, 2))):
            text = self.text(rng, text) or "x"
        path = self.folder / "damaged.xyz"
        path.write_text(text)
        for atoms in io.read(path)[:3]:
            label = io.labels(atoms)
            if any(bool(abs(v).max(initial=0.0) == math.inf) for v in vars(label).values()):
                raise Wrong("labels that are infinite were read")
            self.compute(atoms)

    def arrays(self, rng: random.Random) -> None:
        """Arrays of a structure: other kinds, shapes and sizes."""
        import numpy as np

        from lesjax.system import System

        given: dict[str, Any] = {
            "positions": np.array(POSITIONS), "cell": np.array(CELL), "atomic_numbers": np.array([11, 11, 17, 17]),
            "pbc": rng.choice((True, False, (True, True, False), (True, True, True))), "cutoff": 3.6,
            "total_charge": 0.0, "spin_multiplicity": 1.0,
        }  # fmt: skip
        must_fail = False
        for _ in range(rng.choice((1, 1, 2))):
            name = rng.choice(list(given))
            how, old = rng.randrange(7), given[name]
            if isinstance(old, np.ndarray) and not (old.ndim and old.dtype.kind in "iuf"):
                continue  # damaged before
            if how == 0:
                given[name] = self.value(rng, old)
                must_fail |= name != "total_charge" and name != "spin_multiplicity" and bad(given[name])
            elif not isinstance(old, np.ndarray):
                given[name] = rng.choice(("false", None, math.nan, 1j, "True", [1, 2], -5, 1e9, np.array("x")))
                must_fail |= name in ("pbc", "cutoff")
            elif how == 1:
                given[name] = old * (1 + rng.choice((0, 1)) * 1j)
                must_fail = True
            elif how == 2:
                changed = old.astype(float)
                entry = tuple(rng.randrange(size) for size in old.shape)
                changed[entry] = rng.choice((math.nan, math.inf, 1e308, 1e12, 1e7, 0.5, 0.0, -3.0, 1e4, 1e-5))
                given[name] = changed
                must_fail |= not abs(changed[entry]) <= 1e6 or (name == "atomic_numbers")
            elif how == 3:
                given[name] = old.astype(float) * rng.choice((1e-8, 1e-4, 1e-2, 1e-1, 10.0, 1e2, 1e3, 1e5, 1e9))
                must_fail |= name == "atomic_numbers"
            elif how == 4:
                other = [old.astype(kind) for kind in (str, object, bool)]
                given[name] = rng.choice((old[:-1], old[None], old.tolist(), *other))
            elif how == 5 and name == "cell":
                given[name] = np.array([old[0], old[0] + [0, 10.0 ** -rng.randrange(12), 0], old[2]])
            elif name == "positions":
                given[name] = old + rng.choice((1e2, 1e3, 1e5, 1e8))
            else:
                given[name] = old + rng.choice((200, 2**40))
                must_fail |= name == "atomic_numbers"
        system = System.from_arrays(**given)
        if must_fail:
            raise Wrong(f"arrays were taken: {given}")
        finite((system.positions, system.cell))
        self.compute_system(system)

    def solver(self, rng: random.Random) -> None:
        """Settings of a plan of the long-range sum."""
        import numpy as np

        from lesjax import ewald

        given: dict[str, Any] = {"cell": np.array(CELL), "pbc": True, "n_atoms": 4, "sigma": 1.0}
        given |= rng.choice(({"k_cutoff": 2.0}, {"accuracy": 1e-4}, {}))
        given["method"] = rng.choice(("auto", "direct", "mesh"))
        name = rng.choice(list(given))
        given[name] = self.value(rng, given[name].tolist() if name == "cell" else given[name])
        if name == "cell" and rng.random() < 0.5:
            given["cell"] = np.array(CELL) * 10.0 ** rng.randrange(-9, 9)
        finite(ewald.make_solver(given.pop("cell"), given.pop("pbc"), **given).sigma)

    def settings(self, rng: random.Random) -> None:
        """Settings of a simulation."""
        from lesjax.dynamics import Settings

        defaults = {f.name: f.default for f in dataclasses.fields(Settings)}
        given = {}
        for name in rng.sample(list(defaults), rng.choice((1, 2, 3))):
            given[name] = self.value(rng, defaults[name])
        settings = Settings(**given)
        for value in vars(settings).values():
            if isinstance(value, int | float) and not math.isfinite(value):
                raise Wrong(f"settings were taken: {given}")

    # results ------------------------------------------------------------------------------------------------------

    def compute(self, atoms: Any) -> None:
        """Energy and forces of a short-range model, and the plan of the sum."""
        from lesjax.system import System

        self.compute_system(System.from_ase(atoms, cutoff=self.potential.cutoff))

    def compute_system(self, system: Any) -> None:
        """As `compute`; padded to few shapes, so that little is compiled."""
        self.potential.make_solver(system)
        n, m = system.shape
        if n <= 16 and m <= 1024:
            prediction = self.short_range(system.pad_to(16, 64 if m <= 64 else 1024))
            finite((prediction.energy, prediction.forces))

    @property
    def dtype(self) -> str:
        """Of the parameters."""
        import jax

        return str(jax.tree.leaves(self.potential.params)[0].dtype)


def toml(value: Any) -> str:
    """A value in TOML's notation; a text that stands for none as it is."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int) and abs(value) >= 2**63:
        return f"1{'0' * (400 if value > 10**100 else 30)}"
    return json.dumps("none" if value is None else value, ensure_ascii=False)


def with_header(header: Any, body: bytes | bytearray) -> bytes:
    """A file of safetensors."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(body)


def bad(value: Any) -> bool:
    """Whether there is anything among the entries that is not finite."""
    if isinstance(value, list | tuple):
        return any(map(bad, value))
    return isinstance(value, float) and not math.isfinite(value)


def finite(tree: Any) -> None:
    """Raise `Wrong` for arrays with entries that are not finite."""
    import jax
    import numpy as np

    for leaf in jax.tree.leaves(tree):
        if not np.isfinite(np.asarray(leaf)).all():
            raise Wrong("results are not finite")
