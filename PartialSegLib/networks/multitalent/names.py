"""Names of the weights in published MultiTalent checkpoints, and in ours.

Called by the importer of ``Task100_MultiTalent``. Our networks have the published names; the
released ResEnc U-Net lists some of its weights twice, and its checkpoint has an older name for the
finest head.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from PartialSegLib.errors import BundleError

#: A decoder layer of the ResEnc U-Net lists its convolution and norm a second time as ``all.0`` and ``all.2``.
_ALIAS = re.compile(r"(decoder\.stages\.\d+\.convs\.\d+)\.all\.([02])\.(weight|bias)")
_ALIASED = {"0": "conv", "2": "norm"}
_OLD_HEAD = "decoder.segmentation_output."
_UPSAMPLING = re.compile(r"decoder\.tus\.(\d+)\.weight")


def published_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a published U-Net or ResEnc U-Net by the names of our networks, each once.

    Parameters
    ----------
    state : mapping of str to Tensor
        State dictionary of the checkpoint, without ``module.`` prefixes: 98 weights of the U-Net, or
        171 of the ResEnc U-Net, of which 15 are aliases.

    Returns
    -------
    dict of str to Tensor
        98 or 156 weights.

    Raises
    ------
    BundleError
        When two names of one weight have different values.
    """
    finest = max((int(found[1]) for found in map(_UPSAMPLING.fullmatch, state) if found), default=0)
    weights: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for name, weight in state.items():
        own = _own_name(name, finest)
        if own in weights and not weights[own].equal(weight):
            raise BundleError(
                f"The weights '{origins[own]}' and '{name}' of the checkpoint are the same one, but differ.",
                "It is damaged, or of another network than MultiTalent's.",
            )
        weights[own] = weight
        origins[own] = name
    return weights


def _own_name(name: str, finest: int) -> str:
    """Return the name in our networks; `finest` is the number of the finest decoder stage."""
    alias = _ALIAS.fullmatch(name)
    if alias:
        return f"{alias[1]}.{_ALIASED[alias[2]]}.{alias[3]}"
    if name.startswith(_OLD_HEAD):
        return f"decoder.deep_supervision_outputs.{finest}.{name.removeprefix(_OLD_HEAD)}"
    return name
