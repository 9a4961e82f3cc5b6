"""Neighbours: on the host (`host`, `plan`), under `jit` (`verlet`), stacked (`batching`), and for models (`types`)."""

from lesjax.neighbors.types import Dense as Dense, Edges as Edges
