"""Configuration of a training run: the tables and keys of the TOML file."""

import dataclasses
import os
import pathlib
import tomllib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from lesjax.io import Keys, find_files
from lesjax.models.config import ModelConfig
from lesjax.schema import build, to_plain
from lesjax.training.start import Start, overlay, read_start
from lesjax.training.terms import check_weights
from lesjax.validate import check, fraction, not_negative, one_of, optional, positive, whole


# top names of the parameters, see `LesModel`
GROUPS = ("short_range", "energy", "charges", "heads", "dispersion")
MAX_FACTOR = 1e3
REFERENCES = ("fit", "none", "keep", "refit")
SHIPPED = pathlib.Path(__file__).parent.parent / "configs"


@dataclass(frozen=True)
class ReplayConfig:
    """Structures of an earlier training, which are trained on beside the new ones.

    Attributes:
        path: a file, a pattern or a list of both, as for `train`, with the same names of the labels.
        weight: factor of their squared errors in the loss.
    """

    path: str | tuple[str, ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        check(self, weight=positive)
        if self.path in ("", ()):
            raise ValueError("`path` is empty: give a file.")


@dataclass(frozen=True)
class DataConfig:
    """Files with the structures.

    Attributes:
        train: file that ase reads, usually extended xyz, a pattern such as ``data/*.xyz``, or a list; relative
            to the folder of the configuration.
        valid: files for validation; without one a fraction of `train` is taken.
        valid_fraction: fraction of `train` for validation.
        test: files that are evaluated at the end.
        pbc: overrides the periodicity of all structures, for example false for molecules in a box.
        keys: names of the labels in the file.
        labels: what happens where structures of a file have a label under another name than the one that is used:
            "error", or "skip" to leave them out, with their number.
        reference_energies: "fit" (least squares), "none", or a table of eV per element symbol. For a run that starts
            from a model: "keep" its energies, where those of new elements are fitted, or "refit" them to what the model
            leaves of the energies, which is also what "fit" means there.
        max_frames: use only the first frames of `train`.
        epsilon_infinity: electronic dielectric constant of the material, whose root scales the Born effective charges
            of the latent charges; 1 for molecules.
        replay: structures of earlier sets to train on as well; they take no part in the validation.
    """

    train: str | tuple[str, ...]
    valid: str | tuple[str, ...] | None = None
    valid_fraction: float = 0.1
    test: str | tuple[str, ...] | None = None
    pbc: bool | tuple[bool, bool, bool] | str = "file"
    keys: Keys = field(default_factory=Keys)
    labels: str = "error"
    reference_energies: str | dict[str, float] = "fit"
    max_frames: int | None = None
    epsilon_infinity: float = 1.0
    replay: tuple[ReplayConfig, ...] = ()

    def __post_init__(self) -> None:
        check(
            self,
            valid_fraction=fraction,
            labels=one_of("error", "skip"),
            max_frames=optional(whole(1)),
            epsilon_infinity=positive,
        )
        for name in ("train", "valid", "test"):
            if getattr(self, name) in ("", ()):
                raise ValueError(f"`{name}` is empty: give a file.")
        if isinstance(self.reference_energies, str) and self.reference_energies not in REFERENCES:
            raise ValueError(
                f"`reference_energies` must be {', '.join(map(repr, REFERENCES))} or a table, got "
                f"{self.reference_energies!r}."
            )
        if isinstance(self.pbc, str) and self.pbc != "file":
            raise ValueError(f"`pbc` must be 'file', true, false or three of them, got {self.pbc!r}.")


@dataclass(frozen=True)
class Phase:
    """One part of the training with its own weights and learning rate.

    Attributes:
        epochs: passes over the training set.
        lbfgs: L-BFGS with a line search instead of the run's optimizer and learning rate; an epoch is one step on the
            whole training set, in the memory of one batch. As a second phase; use float64.
        learning_rate: learning rate at the start.
        schedule: "constant", "cosine" (to `final_factor`), "step" (times `factor` every `step_epochs`) or "plateau"
            (times `factor` when the validation loss has not fallen for `patience` evaluations).
        final_factor: last over first learning rate of the cosine, and the floor of the plateau.
        factor: factor of the learning rate for step and plateau.
        step_epochs: length of a step.
        patience: evaluations that the plateau waits.
        rates: factors of the learning rate for groups of parameters: "short_range", "energy" (its readout), "charges",
            "heads", "dispersion"; one for those that are not named, and zero for a group that is held in this phase.
            L-BFGS has none.
        weights: factors of the mean squared errors in the loss, by the names of the labels, in the inverse square of
            their units; other labels are not used.

    Energies and forces leave the sign of the latent charges open. A phase with a weight on charges, moments or Born
    effective charges therefore starts with the sign that has the lower loss on the training set.
    """

    epochs: int
    lbfgs: bool = False
    learning_rate: float = 1e-2
    schedule: str = "cosine"
    final_factor: float = 1e-2
    factor: float = 0.5
    step_epochs: int = 100
    patience: int = 20
    rates: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=lambda: {"energy": 1.0, "forces": 1.0})

    def __post_init__(self) -> None:
        check(
            self,
            epochs=whole(1),
            learning_rate=positive,
            schedule=one_of("constant", "cosine", "step", "plateau"),
            final_factor=positive,
            factor=positive,
            step_epochs=whole(1),
            patience=whole(1),
        )
        check_rates(self.rates)
        if self.lbfgs and self.rates:
            raise ValueError(f"`rates` = {self.rates} has no effect with `lbfgs`: leave it out.")
        check_weights(self.weights)


