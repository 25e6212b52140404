"""Moves the views to a place: the slices through it, and the cameras turning around it."""

from __future__ import annotations

import slicer  # type: ignore[import-untyped]


def centerViews(point: tuple[float, float, float]) -> None:
    """Center every slice view and camera of the scene on a point.

    Parameters
    ----------
    point : tuple of float
        World RAS millimetres.
    """
    scene = slicer.mrmlScene
    mode = slicer.vtkMRMLSliceNode.CenteredJumpSlice
    slicer.vtkMRMLSliceNode.JumpAllSlices(scene, *point, mode)
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLCameraNode")):
        scene.GetNthNodeByClass(index, "vtkMRMLCameraNode").SetFocalPoint(*point)
