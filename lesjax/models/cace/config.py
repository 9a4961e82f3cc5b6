"""Hyper-parameters of CACE."""

from dataclasses import dataclass

from lesjax.validate import check, elements, finite, one_of, positive, whole


MESSAGES = ("M", "Ar", "Bchi")
MAX_LAYERS = 4


@dataclass(frozen=True)
class CACEConfig:
    """Cartesian atomic cluster expansion.

    Attributes:
        elements: atomic numbers that the model knows; those of the training set if left out.
        cutoff: range of the neighbourhood, Å.
        cutoff_function: "polynomial" or "cosine".
        cutoff_p: exponent of the polynomial envelope.
        n_bessel: number of Bessel functions.
        trainable_bessel: whether their frequencies are learned.
        n_radial: radial channels after mixing.
        n_embedding: length of the sender's and of the receiver's element embedding.
        embedding_scale: standard deviation of the embeddings at the start. Products of three factors grow with its
            sixth power, single ones with its square: 0.3 makes them a tenth of those, and messages smaller still.
        max_l: largest angular order.
        max_nu: largest number of factors in the symmetrized products, 1 to 4.
        messages: one tuple per message-passing layer, of "M" (memory), "Ar" and "Bchi".
        bchi_shared: one filter for all orders and channels of "Bchi" instead of one for each.
        message_scale: factor on the messages, about one over the root of the number of neighbours.
        distance_offset: added to the distances that make unit vectors of vectors, Å; 1e-9 in published models.
    """

    elements: tuple[int, ...] = ()
    cutoff: float = 5.0
    cutoff_function: str = "polynomial"
    cutoff_p: float = 6.0
    n_bessel: int = 6
    trainable_bessel: bool = True
    n_radial: int = 8
    n_embedding: int = 3
    embedding_scale: float = 1.0
    max_l: int = 3
    max_nu: int = 3
    messages: tuple[tuple[str, ...], ...] = ()
    bchi_shared: bool = True
    message_scale: float = 10**-0.5
    distance_offset: float = 0.0

    def __post_init__(self) -> None:
        check(
            self, elements=elements, cutoff=positive, cutoff_function=one_of("polynomial", "cosine"),
            cutoff_p=positive, n_bessel=whole(1), n_radial=whole(1), n_embedding=whole(1), embedding_scale=positive,
            max_l=whole(0), max_nu=whole(1, 4), message_scale=positive, distance_offset=finite,
        )  # fmt: skip
        if len(self.messages) > MAX_LAYERS:
            raise ValueError(f"`messages` must have at most {MAX_LAYERS} layers, got {len(self.messages)}.")
        for layer in self.messages:
            unknown = [m for m in layer if m not in MESSAGES]
            if unknown or not layer:
                raise ValueError(f"Each layer of `messages` takes some of {MESSAGES}, got {layer}.")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of parameters in which each size occurs, by their names in the module."""
        per_order = (self.max_l + 1, self.n_radial, self.n_embedding, self.n_embedding)
        shapes: dict[str, tuple[int, ...]] = {
            "sender_embedding": (len(self.elements), self.n_embedding),
            "receiver_embedding": (len(self.elements), self.n_embedding),
            "bessel_frequencies": (self.n_bessel,),
            "radial_mixing": (self.max_l + 1, self.n_bessel, *per_order[1:]),
        }
        n_filters = 1 if self.bchi_shared else (self.max_l + 1) * self.n_embedding**2
        of_message = {
            "M": {"memory": per_order},
            "Ar": {"prefactor": per_order, "decay": per_order},
            "Bchi": {"bchi/bias": (n_filters,)},
        }
        for i, layer in enumerate(self.messages):
            shapes |= {f"layer{i}_{name}": shape for m in layer for name, shape in of_message[m].items()}
        return shapes
