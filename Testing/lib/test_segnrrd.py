"""The .seg.nrrd format in detail, without Slicer: fields, layers, foreign files, damage."""

from __future__ import annotations

import gzip
import io
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_cases import arrays, grid, segmentation, structures

from PartialSegLib.errors import SegmentationError
from PartialSegLib.images import Geometry
from PartialSegLib.segmentation import PackedMask, Segmentation
from PartialSegLib.segmentationfiles import read_segmentation, segnrrd, write_segmentation
from PartialSegLib.segmentationfiles.segnrrd import write_segnrrd
from PartialSegLib.segmentationfiles.slicertags import parse_terminology_entry, terminology_entry


def written(drawn: Segmentation) -> tuple[dict[str, str], dict[str, str], bytes]:
    """Return the fields, the key/value pairs and the unpacked voxels of the file."""
    stream = io.BytesIO()
    write_segnrrd(drawn, stream)
    text, _, data = stream.getvalue().partition(b"\n\n")
    lines = [line for line in text.decode().split("\n")[1:] if not line.startswith("#")]
    values = dict(line.split(":=", 1) for line in lines if ":=" in line)
    fields = dict(line.split(": ", 1) for line in lines if ":=" not in line)
    return fields, values, gzip.decompress(data)


def boxes(*corners: tuple[tuple[int, int, int], tuple[int, int, int]]) -> Segmentation:
    """Return a segmentation of solid boxes, given as first and last voxel (z, y, x)."""
    drawn = {}
    for structure, (first, last) in zip(structures(), corners, strict=False):
        drawn[structure.key] = np.zeros(grid().shape, bool)
        drawn[structure.key][tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))] = True
    return Segmentation.from_arrays(grid(), structures()[: len(corners)], drawn, "Demo 1.0")


def test_structures_that_do_not_overlap_make_a_3d_file_of_their_common_box() -> None:
    fields, values, voxels = written(boxes(((2, 3, 4), (5, 6, 7)), ((8, 3, 9), (9, 3, 9))))
    assert fields["dimension"] == "3"
    assert fields["sizes"] == "6 4 8"
    assert fields["kinds"] == "domain domain domain"
    assert values["Segmentation_ReferenceImageExtentOffset"] == "4 3 2"
    labels = np.frombuffer(voxels, np.uint8).reshape(8, 4, 6)
    assert labels[0, 0, 0] == int(values["Segment0_LabelValue"]) == 1
    assert labels[6, 0, 5] == int(values["Segment1_LabelValue"]) == 2
    assert values["Segment0_Layer"] == values["Segment1_Layer"] == "0"


def test_structures_that_overlap_make_layers_on_the_fastest_axis() -> None:
    fields, values, voxels = written(boxes(((0, 0, 0), (5, 5, 5)), ((3, 3, 3), (8, 8, 8))))
    assert fields["sizes"] == "2 9 9 9"
    assert fields["kinds"] == "list domain domain domain"
    assert fields["space directions"].startswith("none (")
    layers = np.frombuffer(voxels, np.uint8).reshape(9, 9, 9, 2)
    assert layers[4, 4, 4].tolist() == [1, 1]
    assert sorted(layers[0, 0, 0].tolist()) == [0, 1]
    assert {values["Segment0_Layer"], values["Segment1_Layer"]} == {"0", "1"}


def test_segments_of_a_layer_name_one_extent_because_slicer_cuts_the_layer_to_the_first() -> None:
    _, values, _ = written(boxes(((2, 3, 4), (5, 6, 7)), ((8, 3, 9), (9, 3, 9))))
    assert values["Segment0_Extent"] == values["Segment1_Extent"] == "0 5 0 3 0 7"


def test_tags_carry_terminology_containment_status_and_algorithm() -> None:
    _, values, _ = written(boxes(((0, 0, 0), (5, 5, 5)), ((1, 1, 1), (2, 2, 2))))
    assert values["Segment1_ID"] == "liver_tumor"
    assert values["Segment1_Tags"] == (
        "DICOM.SegmentAlgorithmName:Demo 1.0|DICOM.SegmentAlgorithmType:AUTOMATIC|"
        "PartialSeg.ContainedIn:liver|PartialSeg.Key:liver_tumor|Segmentation.Status:inprogress|"
        "TerminologyEntry:Segmentation category and type - 3D Slicer General Anatomy list"
        "~SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass~^^"
        "~Anatomic codes - DICOM master list~SCT^10200004^Liver~^^|"
    )


def test_every_code_of_the_label_spaces_survives_the_terminology_entry() -> None:
    for structure in structures():
        codes = parse_terminology_entry(terminology_entry(structure))
        expected = (structure.category, structure.type, structure.type_modifier)
        assert (codes.category, codes.type, codes.type_modifier) == expected
        assert (codes.region, codes.region_modifier) == (structure.region, structure.region_modifier)


