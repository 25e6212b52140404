"""Images prepared as published systems prepared theirs, from data on the card, and their results brought back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.transform import resize

import vectors
from bundles import TINY_WINDOW, random_bundle
from PartialSegLib.images import Geometry, Image
from PartialSegLib.inference import Predictor
from PartialSegLib.inference.export import SlabExporter
from PartialSegLib.inference.slabs import SlabRing
from PartialSegLib.inference.windows import WindowGrid
from PartialSegLib.normalization import normalize_foreground
from PartialSegLib.preparation import DODNET, NNUNET_V1, NNUNET_V2, OURS, Preprocessing, Resampling
from PartialSegLib.preprocessing import NetworkGrid, find_crop, make_grid, orientation, padding_value, prepare
from PartialSegLib.resampling import new_size, resample_image, resample_mask, separate_axis
from PartialSegLib.structures import LabelSpace

WIDE = (-1e5, 1e5)
#: MultiTalent's card: CT of nnU-Net v1.
MULTITALENT = Preprocessing(
    (1.0, 1.0, 1.5),
    (-927.0, 275.0),
    63.436882,
    175.48094,
    orientation="xyz",
    body_threshold=None,
    crop_to_nonzero=True,
    padding_value=0.0,
    padding_place="both",
    resampling=NNUNET_V1,
)
#: Case of the nnU-Net vectors: voxels and spacing (x, y, z) of an image.
CASES = {"aniso": ((12, 40, 44), (0.8, 0.8, 5.0)), "iso": ((24, 36, 40), (0.7, 0.7, 2.0))}


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    return dict(vectors.arrays("preprocessing"))


def noise(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def whole(shape: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    return slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])


# ---- the vectors


@pytest.mark.parametrize("case", CASES)
def test_ct_is_prepared_as_nnunet_does(published: dict[str, np.ndarray], case: str) -> None:
    shape, spacing = CASES[case]
    prepared = prepare(Image(noise(40, shape, 300), Geometry(shape, spacing)), MULTITALENT)
    assert prepared.grid.separate_axis == (0 if case == "aniso" else None)
    np.testing.assert_allclose(prepared.volume.numpy(), published[f"nnunet_{case}_data"][0], atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_masks_are_resampled_as_nnunet_does(published: dict[str, np.ndarray], case: str) -> None:
    shape, spacing = CASES[case]
    labels = np.random.default_rng(41).integers(0, 3, shape)
    grid = make_grid(Geometry(shape, spacing), MULTITALENT, MULTITALENT.spacing, whole(shape))
    shares = np.stack([resample_mask(labels == value, grid.shape, NNUNET_V1, grid.separate_axis) for value in range(3)])
    # Its labels exclude each other: the largest share wins. Equal shares are settled by rounding.
    ranked = np.sort(shares, axis=0)
    settled = ranked[2] - ranked[1] > 1e-5
    assert settled.mean() > 0.99
    np.testing.assert_array_equal(shares.argmax(0)[settled], published[f"nnunet_{case}_seg"][0][settled])


@pytest.mark.parametrize(("vector", "anti_aliasing"), [("respacing_up_int32", True), ("respacing_noaa_int32", False)])
def test_ct_is_respaced_as_dodnet_does(published: dict[str, np.ndarray], vector: str, anti_aliasing: bool) -> None:
    voxels = np.round(np.random.default_rng(43).standard_normal((10, 30, 34)) * 200).astype(np.float32)
    image = Image(voxels, Geometry(voxels.shape, (30.5 / 34, 26.5 / 30, 1.65)))
    rules = Preprocessing(
        (1.0, 1.0, 1.0), WIDE, orientation="xyz", body_threshold=None,
        resampling=replace(DODNET, anti_aliasing=anti_aliasing),
    )  # fmt: skip
    np.testing.assert_array_equal(prepare(image, rules).volume.numpy(), published[vector])


class Given:
    """Logits that are already known."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits.flatten(1)

    def fill(self, start: int, stop: int, out: torch.Tensor) -> None:
        out[:, : stop - start] = self._logits[:, start:stop]


