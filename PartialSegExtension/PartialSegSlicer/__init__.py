"""The bridge between MRML and the library: volume nodes to images, segmentations to segmentation nodes.

It holds no Qt and no torch, shows no dialog and asks nothing, so that it runs in Slicer's own
process, in ``Slicer --no-main-window`` and on the ``slicer-core`` wheel. The module's logic calls
it; so may a user in the console. Its doors:

========================================  ======================================================
:mod:`~PartialSegSlicer.volumes`          volume node or sequence -> ``Image``
:mod:`~PartialSegSlicer.nodes`            a segmentation node for a volume, under its study
:mod:`~PartialSegSlicer.writing`          ``Segmentation`` -> segments, without losing an edit
:mod:`~PartialSegSlicer.undo`             "Undo last run"
:mod:`~PartialSegSlicer.segments`         which structure a segment is, and marking it as corrected
:mod:`~PartialSegSlicer.cases`            corrected segments -> a training case
========================================  ======================================================

MRML speaks RAS millimetres and (x, y, z) indices, the library LPS and (z, y, x): only
:mod:`~PartialSegSlicer.geometry` and :mod:`~PartialSegSlicer.labelmaps` know both.
"""
