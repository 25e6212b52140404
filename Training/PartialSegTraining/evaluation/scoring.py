"""Scores of cases: two segmentations compared structure by structure, or a model run over annotated cases.

The table of the result is made in :mod:`PartialSegTraining.scoretable`. Called by the command, the
benchmarks and the training report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from PartialSegLib.errors import CollectionError
from PartialSegTraining.evaluation.files import Pair, read_masks
from PartialSegTraining.scoretable import CaseScores

if TYPE_CHECKING:
    from PartialSegLib.images import Image
    from PartialSegLib.inference import Predictor
    from PartialSegLib.segmentation import Segmentation
    from PartialSegTraining.cases import Case


#: Told about a case: image, prediction and truth.
Witness = Callable[["Case", "Image", "Segmentation", "Segmentation"], None]


def score_model(
    predictor: Predictor,
    cases: Iterable[Case],
    *,
    preset: str = "standard",
    tolerance_mm: float = 2.0,
    witness: Witness | None = None,
) -> Iterator[CaseScores]:
    """Segment cases one by one and score every structure that the case annotates.

    Parameters
    ----------
    predictor : Predictor
        The model, loaded.
    cases : iterable of Case
        Those that annotate no structure of the model are left out. An annotated structure without
        voxels counts as rightly absent, an unannotated one not at all;
        what is found in voxels of which nothing is known does not count either.
    preset : str
        ``fast``, ``standard`` or ``paper``.
    tolerance_mm : float
        Tolerance of the surface Dice, in millimetres.
    witness : callable, optional
        Called with each case, its image, the prediction and the truth, before its scores are given.

    Yields
    ------
    CaseScores
        Scores in the order of the label space, and the seconds that segmenting took.
    """
    from PartialSegLib.metrics import score_segmentation
    from PartialSegLib.segmentation import PackedMask, Segmentation

    space = predictor.label_space
    for case in cases:
        # Not the tasks of that name: their other structures were not annotated.
        keys = [key for key in space.select() if key in case.annotated]
        if not keys:
            continue
        image, masks = case.load()
        unknown = case.unknown(image.geometry)
        known = {key: masks[key] for key in keys}
        reference = Segmentation.from_arrays(image.geometry, [space.structure(key) for key in keys], known)
        started = time.perf_counter()
        prediction = predictor.segment(image, keys, preset).segmentation
        seconds = time.perf_counter() - started
        if unknown is not None:
            prediction = prediction.without(PackedMask.from_array(unknown))
        if witness is not None:
            witness(case, image, prediction, reference)
        yield CaseScores(case.name, score_segmentation(prediction, reference, keys, tolerance_mm), seconds)


def score_pair(
    pair: Pair, image: Image | None = None, tolerance_mm: float = 2.0
) -> tuple[CaseScores, Segmentation, Segmentation]:
    """Score the structures that prediction and reference have in common.

    Parameters
    ----------
    pair : Pair
        Files or folders of masks.
    image : Image, optional
        The scan: its grid is used for both.
    tolerance_mm : float
        Tolerance of the surface Dice, in millimetres.

    Returns
    -------
    scores : CaseScores
    prediction, reference : Segmentation
        As they were read.

    Raises
    ------
    SegmentationError
        When the grids do not coincide.
    CollectionError
        When the two have no structure in common.
    """
    from PartialSegLib.metrics import score_segmentation

    reference = read_masks(pair.reference, image)
    prediction = read_masks(pair.prediction, image, reference.geometry)
    scores = score_segmentation(prediction, reference, tolerance_mm=tolerance_mm)
    if not scores:
        raise CollectionError(
            f"{pair.prediction} ({', '.join(prediction.keys)}) and {pair.reference} ({', '.join(reference.keys)}) "
            "have no structure in common.",
            "Structures are matched by their keys; mask files by their names.",
        )
    return CaseScores(pair.name, scores), prediction, reference
