"""The intensity changes of nnU-Net and DoDNet, carried out by batchgeneratorsv2.

The library is nnU-Net's own, so that a system is trained here with the changes it was published
with. It draws from the global random streams of NumPy and torch: :func:`apply_list` seeds both for
one window and puts them back. Two things differ: magnification, rotation and mirroring belong to the
one sampling that cuts the window (:mod:`PartialSegTraining.augmentation.geometry`), and blurring
never times which of two algorithms is the faster one, which would make results differ from run to
run. Called by :mod:`PartialSegTraining.augmentation.augmenter`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from PartialSegLib.errors import MissingExtraError

#: Changes one image, (C, D, H, W).
Transform = Callable[..., dict[str, Any]]


def make_list(library: str, window: tuple[int, int, int]) -> Transform:
    """Return the list of a library.

    Parameters
    ----------
    library : str
        ``nnunet`` or ``dodnet``.
    window : tuple of int
        Voxels (z, y, x).

    Raises
    ------
    MissingExtraError
        When batchgeneratorsv2 is not installed.
    """
    try:
        return _LISTS[library](window)
    except ImportError as error:
        raise MissingExtraError("The augmentation lists of nnU-Net and DoDNet", "train") from error


def apply_list(transform: Transform, image: Tensor, seed: int) -> Tensor:
    """Return `image`, float32 (1, D, H, W) on the CPU, changed as `seed` decides."""
    with _seeded(seed):
        changed: Tensor = transform(image=image)["image"]
    return changed


def _nnunet(window: tuple[int, int, int]) -> Transform:
    """Return the list of nnU-Net v2 (``nnUNetTrainer.get_training_transforms``) after its spatial part."""
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform

    # A window that is three times as long as it is thick is coarsened in its plane only.
    plane = (0,) if max(window) / window[0] > 3 else None
    each: dict[str, Any] = {"synchronize_channels": False, "p_per_channel": 1}
    gamma: dict[str, Any] = {"gamma": BGContrast((0.7, 1.5)), "p_retain_stats": 1, **each}
    return _sometimes(
        (0.1, GaussianNoiseTransform((0, 0.1), p_per_channel=1, synchronize_channels=True)),
        (0.2, GaussianBlurTransform((0.5, 1.0), False, False, p_per_channel=0.5, benchmark=False)),
        (0.15, MultiplicativeBrightnessTransform(BGContrast((0.75, 1.25)), **each)),
        (0.15, ContrastTransform(BGContrast((0.75, 1.25)), preserve_range=True, **each)),
        (0.25, SimulateLowResolutionTransform((0.5, 1), False, True, ignore_axes=plane, p_per_channel=0.5)),
        (0.1, GammaTransform(p_invert_image=1, **gamma)),
        (0.3, GammaTransform(p_invert_image=0, **gamma)),
    )


def _dodnet(window: tuple[int, int, int]) -> Transform:
    """Return the list of DoDNet's released training after its spatial part.

    It was written for batchgenerators; what that one calls the variance of the noise, it takes as
    its standard deviation.
    """
    from batchgeneratorsv2.transforms.intensity.brightness import (
        BrightnessAdditiveTransform,
        MultiplicativeBrightnessTransform,
    )
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform

    each: dict[str, Any] = {"synchronize_channels": False, "p_per_channel": 1}
    return _sometimes(
        (0.1, GaussianNoiseTransform((0, 0.1), p_per_channel=1, synchronize_channels=True)),
        (0.2, GaussianBlurTransform((0.5, 1.0), False, False, p_per_channel=0.5, benchmark=False)),
        (0.15, MultiplicativeBrightnessTransform((0.75, 1.25), **each)),
        (0.15, BrightnessAdditiveTransform(0.0, 0.1, synchronize_channels=False, p_per_channel=0.5)),
        (0.15, ContrastTransform(BGContrast((0.75, 1.25)), preserve_range=True, **each)),
        (0.25, SimulateLowResolutionTransform((0.5, 1), False, True, ignore_axes=None, p_per_channel=0.5)),
        (0.15, GammaTransform(BGContrast((0.7, 1.5)), p_invert_image=0, p_retain_stats=1, **each)),
    )


def _sometimes(*steps: tuple[float, Any]) -> Transform:
    """Return the steps one after another, each carried out with its probability."""
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    whole: Transform = ComposeTransforms([RandomTransform(step, apply_probability=chance) for chance, step in steps])
    return whole


_LISTS: dict[str, Callable[[tuple[int, int, int]], Transform]] = {"nnunet": _nnunet, "dodnet": _dodnet}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global random streams of NumPy and of torch's CPU, and put them back at the end."""
    before = np.random.get_state()  # noqa: NPY002 - the library draws from the old global stream
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002
