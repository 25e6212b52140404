"""The 3D view: smooth surfaces of every structure, seen from the front, a little from the patient's left.

Organs are translucent so that tumors and vessels inside them are seen; bones of the image, faint,
give the place in the body. VTK draws it offscreen; the layout (``rendering/__init__.py``) calls
:func:`draw_surfaces`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
from vtkmodules.vtkCommonCore import vtkUnsignedCharArray
from vtkmodules.vtkCommonDataModel import vtkImageData, vtkPolyData
from vtkmodules.vtkCommonMath import vtkMatrix4x4
from vtkmodules.vtkCommonTransforms import vtkTransform
from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D, vtkPolyDataNormals, vtkWindowedSincPolyDataFilter
from vtkmodules.vtkFiltersGeneral import vtkTransformPolyDataFilter
from vtkmodules.vtkRenderingCore import vtkActor, vtkLightKit, vtkPolyDataMapper, vtkRenderer, vtkRenderWindow

from PartialSegLib.images import Geometry, Image
from PartialSegLib.rendering.canvas import Color
from PartialSegLib.rendering.opengl import make_window
from PartialSegLib.rendering.slices import kind
from PartialSegLib.segmentation import Segmentation

#: Opacity where a surface faces the viewer, and where it turns away: as in glass, rims are denser.
_OPACITY = {"organ": (0.24, 0.85), "vessel": (1.0, 1.0), "finding": (1.0, 1.0)}
_BONE_OPACITY = (0.05, 0.34)
_BONE_COLOR: Color = (0.93, 0.89, 0.80)
_BONE_HU = 180.0

#: The viewer stands in front of the patient, so many degrees to the patient's left, and above.
_AROUND, _ABOVE = 18.0, 8.0

#: Surfaces are made on a grid of cubes of at least this size, and of at most so many voxels.
_GRID_MM = 1.2
_GRID_VOXELS = 6e6

#: The picture is drawn larger by this factor and averaged down.
_OVERSAMPLING = 2


@dataclass(frozen=True)
class Surface:
    """A triangle mesh in LPS millimetres and how it looks."""

    mesh: vtkPolyData
    color: Color
    opacity: tuple[float, float]


def draw_surfaces(image: Image, segmentation: Segmentation, height: int, width: int, background: Color) -> np.ndarray:
    """Draw every structure with voxels.

    Parameters
    ----------
    image : Image
        CT in Hounsfield units; its bones are drawn faintly.
    segmentation : Segmentation
        On the same grid.
    height, width : int
        Pixels.
    background : tuple of float
        Red, green and blue, 0 to 1.

    Returns
    -------
    numpy.ndarray
        float32 (height, width, 3) in 0 to 1; the patient's left is on the right.

    Raises
    ------
    OpenGLError
        When the machine cannot render.
    """
    window = make_window()
    surfaces = structure_surfaces(segmentation)
    bones = bone_surface(image, segmentation)
    renderer = vtkRenderer()
    renderer.SetBackground(*background)
    for surface in [*surfaces, *bones]:
        renderer.AddActor(_actor(surface))
    kit = vtkLightKit()
    kit.SetKeyLightIntensity(0.95)
    kit.SetKeyToFillRatio(2.2)
    kit.AddLightsToRenderer(renderer)
    _aim(renderer, [*surfaces, *bones], width / height)
    return _grab(window, renderer, height, width)


def structure_surfaces(segmentation: Segmentation) -> list[Surface]:
    """Return a smooth surface of every structure with voxels."""
    surfaces = []
    for structure in segmentation.structures:
        mask = segmentation.masks[structure.key]
        if mask.count:
            red, green, blue = (value / 255 for value in structure.color)
            mesh = _mesh(mask.unpack(), mask.start, segmentation.geometry)
            surfaces.append(Surface(mesh, (red, green, blue), _OPACITY[kind(structure)]))
    return surfaces


def bone_surface(image: Image, segmentation: Segmentation) -> list[Surface]:
    """Return the surface of large bright parts of the image that no structure claims; none when there is none.

    The image is averaged to about 2.5 mm, so that noise is no bone.
    """
    strides = [max(1, round(2.5 / step)) for step in image.geometry.spacing[::-1]]
    bright = _block_mean(image.voxels, strides) > _BONE_HU
    for mask in segmentation.masks.values():
        if mask.count:
            _clear(bright, mask.start, mask.unpack(), strides)
    labels, count = ndimage.label(bright, np.ones((3, 3, 3)))
    if not count:
        return []
    volume = np.prod(strides) * image.geometry.voxel_volume
    sizes = np.bincount(labels.ravel()) * volume
    large = sizes > 5000.0
    large[0] = False
    if not large.any():
        return []
    geometry = _strided(image.geometry, bright.shape, strides)
    return [Surface(_mesh(large[labels], (0, 0, 0), geometry), _BONE_COLOR, _BONE_OPACITY)]


def _mesh(mask: np.ndarray, start: Sequence[int], geometry: Geometry) -> vtkPolyData:
    """Return the smoothed surface of a boolean box at `start`, in LPS millimetres.

    Thick slices are interpolated and smoothing takes their steps away. Smoothing shrinks what is round
    or thin, so the level of the surface is the one that encloses the volume of the mask.
    """
    spacing = np.asarray(geometry.spacing[::-1])
    size = np.asarray(mask.shape) * spacing
    step = max(_GRID_MM, float(np.prod(size) / _GRID_VOXELS) ** (1 / 3))
    margin = np.ceil(3 * step / spacing).astype(int) + 1
    padded = np.pad(mask, [(n, n) for n in margin]).astype(np.float32)
    factors = np.minimum(spacing / step, 4.0)
    shape = np.maximum(2, np.round(np.asarray(padded.shape) * factors)).astype(int)
    field = ndimage.zoom(padded, shape / padded.shape, order=1, mode="nearest", grid_mode=True, prefilter=False)
    field = ndimage.gaussian_filter(field, np.maximum(0.9, 0.8 * spacing / step))
    contour = vtkFlyingEdges3D()
    contour.SetInputData(_image_data(field))
    contour.SetValue(0, _level(field, np.count_nonzero(mask) * field.size / padded.size))
    contour.ComputeNormalsOff()
    contour.ComputeScalarsOff()
    smooth = vtkWindowedSincPolyDataFilter()
    smooth.SetInputConnection(contour.GetOutputPort())
    smooth.SetNumberOfIterations(25)
    smooth.SetPassBand(0.03)
    smooth.NormalizeCoordinatesOn()
    # Voxel i of the field lies at (i + 0.5) * ratio - 0.5 of the padded box.
    ratio = np.asarray(padded.shape) / shape
    shift = 0.5 * ratio - 0.5 + np.asarray(start) - margin
    placed = vtkTransformPolyDataFilter()
    placed.SetInputConnection(smooth.GetOutputPort())
    placed.SetTransform(_transform(geometry.affine @ _scaling(ratio[::-1], shift[::-1])))
    normals = vtkPolyDataNormals()
    normals.SetInputConnection(placed.GetOutputPort())
    normals.SplittingOff()
    normals.AutoOrientNormalsOn()
    normals.Update()
    return normals.GetOutput()


def _level(field: np.ndarray, voxels: float) -> float:
    """Return the level above which so many voxels of the field lie (always one that the field passes)."""
    lowest = 0.02
    candidates = field[field > lowest]
    count = max(1, round(voxels))
    if count >= candidates.size:
        return lowest
    level = float(np.partition(candidates, candidates.size - count)[candidates.size - count])
    return min(level, 0.9 * float(field.max()))


def _block_mean(voxels: np.ndarray, strides: Sequence[int]) -> np.ndarray:
    """Average blocks of voxels, a few planes at a time; what fills no block at the far border is left out."""
    z, y, x = strides
    depth, rows, columns = (max(1, n // step) for n, step in zip(voxels.shape, strides, strict=True))
    z, y, x = (min(step, n) for step, n in zip(strides, voxels.shape, strict=True))
    result = np.empty((depth, rows, columns), np.float32)
    for plane in range(depth):
        block = voxels[plane * z : (plane + 1) * z, : rows * y, : columns * x].astype(np.float32)
        result[plane] = block.reshape(z, rows, y, columns, x).mean(axis=(0, 2, 4))
    return result


def _clear(coarse: np.ndarray, start: Sequence[int], mask: np.ndarray, strides: Sequence[int]) -> None:
    """Remove a mask, and the block around it that partial volume brightens, from a coarse array."""
    inside = np.argwhere(mask[:: strides[0], :: strides[1], :: strides[2]]) * strides + start
    covered = np.zeros(coarse.shape, bool)
    z, y, x = (np.minimum(inside[:, axis] // strides[axis], coarse.shape[axis] - 1) for axis in range(3))
    covered[z, y, x] = True
    coarse &= ~ndimage.binary_dilation(covered, iterations=2)


def _strided(geometry: Geometry, shape: Sequence[int], strides: Sequence[int]) -> Geometry:
    """Return the grid of blocks of voxels."""
    offset = (np.asarray(strides[::-1]) - 1) / 2
    origin = (geometry.affine @ [*offset, 1.0])[:3]
    spacing = np.asarray(geometry.spacing) * strides[::-1]
    (depth, rows, columns), (dx, dy, dz), (x, y, z) = shape, spacing.tolist(), origin.tolist()
    return Geometry((depth, rows, columns), (dx, dy, dz), (x, y, z), geometry.direction)


def _image_data(field: np.ndarray) -> vtkImageData:
    """Return a (z, y, x) array as VTK image on the grid of its indices."""
    data = vtkImageData()
    data.SetDimensions(*field.shape[::-1])
    data.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(field).ravel(), deep=True))
    return data


def _scaling(factors: np.ndarray, offset: np.ndarray) -> np.ndarray:
    matrix = np.diag([*factors, 1.0])
    matrix[:3, 3] = offset
    return matrix


def _transform(matrix: np.ndarray) -> vtkTransform:
    elements = vtkMatrix4x4()
    elements.DeepCopy(matrix.ravel().tolist())
    transform = vtkTransform()
    transform.SetMatrix(elements)
    return transform


def _actor(surface: Surface) -> vtkActor:
    """Return the actor of a surface; as the camera stands still, its rims are colored in once."""
    _, _, view = _viewpoint()
    facing = np.abs(vtk_to_numpy(surface.mesh.GetPointData().GetNormals()) @ view)
    flat, rim = surface.opacity
    opacity = flat + (rim - flat) * (1.0 - facing) ** 2
    colors = np.empty((len(facing), 4), np.uint8)
    colors[:, :3] = np.round(np.multiply(surface.color, 255))
    colors[:, 3] = np.round(opacity * 255)
    surface.mesh.GetPointData().SetScalars(numpy_to_vtk(colors, deep=True))
    mapper = vtkPolyDataMapper()
    mapper.SetInputData(surface.mesh)
    actor = vtkActor()
    actor.SetMapper(mapper)
    actor.SetForceTranslucent(flat < 1)
    actor.SetForceOpaque(flat >= 1)
    look = actor.GetProperty()
    look.SetInterpolationToPhong()
    look.SetAmbient(0.18)
    look.SetDiffuse(0.9)
    look.SetSpecular(0.22)
    look.SetSpecularPower(24)
    return actor


def _viewpoint() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the directions to the right, up and towards the viewer, in LPS."""
    around, above = np.radians(_AROUND), np.radians(_ABOVE)
    view = np.array([np.sin(around) * np.cos(above), -np.cos(around) * np.cos(above), np.sin(above)])
    right = np.array([np.cos(around), np.sin(around), 0.0])
    return right, np.cross(view, right), view


