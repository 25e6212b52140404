"""``slicer.packaging``, ``slicer.i18n``, ``SampleData``: nothing is installed or translated, all is noted."""

# Arguments have Slicer's names.
# ruff: noqa: N803

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Packages:
    """What was asked of pip and of the translation since :meth:`reset`."""

    def __init__(self) -> None:
        self.installed: list[str] = []
        self.uninstalled: list[str] = []
        #: Of each installation: whether it might show a window, and which versions it had to leave alone.
        self.windows: list[bool] = []
        self.constraints: list[list[str]] = []
        #: Sample data that modules registered, by name.
        self.samples: dict[str, dict[str, Any]] = {}
        self.failure: Exception | None = None
        #: What pip prints.
        self.output = ""
        self.translate: Callable[[str], str] = str

    def reset(self) -> None:
        """Forget everything."""
        for noted in (self.installed, self.uninstalled, self.windows, self.constraints):
            noted.clear()
        self.samples.clear()
        self.failure, self.output, self.translate = None, "", str

    def install(self, requirements: Any, show_progress: bool = True, requester: str | None = None) -> None:
        """Note what pip would install; fail as a test wants."""
        if self.output:
            print(self.output)
        self.windows.append(show_progress)
        if self.failure is not None:
            raise self.failure
        wanted = [requirements] if isinstance(requirements, str) else list(map(str, requirements))
        if "-c" in wanted:
            place = wanted.index("-c")
            self.constraints.append(Path(wanted[place + 1]).read_text(encoding="utf-8").split())
            del wanted[place : place + 2]
        self.installed.extend(wanted)

    def ensure(
        self,
        requirements: Any,
        constraints: Any = None,
        skip_packages: Any = None,
        prompt_install: bool = True,
        prompt_restart: bool = True,
        requester: str | None = None,
        skip_in_testing: bool = True,
        show_progress: bool = True,
    ) -> None:
        """Note what pip would install because it is missing; it takes parsed requirements alone."""
        wanted = [str(item) for item in requirements if item.name and item.specifier is not None]
        self.install([*wanted, "-c", str(constraints)], show_progress or prompt_install or prompt_restart)

    def uninstall(self, requirements: Any, **_: Any) -> None:
        """Note what pip would remove."""
        self.uninstalled.extend([requirements] if isinstance(requirements, str) else map(str, requirements))


def sample_data(packages: Packages) -> types.ModuleType:
    """Return the module ``SampleData``, whose logic takes registrations."""
    module = types.ModuleType("SampleData", __doc__)

    def register(
        category: str = "Custom",
        sampleName: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Any = None,
        thumbnailFileName: str | None = None,
        loadFileTypes: Any = None,
        loadFiles: Any = None,
        loadFileProperties: Any = None,
        checksums: Any = None,
    ) -> None:
        # Slicer asks for the length of both, whatever downloads them.
        if len(uris) != len(fileNames) or len(uris) != len(nodeNames):
            raise ValueError("a name for each file")
        packages.samples[str(sampleName)] = {"category": category, "customDownloader": customDownloader}

    vars(module)["SampleDataLogic"] = types.SimpleNamespace(registerCustomSampleDataSource=register)
    return module


def packaging(packages: Packages) -> types.ModuleType:
    """Return the module ``slicer.packaging``."""
    module = types.ModuleType("slicer.packaging", __doc__)
    vars(module).update(
        pip_install=packages.install,
        pip_ensure=packages.ensure,
        pip_uninstall=packages.uninstall,
        pip_check=lambda requirements, **_: False,
        isPipInstallInProgress=lambda: False,
    )
    return module


def i18n(packages: Packages) -> types.ModuleType:
    """Return the module ``slicer.i18n``."""
    module = types.ModuleType("slicer.i18n", __doc__)

    def tr(text: str, context: str | None = None) -> str:
        return packages.translate(text)

    def translate(context: str, text: str) -> str:
        return packages.translate(text)

    vars(module).update(tr=tr, translate=translate)
    return module
