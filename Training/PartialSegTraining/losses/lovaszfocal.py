"""3D U2-Net's loss: Lovász-Softmax, which stands for the intersection over union, plus focal loss.

Berman, Rannen Triki, Blaschko: The Lovász-Softmax loss, CVPR 2018 (Algorithm 1); Lin et al.: Focal loss,
ICCV 2017 (Eq. 4); combined as in Huang et al.: 3D U2-Net, MICCAI 2019 (Eq. 2). Called by the trainer for
softmax networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from PartialSegLib.structures import LabelSpace
from PartialSegTraining.losses.contract import ReduceSums
from PartialSegTraining.losses.exclusive import ClassView, ExclusiveLoss, ExclusiveParameters
from PartialSegTraining.tables import require


@dataclass(frozen=True)
class LovaszFocalParameters(ExclusiveParameters):
    """Options of Lovász-Softmax and focal loss.

    Parameters
    ----------
    gamma : float
        Focusing exponent of the focal loss: 0, which makes it the cross-entropy, or at least 1, since
        below that its gradient is infinite where a voxel is certain.
    """

    gamma: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gamma == 0 or self.gamma >= 1, "gamma", self.gamma, "0, or at least 1")


class LovaszFocal(ExclusiveLoss):
    """Mean Lovász extension over all classes, and mean focal loss over voxels; terms ``lovasz``, ``focal``.

    As released: absent classes and the background count, the voxels of all images are judged
    together, and no class is weighted. A class of one task is not a class of another, so that in a
    batch of several tasks each is judged by itself and counts by its samples. The Lovász extension
    sorts voxels and is no function of sums: on several processes, each judges its own samples, and the
    loss is the mean by samples.

    Parameters
    ----------
    parameters : LovaszFocalParameters
        Of the recipe.
    label_space : LabelSpace
        Tasks, structures, and which of them contains which.
    reduce_sums : callable, optional
        Adds the sums of the means over processes.
    """

    def __init__(
        self, parameters: LovaszFocalParameters, label_space: LabelSpace, reduce_sums: ReduceSums | None = None
    ) -> None:
        super().__init__(parameters, label_space, reduce_sums)
        self._gamma = parameters.gamma

    def judge(self, view: ClassView) -> dict[str, Tensor]:
        """See :meth:`ExclusiveLoss.judge`."""
        log_probability = view.log_probability.gather(1, view.target[:, None])
        # expm1 keeps 1 - p, and its gradient, exact where p is close to 1.
        focal = -((-torch.expm1(log_probability)).clamp(min=0.0) ** self._gamma) * log_probability
        return {"lovasz": self._lovasz(view), "focal": self.mean(focal)}

    def _lovasz(self, view: ClassView) -> Tensor:
        """Return the mean over tasks, by their samples, of the mean over their classes."""
        domains = [0 if self.layout.shared else task for task in view.tasks]
        total = view.logits[:0].sum()
        probability = view.log_probability.exp()
        for domain in sorted(set(domains)):
            rows = [row for row, other in enumerate(domains) if other == domain]
            costs = []
            for index in sorted({group for row in rows for group in view.groups[row] if group >= 0}):
                known = [row for row in rows if index in view.groups[row]]
                truth = (view.target[known] == index).to(probability.dtype)
                costs.append(lovasz_extension((truth - probability[known, index]).abs().flatten(), truth.flatten()))
            total = total + len(rows) * torch.stack(costs).mean()
        total, count = self.over_processes(torch.stack([total, total.new_full((), float(len(domains)))])).unbind()
        return total / count.clamp(min=1.0)


def lovasz_extension(errors: Tensor, truth: Tensor) -> Tensor:
    """Return the Lovász extension of the Jaccard loss of one class (Berman et al., Algorithm 1).

    Parameters
    ----------
    errors : Tensor
        (V,) distance of each voxel's probability from the truth.
    truth : Tensor
        (V,) 1 in the class, 0 outside; same dtype.

    Returns
    -------
    Tensor
        Scalar; the Jaccard loss itself where all errors are 0 or 1. For a class that is nowhere, the
        largest error.
    """
    errors, order = errors.sort(descending=True)
    truth = truth[order]
    total = truth.sum()
    left = total - truth.cumsum(0)
    union = total + (1.0 - truth).cumsum(0)
    # How much the Jaccard loss grows with the next voxel got wrong. Each growth is written out, since the
    # difference of two losses close to 1 would be lost in rounding.
    before = (union - (1.0 - truth)).clamp(min=1.0)
    growth = truth / union.clamp(min=1.0) + (1.0 - truth) * left / (union.clamp(min=1.0) * before)
    first = (total == 0).to(errors.dtype)
    return (errors * growth).sum() + first * errors[0]
