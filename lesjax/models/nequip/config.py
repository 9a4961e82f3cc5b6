"""Hyper-parameters of NequIP, and the irreducible representations of its layers that follow from them."""

from dataclasses import dataclass

from lesjax.validate import check, elements, flag, one_of, optional, positive, whole


Irrep = tuple[int, int]  # order l and parity, 1 or -1
NONLINEARITIES = ("silu", "tanh")


@dataclass(frozen=True)
class NequIPConfig:
    """NequIP; names of the options as there.

    Attributes:
        elements: atomic numbers that the model knows; those of the training set if left out.
        cutoff: range of the neighbourhood, Å.
        polynomial_cutoff_p: exponent of the polynomial envelope.
        num_bessels: number of Bessel functions.
        bessel_trainable: whether their frequencies are learned.
        num_layers: number of layers, each of which lets an atom see one cutoff further.
        num_features: channels of each irreducible representation.
        l_max: largest order of spherical harmonics and features.
        parity: features of both parities for each order. Without it they have the parity of the harmonics, (-1)^l: half
            as many.
        reflection_symmetric: mirror images have the same energy. Without it, and without `parity`, all features count
            as even, so that two vectors also make a vector, as in nequip 0.7 with parity false.
        invariant_layers: hidden layers of the radial network.
        invariant_neurons: their width.
        avg_num_neighbors: messages are divided by its root; the mean of the training set if left out.
        use_sc: self-connection of each element, from the second layer on.
        resnet: add the features of the layer before where they have the same representations, from the second on.
        nonlinearity_scalars: "silu" or "tanh" for even scalars; odd ones have tanh.
        nonlinearity_gates: "silu" or "tanh" for the gates of all others.
        readout_by_element: readouts with weights of their own for each element.
    """

    elements: tuple[int, ...] = ()
    cutoff: float = 5.0
    polynomial_cutoff_p: float = 6.0
    num_bessels: int = 8
    bessel_trainable: bool = True
    num_layers: int = 3
    num_features: int = 32
    l_max: int = 1
    parity: bool = True
    reflection_symmetric: bool = True
    invariant_layers: int = 2
    invariant_neurons: int = 64
    avg_num_neighbors: float | None = None
    use_sc: bool = True
    resnet: bool = False
    nonlinearity_scalars: str = "silu"
    nonlinearity_gates: str = "silu"
    readout_by_element: bool = False

    def __post_init__(self) -> None:
        check(
            self, elements=elements, cutoff=positive, polynomial_cutoff_p=positive, num_bessels=whole(1),
            num_layers=whole(1), num_features=whole(1), l_max=whole(0), invariant_layers=whole(0),
            invariant_neurons=whole(1), avg_num_neighbors=optional(positive),
            nonlinearity_scalars=one_of(*NONLINEARITIES), nonlinearity_gates=one_of(*NONLINEARITIES),
            bessel_trainable=flag, parity=flag, reflection_symmetric=flag, use_sc=flag, resnet=flag,
            readout_by_element=flag,
        )  # fmt: skip
        if self.parity and not self.reflection_symmetric:
            raise ValueError("`parity` = true is of use with `reflection_symmetric` = true only: change one of them.")


@dataclass(frozen=True)
class LayerIrreps:
    """Representations of one layer.

    Attributes:
        inputs: representations of the features before the layer.
        paths: (input, order of the harmonic, output) of each product, in the order of their radial weights.
        outputs: representations of the features after the layer, scalars first.
    """

    inputs: tuple[Irrep, ...]
    paths: tuple[tuple[Irrep, int, Irrep], ...]
    outputs: tuple[Irrep, ...]

    @property
    def gated(self) -> tuple[Irrep, ...]:
        """Outputs that have a gate each: an even scalar."""
        return tuple(irrep for irrep in self.outputs if irrep[0] > 0)


def layer_irreps(c: NequIPConfig) -> list[LayerIrreps]:
    """Representations of all layers.

    Each layer has those hidden ones that a product of its inputs with the harmonics reaches; the last has even scalars.
    """

    def parity(l: int) -> int:
        return (-1) ** l if c.reflection_symmetric else 1

    hidden = [(l, parity(l)) for l in range(c.l_max + 1)]
    if c.parity:
        hidden = [(l, p) for p in (1, -1) for l in range(c.l_max + 1)]
    layers, inputs = [], ((0, 1),)
    for i in range(c.num_layers):
        candidates = hidden if i < c.num_layers - 1 else [(0, 1)]
        paths = tuple(
            ((l1, p1), l2, (l3, p1 * parity(l2)))
            for l1, p1 in inputs
            for l2 in range(c.l_max + 1)
            for l3 in range(abs(l1 - l2), l1 + l2 + 1)
            if (l3, p1 * parity(l2)) in candidates
        )
        reached = {output for _, _, output in paths}
        outputs = tuple(sorted((irrep for irrep in candidates if irrep in reached), key=lambda irrep: irrep[0] > 0))
        layers.append(LayerIrreps(inputs, paths, outputs))
        inputs = outputs
    return layers
