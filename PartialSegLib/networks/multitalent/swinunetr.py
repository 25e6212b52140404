"""MultiTalent on SwinUNETR, the transformer of the paper (Section 2.2.3), as MONAI implements it.

Decides how MONAI's network becomes a backbone; no weights of it were published. MONAI is imported
when such a network is built, and not before: it is an optional package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from PartialSegLib.errors import MissingExtraError
from PartialSegLib.networks.multitalent.base import MultiTalentNetwork
from PartialSegLib.structures import LabelSpace


@dataclass(frozen=True)
class SwinUNETRParameters:
    """Size of a SwinUNETR (Hatamizadeh et al., 2022). The defaults are those of MultiTalent's trainer.

    Parameters
    ----------
    feature_size : int
        Channels of the first stage and of the map of the head; a multiple of 12.
    depths, num_heads : tuple of int
        Transformer layers, and attention heads of each, of the four stages; heads divide
        ``feature_size`` times 1, 2, 4 and 8.
    window_size : int
        Edge of an attention window, in tokens.

    Raises
    ------
    ValueError
        When the sizes do not fit each other.
    """

    feature_size: int = 48
    depths: tuple[int, ...] = (2, 2, 2, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7

    def __post_init__(self) -> None:
        if self.feature_size < 12 or self.feature_size % 12:
            raise ValueError(f"the feature size {self.feature_size} is not a multiple of 12")
        if len(self.depths) != 4 or len(self.num_heads) != 4 or min(*self.depths, *self.num_heads) < 1:
            raise ValueError(f"there are four stages, but depths are {self.depths} and heads {self.num_heads}")
        if any((self.feature_size << stage) % count for stage, count in enumerate(self.num_heads)):
            raise ValueError(f"the heads {self.num_heads} do not divide the features from {self.feature_size} on")
        if self.window_size < 1:
            raise ValueError(f"an attention window of {self.window_size} is none")


class MultiTalentSwinUNETR(MultiTalentNetwork):
    """MultiTalent on MONAI's SwinUNETR; without deep supervision.

    Parameters
    ----------
    parameters : SwinUNETRParameters
        Sizes.
    label_space : LabelSpace
        One output per structure.

    Raises
    ------
    MissingExtraError
        When MONAI is not installed.
    """

    # Padding and masks of the attention windows are computed in Python, for the size at hand.
    features_compile = False

    def __init__(self, parameters: SwinUNETRParameters, label_space: LabelSpace) -> None:
        super().__init__(parameters, label_space)
        self.parameters_: SwinUNETRParameters = parameters
        self.backbone = _swin_unetr(parameters)
        self.head = nn.Conv3d(parameters.feature_size, len(self.outputs), 1)

    @property
    def divisor(self) -> tuple[int, int, int]:
        """Window sizes must be multiples of 32 (five halvings)."""
        return 32, 32, 32

    def heads(self) -> Sequence[nn.Conv3d]:
        """See :meth:`MultiTalentNetwork.heads`."""
        return [self.head]

    def decoder_maps(self, image: Tensor) -> list[Tensor]:
        """See :meth:`MultiTalentNetwork.decoder_maps`."""
        return [self.backbone(image)]


def _swin_unetr(parameters: SwinUNETRParameters) -> nn.Module:
    """Return MONAI's network up to the map that its own output layer would see."""
    try:
        import einops  # noqa: F401  MONAI needs it for this network, and says so only when it runs
        from monai.networks.nets import SwinUNETR
    except ImportError as error:
        raise MissingExtraError("SwinUNETR networks", "swin") from error
    network: nn.Module = SwinUNETR(
        in_channels=1,
        out_channels=1,
        feature_size=parameters.feature_size,
        depths=parameters.depths,
        num_heads=parameters.num_heads,
        window_size=parameters.window_size,
    )
    network.out = nn.Identity()
    # Tables that follow from the sizes are no weights: a bundle holds what was learned.
    for module in network.modules():
        for name, table in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, table, persistent=False)
    return network
