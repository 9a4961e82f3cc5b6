r"""Published CACE-LES weights, arrays under their published names, to parameters of `LesModel`.

The published features are ordered (radial, invariant, element channel, layer), here (layer, invariant, radial, element
channel); channel k = sender · n_embedding + receiver in both. The published sum is ``norm_factor`` Σ … \|S\|² / V where
the sum here has 1/(2ε0), so charges are scaled by √(norm_factor · 2ε0).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lesjax.models.cace.config import CACEConfig
from lesjax.models.cace.symmetrize import invariants
from lesjax.models.config import ModelConfig
from lesjax.models.long_range import LatentCharges, LongRangeConfig
from lesjax.models.named_arrays import NamedArrays
from lesjax.models.potential import Potential
from lesjax.units import COULOMB


_MESSAGES = {"NodeMemory": "M", "MessageAr": "Ar", "MessageBchi": "Bchi"}
_CUTOFFS = {"PolynomialCutoff": "polynomial", "CosineCutoff": "cosine"}


@dataclass(frozen=True)
class Places:
    """Prefixes of published names, each with its last dot.

    Attributes:
        representation: of the features.
        energy: of the readout of the energy.
        charges: of the readout of the charges; None for a short-range model.
        charge_representation: of the features of the charges where they have their own.
    """

    representation: str = "representation."
    energy: str = "output_modules.1."
    charges: str | None = "output_modules.0.les.atomwise."
    charge_representation: str | None = None


# of the first checkpoints with two potentials
SEPARATE = Places(
    "models.1.representation.", "models.1.output_modules.0.", "models.0.output_modules.0.", "models.0.representation."
)


def convert_weights(info: Mapping, weights: Mapping[str, np.ndarray], places: Places | None = None) -> Potential:
    """Build a potential from published weights.

    Args:
        info: hyper-parameters: ``representation`` (one, or two where the charges have their own, which comes first),
            each with zs, cutoff, cutoff_p, n_rbf, n_radial_basis, n_atom_basis, max_l, max_nu, message_passing,
            mp_norm_factor, and where they differ cutoff_fn, bessel_trainable, distance_offset; and ``long_range`` with
            sigma, dl, norm_factor, charge_output_scaling, and self_energies_removed, see `LatentCharges`. Without that
            the sum over all channels is removed once, and from each channel where there are two representations.
        weights: arrays under their published names, torch layout ([out, in] for dense layers).
        places: where they are; by the number of representations if not given.

    Raises:
        ValueError: for names that have no place in the model, or a name that is missing.
    """
    published = NamedArrays(weights)
    configs = [_short_range_config(r) for r in info["representation"]]
    c = configs[0]
    if any(other != c for other in configs):
        raise ValueError("`info` has two different representations; lesjax shares the settings of both.")
    places = places or (SEPARATE if len(configs) == 2 else Places())
    energy_readout, hidden, linear = _readout(c, published, places.energy)
    scale = {"layer0": np.ones(_n_features(c), energy_readout["output"]["bias"].dtype)}
    params: dict = {
        "short_range": _short_range(c, published, places.representation),
        "energy": {"feature_scale": scale, "readout": {"layer0": energy_readout}},
    }
    long_range = None
    if places.charges is not None:
        readout, charge_hidden, charge_linear = _readout(c, published, places.charges)
        params["charges"] = {"readout": {"layer0": readout}}
        if places.charge_representation is not None:
            features = _short_range(c, published, places.charge_representation)
            params["charges"] |= {"short_range": features, "feature_scale": scale}
        settings = info["long_range"]
        n_channels = readout["output"]["bias"].shape[0]
        # the code behind checkpoints with two representations subtracted the sum over all channels from each of them
        removed = settings.get("self_energies_removed", n_channels if len(configs) == 2 else 1)
        charges = LatentCharges(
            n_channels=n_channels,
            scale=settings["charge_output_scaling"] * (settings["norm_factor"] / (2.0 * np.pi * COULOMB)) ** 0.5,
            hidden=charge_hidden,
            linear=charge_linear,
            self_energies_removed=float(removed),
        )
        long_range = LongRangeConfig(
            charges,
            sigma=settings["sigma"],
            k_cutoff=2.0 * np.pi / settings["dl"],
            separate_features=places.charge_representation is not None,
        )
    config = ModelConfig(c, long_range, hidden=hidden, linear=linear, energy_scale=1.0)
    published.check_all_used()
    # numpy arrays could not be indexed by traced arrays
    params = jax.device_put(params)
    signs = None if long_range is None else jnp.ones_like(params["charges"]["readout"]["layer0"]["output"]["bias"])
    return Potential(params, signs, config)


def _bias(published: NamedArrays, name: str, exists: bool) -> np.ndarray:
    """Bias of a dense layer; zero where the readout has none."""
    if exists:
        return published(f"{name}.bias")
    weight = published(f"{name}.weight")
    return np.zeros(weight.shape[0], weight.dtype)


def _short_range_config(r: Mapping) -> CACEConfig:
    layers, shared = [], True
    for layer in r["message_passing"]:
        names = [part for part in layer if isinstance(part, str)]
        layers.append(tuple(_MESSAGES[name] for name in names))
        options = next((part for part in layer if isinstance(part, dict)), {})
        shared = bool(options.get("shared_channels", True))
    return CACEConfig(
        elements=tuple(int(z) for z in r["zs"]),
        cutoff=r["cutoff"],
        cutoff_function=_CUTOFFS[r.get("cutoff_fn", "PolynomialCutoff")],
        cutoff_p=r["cutoff_p"],
        n_bessel=r["n_rbf"],
        trainable_bessel=r.get("bessel_trainable", True),
        n_radial=r["n_radial_basis"],
        n_embedding=r["n_atom_basis"],
        max_l=r["max_l"],
        max_nu=r["max_nu"],
        messages=tuple(layers),
        bchi_shared=shared,
        message_scale=r["mp_norm_factor"],
        distance_offset=r.get("distance_offset", 0.0),
    )


def _short_range(c: CACEConfig, published: NamedArrays, prefix: str) -> PyTree:
    per_order = (c.max_l + 1, c.n_radial, c.n_embedding, c.n_embedding)

    def stacked(name: str, *shape: int) -> np.ndarray:
        return np.stack([published(f"{prefix}{name}.{l}") for l in range(c.max_l + 1)]).reshape(shape or per_order)

    params: dict = {
        "sender_embedding": published(f"{prefix}node_embedding_sender.embedding_weights"),
        "receiver_embedding": published(f"{prefix}node_embedding_receiver.embedding_weights"),
        "bessel_frequencies": published(f"{prefix}radial_basis.bessel_weights"),
        "radial_mixing": stacked("radial_transform.weights", c.max_l + 1, c.n_bessel, *per_order[1:]),
    }
    for layer, messages in enumerate(c.messages):
        path = f"message_passing_list.{layer}"
        if "M" in messages:
            params[f"layer{layer}_memory"] = stacked(f"{path}.0.memory_coef")
        if "Ar" in messages:
            params[f"layer{layer}_prefactor"] = stacked(f"{path}.1.prefactor")
            params[f"layer{layer}_decay"] = stacked(f"{path}.1.invr0")
        if "Bchi" in messages:
            dense = f"{prefix}{path}.2.hnet.0.linear"
            params[f"layer{layer}_bchi"] = {
                "kernel": _reorder_inputs(c, published(f"{dense}.weight"), n_layers=1),
                "bias": published(f"{dense}.bias"),
            }
    return params


def _n_features(c: CACEConfig) -> int:
    return (len(c.messages) + 1) * len(invariants(c.max_l, c.max_nu)) * c.n_radial * c.n_embedding**2


def _reorder_inputs(c: CACEConfig, weight: np.ndarray, n_layers: int) -> np.ndarray:
    """Torch weight [out, (radial, invariant, channel, layer)] to kernel [(layer, invariant, radial, channel), out]."""
    n_invariants = len(invariants(c.max_l, c.max_nu))
    split = weight.reshape(-1, c.n_radial, n_invariants, c.n_embedding**2, n_layers)
    return split.transpose(4, 2, 1, 3, 0).reshape(-1, weight.shape[0])


def _readout(c: CACEConfig, published: NamedArrays, prefix: str) -> tuple[PyTree, tuple[int, ...], bool]:
    """Parameters of one readout, its hidden widths, and whether it has a linear part."""
    n_layers = len(c.messages) + 1
    depth = 0
    while published.has(f"{prefix}outnet.{depth}.linear.weight"):
        depth += 1
    if depth == 0:
        raise ValueError(f"`weights` has no readout under {prefix + 'outnet'!r}.")
    params: dict = {}
    hidden = []
    has_bias = published.has(f"{prefix}outnet.0.linear.bias")
    for i in range(depth):
        weight = published(f"{prefix}outnet.{i}.linear.weight")
        kernel = _reorder_inputs(c, weight, n_layers) if i == 0 else weight.T
        params["output" if i == depth - 1 else f"hidden{i}"] = {
            "kernel": kernel,
            "bias": _bias(published, f"{prefix}outnet.{i}.linear", has_bias),
        }
        if i < depth - 1:
            hidden.append(weight.shape[0])
    linear = published.has(f"{prefix}linear_nn.linear.weight")
    if linear:
        params["linear"] = {
            "kernel": _reorder_inputs(c, published(f"{prefix}linear_nn.linear.weight"), n_layers),
            "bias": _bias(published, f"{prefix}linear_nn.linear", has_bias),
        }
    return params, tuple(hidden), linear
