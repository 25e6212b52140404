"""What the worker keeps in memory from one request to the next, and what it refuses before any work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from worker_cases import blobs

from bundles import random_bundle
from PartialSegLib import images
from PartialSegLib.errors import BundleError, CancelledError, ImageError, LabelSpaceError, SegmentationError
from PartialSegLib.images import write_image
from PartialSegLib.inference import extractors, predictor
from PartialSegLib.progress import Monitor
from PartialSegWorker.engine import Engine
from PartialSegWorker.parameters import ForecastParameters, SegmentParameters


@pytest.fixture(autouse=True)
def _plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling a network takes longer than running these tests."""
    monkeypatch.setattr(extractors, "openvino_installed", lambda: False)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count how often a model is loaded and an image is read."""
    counts = {"model": 0, "image": 0}
    load, read = predictor.ModelBundle.load_network, images.read_image

    def loading(*arguments, **names):
        counts["model"] += 1
        return load(*arguments, **names)

    def reading(*arguments, **names):
        counts["image"] += 1
        return read(*arguments, **names)

    monkeypatch.setattr(predictor.ModelBundle, "load_network", loading)
    monkeypatch.setattr(images, "read_image", reading)
    return counts


def wanted(image: Path, model: Path, output: Path, **more) -> SegmentParameters:
    names = {"tasks": ["liver"], "device": "cpu"} | more
    return SegmentParameters(str(image), str(model), output=str(output / "result.seg.nrrd"), **names)


def test_model_and_image_are_read_once_for_many_requests(
    loads: dict[str, int], random_model: Path, scan: Path, tmp_path: Path
) -> None:
    engine = Engine()
    engine.forecast(ForecastParameters(str(scan), str(random_model), device="cpu"), Monitor())
    engine.segment(wanted(scan, random_model, tmp_path), Monitor())
    engine.segment(wanted(scan, random_model, tmp_path, tasks=["kidney"]), Monitor())
    assert loads == {"model": 1, "image": 1}


def test_a_file_that_was_written_again_is_read_again(loads: dict[str, int], random_model: Path, tmp_path: Path) -> None:
    image, engine = tmp_path / "scan.nrrd", Engine()
    told = []
    for size in (40, 56):
        write_image(blobs((32, 48, size)), image)
        told.append(engine.forecast(ForecastParameters(str(image), str(random_model), device="cpu"), Monitor()))
    assert loads == {"model": 1, "image": 2}
    assert told[0]["windows"] < told[1]["windows"]


def test_another_model_takes_the_place_of_the_first(loads: dict[str, int], scan: Path, tmp_path: Path) -> None:
    engine = Engine()
    for name in ("first", "second", "first"):
        model = tmp_path / name
        if not model.exists():
            random_bundle(model)
        engine.forecast(ForecastParameters(str(scan), str(model), device="cpu"), Monitor())
    assert loads == {"model": 3, "image": 1}


def test_unload_frees_model_and_image(loads: dict[str, int], random_model: Path, scan: Path) -> None:
    engine = Engine()
    for _ in range(2):
        engine.forecast(ForecastParameters(str(scan), str(random_model), device="cpu"), Monitor())
        assert engine.unload() == {}
    assert loads == {"model": 2, "image": 2}
    assert not [name for name, item in vars(engine).items() if item is not None]


def test_every_device_is_listed_with_its_free_memory() -> None:
    told = Engine().devices()
    assert told["torch"] == torch.__version__
    assert told["devices"][0]["key"] == "cpu"
    assert len(told["devices"]) == 1 + torch.cuda.device_count()
    assert all(device["free_bytes"] > 0 and device["name"] for device in told["devices"])


def test_the_list_of_models_has_the_bundled_one_with_its_tasks() -> None:
    told = Engine().models()
    bundled = next(model for model in told["models"] if model["origin"] == "bundled")
    assert "liver" in [task["key"] for task in bundled["tasks"]]
    assert bundled["license"]
    assert {"name", "license", "installed"} <= set(told["downloads"][0])


def test_a_forecast_tells_memory_time_and_device(random_model: Path, scan: Path) -> None:
    told = Engine().forecast(ForecastParameters(str(scan), str(random_model), ["liver"], device="cpu"), Monitor())
    assert told["device"] == "cpu"
    assert told["windows"] > 1
    assert told["seconds"] >= 0
    assert told["host_bytes"] > 0


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"tasks": ["brain"]}, LabelSpaceError),
        ({"output": "{folder}/missing/result.seg.nrrd"}, SegmentationError),
        ({"uncertainty": "{folder}/map.jpg"}, ImageError),
        ({"uncertainty": "{folder}/missing/map.nrrd"}, ImageError),
        ({"model": "{folder}"}, BundleError),
    ],
)
def test_what_is_wrong_with_a_request_is_found_before_anything_is_loaded(
    more: dict, error: type[Exception], loads: dict[str, int], random_model: Path, scan: Path, tmp_path: Path
) -> None:
    names = {"image": str(scan), "model": str(random_model), "output": str(tmp_path / "result.seg.nrrd")}
    more = {key: value.format(folder=tmp_path) if isinstance(value, str) else value for key, value in more.items()}
    with pytest.raises(error):
        Engine().segment(SegmentParameters(**names | more), Monitor())
    assert loads == {"model": 0, "image": 0}


def test_a_cancelled_run_stops_before_the_model_is_loaded_and_writes_nothing(
    loads: dict[str, int], random_model: Path, scan: Path, tmp_path: Path
) -> None:
    monitor = Monitor()
    monitor.cancel()
    with pytest.raises(CancelledError):
        Engine().segment(wanted(scan, random_model, tmp_path), monitor)
    assert loads["model"] == 0
    assert os.listdir(tmp_path) == []
