"""Synthetic CT with known truth: the door of this room.

    phantom = generate_phantom(seed=7)

gives one patient as an image in Hounsfield units with the true mask of every structure;
:func:`write_collection` makes a partially labelled collection of them for training.
"""

from PartialSegTraining.phantoms.collection import write_collection
from PartialSegTraining.phantoms.phantom import GENERATOR_VERSION, Phantom, generate_phantom

__all__ = ["GENERATOR_VERSION", "Phantom", "generate_phantom", "write_collection"]
