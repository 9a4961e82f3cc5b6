"""Write the frozen record: what lesjax computed before the redesign, from stored parameters.

    JAX_ENABLE_X64=1 python tests/frozen/make.py

Run once, before the first step of the redesign; the tests compare with what it wrote. It goes when that is done.
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


def main() -> None:
    assert jax.config.jax_enable_x64, "Set JAX_ENABLE_X64=1."
    record: dict[str, np.ndarray] = {}
    for name, kind in MODELS.items():
        potential = load(FOLDER / "models" / name)
        record |= {f"{name}/{key}": value for key, value in predictions(potential, atoms_of(kind)).items()}
        print(name, float(record[f"{name}/interaction_energy"]), flush=True)
    for name in TRAINED:
        record[f"training/{name}"] = training_losses(load(FOLDER / "models" / name), MODELS[name])
        print("training", name, record[f"training/{name}"][[0, -1]], flush=True)
    for name, settings in MD.items():
        with tempfile.TemporaryDirectory() as folder:
            states = md_states(load(FOLDER / "models" / "latent"), atoms_of("bulk"), settings, folder)
        record |= {f"md/{name}/{key}": value for key, value in states.items()}
        print("md", name, states["positions"][0], flush=True)
    np.savez_compressed(FOLDER / "record.npz", **record)


if __name__ == "__main__":
    main()