def exported(probabilities: np.ndarray, grid: NetworkGrid, windows: WindowGrid) -> np.ndarray:
    """Send (C, D, H, W) probabilities through the slab engine; padding claims to be inside."""
    padded = torch.full((len(probabilities), *windows.shape), 20.0)
    inner = tuple(slice(at, at + size) for at, size in zip(windows.offset, grid.shape, strict=True))
    padded[(slice(None), *inner)] = torch.from_numpy(probabilities).logit()
    ring = SlabRing(len(probabilities), windows, torch.device("cpu"))
    exporter = SlabExporter(grid, windows, len(probabilities), torch.device("cpu"), confidence=True)
    ends = [*windows.starts[0][1:], windows.shape[0]]
    for (first, starts), last in zip(windows.rows(), ends, strict=True):
        for start in starts:
            part = tuple(slice(at, at + size) for at, size in zip(start, windows.window, strict=True))
            ring.add(start, Given(padded[(slice(None), *part)]))
        exporter.take(ring, first, last)
        ring.clear(max(first - 1, 0), last - 1)
    masks = np.zeros((len(probabilities), *grid.image.shape), bool)
    for mask, found in zip(masks, exporter.masks(), strict=True):
        mask[found.box] = found.unpack()
    return masks


def test_half_precision_loses_no_voxel_in_the_corners_of_windows() -> None:
    windows = WindowGrid.over((64, 96, 96), (64, 64, 64), 0.5)
    rings = [SlabRing(1, windows, torch.device("cpu"), dtype) for dtype in (torch.float16, torch.float32)]
    for _, starts in windows.rows():
        for start in starts:
            for ring in rings:
                ring.add(start, Given(torch.full((1, *windows.window), 0.4)), 1 / 8)
    half, single = (ring.values.float() / ring.gain for ring in rings)
    assert (half > 0).all()
    inside = single > 1e-4
    assert torch.allclose(half[inside], single[inside], rtol=2e-3)


@pytest.mark.parametrize("turned", [0, 1, 2])
@pytest.mark.parametrize("vector", ["export_order1_sepz", "export_order1_3d"])
@pytest.mark.parametrize("window", [(8, 16, 16), (17, 41, 16), (40, 12, 33)])
def test_probabilities_come_back_as_in_nnunet(
    published: dict[str, np.ndarray], vector: str, turned: int, window: tuple[int, int, int]
) -> None:
    given = np.random.default_rng(42).random((2, 12, 30, 28)).astype(np.float32)
    # The slices of the vector, stacked along each axis in turn.
    probabilities, expected = (np.moveaxis(array, 1, 1 + turned).copy() for array in (given, published[vector]))
    shape, axis = expected.shape[1:], turned if vector.endswith("sepz") else None
    own = probabilities.shape[1:]
    grid = NetworkGrid(Geometry(shape), (0, 1, 2), (False,) * 3, whole(shape), own, NNUNET_V1, axis)
    masks = exported(probabilities, grid, WindowGrid.over(grid.shape, window, 0.5, centered=True))
    settled = np.abs(expected - 0.5) > 1e-5
    assert settled.mean() > 0.999
    np.testing.assert_array_equal(masks[settled], expected[settled] > 0.5)


# ---- beyond the vectors: other sizes, borders and axes


