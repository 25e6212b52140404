"""``.seg.nrrd``: every mask of a segmentation in one file, as 3D Slicer writes and reads it.

The layout is that of Slicer's ``vtkMRMLSegmentationStorageNode`` (Slicer 5.6 to 5.13): overlapping
masks in several layers, the box of all masks only, and one group of ``SegmentN_*`` fields per
structure. :func:`PartialSegLib.segmentationfiles.write_segmentation` and ``read_segmentation``
call this module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from PartialSegLib.errors import ImageError, SegmentationError
from PartialSegLib.images import Geometry
from PartialSegLib.segmentation import PackedMask, Segmentation, bounding_box, lattice_offset
from PartialSegLib.segmentationfiles import slicertags
from PartialSegLib.segmentationfiles.gzipstream import ordered_map, write_gzip
from PartialSegLib.segmentationfiles.layers import assign_layers
from PartialSegLib.segmentationfiles.nrrd import NrrdHeader, read_header, read_planes
from PartialSegLib.structures import Structure

#: Bytes of label maps that are made, compressed or searched at once.
_CHUNK_BYTES = 8 << 20
#: Largest label value that is looked for.
_MAX_LABEL = 65_535
_GEOMETRY_PARAMETER = "Reference image geometry"
_GEOMETRY_DESCRIPTION = (
    "Image geometry description string determining the geometry of the labelmap that is created in course of "
    "conversion. Can be copied from a volume, using the button."
)
_LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

Extent = tuple[int, int, int]


def write_segnrrd(segmentation: Segmentation, stream: BinaryIO) -> None:
    """Write a segmentation to a binary stream.

    Memory stays at a few chunks of slices, whatever the size of the scan.

    Parameters
    ----------
    segmentation : Segmentation
    stream : binary file
        Open for writing.
    """
    masks = [segmentation.masks[key] for key in segmentation.keys]
    places = assign_layers(masks)
    start, shape = _stored_box(masks, segmentation.geometry.shape)
    layers = max((layer for layer, _ in places), default=0) + 1
    affine = segmentation.geometry.affine
    affine[:3, 3] += affine[:3, :3] @ start[::-1]
    values = _segmentation_fields(segmentation.geometry, start)
    for index, (structure, place) in enumerate(zip(segmentation.structures, places, strict=True)):
        extent = _layer_extent([mask for mask, other in zip(masks, places, strict=True) if other[0] == place[0]], start)
        fields = _segment_fields(structure, place, extent, segmentation)
        values |= {f"Segment{index}_{name}": value for name, value in fields.items()}
    header = NrrdHeader(np.dtype("u1"), layers, shape, affine, True, values)
    planes = _planes_at_once(header)
    stream.write(header.encode())

    def layered(first: int) -> bytes:
        chunk = np.zeros((layers, min(planes, shape[0] - first), *shape[1:]), np.uint8)
        low = (start[0] + first, start[1], start[2])
        for mask, (layer, label) in zip(masks, places, strict=True):
            _draw(chunk[layer], mask.planes(low[0], low[0] + chunk.shape[1]), low, label)
        return _interleaved(chunk)

    write_gzip(stream, range(0, shape[0], planes), layered)


def read_segnrrd(path: Path, geometry: Geometry | None = None) -> Segmentation:
    """Read a ``.seg.nrrd`` file, whether this library or Slicer wrote it.

    Parameters
    ----------
    path : Path
    geometry : Geometry, optional
        Grid to put the masks on. Without it they come back on the reference grid that the file
        names, or on the stored grid when it names none that fits.

    Returns
    -------
    Segmentation
        Structures rebuilt from the tags: the key from our own tag, else from the segment's name.

    Raises
    ------
    SegmentationError
        When the file cannot be read, is damaged, has no segments, or does not fit `geometry`.
    """
    try:
        with path.open("rb") as stream:
            header = read_header(path, stream)
            segments = _segments(path, header)
            masks = _read_masks(path, stream, header, segments)
    except OSError as error:
        raise SegmentationError(f"{path} cannot be read: {error.strerror}.") from error
    found = {segment.structure.key: mask for segment, mask in zip(segments, masks, strict=True)}
    stored, reference = _stored_geometry(path, header), _reference_geometry(header.values)
    if not any(mask.bits.size for mask in masks):
        # Slicer stores no geometry but the reference for a segmentation without a voxel.
        stored = geometry or reference or stored
    elif geometry is None and reference is not None and _contains(reference, stored):
        geometry = reference
    structures = tuple(segment.structure for segment in segments)
    segmentation = Segmentation(stored, structures, found, _algorithm(segments))
    return segmentation if geometry is None else segmentation.on(geometry)


@dataclass(frozen=True)
class _Segment:
    """Where a structure's voxels are in the file."""

    structure: Structure
    layer: int
    label: int
    algorithm: str


