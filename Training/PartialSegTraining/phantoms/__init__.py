"""Synthetic CT with known truth: the door of this room.

    phantom = generate_phantom(seed=7)

gives one patient as an image in Hounsfield units with the true mask of every structure;
:func:`write_collection` makes a partially labelled collection of them for training, and
:func:`write_dicom_series` a CT series as a scanner would send it.
"""

from PartialSegTraining.phantoms.collection import write_collection
from PartialSegTraining.phantoms.dicom import write_dicom_series
from PartialSegTraining.phantoms.phantom import GENERATOR_VERSION, Phantom, generate_phantom

__all__ = ["GENERATOR_VERSION", "Phantom", "generate_phantom", "write_collection", "write_dicom_series"]
