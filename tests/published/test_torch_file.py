"""Torch files, hostile ones too, crafted byte by byte: nothing in them is called."""

import os
import struct
import sys
import warnings
import zipfile

import numpy as np
import pytest

from lesjax.published import torch_file
from torch_writer import Call, Named, module, tensor, write


def test_tree_of_modules(tmp_path):
    weight = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    inner = module(
        "lib.Dense", _parameters={"weight": Call("torch._utils", "_rebuild_parameter", tensor(weight.T), True, {})}
    )
    outer = module("lib.Model", _modules={"0": inner}, cutoff=4.5, zs=[8, 1], act=Named("torch.nn.functional", "silu"))
    root = torch_file.read(write(tmp_path / "m.pth", outer)).root
    assert (root.name, root.kind, root["cutoff"], root["zs"]) == ("lib.Model", "Model", 4.5, [8, 1])
    assert root["act"] == torch_file.Global("torch.nn.functional.silu")
    np.testing.assert_array_equal(root["0.weight"], weight.T)
    arrays = torch_file.state_dict(root)
    assert list(arrays) == ["0.weight"]
    assert not arrays["0.weight"].flags.writeable
    assert [path for path, _ in torch_file.walk(root)] == ["", "0"]
    with pytest.raises(ValueError, match=r"lib\.Model has no '0\.bias'"):
        root["0.bias"]
    assert root.get("0.bias") is None
    assert "torch" not in sys.modules


def test_strides_and_offset(tmp_path):
    values = np.arange(12.0)
    tensors = [tensor(values, (2, 3), (1, 4), 1), tensor([7.0], (), ()), tensor([], (0, 3), (3, 1))]
    root = torch_file.read(write(tmp_path / "m.pth", tensors)).root
    np.testing.assert_array_equal(root[0], [[1.0, 5.0, 9.0], [2.0, 6.0, 10.0]])
    assert (root[1].shape, root[1].item(), root[2].shape) == ((), 7.0, (0, 3))


def test_numbers_of_numpy(tmp_path):
    dtype = Call("numpy", "dtype", "i8", False, True, state=(3, "<", None, None, None, -1, -1, 0))
    data = Call("_codecs", "encode", struct.pack("<q", 17).decode("latin1"), "latin1")
    path = write(tmp_path / "m.pth", [Call("numpy.core.multiarray", "scalar", dtype, data)])
    assert torch_file.read(path).root == [17]
    dtype = Call("numpy", "dtype", "i8", False, True, state=(3, ">", None, None, None, -1, -1, 0))
    path = write(tmp_path / "m.pth", [Call("numpy.core.multiarray", "scalar", dtype, data)])
    with pytest.raises(ValueError, match="type >i8"):
        torch_file.read(path)


@pytest.mark.parametrize("module_name", ["os", "posix", "nt"])
def test_call_of_the_system(tmp_path, module_name):
    path = write(tmp_path / "m.pth", module("lib.Model", hook=Call(module_name, "system", f"touch {tmp_path}/made")))
    with pytest.raises(ValueError, match=rf"names {module_name}\.system, which no model needs; it was not called"):
        torch_file.read(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["eval", "exec", "open", "__import__", "setattr"])
def test_functions_of_python(tmp_path, name):
    for where in ("builtins", "__builtin__"):
        with pytest.raises(ValueError, match=rf"names builtins\.{name}"):
            torch_file.read(write(tmp_path / "m.pth", [Call(where, name, "1 / 0")]))


def test_unknown_functions_stay_records(tmp_path):
    chain = Call("__builtin__", "getattr", Call("torch.hub", "load", "somewhere"), "x")
    root = torch_file.read(write(tmp_path / "m.pth", [chain, Call("__main__", "f", state=3)])).root
    assert (root[0].name, root[0].args[0].name, root[1].state) == ("builtins.getattr", "torch.hub.load", 3)
    assert root[0].args[0].args == ("somewhere",)


CHAIN = b"\x80\x02clib\nf\n)R" + b")R" * 10 + b"."


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (CHAIN, "calls a Record"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x02P0\n.", "opcode PERSID"),
        (b"\x80\x02(ios\nsystem\n.", "opcode INST"),
        (b"\x80\x02K\x01Q.", "other than a storage"),
        (b"\x80\x02}h\x05", "pickle"),
        (b"\x80\x02" + b"]" * 110_000 + b".", "more than 100000 opcodes"),
        (b"\x80\x02r\xff\xff\xff\xff.", "pickle"),
        (b"\x80\x02X\xff\xff\xff\x7fab.", "pickle"),
        (b"\x80\x02]K\x01b.", "state of a list"),
        (b"\x80\x02clib\nf\nK\x01b.", "state of a Global"),
        (b"\x80\x02}]K\x01s.", "a list as a key"),
        (b"\x80\x02})\x85\x85K\x01s.", "a tuple as a key"),
        (b"\x80\x02]", "pickle"),
        (b"", "pickle"),
    ],
)
def test_hostile_pickles(tmp_path, pickled, message):
    with pytest.raises(ValueError, match=message):
        torch_file.read(write(tmp_path / "m.pth", None, pickled=pickled))


