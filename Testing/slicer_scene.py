"""A real MRML scene outside the Slicer application, for tests that ask Slicer itself.

``slicer-core`` brings MRML, its storage nodes and the logics of Slicer's modules. The fixture
``slicer_scene`` (registered in ``conftest.py``) starts them once, empties the scene before each
test, and skips the test where ``slicer-core`` is not installed.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from PartialSegLib.images import Image

LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class SlicerScene:
    """The scene, and what tests do with it.

    Parameters
    ----------
    slicer : module
        The ``slicer`` package, with ``mrmlScene`` and ``modules`` as in the application.
    scene : vtkMRMLScene
    """

    slicer: Any
    scene: Any

    def add_volume(self, image: Image, name: str = "CT") -> Any:
        """Add an image as a scalar volume node."""
        import vtk

        node = self.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        self.slicer.util.updateVolumeFromArray(node, image.voxels)
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy((LPS_RAS @ image.geometry.affine).ravel())
        node.SetIJKToRASMatrix(matrix)
        return node

    def add_segmentation(self, volume: Any, name: str = "Segmentation") -> Any:
        """Add an empty segmentation node on the grid of a volume node."""
        node = self.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        return node

    def load_segmentation(self, path: Path) -> Any:
        """Load a ``.seg.nrrd`` file with Slicer's storage node; fail on any message it gives."""
        node = self.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", path.name)
        storage = self._storage(path)
        assert storage.ReadData(node) == 1, f"Slicer cannot read {path}"
        assert not storage.GetUserMessages().GetNumberOfMessages(), storage.GetUserMessages().GetAllMessagesAsString()
        return node

    def save_segmentation(self, node: Any, path: Path, *, cropped: bool = False) -> None:
        """Save a segmentation node with Slicer's storage node."""
        storage = self._storage(path)
        storage.SetCropToMinimumExtent(cropped)
        assert storage.WriteData(node) == 1, f"Slicer cannot write {path}"

    def labelmap(self, node: Any, segment: str) -> tuple[np.ndarray, tuple[int, int, int], np.ndarray]:
        """Return a segment's voxels as Slicer holds them.

        Returns
        -------
        voxels : numpy.ndarray
            (z, y, x) booleans, in the extent of the segment.
        start : tuple of int
            Index (z, y, x) of the first voxel.
        ijk_to_ras : numpy.ndarray
            (4, 4) from (x, y, z) indices to RAS millimetres.
        """
        import vtk
        from vtk.util.numpy_support import vtk_to_numpy

        data = self.slicer.vtkOrientedImageData()
        assert node.GetBinaryLabelmapRepresentation(segment, data)
        x0, x1, y0, y1, z0, z1 = data.GetExtent()
        shape = (max(0, z1 - z0 + 1), max(0, y1 - y0 + 1), max(0, x1 - x0 + 1))
        matrix = vtk.vtkMatrix4x4()
        data.GetImageToWorldMatrix(matrix)
        ijk_to_ras = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
        if 0 in shape:
            return np.zeros((0, 0, 0), bool), (0, 0, 0), ijk_to_ras
        voxels = vtk_to_numpy(data.GetPointData().GetScalars()).reshape(shape) != 0
        return voxels, (z0, y0, x0), ijk_to_ras

    def points(self, node: Any, segment: str) -> np.ndarray:
        """Return the RAS positions (n, 3) of a segment's voxels in millimetres, in z, y, x order."""
        voxels, start, ijk_to_ras = self.labelmap(node, segment)
        indices = (np.argwhere(voxels) + start)[:, ::-1]
        return indices @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3]

    def _storage(self, path: Path) -> Any:
        storage = self.slicer.vtkMRMLSegmentationStorageNode()
        self.scene.AddNode(storage)
        storage.SetFileName(str(path))
        return storage


@cache
def start() -> SlicerScene:
    """Start MRML and the logics once per process."""
    import slicer
    import slicer.util

    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    colors = application.GetColorLogic()
    colors.SetMRMLScene(scene)
    colors.AddDefaultColorNodes()
    # The logics exist before any node: they register the converters of segmentations.
    logics = {"segmentations": slicer.vtkSlicerSegmentationsModuleLogic(), "volumes": slicer.vtkSlicerVolumesLogic()}
    for logic in logics.values():
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
    modules = {name: types.SimpleNamespace(logic=lambda logic=logic: logic) for name, logic in logics.items()}
    slicer.modules = types.SimpleNamespace(**modules, application=application)
    return SlicerScene(slicer, scene)


@pytest.fixture
def slicer_scene() -> SlicerScene:
    """An empty MRML scene with Slicer's logics around it."""
    pytest.importorskip("slicer", reason="slicer-core is not installed")
    started = start()
    # Color nodes are singletons and stay.
    started.scene.Clear(0)
    return started
