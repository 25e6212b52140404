"""Deep supervision: how much each output of a network counts, and what it is compared with.

Called by the base of all losses (:mod:`PartialSegTraining.losses.contract`).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional


def deep_supervision_weights(outputs: int, dropped: int = 1) -> list[float]:
    """Return the weight of each output, finest first: 1, 1/2, 1/4, ..., scaled to a sum of 1 (nnU-Net).

    Parameters
    ----------
    outputs : int
        How many a network has, 1 or more.
    dropped : int
        So many of the coarsest weigh 0: one in nnU-Net and MultiTalent's U-Net (8/15, 4/15, 2/15,
        1/15, 0), none in its ResEnc U-Net (16/31 to 1/31). The finest is never dropped.
    """
    kept = max(1, outputs - dropped)
    total = sum(0.5**index for index in range(kept))
    return [0.5**index / total for index in range(kept)] + [0.0] * (outputs - kept)


def target_pyramid(target: Tensor, outputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the target at the resolution of each output, by the nearest neighbor of voxel centers.

    A channel that is unknown stays unknown throughout.

    Parameters
    ----------
    target : Tensor
        (N, C, D, H, W) floating point, at the finest resolution.
    outputs : sequence of Tensor
        (N, K, D / s, H / s, W / s) each.

    Returns
    -------
    list of Tensor
        (N, C, D / s, H / s, W / s) each.
    """
    return [
        target
        if output.shape[2:] == target.shape[2:]
        else functional.interpolate(target, size=output.shape[2:], mode="nearest-exact")
        for output in outputs
    ]
