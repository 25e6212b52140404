"""Intensities scaled by what the image itself contains, for models trained on more than CT.

CT has a unit, so that most models clip and scale it by fixed numbers (:class:`Preprocessing` of a
card). Where images of a domain have none (MR), their scale is taken from each image. Called on a
whole image, cropped and resampled, before windows are cut from it; it imports no torch.
"""

from __future__ import annotations

import numpy as np

#: Percentiles of the intensities between which 3D U2-Net clips.
PERCENTILES = (2.0, 98.0)


def normalize_foreground(volume: np.ndarray, percentiles: tuple[float, float] = PERCENTILES) -> np.ndarray:
    """Clip to percentiles, then give the voxels above zero a mean of 0 and a standard deviation of 1.

    The normalization of 3D U2-Net as released (:mod:`PartialSegLib.networks.u2net`), for CT too: the
    percentiles are those of all voxels, mean and standard deviation (over N) those of voxels above zero
    after clipping. The paper (Section 3, "Preprocessing") takes both from the whole image. Voxels that
    were exactly zero, the padding of the dataset, become 0, which is the mean of the foreground.

    Parameters
    ----------
    volume : numpy.ndarray
        (z, y, x) intensities of one modality, any real dtype.
    percentiles : tuple of float
        Lower and upper limit, 0 to 100.

    Returns
    -------
    numpy.ndarray
        float64 (z, y, x). All 0 where no voxels lie above zero, or all of those are equal.
    """
    values = volume.astype(np.float64)
    clipped = np.clip(values, *np.percentile(values, percentiles))
    foreground = clipped[clipped > 0]
    deviation = foreground.std() if foreground.size else 0.0
    if not deviation > 0:
        return np.zeros_like(values)
    result: np.ndarray = (clipped - foreground.mean()) / deviation
    result[values == 0] = 0.0
    return result
