"""The import directions inside lesjax, and which part may import which third-party package."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).resolve().parents[1]

# An import points to the left. Modules with a comma between them may import each other,
# those on either side of a bar may not.
DIRECTION = (
    "units, numerics, validate, schema, processes, signals, files, progress < runs < io, system, neighbors"
    " < ewald < response < properties < models < published < training | dynamics < fitting < cli, demo, __main__"
)

# Third-party packages that only these parts may import.
RESTRICTED = {
    "flax": {"models", "training"},
    "optax": {"training", "fitting"},
    "jax_md": {"dynamics", "fitting"},
    # system: the type of an argument, under TYPE_CHECKING
    "ase": {"io", "datasets", "dynamics", "system"},
}

# `import lesjax` is quick because it leaves these alone.
LAZY = ("flax", "jax_md", "ase", "matplotlib")


def read_direction(direction: str) -> dict[str, set[str]]:
    """Return for each part of lesjax the parts that it may import, itself included."""
    allowed: dict[str, set[str]] = {}
    for level in direction.split(" < "):
        left = set(allowed)
        for group in level.split(" | "):
            members = set(group.split(", "))
            allowed |= {part: left | members for part in members}
    return allowed


ALLOWED = read_direction(DIRECTION)
# Data sets stand aside: only the command line may import them.
ALLOWED["datasets"] = {"units", "numerics", "files", "runs", "io", "datasets"}
for _part in ("cli", "demo", "__main__"):
    # "" is the package itself, as in `from lesjax import __version__`.
    ALLOWED[_part] |= {"datasets", ""}


def imported_names(source: str, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Yield line and absolute dotted name of each import in `source`.

    All imports count: those inside functions and under TYPE_CHECKING too.

    Args:
        source: text of a module.
        package: the package that relative imports start from, ("lesjax", "ewald").
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*start, *filter(None, [node.module])))
            if module == "lesjax":  # from lesjax import units
                yield from ((node.lineno, f"lesjax.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def violations(path: str, source: str) -> list[str]:
    """Return what the imports of a module do against the rules.

    Args:
        path: place of the module below lesjax/, as "ewald/solvers/direct.py".
        source: its text.
    """
    parents = Path(path).parent.parts
    importer = parents[0] if parents else Path(path).stem
    if importer == "__init__":  # the public face of all parts
        return []
    if importer not in ALLOWED:
        return [f"lesjax/{path}: `{importer}` has no place in DIRECTION."]
    found = []
    for line, name in imported_names(source, ("lesjax", *parents)):
        top, _, rest = name.partition(".")
        if top == "lesjax":
            part = rest.partition(".")[0]
            bad = (part if part in ALLOWED else "") not in ALLOWED[importer]
        else:
            bad = top in RESTRICTED and importer not in RESTRICTED[top]
        if bad:
            found.append(f"lesjax/{path}:{line}: `{importer}` may not import `{name}`.")
    return found


def test_imports_of_lesjax_follow_the_direction() -> None:
    package = REPOSITORY / "lesjax"
    found = [
        violation
        for path in sorted(package.rglob("*.py"))
        for violation in violations(path.relative_to(package).as_posix(), path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Return for each module the modules of lesjax that it imports, inside functions and for types too.

    Args:
        sources: texts of modules by their paths below lesjax/. The face of the whole package is left out: it imports
            lazily, and no module may import it (see `violations`).
    """
    places = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in sources}
    places.pop("__init__", None)
    graph: dict[str, set[str]] = {}
    for name, path in places.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(sources[path])):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            package = ("lesjax", *Path(path).parent.parts)
            for _, module in imported_names(ast.unparse(node), package):
                # a name of a package may be a module of it
                aliases = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
                for full in (module, *(f"{module}.{alias}" for alias in aliases)):
                    target = full.removeprefix("lesjax.")
                    if full.startswith("lesjax.") and target in places and target != name:
                        graph[name].add(target)
            # a package comes with what is imported from it: only its module counts then
            graph[name] -= {p for p in graph[name] if any(t.startswith(f"{p}.") for t in graph[name])}
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules that import each other, directly or by way of others."""
    reach = {name: set(targets) for name, targets in graph.items()}
    for middle in graph:
        for name in graph:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    found: list[set[str]] = []
    for name in graph:
        circle = {other for other in reach[name] if name in reach[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def test_imports_of_lesjax_have_no_circle() -> None:
    package = REPOSITORY / "lesjax"
    graph = import_graph({
        path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in package.rglob("*.py")
    })  # fmt: skip
    assert "files" in graph["io.files"]
    assert "models.potential" in graph["dynamics.simulation"]
    assert circles(graph) == []


@pytest.mark.parametrize(
    "sources",
    [
        {"a.py": "import lesjax.b", "b.py": "from lesjax import a"},
        {"m/a.py": "def f():\n    from lesjax.m import b", "m/b.py": "from lesjax.m.a import f"},
        {"m/a.py": "from . import b", "m/b.py": "if TYPE_CHECKING:\n    from .a import A"},
        {"a.py": "from lesjax.b import x", "b.py": "from lesjax.c import x", "c.py": "from lesjax import a"},
        {"m/__init__.py": "from lesjax.m.a import x as x", "m/a.py": "from lesjax.m import x"},
    ],
    ids=["direct", "in a function", "for types", "of three", "by way of the package"],
)
def test_circle_is_found(sources: dict[str, str]) -> None:
    names = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in sources}
    assert circles(import_graph(sources)) == [names]


def test_no_public_name_hides_a_module() -> None:
    """A function of the name of its module would take its place in the package."""
    for init in (REPOSITORY / "lesjax").rglob("__init__.py"):
        modules = {path.stem for path in init.parent.glob("*.py")} | {path.name for path in init.parent.iterdir()}
        imports = [node for node in ast.walk(ast.parse(init.read_text())) if isinstance(node, ast.ImportFrom)]
        names = {alias.asname or alias.name for node in imports if node.module != "lesjax" for alias in node.names}
        assert names & modules == set(), init


def test_no_two_public_classes_have_one_name() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (REPOSITORY / "lesjax").rglob("*.py")]
    names = [node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    assert len(names) == len(set(names))


def test_no_file_is_long() -> None:
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (REPOSITORY / "lesjax").rglob("*.py")}
    assert {path: size for path, size in sizes.items() if size > 400} == {}


def test_every_import_is_declared() -> None:
    """Of the package, in pyproject.toml, those of optional parts included; and nothing is declared without need."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    # the others are tools
    wanted = [*project["dependencies"], *(name for extra in extras.keys() - {"dev", "docs"} for name in extras[extra])]
    declared = {re.split(r"[^\w-]", name)[0].replace("-", "_") for name in wanted}
    folders = ("lesjax", "data_generation")
    sources = [path.read_text(encoding="utf-8") for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    names = (name for source in sources for _, name in imported_names(source, ("lesjax",)))
    imported = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - set(folders)
    assert imported - declared == set()
    # jax_finufft is imported by name
    assert [name for name in declared - imported if not any(f'"{name}"' in source for source in sources)] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        pytest.param("units.py", "import lesjax.ewald", id="to the right"),
        pytest.param("runs.py", "from lesjax import io", id="runs to the right"),
        pytest.param("ewald/sums.py", "from lesjax import response", id="ewald to response"),
        pytest.param("response/electronic.py", "import lesjax.properties", id="response to properties"),
        pytest.param("ewald/solvers/direct.py", "from lesjax.models.cace import Cace", id="from"),
        pytest.param("ewald/solvers/direct.py", "from lesjax import models", id="submodule of the root"),
        pytest.param("ewald/solvers/direct.py", "from ...models import cace", id="relative"),
        pytest.param("ewald/solvers/direct.py", "from ... import models", id="relative, root"),
        pytest.param("ewald/__init__.py", "from ..models import cace", id="relative, package"),
        pytest.param("training/a/b.py", "from ...dynamics import x", id="relative, deep"),
        pytest.param("training/loop.py", "import lesjax.dynamics", id="side by side"),
        pytest.param("dynamics/ase.py", "import lesjax.training as t", id="side by side, back"),
        pytest.param("models/cace.py", "import lesjax", id="the root"),
        pytest.param("models/cace.py", "from lesjax import System", id="a name of the root"),
        pytest.param("datasets/water.py", "from lesjax import ewald", id="datasets"),
        pytest.param("training/loop.py", "import lesjax.datasets", id="to datasets"),
        pytest.param("fitting/fit.py", "def f():\n    import lesjax.cli", id="in a function"),
        pytest.param("surprise.py", "", id="unknown module"),
        pytest.param("ewald/solvers/direct.py", "import numpy, flax", id="flax"),
        pytest.param("properties/forces.py", "from flax import linen as nn", id="from flax"),
        pytest.param("models/cace.py", "import optax", id="optax"),
        pytest.param("neighbors.py", "from jax_md.partition import neighbor_list", id="jax_md"),
        pytest.param("demo.py", "import ase.io", id="ase"),
        pytest.param(
            "batching.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ase import Atoms",
            id="under TYPE_CHECKING",
        ),
    ],
)
def test_forbidden_import_is_found(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("__init__.py", "from lesjax.models import Potential as Potential"),
        ("system.py", "import jax, numpy\nfrom lesjax.neighbors import neighbor_list"),
        ("ewald/solvers/mesh.py", "from lesjax.ewald.solvers.direct import energy\nfrom . import direct"),
        ("properties/forces.py", "from lesjax.response import equilibrate\nfrom lesjax import ewald"),
        ("models/cace.py", "import flax.linen as nn\nfrom ..ewald import energy"),
        ("training/plots.py", "import optax, flax, matplotlib\nfrom lesjax.models import cace"),
        ("dynamics/calculator.py", "import ase, jax_md\nfrom lesjax import models, units"),
        ("fitting/fit.py", "import optax, jax_md\nfrom lesjax import dynamics, training"),
        ("datasets/water.py", "import ase\nfrom lesjax.units import COULOMB"),
        ("demo.py", "from lesjax import __version__, cli, datasets"),
        ("properties/spectra.py", "import flaxen, asecret"),
    ],
)
def test_allowed_import_is_let_through(path: str, source: str) -> None:
    assert violations(path, source) == []


def test_import_of_lesjax_is_light() -> None:
    code = f"import sys, lesjax; print(*sorted({set(LAZY)} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []
