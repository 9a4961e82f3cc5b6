"""NequIP and NequIP-LES files: checkpoints of Lightning with the hyper-parameters beside the weights.

The weights are the exponential moving average where the file has one: numbered arrays, in the order of the trainable
parameters. The factor of the long-range sum and its self-energy are not in the file.
"""

import dataclasses
from typing import Any

import numpy as np

from lesjax.io import chemical_symbols
from lesjax.models.nequip.config import NequIPConfig, layer_irreps
from lesjax.models.nequip.convert import convert_weights
from lesjax.published.family import Converted, Options
from lesjax.published.torch_file import TorchFile


# eV Å: what les has, a rounding of 1/(2ε0) = 90.4756
_NORM_FACTOR = 90.0474
_BUILDERS = ("nequip.model.NequIPGNNModel", "nequip.model.NequIPGNNEnergyModel")
_LEARNED = (
    "type_embed.embed_module.weight", ".conv.linear_1.weight", ".conv.linear_2.weight", ".conv.sc.weight",
)  # fmt: skip
_EMBEDDING = "type_embed.embed_module.weight"
_BESSEL = "bessel_encode.bessel_weights"
_SCALE, _SHIFT = "per_type_energy_scale_shift.scales", "per_type_energy_scale_shift.shifts"
_KNOWN = (
    "_target_", "seed", "model_dtype", "type_names", "r_max", "num_bessels", "bessel_trainable",
    "polynomial_cutoff_p", "num_layers", "l_max", "parity", "num_features", "radial_mlp_depth", "radial_mlp_width",
    "avg_num_neighbors", "per_type_energy_scales", "per_type_energy_shifts", "per_type_energy_scales_trainable",
    "per_type_energy_shifts_trainable", "use_les", "les_args", "do_derivatives", "convnet_resnet",
    "compile_mode",  # how, not what, nequip computes
)  # fmt: skip
_FUNCTIONS = {"e": "silu", "o": "tanh"}
_DEFAULTS = {  # of options that lesjax reads with these values only
    "convnet_nonlinearity_type": "gate", "convnet_nonlinearity_scalars": _FUNCTIONS,
    "convnet_nonlinearity_gates": _FUNCTIONS,
}  # fmt: skip


def matches(file: TorchFile) -> bool:
    """Return whether the file is a checkpoint of nequip."""
    return isinstance(file.root, dict) and str(_settings(file.root).get("_target_")).startswith("nequip.")


def convert_file(file: TorchFile, options: Options) -> Converted:
    """Convert a checkpoint of nequip.

    Raises:
        ValueError: for options that lesjax lacks, or a file whose parts do not fit.
    """
    settings, state = _settings(file.root), file.root.get("state_dict")
    if not isinstance(state, dict):
        raise ValueError("The file has no `state_dict`.")
    _check(settings, _version(file.root))
    arrays, average = _weights(state, settings)
    config = _config(settings, arrays)
    scales = arrays.pop(_SCALE, settings.get("per_type_energy_scales"))
    shifts = arrays.pop(_SHIFT, settings.get("per_type_energy_shifts"))
    les = settings.get("les_args") if settings.get("use_les") else None
    long_range, notes = None, []
    if les is not None:
        _check_les(les)
        kept = bool(options.self_interaction)
        norm_factor = _NORM_FACTOR if options.norm_factor is None else float(options.norm_factor)
        long_range = {
            "sigma": float(les.get("sigma", 1.0)),
            "dl": float(les.get("dl", 2.0)),
            "norm_factor": norm_factor,
            "remove_self_interaction": not kept,
        }
        if options.norm_factor is None:
            notes.append(
                f"The factor of the long-range sum is not in the file: {_NORM_FACTOR} eV Å was taken, that of the les "
                "of its time, which DFT energies of a published model confirm. Give another one with --norm-factor."
            )
        if options.self_interaction is None:
            notes.append(
                "Whether the sum keeps the energy of each Gaussian with itself is not in the file: it was taken as "
                "removed, which DFT energies of a published model confirm."
            )
    if not average:
        notes.append("The file has no moving average of the weights: the last ones were taken.")
    potential = convert_weights(
        config,
        arrays,
        scales=_numbers(scales, 1.0, config),
        shifts=_numbers(shifts, 0.0, config),
        long_range=long_range,
    )
    return Converted(
        potential,
        "NequIP" if les is None else "NequIP-LES",
        tuple(_says(config, settings, long_range, average)),
        tuple(notes),
        "none" if shifts is None else "the file",
    )


