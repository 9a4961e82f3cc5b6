"""From a published checkpoint of any family to a `Potential`, with a report."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np

from lesjax.io import chemical_symbols, element_names
from lesjax.models import storage
from lesjax.models.potential import Potential, variables
from lesjax.models.provenance import Provenance
from lesjax.published import cace, mace, nequip
from lesjax.published.family import Converted, Options
from lesjax.published.orientation import orient
from lesjax.published.torch_file import Record, TorchFile, read
from lesjax.runs import lesjax_version


if TYPE_CHECKING:
    from lesjax.io import Atoms


# name of a family, whether a file is of it, its reader
_FAMILIES: tuple[tuple[str, Callable[[TorchFile], bool], Callable[[TorchFile, Options], Converted]], ...] = (
    ("CACE(-LES)", cace.matches, cace.convert_file),
    ("MACE(-LES)", mace.matches, mace.convert_file),
    ("NequIP(-LES)", nequip.matches, nequip.convert_file),
)


_GUESSED = (
    "The sign of the charges is arbitrary in published files. It was set in small molecules, which are far from the "
    "data of many models: check it, or set it with --orient and structures like those of the training."
)


@dataclass(frozen=True)
class Conversion:
    """A converted potential and its report.

    Attributes:
        potential: the model.
        rows: name and value of what the file says.
        notes: sentences on what the file does not say, with what was taken, and on where the model here differs.
    """

    potential: Potential
    rows: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def convert(
    path: str | os.PathLike,
    *,
    reference_energies: Mapping[str, float] | None = None,
    norm_factor: float | None = None,
    self_interaction: bool | None = None,
    structures: "Sequence[Atoms] | None" = None,
) -> Potential:
    """Convert a published checkpoint: CACE(-LES) ``.pth``, MACE(-LES) ``.model``, NequIP(-LES) ``.ckpt``.

    The file is read without torch, and nothing in it is executed. Weights take JAX's default floating-point type.

    Args:
        path: the file.
        reference_energies: energy of one atom of each element by symbol, eV, for files without them.
        norm_factor: factor of the long-range sum, eV Å, for files without it.
        self_interaction: whether the sum kept the energy of each Gaussian with itself, for files that do not say it.
        structures: that set the sign of the charges, which is arbitrary in published files: by their labels of charges
            or dipole moments, or else by electronegativity.

    Raises:
        ValueError: for a file that is no such checkpoint, is damaged or hostile, or has parts that lesjax lacks.
    """
    options = Options(reference_energies, norm_factor, self_interaction)
    return convert_with_report(path, options, structures).potential


def convert_with_report(
    path: str | os.PathLike, options: Options | None = None, structures: "Sequence[Atoms] | None" = None
) -> Conversion:
    """Like `convert`, with what the file says and what it does not."""
    options, file = options or Options(), read(path)
    reader = next((reader for _, matches, reader in _FAMILIES if matches(file)), None)
    if reader is None:
        raise ValueError(_unknown(file))
    try:
        converted = reader(file, options)
        potential = _checked(_with_reference_energies(converted.potential, options), file.path)
    except (TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{file.path!r} does not hold a whole model: {type(error).__name__}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{file.path!r}: {error}") from error
    potential, sign = orient(potential, structures)
    c = potential.config
    symbols = [chemical_symbols[z] for z in c.short_range.elements]
    found = "given" if options.reference_energies is not None else converted.reference_energies
    name = os.path.basename(file.path)
    provenance = Provenance(
        lesjax_version(),
        data=(f"converted from {name}, a published {converted.family} model",),
        reference_energies=dict.fromkeys(symbols, found),
        sign=sign,
    )
    rows = [("family", converted.family), ("elements", element_names(c.short_range.elements)), *converted.says]
    rows.append(("parameters", str(sum(leaf.size for leaf in jax.tree.leaves(potential.params)))))
    notes = converted.notes
    if sign is not None:
        if structures is None and potential.config.long_range is not None:
            notes += (_GUESSED,)
        rows.append(("sign of the charges from", sign))
    return Conversion(dataclasses.replace(potential, provenance=provenance), tuple(rows), notes)


def _unknown(file: TorchFile) -> str:
    root = file.root
    if isinstance(root, Record):
        return (
            f"{file.path!r} holds a {root.name}, which lesjax does not know: it converts models of "
            f"{', '.join(name for name, *_ in _FAMILIES)}."
        )
    if isinstance(root, dict) and any(isinstance(value, np.ndarray) for value in root.values()):
        return (
            f"{file.path!r} is a bare state dict: weights without the hyper-parameters of their model. Convert the "
            "file that `torch.save(model, …)` wrote."
        )
    if isinstance(root, dict) and "optimizer" in root:
        return (
            f"{file.path!r} is a checkpoint of a training, without the hyper-parameters of its model. Convert the "
            "model that the training wrote beside it; mace-torch names it NAME.model."
        )
    keys = f" with {', '.join(map(str, list(root)[:5]))}" if isinstance(root, dict) else ""
    return f"{file.path!r} holds a {type(root).__name__}{keys}, which lesjax does not know."


def _with_reference_energies(potential: Potential, options: Options) -> Potential:
    """Set the given reference energies."""
    given = options.reference_energies
    if given is None:
        return potential
    symbols = [chemical_symbols[z] for z in potential.config.short_range.elements]
    if set(given) != set(symbols):
        raise ValueError(
            f"`reference_energies` needs one value for each of {', '.join(symbols)}, got {', '.join(given) or 'none'}."
        )
    config = dataclasses.replace(potential.config, reference_energies=tuple(float(given[s]) for s in symbols))
    return dataclasses.replace(potential, config=config)


def _checked(potential: Potential, path: str) -> Potential:
    """Return the potential in the default dtype, once its arrays are those of its configuration and finite."""
    like = jax.eval_shape(lambda: variables(Potential.create(potential.config)))  # shapes only: nothing is compiled
    arrays = storage.flatten(variables(potential))
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"the weights {name} have numbers that are not finite.")
    values = storage.unflatten(like, arrays, path)
    return dataclasses.replace(potential, params=values["params"], signs=values.get("signs"))
