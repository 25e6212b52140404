"""Hierarchical evaluation classes: unions of structures that a challenge judges as one.

KiTS21 does not score kidney, tumor and cyst, but the kidneys with their masses, the masses, and the
tumors. The classes are unions of masks that a segmentation has already, so they exist only here, at
evaluation, and are no structures of the label space: a softmax has no class for "mass, but neither
tumor nor cyst". Called by whoever reports a model of the KiTS21 label space as the challenge does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce

from PartialSegLib.errors import SegmentationError
from PartialSegLib.metrics import Score, score_segmentation
from PartialSegLib.postprocessing import join
from PartialSegLib.segmentation import PackedMask, Segmentation
from PartialSegLib.structures import Structure


@dataclass(frozen=True)
class HierarchicalEvaluationClass:
    """A union of structures that is scored as one.

    Parameters
    ----------
    key, name : str
        Of the union; the key is that of its score.
    structures : tuple of str
        Keys of the structures that it unites. The first lends the union its codes and color.
    tolerance_mm : float
        Tolerance of the surface Dice, in millimetres.
    """

    key: str
    name: str
    structures: tuple[str, ...]
    tolerance_mm: float


#: What KiTS21 ranks by, with the tolerances of its evaluation: how far its annotators lay apart.
KITS21_CLASSES = (
    HierarchicalEvaluationClass(
        "kidneys_and_masses",
        "Kidneys and masses",
        ("kidneys", "kidney_tumor", "kidney_cyst"),
        tolerance_mm=1.0330772532390826,
    ),
    HierarchicalEvaluationClass(
        "kidney_masses", "Kidney masses", ("kidney_tumor", "kidney_cyst"), tolerance_mm=1.1328796488598762
    ),
    HierarchicalEvaluationClass("kidney_tumor", "Kidney tumor", ("kidney_tumor",), tolerance_mm=1.1498198361434828),
)


def unite(segmentation: Segmentation, classes: Iterable[HierarchicalEvaluationClass] = KITS21_CLASSES) -> Segmentation:
    """Return the masks of evaluation classes in place of those of structures.

    Parameters
    ----------
    segmentation : Segmentation
        Has every structure of the classes, if need be with an empty mask. It does not matter whether
        the mask of an organ includes its findings.
    classes : iterable of HierarchicalEvaluationClass
        Unions to make.

    Raises
    ------
    SegmentationError
        When a structure of a class is missing.
    """
    known = {structure.key: structure for structure in segmentation.structures}
    structures: list[Structure] = []
    masks: dict[str, PackedMask] = {}
    for union in classes:
        missing = [key for key in union.structures if key not in known]
        if missing:
            raise SegmentationError(
                f"Evaluation class '{union.key}' needs structure '{missing[0]}'; there is: {', '.join(known)}.",
                "A union can be judged only where all of its structures were annotated.",
            )
        structures.append(replace(known[union.structures[0]], key=union.key, name=union.name))
        masks[union.key] = reduce(join, (segmentation.masks[key] for key in union.structures))
    return Segmentation(segmentation.geometry, tuple(structures), masks, segmentation.algorithm)


def score_classes(
    prediction: Segmentation,
    reference: Segmentation,
    classes: Iterable[HierarchicalEvaluationClass] = KITS21_CLASSES,
) -> tuple[Score, ...]:
    """Score evaluation classes, each at its own tolerance.

    Parameters
    ----------
    prediction, reference : Segmentation
        Masks on one grid; both have every structure of the classes.
    classes : iterable of HierarchicalEvaluationClass
        What to score.

    Returns
    -------
    tuple of Score
        One per class, in order.

    Raises
    ------
    SegmentationError
        When a structure of a class is missing, or the grids differ or are sheared.
    MissingExtraError
        When ``surface-distance`` is not installed.
    """
    classes = tuple(classes)
    predicted, true = unite(prediction, classes), unite(reference, classes)
    return tuple(
        score for union in classes for score in score_segmentation(predicted, true, [union.key], union.tolerance_mm)
    )