def _stored_box(masks: Sequence[PackedMask], shape: Extent) -> tuple[Extent, Extent]:
    """Return start and shape (z, y, x) of the box to store.

    Slicer takes a file of 1x1x1 voxels for one without voxels, so a single voxel gets a neighbor.
    """
    filled = [mask for mask in masks if mask.bits.size]
    if not filled:
        return (0, 0, 0), (1, 1, 1)
    low = np.min([mask.start for mask in filled], axis=0)
    high = np.max([np.add(mask.start, mask.shape) for mask in filled], axis=0)
    if np.all(high - low == 1):
        axis = int(np.argmax(shape))
        low[axis] = min(low[axis], shape[axis] - 2) if shape[axis] > 1 else low[axis]
        high[axis] = min(low[axis] + 2, shape[axis])
    return _triple(low), _triple(high - low)


def _layer_extent(masks: Sequence[PackedMask], start: Extent) -> str:
    """Return the box of a layer in the stored grid: first and last x, y, z.

    Every segment of a layer names the same extent, because Slicer cuts the layer to the extent of
    the first one it meets.
    """
    filled = [mask for mask in masks if mask.bits.size]
    if not filled:
        return "0 -1 0 -1 0 -1"
    low = np.min([mask.start for mask in filled], axis=0) - start
    last = np.max([np.add(mask.start, mask.shape) for mask in filled], axis=0) - start - 1
    return " ".join(f"{low[axis]} {last[axis]}" for axis in (2, 1, 0))


def _segmentation_fields(geometry: Geometry, start: Extent) -> dict[str, str]:
    matrix = _LPS_RAS @ geometry.affine
    extent = [bound for size in geometry.shape[::-1] for bound in (0, size - 1)]
    reference = "".join(f"{value!r};" for value in [*(float(item) + 0.0 for item in matrix.flat), *extent])
    return {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ConversionParameters": f"{_GEOMETRY_PARAMETER}|{reference}|{_GEOMETRY_DESCRIPTION}&",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": " ".join(map(str, start[::-1])),
    }


def _segment_fields(
    structure: Structure, place: tuple[int, int], extent: str, segmentation: Segmentation
) -> dict[str, str]:
    empty = not segmentation.masks[structure.key].bits.size
    tags = slicertags.structure_tags(structure, algorithm=segmentation.algorithm, empty=empty)
    return {
        "ID": structure.key,
        "Name": structure.name,
        "NameAutoGenerated": "0",
        "Color": " ".join(f"{value / 255:.6g}" for value in structure.color),
        "ColorAutoGenerated": "0",
        "Extent": extent,
        "Layer": str(place[0]),
        "LabelValue": str(place[1]),
        "Tags": slicertags.format_tags(tags),
    }


def _draw(layer: np.ndarray, mask: PackedMask, low: Extent, label: int) -> None:
    """Add a mask to a (z, y, x) label map whose first voxel is `low` of the grid."""
    if not mask.bits.size:
        return
    box = mask.moved((-low[0], -low[1], -low[2])).box
    # Masks of a layer never meet, so that adding is setting.
    layer[box] += mask.unpack().view(np.uint8) * np.uint8(label)


def _interleaved(chunk: np.ndarray) -> bytes:
    """Turn (layer, z, y, x) into the bytes of (z, y, x, layer), the order of an NRRD list."""
    if len(chunk) == 1:
        return chunk.tobytes()
    mixed = np.empty((*chunk.shape[1:], len(chunk)), np.uint8)
    for index, layer in enumerate(chunk):
        mixed[..., index] = layer
    return mixed.tobytes()


