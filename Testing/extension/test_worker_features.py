"""The second question about an image: what the worker keeps for it, what it tells on the way, and when it forgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_cases import PATIENCE, blobs, segment

from bundles import random_bundle
from PartialSegLib.bundle import ModelBundle
from PartialSegLib.images import read_image, write_image
from PartialSegLib.inference import extractors, featurecache
from PartialSegLib.postprocessing import apply_rules
from PartialSegLib.progress import Monitor
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentationfiles import read_segmentation
from PartialSegWorker import SegmentParameters, WorkerClient
from PartialSegWorker.engine import Engine
from PartialSegWorker.parameters import UncertaintyParameters

WINDOW = (16, 32, 32)


@pytest.fixture(autouse=True)
def _plain_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling a network takes longer than running these tests."""
    monkeypatch.setattr(extractors, "openvino_installed", lambda: False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("models") / "small", window=WINDOW).folder


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scans") / "small.nrrd"
    write_image(blobs((20, 40, 44)), path)
    return path


def wanted(image: Path, model: Path, folder: Path, **more: Any) -> SegmentParameters:
    names = {"tasks": ["liver"], "device": "cpu", "output": str(folder / "result.seg.nrrd")} | more
    return SegmentParameters(str(image), str(model), **names)


def reused(told: dict[str, Any]) -> int:
    """Return how many windows came from the cache; 0 or all of them."""
    found, windows = told["report"]["windows_from_cache"], told["report"]["windows"]
    assert windows > 1
    assert found in (0, windows)
    return int(found)


# ---- the second task


