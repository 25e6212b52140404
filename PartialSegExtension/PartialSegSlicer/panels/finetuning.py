"""Fine-tuning: learning from the training cases, the loss while it goes on, and what became better or worse.

The new model is kept or discarded by the user, who sees its Dice before and after on the cases that
were held out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer  # type: ignore[import-untyped]
from slicer.i18n import tr as _  # type: ignore[import-untyped]

from PartialSegLib.errors import PartialSegError
from PartialSegLib.progress import Progress
from PartialSegSlicer.panels.context import Context
from PartialSegSlicer.panels.lossplot import drawLoss
from PartialSegSlicer.panels.trainingcases import COMPARE, LEARN, CasePanel
from PartialSegSlicer.panels.verdict import verdictOf
from PartialSegSlicer.panels.widgets import cell, chosenOf, fill, fitRows, plainTable, showLine, showProgress

_PLOT_HEIGHT = 130
_MOST_ROWS = 8
_STRUCTURE, _BEFORE, _AFTER = range(3)


class FineTunePanel:
    """Starts and stops a fine-tuning, and shows its outcome.

    Parameters
    ----------
    context : Context
    cases : CasePanel
    nameOf : callable
        Returns what a structure is called, for its key.
    kept : callable
        Called with the name of a model that was kept.
    """

    def __init__(
        self, context: Context, cases: CasePanel, nameOf: Callable[[str], str], kept: Callable[[str], None]
    ) -> None:
        self._context, self._ui, self._cases, self._nameOf, self._kept = context, context.ui, cases, nameOf, kept
        self._job: Any = None
        self._result: Any = None
        self._deciding = False
        self._tip = self._ui.fineTuneButton.toolTip
        self._losses: list[tuple[int, float]] = []
        self._begun = self._lastStep = 0
        self._total = 1
        fill(self._ui.fineTuneMode, [(_("Quick"), "quick"), (_("Full"), "full")], "quick")
        plainTable(self._ui.diceTable)
        self._ui.fineTuneButton.connect("clicked()", self._onButton)
        self._ui.keepButton.connect("clicked()", self._keep)
        self._ui.discardButton.connect("clicked()", self._discard)

    def look(self, ready: bool) -> None:
        """Offer what can be done now; a model that somebody else has decided on is not asked about."""
        if self._result is not None and not self._deciding and not self._result.bundle.is_dir():
            self._result = None
            self._hideOutcome()
        running, undecided = self._job is not None, self._result is not None
        button = self._ui.fineTuneButton
        button.setText(_("Cancel") if running else _("Start"))
        missing = self._missing()
        can = ready and not missing and not self._context.busy and not undecided and bool(self._cases.chosen(LEARN))
        button.setEnabled(running or can)
        button.setToolTip(self._tip if running else missing or self._tip)
        self._ui.fineTuneMode.setEnabled(not running and not undecided)
        for widget in (self._ui.keepButton, self._ui.discardButton):
            widget.setVisible(undecided)
            widget.setEnabled(not self._context.busy)

    def _missing(self) -> str:
        """Return what the installation lacks for fine-tuning, and what to do; empty when it lacks nothing."""
        if self._context.logic.canFineTune:
            return ""
        return _(
            "Models are trained by the training library, which is missing. Install the extension anew, "
            "or 'partialseg[train]' into the Python that is chosen under Set-up."
        )

    def _onButton(self) -> None:
        if self._job is not None:
            self._ui.fineTuneStatus.setText(_("Stopping..."))
            self._ui.fineTuneButton.setEnabled(False)
            self._job.cancel()
        else:
            self._start()

    def _start(self) -> None:
        settings = self._context.settings()
        self._losses, self._total = [], 1
        self._begun = self._lastStep = 0
        self._hideOutcome()
        with self._context.guarded():
            self._job = self._context.logic.fineTune(
                self._cases.chosen(LEARN),
                mode=chosenOf(self._ui.fineTuneMode),
                heldOut=self._cases.chosen(COMPARE),
                model=settings.model or None,
                device=settings.device,
                onProgress=self._onProgress,
                onLoss=self._onLoss,
                onFinished=self._onFinished,
                onError=self._onError,
            )
            self._onProgress(Progress("cases", 0, 0, None))
            self._ui.lossPlot.setVisible(True)
            self._plot()
            self._context.say(_("Learning from {count} training cases.").format(count=len(self._cases.chosen(LEARN))))
            self._context.wake()
        self._context.changed()

    def _onProgress(self, progress: Progress) -> None:
        self._total = max(1, progress.total)
        showProgress(self._ui.fineTuneProgress, self._ui.fineTuneStatus, progress)

    def _onLoss(self, step: int, loss: float) -> None:
        if step <= self._lastStep and self._losses:
            # The next phase, or the head of another task, counts its steps anew.
            self._begun = self._losses[-1][0]
        self._lastStep = step
        self._losses.append((self._begun + step, loss))
        self._total = max(self._total, self._begun + step)
        self._plot()

    def restore(self) -> None:
        """Ask about a new model that waits for a decision, from before Slicer was closed or by another one."""
        waiting = self._context.logic.undecided if self._job is None and self._result is None else ()
        if waiting:
            self._context.say(_("The new model {name} waits for a decision.").format(name=waiting[0].name))
            self._show(waiting[0])
            self._ui.learnSection.collapsed = False

    def _onFinished(self, result: Any) -> None:
        self._end()
        self._show(result)
        self._context.changed()

    def _show(self, result: Any) -> None:
        self._result = result
        verdict = verdictOf(result, self._nameOf)
        showLine(self._ui.verdictLabel, verdict)
        self._fillDice(result)
        self._context.say(verdict)

    def _onError(self, error: PartialSegError) -> None:
        self._end()
        self._ui.lossPlot.setVisible(False)
        self._context.say(error.message)
        if error.code != "cancelled":
            self._context.fail(error)
        self._context.changed()

    def _end(self) -> None:
        self._job = None
        showProgress(self._ui.fineTuneProgress, self._ui.fineTuneStatus, None)

    def _fillDice(self, result: Any) -> None:
        table = self._ui.diceTable
        table.setVisible(bool(result.before or result.after))
        keys = list(result.after or result.before)
        table.setRowCount(len(keys))
        fitRows(table, 1, _MOST_ROWS)
        for row, key in enumerate(keys):
            table.setItem(row, _STRUCTURE, cell(self._nameOf(key), tip=self._nameOf(key)))
            for column, figures in ((_BEFORE, result.before), (_AFTER, result.after)):
                table.setItem(row, column, cell(f"{figures[key]:.3f}" if key in figures else "-", right=True))
            if key in result.regressions:
                font = table.item(row, _AFTER).font()
                font.setBold(True)
                table.item(row, _AFTER).setFont(font)
                table.item(row, _AFTER).setToolTip(_("Worse than before."))

    def _keep(self) -> None:
        outcome = self._result
        with self._context.guarded():
            known = any(model["name"] == outcome.name for model in self._context.logic.models()["models"])
            question = _("There is a model {name} already. Replace it?").format(name=outcome.name)
            if known and not slicer.util.confirmOkCancelDisplay(question, _("Keep the new model")):
                return
            self._context.logic.keepModel(outcome, overwrite=known, onFinished=self._onKept, onError=self._onUndecided)
            self._decide()
        self._context.changed()

    def _discard(self) -> None:
        with self._context.guarded():
            self._context.logic.discardModel(self._result, onFinished=self._onDiscarded, onError=self._onUndecided)
            self._decide()
        self._context.changed()

    def _decide(self) -> None:
        """Wait for the worker, which carries the decision out; the model that it is about stays shown."""
        self._deciding = True
        self._context.wake()

    def _onKept(self, name: str) -> None:
        self._context.say(_("The new model {name} was kept.").format(name=name))
        self._decided()
        self._kept(name)
        self._context.changed()

    def _onDiscarded(self, _answer: Any) -> None:
        self._context.say(_("The new model was discarded."))
        self._decided()
        self._context.changed()

    def _onUndecided(self, error: PartialSegError) -> None:
        """Say why the decision was not carried out: the model still waits for one."""
        self._deciding = False
        if error.code == "cancelled":
            self._context.say(error.message)
        else:
            self._context.fail(error)
        self._context.changed()

    def _decided(self) -> None:
        """Ask about the next new model, if another one waits."""
        self._deciding = False
        self._result = None
        self._hideOutcome()
        self.restore()

    def _hideOutcome(self) -> None:
        for name in ("verdictLabel", "diceTable", "lossPlot"):
            getattr(self._ui, name).setVisible(False)

    def _plot(self) -> None:
        label = self._ui.lossPlot
        label.setPixmap(drawLoss(self._losses, self._total, max(200, label.width), _PLOT_HEIGHT, label.palette))
