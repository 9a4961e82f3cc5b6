r"""Published NequIP-LES weights, arrays under their published names, to parameters of `LesModel`.

Path weights of e3nn, one over the root of the number of inputs, go into the weights. The type embedding, which is the
second factor of the published self-connections, is multiplied into them. Energies have a scale for each element, hence
readouts of each element. The published sum is ``norm_factor`` Σ … \|S\|² / V where the sum here has 1/(2ε0), so
charges are scaled by √(norm_factor · 2ε0).
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lesjax.models.config import ModelConfig
from lesjax.models.long_range import LatentCharges, LongRangeConfig
from lesjax.models.named_arrays import NamedArrays
from lesjax.models.nequip.config import Irrep, LayerIrreps, NequIPConfig, layer_irreps
from lesjax.models.nequip.model import name
from lesjax.models.potential import Potential
from lesjax.units import COULOMB


def convert_weights(
    config: NequIPConfig,
    weights: Mapping[str, np.ndarray],
    *,
    scales: Sequence[float] | float,
    shifts: Sequence[float] | float,
    long_range: Mapping | None,
) -> Potential:
    """Build a potential from published weights.

    Args:
        config: hyper-parameters, with the elements in the published order.
        weights: arrays under their published names.
        scales: factor on the energies of each element, or of all.
        shifts: reference energy of each element, or of all, eV.
        long_range: sigma, dl, norm_factor and remove_self_interaction of the sum; None for a short-range model.

    Raises:
        ValueError: for names that have no place in the model, a name that is missing, or an array of another size.
    """
    published = NamedArrays(weights)
    n_elements = len(config.elements)
    scale, shift = (np.broadcast_to(np.asarray(x, float), n_elements) for x in (scales, shifts))
    by_element = bool(np.any(scale != scale[0]))
    short_range = NequIPConfig(**{**vars(config), "readout_by_element": by_element})
    u = config.num_features
    embedding = published("type_embed.embed_module.weight", n_elements, u)
    params: dict = {
        "embedding": embedding,
        "bessel_frequencies": published("bessel_encode.bessel_weights", config.num_bessels) * (np.pi / config.cutoff),
    }
    for i, irreps in enumerate(layer_irreps(config)):
        self_connection = config.use_sc and i > 0
        params[f"layer{i}"] = _layer(config, irreps, published, f"layer{i}_convnet.conv.", embedding, self_connection)

    def readout(module: str, factor: np.ndarray) -> PyTree:
        kernel = published(f"{module}.mlp_module.mlp.0.weight", u, -1) * u**-0.5
        if by_element:
            kernel = (factor[:, None, None] * kernel[None]).reshape(n_elements * u, -1)
        return {"layer0": {"output": {"kernel": kernel, "bias": np.zeros(kernel.shape[1], kernel.dtype)}}}

    features = {"layer0": np.ones(u * n_elements if by_element else u, embedding.dtype)}
    tree: dict = {
        "short_range": params,
        "energy": {"feature_scale": features, "readout": readout("per_atom_energy_readout", scale)},
    }
    charges = None
    if long_range is not None:
        tree["charges"] = {"readout": readout("latent_charge_readout", np.ones(n_elements))}
        n_channels = len(tree["charges"]["readout"]["layer0"]["output"]["bias"])
        to_e = (long_range["norm_factor"] / (2.0 * np.pi * COULOMB)) ** 0.5
        removed = bool(long_range["remove_self_interaction"])
        charges = LongRangeConfig(
            LatentCharges(
                n_channels=n_channels, scale=to_e, hidden=(), linear=False, self_energies_removed=float(removed)
            ),
            sigma=long_range["sigma"],
            k_cutoff=2.0 * np.pi / long_range["dl"],
        )
    published.check_all_used()
    energy_scale = 1.0 if by_element else float(scale[0])
    references = tuple(float(x) for x in shift)
    model = ModelConfig(
        short_range, charges, hidden=(), linear=False, energy_scale=energy_scale, reference_energies=references
    )
    signs = None if long_range is None else jnp.ones_like(tree["charges"]["readout"]["layer0"]["output"]["bias"])
    # numpy arrays could not be indexed by traced arrays
    return Potential(jax.device_put(tree), signs, model)


def _layer(
    c: NequIPConfig, irreps: LayerIrreps, published: NamedArrays, prefix: str, embedding: np.ndarray, use_sc: bool
) -> PyTree:
    u, layer = c.num_features, {}
    inputs = {irrep: (u, u) for irrep in irreps.inputs}
    layer |= _blocks(published(f"{prefix}linear_1.weight", -1), inputs, "linear_1")
    # weights are scaled for the gain √2 of what follows a nonlinear function
    sizes = [c.num_bessels, *(c.invariant_neurons,) * c.invariant_layers, len(irreps.paths) * u]
    for i in range(c.invariant_layers + 1):
        place = "radial_output" if i == c.invariant_layers else f"radial{i}"
        weight = published(f"{prefix}edge_mlp.mlp.{2 * i}.weight", sizes[i], sizes[i + 1])
        layer[place] = weight * ((1.0 if i == 0 else 2.0) / sizes[i]) ** 0.5
    widths = {irrep: u * (1 + len(irreps.gated) if irrep == (0, 1) else 1) for irrep in irreps.outputs}
    n_paths = {irrep: sum(output == irrep for _, _, output in irreps.paths) for irrep in irreps.outputs}
    # e3nn sorts the representations here
    outputs = {irrep: (n_paths[irrep] * u, widths[irrep]) for irrep in sorted(irreps.outputs)}
    layer |= _blocks(published(f"{prefix}linear_2.weight", -1), outputs, "linear_2")
    if use_sc:
        connected = {irrep: (u * u, widths[irrep]) for irrep in irreps.inputs if irrep in irreps.outputs}
        blocks = _blocks(published(f"{prefix}sc.weight", -1), connected, "sc")
        layer |= {
            place: np.einsum("uvw,zv->zuw", block.reshape(u, u, -1), embedding) for place, block in blocks.items()
        }
    return layer


def _blocks(weight: np.ndarray, shapes: dict[Irrep, tuple[int, int]], place: str) -> dict[str, np.ndarray]:
    """Matrices of each representation from their numbers one after the other, with their path weights."""
    sizes = [rows * columns for rows, columns in shapes.values()]
    if weight.size != sum(sizes):
        raise ValueError(f"`weights` of {place} are {weight.size} numbers, expected {sum(sizes)} for {list(shapes)}.")
    blocks = np.split(weight, np.cumsum(sizes)[:-1])
    return {
        f"{place}_{name(irrep)}": block.reshape(shape) * shape[0] ** -0.5
        for (irrep, shape), block in zip(shapes.items(), blocks, strict=True)
    }