def _settings(root: dict) -> dict[str, Any]:
    hyper = root.get("hyper_parameters")
    model = hyper.get("model") if isinstance(hyper, dict) else None
    return model if isinstance(model, dict) else {}


def _version(root: dict) -> str:
    info = root["hyper_parameters"].get("info_dict")
    versions = info.get("versions") if isinstance(info, dict) else None
    return str(versions.get("nequip")) if isinstance(versions, dict) else "unknown"


def _check(settings: dict[str, Any], version: str) -> None:
    """Refuse options that change the model and that lesjax lacks."""
    if settings["_target_"] not in _BUILDERS:
        raise ValueError(f"The model is made by {settings['_target_']}; lesjax knows {', '.join(_BUILDERS)}.")
    if not version.startswith("0.7."):
        raise ValueError(f"The file was written by nequip {version}; lesjax knows the layout of nequip 0.7.")
    unknown = {
        name: value
        for name, value in settings.items()
        if name not in _KNOWN and value is not None and (name not in _DEFAULTS or value != _DEFAULTS[name])
    }
    if unknown:
        raise ValueError(f"The model has options that lesjax does not know: {unknown}.")
    for name in ("num_features", "radial_mlp_depth", "radial_mlp_width"):
        if not isinstance(settings.get(name, 1), int):
            raise ValueError(f"The model has {name} = {settings[name]}; lesjax takes one number for all layers.")
    if isinstance(settings.get("avg_num_neighbors"), dict):
        raise ValueError("The model has a number of neighbours for each element; lesjax takes one for all.")
    symbols = settings["type_names"]
    unknown_symbols = [symbol for symbol in symbols if symbol not in chemical_symbols[1:]]
    if unknown_symbols or len(set(symbols)) < len(symbols):
        raise ValueError(f"The types of the model are {symbols}; lesjax takes different chemical symbols.")


def _check_les(les: Any) -> None:
    if not isinstance(les, dict):
        raise ValueError(f"The model has les_args = {les!r}; lesjax takes a table.")
    wanted: dict[str, Any] = {"use_atomwise": False, "epsilon_factor": 1.0}
    known = {*wanted, "sigma", "dl", "remove_mean"}  # the last one belongs to Born effective charges
    for name, value in les.items():
        if name not in known or (name in wanted and value not in (wanted[name], None)):
            raise ValueError(f"The model has les_args.{name} = {value!r}, which lesjax does not know.")


def _weights(state: dict[str, Any], settings: dict[str, Any]) -> tuple[dict[str, np.ndarray], bool]:
    """Weights by their names in the network, in float64, and whether they are the moving average."""
    prefix = next((name.removesuffix(_EMBEDDING) for name in state if name.endswith(_EMBEDDING)), None)
    if prefix is None:
        raise ValueError(f"The file has no {_EMBEDDING}: it is no NequIP model.")
    trainable = {_BESSEL: settings.get("bessel_trainable", False)}
    trainable |= {_SCALE: settings.get("per_type_energy_scales_trainable", False)}
    trainable |= {_SHIFT: settings.get("per_type_energy_shifts_trainable", False)}
    weights, learned = {}, []
    for place, value in state.items():
        name = place.removeprefix(prefix)
        # a model without scales has an empty array of them
        if not place.startswith(prefix) or not isinstance(value, np.ndarray) or value.size == 0:
            continue
        layer = name.endswith(_LEARNED) or (".mlp." in name and name.endswith(".weight"))
        if layer or name == _BESSEL or trainable.get(name):
            weights[name] = np.asarray(value, float)
            learned += [name] if trainable.get(name, True) else []
    average = [name for name in state if name.startswith("ema.ema_weight_")]
    holds = state.get("ema._extra_state")
    if isinstance(holds, dict) and not holds.get("is_holding_ema_weights", True):
        return weights, True  # the file was written while the network itself had the average
    if not average:
        return weights, False
    if len(average) != len(learned):
        raise ValueError(f"The file has {len(average)} averaged weights for {len(learned)} that are learned.")
    for i, name in enumerate(learned):
        value = np.asarray(state[f"ema.ema_weight_{i}"], float)
        if value.shape != weights[name].shape:
            raise ValueError(f"The averaged weight {i} has the shape {value.shape}, and {name} {weights[name].shape}.")
        weights[name] = value
    return weights, True