def test_a_single_voxel_gets_a_neighbor_because_slicer_takes_one_voxel_for_none() -> None:
    shape = grid().shape
    last = tuple(size - 1 for size in shape)
    single = boxes((last, last))
    fields, _, _ = written(single)
    assert np.prod([int(size) for size in fields["sizes"].split()]) == 2


@pytest.mark.parametrize("corner", [(0, 0, 0), tuple(size - 1 for size in grid().shape)])
def test_a_single_voxel_in_a_corner_comes_back(tmp_path: Path, corner: tuple[int, int, int]) -> None:
    write_segmentation(boxes((corner, corner)), tmp_path / "a.seg.nrrd")
    read = read_segmentation(tmp_path / "a.seg.nrrd")
    assert np.argwhere(read.array("liver")).tolist() == [list(corner)]


def test_a_segmentation_without_any_voxel_keeps_its_grid_and_structures(tmp_path: Path) -> None:
    empty = Segmentation(grid("oblique"), structures(), {}, "Demo 1.0")
    write_segmentation(empty, tmp_path / "a.seg.nrrd")
    read = read_segmentation(tmp_path / "a.seg.nrrd")
    assert read.structures == empty.structures
    assert read.geometry.matches(empty.geometry, 1e-9)
    assert all(mask.count == 0 for mask in read.masks.values())


