"""Hyper-parameters of the models: frozen, hashable, written to JSON beside the parameters."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from lesjax.io import chemical_symbols


MESSAGES = ("M", "Ar", "Bchi")
STATE_INPUTS = ("total_charge", "spin_multiplicity")


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
        _positive(self, "cutoff", "cutoff_p", "n_bessel", "n_radial", "n_embedding")
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
    """Latent charges and other multipoles, and their sum.

    Attributes:
        charges: where the charges come from: "latent" (a readout of the environment), "fixed" (one number for each
            element) or "equilibration" (electronegativity and hardness are read out, and the charges minimize the
            energy at the total charge of the system; see `lesjax.response.equilibrate`).
        charge_constraint: "free"; "neutral": the same number is taken from all atoms of a channel, so that they add
            up to zero; "total": so that those of each of the c channels add up to one c-th of the total charge of the
            system, and all channels together to the total charge.
        element_charges: to latent charges, add a number for each element that is learned, too. Training starts it from
            the electronegativities: charges near zero, where the energy is stationary, may stay there for long where
            the short-range model can explain most of the forces. An atom without neighbours has no features; this is
            then all of its charge. With equilibration it is taken, times the initial hardness of 10 V/e, from the
            electronegativity.
        fixed_charges: for "fixed", (symbol, charge in e) of each element; learned if there are none.
        dipoles: latent dipoles on the atoms.
        quadrupoles: latent quadrupoles, symmetric and without trace.
        induction: "none"; "one_shot": charges and dipoles induced by the permanent multipoles, to second order, as
            in the published code; "self_consistent": induced by each other as well.
        hardness: with induction, each atom answers to the potential by a charge, kappa (the inverse of a hardness).
        polarizability: with induction, each atom answers to the field by a dipole: "none", "isotropic" or "tensor".
        sigma: smearing width of the charges, Å.
        n_channels: number of independent kinds of charge.
        charge_scale: factor on the output of the charge readout, e; of dipoles and quadrupoles with e Å and e Å².
        hidden: widths of the hidden layers of the readout.
        linear: add a linear readout.
        k_cutoff: length of the largest k-vector of a periodic sum, 1/Å; exclusive with `accuracy`.
        accuracy: relative error of the forces of the sum; 1e-4 if neither is given.
        separate_representation: give the charges a representation of their own.
        self_energies_removed: how many times the energy of each Gaussian with itself is taken away. One is LES;
            early published checkpoints with several channels removed it once per channel.
        background: in three periodic directions, compensate charges that do not add up to zero by a uniform background;
            see `lesjax.ewald.Coulomb`. Without it energy and stress of such a cell depend on `sigma`, as in the
            published code. It has no effect on clusters and slabs.
    """

    charges: str = "latent"
    charge_constraint: str = "free"
    element_charges: bool = False
    fixed_charges: tuple[tuple[str, float], ...] = ()
    dipoles: bool = False
    quadrupoles: bool = False
    induction: str = "none"
    hardness: bool = False
    polarizability: str = "none"
    sigma: float = 1.0
    n_channels: int = 1
    charge_scale: float = 0.1
    hidden: tuple[int, ...] = (32, 16)
    linear: bool = True
    k_cutoff: float | None = None
    accuracy: float | None = None
    separate_representation: bool = False
    self_energies_removed: float = 1.0
    background: bool = False

    def __post_init__(self) -> None:
        _widths(self.hidden)
        given = (name for name in ("k_cutoff", "accuracy") if getattr(self, name) is not None)
        _positive(self, "sigma", "n_channels", "charge_scale", *given)
        if self.k_cutoff is not None and self.accuracy is not None:
            raise ValueError(f"Give `k_cutoff` or `accuracy`, not both; got {self.k_cutoff} and {self.accuracy}.")
        _one_of(self, "charges", "latent", "fixed", "equilibration")
        _one_of(self, "charge_constraint", "free", "neutral", "total")
        _one_of(self, "induction", "none", "one_shot", "self_consistent")
        _one_of(self, "polarizability", "none", "isotropic", "tensor")
        if self.fixed_charges and (self.charges != "fixed" or self.n_channels != 1):
            raise ValueError(
                "`fixed_charges` needs `charges` = 'fixed' and one channel, "
                f"got {self.charges!r} and {self.n_channels} channels."
            )
        if self.element_charges and self.charges == "fixed":
            raise ValueError(
                "`element_charges` adds to charges that depend on the surroundings, but `charges` = 'fixed' has one "
                "number for each element already: leave it out, or take 'latent' or 'equilibration'."
            )
        answers = self.hardness or self.polarizability != "none"
        if answers != (self.induction != "none"):
            raise ValueError(
                "`induction` needs `hardness` = true or a `polarizability`, and these need `induction` = 'one_shot' or "
                f"'self_consistent'; got {self.induction!r}, {self.hardness} and {self.polarizability!r}."
            )
        if self.hardness and self.charge_constraint != "free":
            raise ValueError(
                "`hardness` induces charges whose sum is not held, so that `charge_constraint` must be 'free', got "
                f"{self.charge_constraint!r}. Charges that answer at a fixed total are those of 'equilibration'."
            )
        if self.charges == "equilibration":
            if self.has_multipoles or answers or self.n_channels != 1:
                raise ValueError(
                    "`charges` = 'equilibration' goes with one channel of charges alone: leave out `dipoles`, "
                    "`quadrupoles`, `induction` and `n_channels`."
                )
            if self.charge_constraint == "neutral":
                raise ValueError(
                    "`charge_constraint` = 'neutral' contradicts `charges` = 'equilibration', which holds the total "
                    "charge of the system: leave it out."
                )
        if self.self_energies_removed != 1.0 and (self.has_multipoles or answers or self.charges != "latent"):
            raise ValueError(
                f"`self_energies_removed` = {self.self_energies_removed} is for published models of latent charges "
                "alone: leave it at 1."
            )

    @property
    def responds(self) -> bool:
        """Whether charges or dipoles depend on the potential, so that they are not known before the sum."""
        return self.charges == "equilibration" or self.induction != "none"

    @property
    def holds_charge(self) -> bool:
        """Whether displaced atoms leave the sum of the charges as it is."""
        return (self.charges != "latent" or self.charge_constraint != "free") and not self.hardness

    @property
    def has_multipoles(self) -> bool:
        """Whether atoms carry permanent multipoles beyond charges."""
        return self.dipoles or self.quadrupoles


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
        state_inputs: what all readouts see of the system's electronic state, besides the environment: some of
            "total_charge" and "spin_multiplicity". One model then covers several charge states.
    """

    representation: CACEConfig
    long_range: LongRangeConfig | None = None
    hidden: tuple[int, ...] = (32, 16)
    linear: bool = True
    energy_scale: float = 1.0
    reference_energies: tuple[float, ...] = ()
    state_inputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _positive(self, "energy_scale")
        _widths(self.hidden)
        elements = self.representation.elements
        if not set(self.state_inputs) <= set(STATE_INPUTS) or len(set(self.state_inputs)) < len(self.state_inputs):
            raise ValueError(f"`state_inputs` takes some of {STATE_INPUTS}, got {self.state_inputs}.")
        if self.long_range is not None:
            _check_heads(self.long_range, self.representation)
        if self.reference_energies and len(self.reference_energies) != len(elements):
            raise ValueError(
                f"`reference_energies` needs one value for each of the elements {elements}, "
                f"got {len(self.reference_energies)}."
            )

    @property
    def needs_total_charge(self) -> bool:
        """Whether systems must come with their total charge."""
        c = self.long_range
        held = c is not None and (c.charges == "equilibration" or c.charge_constraint == "total")
        return held or "total_charge" in self.state_inputs

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
        given = dict(top["long_range"])
        if isinstance(given.get("neutral"), bool):  # models saved before there was `charge_constraint`
            given["charge_constraint"] = "neutral" if given.pop("neutral") else "free"
        top["long_range"] = LongRangeConfig(**_known(LongRangeConfig, given))
    return ModelConfig(**top)