@pytest.mark.parametrize("border", ["edge", "mirror", "zero"])
@pytest.mark.parametrize("anti_aliasing", [True, False])
@pytest.mark.parametrize("shape", [(5, 31, 9), (23, 8, 17), (1, 1, 40)])
def test_cubic_interpolation_is_that_of_scikit_image(
    border: str, anti_aliasing: bool, shape: tuple[int, int, int]
) -> None:
    image = noise(1, (14, 18, 17), 500)
    mode = {"edge": "edge", "mirror": "reflect", "zero": "constant"}[border]
    expected = resize(image.astype(np.float64), shape, order=3, mode=mode, anti_aliasing=anti_aliasing)
    found = resample_image(image, shape, Resampling("cubic", border=border, anti_aliasing=anti_aliasing))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_are_images_of_their_own_along_any_axis(axis: int) -> None:
    image = noise(2, (15, 15, 15), 100)
    flat = tuple(10 if other == axis else 21 for other in range(3))
    found = resample_image(image, (flat[0], flat[1], flat[2]), NNUNET_V1, axis)
    for index, source in zip(range(10), (0, 2, 3, 5, 6, 8, 9, 11, 12, 14), strict=True):
        expected = resize(image.take(source, axis).astype(np.float64), (21, 21), order=3, mode="edge")
        np.testing.assert_allclose(found.numpy().take(index, axis), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("spacing", "wanted", "axis"),
    [
        ((5.0, 0.8, 0.8), (1.5, 1.0, 1.0), 0),
        ((0.8, 0.8, 5.0), (1.5, 1.0, 1.0), 2),
        ((2.4, 0.8, 0.8), (1.5, 1.0, 1.0), None),  # three times is not more than three
        ((1.0, 1.0, 1.0), (4.0, 1.0, 1.0), 0),  # thick slices on the network's side
        ((0.2, 1.0, 1.0), (4.0, 1.0, 1.0), None),  # the image's spacing decides: two axes are coarse
    ],
)
def test_one_coarse_axis_is_resampled_apart(
    spacing: tuple[float, ...], wanted: tuple[float, ...], axis: int | None
) -> None:
    assert separate_axis(spacing, wanted, NNUNET_V1) == axis
    assert separate_axis(spacing, wanted, OURS) is None


def test_sizes_are_rounded_as_the_card_says() -> None:
    assert [new_size(10, spacing, 1.0, OURS) for spacing in (0.76, 0.74, 0.001)] == [8, 7, 1]
    assert [new_size(10, spacing, 1.0, DODNET) for spacing in (0.79, 0.7, 0.001)] == [7, 7, 1]


# ---- intensities


def test_intensities_are_clipped_before_or_after_resampling() -> None:
    voxels = np.zeros((1, 1, 8), np.float32)
    voxels[..., 4:] = 1000.0
    image = Image(voxels, Geometry(voxels.shape, (2.0, 1.0, 1.0)))
    rules = Preprocessing((1.0, 1.0, 1.0), (0.0, 500.0), orientation="xyz", body_threshold=None, resampling=NNUNET_V1)
    late = prepare(image, rules).volume.flatten()
    early = prepare(image, replace(rules, resampling=replace(NNUNET_V1, clip="before"))).volume.flatten()
    # Half way up the edge, clipping first halves what resampling first saturates.
    torch.testing.assert_close(late[8], torch.tensor(500.0))
    assert early[8] < 420


@pytest.mark.parametrize("resampling", [NNUNET_V1, NNUNET_V2, OURS])
def test_an_image_is_normalized_by_what_it_contains(resampling: Resampling) -> None:
    voxels = noise(3, (10, 20, 20), 40) + 900
    image = Image(voxels, Geometry(voxels.shape, (0.7, 0.7, 2.0)))
    rules = Preprocessing(
        (1.0, 1.0, 1.0), (850.0, 1e5), body_threshold=None,
        normalization="image", padding_value=0.0, resampling=resampling,
    )  # fmt: skip
    fixed = replace(rules, normalization="fixed", padding_value=None)
    measured = prepare(image, fixed).volume if resampling.clip == "after" else torch.from_numpy(voxels).clamp(850)
    found = prepare(image, rules).volume
    expected = (prepare(image, fixed).volume - measured.double().mean()) / measured.double().std(correction=0)
    torch.testing.assert_close(found, expected.float(), atol=1e-4, rtol=0)
    assert padding_value(rules) == 0.0


def test_a_flat_image_is_normalized_to_zero() -> None:
    rules = Preprocessing(
        (1.0, 1.0, 1.0), WIDE, body_threshold=None, normalization="image", padding_value=0.0
    )  # fmt: skip
    assert not prepare(Image(np.full((4, 5, 6), 7, np.int16), Geometry((4, 5, 6))), rules).volume.any()


def test_u2net_normalization_is_chosen_by_the_card() -> None:
    voxels = noise(4, (6, 10, 10), 200) + 100
    rules = Preprocessing(
        (1.0, 1.0, 1.0), (-1024.0, 1e5), orientation="xyz", body_threshold=None,
        normalization="foreground", padding_value=0.0,
    )  # fmt: skip
    found = prepare(Image(voxels, Geometry(voxels.shape)), rules).volume
    np.testing.assert_allclose(found, normalize_foreground(np.maximum(voxels, -1024)), atol=1e-5)


