"""Choosing a model, and importing, downloading and deleting models.

What a model is made for and under which license stands below its name. Nothing is downloaded before
the license was shown and accepted, and nothing is deleted without a question.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import qt  # type: ignore[import-not-found]
import slicer  # type: ignore[import-untyped]
from slicer.i18n import tr as _  # type: ignore[import-untyped]

from PartialSegLib.errors import PartialSegError
from PartialSegLib.fetching.addresses import MIRROR_VARIABLE
from PartialSegLib.progress import Progress
from PartialSegLib.sizes import readable
from PartialSegSlicer.logic.models import removalOf
from PartialSegSlicer.panels.context import Context
from PartialSegSlicer.panels.texts import progressText
from PartialSegSlicer.panels.widgets import chosenOf, fill


class ModelPanel:
    """The model selector, its menu, and what is said about the chosen model.

    Parameters
    ----------
    context : Context
    onModel : callable
        Called with the description of the chosen model (as ``PartialSegLogic.models`` gives it), or ``None``.
    """

    def __init__(self, context: Context, onModel: Callable[[dict[str, Any] | None], None]) -> None:
        self._context, self._ui, self._onModel = context, context.ui, onModel
        self._models: list[dict[str, Any]] = []
        self._downloads: list[dict[str, Any]] = []
        self._default = ""
        self._shown: dict[str, Any] | None = None
        self._job: Any = None
        self._menu = qt.QMenu(self._ui.modelMenuButton)
        self._menu.setToolTipsVisible(True)
        self._menu.connect("aboutToShow()", self._fillMenu)
        self._ui.modelMenuButton.setMenu(self._menu)
        self._ui.modelSelector.connect("currentIndexChanged(int)", self._onChosen)
        self._ui.modelCancelButton.connect("clicked()", self._cancel)

    def refresh(self, choose: str = "") -> None:
        """Read the list of models again, and choose one of them by name."""
        with self._context.guarded():
            listed = self._context.logic.models()
            self._models, self._downloads = listed["models"], listed["downloads"]
            self._default = listed["default"]
        settings = self._context.settings()
        usable = [model for model in self._models if not model["problem"]]
        wanted = choose or (settings.model if settings is not None else "") or self._default
        fill(self._ui.modelSelector, [(model["title"], model["name"]) for model in usable], wanted)
        self._onChosen()

    def chosen(self) -> dict[str, Any] | None:
        """Return the description of the chosen model."""
        name = chosenOf(self._ui.modelSelector)
        return next((model for model in self._models if model["name"] == name), None)

    def nameOf(self, key: str) -> str:
        """Return what a structure is called; of one that the chosen model does not know, its key as words."""
        model = self.chosen()
        known = {item["key"]: item["name"] for task in (model["tasks"] if model else []) for item in task["structures"]}
        return str(known.get(key) or key.replace("_", " ").capitalize())

    def show(self, name: str) -> None:
        """Choose the model that the parameter node names; for an empty name, the one that is shown is chosen."""
        if not name:
            self._onChosen()
        elif name != chosenOf(self._ui.modelSelector):
            index = self._ui.modelSelector.findData(name)
            if index >= 0:
                self._ui.modelSelector.setCurrentIndex(index)
            elif self._models:
                # The scene comes from another computer.
                self._context.say(_("There is no model {name} here; another one is chosen.").format(name=name))
                self._onChosen()

    def look(self) -> None:
        """Offer what can be done now."""
        free = not self._context.busy and self._job is None
        self._ui.modelMenuButton.setEnabled(free)
        self._ui.modelSelector.setEnabled(free)

    def _onChosen(self, *_index: int) -> None:
        model, settings = self.chosen(), self._context.settings()
        if settings is not None and model is not None and settings.model != model["name"]:
            settings.model = model["name"]
        self._ui.modelInfo.setText(self._describe(model))
        self._ui.modelInfo.setToolTip(model["description"] if model else "")
        if model is not self._shown:
            self._shown = model
            self._onModel(model)
        self._context.changed()

    def _describe(self, model: dict[str, Any] | None) -> str:
        if model is None:
            return _("No model is installed. Import or download one under Manage.")
        count = sum(len(task["structures"]) for task in model["tasks"])
        parts = [
            model["modality"],
            _("1 structure") if count == 1 else _("{count} structures").format(count=count),
            _("license {name}").format(name=model["license"]),
            readable(model["bytes"]) if model.get("bytes") is not None else "",
        ]
        return "\n".join(filter(None, [" · ".join(filter(None, parts)), model["intended_use"]]))

    def _fillMenu(self) -> None:
        """List what can be done now: the menu is made each time it is opened."""
        self._menu.clear()
        self._add(_("Import file..."), self._importFile)
        self._add(_("Import folder..."), self._importFolder)
        missing = [entry for entry in self._downloads if not entry["installed"]]
        if missing:
            self._menu.addSeparator()
        for entry in missing:
            title = entry["title"]
            if entry["address"] or os.environ.get(MIRROR_VARIABLE):
                size = readable(entry["bytes"]) if entry["bytes"] else _("size unknown")
                text = _("Download {title} ({size})...").format(title=title, size=size)
                self._add(text, partial(self._download, entry), entry["description"])
            else:
                text = _("How to get {title}...").format(title=title)
                self._add(text, partial(self._explain, entry), entry["description"])
        self._menu.addSeparator()
        model = self.chosen()
        if model is not None and model["origin"] != "bundled":
            self._add(_("Delete {title}...").format(title=model["title"]), partial(self._delete, model))
        for damaged in [item for item in self._models if item["problem"]]:
            text = _("Delete {name}, which is damaged...").format(name=damaged["name"])
            self._add(text, partial(self._delete, damaged), damaged["problem"])
        self._add(_("Open model folder"), self._openFolder)

    def _add(self, text: str, act: Callable[[], None], tip: str = "") -> None:
        action = self._menu.addAction(text)
        action.setToolTip(tip)
        action.connect("triggered()", act)

    def _importFile(self) -> None:
        path = qt.QFileDialog.getOpenFileName(self._ui.modelMenuButton, _("Import a model file"))
        self._import(path)

    def _importFolder(self) -> None:
        path = qt.QFileDialog.getExistingDirectory(self._ui.modelMenuButton, _("Import a model folder"))
        self._import(path)

    def _import(self, path: str) -> None:
        if path:
            self._begin(lambda **listeners: self._context.logic.importModel(path, **listeners))

    def _download(self, entry: dict[str, Any]) -> None:
        """Show the license; download when it is accepted."""
        question = _("{title}\n\nLicense: {name}\n\n{text}\n\nAccept this license and download the model?").format(
            title=entry["title"], name=entry["license"]["name"], text=entry["license"]["text"]
        )
        if slicer.util.confirmOkCancelDisplay(question, _("Download a model")):
            logic = self._context.logic
            self._begin(lambda **listeners: logic.downloadModel(entry["name"], licenseAccepted=True, **listeners))

    def _explain(self, entry: dict[str, Any]) -> None:
        """Say how a person gets a model that has no public address."""
        text = _("{how}\n\n{page}\n\nWhen you have the file, import it here.").format(
            how=entry["by_hand"], page=entry["page"] or ""
        )
        slicer.util.infoDisplay(text, entry["title"])

    def _delete(self, model: dict[str, Any]) -> None:
        with self._context.guarded():
            removal = removalOf(model["name"])
            question, done = _("Delete the model '{name}' in {folder}?"), _("Deleted the model '{name}' in {folder}.")
            if removal.size:
                question = _("Delete the model '{name}' in {folder} ({size})?")
                done = _("Deleted the model '{name}' in {folder} ({size}).")
            known = asdict(removal)
            if slicer.util.confirmOkCancelDisplay(question.format(**known), _("Delete a model")):
                self._context.logic.removeModel(model["name"])
                self._context.say(done.format(**known))
                self.refresh()

    def _openFolder(self) -> None:
        folder = Path(self._context.logic.models()["model_folder"])
        folder.mkdir(parents=True, exist_ok=True)
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(folder)))

    def _begin(self, start: Callable[..., Any]) -> None:
        with self._context.guarded():
            self._job = start(onProgress=self._onProgress, onFinished=self._onFinished, onError=self._onError)
            self._show(Progress("import", 0, 0, None))
            self._context.wake()
        self._context.changed()

    def _cancel(self) -> None:
        if self._job is not None:
            self._job.cancel()

    def _onProgress(self, progress: Progress) -> None:
        self._show(progress)

    def _onFinished(self, names: Any) -> None:
        self._end()
        added = [names] if isinstance(names, str) else list(names)
        self._context.say(_("Added: {names}.").format(names=", ".join(added)))
        self.refresh(added[0] if added else "")

    def _onError(self, error: PartialSegError) -> None:
        self._end()
        if error.code != "cancelled":
            self._context.fail(error)
        self._context.changed()

    def _end(self) -> None:
        self._job = None
        self._show(None)

    def _show(self, progress: Progress | None) -> None:
        bar = self._ui.modelProgress
        bar.setVisible(progress is not None)
        self._ui.modelCancelButton.setVisible(progress is not None)
        if progress is not None:
            bar.setRange(0, 1000 if progress.total > 1 else 0)
            # Bytes of a large file do not fit into the whole numbers of a bar.
            bar.setValue(round(1000 * progress.done / progress.total) if progress.total > 1 else 0)
            bar.setFormat(progressText(progress))