def _planes_at_once(header: NrrdHeader) -> int:
    plane = header.shape[1] * header.shape[2] * header.layers * header.dtype.itemsize
    return max(1, _CHUNK_BYTES // plane)


def _segments(path: Path, header: NrrdHeader) -> list[_Segment]:
    """Read the ``SegmentN_*`` fields, in order.

    Older files lack a layer (then it is the index of the segment) or a label value (then it is 1).
    """
    values = header.values
    indices = sorted(int(match[1]) for name in values if (match := re.fullmatch(r"Segment(\d+)_ID", name)))
    if not indices:
        raise SegmentationError(f"{path} has no segments.", "Save it as a segmentation (.seg.nrrd).")
    segments: list[_Segment] = []
    for index in indices:
        fields = {name: values.get(f"Segment{index}_{name}", "") for name in ("ID", "Name", "Color", "Tags")}
        tags = slicertags.parse_tags(fields["Tags"])
        name = fields["Name"] or fields["ID"]
        key = _unused_key(
            [tags.get(slicertags.KEY, ""), slicertags.slug(name), slicertags.slug(fields["ID"])],
            {segment.structure.key for segment in segments},
        )
        structure = slicertags.structure_from_tags(tags, key=key, name=name, color=_color(fields["Color"]))
        layer = _integer(path, values, f"Segment{index}_Layer", index)
        label = _integer(path, values, f"Segment{index}_LabelValue", 1)
        if not 0 <= layer < header.layers or not 0 < label <= _MAX_LABEL:
            raise SegmentationError(
                f"Segment '{fields['ID']}' of {path} is label {label} of layer {layer}, "
                f"but the file has {header.layers} layers and labels up to {_MAX_LABEL}.",
                "Save it again from 3D Slicer.",
            )
        segments.append(_Segment(structure, layer, label, tags.get(slicertags.ALGORITHM_NAME, "")))
    return segments


def _unused_key(wishes: Sequence[str], used: set[str]) -> str:
    """Return the first wish that is not taken; a copy of a segment in Slicer keeps its tags."""
    for wish in wishes:
        if wish and wish not in used:
            return wish
    number = 2
    while f"{wishes[-1]}_{number}" in used:
        number += 1
    return f"{wishes[-1]}_{number}"


def _integer(path: Path, values: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(values.get(name, default))
    except ValueError as error:
        raise SegmentationError(f"{path} has {name} '{values[name]}', which is no whole number.") from error


def _color(text: str) -> tuple[int, int, int]:
    """Read three numbers from 0 to 1; gray when they are missing, as in Slicer."""
    try:
        red, green, blue = (min(255, max(0, round(255 * float(value)))) for value in text.split())
    except ValueError:
        return (128, 128, 128)
    return red, green, blue


def _algorithm(segments: Sequence[_Segment]) -> str:
    """Return the algorithm's name when every segment names the same one, else none."""
    names = {segment.algorithm for segment in segments}
    return names.pop() if len(names) == 1 else ""


def _read_masks(path: Path, stream: BinaryIO, header: NrrdHeader, segments: Sequence[_Segment]) -> list[PackedMask]:
    """Find every segment's voxels, chunk by chunk; one thread unpacks while this one searches."""
    parts: list[list[PackedMask]] = [[] for _ in segments]
    planes = _planes_at_once(header)
    chunks = read_planes(path, stream, header, planes)
    first = 0
    for chunk in ordered_map(lambda _: next(chunks), range(0, header.shape[0], planes), threads=1):
        for layer in {segment.layer for segment in segments}:
            wanted = {index: segment.label for index, segment in enumerate(segments) if segment.layer == layer}
            for index, mask in _found(chunk[..., layer], wanted, first):
                parts[index].append(mask)
        first += len(chunk)
    return [PackedMask.stacked(part) for part in parts]


def _found(labels: np.ndarray, wanted: Mapping[int, int], first: int) -> list[tuple[int, PackedMask]]:
    """Return the masks of the wanted label values (by index) in slices of which the first is `first`."""
    from scipy import ndimage  # imported on first use: it costs 0.2 s, and writing needs none of it

    # The search takes native integers in one piece, and is worth its time only around the masks.
    native = np.ascontiguousarray(labels, dtype=labels.dtype.newbyteorder("="))
    around = bounding_box(native)
    if around is None:
        return []
    low = [part.start for part in around]
    near = native[around]
    boxes = ndimage.find_objects(near, max_label=max(wanted.values()))
    result = []
    for index, label in wanted.items():
        box = boxes[label - 1]
        if box is not None:
            z, y, x = (part.start + at for part, at in zip(box, low, strict=True))
            inside = near[box] == label
            result.append((index, PackedMask((first + z, y, x), inside.shape, np.packbits(inside, axis=-1))))
    return result


def _stored_geometry(path: Path, header: NrrdHeader) -> Geometry:
    try:
        return _geometry(header.affine, header.shape)
    except ImageError as error:
        raise SegmentationError(f"{path}: {error.message}", error.hint) from error


def _geometry(affine: np.ndarray, shape: Extent) -> Geometry:
    axes = affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        direction = (axes / spacing).ravel()
    return Geometry(shape, _floats(spacing), _floats(affine[:3, 3]), tuple(float(value) for value in direction))


def _reference_geometry(values: Mapping[str, str]) -> Geometry | None:
    """Return the reference grid of the conversion parameters; ``None`` when there is no valid one."""
    parameters = values.get("Segmentation_ConversionParameters", "")
    match = re.search(rf"(?:^|&){_GEOMETRY_PARAMETER}\|([^|]*)\|", parameters)
    try:
        numbers = [float(value) for value in match[1].split(";") if value] if match else []
        if len(numbers) != 22:
            return None
        extent = np.array(numbers[16:], dtype=int).reshape(3, 2)
        affine = _LPS_RAS @ np.array(numbers[:16]).reshape(4, 4)
        # A reference extent may start elsewhere than at zero; the grid then starts there.
        affine[:3, 3] += affine[:3, :3] @ extent[:, 0]
        return _geometry(affine, _triple((extent[:, 1] - extent[:, 0] + 1)[::-1]))
    except (ValueError, ImageError):
        return None


def _contains(outer: Geometry, inner: Geometry) -> bool:
    offset = lattice_offset(inner, outer)
    return offset is not None and all(
        at >= 0 and at + size <= whole for at, size, whole in zip(offset, inner.shape, outer.shape, strict=True)
    )


def _triple(values: np.ndarray) -> Extent:
    z, y, x = (int(value) for value in values)
    return z, y, x


def _floats(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
