"""Demo: learn the charges of an ionic gas from energies and forces only.

A short-range model and a LES model of the same size are trained on the same configurations. The truth is a
point-charge Ewald sum that shares no code with the model's own (`lesjax.datasets.point_charges`); the charges
are used only for the comparison at the end.
"""

import pathlib
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from lesjax import io
from lesjax.datasets import point_charges
from lesjax.files import write_json
from lesjax.models import CACEConfig, LatentCharges, LongRangeConfig, ModelConfig
from lesjax.runs import RunFolder, read_log
from lesjax.training import plots
from lesjax.training.config import DataConfig, Phase, RunConfig, TrainingSection
from lesjax.training.evaluation import Evaluation, evaluate
from lesjax.training.loop import train
from lesjax.training.prepare import prepare


N_TRAIN, N_VALID, N_TEST = 100, 20, 50
SHORT_RANGE = CACEConfig(cutoff=5.0, n_bessel=10, n_radial=8, n_embedding=2, max_l=2, max_nu=2)
LONG_RANGE = LongRangeConfig(LatentCharges(scale=1.0, element_charges=True), sigma=1.0, accuracy=1e-3)
TRAINING = TrainingSection(
    batch_size=4,
    eval_every=5,
    phases=(Phase(epochs=80, learning_rate=2e-2),),
)


def configurations(folder: pathlib.Path, training: TrainingSection = TRAINING) -> dict[str, RunConfig]:
    """Configurations of the two runs: only short-range, and with latent charges."""
    data = DataConfig(train=str(folder / "train.xyz"), valid=str(folder / "valid.xyz"), reference_energies="fit")
    runs = {"short range": None, "LES": LONG_RANGE}
    return {
        name: RunConfig(
            data=data,
            output=str(folder / name.replace(" ", "_")),
            model=ModelConfig(SHORT_RANGE, long_range),
            training=training,
        )
        for name, long_range in runs.items()
    }


def run(folder: pathlib.Path, training: TrainingSection = TRAINING, quiet: bool | None = None) -> dict[str, dict]:
    """Generate, train, compare; writes data, runs, ``results.json`` and ``demo.png`` into `folder`.

    An unfinished demo in `folder` is resumed.

    Returns:
        The metrics of both models on the test configurations.

    Raises:
        ValueError: for a folder that holds other files.
    """
    console = Console()
    started = time.monotonic()
    sizes = {"train": N_TRAIN, "valid": N_VALID, "test": N_TEST}
    files = RunFolder(folder, description="demo.json", log="results.json")
    files.check(sizes)
    files.write_description({"run": sizes})
    console.print(f"Generating {sum(sizes.values())} configurations of 64 Na+ and 64 Cl- …")
    frames = point_charges.generate(sum(sizes.values()), seed=0)
    parts = dict(zip(sizes, np.split(np.arange(len(frames)), np.cumsum(list(sizes.values()))[:-1]), strict=True))
    for name, members in parts.items():
        io.write(folder / f"{name}.xyz", [frames[i] for i in members])
    test = io.read(folder / "test.xyz")
    results: dict[str, Evaluation] = {}
    records = {}
    for name, config in configurations(folder, training).items():
        console.print(f"Training the {name} model on energies and forces of {N_TRAIN} of them …")
        potential = train(config, prepared=prepare(config), quiet=quiet)
        results[name] = evaluate(potential, test)
        records[name] = read_log(pathlib.Path(config.output) / "log.jsonl")
    metrics = {name: result.metrics for name, result in results.items()}
    metrics["seconds"] = {"total": round(time.monotonic() - started, 1)}
    write_json(folder / "results.json", metrics)
    draw(folder / "demo.png", results, records)
    console.print(table(metrics))
    console.print(f"Figure: {folder / 'demo.png'}   model: {folder / 'LES' / 'model'}")
    return metrics


def table(metrics: dict[str, dict]) -> Table:
    """Table of the errors of both models on the test configurations."""
    short_range, les = metrics["short range"], metrics["LES"]
    result = Table("mean absolute error", "short range", "LES", "ratio", title=f"{N_TEST} test configurations")
    for name, key in (("forces (eV/Å)", "forces_mae"), ("energy (eV/atom)", "energy_mae")):
        a, b = short_range[key], les[key]
        result.add_row(name, f"{a:.3g}", f"{b:.3g}", f"{a / b:.1f}")
    result.add_row("charges (e)", "none", f"{les['charges_mae']:.4f}", "")
    return result


def draw(path: pathlib.Path, results: dict[str, Evaluation], records: dict[str, list[dict]]) -> None:
    """Charges against truth, parity of the forces of both models, and their learning curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.6, 4.0), layout="constrained")
    charges, forces, learning = figure.subplots(1, 3)
    pair = results["LES"].parity["charges"]
    bins = np.linspace(-1.2, 1.2, 121)
    for sign, name, color in ((1, "Na", plots.COLORS[0]), (-1, "Cl", plots.COLORS[1])):
        charges.hist(pair.predicted[np.sign(pair.reference) == sign], bins=bins, color=color, label=f"latent, {name}")
        charges.axvline(sign, color="0.3", linestyle="--", linewidth=1, label="true" if sign == 1 else None)
    charges.set(xlabel="charge (e)", ylabel="ions", title=f"Charges: MAE {pair.mae():.4f} e, none was given")
    charges.legend(frameon=False)
    for name, color in (("short range", plots.COLORS[1]), ("LES", plots.COLORS[0])):
        result = results[name]
        plots.parity(forces, "forces", result.parity["forces"], label=name, color=color)
        plots.learning_curve(learning, records[name], label=name, color=color)
    forces.set_title("Forces on test configurations")
    learning.set_title("Learning")
    learning.legend(frameon=False)
    plots.save(figure, path)
