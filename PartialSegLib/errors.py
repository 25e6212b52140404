"""The errors of the library: what went wrong, with which file or value, and what to do.

Everything that a user can cause or mend is raised as a :class:`PartialSegError`. The command
line prints its message and hint in one line each and leaves with :attr:`~PartialSegError.exit_code`;
the Slicer worker sends :attr:`~PartialSegError.code`, message and hint over its pipe.
"""

from __future__ import annotations


class PartialSegError(Exception):
    """A problem that the user can understand and mend.

    Parameters
    ----------
    message : str
        One sentence that names the file and the value.
    hint : str, optional
        What to do about it, as a sentence.
    """

    #: Stable machine-readable name of the kind of error.
    code = "error"
    #: Exit status of the command line.
    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class ImageError(PartialSegError):
    """An image file that cannot be read, or that is no 3D scalar volume."""

    code = "image"
    exit_code = 3


class SegmentationError(PartialSegError):
    """A segmentation that cannot be read, written or combined."""

    code = "segmentation"
    exit_code = 4


class LabelSpaceError(PartialSegError):
    """An unknown structure or task, or a label space that contradicts itself."""

    code = "label-space"
    exit_code = 5


class BundleError(PartialSegError):
    """A model folder that is missing, damaged, of an unknown version, or does not fit its network."""

    code = "bundle"
    exit_code = 6


class MemoryForecastError(PartialSegError):
    """A run that fits on no device even after every fall-back of the planner."""

    code = "memory"
    exit_code = 7


class CollectionError(PartialSegError):
    """A training collection, case or recipe that cannot be used."""

    code = "collection"
    exit_code = 8


class DownloadError(PartialSegError):
    """A model that cannot be downloaded: unknown, offline, refused, damaged, or no room for it."""

    code = "download"
    exit_code = 10


class LicenseError(DownloadError):
    """A model whose license the user has not accepted."""

    code = "license"


class CancelledError(PartialSegError):
    """The user stopped the work; nothing was written."""

    code = "cancelled"
    exit_code = 130


class MissingExtraError(PartialSegError):
    """Work that needs an optional package which is not installed.

    Parameters
    ----------
    purpose : str
        What was asked for, as the beginning of a sentence (``"Surface distances"``).
    extra : str
        Extra of the distribution ``partialseg`` that brings the packages.
    """

    code = "missing-extra"
    exit_code = 9

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(
            f"{purpose} need an optional package that is not installed.",
            f'Install it with: pip install "partialseg[{extra}]".',
        )
