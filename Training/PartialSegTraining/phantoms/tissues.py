"""What a voxel of a phantom is made of, and which tissues make up each structure.

Every voxel belongs to exactly one tissue; a structure is a union of tissues, so that a tumor is
part of its organ and the same lesion can belong to two protocols.
"""

from __future__ import annotations

from enum import IntEnum


class Tissue(IntEnum):
    """The one tissue of a voxel; ``OTHER`` belongs to no structure."""

    OTHER = 0
    LIVER = 1
    LIVER_TUMOR = 2
    HEPATIC_VESSEL = 3
    RIGHT_KIDNEY = 4
    LEFT_KIDNEY = 5
    RIGHT_KIDNEY_TUMOR = 6
    LEFT_KIDNEY_TUMOR = 7
    RIGHT_KIDNEY_CYST = 8
    LEFT_KIDNEY_CYST = 9
    PANCREAS = 10
    PANCREAS_TUMOR = 11
    COLON_TUMOR = 12
    LUNG_TUMOR = 13
    SPLEEN = 14
    GALLBLADDER = 15
    STOMACH = 16
    AORTA = 17
    INFERIOR_VENA_CAVA = 18
    RIGHT_ADRENAL = 19
    LEFT_ADRENAL = 20
    ESOPHAGUS = 21
    PORTAL_VEIN = 22


_RIGHT_KIDNEY = (Tissue.RIGHT_KIDNEY, Tissue.RIGHT_KIDNEY_TUMOR, Tissue.RIGHT_KIDNEY_CYST)
_LEFT_KIDNEY = (Tissue.LEFT_KIDNEY, Tissue.LEFT_KIDNEY_TUMOR, Tissue.LEFT_KIDNEY_CYST)

#: Tissues of every structure that a phantom knows, by structure key of the library's catalogue.
STRUCTURE_TISSUES: dict[str, tuple[Tissue, ...]] = {
    "liver": (Tissue.LIVER, Tissue.LIVER_TUMOR, Tissue.HEPATIC_VESSEL),
    "liver_tumor": (Tissue.LIVER_TUMOR,),
    "kidneys": _RIGHT_KIDNEY + _LEFT_KIDNEY,
    "kidney_tumor": (Tissue.RIGHT_KIDNEY_TUMOR, Tissue.LEFT_KIDNEY_TUMOR),
    "kidney_cyst": (Tissue.RIGHT_KIDNEY_CYST, Tissue.LEFT_KIDNEY_CYST),
    "hepatic_vessels": (Tissue.HEPATIC_VESSEL,),
    "hepatic_vessel_tumor": (Tissue.LIVER_TUMOR,),
    "pancreas": (Tissue.PANCREAS, Tissue.PANCREAS_TUMOR),
    "pancreas_tumor": (Tissue.PANCREAS_TUMOR,),
    "colon_tumor": (Tissue.COLON_TUMOR,),
    "lung_tumor": (Tissue.LUNG_TUMOR,),
    "spleen": (Tissue.SPLEEN,),
    "right_kidney": _RIGHT_KIDNEY,
    "left_kidney": _LEFT_KIDNEY,
    "gallbladder": (Tissue.GALLBLADDER,),
    "esophagus": (Tissue.ESOPHAGUS,),
    "stomach": (Tissue.STOMACH,),
    "aorta": (Tissue.AORTA,),
    "inferior_vena_cava": (Tissue.INFERIOR_VENA_CAVA,),
    "portal_and_splenic_vein": (Tissue.PORTAL_VEIN,),
    "right_adrenal_gland": (Tissue.RIGHT_ADRENAL,),
    "left_adrenal_gland": (Tissue.LEFT_ADRENAL,),
}
