"""Windows, cut out of cases and changed at random: the door of this room.

:class:`Augmenter` draws what happens to a window and carries it out; every window has a random
stream of its own, so that a batch is a function of seed and step alone.
"""

from PartialSegTraining.augmentation.augmenter import Augmenter
from PartialSegTraining.augmentation.contract import Batch, Change
from PartialSegTraining.augmentation.geometry import rotation_matrix

__all__ = ["Augmenter", "Batch", "Change", "rotation_matrix"]
