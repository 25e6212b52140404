"""3D U2-Net (Huang et al., MICCAI 2019): domain adapters, independent networks, and growth by a domain.

``network`` is the system, made of ``levels``, made of ``units``; ``domains`` runs mixed batches;
``independent`` is the baseline without sharing; ``growth`` adds a domain and counts weights.
"""

from __future__ import annotations

from PartialSegLib.networks.u2net.growth import WeightCount, add_domain, count_weights, train_only
from PartialSegLib.networks.u2net.independent import IndependentU2Net, IndependentU2NetParameters
from PartialSegLib.networks.u2net.network import U2Net, U2NetParameters

__all__ = [
    "IndependentU2Net",
    "IndependentU2NetParameters",
    "U2Net",
    "U2NetParameters",
    "WeightCount",
    "add_domain",
    "count_weights",
    "train_only",
]
