"""The command ``lesjax``: train, evaluate, md, info, convert, demo."""

import argparse
import contextlib
import errno
import pathlib
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lesjax import __version__
from lesjax.signals import Stop, Stopped, ignore, stopping


PBC = {"file": None, "true": True, "false": False}
# commands that resume where they were stopped
RESUMED = ("train", "md")
RESUME = "; the same command resumes from the last checkpoint"
QUIET = "no progress: a bar on a terminal, lines elsewhere"
FULL = (errno.ENOSPC, errno.EDQUOT)
METRICS = """Metrics in the JSON file, for each label that the data has:
  n_structures               number of structures
{terms}
  epsilon_infinity           electronic dielectric constant, with --epsilon-infinity fit
_r2 is the coefficient of determination, _corr2 the squared correlation, which a
common factor or offset of the predictions leaves as it is.
For an ensemble they compare the mean of its members, and for each label there are
  forces_spread              root mean square of the standard deviation over the members
  forces_spearman            rank correlation of spread and error, for forces atom by atom
Energies and forces do not determine the sign of the latent charges: it is chosen once for all that depends on it.
Moments are about the centre of mass.

The JSON file also has `units`, and RMSE and MAE of parts of the data:
  by_element                 of each element, for labels of atoms
  by_config_type             of each `config_type` in the comment lines, if there is any
  by_composition             of each composition, such as H2O×64

For a model with latent charges, labels or not, with the sign of the model; a list for several channels:
  charges                    mean and std (standard deviation) by element, e
  net_charge                 sum over a structure: mean and largest, e"""


# Ensembles of `lesjax.dynamics`, which takes seconds to import.
ENSEMBLES = ("nvt", "nve", "nose-hoover", "csvr", "langevin", "npt", "npt-flexible")
# Name in `Settings`, which has the defaults; help; type.
MD_OPTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (
        "ensemble",
        "nve, nvt, npt, npt-flexible, or a thermostat by name: nose-hoover, csvr, langevin",
        {"choices": ENSEMBLES, "metavar": "NAME"},
    ),
    ("steps", "length of the run", {"type": int}),
    ("timestep", "fs", {"type": float}),
    ("temperature", "K", {"type": float}),
    ("pressure", "bar", {"type": float}),
    ("thermostat_time", "fs", {"type": float}),
    ("barostat_time", "fs", {"type": float}),
    ("seed", "seed of velocities and thermostat", {"type": int}),
    (
        "angular_momentum",
        "angular momentum of a cluster at the start: keep or zero",
        {"choices": ("keep", "zero"), "metavar": "NAME"},
    ),
    ("log_every", "steps between lines of the log", {"type": int, "metavar": "STEPS"}),
    ("frame_every", "steps between frames of the trajectory", {"type": int, "metavar": "STEPS"}),
    ("checkpoint_every", "steps between checkpoints", {"type": int, "metavar": "STEPS"}),
    ("format", "format of the trajectory: xyz or traj", {"choices": ("xyz", "traj"), "metavar": "NAME"}),
    ("polarization", "write the polarization of each frame", {"action": "store_true"}),
    ("born_effective_charges", "write them for each frame", {"action": "store_true"}),
    ("electric_field", "V/Å, without exponents", {"type": float, "nargs": 3, "metavar": ("X", "Y", "Z")}),
    ("epsilon_infinity", "electronic dielectric constant", {"type": float}),
)

CONVERT_OPTIONS = (
    ("reference-energies", "A=E,B=E,…", "energy of one atom of each element, eV, where the file has none"),
    ("norm-factor", "X", "factor of the long-range sum, eV Å, where the file has none"),
    ("self-interaction", "true|false", "whether the sum kept the energy of each Gaussian, where the file does not say"),
    ("orient", "FILE", "structures that set the sign of the charges, by labels of charges or dipoles if it has them"),
)


