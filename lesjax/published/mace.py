r"""Published MACE and MACE-LES models, records of `lesjax.published.torch_file`, to potentials.

The normalization constants of e3nn (path weights, the factor of silu, prefactors) become part of the weights. The
weights of the symmetric contraction belong to couplings that are in the file and depend on each other; they are mapped
to the independent ones of `lesjax.models.mace.contraction` by projection. Those of the file are rounded to float32, so
that energies differ by up to 1e-6 eV and forces by up to 1e-6 eV/Å. The scale of the energies is `energy_scale`, their
shift is in the bias of the readout. Charges are scaled as in `lesjax.models.cace.convert`.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from lesjax.models.config import ModelConfig
from lesjax.models.long_range import LatentCharges, LongRangeConfig
from lesjax.models.mace import MACEConfig
from lesjax.models.mace.config import NON_RESIDUAL, RESIDUAL, WITH_DENSITY
from lesjax.models.mace.contraction import couplings, paths, symmetrize
from lesjax.models.mace.model import message_paths
from lesjax.models.mace.repulsion import EXPONENT, PREFACTOR
from lesjax.models.potential import Potential
from lesjax.published.family import Converted, Options
from lesjax.published.torch_file import Record, TorchFile
from lesjax.units import COULOMB


CLASSES = ("MACE", "ScaleShiftMACE", "MACELES")
# Options that change the model, with the values that are read
_DEFAULTS = {
    "use_so3": False, "use_agnostic_product": False, "use_last_readout_only": False, "use_edge_irreps_first": False,
    "edge_irreps": None, "apply_cutoff": True, "embedding_specs": None,
}  # fmt: skip
_LES_DEFAULTS = {
    "use_atomwise": False, "use_fixed_atomic_charges": False, "use_atomic_alpha": False, "use_epsilon_r_scaling": False,
}  # fmt: skip
_REPULSION = {"a_exp": EXPONENT, "a_prefactor": PREFACTOR}


def matches(file: TorchFile) -> bool:
    """Return whether the file is one of mace-torch."""
    return isinstance(file.root, Record) and file.root.name.startswith("mace.")


def convert_file(file: TorchFile, options: Options) -> Converted:
    """Convert a file of mace-torch.

    Raises:
        ValueError: for a model with a part that has no counterpart here, with its name.
    """
    root = file.root
    if root.kind not in CLASSES:
        raise ValueError(f"The file holds a {root.kind}; of mace-torch {', '.join(CLASSES)} are read.")
    potential = convert_model(root, options)
    c = potential.config
    notes = ["Couplings of the file were mapped to independent ones: energies may differ by 1e-6 eV."]
    return Converted(potential, "MACE-LES" if c.long_range else "MACE", tuple(_says(root, c)), tuple(notes), "the file")


def convert_model(root: Record, options: Options | None = None) -> Potential:
    """Make the potential of a MACE model, with charges where it has them."""
    _check_options(root, _DEFAULTS)
    short_range = _short_range_config(root)
    scale, shift = (_single(root, f"scale_shift.{name}", value) for name, value in (("scale", 1.0), ("shift", 0.0)))
    hidden, linear, energy = _readouts(root, "readouts", short_range)
    energy["layer0"]["output"]["bias"] += shift / scale
    features = {f"layer{i}": np.ones(short_range.channels) for i in range(short_range.num_interactions)}
    params: dict = {
        "short_range": _short_range(root, short_range),
        "energy": {"feature_scale": features, "readout": energy},
    }
    long_range = None
    if root.has("les"):
        charge_hidden, charge_linear, charges = _readouts(root, "les_readouts", short_range)
        params["charges"] = {"readout": charges}
        long_range = _long_range_config(root["les"], options or Options(), charge_hidden, charge_linear)
    references = np.atleast_2d(np.asarray(root["atomic_energies_fn.atomic_energies"], np.float64))
    config = ModelConfig(
        short_range, long_range, hidden=hidden, linear=linear, energy_scale=scale,
        reference_energies=tuple(float(e) for e in references[0]),
    )  # fmt: skip
    dtype = jax.dtypes.canonicalize_dtype(float)
    return Potential(jax.device_put(params), None if long_range is None else jnp.ones(1, dtype), config)


def _says(root: Record, config: ModelConfig) -> Iterable[tuple[str, str]]:
    c = config.short_range
    assert isinstance(c, MACEConfig)
    yield "cutoff", f"{c.cutoff:g} Å, p = {c.num_polynomial_cutoff:g}"
    yield (
        "features",
        f"{c.hidden_irreps}, {c.num_interactions} interactions, max_ell {c.max_ell}, correlation {c.correlation}",
    )
    yield "radial network", f"{c.num_radial_basis} {c.radial_type} functions, {'-'.join(map(str, c.radial_MLP))}"
    yield "interactions", ", then ".join(dict.fromkeys(c.interaction_of(i) for i in range(c.num_interactions)))
    if c.distance_transform != "None":
        yield "distance transform", c.distance_transform
    yield "mean number of neighbours", f"{c.avg_num_neighbors:g}"
    yield "scale and shift", f"{config.energy_scale:g} and {_single(root, 'scale_shift.shift', 0.0):g} eV"
    if config.long_range is not None:
        ewald = root["les.ewald"]
        yield "long-range sum", f"σ = {ewald['sigma']:g} Å, dl = {ewald['dl']:g} Å"
        yield "norm factor", f"{ewald['norm_factor']:g} eV Å"
        yield "self-energy", "removed" if ewald["remove_self_interaction"] else "not removed"


def _check_options(module: Record, defaults: Mapping[str, Any]) -> None:
    for name, value in defaults.items():
        found = module.get(name, value)
        if found != value:
            raise ValueError(
                f"The file's {module.kind} has `{name}` = {str(found)[:60]}, which has no counterpart here; only "
                f"{value} is read."
            )


def _short_range_config(root: Record) -> MACEConfig:
    if len(root.get("heads", None) or ["default"]) > 1:
        raise ValueError(
            f"The file's model has several heads, {root['heads']}. Select one: `mace_select_head` of mace-torch."
        )
    interactions, products = _list(root, "interactions"), _list(root, "products")
    kinds = [module.kind for module in interactions]
    if kinds[0] not in (*RESIDUAL, *NON_RESIDUAL) or set(kinds[1:]) - set(RESIDUAL) or len(set(kinds[1:])) > 1:
        known = ", ".join((*RESIDUAL, *NON_RESIDUAL))
        raise ValueError(f"The file's interactions are {kinds}; {known} are read, the last two as the first only.")
    radial, envelope = root["radial_embedding.bessel_fn"], root["radial_embedding.cutoff_fn"]
    transform = root.get("radial_embedding.distance_transform")
    if transform is not None and transform.kind != "AgnesiTransform":
        raise ValueError(f"The file's radial embedding has a {transform.kind}; only AgnesiTransform is read.")
    if radial.kind not in ("BesselBasis", "GaussianBasis") or envelope.kind != "PolynomialCutoff":
        raise ValueError(f"The file's radial functions are {radial.kind} with {envelope.kind}, which are not read.")
    bessel = radial.kind == "BesselBasis"
    pair_repulsion = root.has("pair_repulsion_fn")
    found = [_single(root, f"pair_repulsion_fn.{name}", value) for name, value in _REPULSION.items()]
    if not np.allclose(found, list(_REPULSION.values()), rtol=1e-6):
        raise ValueError(
            f"The file has {found} as the constants of its pair repulsion, {', '.join(_REPULSION)}; only "
            f"{list(_REPULSION.values())} are read."
        )
    correlations = {c["correlation"] for p in products for c in _list(p, "symmetric_contractions.contractions")}
    neighbors = {float(np.asarray(module["avg_num_neighbors"])) for module in interactions}
    if len(correlations) > 1 or len(neighbors) > 1:
        raise ValueError(
            f"The file's layers differ in `correlation` {correlations} or `avg_num_neighbors` {neighbors}; all layers "
            "share one here."
        )
    widths = [int(np.shape(layer)[1]) for layer in _radial_network(interactions[0]["conv_tp_weights"])[:-1]]
    return MACEConfig(
        elements=tuple(int(z) for z in np.asarray(root["atomic_numbers"])),
        cutoff=_single(root, "r_max"),
        hidden_irreps="+".join(f"{n}x{l}{'eo'[p < 0]}" for n, l, p in _irreps(products[0]["linear.irreps_out"])),
        num_interactions=len(interactions),
        max_ell=max(l for _, l, _ in _irreps(root["spherical_harmonics.irreps_out"])),
        correlation=int(correlations.pop()),
        radial_type="bessel" if bessel else "gaussian",
        num_radial_basis=int(np.size(radial["bessel_weights" if bessel else "gaussian_weights"])),
        num_polynomial_cutoff=_single(envelope, "p"),
        distance_transform="None" if transform is None else "Agnesi",
        radial_MLP=tuple(widths),
        avg_num_neighbors=neighbors.pop(),
        interaction=kinds[-1] if len(kinds) > 1 else RESIDUAL[0],
        interaction_first=kinds[0],
        pair_repulsion=pair_repulsion,
        pair_repulsion_scale=_single(root, "scale_shift.scale", 1.0) if pair_repulsion else 1.0,
    )


def _long_range_config(les: Record, options: Options, hidden: tuple[int, ...], linear: bool) -> LongRangeConfig:
    _check_options(les, _LES_DEFAULTS)
    ewald = les["ewald"]
    norm_factor = float(ewald["norm_factor"] if options.norm_factor is None else options.norm_factor)
    removed = bool(ewald["remove_self_interaction"])
    if options.self_interaction is not None:
        removed = not options.self_interaction
    charges = LatentCharges(
        scale=(norm_factor / (2.0 * np.pi * COULOMB)) ** 0.5,
        hidden=hidden,
        linear=linear,
        self_energies_removed=float(removed),
    )
    return LongRangeConfig(charges, sigma=float(ewald["sigma"]), k_cutoff=2.0 * np.pi / float(ewald["dl"]))


def _short_range(root: Record, c: MACEConfig) -> PyTree:
    embedding = _linear(root["node_embedding.linear"])[0]
    params: dict = {"embedding": embedding}
    prefactor = 1.0
    if c.radial_type == "bessel":
        radial = root["radial_embedding.bessel_fn"]
        params["bessel_frequencies"] = np.asarray(radial["bessel_weights"], np.float64)
        # rounded to float32 in the file
        prefactor = float(np.asarray(radial["prefactor"])) / (2.0 / c.cutoff) ** 0.5
    if c.distance_transform == "Agnesi":
        transform = root["radial_embedding.distance_transform"]
        params["agnesi"] = np.array([float(np.asarray(transform[name])) for name in ("q", "p", "a")])
    interactions, products = _list(root, "interactions"), _list(root, "products")
    for i, (interaction, product) in enumerate(zip(interactions, products, strict=True)):
        layer = {f"up{l}": matrix for l, matrix in _linear(interaction["linear_up"]).items()}
        layer |= {f"mix{l}": matrix for l, matrix in _linear(interaction["linear"]).items()}
        # higher orders that a file may have in the last layer are used by nothing
        top = c.max_l(i)
        top_skipped = c.max_ell if interaction.kind in NON_RESIDUAL else top
        layer |= {f"out{l}": matrix for l, matrix in _linear(product["linear"]).items() if l <= top}
        skips = _of_elements(interaction["skip_tp"])
        layer |= {f"skip{l}": matrices for l, matrices in skips.items() if l <= top_skipped}
        network = _radial_network(interaction["conv_tp_weights"])
        network[0] = network[0] * prefactor
        if interaction.kind in WITH_DENSITY:
            (density,) = _radial_network(interaction["density_fn"])
            layer["density"] = density * prefactor
        max_l = 0 if i == 0 else c.max_l(i - 1)
        network[-1] = network[-1] * np.repeat(_path_weights(interaction["conv_tp"], max_l, c), c.channels)[None, :]
        layer |= {f"radial{k}": matrix for k, matrix in enumerate(network)}
        for l, contraction in enumerate(_list(product, "symmetric_contractions.contractions")[: top + 1]):
            layer[f"product{l}"] = _product_weights(contraction, l, c)
        params[f"layer{i}"] = layer
    return params


def _radial_network(network: Record) -> list[np.ndarray]:
    """Matrices of the radial network, with the constants of e3nn in them."""
    matrices, gain = [], 1.0
    layers = network.children()
    for name, layer in layers.items():
        if not name.startswith("layer"):
            raise ValueError(f"The file's radial network has a part {name!r}, which is not read.")
        weight = np.asarray(layer["weight"], np.float64)
        matrices.append(weight * (gain * len(weight) ** -0.5))
        if len(matrices) < len(layers):
            gain = _gain(layer.get("act"))
        elif layer.get("act") is not None:
            raise ValueError("The file's radial network ends with an activation, which is not read.")
    return matrices


def _gain(activation: Any) -> float:
    """The factor of e3nn's normalized silu."""
    if not isinstance(activation, Record) or activation.kind != "normalize2mom" or "silu" not in str(activation["f"]):
        function = activation.get("f") if isinstance(activation, Record) else activation
        if isinstance(function, Record) and function.kind == "getattr":
            function = function.args[-1]  # a function of torch by its name
        raise ValueError(f"The file's activation is {function!s}; only silu is read.")
    return float(activation["cst"])


