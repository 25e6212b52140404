"""What the worker keeps in memory, and the work of each request that looks at images.

One model stays loaded, one image stays read, and the features of its windows are kept for the next
task, until others are asked for or :meth:`Engine.unload` frees them. Called by the server, in its main
thread only; but :meth:`Engine.models` touches nothing of all this, and may be called by any. The
library's heavy rooms are imported by the first request that needs them, so that a worker answers before
torch is loaded, and so that a Python in which torch is broken can say so.
"""

from __future__ import annotations

import gc
import importlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from PartialSegLib import catalog, downloads
from PartialSegLib.commands.models import describe_download, describe_model
from PartialSegLib.progress import Monitor
from PartialSegWorker.answers import found, parts, preview, write
from PartialSegWorker.errors import InstallationError
from PartialSegWorker.parameters import ForecastParameters, SegmentParameters, UncertaintyParameters
from PartialSegWorker.protocol import Message

if TYPE_CHECKING:
    from PartialSegLib.bundle import ModelBundle
    from PartialSegLib.images import Image
    from PartialSegLib.inference import Predictor
    from PartialSegLib.inference.featurecache import FeatureCache

#: Packages that a run needs, each loaded before the next so that the broken one is named.
_PACKAGES = ("numpy", "SimpleITK", "psutil", "scipy.ndimage", "cc3d", "safetensors", "torch")


@dataclass(frozen=True)
class _Loaded:
    """A predictor, and what it was made for."""

    key: tuple[str, str, str]
    predictor: Predictor


@dataclass(frozen=True)
class _Read:
    """An image, and the state of the file that it was read from."""

    key: tuple[str, str | None, int, int]
    image: Image


