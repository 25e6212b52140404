"""Fixtures that several rooms share."""

from slicer_scene import slicer_scene

__all__ = ["slicer_scene"]
