"""Where the voxels of a node lie: matrices of MRML (RAS) to geometries of the library (LPS), and back.

Every other file of the bridge takes its matrices from here. It also decides which parent
transforms are followed: linear ones, which are multiplied in; others bend the grid, and are refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import vtk

from PartialSegLib.errors import ImageError, PartialSegError
from PartialSegLib.images import Geometry
from PartialSegSlicer.translation import tr as _

Indices = tuple[int, int, int]

_LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def arrayFromMatrix(matrix: Any) -> np.ndarray:
    """Return a ``vtkMatrix4x4`` as a (4, 4) array."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def matrixFromArray(array: np.ndarray) -> Any:
    """Return a (4, 4) array as a ``vtkMatrix4x4``."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, dtype=float).ravel())
    return matrix


def matrixToWorld(node: Any, transformNode: Any, error: type[PartialSegError]) -> np.ndarray:
    """Return the (4, 4) matrix from the coordinates of a node to world RAS millimetres.

    Parameters
    ----------
    node : vtkMRMLTransformableNode
        Named in the message.
    transformNode : vtkMRMLTransformNode or None
        Its parent transform.
    error : type
        What to raise.

    Raises
    ------
    PartialSegError
        Of type `error`, when the transform bends the grid.
    """
    if transformNode is None:
        return np.eye(4)
    matrix = vtk.vtkMatrix4x4()
    if not (transformNode.IsTransformToWorldLinear() and transformNode.GetMatrixTransformToWorld(matrix)):
        raise error(
            _(
                "'{node}' lies under the transform '{transform}', which is not linear: its voxels form no regular grid."
            ).format(node=node.GetName(), transform=transformNode.GetName()),
            _("Harden the transform in the Transforms module, which resamples it, or take it out of the transform."),
        )
    return arrayFromMatrix(matrix)


def geometryFromMatrix(ijkToRas: np.ndarray, shape: Indices, start: Indices = (0, 0, 0)) -> Geometry:
    """Return the geometry of a box of voxels.

    Parameters
    ----------
    ijkToRas : numpy.ndarray
        (4, 4) from (x, y, z) indices to RAS millimetres.
    shape, start : tuple of int
        Size and first voxel of the box, (z, y, x).

    Raises
    ------
    ImageError
        When the matrix is not invertible, or the box is empty.
    """
    lps = _LPS_RAS @ np.asarray(ijkToRas, dtype=float)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    if not np.all(np.isfinite(lps)) or not np.all(spacing > 0):
        raise ImageError(
            _("The voxels have no size: an axis of their grid is zero."), _("Correct the spacing in Volumes.")
        )
    origin = lps[:3, 3] + lps[:3, :3] @ np.asarray(start, dtype=float)[::-1]
    x, y, z = (float(value) for value in spacing)
    left, posterior, superior = (float(value) for value in origin)
    direction = tuple(float(value) for value in (lps[:3, :3] / spacing).ravel())
    return Geometry(shape, (x, y, z), (left, posterior, superior), direction)


def ijkToRasFromGeometry(geometry: Geometry) -> np.ndarray:
    """Return the (4, 4) matrix from (x, y, z) indices to RAS millimetres."""
    return np.asarray(_LPS_RAS @ geometry.affine)


def transformed(geometry: Geometry, matrix: np.ndarray) -> Geometry:
    """Return the grid after a linear transform.

    Parameters
    ----------
    geometry : Geometry
    matrix : numpy.ndarray
        (4, 4) from RAS to RAS millimetres.
    """
    return geometryFromMatrix(matrix @ ijkToRasFromGeometry(geometry), geometry.shape)
