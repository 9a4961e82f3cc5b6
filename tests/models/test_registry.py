"""The registry of short-range models: what is refused, and entry points of installed packages."""

import dataclasses
import importlib
from dataclasses import dataclass, field

import flax.linen as nn
import pytest

import lesjax
from lesjax.models import ModelConfig, Potential, register, short_range
from lesjax.schema import build
from toy_model import Toy, ToyConfig


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(short_range, "_KINDS", dict(short_range._KINDS))


@dataclass(frozen=True)
class OtherConfig(ToyConfig):
    """Of another class than the toy model."""


class Other(Toy):
    config: OtherConfig


@pytest.mark.usefixtures("registry")
def test_names_that_are_taken():
    for name in ("cace", "toy"):
        with pytest.raises(ValueError, match=rf"`name` = '{name}' is the name of another short-range model already"):
            register(name, Other, OtherConfig)
    assert short_range.find("toy").module is Toy


@pytest.mark.usefixtures("registry")
def test_a_class_of_the_same_name_replaces_the_former():
    """As where a cell of a notebook is run twice; in the order of the last one, configurations find their kind."""

    def cell():
        @dataclass(frozen=True)
        class Config:
            elements: tuple[int, ...] = (11, 17)
            cutoff: float = 3.6

        class Model(nn.Module):
            config: Config

        register("again", Model, Config)
        return Config, Model

    (old, _), (new, model) = cell(), cell()
    assert short_range.find("again") == short_range.Kind(model, new)
    assert short_range.name_of(new) == "again"
    with pytest.raises(ValueError, match=r"Config belongs to no registered short-range model"):
        short_range.name_of(old)


@dataclass
class Thawed:
    elements: tuple[int, ...] = ()
    cutoff: float = 3.6


@dataclass(frozen=True)
class Lacking:
    elements: tuple[int, ...] = ()
    reach: float = 3.6


@dataclass(frozen=True)
class Demanding:
    cutoff: float
    width: float
    elements: tuple[int, ...] = ()


class Plain:
    elements, cutoff = (), 3.6


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Thawed, r"`config` must be a frozen dataclass, got .*Thawed.*@dataclass\(frozen=True\)"),
        (Plain, r"`config` must be a frozen dataclass, got .*Plain"),
        (Lacking, r"`config` lacks the fields \['cutoff'\], which every short-range model has: add them"),
        (Demanding, r"`config` needs a default for each field, got none for \['cutoff', 'width'\]"),
    ],
)
def test_configurations_that_are_refused(config, message):
    with pytest.raises(TypeError, match=message):
        register("refused", Toy, config)
    assert "refused" not in short_range._KINDS


@dataclass(frozen=True)
class ListedConfig(ToyConfig):
    widths: list[float] = field(default_factory=lambda: [1.0, 2.0])


@pytest.mark.usefixtures("registry")
def test_configuration_that_cannot_be_hashed():
    """It would be compiled anew in each call."""
    register("listed", Toy, ListedConfig)
    with pytest.raises(TypeError, match=r"`short_range` must be hashable: .*'list'.*Take tuples for lists and arrays"):
        ModelConfig(ListedConfig())


@pytest.mark.parametrize("kind", ["tyo", "painn"])
def test_kind_that_is_not_registered(kind):
    message = rf"`short_range\.kind`: There is no short-range model '{kind}'; known: cace, .*Import the module that"
    with pytest.raises(ValueError, match=message):
        build(ModelConfig, {"short_range": {"kind": kind}})


def test_key_of_a_kind():
    with pytest.raises(ValueError, match=r"`short_range\.n_width`. Did you mean `short_range\.n_widths`"):
        build(ModelConfig, {"short_range": {"kind": "toy", "n_width": 2}})


def test_configuration_of_no_kind():
    with pytest.raises(ValueError, match=r"Lacking belongs to no registered short-range model: see"):
        Potential.create(ModelConfig(dataclasses.make_dataclass("Lacking", [], bases=(ToyConfig,), frozen=True)((11,))))


PACKAGE = """
from dataclasses import dataclass
import toy_model
from lesjax.models.short_range import Kind

@dataclass(frozen=True)
class Config(toy_model.ToyConfig):
    depth: int = 1

class Model(toy_model.Toy):
    config: Config

KIND = Kind(Model, Config)
"""


def install(folder, module, text, monkeypatch):
    """A module, and the entry point of the same name that its distribution declares."""
    (folder / f"{module}.py").write_text(text)
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[lesjax.short_range]\n{module} = {module}:KIND\n")
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("through", ["kind", "class"])
def test_entry_point_of_an_installed_package(tmp_path, monkeypatch, through):
    """Nobody calls `register`: the package is found by the name in a file, or by its class in Python."""
    module = f"outside_{through}"
    install(tmp_path, module, PACKAGE, monkeypatch)
    if through == "kind":
        config = build(ModelConfig, {"short_range": {"kind": module, "elements": [11, 17], "depth": 2}})
        assert type(config.short_range).__module__ == module
    else:
        config = ModelConfig(importlib.import_module(module).Config((11, 17), depth=2))
    potential = Potential.create(config)
    potential.save(tmp_path / "model")
    assert lesjax.load(tmp_path / "model").config == config


@pytest.mark.usefixtures("registry")
def test_entry_point_that_is_broken(tmp_path, monkeypatch):
    install(tmp_path, "wrong_kind", "KIND = 3\n", monkeypatch)
    with pytest.raises(TypeError, match=r"entry point 'wrong_kind' = wrong_kind:KIND .* must be a `Kind`, got 3"):
        short_range.find("wrong_kind")
    assert "wrong_kind" not in short_range._KINDS