def _config(settings: dict[str, Any], weights: dict[str, np.ndarray]) -> NequIPConfig:
    """Hyper-parameters, those left out as nequip has them.

    Without `parity` nequip 0.7.0 has even features only, later versions those of the harmonics: the number of radial
    weights tells them apart.
    """
    parity = bool(settings.get("parity", True))
    number = settings.get("avg_num_neighbors")
    config = NequIPConfig(
        elements=tuple(chemical_symbols.index(symbol) for symbol in settings["type_names"]),
        cutoff=float(settings["r_max"]),
        polynomial_cutoff_p=float(settings.get("polynomial_cutoff_p", 6)),
        num_bessels=int(settings.get("num_bessels", 8)),
        bessel_trainable=bool(settings.get("bessel_trainable", False)),
        num_layers=int(settings.get("num_layers", 4)),
        num_features=int(settings.get("num_features", 32)),
        l_max=int(settings.get("l_max", 1)),
        parity=parity,
        reflection_symmetric=parity,
        invariant_layers=int(settings.get("radial_mlp_depth", 2)),
        invariant_neurons=int(settings.get("radial_mlp_width", 64)),
        resnet=bool(settings.get("convnet_resnet", False)),
        avg_num_neighbors=1.0 if number is None else float(number),
    )
    symmetric = dataclasses.replace(config, reflection_symmetric=True)
    last = f"conv.edge_mlp.mlp.{2 * config.invariant_layers}.weight"
    widths = [np.shape(weights.get(f"layer{i}_convnet.{last}", ()))[-1:] for i in range(config.num_layers)]
    if widths == [(len(layer.paths) * config.num_features,) for layer in layer_irreps(symmetric)]:
        return symmetric
    return config


def _numbers(values: Any, default: float, config: NequIPConfig) -> list[float]:
    """One number for each element."""
    if isinstance(values, dict):
        values = [values[chemical_symbols[z]] for z in config.elements]
    numbers = np.asarray(default if values is None else values, float).ravel()
    if numbers.size not in (1, len(config.elements)):
        raise ValueError(
            f"The file has {numbers.size} scales or shifts of energies for {len(config.elements)} elements."
        )
    return np.broadcast_to(numbers, len(config.elements)).tolist()


def _says(
    c: NequIPConfig, settings: dict[str, Any], long_range: dict[str, Any] | None, average: bool
) -> list[tuple[str, str]]:
    kinds = "both" if c.parity else "those of the harmonics" if c.reflection_symmetric else "all even"
    rows = [
        ("cutoff", f"{c.cutoff:g} Å, polynomial, p = {c.polynomial_cutoff_p:g}"),
        ("layers", f"{c.num_layers} of {c.num_features} features, l up to {c.l_max}, parities: {kinds}"),
        ("radial network", f"{c.num_bessels} Bessel functions, {c.invariant_layers} layers of {c.invariant_neurons}"),
        ("neighbours", f"{c.avg_num_neighbors:.4g} on average"),
        ("scales of energies", str(settings.get("per_type_energy_scales"))),
        ("weights", "moving average" if average else "last ones"),
    ]
    if long_range is not None:
        rows.append(("long-range sum", f"σ = {long_range['sigma']:g} Å, dl = {long_range['dl']:g} Å"))
    return rows
