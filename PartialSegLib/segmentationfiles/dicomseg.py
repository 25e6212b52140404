"""DICOM Segmentation objects: the masks as an archive keeps them beside the images.

Written and read through ``highdicom`` (the extra ``partialseg[dicom]``): one binary segment per
structure, so that structures may overlap, every frame tied to the slice it was drawn on (DICOM
PS3.3 A.51 and C.8.20). :func:`PartialSegLib.segmentationfiles.write_segmentation` and
``read_segmentation`` call this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import PartialSegLib
from PartialSegLib.errors import SegmentationError
from PartialSegLib.images import Geometry, Image
from PartialSegLib.segmentation import PackedMask, Segmentation
from PartialSegLib.segmentationfiles.slicertags import TISSUE, slug
from PartialSegLib.structures import Code, Structure

MANUFACTURER = "PartialSeg"
#: Number of the series that the object forms; viewers list it after the images.
SERIES_NUMBER = 300

# Key and containment have no attribute of their own, so they lie in a private block of each segment
# (DICOM PS3.5 section 7.8), which other software carries along or leaves out.
_PRIVATE_GROUP, _PRIVATE_CREATOR, _KEY, _CONTAINED_IN = 0x0063, "PartialSeg", 0x01, 0x02
#: Attributes of type 2, which highdicom wants to find but de-identification may have removed.
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)
_LONGEST_LABEL = 64


def write_dicomseg(segmentation: Segmentation, stream: BinaryIO, image: Image) -> None:
    """Write one DICOM Segmentation object with new UIDs, in the study of the image.

    Structures without a voxel are left out, because a segment needs a frame. highdicom takes dense
    masks: memory is up to one byte per pixel of every slice of every structure, and eight bytes
    per voxel of the image.

    Parameters
    ----------
    segmentation : Segmentation
        On the grid of `image`. When :attr:`~Segmentation.algorithm` is empty the segments are
        marked MANUAL, otherwise AUTOMATIC with that name.
    stream : binary file
        Open for writing.
    image : Image
        Read from DICOM, one file per slice.

    Raises
    ------
    SegmentationError
        When highdicom is missing, the image does not come from DICOM or lies on another grid,
        every mask is empty, or the series lacks what a derived object needs.
    """
    highdicom = _highdicom()
    _check_source(segmentation, image)
    filled = [structure for structure in segmentation.structures if segmentation.masks[structure.key].bits.size]
    if not filled:
        raise SegmentationError(
            "A DICOM segmentation needs a voxel, but every mask is empty.", "Write .seg.nrrd to keep empty masks."
        )
    sources = _read_sources(image.dicom_files)
    name = f"PartialSeg: {segmentation.algorithm}" if segmentation.algorithm else "PartialSeg"
    try:
        dataset = highdicom.seg.Segmentation(
            source_images=sources,
            pixel_array=_stack(segmentation, filled),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _describe(highdicom, number, structure, segmentation.algorithm)
                for number, structure in enumerate(filled, start=1)
            ],
            series_instance_uid=highdicom.UID(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name="PartialSegLib",
            software_versions=PartialSegLib.__version__,
            device_serial_number="0",
            content_label="SEGMENTATION",
            content_description=name[:_LONGEST_LABEL],
            series_description=name[:_LONGEST_LABEL],
            omit_empty_frames=True,
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise SegmentationError(
            f"No DICOM segmentation can be derived from '{image.dicom_files[0].parent}': {str(error).rstrip('.')}.",
            "Write .seg.nrrd, or repair the series.",
        ) from error
    dataset.save_as(stream)


def read_dicomseg(path: Path, image: Image | None = None) -> Segmentation:
    """Read a DICOM Segmentation object, of this library or of other software.

    Parameters
    ----------
    path : Path
    image : Image, optional
        The image on which it was made. Read from DICOM, its slices are found by their UIDs, which
        also works for a series with gantry tilt. Otherwise the object's own regular grid must
        coincide with the image's; without an image the masks come back on that grid.

    Raises
    ------
    SegmentationError
        When highdicom is missing, the file is no DICOM segmentation, it was made on other slices,
        or its frames form no regular grid and no DICOM image is given.
    """
    highdicom = _highdicom()
    import pydicom

    try:
        dataset = highdicom.seg.segread(path)
    except (OSError, pydicom.errors.InvalidDicomError, AttributeError, TypeError, ValueError) as error:
        raise SegmentationError(f"{path} is no readable DICOM segmentation: {error}.") from error
    numbers = list(dataset.segment_numbers)
    segments = [dataset.get_segment_description(number) for number in numbers]
    structures = _structures(highdicom, segments)
    if image is not None and image.dicom_files:
        uids = [str(source.SOPInstanceUID) for source in _read_sources(image.dicom_files)]
        return Segmentation(
            image.geometry,
            structures,
            dict(zip((item.key for item in structures), _by_slice(path, dataset, numbers, uids), strict=True)),
            _algorithm(segments),
        )
    geometry, upside_down = _own_geometry(path, dataset)
    masks = {}
    for number, structure in zip(numbers, structures, strict=True):
        array = dataset.get_volume(segment_numbers=[number]).array[..., 0]
        masks[structure.key] = PackedMask.from_array(array[::-1] if upside_down else array)
    segmentation = Segmentation(geometry, structures, masks, _algorithm(segments))
    return segmentation if image is None else segmentation.on(image.geometry)


def _highdicom() -> Any:
    """Import highdicom on first use."""
    try:
        import highdicom
    except ImportError as error:
        raise SegmentationError(
            "DICOM segmentations need the package highdicom, which is not installed.",
            "Install it with: pip install partialseg[dicom]",
        ) from error
    return highdicom


def check_source(image: Image) -> None:
    """Refuse an image from which no DICOM segmentation can be derived, or when highdicom is missing."""
    _highdicom()
    if not image.dicom_files:
        raise SegmentationError(
            f"A DICOM segmentation needs the DICOM slices it was made on, but '{image.source}' is no DICOM series.",
            "Write .seg.nrrd, or segment the DICOM folder.",
        )
    if len(image.dicom_files) != image.geometry.shape[0]:
        raise SegmentationError(
            f"The image has {image.geometry.shape[0]} slices but {len(image.dicom_files)} DICOM files.",
            "Write .seg.nrrd.",
        )
    (first,) = _read_sources(image.dicom_files[:1])
    if not first.get("FrameOfReferenceUID"):
        raise SegmentationError(
            f"No DICOM segmentation can be derived from '{first.filename}': it has no FrameOfReferenceUID.",
            "Write .seg.nrrd, or repair the series.",
        )


def _check_source(segmentation: Segmentation, image: Image) -> None:
    check_source(image)
    if not segmentation.geometry.matches(image.geometry):
        raise SegmentationError(
            f"The segmentation lies on a grid of {segmentation.geometry.shape} voxels (z, y, x), "
            f"which is not the image's {image.geometry.shape}.",
            "Choose the image on which it was made.",
        )


def _read_sources(files: Sequence[Path]) -> list[Any]:
    """Read the slices' attributes without their pixels, in z order."""
    import pydicom

    sources = []
    for file in files:
        try:
            source = pydicom.dcmread(file, stop_before_pixels=True)
        except (OSError, pydicom.errors.InvalidDicomError) as error:
            raise SegmentationError(f"The slice {file} cannot be read: {error}.", "Restore the series.") from error
        for keyword in _MAY_BE_EMPTY:
            if keyword not in source:
                setattr(source, keyword, "")
        sources.append(source)
    return sources


