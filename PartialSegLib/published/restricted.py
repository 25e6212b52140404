"""Reading published pickles without running them: tensors, numbers and plain containers, nothing else.

Checkpoints of PyTorch and plans of nnU-Net v1 are pickles, and a pickle is a program that may call
anything. Two readers here follow one list of what a pickle may name: :func:`load_checkpoint` adds it
to PyTorch's own ``weights_only`` reader, :func:`load_pickle` allows it and nothing more. NumPy's
scalars and arrays are rebuilt by code of this file, because NumPy's own trusts the numbers that it
is given.

Some checkpoints keep whole program objects (a network, an optimizer) beside their weights. A third
reader, :func:`read_inert`, takes such a pickle for a description: every name in it becomes an object
that does nothing (:class:`Inert`), and tensors become records of where their numbers lie
(:class:`TensorRecord`). :mod:`PartialSegLib.published.torchfiles` makes tensors of the wanted ones.
The argument that nothing runs is short. A pickle can only call what a name of it stands for, or a
method of what such a call returned. All names stand for the classes of this file, none of which
imports, opens, computes or keeps anything but what :class:`TensorRecord` is told; and each has a
``__setstate__`` of its own, so that a pickle cannot set attributes of them either.

No other file of the library imports :mod:`pickle`; the formats of :mod:`PartialSegLib.published`
call this one.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple, NoReturn

import numpy as np
import torch

from PartialSegLib.errors import BundleError

#: Until this version, files of PyTorch's older layout could escape ``weights_only`` (CVE-2025-32434).
SAFE_TORCH = (2, 6)

#: Flat types of fixed size: booleans, integers, floats, bytes and texts, of either byte order.
_PLAIN_TYPE = re.compile(r"[<>|=]?([?b]1?|[iu][1248]|[BhHiIlLqQ]|f[248]|[efd]|[SU][0-9]{1,4})")
_BYTE_ORDERS = ("<", ">", "|", "=")
#: How lines begin in which PyTorch recommends what is not done here.
_ADVICE = ("Weights only load failed", "(1)", "(2)", "Check the documentation", "Please file an issue")
#: What PyTorch says about a name that its reader does not allow.
_REFUSED = re.compile(r"(?:GLOBAL|add_safe_globals\(\[)\s*([\w.]+)")


class _Type:
    """A NumPy type as a pickle describes it; :attr:`dtype` is made from its checked name."""

    def __init__(self, name: Any, *flags: Any) -> None:
        if not isinstance(name, str) or not _PLAIN_TYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"NumPy type {name!r} is none of numbers or texts")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        # (version, byte order, ...): the rest describes structured types, which are not allowed.
        order = state[1]
        if order not in _BYTE_ORDERS:
            raise pickle.UnpicklingError(f"NumPy byte order {order!r} is unknown")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """A NumPy array whose content is taken from a pickle only after its type was checked."""

    def __new__(cls, *_: Any) -> NoReturn:
        """Refuse what ``numpy.ndarray(shape, dtype, buffer)`` would do: arrays are made empty and filled."""
        raise pickle.UnpicklingError("a NumPy array is made in an unusual way")

    def __setstate__(self, state: Any) -> None:
        version, shape, kind, fortran, data = state
        if type(kind) is not _Type or type(data) is not bytes:
            raise pickle.UnpicklingError("a NumPy array holds something else than numbers or texts")
        super().__setstate__((version, shape, kind.dtype, fortran, data))


def _empty_array(kind: Any, shape: Any, code: Any) -> _Array:
    """Stand in for ``numpy._core.multiarray._reconstruct``: an empty array that is filled next."""
    if kind is not _Array:
        raise pickle.UnpicklingError(f"an array is made of {kind!r}")
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _scalar(kind: Any, data: Any) -> Any:
    """Stand in for ``numpy._core.multiarray.scalar``: the Python number, text or bytes."""
    if type(kind) is not _Type or type(data) is not bytes or len(data) != kind.dtype.itemsize:
        raise pickle.UnpicklingError("a NumPy scalar holds something else than a number or text")
    return np.frombuffer(data, kind.dtype)[0].item()


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """Stand in for ``_codecs.encode``, by which pickles of protocol 2 spell bytes; no codec is looked up."""
    if type(text) is not str or encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are spelt in encoding {encoding!r}")
    return text.encode("latin1")


#: All that a pickle may name, and what it gets for it. PyTorch's reader adds its tensors.
ALLOWED: Mapping[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _latin1,
    "numpy.dtype": _Type,
    "numpy.ndarray": _Array,
    **{
        f"numpy.{core}.multiarray.{name}": substitute
        for core in ("core", "_core")  # NumPy 1 and 2
        for name, substitute in (("_reconstruct", _empty_array), ("scalar", _scalar))
    },
}


class _PlainPickle(pickle.Unpickler):
    """A pickle that may name what :data:`ALLOWED` lists, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name; the default would import it."""
        named = f"{module}.{name}"
        if named not in ALLOWED:
            raise pickle.UnpicklingError(f"GLOBAL {named}")
        return ALLOWED[named]


class Inert:
    """What a name stands for that is not needed: takes whatever it is given, keeps nothing, does nothing.

    Every name gets a subclass of its own, for messages.
    """

    __slots__ = ()
    #: The name in the pickle.
    named: ClassVar[str] = ""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return object.__new__(cls)

    def _ignore(self, *_: Any, **__: Any) -> Inert:
        return self

    # Whatever a pickle may do to an object: call, set the state of, and fill it.
    __call__ = __setstate__ = __setitem__ = append = extend = add = _ignore

    def __init__(self, *_: Any, **__: Any) -> None:
        pass


class StorageRecord(NamedTuple):
    """Numbers that lie somewhere in the file: their type, the name of their place, and how many."""

    dtype: torch.dtype
    key: str
    numbers: int


class Described(NamedTuple):
    """What :func:`read_inert` returns: the content, and every storage that it refers to, by its key."""

    content: Any
    storages: dict[str, StorageRecord]


class TensorRecord:
    """A tensor as a pickle describes it; nothing about it is checked yet.

    Attributes are those of ``torch._utils._rebuild_tensor``, in numbers of elements.
    """

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a tensor is changed after it was made")


class _Parameter:
    """Stand in for ``torch._utils._rebuild_parameter``: the tensor in it."""

    def __new__(cls, data: Any, *_: Any) -> Any:
        return data

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a parameter is changed after it was made")


class NamedRecords(dict[Any, Any]):
    """Stand in for ``collections.OrderedDict``, without the attributes that state dictionaries give it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _StorageType(Inert):
    """A type of numbers, such as ``torch.FloatStorage``."""

    __slots__ = ()
    dtype: ClassVar[torch.dtype]


