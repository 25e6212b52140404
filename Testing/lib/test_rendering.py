"""The picture: slices in radiological convention, surfaces in the right place, a file that is whole."""

from __future__ import annotations

import argparse
import builtins
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vtkmodules")

from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkFiltersCore import vtkMassProperties
from vtkmodules.vtkIOImage import vtkPNGReader

from PartialSegLib.errors import MissingExtraError, PartialSegError, SegmentationError
from PartialSegLib.images import Geometry, Image, write_image
from PartialSegLib.rendering import opengl, overview, render_overview
from PartialSegLib.rendering.canvas import Canvas, text_width
from PartialSegLib.rendering.command import register
from PartialSegLib.rendering.opengl import OpenGLError
from PartialSegLib.rendering.slices import Views
from PartialSegLib.rendering.surfaces import bone_surface, draw_surfaces, structure_surfaces
from PartialSegLib.segmentation import Segmentation
from PartialSegLib.segmentationfiles import write_segmentation
from PartialSegLib.structures import catalogue

SPACING = (3.0, 3.0, 6.0)
SHAPE = (32, 60, 72)
WINDOW = (-160.0, 240.0)
LIVER, SPLEEN, TUMOR = (np.asarray(catalogue()[key].color) / 255 for key in ("liver", "spleen", "liver_tumor"))


def ball(center: tuple[float, float, float], radius: float) -> np.ndarray:
    """Voxels of an LPS-aligned grid within `radius` mm of `center` (x, y, z in mm from its middle)."""
    z, y, x = (
        ((np.arange(n) - (n - 1) / 2) * step - at) ** 2
        for n, step, at in zip(SHAPE, SPACING[::-1], center[::-1], strict=True)
    )
    return z[:, None, None] + y[:, None] + x < radius**2


def patient() -> tuple[Image, Segmentation]:
    """A liver with a tumor at the patient's right, a spleen at the left, and a spine."""
    masks = {
        "liver": ball((-45, -15, 15), 36),
        "liver_tumor": ball((-45, -6, 6), 12),
        "spleen": ball((60, 8, -8), 24),
    }
    voxels = np.full(SHAPE, -1000, np.int16)
    voxels[:, 6:-6, 6:-6] = 40
    voxels[:, 44:52, 32:40] = 600
    geometry = Geometry(SHAPE, SPACING)
    return Image(voxels, geometry), Segmentation.from_arrays(
        geometry, [catalogue()[key] for key in masks], masks, "Test"
    )


def turned(axes: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> tuple[Image, Segmentation]:
    """The same patient, stored with other axes: what a sagittal or a feet-first scan looks like."""
    image, segmentation = patient()
    matrix, origin = image.geometry.affine[:3, :3], np.asarray(image.geometry.origin)
    columns = [2 - axis for axis in axes][::-1]
    steps = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    direction, start = np.eye(3)[:, columns], origin.astype(float)
    for position, flip in enumerate(flips[::-1]):
        if flip:
            start = start + matrix[:, columns[position]] * (SHAPE[2 - columns[position]] - 1)
            direction[:, position] *= -1
    voxels = image.voxels.transpose(axes)[steps]
    spacing = tuple(SPACING[column] for column in columns)
    geometry = Geometry(voxels.shape, spacing, tuple(start), tuple(direction.ravel()))
    masks = {key: segmentation.array(key).transpose(axes)[steps] for key in segmentation.keys}
    return Image(voxels, geometry), Segmentation.from_arrays(geometry, segmentation.structures, masks)


def colored(picture: np.ndarray, color: np.ndarray, tolerance: float = 0.02) -> np.ndarray:
    return np.abs(picture - color).max(axis=2) < tolerance


def read_png(path: Path) -> np.ndarray:
    reader = vtkPNGReader()
    reader.SetFileName(str(path))
    reader.Update()
    image = reader.GetOutput()
    width, height, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1] / 255


def draw(image: Image, segmentation: Segmentation, plane: str) -> np.ndarray:
    views = Views(image, segmentation, WINDOW)
    return views.draw(views.cut(plane), 240, 300, 1.2)


@pytest.fixture
def with_opengl() -> None:
    try:
        opengl.make_window()
    except OpenGLError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_the_patients_left_is_on_the_right_of_the_picture(plane: str) -> None:
    picture = draw(*patient(), plane)
    # The best cut goes through both organs.
    assert np.argwhere(colored(picture, LIVER))[:, 1].mean() < 130
    assert np.argwhere(colored(picture, SPLEEN))[:, 1].mean() > 170