def _stack(segmentation: Segmentation, structures: Sequence[Structure]) -> np.ndarray:
    """Return the masks as highdicom takes them: (z, y, x, segment) booleans, a byte each.

    The memory is laid out segment after segment and written inside the boxes only, so that the
    system provides pages for the slices that a structure fills, not for all of them.
    """
    stack = np.zeros((len(structures), *segmentation.geometry.shape), bool)
    for whole, structure in zip(stack, structures, strict=True):
        mask = segmentation.masks[structure.key]
        whole[mask.box] = mask.unpack()
    return np.moveaxis(stack, 0, -1)


def _describe(highdicom: Any, number: int, structure: Structure, algorithm: str) -> Any:
    """Return the item of the Segment Sequence (PS3.3 C.8.20.4)."""
    from pydicom.sr.codedict import codes

    identification = None
    if algorithm:
        identification = highdicom.AlgorithmIdentificationSequence(
            name=algorithm[:_LONGEST_LABEL],
            family=codes.cid7162.ArtificialIntelligence,
            version=PartialSegLib.__version__,
        )
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=structure.name[:_LONGEST_LABEL],
        segmented_property_category=_concept(structure.category),
        segmented_property_type=_concept(structure.type),
        algorithm_type="AUTOMATIC" if algorithm else "MANUAL",
        algorithm_identification=identification,
        tracking_uid=highdicom.UID(),
        tracking_id=structure.key,
        anatomic_regions=[_concept(structure.region)] if structure.region else None,
        display_color=highdicom.color.CIELabColor.from_rgb(*structure.color),
    )
    if structure.type_modifier:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(structure.type_modifier)]
    if structure.region and structure.region_modifier:
        region = description.AnatomicRegionSequence[0]
        region.AnatomicRegionModifierSequence = [_concept(structure.region_modifier)]
    block = description.private_block(_PRIVATE_GROUP, _PRIVATE_CREATOR, create=True)
    block.add_new(_KEY, "LO", structure.key)
    if structure.contained_in is not None:
        block.add_new(_CONTAINED_IN, "LO", structure.contained_in)
    return description