def test_a_second_task_is_answered_from_the_features_of_the_first(image: Path, model: Path, tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    assert not reused(engine.segment(wanted(image, model, tmp_path), Monitor()))
    told = engine.segment(wanted(image, model, tmp_path, tasks=["kidney", "spleen"]), Monitor())
    assert reused(told)
    again = Engine(tmp_path).segment(
        wanted(image, model, tmp_path, tasks=["kidney", "spleen"], output=str(tmp_path / "alone.seg.nrrd")), Monitor()
    )
    assert not reused(again)
    found, expected = read_segmentation(told["output"]), read_segmentation(again["output"])
    for key in expected.keys:
        np.testing.assert_array_equal(found.array(key), expected.array(key))


def test_uncertainty_of_a_segmented_image_needs_no_window(image: Path, model: Path, tmp_path: Path) -> None:
    engine, output = Engine(tmp_path), str(tmp_path / "uncertainty.nrrd")
    engine.segment(wanted(image, model, tmp_path), Monitor())
    told = engine.uncertainty(
        UncertaintyParameters(str(image), str(model), ["liver"], device="cpu", output=output), Monitor()
    )
    assert reused(told)
    assert [item["key"] for item in told["structures"]] == ["liver", "liver_tumor"]
    assert all(0 <= item["uncertainty"] <= 1 for item in told["structures"])
    values = read_image(output).voxels
    assert values.shape == read_image(image).voxels.shape
    assert 0 <= values.min() < values.max() <= 1


@pytest.mark.parametrize("other", ["image", "model", "unload"])
def test_features_are_forgotten_with_image_and_model(image: Path, model: Path, tmp_path: Path, other: str) -> None:
    engine = Engine(tmp_path)
    engine.segment(wanted(image, model, tmp_path), Monitor())
    if other == "image":
        copy = tmp_path / "copy.nrrd"
        copy.write_bytes(image.read_bytes())
        engine.segment(wanted(copy, model, tmp_path), Monitor())
    elif other == "model":
        engine.segment(wanted(image, random_bundle(tmp_path / "other", window=WINDOW).folder, tmp_path), Monitor())
    else:
        engine.unload()
    assert not reused(engine.segment(wanted(image, model, tmp_path), Monitor()))


def test_features_on_disk_lie_in_the_private_folder_and_go_with_unload(
    image: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "private"
    private.mkdir()
    # A quarter of this holds the features of two windows.
    monkeypatch.setattr(featurecache, "free_memory", lambda device: 4 * 2 * 4 * 8 * 16 * 32 * 32)
    engine = Engine(private)
    engine.segment(wanted(image, model, tmp_path), Monitor())
    assert [*private.rglob("*.features")]
    assert reused(engine.segment(wanted(image, model, tmp_path, tasks=["spleen"]), Monitor()))
    engine.unload()
    assert not [*private.rglob("*.features")]


def test_features_of_a_worker_that_was_killed_are_removed_by_the_next(
    image: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(featurecache, "free_memory", lambda device: 0)
    (tmp_path / "scan.nrrd").touch()
    killed = Engine(tmp_path)
    killed.segment(wanted(image, model, tmp_path), Monitor())
    assert [*tmp_path.rglob("*.features")]
    Engine(tmp_path)
    assert not [*tmp_path.rglob("*.features")]
    assert (tmp_path / "scan.nrrd").exists()
    # Whoever looked for them computes them again.
    assert not reused(killed.segment(wanted(image, model, tmp_path), Monitor()))


# ---- parts of a result


def test_each_of_several_tasks_is_told_when_it_is_finished(client: WorkerClient, image: Path, model: Path) -> None:
    events: list[dict[str, Any]] = []
    parameters = segment(client, image, model, tasks=["spleen", "liver"], partial=True)
    told = client.wait(client.request("segment", parameters, listener=events.append), PATIENCE)
    assert [(event["event"], event["task"]) for event in events] == [("partial", "liver"), ("partial", "spleen")]
    whole = read_segmentation(told["output"])
    parts = [read_segmentation(event["output"]) for event in events]
    assert [key for part in parts for key in part.keys] == ["liver", "liver_tumor", "spleen"]
    lattice = read_image(image).geometry
    for part in parts:
        for key in part.keys:
            np.testing.assert_array_equal(part.on(lattice).array(key), whole.on(lattice).array(key))
    assert [item for event in events for item in event["structures"]] == sorted(
        told["structures"], key=lambda item: [key for part in parts for key in part.keys].index(item["key"])
    )


def test_a_single_task_comes_as_a_whole(client: WorkerClient, image: Path, model: Path) -> None:
    events: list[dict[str, Any]] = []
    parameters = segment(client, image, model, partial=True)
    client.wait(client.request("segment", parameters, listener=events.append), PATIENCE)
    assert events == []


def test_voxels_are_told_as_they_are_found_and_inside_of_the_region_only(
    image: Path, model: Path, tmp_path: Path
) -> None:
    geometry = read_image(image).geometry
    low, high = geometry.affine @ [8, 8, 2, 1], geometry.affine @ [36, 32, 18, 1]
    region = [float(value) for pair in zip(low[:3], high[:3], strict=True) for value in sorted(pair)]
    told: list[Segmentation] = []

    def emit(event: str, fields: dict[str, Any]) -> None:
        assert event == "preview"
        told.append(read_segmentation(fields["output"], geometry=geometry))

    request = wanted(image, model, tmp_path, tasks=None, preview=0.0, region=region)
    Engine().segment(request, Monitor(), emit)
    assert len(told) > 1
    inside = np.zeros(geometry.shape, bool)
    inside[2:19, 8:33, 8:37] = True
    # Slabs share no voxel, and only what was found is told.
    assert all(slab.masks[key].count for slab in told for key in slab.keys)
    whole = read_segmentation(request.output, geometry=geometry)
    joined = {key: np.zeros(geometry.shape, int) for key in whole.keys}
    for slab in told:
        for key in slab.keys:
            joined[key] += slab.array(key)
    assert max(array.max() for array in joined.values()) == 1
    found = Segmentation.from_arrays(geometry, whole.structures, joined)
    mended = apply_rules(found, ModelBundle.open(model).card.label_space)
    for key in whole.keys:
        assert not (found.array(key) & ~inside).any()
        np.testing.assert_array_equal(mended.array(key), whole.array(key))


def test_voxels_are_told_only_now_and_then(image: Path, model: Path, tmp_path: Path) -> None:
    request = wanted(image, model, tmp_path, tasks=None, preview=3600.0)
    Engine().segment(request, Monitor(), lambda event, fields: pytest.fail("nobody needs to look so soon"))
    assert [file.name for file in tmp_path.iterdir()] == ["result.seg.nrrd"]
