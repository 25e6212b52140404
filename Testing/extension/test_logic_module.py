"""The module as Slicer loads it: what it says of itself, its parameter node, its self-test, sample data, reload."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
from host import EXTENSION, Host
from logic_cases import small_scan, spin, unexpected

from PartialSegLib.errors import PartialSegError
from PartialSegSlicer.cases import maskOnVolume
from PartialSegSlicer.logic.setup import PackageState, SetupState
from PartialSegSlicer.volumes import geometryFromVolumeNode

ALLOWED = {"SimpleITK", "numpy", "slicer", "vtk", "PartialSegLib", "PartialSegSlicer", "PartialSegWorker"}


@pytest.fixture
def module(slicer_app: Host) -> Any:
    """The module, loaded as Slicer does at its start."""
    slicer_app.load()
    return sys.modules["PartialSeg"]


def test_the_file_imports_nothing_that_slicer_lacks_when_it_is_loaded() -> None:
    tree = ast.parse((EXTENSION / "PartialSeg.py").read_text(encoding="utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    assert {name for name in names if name not in sys.stdlib_module_names} <= ALLOWED


def test_the_module_says_what_it_is_whose_methods_and_what_it_is_not_for(module: Any, slicer_app: Host) -> None:
    parent = slicer_app.slicer.modules.partialseg
    assert parent.title == "PartialSeg"
    assert parent.categories == ["Segmentation"]
    assert "not for diagnosis" in parent.helpText
    for paper in ("DoDNet", "MultiTalent", "3D U2-Net", "TGNet", "nnU-Net"):
        assert paper in parent.acknowledgementText


def test_the_choices_of_a_scene_are_kept_in_its_parameter_node(module: Any, slicer_app: Host) -> None:
    logic = module.PartialSegLogic()
    chosen = logic.getParameterNode()
    assert (chosen.device, chosen.quality, chosen.overlap, list(chosen.tasks)) == ("auto", "standard", "keep", [])
    volume = slicer_app.mrml.add_volume(small_scan())
    chosen.inputVolume, chosen.tasks, chosen.uncertainty = volume, ["liver", "spleen"], True
    again = module.PartialSegLogic().getParameterNode()
    assert again.inputVolume is volume
    assert list(again.tasks) == ["liver", "spleen"]
    assert again.uncertainty is True


def test_copied_code_does_what_the_panel_would_do(
    module: Any, slicer_app: Host, random_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logic = module.PartialSegLogic()
    chosen = logic.getParameterNode()
    chosen.inputVolume = slicer_app.mrml.add_volume(small_scan(), 'CT *[1]\' "é"')
    chosen.outputSegmentation = slicer_app.mrml.add_segmentation(chosen.inputVolume, "Befund")
    chosen.tasks, chosen.model, chosen.device = ["liver"], str(random_model), "cpu"
    code = logic.copyAsPython(chosen)
    assert "quality" not in code
    exec(compile(code, "console", "exec"), {"slicer": slicer_app.slicer})
    printed = capsys.readouterr().out
    assert printed.startswith("Liver: ")
    node = chosen.outputSegmentation
    expected = logic.segment(chosen.inputVolume, tasks=["liver"], model=str(random_model), device="cpu").structures
    logic.close()
    geometry = geometryFromVolumeNode(chosen.inputVolume)
    assert {row.key: maskOnVolume(node, row.key, geometry).count for row in expected} == {
        row.key: row.voxels for row in expected
    }


def test_the_self_test_passes_as_slicer_runs_it(module: Any, slicer_app: Host) -> None:
    slicer_app.slicer.selfTests["PartialSeg"]()
    assert slicer_app.slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_the_self_test_says_what_it_skips_where_packages_are_missing(
    module: Any, slicer_app: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = PackageState("torch", "torch>=2.6", "", "not installed")
    bare = SetupState("PythonSlicer", True, "3.12.10", (missing,))
    said: list[str] = []
    monkeypatch.setattr(module.PartialSegLogic, "setupState", lambda logic: bare)
    monkeypatch.setattr(module.PartialSegTest, "delayDisplay", lambda test, message, *_: said.append(message))
    slicer_app.slicer.selfTests["PartialSeg"]()
    assert "torch (not installed)" in said[-1]
    assert slicer_app.slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1


def test_sample_data_offers_a_phantom_that_is_drawn_here(module: Any, slicer_app: Host) -> None:
    source = slicer_app.packages.samples["PartialSegPhantomCT"]
    (node,) = source["customDownloader"](source)
    values = slicer_app.slicer.util.arrayFromVolume(node)
    assert values.min() < -900
    assert values.max() > 300
    assert node.GetName().startswith("Phantom CT")


def test_diagnostics_name_versions_and_the_last_error_and_not_the_user(
    module: Any, slicer_app: Host, random_model: Path
) -> None:
    logic = module.PartialSegLogic()
    with pytest.raises(PartialSegError):
        logic.segment(slicer_app.mrml.add_volume(small_scan()), tasks=["livr"])
    text = logic.diagnostics()
    assert "Last job: segment: failed" in text
    assert "[label-space]" in text
    assert "Worker: not running" in text
    assert str(Path.home()) not in text


@pytest.mark.usefixtures("own_packages")
def test_a_reload_reads_the_packages_anew_and_ends_the_old_worker(
    module: Any, slicer_app: Host, random_model: Path
) -> None:
    old = module.PartialSegLogic()
    volume = slicer_app.mrml.add_volume(small_scan())
    run = old.segment(volume, tasks=["liver"], model=str(random_model), device="cpu", onError=lambda error: None)
    before = sys.modules["PartialSegSlicer.logic.headless"]
    module.forgetPackages()
    import PartialSegSlicer.logic.headless as fresh

    assert fresh is not before
    old.close()
    assert run.state == "cancelled"
    logic = fresh.HeadlessLogic(sys.executable)
    again = logic.segment(volume, tasks=["liver"], model=str(random_model), device="cpu", onError=unexpected)
    spin(logic, again)
    logic.close()
    assert again.state == "finished"