def check_rates(rates: dict[str, float]) -> None:
    """Raise ValueError for groups of parameters that do not exist, and factors that are negative or not finite."""
    check_groups("rates", rates)
    wrong = {name: factor for name, factor in rates.items() if not 0.0 <= factor <= MAX_FACTOR}
    if wrong:
        raise ValueError(f"`rates` must be factors from 0 to {MAX_FACTOR:g}, got {wrong}.")


def check_groups(name: str, groups: Iterable[str]) -> None:
    """Raise ValueError for groups of parameters that do not exist."""
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        raise ValueError(f"`{name}` has no group {unknown[0]!r}; give some of {', '.join(GROUPS)}.")


@dataclass(frozen=True)
class TrainingSection:
    """Settings of the training.

    Attributes:
        seed: seed of the parameters, the split and the order of the batches.
        batch_size: structures in one step.
        phases: phases in their order; the optimizer's memory is kept.
        optimizer: "adam" or "adamw".
        weight_decay: weight decay of AdamW.
        clip: largest norm of the gradient; 0 for no limit.
        ema: decay of the average of the parameters that is validated and saved, reached in about 9 / (1 - `ema`) steps;
            0 for none.
        eval_every: epochs between evaluations.
        checkpoint_seconds: minimum time between checkpoints.
        early_stop: evaluations without a better validation loss after which a phase ends; 0 for never.
        feature_scale: features start with a root mean square of one over the training set: "each" of them, or "all"
            together, by one number; or with "none" as the short-range model makes them. By default "none" for MACE,
            which starts with small products of many factors and generalizes better for it, and "each" for the others.
            With small embeddings (`embedding_scale` = 0.3 of CACE) "all" leaves products of three factors small beside
            those of one, which is slower where there are enough data, and generalizes better where a large model has
            few.
        ensemble: number of models to train at once, with the seeds `seed`, `seed` + 1, …; a single one if not given.
        start_from: model to start from, a folder or a published file, beside the configuration or in the current
            folder. Its settings are those of `[model]`, where only what is added to it need be given.
        new_elements: what the model to start from does not know starts as its "nearest" element (of its group, then in
            atomic number), or from "scratch".
        freeze: groups of parameters, as in `rates`, that keep their values in all phases.
    """

    seed: int = 0
    batch_size: int = 4
    phases: tuple[Phase, ...] = (Phase(epochs=100),)
    optimizer: str = "adam"
    weight_decay: float = 1e-4
    clip: float = 10.0
    ema: float = 0.99
    eval_every: int = 1
    checkpoint_seconds: float = 20.0
    early_stop: int = 0
    feature_scale: str | None = None
    ensemble: int | None = None
    start_from: str | None = None
    new_elements: str = "nearest"
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(
            self,
            seed=whole(0, 2**32 - 1),
            batch_size=whole(1),
            optimizer=one_of("adam", "adamw"),
            weight_decay=not_negative,
            clip=not_negative,
            ema=fraction,
            eval_every=whole(1),
            checkpoint_seconds=not_negative,
            early_stop=whole(0),
            feature_scale=optional(one_of("each", "all", "none")),
            ensemble=optional(whole(2)),
            new_elements=one_of("nearest", "scratch"),
        )
        check_groups("freeze", self.freeze)
        if self.start_from == "":
            raise ValueError("`start_from` is empty: give a model, or leave it out.")
        if not self.phases:
            raise ValueError("`phases` is empty: give at least one.")