def _aim(renderer: vtkRenderer, surfaces: Sequence[Surface], aspect: float) -> None:
    """Place the camera so that every surface just fits (`aspect` is width over height)."""
    right, up, view = _viewpoint()
    points = [vtk_to_numpy(surface.mesh.GetPoints().GetData()) for surface in surfaces]
    if not points:
        return
    across, along, depth = (np.concatenate(points).astype(float) @ np.stack([right, up, view]).T).T
    camera = renderer.GetActiveCamera()
    camera.ParallelProjectionOn()
    middle = right * _middle(across) + up * _middle(along) + view * _middle(depth)
    camera.SetFocalPoint(*middle)
    camera.SetPosition(*(middle + 2000.0 * view))
    camera.SetViewUp(*up)
    camera.SetParallelScale(0.5 * 1.06 * max(np.ptp(along), np.ptp(across) / aspect))
    renderer.ResetCameraClippingRange()


def _middle(values: np.ndarray) -> float:
    return float(values.min() + values.max()) / 2


def _grab(window: vtkRenderWindow, renderer: vtkRenderer, height: int, width: int) -> np.ndarray:
    """Render oversampled, with exact order of translucent surfaces, and average down."""
    renderer.SetUseDepthPeeling(True)
    renderer.SetMaximumNumberOfPeels(12)
    renderer.SetOcclusionRatio(0.0)
    window.SetAlphaBitPlanes(1)
    window.SetMultiSamples(0)
    window.AddRenderer(renderer)
    window.SetSize(width * _OVERSAMPLING, height * _OVERSAMPLING)
    window.Render()
    data = vtkUnsignedCharArray()
    window.GetRGBACharPixelData(0, 0, width * _OVERSAMPLING - 1, height * _OVERSAMPLING - 1, 1, data, 0)
    pixels = vtk_to_numpy(data).reshape(height, _OVERSAMPLING, width, _OVERSAMPLING, 4)[..., :3]
    window.Finalize()
    return pixels.mean(axis=(1, 3), dtype=np.float32)[::-1] / 255