def test_anterior_and_superior_are_on_top() -> None:
    image, segmentation = patient()
    axial, coronal = draw(image, segmentation, "axial"), draw(image, segmentation, "coronal")
    for picture in (axial, coronal):
        liver, spleen = (np.argwhere(colored(picture, color))[:, 0].mean() for color in (LIVER, SPLEEN))
        assert liver < spleen


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True), (False, True, False)])
def test_the_picture_does_not_depend_on_how_the_image_is_stored(
    axes: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> None:
    stored = turned(axes, flips)
    views, expected = Views(*stored, WINDOW), Views(*patient(), WINDOW)
    for plane in ("axial", "coronal", "sagittal"):
        # Of two equally good cuts, the first along the stored axis would be another one.
        cut = expected.cut(plane)
        assert np.allclose(views.draw(cut, 120, 150, 0.6), expected.draw(cut, 120, 150, 0.6), atol=1e-5)
        assert views.position(cut) == pytest.approx(expected.position(cut))


def test_proportions_are_those_of_the_patient_although_voxels_are_not_cubes() -> None:
    image, segmentation = patient()
    rows, columns = np.nonzero(colored(draw(image, segmentation, "coronal"), SPLEEN))
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=0.35 * SPACING[2] * 1.2 * 2)


def test_the_cut_goes_through_the_tumor_and_shows_it_above_its_organ() -> None:
    image, segmentation = patient()
    for plane in ("axial", "coronal", "sagittal"):
        picture = draw(image, segmentation, plane)
        rows, columns = np.nonzero(colored(picture, TUMOR))
        assert len(rows) > 20
        middle = picture[int(rows.mean()), int(columns.mean())]
        assert np.abs(middle - TUMOR).max() < np.abs(middle - LIVER).max()


def test_a_scan_without_any_structure_is_still_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opengl, "_window_class", lambda: None)
    image, segmentation = patient()
    empty = Segmentation(segmentation.geometry, segmentation.structures)
    render_overview(image, empty, tmp_path / "empty.png")
    assert read_png(tmp_path / "empty.png").std() > 0.02


def test_surfaces_lie_where_the_masks_lie_in_the_patient() -> None:
    _, segmentation = patient()
    angle = math.radians(25)
    direction = (math.cos(angle), -math.sin(angle), 0, math.sin(angle), math.cos(angle), 0, 0, 0, -1)
    oblique = Geometry(SHAPE, SPACING, (10, -20, 30), direction)
    for geometry in (segmentation.geometry, oblique):
        moved = Segmentation(geometry, segmentation.structures, segmentation.masks)
        for surface, key in zip(structure_surfaces(moved), moved.keys, strict=True):
            indices = np.argwhere(moved.array(key)).mean(axis=0)[::-1]
            center = (geometry.affine @ [*indices, 1])[:3]
            points = vtk_to_numpy(surface.mesh.GetPoints().GetData())
            assert np.allclose((points.min(0) + points.max(0)) / 2, center, atol=2.0)


def test_surfaces_enclose_the_volume_of_their_masks() -> None:
    _, segmentation = patient()
    for surface, key in zip(structure_surfaces(segmentation), segmentation.keys, strict=True):
        measure = vtkMassProperties()
        measure.SetInputData(surface.mesh)
        assert measure.GetVolume() / 1000 == pytest.approx(segmentation.volume_ml(key), rel=0.12)


def test_a_structure_of_one_voxel_has_a_surface() -> None:
    image, _ = patient()
    mask = np.zeros(SHAPE, bool)
    mask[0, 0, 0] = True
    single = Segmentation.from_arrays(image.geometry, [catalogue()["lung_tumor"]], {"lung_tumor": mask})
    assert structure_surfaces(single)[0].mesh.GetNumberOfCells() > 0


def test_bones_are_bright_parts_that_no_structure_claims() -> None:
    image, segmentation = patient()
    assert len(bone_surface(image, segmentation)) == 1
    spine = image.voxels > 300
    claimed = Segmentation.from_arrays(image.geometry, [catalogue()["kidneys"]], {"kidneys": spine})
    assert bone_surface(image, claimed) == []


@pytest.mark.usefixtures("with_opengl")
def test_the_3d_view_shows_every_structure_from_the_front() -> None:
    image, segmentation = patient()
    picture = draw_surfaces(image, segmentation, 200, 220, (0.0, 0.0, 0.0))
    assert picture.shape == (200, 220, 3)
    green = np.argwhere(picture[..., 1] - picture[..., 0] > 0.1)
    purple = np.argwhere(picture[..., 2] - picture[..., 1] > 0.08)
    assert len(green) > 30
    assert green[:, 1].mean() < 110 < purple[:, 1].mean()
    assert green[:, 0].mean() < purple[:, 0].mean()


@pytest.mark.usefixtures("with_opengl")
def test_the_overview_is_a_png_of_the_wanted_size(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    notes = render_overview(*patient(), path, title="Patient", footer="Not a patient", size=(1000, 600))
    assert notes == ()
    assert read_png(path).shape == (600, 1000, 3)
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]