# ---- crop, axes and padding


def test_an_image_is_cropped_to_what_is_not_zero() -> None:
    voxels = np.zeros((9, 12, 15), np.int16)
    voxels[2:5, 3, 4:11] = -3
    rules = replace(MULTITALENT, orientation="RAS")
    crop = find_crop(Image(voxels, Geometry(voxels.shape)), rules)
    assert crop == (slice(2, 5), slice(8, 9), slice(4, 11))
    assert find_crop(Image(np.zeros_like(voxels), Geometry(voxels.shape)), rules) == whole(voxels.shape)


@pytest.mark.parametrize(("letters", "order"), [("xyz", (0, 1, 2)), ("yxz", (0, 2, 1)), ("yzx", (2, 0, 1))])
def test_axes_may_be_taken_as_the_file_stores_them(letters: str, order: tuple[int, int, int]) -> None:
    # A sagittal, mirrored image: letters of directions would turn it.
    geometry = Geometry((3, 4, 5), (1.0, 2.0, 3.0), direction=(0, 0, -1, 1, 0, 0, 0, -1, 0))
    assert orientation(geometry, letters) == (order, (False, False, False))
    voxels = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    spacing = tuple(geometry.spacing[2 - axis] for axis in order)[::-1]
    rules = Preprocessing((spacing[0], spacing[1], spacing[2]), WIDE, orientation=letters, body_threshold=None)
    np.testing.assert_array_equal(prepare(Image(voxels, geometry), rules).volume, voxels.transpose(order))


def test_dodnet_sees_the_x_axis_of_a_nifti_file_along_its_rows() -> None:
    # As the Medical Segmentation Decathlon stores its files: to the right, anterior and superior.
    stored = Geometry((4, 5, 6), (0.8, 0.8, 1.5), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    assert orientation(stored, "ARS") == ((0, 2, 1), (False, False, False))
    # The same from a scanner, whose files grow to the left and posterior.
    assert orientation(Geometry((4, 5, 6)), "ARS") == ((0, 2, 1), (False, True, True))


def test_the_window_grid_tells_where_an_image_lies_in_its_padding() -> None:
    grid = WindowGrid.over((5, 40, 30), (8, 32, 33), 0.5, centered=True)
    assert (grid.shape, grid.offset) == ((8, 40, 33), (1, 0, 1))
    assert WindowGrid.over((5, 40, 30), (8, 32, 33), 0.5).offset == (0, 0, 0)


@pytest.mark.parametrize("place", ["end", "both"])
def test_a_small_image_gives_the_masks_of_the_image_padded_by_hand(tmp_path: Path, place: str) -> None:
    shape = (21, 30, 43)
    voxels = noise(5, shape, 300).clip(-400, 400)
    rules = Preprocessing(
        (2.0, 2.0, 2.0), (-400.0, 400.0), 0.0, 400.0, orientation="xyz", body_threshold=None,
        padding_value=0.25, padding_place=place, resampling=NNUNET_V1,
    )  # fmt: skip
    space = LabelSpace.named("mots")
    space = replace(space, tasks=tuple(replace(task, rules=()) for task in space.tasks))
    predictor = Predictor(random_bundle(tmp_path / "small", preprocessing=rules, label_space=space), "cpu")
    before = [(size - length) // 2 if place == "both" else 0 for size, length in zip(TINY_WINDOW, shape, strict=True)]
    inner = tuple(slice(at, at + length) for at, length in zip(before, shape, strict=True))
    padded = np.full(TINY_WINDOW, 100.0, np.float32)
    padded[inner] = voxels
    small, large = (
        predictor.segment(Image(array, Geometry(array.shape, (2.0, 2.0, 2.0)))).segmentation.masks
        for array in (voxels, padded)
    )
    found = 0
    for key, mask in small.items():
        masks = np.zeros(shape, bool), np.zeros(TINY_WINDOW, bool)
        for array, packed in zip(masks, (mask, large[key]), strict=True):
            array[packed.box] = packed.unpack()
        np.testing.assert_array_equal(masks[0], masks[1][inner])
        found += int(masks[0].sum())
    assert found > 1000