@dataclass(frozen=True)
class _Default:
    """Default of a field of `Settings`, which is imported only where the help shows it."""

    name: str

    def __str__(self) -> str:
        from lesjax.dynamics import Settings

        value = getattr(Settings, self.name)
        return "" if value is None or isinstance(value, bool) else f" (default: {value})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 128 plus the number of a signal that stopped it."""
    with stopping(for_good=arguments is None) as stop:
        parsed = argparse.Namespace(command="")
        try:
            parsed = _parser().parse_args(arguments)
            stop.line = lambda error: f"{error}{RESUME if parsed.command in RESUMED else ''}"
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_: print(f"lesjax {parsed.command}: {message}", file=sys.stderr)
                return parsed.run(parsed)
        except KeyboardInterrupt as error:
            return _stopped(parsed, error if isinstance(error, Stopped) else Stopped(), stop)
        except Exception as error:
            if stop.error is not None:  # some imports make another error of it
                return _stopped(parsed, stop.error, stop)
            known = isinstance(error, (ValueError, TypeError, OSError, RuntimeError, ArithmeticError))
            if not known or parsed.traceback:
                raise
            full = getattr(error, "errno", None) in FULL and parsed.command in RESUMED
            print(f"lesjax {parsed.command}: {error}{RESUME if full else ''}", file=sys.stderr)
            return 1


