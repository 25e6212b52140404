"""Intensities of images without a unit: the released normalization of 3D U2-Net."""

from __future__ import annotations

import numpy as np

import vectors
from PartialSegLib.normalization import normalize_foreground


def volume() -> np.ndarray:
    values = np.random.default_rng(45).standard_normal((8, 12, 10)) * 100 + 20
    values[:2] = 0
    return values


def test_the_published_normalization_is_reproduced() -> None:
    expected = vectors.arrays("u2net_normalization")["u2_norm"]
    np.testing.assert_allclose(normalize_foreground(volume()), expected, rtol=0, atol=1e-12)


def test_voxels_above_zero_get_mean_0_and_deviation_1() -> None:
    values = volume()
    scaled = normalize_foreground(values)
    # The lower percentile is below zero here, so that clipping moves no voxel across zero.
    assert abs(scaled[values > 0].mean()) < 1e-12
    assert abs(scaled[values > 0].std() - 1) < 1e-12


def test_single_bright_voxels_do_not_change_the_scale() -> None:
    values = volume()
    wild = values.copy()
    wild[wild == wild.max()] = 1e6
    np.testing.assert_allclose(normalize_foreground(wild), normalize_foreground(values))


def test_zeros_stay_zero_and_an_image_without_contrast_becomes_zero() -> None:
    assert not normalize_foreground(volume())[:2].any()
    assert not normalize_foreground(np.full((2, 3, 4), 7.0)).any()
    assert not normalize_foreground(np.full((2, 3, 4), -7, np.int16)).any()


def test_the_given_volume_is_left_as_it_was() -> None:
    values = volume().astype(np.float32)
    before = values.copy()
    normalize_foreground(values)
    assert np.array_equal(values, before)