def test_deeply_nested_pickle(tmp_path):
    pickled = b"\x80\x02" + b"]" * 45_000 + b"a" * 44_999 + b"."
    assert isinstance(torch_file.read(write(tmp_path / "m.pth", None, pickled=pickled)).root, list)


def test_modules_without_end(tmp_path):
    """A module that is its own child, and children that are shared 2^40 times."""
    own = module("lib.Model")
    own.state["_modules"]["0"] = own
    path = write(tmp_path / "m.pth", own)
    with pytest.raises(ValueError, match="nested without end"):
        torch_file.state_dict(torch_file.read(path).root)
    shared = module("lib.Model")
    for _ in range(40):
        shared = module("lib.Model", _modules={"0": shared, "1": shared})
    with pytest.raises(ValueError, match="more than 20000 modules"):
        torch_file.state_dict(torch_file.read(write(tmp_path / "m.pth", shared)).root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tensor([1.0], n=10**9), "has 4 bytes, not 1000000000 elements"),
        (tensor([1.0], (10**9,), (0,)), "repeats a storage of 1 elements"),
        (tensor([1.0, 2.0], (2, 2), (2, 1)), "beyond its storage of 2 elements"),
        (tensor([1.0, 2.0], (2,), (1,), 1), "beyond its storage"),
        (tensor([1.0, 2.0], (2,), (-1,), 1), "negative"),
        (tensor([1.0, 2.0], (2,), (1,), -1), "negative"),
        (tensor([1.0, 2.0], (-1,), (1,)), "negative"),
        (tensor([1.0, 2.0], (2,), (1.0,)), "negative or too large"),
        (tensor([1.0], kind="QUInt8Storage"), r"type 'torch\.QUInt8Storage'"),
        (Call("torch._utils", "_rebuild_tensor_v2", 3, 0, (1,), (1,), False, {}), "without a storage"),
    ],
)
def test_hostile_tensors(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        torch_file.read(write(tmp_path / "m.pth", [content]))


def test_missing_array(tmp_path):
    path = write(tmp_path / "m.pth", [tensor([1.0])])
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "n.pth", "w") as new:
        new.writestr("model/data.pkl", old.read("model/data.pkl"))
    with pytest.raises(ValueError, match="lacks the array data/0"):
        torch_file.read(tmp_path / "n.pth")


def test_truncated(tmp_path):
    path = write(tmp_path / "m.pth", [tensor(np.zeros(1000))])
    data = path.read_bytes()
    for size in (0, 3, 50, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"m\.pth' is (damaged|not a torch file)"):
            torch_file.read(path)


def test_flipped_byte(tmp_path):
    path = write(tmp_path / "m.pth", [tensor(np.zeros(1000))])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        torch_file.read(path)


def test_zip_of_another_kind(tmp_path):
    content = module("lib.Model")
    with pytest.raises(ValueError, match=r"'model/data\.pkl' is compressed"):
        torch_file.read(write(tmp_path / "m.pth", content, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="byte order b'big'"):
        torch_file.read(write(tmp_path / "m.pth", content, order=b"big"))
    with pytest.raises(ValueError, match=r"compiled \(TorchScript\)"):
        torch_file.read(write(tmp_path / "m.pth", content, extra=[("model/code/__torch__.py", "x")]))
    with pytest.raises(ValueError, match="no single"):
        torch_file.read(write(tmp_path / "m.pth", content, extra=[("other/data.pkl", "x")]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = write(tmp_path / "m.pth", content, extra=[("model/byteorder", "x")])
    with pytest.raises(ValueError, match="two entries of one name"):
        torch_file.read(path)


def test_encrypted(tmp_path):
    path = write(tmp_path / "m.pth", module("lib.Model"))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is encrypted"):
        torch_file.read(path)


def test_entries_that_overlap(tmp_path):
    """Many entries that share the bytes of one."""
    path = write(tmp_path / "m.pth", [tensor(np.zeros(1000))])
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    directory, end = data[start:-22], bytearray(data[-22:])
    last = directory[directory.rindex(b"PK\x01\x02") :]
    copies = b"".join(last[:-1] + bytes([49 + i]) for i in range(9))
    end[8:12] = struct.pack("<HH", 12, 12)
    end[12:16] = struct.pack("<I", len(directory + copies))
    path.write_bytes(data[:start] + directory + copies + end)
    with pytest.raises(ValueError, match="more bytes than the file has"):
        torch_file.read(path)


def test_directory_without_end(tmp_path):
    path = write(tmp_path / "m.pth", module("lib.Model"))
    data = bytearray(path.read_bytes())
    data[-10:-6] = struct.pack("<I", 2**23)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="too many entries"):
        torch_file.read(path)


def test_old_format_and_other_files(tmp_path):
    path = tmp_path / "m.pth"
    path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + bytes(100))
    with pytest.raises(ValueError, match=r"torch before 1\.6.*torch\.save\(torch\.load\(FILE\), NEW\)"):
        torch_file.read(path)
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="it is no zip archive"):
        torch_file.read(path)
    with pytest.raises(FileNotFoundError):
        torch_file.read(os.fspath(tmp_path / "missing.pth"))
