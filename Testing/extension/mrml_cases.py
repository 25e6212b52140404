"""Volumes, transforms and segmentations in a real scene, for the tests of the bridge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import vtk
from drawn_cases import arrays, grid, structures

from PartialSegLib.images import Geometry, Image
from PartialSegLib.segmentation import Segmentation
from PartialSegSlicer.geometry import arrayFromMatrix, matrixFromArray
from PartialSegSlicer.volumes import geometryFromVolumeNode
from slicer_scene import SlicerScene

#: Tags that say what a segment is and where it comes from.
TAGS = (
    "DICOM.SegmentAlgorithmName",
    "DICOM.SegmentAlgorithmType",
    "PartialSeg.ContainedIn",
    "PartialSeg.Key",
    "Radiologist.Note",
    "Segmentation.Status",
    "TerminologyEntry",
)
#: Rotates, moves and stretches, as a registration does; its grid is sheared.
REGISTRATION = np.array([[0.9, -0.3, 0.1, 12.5], [0.25, 1.1, 0.2, -40.0], [0.0, -0.2, 1.05, 7.75], [0, 0, 0, 1]])
#: Rotates and moves only.
RIGID = np.array([[0.6, -0.8, 0, 3.25], [0.8, 0.6, 0, -9.5], [0, 0, 1, 21.0], [0, 0, 0, 1]])


def scan(kind: str = "straight", seed: int = 11) -> Image:
    """Return an image of random Hounsfield units."""
    geometry = grid(kind)
    return Image(np.random.default_rng(seed).integers(-1000, 1500, geometry.shape, dtype=np.int16), geometry)


def add_transform(scene: SlicerScene, matrix: np.ndarray, *nodes: Any) -> Any:
    """Put nodes under a linear transform (RAS to RAS)."""
    transform = scene.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Registration")
    transform.SetMatrixTransformToParent(matrixFromArray(matrix))
    for node in nodes:
        node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def add_bending_transform(scene: SlicerScene, *nodes: Any) -> Any:
    """Put nodes under a thin plate spline."""
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    points = [vtk.vtkPoints(), vtk.vtkPoints()]
    for index, point in enumerate([(0, 0, 0), (90, 0, 0), (0, 90, 0), (0, 0, 90), (50, 60, 70)]):
        points[0].InsertNextPoint(point)
        points[1].InsertNextPoint([value + 5 * index for value in point])
    spline.SetSourceLandmarks(points[0])
    spline.SetTargetLandmarks(points[1])
    transform = scene.scene.AddNewNodeByClass("vtkMRMLTransformNode", "Déformation")
    transform.SetAndObserveTransformToParent(spline)
    for node in nodes:
        node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def result(
    volume: Any, seed: int = 0, keys: tuple[str, ...] | None = None, algorithm: str = "Demo 1.0"
) -> Segmentation:
    """Return a result of overlapping masks on the grid of a volume node."""
    drawn = arrays(seed=seed)
    chosen = tuple(item for item in structures() if keys is None or item.key in keys)
    return Segmentation.from_arrays(
        geometryFromVolumeNode(volume), chosen, {item.key: drawn[item.key] for item in chosen}, algorithm
    )


def world_points(scene: SlicerScene, node: Any, segment: str) -> np.ndarray:
    """Return the world RAS positions (n, 3) of a segment's voxels, in z, y, x order."""
    points = scene.points(node, segment)
    matrix = vtk.vtkMatrix4x4()
    if node.GetParentTransformNode():
        node.GetParentTransformNode().GetMatrixTransformToWorld(matrix)
    to_world = arrayFromMatrix(matrix)
    return points @ to_world[:3, :3].T + to_world[:3, 3]


def drawn_points(geometry: Geometry, array: np.ndarray) -> np.ndarray:
    """Return the world RAS positions (n, 3) of the voxels of a (z, y, x) array."""
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine
    return np.argwhere(array)[:, ::-1] @ matrix[:3, :3].T + matrix[:3, 3]


def voxels(scene: SlicerScene, node: Any, segment: str) -> np.ndarray:
    """Return a segment as a (z, y, x) array on the grid of the drawn cases."""
    found, start, _ = scene.labelmap(node, segment)
    whole = np.zeros(grid().shape, bool)
    inside = np.argwhere(found) + start
    whole[tuple(inside.T)] = True
    return whole


def draw(scene: SlicerScene, node: Any, volume: Any, name: str, array: np.ndarray) -> str:
    """Draw a segment as a user does; return its ID."""
    segmentation = node.GetSegmentation()
    segment = segmentation.AddEmptySegment("", name)
    scene.slicer.util.updateSegmentBinaryLabelmapFromArray(array.astype(np.uint8), node, segment, volume)
    return str(segment)


def everything(scene: SlicerScene, node: Any) -> list[tuple[Any, ...]]:
    """Return all that a segmentation shows: IDs in order, names, colors, tags, display and voxels."""
    segmentation, display = node.GetSegmentation(), node.GetDisplayNode()
    found = []
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        tags = []
        for name in TAGS:
            value = vtk.reference("")
            tags.append((segment.GetTag(name, value), str(value) if segment.HasTag(name) else ""))
        shown = display.GetSegmentVisibility(segment_id), display.GetSegmentOpacity2DFill(segment_id)
        mask = voxels(scene, node, segment_id).tobytes()
        found.append((segment_id, segment.GetName(), segment.GetColor(), tuple(tags), shown, mask))
    return found


def add_sequence(mrml: SlicerScene, frames: Mapping[str, Image], shown: int = 0, tolerance: float = 0.001) -> Any:
    """Add a sequence of volumes in a browser of its own; return the volume that shows one of its frames.

    `tolerance` is how close two index values may lie to be one.
    """
    scene, logic = mrml.scene, mrml.slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLScene(scene)
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "4D")
    sequence.SetNumericIndexValueTolerance(tolerance)
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("s")
    for value, image in frames.items():
        frame = mrml.add_volume(image)
        sequence.SetDataNodeAtValue(frame, value)
        scene.RemoveNode(frame)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.AddSynchronizedSequenceNode(sequence)
    browse(mrml, browser, shown)
    return browser.GetProxyNode(sequence)


def browse(mrml: SlicerScene, browser: Any, item: int) -> None:
    """Show another frame, as the application does when somebody moves the slider."""
    logic = mrml.slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLScene(mrml.scene)
    browser.SetSelectedItemNumber(item)
    logic.UpdateProxyNodesFromSequences(browser)
