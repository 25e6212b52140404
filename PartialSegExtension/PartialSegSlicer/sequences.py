"""Sequences of volumes (4D CT): the frames that a volume node shows in turn, and their segmentations in step.

A sequence browser keeps sequences in step and shows the selected item of each in a node of the scene, its
proxy. :func:`sequenceOfVolume` finds the sequence behind a volume node; :func:`browseTogether`
puts another one beside it.
"""

from __future__ import annotations

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
        master = self.browserNode.GetMasterSequenceNode()
        value = master.GetNthIndexValue(max(0, self.browserNode.GetSelectedItemNumber()))
        return max(0, self.sequenceNode.GetItemNumberFromIndexValue(value, False))


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
        When it shows none.
    """
    found = sequenceOfVolume(volumeNode)
    if found is None:
        problem = (
            _("None shows no frames of a sequence.")
            if volumeNode is None
            else _("'{volume}' shows no frames of a sequence.").format(volume=volumeNode.GetName())
        )
        raise ImageError(problem, _("Choose the volume that a sequence browser shows."))
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
