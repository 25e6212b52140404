"""A synthetic CT in the module Sample Data, so that the module can be tried without any data and any network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import slicer  # type: ignore[import-untyped]
from slicer import util

from PartialSegLib.images import read_image
from PartialSegSlicer.geometry import ijkToRasFromGeometry, matrixFromArray
from PartialSegSlicer.logic.questions import Question
from PartialSegSlicer.translation import tr as _
from PartialSegWorker.phantomwork import PhantomParameters

if TYPE_CHECKING:
    from PartialSegSlicer.logic.headless import HeadlessLogic

NAME = "PartialSegPhantomCT"
#: The patient of ``make demo``, whom the bundled model never saw in training.
_SEED = 3
_SPACING = [2.0, 2.0, 4.0]


def addPhantom(logic: HeadlessLogic, seed: int = _SEED) -> Any:
    """Draw a phantom in the worker and add it to the scene; it is shown when there are views.

    Parameters
    ----------
    logic : HeadlessLogic
        Whose worker draws it; that takes a few seconds.
    seed : int
        Decides the patient.

    Returns
    -------
    vtkMRMLScalarVolumeNode

    Raises
    ------
    PartialSegError
        When the worker cannot draw it.
    """
    file = logic.session.privateFile(".nrrd")
    try:
        logic.session.finish(logic.session.ask(Question("phantom", PhantomParameters(str(file), seed, _SPACING))))
        image = read_image(file)
    finally:
        file.unlink(missing_ok=True)
    scene = slicer.mrmlScene
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(_("Phantom CT (synthetic)")))
    node.SetIJKToRASMatrix(matrixFromArray(ijkToRasFromGeometry(image.geometry)))
    util.updateVolumeFromArray(node, image.voxels)
    node.CreateDefaultDisplayNodes()
    if getattr(slicer, "app", None) is not None and util.mainWindow() is not None:
        util.setSliceViewerLayers(background=node, fit=True)
    return node