def _path_weights(convolution: Record, max_l: int, c: MACEConfig) -> Float[np.ndarray, " p"]:
    """Weights of the paths of a convolution over those of the model here."""
    inputs, harmonics, outputs = (_irreps(convolution[f"irreps_{name}"]) for name in ("in1", "in2", "out"))
    found, weights = [], []
    for instruction in convolution["instructions"]:
        first, second, out, mode, _, weight = instruction.args[:6]
        found.append((inputs[first][1], harmonics[second][1], outputs[out][1]))
        weights.append(float(weight) / (2 * found[-1][2] + 1) ** 0.5)
        if mode != "uvu":
            raise ValueError(f"The file's convolution has a path of the kind {mode!r}; only 'uvu' is read.")
    if found != message_paths(max_l, c.max_ell):
        raise ValueError(f"The file's convolution has the paths {found}, not {message_paths(max_l, c.max_ell)}.")
    return np.array(weights)


def _product_weights(contraction: Record, order: int, c: MACEConfig) -> Float[np.ndarray, "z p c"]:
    """Weights of the independent couplings, each by its overlap with the couplings of the file."""
    ends = np.cumsum([0] + [2 * l + 1 for l in range(c.max_ell + 1)])
    blocks = [slice(a, b) for a, b in itertools.pairwise(ends)]
    result = []
    for path, _ in paths(c.max_ell, c.correlation, order):
        degree = len(path)
        name = "weights_max" if degree == c.correlation else f"weights.{c.correlation - degree - 1}"
        table = np.asarray(contraction[f"U_matrix_{degree}"], np.float64)
        table = table.reshape(2 * order + 1, *(ends[-1],) * degree, -1)
        # the factors in all their orders
        permuted = [
            np.moveaxis(table[(slice(None), *(blocks[l] for l in orders))], -1, 0).transpose(
                0, 1, *(2 + i for i in _sorting(orders))
            )
            for orders in set(itertools.permutations(path))
        ]
        tensor = np.stack([symmetrize(part, path) for part in np.sum(permuted, axis=0)])
        basis = couplings(path, order)
        overlap = basis.reshape(len(basis), -1) @ tensor.reshape(len(tensor), -1).T / (2 * order + 1)
        rest = np.abs(tensor - np.tensordot(overlap.T, basis, axes=1)).max()
        if rest > 1e-4 * max(1.0, np.abs(tensor).max()):
            raise ValueError(f"The file's couplings of {path} to order {order} are not those of rotations.")
        result.append(np.einsum("pk,zkc->zpc", overlap, np.asarray(contraction[name], np.float64)))
    return np.concatenate(result, axis=1)


