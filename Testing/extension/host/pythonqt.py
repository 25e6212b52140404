"""PySide6 that reads like PythonQt, which is what Slicer's modules are written for.

In PythonQt a property is an attribute (``button.enabled = False``, ``combo.currentText``), and signals
are connected by their signature (``button.connect("clicked(bool)", f)``). Both are added to the classes
of PySide6 themselves, so that widgets which Qt makes have them too. Which names are properties is what
Qt's meta-objects say, so an attribute that Slicer does not have is missing here as well.
"""

from __future__ import annotations

import ctypes
import sys
import types
from collections.abc import Callable
from functools import cache
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

#: Getters that Qt itself calls as virtual methods, and static methods of a property's name: they stay methods.
_METHODS = {"sizeHint", "minimumSizeHint", "singleShot", "duration"}

_connect = QtCore.QObject.connect
_disconnect = QtCore.QObject.disconnect


@cache
def install() -> None:
    """Change the classes of PySide6, once per process."""
    _make_none_last()
    # By name, because PySide6 makes a class when somebody asks for it.
    every = [getattr(module, name) for module in (QtCore, QtGui, QtWidgets) for name in dir(module)]
    kinds = [kind for kind in every if isinstance(kind, type) and issubclass(kind, QtCore.QObject)]
    for kind in kinds:
        _add_properties(kind)
    root: Any = QtCore.QObject
    root.name = property(lambda self: self.objectName, lambda self, value: self.setObjectName(value))
    root.className = lambda self: self.metaObject().className()
    # PySide6 looks "connect" up before any attribute of a class, in each class that has such a method of its own.
    for kind in [kind for kind in dict.fromkeys(kinds) if "__getattribute__" in vars(kind)]:
        _find_own_methods(kind)


def _make_none_last() -> None:
    """Keep a process of Python 3.11 alive through very many calls of Qt.

    PySide6 6.12 counts on ``None`` being immortal, as it is from Python 3.12 on: before, each call that
    returns nothing takes a reference to ``None`` away, and the process aborts when the last one is gone.
    """
    if sys.version_info < (3, 12):
        ctypes.c_ssize_t.from_address(id(None)).value += 1 << 40


def _find_own_methods(kind: Any) -> None:
    original, own = kind.__getattribute__, {"connect": connect, "disconnect": disconnect}
    kind.__getattribute__ = lambda self, name: (
        types.MethodType(own[name], self) if name in own else original(self, name)
    )


def connect(self: Any, signal: str, slot: Callable[..., Any]) -> bool:
    """Call `slot` whenever `signal`, a signature, is emitted; refuse a signal that the object does not have."""
    mine = _own_signal(self, signal)
    if mine is not None:
        mine.connect(slot)
        return True
    return bool(_connect(self, _checked(self, signal), slot))


def disconnect(self: Any, signal: str, slot: Callable[..., Any]) -> bool:
    """End what :func:`connect` began."""
    mine = _own_signal(self, signal)
    if mine is not None:
        return bool(mine.disconnect(slot))
    return bool(_disconnect(self, _checked(self, signal), slot))


def _own_signal(self: Any, signal: str) -> Any:
    """Return the signal of a class of this package, whose arguments are Python objects."""
    return getattr(self, getattr(type(self), "SIGNALS", {}).get(signal, ""), None)


def _checked(self: Any, signal: str) -> str:
    meta = self.metaObject()
    normalized = bytes(QtCore.QMetaObject.normalizedSignature(signal).data()).decode()
    if meta.indexOfSignal(normalized) < 0:
        raise AttributeError(f"{meta.className()} '{self.objectName}' has no signal {signal}")
    return str(QtCore.SIGNAL(normalized))


def _add_properties(kind: Any) -> None:
    meta = kind.staticMetaObject
    # The application's own properties are static methods in Qt, and stay those.
    if issubclass(kind, QtCore.QCoreApplication):
        return
    for index in range(meta.propertyOffset(), meta.propertyCount()):
        name = meta.property(index).name()
        if name not in _METHODS and not name.startswith("_"):
            setattr(kind, name, _property(kind, name, meta.property(index).isWritable()))


def _property(kind: Any, name: str, writable: bool) -> property:
    capital = name[0].upper() + name[1:]
    getter = next((found for key in (name, f"is{capital}") if callable(found := getattr(kind, key, None))), None)
    setter = getattr(kind, f"set{capital}", None)
    read = getter or (lambda self: self.property(name))
    if not writable:
        return property(read)
    return property(read, setter or (lambda self, value: self.setProperty(name, value)))
