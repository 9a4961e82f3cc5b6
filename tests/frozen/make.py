"""Write the frozen record: what lesjax computed before the redesign, from stored parameters.

    JAX_ENABLE_X64=1 python tests/frozen/make.py        # all
    JAX_ENABLE_X64=1 python tests/frozen/make.py md     # only the dynamics, from the stored models

The whole was run once, before the first step of the redesign; the tests compare with what it wrote. The dynamics were
written again when they took Boltzmann's constant and the femtosecond from `lesjax.units` (CODATA 2018) instead of ase
(CODATA 2014), by 3.4e-7 and 4e-9: that moved momenta by 2e-7 of the largest, and with the old constants the new code
gave the old record to 1e-14. It goes when the redesign is done.
"""

import pathlib
import sys
import tempfile


FOLDER = pathlib.Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from frozen.cases import MD, MODELS, TRAINED, atoms_of  # noqa: E402
from frozen.observed import md_states, predictions, training_losses  # noqa: E402
from lesjax.models import load  # noqa: E402
from toy import moved_potential  # noqa: E402


def main() -> None:
    assert jax.config.jax_enable_x64, "Set JAX_ENABLE_X64=1."
    record: dict[str, np.ndarray] = {}
    if sys.argv[1:] == ["md"]:
        with np.load(FOLDER / "record.npz") as file:
            record = dict(file)
    else:
        predict_and_train(record)
    for name, settings in MD.items():
        with tempfile.TemporaryDirectory() as folder:
            states = md_states(load(FOLDER / "models" / "latent"), atoms_of("bulk"), settings, folder)
        record |= {f"md/{name}/{key}": value for key, value in states.items()}
        print("md", name, states["positions"][0], flush=True)
    np.savez_compressed(FOLDER / "record.npz", **record)


def predict_and_train(record: dict[str, np.ndarray]) -> None:
    """Write the models, and record their predictions and training losses."""
    for name, (config, kind) in MODELS.items():
        folder = FOLDER / "models" / name
        moved_potential(config).save(folder)
        potential = load(folder)
        record |= {f"{name}/{key}": value for key, value in predictions(potential, atoms_of(kind)).items()}
        print(name, float(record[f"{name}/interaction_energy"]), flush=True)
    for name in TRAINED:
        record[f"training/{name}"] = training_losses(load(FOLDER / "models" / name), MODELS[name][1])
        print("training", name, record[f"training/{name}"][[0, -1]], flush=True)


if __name__ == "__main__":
    main()
