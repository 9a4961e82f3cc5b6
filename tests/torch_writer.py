"""Writes files as torch does, hostile ones too, without torch."""

import pickle
import zipfile

import numpy as np


class Storage:
    """Stands for a storage of torch in a pickle."""

    def __init__(self, values, kind="FloatStorage", n=None):
        self.values, self.kind, self.n = values, kind, len(values) if n is None else n


class Call:
    """Pickled as a call of the function or class."""

    def __init__(self, module, name, *args, state=None):
        self.function, self.args, self.state = Named(module, name), args, state

    def __reduce__(self):
        return (self.function, self.args, *([] if self.state is None else [self.state]))


class Named:
    """Pickled as a name, which need not exist."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self):
        raise AssertionError


class Writer(pickle._Pickler):
    """Writes names that nothing here has, and the storages of torch."""

    def __init__(self, file):
        super().__init__(file, protocol=2)
        self.storages = []

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        if obj not in self.storages:
            self.storages.append(obj)
        return "storage", Named("torch", obj.kind), str(self.storages.index(obj)), "cpu", obj.n

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Named):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
            return
        super().save(obj, save_persistent_id)


def tensor(values, size=None, stride=None, offset=0, **storage):
    values = np.asarray(values, np.float32)
    size = values.shape if size is None else size
    stride = tuple(s // 4 for s in values.strides) if stride is None else stride
    return Call(
        "torch._utils", "_rebuild_tensor_v2", Storage(values.ravel("K"), **storage), offset, size, stride, False, {}
    )


def module(name, **attributes):
    where, _, kind = name.rpartition(".")
    return Call(where, kind, state={"_parameters": {}, "_buffers": {}, "_modules": {}} | attributes)


def write(path, content, *, pickled=None, order=b"little", compression=zipfile.ZIP_STORED, extra=()):
    """Write a file as torch does."""
    with open(path.with_suffix(".pkl"), "wb+") as file:
        writer = Writer(file)
        if pickled is None:
            writer.dump(content)
            file.seek(0)
            pickled = file.read()
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", pickled)
        archive.writestr("model/byteorder", order)
        for i, storage in enumerate(writer.storages):
            archive.writestr(f"model/data/{i}", storage.values.tobytes())
        for name, data in extra:
            archive.writestr(name, data)
    return path
