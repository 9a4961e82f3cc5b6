"""An interpreter of pickles for published models, which runs nothing that a pickle names.

It knows the opcodes that torch writes and a handful of names (tensors, dictionaries, numbers of numpy); every other
class or function becomes a `Record` of its name, arguments and state. Nothing is imported, called or executed, and what
a pickle can ask for in time and memory is bounded.
"""

import math
import pickletools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


# Limits. Published models have up to 20 000 opcodes.
MAX_OPCODES = 100_000
MAX_REPEATED = 2**20

_STORAGES = {
    "torch.DoubleStorage": "<f8", "torch.FloatStorage": "<f4", "torch.HalfStorage": "<f2", "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4", "torch.ShortStorage": "<i2", "torch.CharStorage": "|i1", "torch.ByteStorage": "|u1",
    "torch.BoolStorage": "|b1", "torch.ComplexFloatStorage": "<c8", "torch.ComplexDoubleStorage": "<c16",
}  # fmt: skip
# What models may name of Python's own library; anything else of it can only be meant to do harm.
_STANDARD = {
    "collections", "_codecs.encode", "functools.partial", "pathlib", "datetime", "enum", "copyreg._reconstructor",
    "types.SimpleNamespace", "argparse.Namespace", "builtins.set", "builtins.frozenset", "builtins.getattr",
    "builtins.slice", "builtins.range", "builtins.complex", "builtins.object", "builtins.bytearray", "builtins.int",
    "builtins.float", "builtins.str", "builtins.list", "builtins.dict", "builtins.tuple", "builtins.bool",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Global:
    """Name of a class or function of the file, with its module."""

    name: str


@dataclass(eq=False, repr=False, slots=True)
class Record:
    """An object of a class that is not known here, or the result of a function, which is never called.

    Attributes:
        name: of the class or function, with its module: ``cace.modules.atomwise.Atomwise``.
        args: arguments that it would be made with.
        state: attributes, a dictionary for most classes.
        items: what would be appended, for subclasses of lists.
        entries: what would be set by key, for subclasses of dictionaries.
    """

    name: str
    args: tuple
    state: Any = None
    items: list = field(default_factory=list)
    entries: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Record({self.name!r})"

    @property
    def kind(self) -> str:
        """Name of the class without its module."""
        return self.name.rpartition(".")[2]

    @property
    def attributes(self) -> Mapping[str, Any]:
        """State as a dictionary, empty where it is something else."""
        return self.state if isinstance(self.state, dict) else {}

    def has(self, name: str) -> bool:
        """True where an attribute, parameter, buffer or child module has the name."""
        return any(name in table for table in _tables(self))

    def get(self, path: str, default: Any = None) -> Any:
        """Attribute, parameter, buffer or child module by its dotted path, ``models.0.representation.cutoff``."""
        found: Any = self
        for name in path.split("."):
            tables = _tables(found) if isinstance(found, Record) else [found] if isinstance(found, dict) else []
            table = next((t for t in tables if name in t), None)
            if table is None:
                return default
            found = table[name]
        return found

    def __getitem__(self, path: str) -> Any:
        """Like `get`.

        Raises:
            ValueError: naming what the module lacks.
        """
        found = self.get(path, _MISSING)
        if found is _MISSING:
            raise ValueError(f"The file's {self.name} has no {path!r}.")
        return found

    def children(self) -> dict[str, "Record"]:
        """Child modules by name, in the order of the file."""
        modules = self.attributes.get("_modules")
        return {k: m for k, m in modules.items() if isinstance(m, Record)} if isinstance(modules, dict) else {}


_MISSING = object()


def _tables(module: Record) -> list[dict]:
    tables = [module.state] if isinstance(module.state, dict) else []
    inner = [module.attributes.get(name) for name in ("_parameters", "_buffers", "_modules")]
    return [*tables, *(table for table in inner if isinstance(table, dict))]


class Interpreter:
    """Stack machine of one pickle. A mark is the place on the stack where it was set."""

    def __init__(self, storage: Callable[[str, str, int], np.ndarray]) -> None:
        self.names: set[str] = set()
        self._storage = storage
        self._storages: dict[str, tuple[str, np.ndarray]] = {}
        self._stack: list = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """Return what the pickle holds."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count == MAX_OPCODES:
                raise ValueError(f"it has more than {MAX_OPCODES} opcodes.")
            if opcode.name == "STOP":
                return self._stack.pop()
            if opcode.name in _PUSH:
                self._stack.append(argument)
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            else:
                raise ValueError(f"the opcode {opcode.name} has no place in it.")
        raise ValueError("it has no end.")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if self._marks and len(self._stack) <= self._marks[-1]:
            raise ValueError("its stack is empty.")
        return self._stack.pop()

    def _drop(self, _: Any) -> None:
        pass

    def _to_mark(self) -> list:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _tuple(self, n: int) -> None:
        values = [self._pop() for _ in range(n)]
        self._push(tuple(reversed(values)))

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _global(self, name: str) -> None:
        module, _, attribute = name.partition(" ")
        full = f"{'builtins' if module == '__builtin__' else module}.{attribute}"
        top = full.partition(".")[0]
        if top in sys.stdlib_module_names and top not in _STANDARD and full not in _STANDARD:
            raise ValueError(f"it names {full}, which no model needs; it was not called.")
        self.names.add(full)
        self._push(Global(full))

    def _stack_global(self) -> None:
        attribute, module = self._pop(), self._pop()
        if not isinstance(attribute, str) or not isinstance(module, str):
            raise ValueError("a name in it is no text.")
        self._global(f"{module} {attribute}")

    def _append(self, values: list) -> None:
        target = self._stack[-1]
        target = target.items if isinstance(target, Record) else target
        if not isinstance(target, list):
            raise ValueError(f"it appends to a {type(target).__name__}.")
        target.extend(values)

    def _set_items(self, pairs: list) -> None:
        target = self._stack[-1]
        target = target.entries if isinstance(target, Record) else target
        if not isinstance(target, dict) or len(pairs) % 2:
            raise ValueError(f"it sets keys of a {type(target).__name__}.")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[_key(key)] = value

    def _add_items(self, values: list) -> None:
        if not isinstance(self._stack[-1], set):
            raise ValueError(f"it adds to a {type(self._stack[-1]).__name__}.")
        self._stack[-1].update(map(_key, values))

    def _make(self) -> None:
        """REDUCE and NEWOBJ: a known name gives its value, any other a record."""
        args, function = self._pop(), self._pop()
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise ValueError(f"it calls a {type(function).__name__}.")
        known = _KNOWN.get(function.name)
        self._push(Record(function.name, args) if known is None else known(*args))

    def _make_with_keywords(self) -> None:
        keywords, args, function = self._pop(), self._pop(), self._pop()
        if not isinstance(function, Global) or not isinstance(args, tuple) or not isinstance(keywords, dict):
            raise ValueError(f"it calls a {type(function).__name__}.")
        self._push(Record(function.name, args, entries=dict(keywords)))

    def _build(self) -> None:
        state, target = self._pop(), self._stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, dict):  # a dictionary's own attributes, as the _metadata of a state dict
            raise ValueError(f"it sets the state of a {type(target).__name__}.")

    def _persistent(self) -> None:
        """A storage: ("storage", type, key, location, number of elements)."""
        pid = self._pop()
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise ValueError("it refers to something other than a storage.")
        _, kind, key, _, n = pid
        dtype = _STORAGES.get(kind.name) if isinstance(kind, Global) else None
        if dtype is None:
            raise ValueError(f"it has a storage of the type {getattr(kind, 'name', kind)!r}, which is not read.")
        if not isinstance(key, str) or not _is_count(n):
            raise ValueError("it has a storage without key or size.")
        if key not in self._storages:
            self._storages[key] = dtype, self._storage(key, dtype, n)
        if self._storages[key][0] != dtype or self._storages[key][1].size != n:
            raise ValueError(f"it reads the storage {key} in two ways.")
        self._push(self._storages[key][1])


def _key(key: Any) -> Any:
    """Key of a dictionary; nested tuples, whose hash can take for ever, are refused."""
    flat = key if isinstance(key, tuple) else (key,)
    if not all(isinstance(part, str | bytes | int | float | Record | Global | np.generic | None) for part in flat):
        raise ValueError(f"it has a {type(key).__name__} as a key.")
    return key


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    if not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise ValueError("it has a tensor without a storage.")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride) or len(size) > 16:
        raise ValueError("it has a tensor without shape.")
    if not all(map(_is_count, (offset, *size, *stride))):
        raise ValueError(
            f"it has a tensor of shape {size}, strides {stride} and offset {offset}: negative or too large."
        )
    n = math.prod(size)
    if n == 0:
        return np.zeros(size, storage.dtype)
    if offset + sum((s - 1) * d for s, d in zip(size, stride, strict=True)) >= storage.size:
        raise ValueError(f"it has a tensor of shape {size} beyond its storage of {storage.size} elements.")
    if n > max(storage.size, MAX_REPEATED):
        raise ValueError(f"it has a tensor of shape {size}, which repeats a storage of {storage.size} elements.")
    strides = [d * storage.itemsize for d in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def _dictionary(pairs: Any = ()) -> dict:
    return {_key(key): value for key, value in (pairs.items() if isinstance(pairs, dict) else pairs)}


def _set(values: Any = ()) -> set:
    return set(map(_key, values))


def _encode(text: Any, encoding: Any = "utf-8") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "utf-8", "ascii"):
        raise ValueError(f"it encodes text as {encoding!r}.")
    return text.encode(encoding)


def _numpy_scalar(dtype: Any, data: Any = b"") -> Any:
    return numpy_array(dtype, (), data)[()]


def numpy_array(dtype: Any, shape: tuple, data: Any) -> np.ndarray:
    """Array of numpy from the record of its dtype and its bytes."""
    code = dtype.args[0] if isinstance(dtype, Record) and dtype.name == "numpy.dtype" and dtype.args else None
    order = dtype.state[1] if isinstance(dtype, Record) and isinstance(dtype.state, tuple) else "<"
    if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1") or order == ">":
        raise ValueError(f"it has numbers of numpy of the type {order}{code}, which are not read.")
    if not isinstance(data, bytes) or len(data) != math.prod(shape) * np.dtype(code).itemsize:
        raise ValueError(f"it has {len(data)} bytes of numpy for the shape {shape}.")
    return np.frombuffer(data, np.dtype(code).newbyteorder("<")).reshape(shape)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _size(values: Any = ()) -> tuple:
    return tuple(values)


_KNOWN: dict[str, Callable] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _size,
    "collections.OrderedDict": _dictionary,
    "builtins.set": _set,
    "_codecs.encode": _encode,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
}
_PUSH = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_STEPS: dict[str, Callable[[Interpreter, Any], None]] = {
    "PROTO": lambda s, x: None,
    "FRAME": lambda s, x: None,
    "NONE": lambda s, x: s._push(None),
    "NEWTRUE": lambda s, x: s._push(True),
    "NEWFALSE": lambda s, x: s._push(False),
    "EMPTY_TUPLE": lambda s, x: s._push(()),
    "EMPTY_LIST": lambda s, x: s._push([]),
    "EMPTY_DICT": lambda s, x: s._push({}),
    "EMPTY_SET": lambda s, x: s._push(set()),
    "MARK": lambda s, x: s._marks.append(len(s._stack)),
    "POP": lambda s, x: s._drop(s._pop()),
    "POP_MARK": lambda s, x: s._drop(s._to_mark()),
    "TUPLE": lambda s, x: s._push(tuple(s._to_mark())),
    "TUPLE1": lambda s, x: s._tuple(1),
    "TUPLE2": lambda s, x: s._tuple(2),
    "TUPLE3": lambda s, x: s._tuple(3),
    "BINPUT": lambda s, x: s._put(x),
    "LONG_BINPUT": lambda s, x: s._put(x),
    "MEMOIZE": lambda s, x: s._put(len(s._memo)),
    "BINGET": lambda s, x: s._push(s._memo[x]),
    "LONG_BINGET": lambda s, x: s._push(s._memo[x]),
    "GLOBAL": lambda s, x: s._global(x),
    "STACK_GLOBAL": lambda s, x: s._stack_global(),
    "APPEND": lambda s, x: s._append([s._pop()]),
    "APPENDS": lambda s, x: s._append(s._to_mark()),
    "SETITEM": lambda s, x: s._set_items([s._pop(), s._pop()][::-1]),
    "SETITEMS": lambda s, x: s._set_items(s._to_mark()),
    "ADDITEMS": lambda s, x: s._add_items(s._to_mark()),
    "REDUCE": lambda s, x: s._make(),
    "NEWOBJ": lambda s, x: s._make(),
    "NEWOBJ_EX": lambda s, x: s._make_with_keywords(),
    "BUILD": lambda s, x: s._build(),
    "BINPERSID": lambda s, x: s._persistent(),
}