def _known(cls: type, data: dict) -> dict:
    names = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(data) - names)
    if unknown:
        raise ValueError(f"{cls.__name__} has no {unknown}; the model comes from another version of lesjax.")
    return {key: _tuples(value) for key, value in data.items()}


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _check_heads(long_range: LongRangeConfig, representation: CACEConfig) -> None:
    needed = 2 if long_range.quadrupoles or long_range.polarizability == "tensor" else int(long_range.dipoles)
    if representation.max_l < needed:
        raise ValueError(
            f"`max_l` = {representation.max_l} is too small: dipoles need 1, quadrupoles and a "
            "`polarizability` that is a tensor need 2."
        )
    if long_range.fixed_charges:
        given = [symbol for symbol, _ in long_range.fixed_charges]
        wanted = [chemical_symbols[z] for z in sorted(representation.elements)]
        if sorted(given) != sorted(wanted):
            names = ", ".join(wanted)
            raise ValueError(f"`fixed_charges` needs one charge for each of {names}, got {', '.join(given)}.")


def _one_of(config: object, name: str, *values: str) -> None:
    if getattr(config, name) not in values:
        raise ValueError(f"`{name}` must be {' or '.join(map(repr, values))}, got {getattr(config, name)!r}.")


def _widths(hidden: tuple[int, ...]) -> None:
    if any(width < 1 for width in hidden):
        raise ValueError(f"`hidden` needs widths of at least 1, got {hidden}.")


def _positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"`{name}` must be positive, got {getattr(config, name)}.")


def differences(a: object, b: object, where: str = "") -> list[str]:
    """Names, joined by dots, of the entries in which two nested dictionaries differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(set(a) | set(b))
        return [d for k in keys for d in differences(a.get(k), b.get(k), f"{where}.{k}" if where else k)]
    return [] if a == b else [where]
