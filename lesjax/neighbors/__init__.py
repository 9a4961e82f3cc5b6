"""Neighbours: on the host (`host`, `plan`), under `jit` (`verlet`), stacked (`batching`), and as models see them."""

from lesjax.neighbors.types import Dense as Dense
