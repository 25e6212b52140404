"""``slicer.parameterNodeWrapper``: typed parameters in a MRML node, bound to the widgets of a panel.

Of Slicer's wrapper this has the types and connectors that its documentation lists and the module uses:
numbers, texts, booleans, enumerations, paths, nodes and lists of these; defaults, ``Choice``,
``Minimum``, ``Maximum`` and ``WithinRange``; check boxes, buttons, spin boxes, combo boxes, line edits,
labels and node selectors.
"""

# ruff: noqa: N802, N803, N815

from __future__ import annotations

import enum
import json
import pathlib
import types
import typing
from collections.abc import Callable, MutableSequence
from dataclasses import dataclass
from typing import Any

import slicer
import vtk
from PySide6 import QtWidgets

__all__ = [
    "Choice",
    "Default",
    "Maximum",
    "Minimum",
    "WithinRange",
    "isParameterNodeWrapper",
    "parameterNodeWrapper",
]


@dataclass(frozen=True)
class Default:
    """The value that a parameter starts with."""

    value: Any


@dataclass(frozen=True)
class Choice:
    """The values that a parameter may have."""

    choices: Any

    def check(self, value: Any) -> None:
        """Raise :class:`ValueError` for another one."""
        if value not in self.choices:
            raise ValueError(f"{value!r} is none of {list(self.choices)}")


@dataclass(frozen=True)
class WithinRange:
    """The smallest and the largest value of a parameter."""

    minimum: float
    maximum: float

    def check(self, value: Any) -> None:
        """Raise :class:`ValueError` for one outside."""
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value!r} is not within {self.minimum} and {self.maximum}")


def Minimum(value: float) -> WithinRange:
    """Return the smallest value of a parameter."""
    return WithinRange(value, float("inf"))


def Maximum(value: float) -> WithinRange:
    """Return the largest value of a parameter."""
    return WithinRange(float("-inf"), value)


