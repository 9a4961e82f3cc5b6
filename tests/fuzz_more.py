"""Further inputs of `tests.fuzz`: formats, labels, sums, lists of neighbours, commands, folders of runs."""

import contextlib
import io as text_io
import json
import math
import pathlib
import random
import shutil
import warnings
from collections.abc import Callable
from typing import Any

from fuzz_inputs import CELL, CONFIG, FRAME, POSITIONS, Inputs, Refused, Wrong, bad, finite
from fuzz_wrong import WRONG


FORMATS = {
    "a.xyz.gz": "extxyz", "a.xyz.bz2": "extxyz", "a.xyz.xz": "extxyz", "a.cif": "cif", "POSCAR": "vasp",
    "a.traj": "traj", "a.json": "json", "a.gen": "gen", "a.pdb": "proteindatabank", "a.xsf": "xsf",
    "geometry.in": "aims", "a.res": "res",
}  # fmt: skip
ENTRIES = ("REF_energy", "REF_stress", "REF_virial", "REF_dipole", "charge", "spin", "config_weight", "energy_weight")
COLUMNS = ("REF_forces", "REF_charges", "REF_born_effective_charges")
OPTIONS = ("--steps", "--timestep", "--temperature", "--pressure", "--seed", "--log-every", "--ensemble", "--format",
           "--epsilon-infinity", "--thermostat-time", "--checkpoint-every", "--angular-momentum", "--pbc")  # fmt: skip
TEXTS = ("nan", "inf", "-inf", "1e9", "1e400", "0", "-1", "1.5", "", " ", "x", "true", "[1]", "9" * 5000, "0x10", "1_0",
         "٣", "nvt", "npt", "xyz", "10", "300", "None", "1e-320")  # fmt: skip