#: What :func:`read_inert` makes of the names that describe weights.
_RECORDS: Mapping[str, Any] = {
    "collections.OrderedDict": NamedRecords,
    "torch._utils._rebuild_tensor": TensorRecord,
    "torch._utils._rebuild_tensor_v2": TensorRecord,
    "torch._utils._rebuild_parameter": _Parameter,
}
_STORAGES: Mapping[str, torch.dtype] = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
}


class _InertPickle(pickle.Unpickler):
    """A pickle of ``torch.save`` that may name anything, and gets nothing but records for it."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream, encoding="utf-8")  # texts of Python 2
        self._names: dict[str, Any] = dict(_RECORDS)
        self.storages: dict[str, StorageRecord] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name; nothing is imported."""
        named = f"{module}.{name}"
        if named not in self._names:
            fields: dict[str, Any] = {"__slots__": (), "named": named}
            if named in _STORAGES:
                self._names[named] = type("StorageType", (_StorageType,), fields | {"dtype": _STORAGES[named]})
            else:
                self._names[named] = type("Foreign", (Inert,), fields)
        return self._names[named]

    def persistent_load(self, pid: Any) -> Any:
        """Return the record of a storage, or the name of a module, which the older layout keeps with its source."""
        match pid:
            case ("module", kind, *_):
                return kind
            case ("storage", type() as kind, str(key), _, int(count), *view) if not any(view):
                if not issubclass(kind, _StorageType):
                    return Inert()  # of a type that no weights have, such as quantized numbers
                record = StorageRecord(kind.dtype, key, count)
                if self.storages.setdefault(key, record) != record:
                    raise pickle.UnpicklingError(f"storage '{key}' is described in two ways")
                return record
        raise pickle.UnpicklingError("it refers to numbers in an unknown way")


