"""How good a segmentation or a model is: ``partialseg evaluate``.

``scoring`` measures cases, ``comparison`` tests two models on the same cases, ``dodnet`` has the
metric of DoDNet's tables, ``documents`` writes CSV and HTML, ``files`` reads what is compared,
``command`` is the command line. None of them imports torch before a model is run.
"""

from __future__ import annotations

from PartialSegTraining.evaluation.command import register
from PartialSegTraining.evaluation.files import Pair, find_pairs, read_masks, write_report
from PartialSegTraining.evaluation.scoring import score_model, score_pair

__all__ = ["Pair", "find_pairs", "read_masks", "register", "score_model", "score_pair", "write_report"]
