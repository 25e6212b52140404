"""PartialSegLib: images in, overlapping masks out.

The headless library of PartialSeg. It knows nothing of 3D Slicer, Qt or training,
and importing it imports no torch: the rooms that need torch are
:mod:`PartialSegLib.networks`, :mod:`PartialSegLib.inference` and the weights of
:mod:`PartialSegLib.bundle`.
"""

__version__ = "0.1.0"
