"""The current settings as code for the Python console: "Copy as Python"."""

from __future__ import annotations

from typing import Any

from PartialSegSlicer.sequences import sequenceOfVolume

#: Settings that a run over all frames of a sequence does not have.
OF_ONE_FRAME = ("outputSegmentation", "overlap", "uncertainty")
_DEFAULTS = {"model": "", "device": "auto", "quality": "standard", "overlap": "keep", "uncertainty": False}


def codeOf(parameterNode: Any) -> str:
    """Return a call of ``PartialSegLogic.segment``, or of ``segmentSequence``, that does what the panel would do.

    Parameters
    ----------
    parameterNode : PartialSegParameterNode
        Or anything with its members.

    Returns
    -------
    str
        Lines that can be pasted into Slicer's Python console; settings at their defaults are left out.
    """
    words = [_node(parameterNode.inputVolume)]
    inTime = parameterNode.allFrames and sequenceOfVolume(parameterNode.inputVolume) is not None
    if parameterNode.tasks:
        words.append(f"tasks={list(parameterNode.tasks)!r},")
    for word, name in (("segmentationNode", "outputSegmentation"), ("region", "region")):
        node = getattr(parameterNode, name)
        if node is not None and not (inTime and name in OF_ONE_FRAME):
            words.append(f"{word}={_node(node)}")
    for name, default in _DEFAULTS.items():
        value = getattr(parameterNode, name)
        if value != default and not (inTime and name in OF_ONE_FRAME):
            words.append(f"{name}={value!r},")
    arguments = "\n    ".join(words)
    return (
        "import PartialSeg\n"
        "\n"
        "logic = PartialSeg.PartialSegLogic()\n"
        f"result = logic.{'segmentSequence' if inTime else 'segment'}(\n    {arguments}\n)\n"
        "for row in result.structures:\n"
        '    print(f"{row.name}: {row.volumeMl:.1f} ml ({row.status})")\n'
        "logic.close()\n"
    )


def _node(node: Any) -> str:
    """Return an argument for a node, with its comma: names may be shared or hold wildcards, IDs do not."""
    if node is None:
        return "None,"
    name = " ".join(str(node.GetName()).split())
    return f"slicer.mrmlScene.GetNodeByID({node.GetID()!r}),  # {name}"
