"""Left and right in a mirrored window: structures of the two sides change places.

The mirror image of a left kidney is a right kidney. In a window that is mirrored, the target of
``left_kidney`` is therefore the mask of ``right_kidney``, and unknown where the case does not
annotate that one; a network is never taught that both are the same. Called by
:mod:`PartialSegTraining.augmentation.augmenter`.
"""

from __future__ import annotations

import numpy as np

_OTHER = {"left": "right", "right": "left"}
#: Chambers of the heart differ in more than their side: a mirrored left atrium is no right one.
_OF_ONE_KIND = frozenset(("atrium", "ventricle", "heart"))


def is_mirrored(matrix: np.ndarray) -> bool:
    """Tell whether a (3, 3) `matrix` turns a body into its mirror image.

    One or three flipped axes do; two of them together are a turn by 180 degrees, after which a left
    kidney is still a left one.
    """
    return bool(np.linalg.det(matrix) < 0)


def mirrored_key(key: str) -> str:
    """Return the structure whose mirror image `key` is; itself where it has no side.

    Sides are told by the words ``left`` and ``right`` of a key (``left_kidney``, ``lung_right``).
    """
    words = key.split("_")
    if _OF_ONE_KIND.intersection(words):
        return key
    return "_".join(_OTHER.get(word, word) for word in words)
