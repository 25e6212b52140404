"""Nodes that a run needs: told when one is removed, or the scene is closed, while the run goes on."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import slicer  # type: ignore[import-untyped]
import vtk

from PartialSegSlicer.translation import tr as _


class SceneWatch:
    """Watches a scene until :meth:`stop`.

    It holds whom it tells by a weak reference: an observer must not keep a run alive that nobody wants.

    Parameters
    ----------
    nodes : sequence of vtkMRMLNode
        All of one scene.
    lost : method
        Bound method, called with a sentence that says what happened; it must change no node.
    """

    def __init__(self, nodes: Sequence[Any], lost: Callable[[str], None]) -> None:
        self._scene = nodes[0].GetScene()
        self._nodes = list(nodes)
        tell = weakref.WeakMethod(lost)

        def closing(caller: Any, event: str) -> None:
            if (told := tell()) is not None:
                told(_("The scene was closed during the run."))

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def removing(caller: Any, event: str, node: Any) -> None:
            if node in self._nodes and (told := tell()) is not None:
                told(_("'{name}' was removed from the scene during the run.").format(name=node.GetName()))

        events = slicer.vtkMRMLScene
        self._tags = [
            self._scene.AddObserver(events.StartCloseEvent, closing),
            self._scene.AddObserver(events.NodeAboutToBeRemovedEvent, removing),
        ]

    def add(self, node: Any) -> None:
        """Watch one more node."""
        self._nodes.append(node)

    def stop(self) -> None:
        """Stop watching."""
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags.clear()
        self._nodes.clear()