@dataclass(frozen=True)
class RunConfig:
    """A whole run. `output` is its folder, relative to the current one; a leading ~ is the home folder.

    In a run that starts from a model, `model` has the settings of that model and what is added to it; at its defaults
    it stands for those.
    """

    data: DataConfig
    output: str
    model: ModelConfig = ModelConfig()
    training: TrainingSection = TrainingSection()

    def __post_init__(self) -> None:
        if not self.output.strip():
            raise ValueError("`output` is empty: give the folder of the results.")
        if self.data.reference_energies in ("keep", "refit") and self.training.start_from is None:
            raise ValueError(
                f"`data.reference_energies` = {self.data.reference_energies!r} is for a run with "
                "`training.start_from`: give that, or 'fit', 'none' or a table."
            )


def load_config(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check a TOML file; data files are looked up beside it, then in the current folder.

    Args:
        path: the file, or the name of one in `lesjax/configs`.
        overrides: "a.b=value" with the value in TOML's notation (a bare word is a string).

    Raises:
        FileNotFoundError: for a missing configuration or data file.
        ValueError: for anything wrong in it, with the key.
    """
    path = pathlib.Path(path)
    shipped = SHIPPED / f"{path}.toml"
    if not path.is_file() and shipped.is_file():
        path = shipped
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.toml")))
        raise FileNotFoundError(f"There is no configuration {str(path)!r}; shipped with lesjax: {names}.")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # of TOML, of the encoding, of thousands of digits
        raise ValueError(f"{str(path)!r} is not a TOML file: {error}") from error
    for override in overrides:
        _apply(data, override)
    data, start = _with_start(data, path)
    config = build(RunConfig, data)
    if start is not None:
        start.model(config.model)
    config = dataclasses.replace(config, output=os.path.expanduser(config.output))
    files = {}
    for name in ("train", "valid", "test"):
        value = getattr(config.data, name)
        if value is None:
            continue
        entries = [value] if isinstance(value, str) else value
        paths = [file for entry in entries for file in _find(name, entry, path)]
        files[name] = paths[0] if isinstance(value, str) and len(paths) == 1 else tuple(paths)
    replay = tuple(
        dataclasses.replace(entry, path=tuple(file for one in entries for file in _find("replay", one, path)))
        for entry in config.data.replay
        for entries in [(entry.path,) if isinstance(entry.path, str) else entry.path]
    )
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **files, replay=replay))


def _with_start(data: dict[str, Any], path: pathlib.Path) -> tuple[dict[str, Any], Start | None]:
    """Put the settings of the model to start from under those of the file, if there is one; returns both."""
    training, model = data.get("training"), data.get("model", {})
    name = training.get("start_from") if isinstance(training, dict) else None
    if not isinstance(name, str) or not name or not isinstance(model, dict):
        return data, None
    home = pathlib.Path(name).expanduser()
    place = next((place for place in (path.parent / home, home) if place.exists()), None)
    if place is None:
        raise FileNotFoundError(f"`training.start_from`: there is no {name!r}, neither beside {path} nor here.")
    start = read_start(place)
    settings = overlay(to_plain(start.model(ModelConfig())), model)
    return data | {"model": settings, "training": data["training"] | {"start_from": str(place)}}, start


def _find(name: str, value: str, path: pathlib.Path) -> list[str]:
    """Files of one entry of `data`, beside the configuration `path` or in the current folder."""
    home = pathlib.Path(value).expanduser()
    for place in (path.parent / home, home):
        with suppress(FileNotFoundError):
            return list(map(str, find_files(place)))
    raise FileNotFoundError(f"`data.{name}`: there is no file {value!r}, neither beside {path} nor here.")


def _apply(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ValueError(f"`--set` needs key=value, got {override!r}.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    except ValueError as error:  # thousands of digits
        raise ValueError(f"`--set {override[:60]}…` is no value: {error}") from error
    *tables, last = key.strip().split(".")
    node: Any = data
    for table in tables:
        node = node[_index(node, table, override)] if isinstance(node, list) else node.setdefault(table, {})
        if not isinstance(node, (dict, list)):
            raise ValueError(f"`--set {override}`: {table!r} is not a table.")
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    else:
        node[last] = value


def _index(entries: list[Any], key: str, override: str) -> int:
    if not key.isdecimal() or int(key) >= len(entries):
        raise ValueError(f"`--set {override}`: {key!r} must be a number from 0 to {len(entries) - 1}.")
    return int(key)
