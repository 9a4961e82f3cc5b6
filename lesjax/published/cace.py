"""CACE and CACE-LES files: a pickled ``NeuralNetworkPotential``, or a ``CombinePotential`` of several.

Their energy is a graph of output modules that find each other by names: a readout (``Atomwise``), the long-range energy
(``EwaldPotential`` of the charges that another readout gives, or ``LesWrapper`` with a readout inside), and the sum of
both (``FeatureAdd``, or the terms of a ``CombinePotential`` with their weights).

Charges are scaled so that their Coulomb energy is the long-range part of the energy: by √(weight · norm_factor · 2ε0).
``EwaldPotential`` removes the self-energy of all channels from each channel, les removes it once.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from lesjax.models.cace.convert import Places, convert_weights
from lesjax.models.potential import Potential
from lesjax.published.family import Converted, Options
from lesjax.published.torch_file import Record, TorchFile, state_dict


_ENERGY = "CACE_energy"
# modules beside the energy: forces, and Born effective charges, which lesjax has of its own
_IGNORED = ("Forces", "Polarization", "Grad", "Dephase", "FixedCharge")
_ENERGIES = ("Atomwise", "EwaldPotential", "LesWrapper", "FeatureAdd")
_MESSAGES = ("NodeMemory", "MessageAr", "MessageBchi")
# cace divides vectors by their length plus this, Å
_DISTANCE_OFFSET = 1e-9


class _Term(NamedTuple):
    """A module that adds to the energy: where it is, with its factor."""

    module: Record
    model: Record
    prefix: str
    place: int
    weight: float


def matches(file: TorchFile) -> bool:
    """Return whether the file is one of cace."""
    return isinstance(file.root, Record) and file.root.name.startswith("cace.")


def convert_file(file: TorchFile, options: Options) -> Converted:
    """Convert a file of cace.

    Raises:
        ValueError: for modules or options that lesjax lacks, or a file whose parts do not fit.
    """
    for name in ("norm_factor", "self_interaction"):
        if getattr(options, name) is not None:
            raise ValueError(f"`{name}` is in the file: leave it out.")
    terms = _terms(file.root)
    readouts = [t for t in terms if t.module.kind == "Atomwise"]
    sums = [t for t in terms if t.module.kind != "Atomwise"]
    if len(readouts) != 1 or len(sums) > 1:
        kinds = ", ".join(t.module.kind for t in terms)
        raise ValueError(f"The energy is the sum of {kinds}; lesjax takes one Atomwise and at most one long-range sum.")
    energy, arrays = readouts[0], state_dict(file.root)
    _check_readout(energy.module)
    representation = energy.model["representation"]
    settings = _representation(representation)
    places = Places(f"{energy.prefix}representation.", _place(energy), None)
    info: dict[str, Any] = {"representation": [settings]}
    notes = []
    if sums:
        charges, prefix, long_range, notes = _long_range(sums[0])
        own = sums[0].model["representation"]
        shared = own is representation or _equal(own, representation)
        places = Places(places.representation, places.energy, prefix)
        if not shared:
            info["representation"].append(_representation(own))
            places = Places(*(places.representation, places.energy, prefix), f"{sums[0].prefix}representation.")
        info["long_range"] = long_range
        if charges["n_out"] > 1 and long_range["self_energies_removed"] not in (0, 1):
            notes.append(
                f"The published sum removes the self-energy of all {charges['n_out']} channels from each of them, "
                "which is reproduced in periodic cells; the published sum over clusters does so only where it keeps it."
            )
    wanted = _weights(arrays, places)
    _fold_prefactor(wanted, representation, places)
    potential = _with_energy_scale(convert_weights(info, wanted, places), energy.weight)
    if options.reference_energies is None:
        notes.append(
            "Reference energies of the elements are not in the file: energies are those of interaction. Give them with "
            "--reference-energies, from the script that trained the model."
        )
    says = _says(settings, energy, sums, info)
    return Converted(potential, "CACE-LES" if sums else "CACE", tuple(says), tuple(notes))


def _terms(root: Record) -> list[_Term]:
    """Modules whose outputs add up to the energy."""
    if root.kind == "NeuralNetworkPotential":
        return _of_model(root, "", _energy_key(root), 1.0)
    if root.kind != "CombinePotential":
        raise ValueError(f"The file holds a {root.name}, which lesjax does not know.")
    operation = root.get("operation")
    if isinstance(operation, Record) and operation.args[-1:] != ("default_operation",):
        raise ValueError(f"The potentials are combined by {operation.args[-1:]}, which lesjax does not know.")
    models, keys = root["models"].children(), root["potential_keys"]
    if len(models) != len(keys):
        raise ValueError(f"The file combines {len(models)} potentials with names for {len(keys)}.")
    terms = []
    for (name, model), names in zip(models.items(), keys, strict=True):
        weight = names.get("weight", 1.0)
        terms += _of_model(model, f"models.{name}.", names[_ENERGY], 1.0 if weight is None else float(weight))
    return terms


def _energy_key(model: Record) -> str:
    """Name of the energy of which the forces are derivatives."""
    modules = model["output_modules"].children().values()
    keys = [module["energy_key"] for module in modules if module.kind == "Forces"]
    return _ENERGY if _ENERGY in keys or not keys else keys[-1]


def _of_model(model: Record, prefix: str, key: str, weight: float) -> list[_Term]:
    if model.kind != "NeuralNetworkPotential":
        raise ValueError(f"The file holds a {model.name}, which lesjax does not know.")
    for module in model["output_modules"].children().values():
        if module.kind not in (*_IGNORED, *_ENERGIES):
            raise ValueError(f"The model has an output module {module.name}, which lesjax does not know.")
    for module in model["input_modules"].children().values():
        if module.kind != "Preprocess":
            raise ValueError(f"The model has an input module {module.name}, which lesjax does not know.")
    if model["postprocessors"].children() and model.get("do_postprocessing"):
        raise ValueError("The model has postprocessors, which lesjax does not know.")
    found = [_Term(m, model, prefix, int(i), weight) for i, m in model["output_modules"].children().items()]
    by_output = {}
    for term in found:
        output = term.module.get("output_key", term.module.get("energy_key"))
        if term.module.kind in _ENERGIES and output is not None:
            by_output[output] = term
    terms, keys = [], [key]
    for name in keys:
        if name not in by_output or len(keys) > 16:
            raise ValueError(f"No output module gives {name!r}, which the energy needs; there are {sorted(by_output)}.")
        term = by_output[name]
        if term.module.kind == "FeatureAdd":
            keys.extend(term.module["feature_keys"])
        else:
            terms.append(term)
    return terms


def _place(term: _Term) -> str:
    return f"{term.prefix}output_modules.{term.place}."


def _check(module: Record, **wanted: Any) -> None:
    """Refuse attributes with other values; ones that the file lacks are as wanted."""
    for name, value in wanted.items():
        values = value if isinstance(value, tuple) else (value,)
        if (found := module.get(name, values[0])) not in values:
            raise ValueError(f"{module.kind} has {name} = {found!r}, which lesjax does not know.")


def _check_readout(module: Record) -> None:
    activation = getattr(module.get("activation"), "name", None)
    if activation not in ("torch.nn.functional.silu", "torch.nn.modules.activation.SiLU"):
        raise ValueError(f"{module.kind} has the activation {activation!r}; lesjax has silu.")
    _check(
        module, residual=False, use_batchnorm=(False, None), aggregation_mode="sum", post_process=None,
        feature_key=("node_feats", None), descriptor_output_key=None,
    )  # fmt: skip


def _long_range(term: _Term) -> tuple[Record, str, dict[str, Any], list[str]]:
    """Readout of the charges, its place, settings of the sum, and notes."""
    module, notes = term.module, []
    if module.kind == "LesWrapper":
        les = module["les"]
        ewald, readout, prefix = les["ewald"], les.get("atomwise"), f"{_place(term)}les.atomwise."
        unknown = ("use_fixed_atomic_charges", "use_atomic_alpha", "use_epsilon_r_scaling", "use_induced_charge")
        _check(les, **dict.fromkeys(unknown, (False, None)))
        if readout is None or not readout.has("outnet"):
            readout, prefix = _charges(term, module["feature_key"])
        scale, removed = readout.get("output_scaling_factor", 1.0), int(bool(ewald["remove_self_interaction"]))
    else:
        ewald = module
        _check(
            ewald, exponent=1, external_field=None, charge_neutral_lambda=(None, 0.0), aggregation_mode="sum",
        )  # fmt: skip
        readout, prefix = _charges(term, module["feature_key"])
        scale, removed = 1.0, readout["n_out"] if ewald["remove_self_interaction"] else 0
    _check_readout(readout)
    if term.weight <= 0.0:
        raise ValueError(f"The long-range energy has the weight {term.weight}; lesjax needs a positive one.")
    if term.weight != 1.0:
        notes.append(
            f"The long-range energy has the weight {term.weight:g} in the file, which is in the charges here: they are "
            f"{term.weight**0.5:.4g} times the published ones."
        )
    settings = {
        "sigma": float(ewald["sigma"]),
        "dl": float(ewald["dl"]),
        "norm_factor": float(ewald.get("norm_factor", 1.0)) * term.weight,
        "charge_output_scaling": float(scale),
        "self_energies_removed": removed,
    }
    return readout, prefix, settings, notes


def _charges(term: _Term, key: str) -> tuple[Record, str]:
    """Readout of the charges of another module, and its place."""
    for name, module in term.model["output_modules"].children().items():
        if module.kind == "Atomwise" and key in (module.get("per_atom_output_key"), module.get("output_key")):
            return module, f"{term.prefix}output_modules.{name}."
    raise ValueError(f"No output module gives the charges {key!r} of {term.module.kind}.")


def _representation(r: Record) -> dict[str, Any]:
    """Hyper-parameters, under the names of `convert_weights`."""
    if r.kind != "Cace":
        raise ValueError(f"The model has a representation {r.name}, which lesjax does not know.")
    _check(r, charge_spin_key=None, forward_features=([], None))
    basis, cutoff = r["radial_basis"], r["cutoff_fn"]
    if basis.kind != "BesselRBF":
        raise ValueError(f"The model has the radial functions {basis.name}; lesjax has BesselRBF.")
    if cutoff.kind not in ("PolynomialCutoff", "CosineCutoff"):
        raise ValueError(f"The model has the cutoff function {cutoff.name}, which lesjax does not know.")
    if r["radial_transform"].kind != "SharedRadialLinearTransform":
        raise ValueError(
            f"The model has the radial transform {r['radial_transform'].name}, which lesjax does not know."
        )
    _check(r["edge_coding"], directed=True)
    layers = []
    for layer in r["message_passing_list"].children().values():
        messages = layer.children()
        names: list[Any] = [message.kind for message in messages.values()]
        for name, message in messages.items():
            if message.kind not in _MESSAGES or name != str(_MESSAGES.index(message.kind)):
                raise ValueError(f"The model has messages {message.name}, which lesjax does not know.")
            if message.kind == "MessageBchi":
                _check(message, n_layers=1, residual=False, use_batchnorm=(False, None))
                _check(message, shared_l=bool(message["shared_channels"]))
                names.append({"shared_channels": bool(message["shared_channels"])})
        layers.append(names)
    return {
        "zs": [int(z) for z in r["zs"]],
        "cutoff": float(basis["cutoff"]),
        "cutoff_fn": cutoff.kind,
        "cutoff_p": float(cutoff.get("p", 6.0)),
        "n_rbf": int(r["n_radial_func"]),
        "bessel_trainable": "bessel_weights" in basis.attributes.get("_parameters", {}),
        "n_radial_basis": int(r["n_radial_basis"]),
        "n_atom_basis": int(r["n_atom_basis"]),
        "max_l": int(r["max_l"]),
        "max_nu": int(r["max_nu"]),
        "message_passing": layers,
        "mp_norm_factor": float(r["mp_norm_factor"]),
        "distance_offset": _DISTANCE_OFFSET,
    }


def _equal(one: Record, other: Record) -> bool:
    a, b = state_dict(one), state_dict(other)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


_LEARNED = (
    "node_embedding_sender.embedding_weights", "node_embedding_receiver.embedding_weights",
    "radial_basis.bessel_weights", "radial_transform.weights.", "message_passing_list.", "outnet.", "linear_nn.",
)  # fmt: skip


def _weights(arrays: dict[str, np.ndarray], places: Places) -> dict[str, np.ndarray]:
    """Weights at the places, in float64; buffers that the configuration has are left out."""
    prefixes = [p for p in vars(places).values() if p is not None]
    found = {}
    for name, value in arrays.items():
        prefix = next((p for p in prefixes if name.startswith(p)), None)
        rest = "" if prefix is None else name.removeprefix(prefix)
        if rest.startswith(_LEARNED) and not rest.endswith("angular_dim_groups"):
            found[name] = np.asarray(value, float)
    return found


def _fold_prefactor(weights: dict[str, np.ndarray], representation: Record, places: Places) -> None:
    """Put the rounding of √(2 / cutoff) in the file into the mixing of the radial functions."""
    basis = representation["radial_basis"]
    factor = float(basis["prefactor"]) / np.sqrt(2.0 / float(basis["cutoff"]))
    for prefix in (places.representation, places.charge_representation):
        for name in weights:
            if prefix is not None and name.startswith(f"{prefix}radial_transform.weights."):
                weights[name] = weights[name] * factor


def _with_energy_scale(potential: Potential, scale: float) -> Potential:
    return dataclasses.replace(potential, config=dataclasses.replace(potential.config, energy_scale=scale))


def _says(settings: dict, energy: _Term, sums: list[_Term], info: dict) -> Iterable[tuple[str, str]]:
    c = settings
    messages = " | ".join("+".join(m for m in layer if isinstance(m, str)) for layer in c["message_passing"])
    yield "cutoff", f"{c['cutoff']:g} Å, {c['cutoff_fn']}, p = {c['cutoff_p']:g}"
    yield (
        "basis",
        (
            f"{c['n_rbf']} Bessel functions, {c['n_radial_basis']} radial and {c['n_atom_basis']} embedding channels, "
            f"l up to {c['max_l']}, ν up to {c['max_nu']}"
        ),
    )
    yield "messages", messages or "none"
    yield "energy readout", str(energy.module.get("n_hidden"))
    if sums:
        s = info["long_range"]
        yield "long-range sum", f"{sums[0].module.kind}, σ = {s['sigma']:g} Å, dl = {s['dl']:g} Å"
        yield "norm factor", f"{s['norm_factor'] / sums[0].weight:g} eV Å"
        yield "self-energy", f"removed {s['self_energies_removed']} times"
        yield "features of the charges", "those of the energy" if len(info["representation"]) == 1 else "their own"