def _sorting(orders: tuple[int, ...]) -> list[int]:
    return sorted(range(len(orders)), key=lambda i: orders[i])


def _readouts(root: Record, name: str, c: MACEConfig) -> tuple[tuple[int, ...], bool, dict]:
    """Widths of the hidden layers, whether there is a linear part, and parameters of the readouts of all layers.

    A linear readout beside one with a hidden layer has that with weights of zero.
    """
    parts = []
    for readout in _list(root, name):
        if readout.kind == "LinearReadoutBlock":
            parts.append((None, _linear(readout["linear"])[0]))
        elif readout.kind == "NonLinearReadoutBlock":
            first, output = _linear(readout["linear_1"])[0], _linear(readout["linear_2"])[0]
            activation = readout["non_linearity.acts"].children().get("0")
            parts.append((None, first @ output) if activation is None else (first, _gain(activation) * output))
        else:
            raise ValueError(f"The file has a readout {readout.kind}, which is not read.")
    if any(output.shape[1] != 1 for _, output in parts):
        raise ValueError(f"The file's {name} have {[output.shape[1] for _, output in parts]} outputs; only 1 is read.")
    hidden_widths = {first.shape[1] for first, _ in parts if first is not None}
    if len(hidden_widths) > 1 or len(parts) != c.num_interactions:
        raise ValueError(f"The file's {name} differ in more than that some are linear, which is not read.")
    hidden = tuple(hidden_widths)
    linear = bool(hidden) and any(first is None for first, _ in parts)
    params = {}
    for i, (first, output) in enumerate(parts):
        layers = {"output": output}
        if hidden:
            empty = np.zeros((c.channels, *hidden))
            layers = {"hidden0": empty if first is None else first, "output": output}
            if linear:
                layers["linear"] = output if first is None else np.zeros((c.channels, 1))
            if first is None:
                layers["output"] = np.zeros((*hidden, 1))
        params[f"layer{i}"] = {k: {"kernel": m, "bias": np.zeros(m.shape[1])} for k, m in layers.items()}
    return hidden, linear, params