def read_inert(stream: BinaryIO) -> Described:
    """Read one pickle of a checkpoint for the weights in it, without building anything else.

    Parameters
    ----------
    stream : binary file
        Seekable; left behind the pickle.

    Returns
    -------
    Described
        Its content is numbers, texts and plain containers, with :class:`NamedRecords` for ordered
        dictionaries, :class:`TensorRecord` for tensors and :class:`Inert` for all other objects.

    Raises
    ------
    Exception
        Of any kind when it is damaged; :func:`refuse` makes a message of it.
    """
    start = stream.tell()
    for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
        # The memo is a list as long as the largest index: five bytes could ask for gigabytes.
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument is not None and argument > count:
            raise pickle.UnpicklingError("it remembers more objects than it has")
    end = stream.tell()
    stream.seek(start)
    reader = _InertPickle(stream)
    content = reader.load()
    stream.seek(end)
    return Described(content, reader.storages)


def load_checkpoint(path: str | Path, *, mapped: bool = False) -> Any:
    """Read a file of ``torch.save``, of the layout of PyTorch 1.6 (zip) or the older one.

    Parameters
    ----------
    path : path
        The file.
    mapped : bool
        Leave tensors in the file until they are looked at, where its layout allows; for a glance at
        their names and shapes.

    Returns
    -------
    object
        Tensors on the CPU in plain containers. NumPy scalars are Python's.

    Raises
    ------
    BundleError
        When it cannot be read, or names something that is no tensor, number or plain container;
        nothing of it was run then.
    """
    path = Path(path)
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < SAFE_TORCH:
        raise BundleError(
            f"{path} is not read with PyTorch {torch.__version__}, which can be made to run code by a checkpoint.",
            f"Update PyTorch to {'.'.join(map(str, SAFE_TORCH))} or later.",
        )
    substitutes: list[Any] = [(substitute, named) for named, substitute in ALLOWED.items()]
    try:
        with path.open("rb") as stream:
            is_zip = stream.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}.", "Check its name.") from error
    try:
        with torch.serialization.safe_globals(substitutes), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and is_zip)
    except Exception as error:  # a damaged pickle fails in any way: IndexError, KeyError, struct.error ...
        refuse(path, error, "checkpoint of PyTorch")


def load_pickle(stream: BinaryIO, source: str | Path) -> Any:
    """Read a plain pickle (``plans.pkl``, ``model_final_checkpoint.model.pkl``).

    Parameters
    ----------
    stream : binary file
        Its content.
    source : str or Path
        Its name, for messages.

    Returns
    -------
    object
        Numbers, texts, NumPy arrays of them, and plain containers. NumPy scalars are Python's.

    Raises
    ------
    BundleError
        When it cannot be read, or names anything else; nothing of it was run then.
    """
    try:
        return _PlainPickle(stream).load()
    except Exception as error:  # a damaged pickle fails in any way: IndexError, KeyError, struct.error ...
        refuse(source, error, "pickle")


def refuse(source: str | Path, error: Exception, kind: str) -> NoReturn:
    """Say why a file is not read: what it wanted to call, or that it is damaged."""
    found = _REFUSED.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if found:
        raise BundleError(
            f"{source} is refused: it names '{found[1]}', which is no tensor, number or plain container.",
            "It could run code when it is read; nothing of it was run. Get the file from its authors.",
        ) from error
    raise BundleError(
        f"{source} is no readable {kind}: {_reason(error)}.",
        "It is damaged, incomplete or another kind of file. Get it again.",
    ) from error


def _reason(error: Exception) -> str:
    """Return the sentence of an error that says what is wrong, without PyTorch's advice around it."""
    if not isinstance(error, pickle.UnpicklingError | RuntimeError | EOFError):
        return f"its content makes no sense ({type(error).__name__}: {error})"
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(_ADVICE)]
    reason = (told[-1] if told else "it ends too early").removeprefix("WeightsUnpickler error: ")
    return reason.split(". ")[0].rstrip(".")
