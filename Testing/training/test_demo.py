"""The demo: from DICOM to picture and scores, with a real model of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bundles import random_bundle
from PartialSegLib.bundle import Preprocessing
from PartialSegLib.errors import CollectionError
from PartialSegLib.images import read_image
from PartialSegLib.inference import Predictor
from PartialSegLib.rendering import opengl
from PartialSegLib.segmentationfiles import read_segmentation
from PartialSegTraining.demo import Demo, run_demo

pytest.importorskip("pydicom")
pytest.importorskip("highdicom")
pytest.importorskip("surface_distance")
pytest.importorskip("vtkmodules")

SPACING = (5.0, 5.0, 10.0)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    coarse = Preprocessing((8.0, 8.0, 8.0), (-400.0, 400.0), 0.0, 400.0)
    return Predictor(random_bundle(tmp_path_factory.mktemp("models") / "random", preprocessing=coarse), "cpu")


@pytest.fixture(scope="module")
def demo(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return run_demo(predictor, tmp_path_factory.mktemp("out") / "demo", seed=5, spacing=SPACING)


def test_the_demo_leaves_every_file_that_it_names(demo: Demo) -> None:
    names = [path.name for path in demo.files]
    assert names == ["dicom", "result.seg.nrrd", "result.dcm", "picture.png", "report.json"]
    assert all(path.exists() for path in demo.files)
    assert sorted(path.name for path in demo.folder.iterdir()) == sorted(names)


def test_the_result_lies_on_the_grid_of_the_dicom_series(demo: Demo) -> None:
    image = read_image(demo.folder / "dicom")
    saved = read_segmentation(demo.folder / "result.seg.nrrd", image=image)
    as_dicom = read_segmentation(demo.folder / "result.dcm", image=image)
    assert len(saved.keys) == 11
    filled = [key for key in saved.keys if saved.masks[key].count]
    assert filled
    for key in filled:
        assert (saved.array(key) == as_dicom.array(key)).all()


def test_the_report_holds_scores_times_and_the_run(demo: Demo) -> None:
    report = json.loads((demo.folder / "report.json").read_text())
    assert set(report["seconds"]) == {"phantom", "segment", "write", "picture", "score"}
    assert len(report["scores"]["structures"]) == 11
    assert report["run"]["preset"] == "standard"
    assert demo.table is not None
    assert "Spleen" in demo.table.text()


def test_a_second_demo_replaces_the_first_one(
    demo: Demo, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The 3D view takes longest and is not the point here.
    monkeypatch.setattr(opengl, "_window_class", lambda: None)
    first = (demo.folder / "dicom" / "slice_0001.dcm").read_bytes()
    run_demo(predictor, demo.folder, seed=6, spacing=SPACING, preset="fast")
    assert (demo.folder / "dicom" / "slice_0001.dcm").read_bytes() != first
    assert json.loads((demo.folder / "report.json").read_text())["phantom_seed"] == 6


def test_a_folder_that_is_not_the_demos_own_is_left_alone(tmp_path: Path, predictor: Predictor) -> None:
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "patient.dcm").write_bytes(b"mine")
    with pytest.raises(CollectionError, match="not an empty folder"):
        run_demo(predictor, tmp_path, seed=5, spacing=SPACING)
    assert (tmp_path / "dicom" / "patient.dcm").read_bytes() == b"mine"