def _linear(linear: Record) -> dict[int, Float[np.ndarray, "i o"]]:
    """Matrix of each order of a linear map, with the inputs of one order side by side."""
    inputs, outputs = _irreps(linear["irreps_in"]), _irreps(linear["irreps_out"])
    weight, start = np.asarray(linear["weight"], np.float64), 0
    if np.size(linear.get("bias", ())):
        raise ValueError("The file has a linear map with biases, which is not read.")
    rows: dict[int, list[np.ndarray]] = {}
    for instruction in linear["instructions"]:
        first, last, _, factor = instruction.args[:4]
        (n, l, _), m = inputs[first], outputs[last][0]
        rows.setdefault(l, []).append(weight[start : start + n * m].reshape(n, m) * float(factor))
        start += n * m
    if start != weight.size or len({(l, p) for _, l, p in outputs}) < len(outputs):
        raise ValueError("The file has a linear map of another structure than MACE's.")
    return {l: np.concatenate(parts) for l, parts in rows.items()}


def _of_elements(product: Record) -> dict[int, Float[np.ndarray, "z i o"]]:
    """Matrices [element, in, out] of each order of a product with the elements."""
    inputs, elements, outputs = (_irreps(product[f"irreps_{name}"]) for name in ("in1", "in2", "out"))
    weight, start, found = np.asarray(product["weight"], np.float64), 0, {}
    for instruction in product["instructions"]:
        first, _, last, _, _, factor = instruction.args[:6]
        (n, l, _), z, m = inputs[first], elements[0][0], outputs[last][0]
        matrices = weight[start : start + n * z * m].reshape(n, z, m).swapaxes(0, 1)
        found[l] = matrices * (float(factor) * (2 * l + 1) ** -0.5)
        start += n * z * m
    return found


def _irreps(record: Record) -> list[tuple[int, int, int]]:
    """Multiplicity, order and parity of each part."""
    parts = [_entries(part) for part in _entries(record)]
    return [(int(n), int(_entries(irrep)[0]), int(_entries(irrep)[1])) for n, irrep in parts]


def _entries(record: Record) -> tuple:
    """Entries of a record of a class of tuples."""
    args = record.args
    return args[0] if len(args) == 1 and isinstance(args[0], tuple) else args


def _list(root: Record, name: str) -> list[Record]:
    return list(root[name].children().values())


def _single(root: Record, name: str, default: float | None = None) -> float:
    value = root[name] if default is None else root.get(name, default)
    numbers = np.asarray(value, np.float64).ravel()
    if len(numbers) != 1:
        raise ValueError(f"The file's {name!r} has {len(numbers)} values; only one is read.")
    return float(numbers[0])
