"""The second task on a volume: through the worker, as the panel asks for it, with the bundled model.

The first task is asked of a worker that has loaded and compiled the model already: what is compared is
the work of a task, from the request to the written file. The volume is a synthetic patient (a phantom).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from harness import Row, interleaved
from PartialSegLib import catalog
from PartialSegLib.images import Image, write_image
from PartialSegLib.inference import Predictor
from PartialSegLib.inference.featurecache import FeatureCache
from PartialSegTraining.phantoms import generate_phantom

# The worker is no part of the installed package: it comes with Slicer's extension.
sys.path.append(str(Path(__file__).resolve().parents[2] / "PartialSegExtension"))
from PartialSegWorker import SegmentParameters, WorkerClient


def second_to_first(patient: Image, small: Image) -> Row:
    """Time two tasks, one after the other, on the same scan."""
    with WorkerClient(sys.executable) as client:
        scan, other = client.folder / "scan.nrrd", client.folder / "small.nrrd"
        write_image(patient, scan)
        write_image(small, other)
        _ask(client, other, "liver")
        first, _ = _ask(client, scan, "liver")
        again, _ = _ask(client, scan, "spleen")
        second, report = _ask(client, scan, "kidney")
    assert report["windows_from_cache"] == report["windows"]
    second = min(second, again)
    name = f"first task to second task, same scan, through the worker ({report['windows']} windows)"
    return Row.at_least(name, f"{first:.1f} s", f"{second:.2f} s", first / second, 10.0)


def filling_to_none(small: Image) -> Row:
    """Time one task with and without keeping its features."""
    predictor = Predictor(catalog.find(catalog.BUNDLED), "cpu")
    predictor.segment(small, ["liver"])

    def filling() -> None:
        with FeatureCache() as cache:
            predictor.segment(small, ["liver"], cache=cache)

    kept, plain = interleaved(filling, lambda: predictor.segment(small, ["liver"]), 3)
    return Row.at_most(
        "a task that keeps its features to one that does not", f"{kept:.2f} s", f"{plain:.2f} s", kept / plain, 1.05
    )


def _ask(client: WorkerClient, scan: Path, task: str) -> tuple[float, dict]:
    """Return the seconds of a request, and its report."""
    parameters = SegmentParameters(str(scan), tasks=[task], device="cpu", output=str(scan.with_suffix(".seg.nrrd")))
    started = time.perf_counter()
    told = client.wait(client.request("segment", parameters))
    return time.perf_counter() - started, told["report"]


def run() -> list[Row]:
    """Measure both."""
    patient = generate_phantom(11).image
    small = generate_phantom(11, show=["liver"], spacing=(3.0, 3.0, 5.0), shape=(40, 64, 64)).image
    return [second_to_first(patient, small), filling_to_none(small)]


if __name__ == "__main__":
    for row in run():
        print(row.to_json())