def test_without_opengl_a_sagittal_slice_takes_the_place_of_the_3d_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opengl, "_window_class", lambda: None)
    notes = render_overview(*patient(), tmp_path / "picture.png", size=(1000, 600))
    assert len(notes) == 1
    assert "OpenGL" in notes[0]
    picture = read_png(tmp_path / "picture.png")
    assert colored(picture[:, 380:700], TUMOR).sum() > 20


def test_without_vtk_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_vtk(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "PartialSegLib.rendering.overview":
            raise ModuleNotFoundError("No module named 'vtkmodules'", name="vtkmodules")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_vtk)
    with pytest.raises(MissingExtraError, match=r"partialseg\[render\]"):
        render_overview(*patient(), tmp_path / "picture.png")


def test_a_segmentation_of_another_image_is_refused(tmp_path: Path) -> None:
    image, segmentation = patient()
    other = Segmentation(Geometry(SHAPE, (1, 1, 1)), segmentation.structures)
    with pytest.raises(SegmentationError, match="grid"):
        render_overview(image, other, tmp_path / "picture.png")


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opengl, "_window_class", lambda: None)
    with pytest.raises(SegmentationError, match="nowhere"):
        render_overview(*patient(), tmp_path / "nowhere" / "picture.png")


@pytest.mark.parametrize("string", ["Liver", "Liver tumor (hepatic vessel protocol)", "A" * 200, "a " * 100])
def test_text_never_leaves_its_place(string: str) -> None:
    canvas = Canvas(400, 60, (0, 0, 0))
    canvas.fitted_text(string, 100, 30, 20, (1, 1, 1), 200)
    drawn = np.argwhere(canvas.pixels.max(axis=2) > 0.05)
    assert drawn[:, 1].min() >= 100
    assert drawn[:, 1].max() <= 300
    assert 0 < drawn[:, 0].min() <= drawn[:, 0].max() < 59


def test_text_of_one_size_stands_on_one_line() -> None:
    bottoms = []
    for string in ("Liver", "12.3 ml", "spleen vs liver"):
        canvas = Canvas(400, 60, (0, 0, 0))
        assert canvas.text(string, 10, 30, 24, (1, 1, 1)) == text_width(string, 24)
        columns = canvas.pixels[:, 12:18].max(axis=(1, 2))
        bottoms.append(int(np.flatnonzero(columns > 0.5).max()))
    assert bottoms[0] == bottoms[1]


def test_drawing_beyond_the_border_is_cut() -> None:
    canvas = Canvas(20, 10, (0, 0, 0))
    canvas.rectangle(-5, -5, 40, 8, (1, 1, 1))
    canvas.paste(np.full((4, 4, 3), 0.5, np.float32), 18, 8)
    assert np.array_equal(canvas.pixels[:3], np.ones((3, 20, 3)))
    assert np.all(canvas.pixels[8:, 18:] == 0.5)
    assert canvas.pixels.sum() == 3 * 20 * 3 + 4 * 3 * 0.5


def test_structures_inside_others_follow_them_in_the_legend() -> None:
    structures = tuple(catalogue()[key] for key in ("liver", "spleen", "liver_tumor", "colon_tumor", "kidney_tumor"))
    rows = [(structure.key, nested) for structure, nested in overview._in_groups(structures)]
    assert rows == [
        ("liver", False),
        ("liver_tumor", True),
        ("spleen", False),
        ("colon_tumor", False),
        ("kidney_tumor", False),
    ]


def command(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    parsed = parser.parse_args(["render", *map(str, arguments)])
    return int(parsed.run(parsed))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The patient as an image file and a segmentation file."""
    image, segmentation = patient()
    write_image(image, tmp_path / "scan.nii.gz")
    write_segmentation(segmentation, tmp_path / "scan.seg.nrrd")
    return tmp_path / "scan.nii.gz", tmp_path / "scan.seg.nrrd"


def test_the_command_draws_files(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(opengl, "_window_class", lambda: None)
    output = files[0].with_name("picture.png")
    assert command(*files, "-o", output, "--size", "1000x600") == 0
    assert read_png(output).shape == (600, 1000, 3)
    first, second = capsys.readouterr().out.splitlines()
    assert first == str(output)
    assert "OpenGL" in second


@pytest.mark.parametrize(
    ("option", "words"),
    [(["--size", "large"], "no size"), (["--window", "0"], "shows nothing"), (["-o", "picture.jpg"], "no PNG")],
)
def test_an_impossible_option_is_refused_in_one_sentence(
    files: tuple[Path, Path], option: list[str], words: str
) -> None:
    with pytest.raises(PartialSegError, match=words):
        command(*files, "-o", "picture.png", *option)
