"""Settings of jax for all tests, and the fixtures that all folders share."""

import gc
import importlib
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest


# jax reads JAX_ENABLE_X64 by itself. Both values must pass; without one, float64.
if "JAX_ENABLE_X64" not in os.environ:
    jax.config.update("jax_enable_x64", True)

# Nearly all of the time goes into compilation, which is three to four times faster without the
# costly passes. Whoever sets XLA_FLAGS, be it to nothing, compiles as users do; jax dies of a flag
# that it does not know, as 0.12 does of this one.
if "XLA_FLAGS" not in os.environ and jax.__version_info__ < (0, 11):
    os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for the processes that tests start
    jax.config.update("jax_disable_most_optimizations", True)

# Compiled functions are kept. The key of an entry holds the version of jax.
CACHE = os.environ.get("LESJAX_TEST_CACHE") or Path.home() / ".cache" / "lesjax-tests"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

# While the import hook of jaxtyping runs a module of lesjax, Python compiles all that this imports from its source:
# four seconds for each worker. Imported before, it comes from the caches.
for package in ("ase.io", "beartype", "flax.linen", "jax_md", "optax", "rich.progress"):
    importlib.import_module(package)

MAX_MAPS = 15_000  # about 5 GB of compiled functions; at 65 530 XLA crashes

# Plots are written, never shown.
os.environ["MPLBACKEND"] = "Agg"


def pytest_collection_finish() -> None:
    """Make promotion strict for all tests, once their modules are imported, and collect garbage rarely.

    Not earlier: jax_md 0.2.29 mixes dtypes while it is imported. Tracing makes so many objects that looking for garbage
    among them took more than a tenth of the time.
    """
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    gc.collect()
    gc.freeze()  # what the imports made stays
    gc.set_threshold(50_000, 10, 10)


@pytest.fixture(scope="session", autouse=True)
def signals_of_a_terminal() -> None:
    """Let signals act in the tests and in what they start; a job of `nohup` or in the background ignores some."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="module", autouse=True)
def few_memory_maps() -> Iterator[None]:
    """Forget compiled functions before they take too much memory, or more maps than Linux gives a process."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MAX_MAPS:
        jax.clear_caches()


@pytest.fixture
def jax_md_leniency() -> Iterator[None]:
    """Let pass what jax_md 0.2.29 does itself, in a test that runs it.

    It promotes dtypes throughout; its neighbour lists scatter int64 into int32 with x64 on; its
    sums over atoms ask for float64 with x64 off. The warnings name a line in jax, so that they
    can't be told from ours by module and are errors in all other tests.
    """
    with jax.numpy_dtype_promotion("standard"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "scatter inputs have incompatible types", FutureWarning)
        warnings.filterwarnings("ignore", "Explicitly requested dtype float64", UserWarning)
        yield


@pytest.fixture(scope="session")
def shared_path() -> Callable[[str], Path]:
    """Return a function from a path below the shared folder to the path of that file.

    The folder is `LESJAX_SHARED`, or else the one named shared beside the checkout. A test
    whose file is not there is skipped.
    """
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("LESJAX_SHARED") or beside)

    def find(relative: str) -> Path:
        path = folder / relative
        if not path.exists():
            pytest.skip(f"{relative} is not in {folder}; set LESJAX_SHARED to the shared folder.")
        return path

    return find
