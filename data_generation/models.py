"""Models shipped with lesjax, for examples and engines without a training: ``lesjax.load("kf_water")``.

``python -m data_generation.models`` trains them on the shipped sets, in about five minutes on one core, and
writes them with their errors on the test files of these sets. An interrupted training resumes.
"""

import argparse
import dataclasses
import pathlib

from lesjax import datasets
from lesjax.models.storage import SHIPPED
from lesjax.training import evaluate, load_config, train


# Name of a model, which is that of its set and of its configuration, and what it changes there.
SETTINGS = {
    "kf_water": (
        "model.short_range.max_l=2",
        "model.short_range.max_nu=2",
        "training.batch_size=1",
        "training.phases.0.epochs=30",
        "training.phases.1.epochs=4",
    ),
}
ERRORS = ("n_structures", "energy_rmse", "energy_mae", "forces_rmse", "forces_mae", "charges_mae")


def main() -> None:
    """Train and write the models; see ``--help``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=SHIPPED, help="folder for the models")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/models"), help="for the trainings")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="as for lesjax train")
    arguments = parser.parse_args()
    for name, settings in SETTINGS.items():
        places = [f"data.train={datasets.path(f'{name}_train')}", f"output={arguments.work / name}"]
        potential = train(load_config(name, [*places, *settings, *arguments.set]))
        metrics = evaluate(potential, datasets.load(f"{name}_test")).metrics
        errors = {key: metrics[key] for key in ERRORS}
        assert potential.provenance is not None
        provenance = dataclasses.replace(potential.provenance, errors=errors)
        dataclasses.replace(potential, provenance=provenance).save(arguments.out / name)
        print(name, errors)


if __name__ == "__main__":
    main()