class Engine:
    """The loaded model, the image that was read last with its features, and what can be done with them.

    Parameters
    ----------
    folder : Path, optional
        Where features are put for which main memory has no room; the folder for temporary files by
        default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder and folder / "features"
        if self._folder is not None:
            # A worker that was killed left them; this one has taken its place.
            shutil.rmtree(self._folder, ignore_errors=True)
        self._loaded: _Loaded | None = None
        self._read: _Read | None = None
        self._cache: FeatureCache | None = None
        #: Which image the features belong to.
        self._source: tuple[str, str | None] | None = None

    def models(self) -> Message:
        """Return the installed and the bundled models, and those that can be downloaded. Imports no torch."""
        return {
            "model_folder": str(catalog.model_folder()),
            "models": [describe_model(entry) for entry in catalog.models()],
            "downloads": [describe_download(entry) for entry in downloads.available()],
        }

    def devices(self) -> Message:
        """Return the devices that a run can use, with their names and their memory in bytes.

        Raises
        ------
        InstallationError
            When torch cannot be loaded: so this is also the check of an installation.
        """
        _inference()
        import torch

        from PartialSegLib.inference.planner import free_memory

        found = [{"key": "cpu", "name": "CPU", "free_bytes": free_memory(torch.device("cpu"))}]
        for index in range(torch.cuda.device_count()):
            device = torch.device("cuda", index)
            name = torch.cuda.get_device_name(device)
            found.append({"key": str(device), "name": name, "free_bytes": free_memory(device)})
        return {"torch": torch.__version__, "devices": found}

    def forecast(self, wanted: ForecastParameters, monitor: Monitor) -> Message:
        """Return the memory and time that a run would take, and how it would be run."""
        bundle = catalog.find(wanted.model)
        bundle.card.label_space.select(wanted.tasks)
        image = self._image(wanted, monitor)
        predictor = self._predictor(bundle, wanted.device, monitor)
        expected = predictor.forecast(image, wanted.tasks, wanted.preset, region=_region(wanted.region))
        return {"wanted_device": str(predictor.device)} | expected.to_json()

    def segment(
        self,
        wanted: SegmentParameters,
        monitor: Monitor,
        emit: Callable[[str, Message], object] = lambda event, fields: None,
    ) -> Message:
        """Segment an image and write the masks.

        Parameters
        ----------
        wanted : SegmentParameters
            What, and where to.
        monitor : Monitor
            Progress and cancellation.
        emit : callable
            Called with ``preview`` and its fields while voxels are found, and with ``partial`` and its fields
            after each of several tasks, where that is wanted.

        Returns
        -------
        dict
            ``output`` and ``uncertainty`` (the files that were written; ``None`` without one),
            ``structures`` (key, name, voxels and volume in ml, in the order of the file) and ``report``.

        Raises
        ------
        PartialSegError
            Whatever the library raises; what is wrong with the request before any long work.
        """
        _inference()
        from PartialSegLib.segmentationfiles import check_target

        check_target(wanted.output)
        _check_image_target(wanted.uncertainty)
        bundle = catalog.find(wanted.model)
        structures = bundle.card.label_space.select(wanted.tasks)
        tasks = {bundle.card.label_space.task_of(key).key for key in structures}
        image = self._image(wanted, monitor)
        result = self._predictor(bundle, wanted.device, monitor).segment(
            image,
            wanted.tasks,
            wanted.preset,
            region=_region(wanted.region),
            uncertainty=wanted.uncertainty is not None,
            monitor=monitor,
            cache=self._features(),
            slab=preview(wanted, emit) if wanted.preview is not None else None,
            finished=parts(wanted, emit) if wanted.partial and len(tasks) > 1 else None,
        )
        monitor.step("write", 0, 1)
        write(result, wanted)
        return {
            "output": wanted.output,
            "uncertainty": wanted.uncertainty,
            "structures": found(result.segmentation),
            "report": result.report,
        }

    def uncertainty(self, wanted: UncertaintyParameters, monitor: Monitor) -> Message:
        """Measure how sure the model is of structures, and write it as an image; no mask is written.

        After a run on the same image it takes no more than another task does.

        Returns
        -------
        dict
            ``output``, ``structures`` (key, name, and mean uncertainty inside its mask, in bits) and
            ``report``.

        Raises
        ------
        PartialSegError
            As :meth:`segment`.
        """
        _inference()
        from PartialSegLib.images import write_image

        _check_image_target(wanted.output)
        bundle = catalog.find(wanted.model)
        bundle.card.label_space.select(wanted.tasks)
        image = self._image(wanted, monitor)
        predictor = self._predictor(bundle, wanted.device, monitor)
        result = predictor.segment(
            image,
            wanted.tasks,
            wanted.preset,
            region=_region(wanted.region),
            uncertainty=True,
            monitor=monitor,
            cache=self._features(),
        )
        assert result.uncertainty is not None
        monitor.step("write", 0, 1)
        write_image(result.uncertainty, wanted.output)
        measured = result.report["uncertainty"]
        told = [
            {"key": item.key, "name": item.name, "uncertainty": measured[item.key]}
            for item in result.segmentation.structures
        ]
        return {"output": wanted.output, "structures": told, "report": result.report}

    def unload(self) -> Message:
        """Free the model, the image and its features, and the memory of the GPU."""
        self._loaded = self._read = self._source = None
        self._forget_features()
        _free()
        return {}

    def _features(self) -> FeatureCache:
        from PartialSegLib.inference.featurecache import FeatureCache

        if self._cache is None:
            self._cache = FeatureCache(folder=self._folder)
        return self._cache

    def _forget_features(self) -> None:
        if self._cache is not None:
            self._cache.clear()
        # The next one looks anew how much memory and disk space are free.
        self._cache = None

    def _image(self, wanted: ForecastParameters, monitor: Monitor) -> Image:
        """Return the image, read again only when its file is another one than before."""
        from PartialSegLib.images import read_image

        monitor.step("read", 0, 1)
        source = (str(Path(wanted.image).absolute()), wanted.series)
        if source != self._source:
            # They are found by what the image contains, so an old one does no harm; but it takes room.
            self._forget_features()
        self._source = source
        key = _file_key(wanted)
        if self._read is not None and self._read.key == key:
            return self._read.image
        # The older image is gone before the next one needs its memory.
        self._read = None
        image = read_image(wanted.image, wanted.series)
        if key is not None:
            self._read = _Read(key, image)
        return image

    def _predictor(self, bundle: ModelBundle, device: str, monitor: Monitor) -> Predictor:
        """Return the predictor of a model on a device, loaded only when it is another one than before."""
        monitor.step("load", 0, 1)
        key = (str(bundle.folder), bundle.card.weights["sha256"], device)
        if self._loaded is None or self._loaded.key != key:
            inference = _inference()
            self._loaded = None
            self._forget_features()
            _free()
            self._loaded = _Loaded(key, inference.Predictor(bundle, device))
        # Another card for the same weights (its figures, say) is no other model.
        return self._loaded.predictor


def _inference() -> ModuleType:
    """Import torch and the inference, and say so when this Python cannot.

    Raises
    ------
    InstallationError
        With the reason, whatever the import raised.
    """
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except Exception as error:
            # A damaged package can raise anything: a missing DLL is an OSError, a wrong NumPy an AttributeError.
            broken = error.name if isinstance(error, ModuleNotFoundError) else name
            raise InstallationError(
                f"The package '{broken}' cannot be loaded by {sys.executable}: {error}.",
                "Install or repair PyTorch and the packages of PartialSeg for this Python.",
            ) from error
    from PartialSegLib.inference import predictor

    return predictor


def _free() -> None:
    """Give memory back that belonged to a model or an image which is gone."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None:
        return
    from PartialSegLib.inference.allocation import give_back

    give_back()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _file_key(wanted: ForecastParameters) -> tuple[str, str | None, int, int] | None:
    """Return what tells one state of an image file from another; ``None`` for a folder, whose files may change."""
    path = Path(wanted.image)
    if not path.is_file():
        return None
    state = path.stat()
    return str(path.absolute()), wanted.series, state.st_size, state.st_mtime_ns


def _region(numbers: list[float] | None) -> tuple[float, float, float, float, float, float] | None:
    if numbers is None:
        return None
    x0, x1, y0, y1, z0, z1 = (float(number) for number in numbers)
    return x0, x1, y0, y1, z0, z1


def _check_image_target(path: str | None) -> None:
    """Refuse, before the run, a name of the uncertainty map that could not be written after it."""
    from PartialSegLib.errors import ImageError
    from PartialSegLib.images import WRITABLE

    if path is None:
        return
    if not path.lower().endswith(WRITABLE):
        raise ImageError(f"Images cannot be written as '{path}'.", f"Use {', '.join(WRITABLE)}.")
    if not Path(path).parent.is_dir():
        raise ImageError(f"There is no folder '{Path(path).parent}' for the uncertainty.", "Make it first.")