def _stopped(parsed: argparse.Namespace, error: Stopped, stop: Stop) -> int:
    """Say what was kept, in one line; returns the exit status."""
    folder = getattr(parsed, "folder", None)
    kept = "" if parsed.command not in RESUMED else RESUME if folder is None else f"; {folder.kept()}"
    ignore()
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(f"{error}{kept}", file=sys.stderr, flush=True)
    return 128 + error.number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lesjax", description="Latent Ewald Summation in JAX.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a potential, or resume a run that was stopped")
    train.add_argument("config", help="TOML file, or the name of a shipped one (in lesjax/configs), such as les")
    train.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a key of the file")
    train.add_argument("--ensemble", type=int, metavar="N", help="train N models that differ in their seeds")
    train.add_argument("--quiet", action="store_true", help=QUIET)
    train.set_defaults(run=_train)

    evaluate = commands.add_parser(
        "evaluate",
        help="compare a potential with labelled structures",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    evaluate.add_argument("-h", "--help", action=_EvaluateHelp, nargs=0, help="show this help message and exit")
    evaluate.add_argument("model", help="folder of a potential or an ensemble")
    evaluate.add_argument("data", help="file that ase reads, such as extended xyz")
    evaluate.add_argument("--json", metavar="OUT.json", help="write the metrics there")
    evaluate.add_argument("--plot", metavar="OUT.png", help="draw parity plots; the ending may also be pdf or svg")
    evaluate.add_argument("--calibration", metavar="OUT.png", help="draw error against spread of an ensemble")
    evaluate.add_argument("--key", action="append", default=[], metavar="LABEL=NAME", help="e.g. energy=dft_energy")
    evaluate.add_argument(
        "--labels",
        choices=("error", "skip"),
        default="error",
        help="structures that have a label under another name than the others: an error, or left out",
    )
    evaluate.add_argument("--pbc", choices=tuple(PBC), default="file", help="override the periodicity")
    evaluate.add_argument(
        "--born-order", metavar="ORDER", help="order of Born charges: polarization-first or displacement-first"
    )
    evaluate.add_argument(
        "--epsilon-infinity", type=_epsilon, default=1.0, metavar="X|fit", help="scales Born effective charges by √X"
    )
    evaluate.set_defaults(run=_evaluate)

    md = commands.add_parser("md", help="run molecular dynamics, or resume a run that was stopped")
    md.add_argument("model", help="folder of a potential")
    md.add_argument("structure", help="file that ase reads; the last frame is used")
    md.add_argument("--pbc", choices=tuple(PBC), default="file", help="override the periodicity")
    for name, help_text, options in MD_OPTIONS:
        default = _Default(name)
        md.add_argument(f"--{name.replace('_', '-')}", default=default, help=f"{help_text}%(default)s", **options)
    md.add_argument("--out", default="md", help="folder of the results (default: md)")
    md.add_argument("--quiet", action="store_true", help=QUIET)
    md.set_defaults(run=_md)

    info = commands.add_parser("info", help="describe a potential")
    info.add_argument("model", help="folder of a potential or an ensemble")
    info.set_defaults(run=_info)

    convert = commands.add_parser("convert", help="convert a published model of CACE-LES, MACE-LES or NequIP-LES")
    convert.add_argument("file", help="file of torch: .pth, .model or .ckpt; nothing in it is executed")
    convert.add_argument("out", help="folder of the potential")
    for name, metavar, help_text in CONVERT_OPTIONS:
        convert.add_argument(f"--{name}", metavar=metavar, help=help_text)
    convert.set_defaults(run=_convert)

    demo = commands.add_parser("demo", help="learn the charges of an ionic gas from energies and forces")
    demo.add_argument("--out", default="demo", help="folder of the results (default: demo)")
    demo.set_defaults(run=_demo)
    return parser


class _EvaluateHelp(argparse.Action):
    """Show the help with the metrics, whose rows are imported only for it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from lesjax.training.terms import metrics_help

        parser.epilog = METRICS.format(terms=metrics_help())
        parser.print_help()
        parser.exit()


def _train(arguments: argparse.Namespace) -> int:
    from lesjax.processes import keep_freed_memory

    keep_freed_memory()
    from lesjax.training import load_config

    overrides = list(arguments.set)
    if arguments.ensemble is not None:
        overrides.append(f"training.ensemble={arguments.ensemble}")
    config = load_config(arguments.config, overrides)

    from lesjax.files import write_json
    from lesjax.runs import read_log
    from lesjax.training import evaluate, plots, tables, train, train_ensemble
    from lesjax.training.folder import check_folder, run_folder
    from lesjax.training.prepare import prepare

    arguments.folder = run_folder(config.output)
    check_folder(config, arguments.folder)
    folder = pathlib.Path(config.output)
    print(f"{arguments.config}: reading the data; results in {folder}/", flush=True)
    prepared = prepare(config)
    print("\n".join(prepared.files))
    sets = {"training": prepared.train, "validation": prepared.valid, "test": prepared.test, "replay": prepared.replay}
    sizes = {name: 0 if dataset is None else len(dataset) for name, dataset in sets.items()}
    counts = f"{sizes['training']} structures to train on, {sizes['validation']} to validate"
    print(counts, flush=True)
    run_training = train if config.training.ensemble is None else train_ensemble
    potential = run_training(config, prepared=prepared, quiet=arguments.quiet)
    members = range(config.training.ensemble or 0)
    for run in [folder / "members" / str(i) for i in members] or [folder]:
        plots.save_learning_curve(run / "learning_curve.png", read_log(run / "log.jsonl"))
    print(f"model: {folder / 'model'}; its errors:", flush=True)
    metrics = {}
    for name, dataset in sets.items():
        if dataset is not None:
            result = evaluate(potential, dataset)
            metrics[name] = result.to_json()
            write_json(folder / "metrics.json", metrics)
            plots.save_parity(folder / f"parity_{name}.png", result.parity)
            if result.calibration:
                plots.save_calibration(folder / f"calibration_{name}.png", result.calibration)
            tables.print_errors(name, result)
            if name == "training":
                tables.print_charges(result)
    print(f"model: {folder / 'model'}")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    print(f"{arguments.model} on {arguments.data}", flush=True)  # before anything is imported that takes long

    from lesjax import io
    from lesjax.files import write_json
    from lesjax.models import load, load_ensemble
    from lesjax.models.storage import is_ensemble
    from lesjax.training import evaluate_file, plots, tables
    from lesjax.training.terms import TERMS

    pbc = PBC[arguments.pbc]
    ensemble = is_ensemble(arguments.model)
    read = load_ensemble if ensemble else load
    if arguments.calibration and not ensemble:
        raise ValueError(f"`--calibration` needs an ensemble, but {arguments.model!r} is a single potential.")
    model = read(arguments.model)
    result = evaluate_file(
        model,
        arguments.data,
        keys=io.assigned_keys(arguments.key, arguments.born_order),
        pbc=pbc,
        mixed=arguments.labels,
        epsilon_infinity=arguments.epsilon_infinity,
    )
    for assignment in arguments.key:
        label = assignment.partition("=")[0].replace("virial", "stress")
        if label in vars(io.Labels.missing(0)) and not any(
            term.name == label and term.short in result.parity for term in TERMS
        ):
            raise ValueError(f"`--key {assignment}`: no structure has such a label to compare the model with.")
    if arguments.json:
        write_json(arguments.json, result.to_json())
    tables.print_errors(arguments.data, result)
    tables.print_groups(result)
    tables.print_charges(result)
    for text in {} if result.charges is None else result.charges.warnings(model.config).values():
        warnings.warn(text, stacklevel=1)
    if arguments.plot:
        plots.save_parity(arguments.plot, result.parity)
    if arguments.calibration:
        plots.save_calibration(arguments.calibration, result.calibration)
    return 0


def _md(arguments: argparse.Namespace) -> int:
    from lesjax.runs import simulation_folder
    from lesjax.validate import check_bounds

    options = {name: getattr(arguments, name) for name, *_ in MD_OPTIONS}
    options = {name: value for name, value in options.items() if not isinstance(value, _Default)}
    check_bounds(options)
    trajectory = "xyz" if isinstance(arguments.format, _Default) else arguments.format
    arguments.folder = simulation_folder(arguments.out, trajectory)
    arguments.folder.check_files()  # before anything is imported that takes long
    print(f"{arguments.model} from {arguments.structure}; results in {arguments.out}/", flush=True)

    from lesjax import io

    folder = pathlib.Path(arguments.out)
    from lesjax.models import load
    from lesjax.system import System, check_ghosts

    frames = io.read(arguments.structure)
    start = frames[-1]
    check_ghosts(start.numbers, where=f"{arguments.structure!r}, structure {len(frames) - 1}: ")
    if PBC[arguments.pbc] is not None:
        start.pbc = PBC[arguments.pbc]
    potential = load(arguments.model)
    potential.checked_solver(System.from_ase(start, cutoff=potential.cutoff), None)

    from lesjax.dynamics import Settings, simulate
    from lesjax.runs import read_table

    settings = Settings(**options)
    if settings.pressure and not settings.constant_pressure:
        raise ValueError(
            f"`--pressure {settings.pressure}` has no effect in {settings.ensemble!r}: take npt or npt-flexible."
        )
    print(f"{settings.steps} steps of {len(start)} atoms", flush=True)
    final = simulate(potential, start, folder, settings, quiet=arguments.quiet)
    last = read_table(folder / "log.csv")["temperature_K"][-1]  # which knows the degrees of freedom
    print(f"{settings.steps} steps of {len(final)} atoms, {last:.0f} K at the end; see {folder}/md.png")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    import jax
    from rich.console import Console
    from rich.table import Table

    from lesjax.io import chemical_symbols, element_names
    from lesjax.models import load, load_ensemble
    from lesjax.models.provenance import describe
    from lesjax.models.storage import is_ensemble
    from lesjax.schema import flat, to_plain

    members = [load(arguments.model)] if not is_ensemble(arguments.model) else load_ensemble(arguments.model).members()
    config = members[0].config
    table = Table("setting", "value")
    count = sum(leaf.size for leaf in jax.tree.leaves(members[0].params))
    if len(members) > 1:
        table.add_row("members", f"{len(members)}")
    table.add_row("parameters", f"{count}")
    table.add_row("elements", element_names(config.short_range.elements))
    for name, value in flat(to_plain(config)).items():
        if not name.endswith((".elements", "reference_energies")):
            table.add_row(name, "none: a short-range model" if value is None and name == "long_range" else str(value))
    for z, energy in zip(config.short_range.elements, config.reference_energies, strict=False):
        table.add_row(f"reference energy of {chemical_symbols[z]}", f"{energy:.6f} eV")
    print(arguments.model)
    Console().print(table)
    print("\n".join(describe([member.provenance for member in members])))
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from lesjax.published.command import run

    return run(arguments)


def _demo(arguments: argparse.Namespace) -> int:
    from lesjax import demo

    demo.run(pathlib.Path(arguments.out))
    return 0


def _epsilon(text: str) -> float | str:
    try:
        return text if text == "fit" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number or fit, got {text!r}") from None
