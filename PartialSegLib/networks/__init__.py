"""The published networks, one file each, behind one contract (:mod:`PartialSegLib.networks.contract`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PartialSegLib.errors import BundleError
from PartialSegLib.networks.baselines import (
    TAL,
    CondDec,
    CondInput,
    CondNO,
    MultiHead,
    MultiHeadParameters,
    MultiNets,
)
from PartialSegLib.networks.contract import Features, PartialLabelNetwork, PointwiseLayer
from PartialSegLib.networks.dodnet import DoDNet, DoDNetParameters
from PartialSegLib.networks.encoder_decoder import EncoderDecoderParameters
from PartialSegLib.networks.kits21 import KiTS21, KiTS21Parameters, KiTS21Pretraining, KiTS21PretrainingParameters
from PartialSegLib.networks.multitalent import (
    MultiTalentResEncUNet,
    MultiTalentSwinUNETR,
    MultiTalentUNet,
    ResEncUNetParameters,
    SwinUNETRParameters,
    UNetParameters,
)
from PartialSegLib.networks.nnunet import NnUNetLabels, NnUNetParameters, NnUNetRegions
from PartialSegLib.networks.tgnet import TGNet, TGNetParameters
from PartialSegLib.networks.u2net import IndependentU2Net, IndependentU2NetParameters, U2Net, U2NetParameters
from PartialSegLib.structures import LabelSpace

#: Name on a bundle's card -> (network class, its parameters).
NETWORKS: dict[str, tuple[type[PartialLabelNetwork], type]] = {
    "DoDNet": (DoDNet, DoDNetParameters),
    "TGNet": (TGNet, TGNetParameters),
    "MultiNets": (MultiNets, EncoderDecoderParameters),
    "MultiHead": (MultiHead, MultiHeadParameters),
    "TAL": (TAL, EncoderDecoderParameters),
    "CondNO": (CondNO, EncoderDecoderParameters),
    "CondInput": (CondInput, EncoderDecoderParameters),
    "CondDec": (CondDec, EncoderDecoderParameters),
    "MultiTalentUNet": (MultiTalentUNet, UNetParameters),
    "MultiTalentResEncUNet": (MultiTalentResEncUNet, ResEncUNetParameters),
    "MultiTalentSwinUNETR": (MultiTalentSwinUNETR, SwinUNETRParameters),
    "U2Net": (U2Net, U2NetParameters),
    "IndependentU2Net": (IndependentU2Net, IndependentU2NetParameters),
    "KiTS21Pretraining": (KiTS21Pretraining, KiTS21PretrainingParameters),
    "KiTS21": (KiTS21, KiTS21Parameters),
    "NnUNetLabels": (NnUNetLabels, NnUNetParameters),
    "NnUNetRegions": (NnUNetRegions, NnUNetParameters),
}

__all__ = [
    "NETWORKS",
    "TAL",
    "CondDec",
    "CondInput",
    "CondNO",
    "DoDNet",
    "DoDNetParameters",
    "EncoderDecoderParameters",
    "Features",
    "IndependentU2Net",
    "IndependentU2NetParameters",
    "KiTS21",
    "KiTS21Parameters",
    "KiTS21Pretraining",
    "KiTS21PretrainingParameters",
    "MultiHead",
    "MultiHeadParameters",
    "MultiNets",
    "MultiTalentResEncUNet",
    "MultiTalentSwinUNETR",
    "MultiTalentUNet",
    "NnUNetLabels",
    "NnUNetParameters",
    "NnUNetRegions",
    "PartialLabelNetwork",
    "PointwiseLayer",
    "ResEncUNetParameters",
    "SwinUNETRParameters",
    "TGNet",
    "TGNetParameters",
    "U2Net",
    "U2NetParameters",
    "UNetParameters",
    "build_network",
]


def build_network(name: str, parameters: Mapping[str, Any], label_space: LabelSpace) -> PartialLabelNetwork:
    """Build the network of a card, with fresh weights.

    Parameters
    ----------
    name : str
        Key of :data:`NETWORKS`.
    parameters : mapping
        Fields of the network's parameter dataclass; sequences may be lists, as in JSON.
    label_space : LabelSpace
        Tasks and channels of its outputs.

    Raises
    ------
    BundleError
        When the network or one of its parameters is unknown or out of range.
    """
    if name not in NETWORKS:
        raise BundleError(f"Unknown network '{name}'.", f"Known: {', '.join(NETWORKS)}.")
    network, dataclass = NETWORKS[name]
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in parameters.items()}
    try:
        return network(dataclass(**values), label_space)
    except (TypeError, ValueError) as error:
        raise BundleError(f"The parameters of network '{name}' are wrong: {error}.") from error