class Fuzz(Inputs):
    """With folders of a short simulation and of a short training."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(folder)
        import ase.io
        import numpy as np

        from lesjax.dynamics import Settings
        from lesjax.dynamics.simulation import Simulation
        from lesjax.training import load_config, train
        from lesjax.training.initialize import initial_state

        (folder / "formats").mkdir()
        for name, kind in FORMATS.items():
            ase.io.write(folder / "formats" / name, self.atoms.copy(), format=kind)
        self.formats = {name: (folder / "formats" / name).read_bytes() for name in FORMATS}
        self.array = lambda value: np.asarray(value, self.dtype)
        self.simulation = Simulation(self.short_range, self.atoms, folder / "md", Settings(steps=2, temperature=300.0))
        self.simulation.run(quiet=True)
        self.md_files = {file.name: file.read_bytes() for file in (folder / "md").iterdir() if file.is_file()}
        text = CONFIG.replace("ensemble = 2\n", "").replace("[model.long_range]", "[unused]").split("[unused]")[0]
        (folder / "short.toml").write_text(
            text.replace('messages = [["M", "Ar"]]\n', "").replace("[model]\n", "[model]\nlong_range = false\n")
            + "[training]\nbatch_size = 2\n[[training.phases]]\nepochs = 1\n"
        )
        self.run_config = load_config(folder / "short.toml", [f"output={folder / 'run'}"])
        potential = train(self.run_config, quiet=True)
        self.state = initial_state(self.run_config.training, potential)
        self.run_files = {file.name: file.read_bytes() for file in (folder / "run").iterdir() if file.is_file()}

    def bytes(self, rng: random.Random, data: bytes) -> bytes:
        """As `text`, or single bytes of anything."""
        if rng.random() < 0.4:
            with contextlib.suppress(UnicodeDecodeError):
                return self.text(rng, data.decode()).encode()
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 8, 64))):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed[: rng.choice((len(changed), rng.randrange(len(changed))))])

    # readers ------------------------------------------------------------------------------------------------------

    def formats_of_files(self, rng: random.Random) -> None:
        """Files of other formats, compressed and binary ones too."""
        from lesjax import io

        name = rng.choice(list(FORMATS))
        path = self.folder / "damaged" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.bytes(rng, self.formats[name]))
        for atoms in io.read(path)[:3]:
            self.compute(atoms)

    def labels(self, rng: random.Random) -> None:
        """Labels of other kinds, shapes and sizes; a label that is not finite is refused, or a warning says so."""
        import numpy as np

        from lesjax import io

        atoms, name = self.atoms.copy(), rng.choice((*ENTRIES, *COLUMNS))
        is_wrong = False
        if name in COLUMNS:
            column = np.ones((4, {"REF_forces": 3, "REF_charges": 1, "REF_born_effective_charges": 9}[name]))
            how = rng.randrange(4)
            if how == 0:
                column[rng.randrange(4), 0] = number = rng.choice((math.nan, math.inf, 1e20, -1e300, 1e5))
                is_wrong = not abs(number) <= 1e15
            elif how == 1:
                column = rng.choice((column[:, :2], column.astype(str), column * (1 + 1j), column > 0))
            elif how == 2:
                column = column * rng.choice((1e3, 1e6, 1e18))
                is_wrong = bool(column.max() > 1e15)
            atoms.arrays[name] = column
        else:
            atoms.info[name] = value = self.value(rng, rng.choice((1.0, [0.1] * 6, [0.1] * 3)))
            is_wrong = bad(value)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            selection = io.select([self.atoms, atoms])
        said = any(name in str(warning.message) for warning in caught)
        if is_wrong and not said and name in selection.names.values():
            raise Wrong(f"`{name}` was taken: {atoms.info.get(name, atoms.arrays.get(name))}")
        for label in selection.labels:
            if any(np.isinf(value).any() for value in vars(label).values()):
                raise Wrong(f"`{name}` is infinite")

    def sums(self, rng: random.Random) -> None:
        """Arrays of the sum, its potential, its field, and of induced dipoles."""
        import numpy as np

        from lesjax import ewald, response

        periodic = rng.random() < 0.5
        solver = ewald.make_solver(np.array(CELL), periodic, n_atoms=4, k_cutoff=2.0)
        given: dict[str, Any] = {
            "solver": solver, "positions": self.array(POSITIONS), "cell": self.array(CELL),
            "charges": self.array([1, 1, -1, -1]),
        }  # fmt: skip
        function = rng.choice((ewald.energy, ewald.potential, response.one_shot_induction))
        if function is response.one_shot_induction:
            given["alpha"] = self.array([0.1, 0.1, 0.2, 0.2])
        given["atom_mask"] = np.array([True, True, True, rng.random() < 0.5])
        name, must_fail = rng.choice(list(given)), True
        old, how = given[name], rng.randrange(7)
        unused = name == "cell" and not periodic  # where boundaries are open the cell says nothing
        if name == "solver":
            given[name] = rng.choice((None, "auto", 1.0, given["cell"]))
        elif name == "atom_mask":
            given[name] = rng.choice((old.astype(self.dtype), old[:3], True, old.tolist(), np.array(["x"] * 4)))
        elif how == 0:
            given[name] = rng.choice((old.tolist(), None, "x", 1.0))
        elif how == 1:
            given[name] = old * (1 + rng.choice((0, 1)) * 1j)
        elif how == 2:
            given[name] = rng.choice((old[:-1], old[None], old.astype(str), old.astype(object), old > 0))
        else:
            changed = old.copy()
            entry = tuple(rng.randrange(size) for size in old.shape)
            changed[entry] = number = rng.choice((math.nan, math.inf, -math.inf, 1e30, 0.3, 1e3))
            given[name], must_fail = changed, not abs(number) <= 1e9
        result = function(**given)
        if must_fail and not unused:
            raise Wrong(f"arrays of a sum were taken: damage {how} of {name}")
        if not unused:
            finite(result if function is not response.one_shot_induction else result.energy)

    def neighbors(self, rng: random.Random) -> None:
        """Arguments of a list of neighbours."""
        import numpy as np

        from lesjax.neighbors.verlet import allocate

        given: dict[str, Any] = {
            "positions": np.array(POSITIONS), "cell": np.array(CELL), "pbc": (True, True, True), "cutoff": 3.6,
            "skin": 0.5,
        }  # fmt: skip
        name, must_fail = rng.choice(list(given)), False
        old = given[name]
        if isinstance(old, np.ndarray):
            changed = old.copy()
            how = rng.randrange(4)
            if how == 0:
                changed[rng.randrange(len(old)), 0] = number = rng.choice((math.nan, math.inf, 1e9, 1e308))
                must_fail = not abs(number) <= 1e6
            elif how == 1:
                changed, must_fail = rng.choice((old * 1j, old.astype(str), old[:, :2], old.ravel())), True
            elif how == 2:
                changed = old * 10.0 ** rng.randrange(-12, 8)
            given[name] = changed
        else:
            given[name] = rng.choice(("false", None, math.nan, 1j, [1, 2], -5, 1e9, np.array("x"), [None] * 3, "1"))
            must_fail = True
        allocate(**given)
        if must_fail:
            raise Wrong(f"arguments of a list were taken: {name} = {given[name]!r}")

    def command(self, rng: random.Random) -> None:
        """Options of `lesjax md` and `lesjax train`, as far as their checks reach before anything is computed."""
        from lesjax import cli
        from lesjax.dynamics import Settings
        from lesjax.training import load_config
        from lesjax.validate import check_bounds

        if rng.random() < 0.3:
            keys = [line.split(" = ")[0] for line in CONFIG.splitlines() if " = " in line]
            (self.folder / "config.toml").write_text(CONFIG)
            tables = ("data", "model", "model.short_range", "model.long_range", "training", "training.phases.0", "")
            override = f"{rng.choice(tables)}.{rng.choice(keys)}={rng.choice(TEXTS)}".lstrip(".")
            load_config(self.folder / "config.toml", [override, *rng.choice(([], [rng.choice(TEXTS)]))])
            return
        arguments = ["md", str(self.folder / "good"), str(self.folder / "train.xyz")]
        for option in rng.sample(OPTIONS, rng.choice((1, 2))):
            arguments += [f"{option}={rng.choice(TEXTS)}"]
        said = text_io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                parsed = cli._parser().parse_args(arguments)
        except SystemExit as error:
            if "error: argument" not in said.getvalue():
                raise Wrong(f"no message for {arguments}") from error
            raise Refused(said.getvalue().splitlines()[-1]) from error
        options = {name: getattr(parsed, name) for name, *_ in cli.MD_OPTIONS}
        options = {name: value for name, value in options.items() if not isinstance(value, cli._Default)}
        check_bounds(options)
        settings = Settings(**options)
        if any(bad(value) for value in vars(settings).values()):
            raise Wrong(f"settings were taken: {settings}")

    def evaluated(self, rng: random.Random) -> None:
        """`lesjax evaluate` and `lesjax info`, whole, with damaged data or a damaged model."""
        from lesjax import cli

        model, data, out = self.folder / "evaluated", self.folder / "data.xyz", self.folder / "out.json"
        shutil.rmtree(model, ignore_errors=True)
        self.short_range.save(model)
        text = 2 * FRAME
        if rng.random() < 0.7:
            text = self.text(rng, text) or "x"
        else:
            name = rng.choice(list(self.model))
            (model / name).write_bytes(self.bytes(rng, (model / name).read_bytes()))
        data.write_text(text)
        out.unlink(missing_ok=True)
        arguments = rng.choice((["info", str(model)], *3 * [["evaluate", str(model), str(data), "--json", str(out)]]))
        said = text_io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(text_io.StringIO()):
            status = cli.main(arguments)
        if status:
            if len(said.getvalue()) < 20:
                raise Wrong(f"status {status} without a message")
            raise Refused(said.getvalue())
        if out.exists():
            metrics = json.loads(out.read_text())
            # R² and correlations of labels that are all equal are none
            errors = [value for name, value in metrics.items() if name.endswith(("rmse", "mae"))]
            if not all(math.isfinite(value) for value in errors if isinstance(value, float)):
                raise Wrong(f"errors are not finite: {metrics}")

    def simulation_folder(self, rng: random.Random) -> None:
        """The folder of a simulation with one damaged file: description, checkpoint, log, trajectory."""
        folder = self.folder / "md"
        name = self.restore(rng, folder, self.md_files, ("settings.json", "checkpoint.safetensors", "log.csv"))
        output = self.simulation.output
        output.folder.check_files()
        output.check()
        restored = output.resume(self.simulation.state, self.simulation.neighbor_list)
        if restored is not None:
            finite(restored.state)
            if restored.progress.step != 2:
                raise Wrong(f"another step was taken from {name}")

    def training_folder(self, rng: random.Random) -> None:
        """The folder of a training with one damaged file."""
        from lesjax.models.storage import unflatten
        from lesjax.runs import read_log
        from lesjax.training.folder import check_folder, run_folder

        folder = self.folder / "run"
        name = self.restore(rng, folder, self.run_files, ("config.json", "checkpoint.safetensors", "log.jsonl"))
        output = run_folder(folder)
        check_folder(self.run_config, output)
        checkpoint = output.read_checkpoint()
        if checkpoint is not None:
            finite(unflatten(self.state, checkpoint.arrays, name))
            output.rewind(checkpoint)
        read_log(output.log)

    def restore(self, rng: random.Random, folder: pathlib.Path, files: dict[str, bytes], names: tuple) -> str:
        """Write the files of a run as they were, one of them damaged or not at all; gives its name."""
        name = rng.choice(names)
        for other, content in files.items():
            (folder / other).write_bytes(content)
        content, how = files[name], rng.randrange(4)
        if how == 0:
            (folder / name).unlink()
        elif how == 1 and name.endswith(".json"):
            (folder / name).write_text(json.dumps(self.plain(rng, json.loads(content))))
        elif how == 2 and name.endswith(".json"):
            (folder / name).write_text(rng.choice(("", "[]", "null", "{}", '{"a": 1, "a": 2}', "[" * 5000, "NaN")))
        else:
            (folder / name).write_bytes(self.bytes(rng, content))
        return name

    def certain(self, rng: random.Random) -> None:
        """An input that is certainly wrong, and gives finite numbers where nobody looks."""
        name = rng.choice(list(WRONG))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            WRONG[name](self)
        if name.endswith("(warning)") and caught:
            raise Refused(str(caught[0].message))
        raise Wrong(f"accepted: {name}")

    def cases(self) -> list[Callable[[random.Random], None]]:
        """All readers, those with the more varied inputs more often."""
        return [
            self.toml, self.toml, self.saved, self.saved, self.xyz, self.xyz, self.arrays, self.arrays, self.solver,
            self.settings, self.formats_of_files, self.formats_of_files, self.labels, self.sums, self.neighbors,
            self.command, self.evaluated, self.simulation_folder, self.training_folder, *3 * [self.certain],
        ]  # fmt: skip
