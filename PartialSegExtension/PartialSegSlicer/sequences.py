"""Sequences of volumes (4D CT): the frames that a volume node shows in turn, and their segmentations in step.

A sequence browser keeps sequences in step and shows the selected item of each in a node of the scene, its
proxy. :func:`sequenceOfVolume` finds the sequence behind a volume node; :func:`browseTogether`
puts another one beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import slicer  # type: ignore[import-untyped]

from PartialSegLib.errors import ImageError
from PartialSegSlicer.translation import tr as _


@dataclass(frozen=True)
class VolumeSequence:
    """A sequence of volumes, and where it is shown.

    Parameters
    ----------
    sequenceNode : vtkMRMLSequenceNode
    browserNode : vtkMRMLSequenceBrowserNode
    volumeNode : vtkMRMLScalarVolumeNode
        Proxy of the sequence.
    """

    sequenceNode: Any
    browserNode: Any
    volumeNode: Any

    @property
    def values(self) -> tuple[str, ...]:
        """Index value of each frame, in order."""
        return tuple(self.sequenceNode.GetNthIndexValue(at) for at in range(self.sequenceNode.GetNumberOfDataNodes()))

    @property
    def shown(self) -> int:
        """Number of the frame that the volume node shows."""
        return _shownItem(self.sequenceNode, self.browserNode)


def sequenceOfVolume(volumeNode: Any) -> VolumeSequence | None:
    """Return the sequence that a volume node shows the frames of; ``None`` when it shows none."""
    scene = None if volumeNode is None else volumeNode.GetScene()
    if scene is None:
        return None
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode")):
        browser = scene.GetNthNodeByClass(number, "vtkMRMLSequenceBrowserNode")
        sequence = browser.GetSequenceNode(volumeNode)
        if sequence is not None and sequence.GetNumberOfDataNodes():
            return VolumeSequence(sequence, browser, volumeNode)
    return None


def shownFrame(node: Any) -> str:
    """Return the index value of the frame that a node of the scene shows; empty when it shows no sequence."""
    scene = node.GetScene()
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode") if scene is not None else 0):
        browser = scene.GetNthNodeByClass(number, "vtkMRMLSequenceBrowserNode")
        master = browser.GetMasterSequenceNode()
        if browser.GetSequenceNode(node) is not None and master is not None:
            return str(master.GetNthIndexValue(max(0, browser.GetSelectedItemNumber())))
    return ""


def requireSequence(volumeNode: Any) -> VolumeSequence:
    """Return the sequence that a volume node shows the frames of.

    Raises
    ------
    ImageError
        When there is no volume, or it shows none.
    """
    if volumeNode is None:
        raise ImageError(_("No volume is chosen."), _("Choose the volume that a sequence browser shows."))
    found = sequenceOfVolume(volumeNode)
    if found is None:
        raise ImageError(
            _("'{volume}' shows no frames of a sequence.").format(volume=volumeNode.GetName()),
            _("Choose the volume that a sequence browser shows."),
        )
    return found


def likeSequence(volumes: VolumeSequence) -> Any:
    """Return an empty vtkMRMLSequenceNode, not in a scene yet, with the kind of index that the volumes have."""
    sequence, source = slicer.vtkMRMLSequenceNode(), volumes.sequenceNode
    sequence.SetName(_("{sequence} segmentation").format(sequence=source.GetName()))
    sequence.SetIndexName(source.GetIndexName())
    sequence.SetIndexUnit(source.GetIndexUnit())
    sequence.SetIndexType(source.GetIndexType())
    sequence.SetNumericIndexValueTolerance(source.GetNumericIndexValueTolerance())
    return sequence


def browseTogether(volumes: VolumeSequence, sequenceNode: Any, proxyNode: Any) -> None:
    """Add a sequence to the scene, so that it is browsed with the volumes.

    What somebody changes in the proxy is saved in the frame that is shown.

    Parameters
    ----------
    volumes : VolumeSequence
    sequenceNode : vtkMRMLSequenceNode
        As of :func:`likeSequence`, with a frame for each of the volumes.
    proxyNode : vtkMRMLNode
        Of the scene; holds what the frame that is shown now holds.
    """
    scene, browser = proxyNode.GetScene(), volumes.browserNode
    sequenceNode.SetName(scene.GenerateUniqueName(sequenceNode.GetName()))
    scene.AddNode(sequenceNode)
    # In one step: a sequence without a proxy would be given a new one.
    before = browser.StartModify()
    browser.AddSynchronizedSequenceNode(sequenceNode)
    browser.AddProxyNode(proxyNode, sequenceNode, False)
    browser.SetSaveChanges(sequenceNode, True)
    browser.EndModify(before)


def proxiesOf(sequenceNode: Any) -> Iterator[tuple[Any, str]]:
    """Return each node of the scene that shows the frames of a sequence, with the index value that it shows now."""
    for browser in _browsersOf(sequenceNode):
        proxy = browser.GetProxyNode(sequenceNode)
        if proxy is not None:
            yield proxy, str(sequenceNode.GetNthIndexValue(_shownItem(sequenceNode, browser)))


def removeSequence(sequenceNode: Any, *proxyNodes: Any) -> None:
    """Take a sequence out of its browsers and out of the scene, with the nodes that show it and their display.

    Parameters
    ----------
    sequenceNode : vtkMRMLSequenceNode
    *proxyNodes : vtkMRMLDisplayableNode
        Further nodes to remove, as a proxy that is not browsed yet.
    """
    proxies = {*proxyNodes, *(proxy for proxy, _value in proxiesOf(sequenceNode))}
    for browser in _browsersOf(sequenceNode):
        browser.RemoveSynchronizedSequenceNode(sequenceNode.GetID())
    displays = {proxy.GetNthDisplayNode(at) for proxy in proxies for at in range(proxy.GetNumberOfDisplayNodes())}
    for node in (*proxies, *displays, sequenceNode):
        if node is not None and node.GetScene() is not None:
            node.GetScene().RemoveNode(node)


def _browsersOf(sequenceNode: Any) -> list[Any]:
    """Return the browsers of the scene that browse a sequence."""
    scene = sequenceNode.GetScene()
    count = scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode") if scene is not None else 0
    browsers = [scene.GetNthNodeByClass(number, "vtkMRMLSequenceBrowserNode") for number in range(count)]
    return [browser for browser in browsers if browser.IsSynchronizedSequenceNode(sequenceNode, True)]


def _shownItem(sequenceNode: Any, browserNode: Any) -> int:
    """Return the number of the frame of a sequence that a browser shows."""
    master = browserNode.GetMasterSequenceNode()
    value = master.GetNthIndexValue(max(0, browserNode.GetSelectedItemNumber()))
    return max(0, int(sequenceNode.GetItemNumberFromIndexValue(value, False)))