def test_more_structures_than_label_values_use_further_layers(tmp_path: Path) -> None:
    many = tuple(replace(structures()[0], key=f"structure_{index}") for index in range(300))
    masks = {
        item.key: PackedMask.from_array(np.ones((1, 1, 1), bool), offset=(index // 30, index % 15, index % 27))
        for index, item in enumerate(many)
    }
    drawn = Segmentation(grid(), many, masks)
    write_segmentation(drawn, tmp_path / "a.seg.nrrd")
    read = read_segmentation(tmp_path / "a.seg.nrrd")
    for key in drawn.keys:
        assert np.array_equal(read.array(key), drawn.array(key))


def test_names_with_any_characters_come_back(tmp_path: Path) -> None:
    odd = replace(structures()[0], name="Läsion \\n: 50 % := größer")
    drawn = Segmentation.from_arrays(grid(), [odd], {"liver": arrays()["liver"]})
    write_segmentation(drawn, tmp_path / "a.seg.nrrd")
    assert read_segmentation(tmp_path / "a.seg.nrrd").structures == (odd,)


def test_the_stored_box_lies_where_the_image_has_it(tmp_path: Path) -> None:
    drawn = boxes(((2, 3, 4), (5, 6, 7)))
    write_segmentation(drawn, tmp_path / "a.seg.nrrd")
    path = tmp_path / "a.seg.nrrd"
    # Without the reference grid, only the stored box is known.
    path.write_bytes(re.sub(rb"Segmentation_ConversionParameters:=[^\n]*\n", b"", path.read_bytes()))
    stored = read_segmentation(path)
    assert stored.geometry.shape == (4, 4, 4)
    corner = (drawn.geometry.affine @ [4, 3, 2, 1])[:3]
    assert np.allclose(stored.geometry.origin, corner, rtol=0, atol=1e-12)
    assert np.array_equal(read_segmentation(path, geometry=grid()).array("liver"), drawn.array("liver"))


def foreign(path: Path, labels: np.ndarray, lines: list[str], encoding: str = "raw") -> None:
    """Write a minimal .seg.nrrd as other software might."""
    header = ["NRRD0005", *lines, f"encoding: {encoding}", "", ""]
    data = labels.tobytes()
    path.write_bytes("\r\n".join(header).encode() + (gzip.compress(data) if encoding == "gz" else data))


RAS_LINES = [
    "type: short",
    "dimension: 3",
    "space: right-anterior-superior",
    "sizes: 5 4 3",
    "space directions: (-2,0,0) (0,-1,0) (0,0,3)",
    "space origin: (10,20,30)",
    "endian: big",
    "Segment0_ID:=Segment_1",
    "Segment0_Name:=Liver Tumor 2",
    "Segment0_Color:=1 0.5 0",
    "Segment0_Layer:=0",
    "Segment0_LabelValue:=7",
    "Segment1_ID:=Segment_2",
    "Segment1_Name:=Liver tumor 2",
    "Segment1_LabelValue:=300",
    "Segment1_Layer:=0",
]


@pytest.mark.parametrize("encoding", ["raw", "gz"])
def test_a_file_of_other_software_is_read_from_its_own_header(tmp_path: Path, encoding: str) -> None:
    labels = np.random.default_rng(0).choice([0, 7, 8, 300], (3, 4, 5)).astype(">i2")
    foreign(tmp_path / "a.seg.nrrd", labels, RAS_LINES, encoding)
    read = read_segmentation(tmp_path / "a.seg.nrrd")
    assert read.keys == ("liver_tumor_2", "segment_2")
    assert [item.name for item in read.structures] == ["Liver Tumor 2", "Liver tumor 2"]
    assert read.structures[0].color == (255, 128, 0)
    assert read.structures[0].type.meaning == "Tissue"
    assert np.array_equal(read.array("liver_tumor_2"), labels == 7)
    assert np.array_equal(read.array("segment_2"), labels == 300)
    assert read.geometry == Geometry((3, 4, 5), (2.0, 1.0, 3.0), (-10.0, -20.0, 30.0))


def test_a_file_of_older_slicer_has_one_layer_per_segment(tmp_path: Path) -> None:
    """Slicer before 4.11 wrote neither layer nor label value."""
    layers = np.random.default_rng(0).integers(0, 2, (3, 4, 5, 2)).astype(">i2")
    lines = [line for line in RAS_LINES if "Layer" not in line and "LabelValue" not in line]
    lines[1:5] = [
        "dimension: 4",
        "space: right-anterior-superior",
        "sizes: 2 5 4 3",
        "space directions: none (-2,0,0) (0,-1,0) (0,0,3)",
    ]
    foreign(tmp_path / "a.seg.nrrd", layers, lines)
    read = read_segmentation(tmp_path / "a.seg.nrrd")
    for layer, key in enumerate(read.keys):
        assert np.array_equal(read.array(key), layers[..., layer] == 1)


@pytest.mark.parametrize(
    ("line", "replacement", "complaint"),
    [
        ("NRRD0005", "NIfTI", "is no NRRD file"),
        ("type: short", "type: float", "type 'float'"),
        ("sizes: 5 4 3", "sizes: 5 4 3 2", "three axes in space"),
        ("sizes: 5 4 3", "sizes: 5 x 3", "three axes in space"),
        ("space: right-anterior-superior", "space: scanner-xyz", "'scanner-xyz'"),
        ("(0,0,3)", "(0,0)", "does not say where its voxels lie"),
        ("(0,0,3)", "(0,0,0)", "not positive"),
        ("encoding: raw", "encoding: bzip2", "bzip2"),
        ("endian: big", "data file: b.raw", "another file"),
        ("Segment0_Layer:=0", "Segment0_Layer:=1", "label 7 of layer 1"),
        ("Segment0_Layer:=0", "Segment0_Layer:=top", "no whole number"),
        ("Segment", "Region", "has no segments"),
    ],
)
def test_a_file_that_is_no_segmentation_is_refused_with_its_name(
    tmp_path: Path, line: str, replacement: str, complaint: str
) -> None:
    path = tmp_path / "a.seg.nrrd"
    foreign(path, np.zeros((3, 4, 5), ">i2"), RAS_LINES)
    path.write_bytes(path.read_bytes().replace(line.encode(), replacement.encode()))
    with pytest.raises(SegmentationError, match=complaint) as caught:
        read_segmentation(path)
    assert "a.seg.nrrd" in caught.value.message


@pytest.mark.parametrize("encoding", ["raw", "gz"])
def test_a_truncated_file_is_refused(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.seg.nrrd"
    labels = np.random.default_rng(0).integers(0, 300, (3, 4, 5)).astype(">i2")
    foreign(path, labels, RAS_LINES, encoding)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SegmentationError, match=r"a\.seg\.nrrd (ends|is damaged) at slice 0"):
        read_segmentation(path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(segmentation(), path)
    data = bytearray(path.read_bytes())
    data[-200:-100] = bytes(100)
    path.write_bytes(data)
    with pytest.raises(SegmentationError, match="is damaged at slice"):
        read_segmentation(path)


def test_a_header_that_never_ends_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.seg.nrrd"
    path.write_bytes(b"NRRD0004\ntype: unsigned char\n")
    with pytest.raises(SegmentationError, match="has no end"):
        read_segmentation(path)


@pytest.mark.parametrize("planes", [1, 3, 5])
def test_a_file_is_the_same_in_however_many_blocks_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planes: int
) -> None:
    drawn = segmentation("oblique")
    fields, values, voxels = written(drawn)
    plane = np.prod([int(size) for size in fields["sizes"].split()[:-1]])
    monkeypatch.setattr(segnrrd, "_CHUNK_BYTES", planes * plane)
    assert written(drawn) == (fields, values, voxels)
    write_segmentation(drawn, tmp_path / "a.seg.nrrd")
    read = read_segmentation(tmp_path / "a.seg.nrrd")
    for key in drawn.keys:
        assert np.array_equal(read.array(key), drawn.array(key))


def test_memory_while_writing_is_a_few_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = 1 << 20
    monkeypatch.setattr(segnrrd, "_CHUNK_BYTES", block)
    # Two masks that fill 1200 slices, one inside the other: two layers of 75 blocks each.
    mask = PackedMask((0, 0, 0), (1200, 256, 256), np.full((1200, 256, 32), 255, np.uint8))
    drawn = Segmentation(grid(shape=(1200, 256, 256)), structures()[:2], {"liver": mask, "liver_tumor": mask})
    tracemalloc.start()
    write_segmentation(drawn, tmp_path / "a.seg.nrrd")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # At most four threads, six blocks in flight, and three copies of a block while it is made.
    assert peak < 6 * 3 * block
