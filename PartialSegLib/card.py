"""What a model says about itself: the card of a bundle, and how it wants its images prepared.

Read and written by :mod:`PartialSegLib.bundle`, listed by :mod:`PartialSegLib.catalog`. The fields
are described for people and editors in ``data/card.schema.json``; the checks here refuse the same.
Imports neither torch nor numpy.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from PartialSegLib.errors import BundleError, LabelSpaceError
from PartialSegLib.structures import LabelSpace

Vector = tuple[float, float, float]

#: What every card starts with, and the version of its fields that this code reads and writes.
FORMAT = "partialseg-card"
FORMAT_VERSION = 1

#: A name that is one word on a command line and one folder on every file system.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEXTS = ("name", "title", "description", "version", "modality", "license", "intended_use")
_OBJECTS = ("network", "preprocessing", "label_space", "provenance", "figures", "weights")
_FIELDS = frozenset(("format", "format_version", *_TEXTS, *_OBJECTS, "window", "mirror_axes"))
_MARKS = frozenset(("format", "format_version", "$schema"))
_HINT = "See card.schema.json for the fields."


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input; stored on the card.

    Parameters
    ----------
    spacing : tuple of float
        Voxel spacing of the network's grid along (x, y, z), in millimetres.
    intensity_range : tuple of float
        Lowest and highest intensity that the network sees (HU for CT); the rest is clipped.
    intensity_shift, intensity_scale : float
        The network's input is ``(clipped - shift) / scale``.
    orientation : str
        Directions in which x, y and z grow, as three letters (``LPS``). The nearest axes of the
        image are permuted and flipped; an oblique image stays oblique.
    body_threshold : float or None
        The image is cropped to the largest connected region above this intensity; ``None`` for no crop.
    coarse_spacing : tuple of float or None
        A coarser spacing that the network was trained for too; the ``fast`` preset searches the
        region of the chosen structures with it. ``None`` when there is none.

    Raises
    ------
    ValueError
        When a spacing, the range, the scale or the orientation makes no sense.
    """

    spacing: Vector
    intensity_range: tuple[float, float]
    intensity_shift: float = 0.0
    intensity_scale: float = 1.0
    orientation: str = "LPS"
    body_threshold: float | None = -300.0
    coarse_spacing: Vector | None = None

    def __post_init__(self) -> None:
        low, high = self.intensity_range
        if not low < high or self.intensity_scale == 0:
            raise ValueError(f"the intensity range {low} to {high}, scaled by {self.intensity_scale}, is empty")
        for spacing in (self.spacing, self.coarse_spacing or self.spacing):
            if len(spacing) != 3 or min(spacing) <= 0:
                raise ValueError(f"the spacing {spacing} is not three positive numbers")
        axes = [next((pair for pair in ("LR", "AP", "IS") if letter in pair), letter) for letter in self.orientation]
        if sorted(axes) != ["AP", "IS", "LR"]:
            raise ValueError(f"the orientation {self.orientation!r} is not one of L/R, one of P/A and one of S/I")

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Preprocessing:
        """Read the entry of a card.

        Raises
        ------
        ValueError
            When a field is missing, unknown or wrong.
        """
        _only(entry, cls.__dataclass_fields__, "preprocessing")
        _present(entry, ("spacing", "intensity_range"), "preprocessing")
        values: dict[str, Any] = {}
        for name, value in entry.items():
            if name == "orientation":
                values[name] = _text(value, "preprocessing.orientation")
            elif value is None and name in ("body_threshold", "coarse_spacing"):
                values[name] = None
            elif name in ("spacing", "intensity_range", "coarse_spacing"):
                values[name] = _numbers(value, 2 if name == "intensity_range" else 3, f"preprocessing.{name}")
            else:
                values[name] = _numbers([value], 1, f"preprocessing.{name}")[0]
        return cls(**values)


