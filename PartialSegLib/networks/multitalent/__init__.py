"""MultiTalent: one sigmoid output per structure, on three backbones.

Ulrich, Isensee, Wald, Zenk, Baumgartner, Maier-Hein: MultiTalent, MICCAI 2023. What they share is
:mod:`~PartialSegLib.networks.multitalent.base`; U-Net and ResEnc U-Net are the released ones of
nnU-Net v1, with its weight names (:mod:`~PartialSegLib.networks.multitalent.names`).
"""

from PartialSegLib.networks.multitalent.base import MultiTalentNetwork
from PartialSegLib.networks.multitalent.names import published_weights
from PartialSegLib.networks.multitalent.resenc import MultiTalentResEncUNet, ResEncUNetParameters
from PartialSegLib.networks.multitalent.swinunetr import MultiTalentSwinUNETR, SwinUNETRParameters
from PartialSegLib.networks.multitalent.unet import MultiTalentUNet, UNetParameters

__all__ = [
    "MultiTalentNetwork",
    "MultiTalentResEncUNet",
    "MultiTalentSwinUNETR",
    "MultiTalentUNet",
    "ResEncUNetParameters",
    "SwinUNETRParameters",
    "UNetParameters",
    "published_weights",
]
