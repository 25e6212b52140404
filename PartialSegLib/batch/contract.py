"""What a batch is made of: a job, its scans, what became of each, and whoever works on them.

Everything here crosses the borders of processes and machines, so it holds plain values only. Imports
no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from PartialSegLib.bundle import ModelBundle
from PartialSegLib.errors import PartialSegError

#: Endings of what is written, by the name of the format; masks are a folder of NIfTI files.
FORMATS = {"seg.nrrd": ".seg.nrrd", "dcm": ".dcm", "masks": ""}


#: Parts of a card that decide what becomes of an image, beside its weights.
_DECIDING = ("preprocessing", "label_space", "window", "window_steps", "mirror_axes")


class BatchError(PartialSegError):
    """A batch that cannot be started, or scans of it that could not be segmented."""

    code = "batch"


class WorkerLostError(BatchError):
    """The process that worked on a scan died; its scan can be given to another one."""

    code = "worker-lost"


@dataclass(frozen=True)
class Scan:
    """One scan of a batch.

    Parameters
    ----------
    name : str
        Unique in the batch; names the result.
    path : Path
        Image file, or folder of a DICOM series.
    """

    name: str
    path: Path


@dataclass(frozen=True)
class BatchJob:
    """What is done to every scan.

    Parameters
    ----------
    model : Path
        Folder of the model.
    weights : str
        SHA-256 of its weights, and of what its card says of images and masks.
    output : Path
        Folder of the results.
    structures : tuple of str
        Keys of the structures.
    preset : str
        As of :meth:`PartialSegLib.inference.Predictor.segment`.
    device : str
        As of the predictor.
    format : str
        Key of :data:`FORMATS`.
    threads : int, optional
        CPU threads of each worker; by default the cores are divided among the workers of a machine.
    """

    model: Path
    weights: str
    output: Path
    structures: tuple[str, ...]
    preset: str = "standard"
    device: str = "auto"
    format: str = "seg.nrrd"
    threads: int | None = None

    @classmethod
    def of(cls, bundle: ModelBundle, output: str | Path, structures: Sequence[str], **options: Any) -> BatchJob:
        """Return the job of a model; `options` are the other fields."""
        card = bundle.card.to_json()
        deciding = [card["weights"]["sha256"], *(card[part] for part in _DECIDING)]
        weights = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
        folder = bundle.folder.resolve()
        return cls(folder, weights, Path(output).resolve(), tuple(structures), **options)

    @property
    def digest(self) -> str:
        """Fingerprint of what decides a result: device and threads do not."""
        deciding = {
            "weights": self.weights,
            "structures": self.structures,
            "preset": self.preset,
            "format": self.format,
        }
        return hashlib.blake2b(json.dumps(deciding).encode(), digest_size=12).hexdigest()

    def divided(self, workers: int) -> BatchJob:
        """Return the job of each of several workers on this machine."""
        return self if self.threads else replace(self, threads=max(1, (os.cpu_count() or 1) // workers))

    def target(self, scan: Scan) -> Path:
        """Return where the segmentation of a scan is written."""
        return self.output / f"{scan.name}{FORMATS[self.format]}"


@dataclass(frozen=True)
class Outcome:
    """What became of a scan.

    Parameters
    ----------
    scan : str
        Its name.
    image : str
        Its file or folder.
    done : bool
        Whether its segmentation was written.
    output : str
        What was written.
    seconds : float
        That it took.
    volumes_ml : mapping of str to float
        Volume of each structure in milliliters.
    code, message : str
        Of the error, where there was one.
    earlier : bool
        Whether an earlier run had done it.
    """

    scan: str
    image: str
    done: bool
    output: str = ""
    seconds: float = 0.0
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    code: str = ""
    message: str = ""
    earlier: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def failed(cls, scan: Scan, code: str, message: str, seconds: float = 0.0) -> Outcome:
        """Return that a scan could not be segmented."""
        return cls(scan.name, str(scan.path), False, seconds=seconds, code=code, message=message)


#: Works on one scan: :func:`PartialSegLib.batch.work.segment_scan`, which every process can import.
Work = Callable[[BatchJob, Scan], Outcome]


class Engine(Protocol):
    """Whoever works on scans: processes of this machine, or of a cluster."""

    @property
    def workers(self) -> int:
        """How many scans are worked on at once; so many are worth submitting at a time."""

    def submit(self, scan: Scan) -> Future[Outcome]:
        """Have a scan segmented.

        The future gives what became of it, or raises WorkerLostError when the process that worked on
        it died.
        """

    def close(self) -> None:
        """End the workers; what they are working on is given up, and leaves nothing half-written."""

    def __enter__(self) -> Engine:
        """Return itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
