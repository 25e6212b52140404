"""The current settings as code for the Python console: "Copy as Python"."""

from __future__ import annotations

from typing import Any

_DEFAULTS = {"model": "", "device": "auto", "quality": "standard", "overlap": "keep", "uncertainty": False}


def codeOf(parameterNode: Any) -> str:
    """Return a call of ``PartialSegLogic.segment`` that does what the panel would do.

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
    if parameterNode.tasks:
        words.append(f"tasks={list(parameterNode.tasks)!r},")
    for word, node in (("segmentationNode", parameterNode.outputSegmentation), ("region", parameterNode.region)):
        if node is not None:
            words.append(f"{word}={_node(node)}")
    for name, default in _DEFAULTS.items():
        value = getattr(parameterNode, name)
        if value != default:
            words.append(f"{name}={value!r},")
    arguments = "\n    ".join(words)
    return (
        "import PartialSeg\n"
        "\n"
        "logic = PartialSeg.PartialSegLogic()\n"
        f"result = logic.segment(\n    {arguments}\n)\n"
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