class ObservedList(MutableSequence[Any]):
    """A list in a parameter node: whoever changes it changes the node."""

    def __init__(self, values: list[Any], save: Callable[[list[Any]], None]) -> None:
        self._values, self._save = values, save

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._values[index] = value
        self._save(self._values)

    def __delitem__(self, index: Any) -> None:
        del self._values[index]
        self._save(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def insert(self, index: int, value: Any) -> None:
        """Insert a value."""
        self._values.insert(index, value)
        self._save(self._values)

    def __eq__(self, other: object) -> bool:
        return self._values == (other._values if isinstance(other, ObservedList) else other)

    __hash__ = None  # type: ignore[assignment]


class Parameter:
    """One parameter: its type, its default, and how a value becomes a text of the node."""

    def __init__(self, name: str, annotated: Any, default: Any) -> None:
        extras: tuple[Any, ...] = ()
        kind = annotated
        if typing.get_origin(annotated) is typing.Annotated:
            kind, *rest = typing.get_args(annotated)
            extras = tuple(rest)
        self.name = name
        self.checks = [extra for extra in extras if hasattr(extra, "check")]
        self.kind, self.item = _plain(kind)
        given = [extra.value for extra in extras if isinstance(extra, Default)]
        self.default = default if default is not ... else given[0] if given else self._start()

    def _start(self) -> Any:
        if self.isNode:
            return None
        if issubclass(self.kind, enum.Enum):
            return next(iter(self.kind))
        return self.kind()

    @property
    def isNode(self) -> bool:
        """Whether its values are nodes."""
        return issubclass(self.kind, slicer.vtkMRMLNode)

    def check(self, value: Any) -> None:
        """Raise :class:`ValueError` or :class:`TypeError` for a value that may not be written."""
        kinds: Any = (int, float) if self.kind is float else (list, ObservedList) if self.kind is list else self.kind
        if self.isNode and value is None:
            return
        if not isinstance(value, kinds):
            raise TypeError(f"Parameter '{self.name}' is {self.kind.__name__}, not {value!r}")
        for check in self.checks:
            check.check(value)

    def write(self, node: Any, value: Any) -> None:
        """Write a value to a parameter node."""
        self.check(value)
        if self.isNode:
            node.SetParameter(self.name, "")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        elif self.kind is list:
            node.SetParameter(self.name, json.dumps([_text(item) for item in value]))
        else:
            node.SetParameter(self.name, _text(value))

    def read(self, node: Any) -> Any:
        """Read the value from a parameter node; write the default when there is none."""
        if not node.HasParameter(self.name):
            self.write(node, self.default)
        if self.isNode:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if self.kind is list:
            values = [_value(item, self.item) for item in json.loads(text)]
            return ObservedList(values, lambda changed: self.write(node, changed))
        return _value(text, self.kind)


def _plain(kind: Any) -> tuple[type, type]:
    """Return a type without ``| None``, and the type of its items."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not types.NoneType)
    if typing.get_origin(kind) is list:
        return list, typing.get_args(kind)[0]
    return kind, str


def _text(value: Any) -> str:
    return value.name if isinstance(value, enum.Enum) else str(value)


def _value(text: str, kind: Any) -> Any:
    if kind is bool:
        return text == "True"
    if issubclass(kind, enum.Enum):
        return kind[text]
    if issubclass(kind, pathlib.PurePath):
        return kind(text)
    return kind(text)


class Wrapper:
    """What the decorator adds to a class of parameters."""

    allParameters: typing.ClassVar[dict[str, Parameter]]

    def __init__(self, parameterNode: Any, prefix: str | None = None) -> None:
        self.parameterNode = parameterNode
        self._guis: dict[int, list[tuple[str, Any, Callable[[Any], None], Callable[[], None]]]] = {}
        self._updating = False
        for parameter in self.allParameters.values():
            parameter.read(parameterNode)

    def getValue(self, name: str) -> Any:
        """Return a parameter."""
        return self.allParameters[name].read(self.parameterNode)

    def setValue(self, name: str, value: Any) -> None:
        """Set a parameter."""
        with slicer.util.NodeModify(self.parameterNode):
            self.allParameters[name].write(self.parameterNode, value)

    def default(self, name: str) -> Default:
        """Return what a parameter starts with."""
        return Default(self.allParameters[name].default)

    def connectGui(self, gui: Any) -> None:
        """Bind the widgets whose dynamic property ``SlicerParameterName`` names a parameter; as in Slicer, no tag."""
        widgets = gui.findChildren(QtWidgets.QWidget) if isinstance(gui, QtWidgets.QWidget) else vars(gui).values()
        named = {name: widget for widget in widgets if (name := widget.property("SlicerParameterName"))}
        self.connectParametersToGui(named)

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        """Bind widgets to parameters by name; return a tag."""
        tag = max(self._guis, default=-1) + 1
        connected = []
        for name, widget in mapping.items():
            write, read, signal = _connector(self.allParameters[name], widget)
            write(self.getValue(name))
            changed = self._changed(name, read)
            if signal:
                widget.connect(signal, changed)
            connected.append((name, widget, write, changed if signal else lambda: None))
        self._guis[tag] = connected
        observer = self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._update())
        self._observers = {**getattr(self, "_observers", {}), tag: observer}
        return tag

    def disconnectGui(self, tag: int) -> None:
        """Undo one of the two above."""
        for name, widget, _, changed in self._guis.pop(tag, []):
            signal = _connector(self.allParameters[name], widget)[2]
            if signal:
                widget.disconnect(signal, changed)
        self.RemoveObserver(self._observers.pop(tag))

    def _changed(self, name: str, read: Callable[[], Any]) -> Callable[[], None]:
        def changed(*_: Any) -> None:
            if not self._updating:
                self.setValue(name, read())

        return changed

    def _update(self) -> None:
        if self._updating:
            return
        self._updating = True
        try:
            for connected in list(self._guis.values()):
                for name, _, write, _ in connected:
                    write(self.getValue(name))
        finally:
            self._updating = False

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        """Observe the parameter node."""
        return int(self.parameterNode.AddObserver(event, callback, priority))

    def RemoveObserver(self, tag: int) -> None:
        """End an observation."""
        self.parameterNode.RemoveObserver(tag)

    def StartModify(self) -> Any:
        """Hold events back."""
        return self.parameterNode.StartModify()

    def EndModify(self, wasModified: Any) -> None:
        """Send the events that were held back."""
        self.parameterNode.EndModify(wasModified)

    def Modified(self) -> None:
        """Tell all observers."""
        self.parameterNode.Modified()


def _connector(parameter: Parameter, widget: Any) -> tuple[Callable[[Any], None], Callable[[], Any], str]:
    """Return how a widget is written and read, and the signal that says that a person changed it."""
    kind = parameter.kind

    def fits(widget_kind: Any, *kinds: Any) -> bool:
        return isinstance(widget, widget_kind) and any(issubclass(kind, each) for each in kinds)

    def assign(name: str) -> Callable[[Any], None]:
        return lambda value: setattr(widget, name, value)

    if isinstance(widget, slicer.qMRMLNodeComboBox) and parameter.isNode:
        return widget.setCurrentNode, widget.currentNode, "currentNodeChanged(vtkMRMLNode*)"
    if fits((QtWidgets.QCheckBox, QtWidgets.QPushButton), bool):
        return assign("checked"), lambda: widget.checked, "toggled(bool)"
    if fits((QtWidgets.QSpinBox, QtWidgets.QSlider), int):
        return assign("value"), lambda: widget.value, "valueChanged(int)"
    if fits(QtWidgets.QDoubleSpinBox, float):
        return assign("value"), lambda: widget.value, "valueChanged(double)"
    if fits(QtWidgets.QLineEdit, str):
        return assign("text"), lambda: widget.text, "textChanged(QString)"
    if fits(QtWidgets.QLabel, str):
        return assign("text"), lambda: widget.text, ""
    if isinstance(widget, QtWidgets.QComboBox):
        return _combo(parameter, widget)
    raise TypeError(f"Slicer cannot connect {type(widget).__name__} with '{parameter.name}' ({kind.__name__})")


def _combo(parameter: Parameter, widget: Any) -> tuple[Callable[[Any], None], Callable[[], Any], str]:
    """Fill a combo box with the values of an enumeration or a choice."""
    choices = [list(check.choices) for check in parameter.checks if isinstance(check, Choice)]
    if issubclass(parameter.kind, enum.Enum):
        values: list[Any] = list(parameter.kind)
    elif choices:
        values = choices[0]
    else:
        raise TypeError(f"Slicer connects a combo box with a Choice or an Enum, and '{parameter.name}' is neither")
    texts = [value.label() if hasattr(value, "label") else _text(value) for value in values]
    if [widget.itemText(index) for index in range(widget.count)] != texts:
        widget.clear()
        widget.addItems(texts)

    def write(value: Any) -> None:
        widget.currentIndex = values.index(value)

    return write, lambda: values[widget.currentIndex], "currentIndexChanged(int)"


def isParameterNodeWrapper(classOrObject: Any) -> bool:
    """Whether something was made by the decorator."""
    return getattr(classOrObject, "_is_parameter_node_wrapper", False) is True


def parameterNodeWrapper(classtype: Any = None) -> Any:
    """Make a class of annotated names a wrapper of parameter nodes."""
    if classtype is None:
        return parameterNodeWrapper
    parameters = {
        name: Parameter(name, annotated, getattr(classtype, name, ...))
        for name, annotated in typing.get_type_hints(classtype, include_extras=True).items()
    }
    methods = {name: item for name, item in vars(classtype).items() if name not in ("__dict__", "__weakref__")}
    made: Any = type(classtype.__name__, (Wrapper,), methods | {"_is_parameter_node_wrapper": True})
    made.allParameters = parameters
    for name in parameters:
        setattr(
            made,
            name,
            property(
                lambda self, name=name: self.getValue(name),
                lambda self, value, name=name: self.setValue(name, value),
            ),
        )
    return made
