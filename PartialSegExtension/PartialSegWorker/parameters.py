"""What each request may say, checked before any work. The client builds these, the worker reads them.

Paths are texts, because they travel as JSON; the worker reads and writes them itself, so a path is as
good as a file in the client's private folder. Imports no torch.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from types import NoneType
from typing import Any, Self

from PartialSegWorker.errors import ProtocolError
from PartialSegWorker.protocol import Call, Message

_KINDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", list: "a list"}


@dataclass(frozen=True)
class Parameters:
    """Base of the parameters of a request: reads them from a message, and makes one of them."""

    @classmethod
    def of(cls, call: Call) -> Self:
        """Return the parameters of a request.

        Raises
        ------
        ProtocolError
            When one is missing, unknown, or of another type than it should be.
        """
        known = {field.name: field for field in fields(cls)}
        for name in call.parameters:
            if name not in known:
                raise ProtocolError(
                    f"'{call.name}' knows no parameter '{name}'.", f"Known: {', '.join(known) or 'none'}."
                )
        for name, field in known.items():
            if name not in call.parameters and field.default is MISSING:
                raise ProtocolError(f"'{call.name}' needs the parameter '{name}'.", "Pass it.")
        try:
            return cls(**call.parameters)
        except ValueError as error:
            raise ProtocolError(f"A parameter of '{call.name}' is wrong: {error}.", "Correct it.") from error

    def to_message(self) -> Message:
        """Return the parameters as JSON, without those that are left at ``None``."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def _check(self, name: str, *kinds: type) -> None:
        value = getattr(self, name)
        # A bool is an int in Python, but no number to a user.
        if type(value) not in kinds:
            wanted = " or ".join(_KINDS[kind] for kind in kinds if kind is not NoneType)
            raise ValueError(f"'{name}' is {value!r}, not {wanted}")

    def _check_list(self, name: str, *kinds: type) -> None:
        """Allow ``None``, or a list (or tuple) whose items are of one of `kinds`."""
        value: Any = getattr(self, name)
        if value is not None and (
            not isinstance(value, (list, tuple)) or not all(type(item) in kinds for item in value)
        ):
            raise ValueError(f"'{name}' is {value!r}, not a list in which each is {_KINDS[kinds[0]]}")


@dataclass(frozen=True)
class HelloParameters(Parameters):
    """Who calls.

    Parameters
    ----------
    protocol : int
        Version that the client speaks.
    """

    protocol: int

    def __post_init__(self) -> None:
        self._check("protocol", int)


@dataclass(frozen=True)
class CancelParameters(Parameters):
    """What is to be stopped.

    Parameters
    ----------
    id : int, optional
        Which request; all that have no result yet, without it.
    """

    id: int | None = None

    def __post_init__(self) -> None:
        self._check("id", int, NoneType)


@dataclass(frozen=True)
class NoParameters(Parameters):
    """Parameters of requests that take none."""


@dataclass(frozen=True)
class ForecastParameters(Parameters):
    """Which run is to be forecast.

    Parameters
    ----------
    image : str
        Path of the image: any that :func:`PartialSegLib.images.read_image` reads.
    model : str, optional
        Name or folder of a model; the default one without it.
    tasks : list of str, optional
        Task or structure keys; all without it.
    preset : str
        ``fast``, ``standard`` or ``paper``.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:1`` ...
    series : str, optional
        Which series of a DICOM folder.
    region : list of float, optional
        Only this part, in LPS millimetres: x from, x to, y from, y to, z from, z to.
    """

    image: str
    model: str | None = None
    tasks: list[str] | None = None
    preset: str = "standard"
    device: str = "auto"
    series: str | None = None
    region: list[float] | None = None

    def __post_init__(self) -> None:
        self._check_region()
        for name in ("image", "preset", "device"):
            self._check(name, str)
        for name in ("model", "series"):
            self._check(name, str, NoneType)
        self._check_list("tasks", str)

    def _check_region(self) -> None:
        """Allow ``None``, or six numbers."""
        self._check_list("region", float, int)
        region: list[float] | None = getattr(self, "region", None)
        if region is not None and len(region) != 6:
            raise ValueError(f"'region' has {len(region)} numbers, not 6")


@dataclass(frozen=True, kw_only=True)
class SegmentParameters(ForecastParameters):
    """What is to be segmented, and where the result goes.

    Parameters
    ----------
    output : str
        Path of the segmentation to write, ``NAME.seg.nrrd``; its folder exists.
    uncertainty : str, optional
        Path of an image to write: mean binary entropy of the chosen structures, in bits.
    partial : bool
        Whether each of several tasks is told as soon as its structures change no more, by a ``partial``
        event with a file of its own beside `output`.
    preview : float, optional
        Seconds after which voxels that were found are told, by ``preview`` events with files of their own
        beside `output`; without it they are not.
    """

    output: str
    uncertainty: str | None = None
    partial: bool = False
    preview: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("output", str)
        self._check("uncertainty", str, NoneType)
        self._check("partial", bool)
        self._check("preview", float, int, NoneType)
        if not self.output.lower().endswith(".seg.nrrd"):
            raise ValueError(f"'output' is {self.output!r}, not the name of a .seg.nrrd file")


@dataclass(frozen=True, kw_only=True)
class UncertaintyParameters(ForecastParameters):
    """Of which structures the uncertainty is asked for, and where the image of it goes.

    Parameters
    ----------
    output : str
        Path of an image to write: mean binary entropy of the chosen structures, in bits.
    """

    output: str

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("output", str)
