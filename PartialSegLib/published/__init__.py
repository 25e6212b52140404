"""Published checkpoints of others, turned into models: one file a format, behind one contract.

``partialseg import`` calls :func:`~PartialSegLib.published.importing.import_models`, which asks every
format of :data:`FORMATS` whether a file is its own. Nothing in a file is ever run
(:mod:`~PartialSegLib.published.restricted`).
"""

from __future__ import annotations

from PartialSegLib.published.contract import ImportOptions, PublishedFormat
from PartialSegLib.published.dodnet import DoDNetFormat
from PartialSegLib.published.multitalent import MultiTalentFormat
from PartialSegLib.published.nnunet_v2 import NnUNetV2Format
from PartialSegLib.published.u2net import U2NetFormat

#: Every format, in the order in which they are asked; no file is of two.
FORMATS: tuple[PublishedFormat, ...] = (MultiTalentFormat(), DoDNetFormat(), NnUNetV2Format(), U2NetFormat())

__all__ = [
    "FORMATS",
    "DoDNetFormat",
    "ImportOptions",
    "MultiTalentFormat",
    "NnUNetV2Format",
    "PublishedFormat",
    "U2NetFormat",
]
