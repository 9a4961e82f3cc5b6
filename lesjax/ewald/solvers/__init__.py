"""Solvers of the long-range sum, one class and one module for each."""

from lesjax.ewald.solvers.direct import DirectSolver as DirectSolver
from lesjax.ewald.solvers.mesh import MeshSolver as MeshSolver
from lesjax.ewald.solvers.nufft import NufftSolver as NufftSolver
from lesjax.ewald.solvers.open import OpenSolver as OpenSolver
