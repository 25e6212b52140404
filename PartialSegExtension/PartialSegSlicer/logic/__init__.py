"""What the module does, without Qt: runs, folders, models, training cases, setup.

:class:`~PartialSegSlicer.logic.headless.HeadlessLogic` is the door; ``PartialSeg.py`` gives it Slicer's base
class. Work goes on in the worker and through callbacks of one :class:`~PartialSegSlicer.logic.session.Session`;
the bridge (:mod:`PartialSegSlicer`) reads and writes the scene.
"""
