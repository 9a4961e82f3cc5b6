"""Hyper-parameters of the models: frozen, hashable, written to JSON beside the parameters."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


MESSAGES = ("M", "Ar", "Bchi")


@dataclass(frozen=True)
class CACEConfig:
    """Cartesian atomic cluster expansion.

    Attributes:
        elements: atomic numbers that the model knows.
        cutoff: range of the neighbourhood, Å.
        cutoff_function: "polynomial" or "cosine".
        cutoff_p: exponent of the polynomial envelope.
        n_bessel: number of Bessel functions.
        trainable_bessel: whether their frequencies are learned.
        n_radial: radial channels after mixing.
        n_embedding: length of the sender's and of the receiver's element embedding.
        max_l: largest angular order.
        max_nu: largest number of factors in the symmetrised products, 1 to 4.
        messages: one tuple per message-passing layer out of "M" (memory), "Ar" and "Bchi".
        bchi_shared: one filter for all orders and channels of "Bchi" instead of one for each.
        message_scale: factor on the messages, about one over the root of the number of neighbours.
    """

    elements: tuple[int, ...]
    cutoff: float = 5.5
    cutoff_function: str = "polynomial"
    cutoff_p: float = 6.0
    n_bessel: int = 6
    trainable_bessel: bool = True
    n_radial: int = 12
    n_embedding: int = 4
    max_l: int = 3
    max_nu: int = 3
    messages: tuple[tuple[str, ...], ...] = ()
    bchi_shared: bool = True
    message_scale: float = 10**-0.5

    def __post_init__(self) -> None:
        _positive(self, "cutoff", "n_bessel", "n_radial", "n_embedding")
        if not self.elements or sorted(set(self.elements)) != sorted(self.elements) or min(self.elements) < 1:
            raise ValueError(f"`elements` must be different atomic numbers, got {self.elements}.")
        if self.cutoff_function not in ("polynomial", "cosine"):
            raise ValueError(f"`cutoff_function` must be 'polynomial' or 'cosine', got {self.cutoff_function!r}.")
        if self.max_l < 0:
            raise ValueError(f"`max_l` must not be negative, got {self.max_l}.")
        if not 1 <= self.max_nu <= 4:
            raise ValueError(f"`max_nu` must be 1, 2, 3 or 4, got {self.max_nu}.")
        for layer in self.messages:
            unknown = [m for m in layer if m not in MESSAGES]
            if unknown or not layer:
                raise ValueError(f"Each layer of `messages` takes some of {MESSAGES}, got {layer}.")


@dataclass(frozen=True)
class LongRangeConfig:
    """Latent charges and their sum.

    Attributes:
        sigma: smearing width of the charges, Å.
        n_channels: number of independent kinds of charge.
        neutral: subtract the mean, so that the charges of each channel add up to zero.
        charge_scale: factor on the output of the charge readout, e.
        hidden: widths of the hidden layers of the readout.
        linear: add a linear readout.
        k_cutoff: largest |k| of a periodic sum, 1/Å; exclusive with `accuracy`.
        accuracy: relative error of the forces of the sum; 1e-4 if neither is given.
        separate_representation: give the charges a representation of their own.
        self_energies_removed: how many times the energy of each Gaussian with itself is taken away. One is LES;
            early published checkpoints with several channels removed it once per channel.
    """

    sigma: float = 1.0
    n_channels: int = 1
    neutral: bool = False
    charge_scale: float = 0.1
    hidden: tuple[int, ...] = (32, 16)
    linear: bool = True
    k_cutoff: float | None = None
    accuracy: float | None = None
    separate_representation: bool = False
    self_energies_removed: float = 1.0

    def __post_init__(self) -> None:
        given = (name for name in ("k_cutoff", "accuracy") if getattr(self, name) is not None)
        _positive(self, "sigma", "n_channels", "charge_scale", *given)
        if self.k_cutoff is not None and self.accuracy is not None:
            raise ValueError(f"Give `k_cutoff` or `accuracy`, not both; got {self.k_cutoff} and {self.accuracy}.")


@dataclass(frozen=True)
class ModelConfig:
    """A short-range model, with or without the long-range part.

    Attributes:
        representation: hyper-parameters of CACE.
        long_range: hyper-parameters of the latent charges; None for a short-range model.
        hidden: widths of the hidden layers of the energy readout.
        linear: add a linear readout of the energy.
        energy_scale: factor on the energy readout, eV.
        reference_energies: energy of one atom of each element, eV, in the order of the elements.
    """

    representation: CACEConfig
    long_range: LongRangeConfig | None = None
    hidden: tuple[int, ...] = (32, 16)
    linear: bool = True
    energy_scale: float = 1.0
    reference_energies: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _positive(self, "energy_scale")
        elements = self.representation.elements
        if self.reference_energies and len(self.reference_energies) != len(elements):
            raise ValueError(
                f"`reference_energies` needs one value for each of the elements {elements}, "
                f"got {len(self.reference_energies)}."
            )

    def reference_energy(self, atomic_numbers: Int[np.ndarray, " n"]) -> float:
        """Sum of the reference energies over atoms of known elements, eV; on the host, in float64."""
        table = dict(zip(self.representation.elements, self.reference_energies, strict=False))
        return float(sum(table.get(int(z), 0.0) for z in atomic_numbers))


def to_dict(config: ModelConfig) -> dict:
    """The configuration as nested dictionaries for JSON."""
    return dataclasses.asdict(config)


def from_dict(data: dict) -> ModelConfig:
    """Inverse of `to_dict`.

    Raises:
        ValueError: for keys that this version does not know.
    """
    top = _known(ModelConfig, data)
    top["representation"] = CACEConfig(**_known(CACEConfig, top["representation"]))
    if top.get("long_range") is not None:
        top["long_range"] = LongRangeConfig(**_known(LongRangeConfig, top["long_range"]))
    return ModelConfig(**top)


def _known(cls: type, data: dict) -> dict:
    names = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(data) - names)
    if unknown:
        raise ValueError(f"{cls.__name__} has no {unknown}; the model comes from another version of lesjax.")
    return {key: _tuples(value) for key, value in data.items()}


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"`{name}` must be positive, got {getattr(config, name)}.")