def _concept(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning[:_LONGEST_LABEL])


def _structures(highdicom: Any, segments: Sequence[Any]) -> tuple[Structure, ...]:
    """Rebuild the structures; segments of other software get keys from their labels."""
    structures: dict[str, Structure] = {}
    for segment in segments:
        label = str(segment.get("SegmentLabel", "")) or f"Segment {segment.SegmentNumber}"
        key = _private(segment, _KEY) or slug(label)
        if key in structures:
            key = f"{key}_{segment.SegmentNumber}"
        kind = _item(segment, "SegmentedPropertyTypeCodeSequence")
        region = _item(segment, "AnatomicRegionSequence")
        structures[key] = Structure(
            key=key,
            name=label,
            category=_code(_item(segment, "SegmentedPropertyCategoryCodeSequence")) or TISSUE,
            type=_code(kind) or TISSUE,
            color=_color(highdicom, segment),
            region=_code(region),
            type_modifier=_code(_item(kind, "SegmentedPropertyTypeModifierCodeSequence")),
            region_modifier=_code(_item(region, "AnatomicRegionModifierSequence")),
            contained_in=_private(segment, _CONTAINED_IN),
        )
    return tuple(structures.values())


def _item(dataset: Any, keyword: str) -> Any:
    """Return the first item of a sequence, or ``None``."""
    sequence = None if dataset is None else dataset.get(keyword)
    return sequence[0] if sequence else None


def _code(item: Any) -> Code | None:
    if item is None:
        return None
    return Code(str(item.CodeValue), str(item.CodeMeaning), str(item.CodingSchemeDesignator))


def _private(segment: Any, element: int) -> str | None:
    try:
        return str(segment.private_block(_PRIVATE_GROUP, _PRIVATE_CREATOR)[element].value)
    except KeyError:
        return None


def _color(highdicom: Any, segment: Any) -> tuple[int, int, int]:
    value = segment.get("RecommendedDisplayCIELabValue")
    if value is None:
        return (128, 128, 128)
    red, green, blue = highdicom.color.CIELabColor.from_dicom_value(tuple(value)).to_rgb()
    return int(red), int(green), int(blue)


def _algorithm(segments: Sequence[Any]) -> str:
    """Return the algorithm's name when every segment names the same one, else none."""
    names = {str(segment.get("SegmentAlgorithmName", "")) for segment in segments}
    return names.pop() if len(names) == 1 else ""


def _by_slice(path: Path, dataset: Any, numbers: Sequence[int], uids: Sequence[str]) -> list[PackedMask]:
    """Return one mask per segment; slice z is the frames drawn on the instance ``uids[z]``."""
    known = {str(uid) for _, _, uid in dataset.get_source_image_uids()}
    if not known & set(uids):
        raise SegmentationError(
            f"{path} was drawn on other slices than those of the image.", "Choose the series it refers to."
        )
    try:
        return [
            PackedMask.from_array(
                dataset.get_pixels_by_source_instance(
                    uids, segment_numbers=[number], assert_missing_frames_are_empty=True
                )[..., 0]
            )
            for number in numbers
        ]
    except (KeyError, RuntimeError, ValueError) as error:
        raise SegmentationError(
            f"The frames of {path} do not lie on the slices of the image: {error}.",
            "Choose the series it refers to.",
        ) from error


def _own_geometry(path: Path, dataset: Any) -> tuple[Geometry, bool]:
    """Return the regular grid that the frames form, and whether highdicom's slices run against it.

    Slices ascend along their normal, as in an image that the library reads from DICOM.
    """
    volume = dataset.get_volume_geometry(allow_missing_positions=True)
    if volume is None:
        raise SegmentationError(
            f"The frames of {path} form no regular grid.", "Give the DICOM series it was made on (image=)."
        )
    depth, height, width = (int(size) for size in volume.spatial_shape)
    # highdicom's indices are (slice, row, column); ours are (x, y, z).
    affine = np.asarray(volume.affine)[:, [2, 1, 0, 3]]
    upside_down = bool(np.linalg.det(affine[:3, :3]) < 0)
    if upside_down:
        affine[:3, 3] += affine[:3, 2] * (depth - 1)
        affine[:3, 2] *= -1
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    sx, sy, sz = (float(value) for value in spacing)
    x, y, z = (float(value) for value in affine[:3, 3])
    direction = tuple(float(value) for value in (affine[:3, :3] / spacing).ravel())
    return Geometry((depth, height, width), (sx, sy, sz), (x, y, z), direction), upside_down
