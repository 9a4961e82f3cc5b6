"""Arrays of a published model, taken by name until none is left."""

from collections.abc import Mapping

import numpy as np


class NamedArrays:
    """Mapping that remembers which entries were taken."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self._weights = dict(weights)
        self._unused = set(weights)

    def __call__(self, name: str, *shape: int) -> np.ndarray:
        """Return an array, with a shape if one is given; -1 stands for any size.

        Raises:
            ValueError: for a name that is missing, or an array of another size.
        """
        if name not in self._weights:
            raise ValueError(f"`weights` has no {name!r}.")
        self._unused.discard(name)
        array = np.asarray(self._weights[name])
        if not shape:
            return array
        size = int(np.prod([n for n in shape if n > 0]))
        if array.size % size or (-1 not in shape and array.size != size):
            raise ValueError(f"`weights[{name!r}]` has {array.size} numbers, expected the shape {shape}.")
        return array.reshape(shape)

    def has(self, name: str) -> bool:
        """Return whether there is an array of this name."""
        return name in self._weights

    def check_all_used(self) -> None:
        """Raise ValueError for arrays that nothing has taken."""
        if self._unused:
            raise ValueError(f"`weights` has entries without a place in the model: {sorted(self._unused)}.")