@dataclass(frozen=True)
class Card:
    """What a person and a program need to know about a model.

    Parameters
    ----------
    name : str
        Identifier on the command line (``phantom-dodnet``): lower-case letters, digits, ``.``, ``_``, ``-``.
    title, description : str
        For the task picker.
    network : str
        Key of :data:`PartialSegLib.networks.NETWORKS`.
    network_parameters : dict
        Fields of the network's parameter dataclass, as JSON (tuples become lists).
    label_space : LabelSpace
        Tasks and structures.
    preprocessing : Preprocessing
        How an image becomes the network's input.
    window : tuple of int
        Sliding window, (D, H, W) voxels.
    mirror_axes : tuple of int
        Axes (0 = z, 1 = y, 2 = x) that it was trained mirrored along: the preset ``paper`` averages
        copies mirrored along these.
    version : str
        Version of the model.
    modality : str
        DICOM modality that it was trained on.
    license, intended_use : str
        License of the weights (SPDX identifier or text); what the model is for and not for.
    provenance : dict
        Recipe, data, seeds, software and parent model, as JSON.
    figures : dict
        Measured figures, with the data that they were measured on, as JSON.
    weights : dict
        ``sha256`` and ``bytes`` of the weights file; set by
        :meth:`PartialSegLib.bundle.ModelBundle.create`, and empty before.

    Raises
    ------
    BundleError
        When the name or the window makes no sense, or a dict holds what JSON cannot.
    """

    name: str
    title: str
    description: str
    network: str
    network_parameters: Mapping[str, Any]
    label_space: LabelSpace
    preprocessing: Preprocessing
    window: tuple[int, int, int]
    mirror_axes: tuple[int, ...] = (0, 1, 2)
    version: str = "1.0.0"
    modality: str = "CT"
    license: str = "not stated"
    intended_use: str = "Research only. Not a medical device."
    provenance: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise BundleError(
                f"'{self.name}' is no name for a model.",
                "Use lower-case letters, digits, '.', '_' and '-', starting with a letter or digit.",
            )
        if len(self.window) != 3 or min(self.window) < 1:
            raise BundleError(f"The window {self.window} of model '{self.name}' is not three positive numbers.", _HINT)
        if not set(self.mirror_axes) <= {0, 1, 2} or len(set(self.mirror_axes)) != len(self.mirror_axes):
            raise BundleError(
                f"The mirror axes {self.mirror_axes} of model '{self.name}' are not among 0, 1, 2.", _HINT
            )
        for name in ("network_parameters", "provenance", "figures", "weights"):
            object.__setattr__(self, name, self._plain(name))

    def _plain(self, name: str) -> dict[str, Any]:
        """Return a copy of a field as JSON gives it back: lists for tuples, nothing but finite numbers and texts."""
        try:
            copied: dict[str, Any] = json.loads(json.dumps(getattr(self, name), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise BundleError(
                f"The {name} of model '{self.name}' cannot be kept as JSON: {error}.",
                "Use texts, finite numbers, lists and objects.",
            ) from error
        return copied

    @classmethod
    def from_json(cls, document: Any, source: str = "card.json") -> Card:
        """Read a card.

        Parameters
        ----------
        document : mapping
            Parsed ``card.json``.
        source : str
            Its file, for messages.

        Raises
        ------
        BundleError
            When it is no card, of an unknown version, or a field is missing, unknown or wrong.
        """
        if not isinstance(document, Mapping) or document.get("format") != FORMAT:
            raise BundleError(f"{source} is no model card: its 'format' is not '{FORMAT}'.", "Is it another file?")
        if document.get("format_version") != FORMAT_VERSION:
            raise BundleError(
                f"{source} has format version {document.get('format_version')!r}, but {FORMAT_VERSION} is known.",
                "Update PartialSeg, or install the model anew.",
            )
        try:
            return cls(**_fields(document))
        except ValueError as error:
            raise BundleError(f"{source} is incomplete or wrong: {error}.", _HINT) from error
        except LabelSpaceError as error:
            raise BundleError(f"{source}: {error.message}", error.hint) from error

    def to_json(self) -> dict[str, Any]:
        """Return the document that :meth:`from_json` reads, in an order that a person would choose."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **{name: getattr(self, name) for name in _TEXTS},
            "network": {"name": self.network, "parameters": dict(self.network_parameters)},
            "window": list(self.window),
            "mirror_axes": list(self.mirror_axes),
            "preprocessing": asdict(self.preprocessing),
            "label_space": self.label_space.to_json(),
            "provenance": dict(self.provenance),
            "figures": dict(self.figures),
            "weights": dict(self.weights),
        }


def _fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked arguments of :class:`Card`; ``ValueError`` says what is wrong."""
    _only(document, _FIELDS | _MARKS, "the card")
    _present(document, sorted(_FIELDS), "the card")
    fields: dict[str, Any] = {name: _text(document[name], name) for name in _TEXTS}
    objects = {name: _object(document[name], name) for name in _OBJECTS}
    network, weights = objects["network"], objects["weights"]
    for entry, name, known in ((network, "network", ("name", "parameters")), (weights, "weights", ("sha256", "bytes"))):
        _only(entry, known, name)
        _present(entry, known, name)
    if not _SHA256.fullmatch(_text(weights["sha256"], "weights.sha256")):
        raise ValueError("'weights.sha256' is not 64 hexadecimal digits")
    window = document["window"]
    if not isinstance(window, list) or len(window) != 3 or not all(_is_count(size) for size in window):
        raise ValueError(f"'window' is {window!r}, not three positive whole numbers")
    axes = document["mirror_axes"]
    if not isinstance(axes, list) or not all(
        type(axis) is int and axis in (0, 1, 2) and axes.count(axis) == 1 for axis in axes
    ):
        raise ValueError(f"'mirror_axes' is {axes!r}, not some of 0, 1 and 2")
    if not _is_count(weights["bytes"]):
        raise ValueError(f"'weights.bytes' is {weights['bytes']!r}, not a positive whole number")
    return fields | {
        "network": _text(network["name"], "network.name"),
        "network_parameters": _object(network["parameters"], "network.parameters"),
        "label_space": _label_space(objects["label_space"]),
        "preprocessing": Preprocessing.from_json(objects["preprocessing"]),
        "window": tuple(window),
        "mirror_axes": tuple(axes),
        **{name: objects[name] for name in ("provenance", "figures", "weights")},
    }


def _label_space(entry: Mapping[str, Any]) -> LabelSpace:
    try:
        return LabelSpace.from_json(entry)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"'label_space' is no label space ({error})") from error


def _only(entry: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    unknown = sorted(set(entry) - set(known))
    if unknown:
        raise ValueError(f"{where} has an unknown field '{unknown[0]}'")


def _present(entry: Mapping[str, Any], needed: Iterable[str], where: str) -> None:
    missing = [name for name in needed if name not in entry]
    if missing:
        raise ValueError(f"{where} lacks '{missing[0]}'")


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"'{name}' is {value!r}, not a text")
    return value


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"'{name}' is {value!r}, not an object")
    return dict(value)


def _numbers(value: Any, count: int, name: str) -> tuple[float, ...]:
    numbers = value if isinstance(value, list) else [value]
    good = all(isinstance(item, int | float) and not isinstance(item, bool) and math.isfinite(item) for item in numbers)
    if len(numbers) != count or not good:
        raise ValueError(f"'{name}' is {value!r}, not {count} number{'s' * (count > 1)}")
    return tuple(float(item) for item in numbers)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
