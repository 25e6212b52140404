"""PartialSeg: one model that segments every structure any of its training datasets annotated.

The scripted module as Slicer loads it. The work is done in packages beside this file: what the
module does in ``PartialSegSlicer.logic``, its panel in ``PartialSegSlicer.panels``, the network in
a worker process (``PartialSegWorker``), so that Slicer itself never loads torch.
"""

# Methods have Slicer's names, and the self-test is a unittest, which Slicer runs.
# ruff: noqa: N802, N803, N815, PT009, PT027

import sys
import unittest
from pathlib import Path
from typing import Any

import slicer
import vtk
from slicer import vtkMRMLMarkupsROINode, vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

_FOLDER = Path(__file__).resolve().parent
# Installed, the library lies beside this file; in a checkout, above it.
for _folder in (_FOLDER, _FOLDER.parent, _FOLDER.parent / "Training"):
    if str(_folder) not in sys.path and any(_folder.glob("PartialSeg*/__init__.py")):
        sys.path.append(str(_folder))

from PartialSegSlicer.logic.headless import HeadlessLogic  # noqa: E402
from PartialSegSlicer.logic.sampledata import NAME, addPhantom  # noqa: E402

#: Parameters that a widget of their name shows; the others are shown by sections of the panel.
_BOUND = ("inputVolume", "outputSegmentation", "region", "uncertainty", "allFrames")
#: Packages that "Reload" loads anew.
PACKAGES = ("PartialSegLib", "PartialSegSlicer", "PartialSegWorker")


def forgetPackages() -> None:
    """Make the next import of the module's packages read their files again."""
    for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
        del sys.modules[name]


class PartialSeg(ScriptedLoadableModule):
    """What Slicer shows of the module."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("PartialSeg")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = []
        self.parent.contributors = ["PartialSeg contributors"]
        self.parent.helpText = _(
            "Segments every structure that a model knows, with one run and overlapping segments, and learns from "
            "the segments that you correct. Research software: not for diagnosis or treatment. The bundled model was "
            "trained on synthetic phantoms alone."
        )
        self.parent.acknowledgementText = _(
            "The methods are those of: J. Zhang et al., DoDNet, CVPR 2021; F. Ulrich et al., MultiTalent, MICCAI 2023; "
            "C. Huang et al., 3D U2-Net, MICCAI 2019; H. Wu et al., TGNet, ISBI 2022; F. Isensee et al., nnU-Net, "
            "Nature Methods 2021. Please cite the papers of the method and of the datasets of the model that you use."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData() -> None:
    """Offer a synthetic CT in the module Sample Data."""
    import SampleData

    def load(source: Any) -> list[Any]:
        logic = PartialSegLogic()
        try:
            return [addPhantom(logic)]
        finally:
            logic.close()

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="PartialSeg",
        sampleName=NAME,
        # Nothing is downloaded; lists of no files are what Slicer takes for that.
        uris=[],
        fileNames=[],
        nodeNames=[],
        customDownloader=load,
        thumbnailFileName=str(_FOLDER / "Resources" / "Icons" / "PartialSeg.png"),
    )


@parameterNodeWrapper
class PartialSegParameterNode:
    """The choices of a scene.

    inputVolume - what is segmented.
    outputSegmentation - where to; a new one is made without it.
    region - look only here.
    model - name of a model; the default one when empty.
    tasks - keys of the chosen tasks and structures.
    device - "auto", "cpu", "cuda:0" ...
    quality - "fast", "standard" or "best".
    overlap - "keep", "replace others" or "only unlocked".
    uncertainty - also measure how sure the network is.
    allFrames - where the volume shows a sequence: segment all its frames.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    outputSegmentation: vtkMRMLSegmentationNode
    region: vtkMRMLMarkupsROINode
    model: str = ""
    tasks: list[str]
    device: str = "auto"
    quality: str = "standard"
    overlap: str = "keep"
    uncertainty: bool = False
    allFrames: bool = False


class PartialSegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel; its sections are in ``PartialSegSlicer.panels``."""

    def __init__(self, parent: Any = None) -> None:
        self.logic = None
        self.panel = None
        self._parameterNode = None
        self._guiTag = None
        VTKObservationMixin.__init__(self)
        ScriptedLoadableModuleWidget.__init__(self, parent)

    def setup(self) -> None:
        """Build the panel."""
        from PartialSegSlicer.panels.panel import Panel

        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/PartialSeg.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = PartialSegLogic()
        self.panel = Panel(self.logic, self.ui)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        # Slicer tells of entering after this, except when the module is reloaded while it is shown.
        if getattr(self.parent, "isEntered", True):
            self.enter()

    def cleanup(self) -> None:
        """End timers, observers and the worker."""
        self.setParameterNode(None)
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()
        if self.logic is not None:
            self.logic.close()

    def enter(self) -> None:
        """The user opens the module."""
        self.initializeParameterNode()
        self.panel.enter()

    def exit(self) -> None:
        """The user leaves the module; a run goes on."""
        self._disconnectGui()

    def onSceneStartClose(self, caller: Any, event: str) -> None:
        """The parameter node is about to go."""
        self.setParameterNode(None)

    def onSceneEndClose(self, caller: Any, event: str) -> None:
        """Begin anew in the empty scene."""
        self.panel.sceneClosed()
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onReload(self) -> None:
        """Load the packages of the module anew, and build the panel again."""
        forgetPackages()
        ScriptedLoadableModuleWidget.onReload(self)

    def initializeParameterNode(self) -> None:
        """Show the choices of this scene; a volume is chosen when there is one."""
        self.setParameterNode(self.logic.getParameterNode())
        if self._parameterNode.inputVolume is None:
            volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            scans = (node for node in volumes if node.GetNodeTagName() == "Volume")
            self._parameterNode.inputVolume = next(scans, None)

    def setParameterNode(self, parameterNode: Any) -> None:
        """Show the choices of a parameter node from now on, or of none."""
        self._disconnectGui()
        self._parameterNode = parameterNode
        if parameterNode is not None:
            # Not connectGui, which returns no tag: what is connected by it stays connected for good.
            self._guiTag = parameterNode.connectParametersToGui({name: getattr(self.ui, name) for name in _BOUND})
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersModified)
        if self.panel is not None:
            self.panel.setSettings(parameterNode)

    def _disconnectGui(self) -> None:
        if self._guiTag is not None:
            self._parameterNode.disconnectGui(self._guiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersModified)
            self._guiTag = None

    def _onParametersModified(self, caller: Any = None, event: str = "") -> None:
        self.panel.show()


class PartialSegLogic(ScriptedLoadableModuleLogic, HeadlessLogic):
    """What the module can do, for the panel, the console and scripts; it shows no dialog.

    See :class:`PartialSegSlicer.logic.headless.HeadlessLogic` for every method.
    """

    def __init__(self, parent: Any = None, python: str | Path | None = None, casesFolder: Path | None = None) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        HeadlessLogic.__init__(self, python, casesFolder)

    def getParameterNode(self) -> PartialSegParameterNode:
        """Return the choices of this scene."""
        return PartialSegParameterNode(super().getParameterNode())


class PartialSegTest(ScriptedLoadableModuleTest):
    """The self-test, as Slicer runs it."""

    def setUp(self) -> None:
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()
        self.logic = PartialSegLogic()

    def tearDown(self) -> None:
        """End the worker."""
        self.logic.close()

    def runTest(self) -> None:
        """Run every test; one that cannot be made here is said, and is no error."""
        for test in (self.test_phantomIsSegmentedAndUndone, self.test_wrongCallsAreRefused):
            self.setUp()
            try:
                test()
            except unittest.SkipTest as skipped:
                self.delayDisplay(_("A test was skipped. {reason}").format(reason=skipped))
            finally:
                self.tearDown()

    def test_phantomIsSegmentedAndUndone(self) -> None:
        """Segment the synthetic CT with the bundled model; undo puts the scene back."""
        self.delayDisplay(_("Segmenting a phantom"))
        state = self.logic.setupState()
        if not state.ready:
            # A new Slicer has no PyTorch, and nothing is installed unasked.
            self.skipTest(state.sentence)
        volume = addPhantom(self.logic)
        result = self.logic.segment(volume, tasks=["liver", "spleen"], model="demo", quality="fast")
        found = {row.key: row.volumeMl for row in result.structures}
        self.assertGreater(found["liver"], 500)
        self.assertGreater(found["spleen"], 30)
        self.assertEqual(result.segmentationNode.GetSegmentation().GetNumberOfSegments(), len(found))
        self.logic.undoLastRun()
        self.assertIsNone(result.segmentationNode.GetScene())

    def test_wrongCallsAreRefused(self) -> None:
        """What cannot be done is said at once, and starts no worker."""
        from PartialSegLib.errors import PartialSegError

        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
        for call in (
            lambda: self.logic.segment(None),
            lambda: self.logic.segment(volume),
            lambda: self.logic.removeModel("demo"),
        ):
            with self.assertRaises(PartialSegError):
                call()
        self.assertFalse(self.logic.session.running)
