"""The packages that the worker needs: what is missing, said by its own Python, and installing it.

Nothing is installed without consent: :func:`install` is called after the user agreed, and the logic
refuses it otherwise. Slicer's own process does not load torch, so that an installation meets no file
that is in use; only the extension PyTorch imports it once, after it has installed it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from slicer import util  # type: ignore[import-untyped]

from PartialSegSlicer.logic import pip
from PartialSegSlicer.logic.errors import SetupError
from PartialSegSlicer.logic.interpreter import Interpreter
from PartialSegSlicer.logic.jobs import Listeners
from PartialSegSlicer.logic.questions import Question
from PartialSegSlicer.logic.session import Session
from PartialSegSlicer.translation import tr as _
from PartialSegWorker import installation
from PartialSegWorker.environment import child_environment, package_folders

#: What the worker needs, one requirement a line.
REQUIREMENTS = Path(__file__).resolve().parents[2] / "Resources" / "requirements.txt"
#: Seconds after which a Python that does not end is given up; a first start of torch may take a minute.
_PATIENCE = 180.0
#: Lines of pip that are kept of an installation that failed.
_LAST = 30
_TORCH = "torch"


@dataclass(frozen=True)
class PackageState:
    """One package.

    Parameters
    ----------
    name, requirement : str
        ``torch``, ``torch>=2.6``.
    version : str
        What is installed; empty when nothing is.
    problem : str
        Why it cannot be used; empty for a good one.
    """

    name: str
    requirement: str
    version: str
    problem: str


@dataclass(frozen=True)
class SetupState:
    """Whether the worker can run.

    Parameters
    ----------
    python : str
        Its Python.
    own : bool
        Whether that is Slicer's own, into which the module can install.
    version : str
        Of that Python; empty when it does not start.
    packages : tuple of PackageState
        Each in the order in which they are installed.
    problem : str
        Why the Python itself cannot be used; empty for a good one.
    """

    python: str
    own: bool
    version: str
    packages: tuple[PackageState, ...]
    problem: str = ""

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return not self.problem and not self.missing

    @property
    def missing(self) -> tuple[str, ...]:
        """The requirements of packages that are missing, too old or broken."""
        return tuple(package.requirement for package in self.packages if package.problem)

    @property
    def sentence(self) -> str:
        """What to tell the user."""
        if self.problem:
            return self.problem
        broken = [f"{package.name} ({package.problem})" for package in self.packages if package.problem]
        if broken:
            return _("Python {version} lacks what PartialSeg needs: {packages}.").format(
                version=self.version, packages="; ".join(broken)
            )
        torch = next((package.version for package in self.packages if package.name == _TORCH), "")
        return _("Everything is there: Python {version}, PyTorch {torch}.").format(version=self.version, torch=torch)

    @property
    def hint(self) -> str:
        """What to do about it; empty when nothing is."""
        if self.ready:
            return ""
        if self.problem:
            return _("Choose another Python, or go back to Slicer's own.")
        if self.own:
            return _(
                "Repair installs what is missing. PyTorch takes several GB on the disk with CUDA, and one without."
            )
        return _("Run this in a terminal: {command}").format(command=self.command)

    @property
    def command(self) -> str:
        """The command that installs what is missing into a Python that is not Slicer's."""
        wanted = " ".join(f'"{requirement}"' for requirement in self.missing)
        return f'"{self.python}" -m pip install {wanted}' if wanted else ""


class SetupQuestion(Question):
    """Asks the worker's Python for its packages, in a child process of its own; the result is a :class:`SetupState`."""

    def __init__(self, interpreter: Interpreter, listeners: Listeners | None = None) -> None:
        super().__init__("setup", None, listeners)
        self._interpreter = interpreter
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._deadline = float("inf")

    def begin(self, session: Session) -> None:
        """Start the child process."""
        python = self._interpreter.path
        # Closed by release(): pipes would have to be read while the child runs.
        self._output, self._errors = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self._deadline = time.monotonic() + _PATIENCE
        try:
            self._process = subprocess.Popen(
                [python, str(Path(installation.__file__)), str(REQUIREMENTS)],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._errors,
                env=child_environment(python, package_folders()),
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            self.succeed(self._unusable(str(error.strerror or error)))

    def cancel(self) -> None:
        """Do not wait for the answer any more."""
        self.abandon(_("The check of the installation was stopped."))

    def look(self) -> None:
        """Take the answer when the child has ended."""
        if self._process is None or self.ended:
            return
        if self._process.poll() is None and time.monotonic() < self._deadline:
            return
        state = None
        with self.step():
            state = self._answer()
        self.succeed(state)

    def release(self, *, succeeded: bool) -> None:
        """End the child, and close its files."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
        for file in (self._output, self._errors):
            if file is not None:
                file.close()

    def _answer(self) -> SetupState:
        assert self._process is not None
        status = self._process.poll()
        lines = [json.loads(line) for line in self._read(self._output).splitlines() if line.startswith("{")]
        if not lines:
            return self._unusable((self._read(self._errors).strip().splitlines() or [_("it says nothing")])[-1])
        version = str(lines[0]["python"])
        if tuple(int(part) for part in version.split(".")[:2]) < installation.OLDEST:
            oldest = ".".join(map(str, installation.OLDEST))
            problem = _("Python {version} is too old: {oldest} or later is needed.")
            return self._state(version, (), problem.format(version=version, oldest=oldest))
        packages = [_package(line) for line in lines[1:]]
        wanted = installation.read_requirements(REQUIREMENTS.read_text(encoding="utf-8"))
        # A package that ends the process as it is loaded is the first without a line.
        reason = _("does not load in time")
        if status is not None:
            reason = _("crashes as it is loaded (exit status {status})").format(status=status)
        for position, requirement in enumerate(wanted[len(packages) :]):
            problem = reason if position == 0 else _("not looked at, because another package crashes")
            packages.append(PackageState(installation.name_of(requirement), requirement, "", problem))
        return self._state(version, tuple(packages))

    def _unusable(self, reason: str) -> SetupState:
        problem = _("The Python '{python}' does not start: {reason}.")
        return self._state("", (), problem.format(python=self._interpreter.path, reason=reason))

    def _state(self, version: str, packages: tuple[PackageState, ...], problem: str = "") -> SetupState:
        return SetupState(self._interpreter.path, self._interpreter.own, version, packages, problem)

    def _read(self, file: IO[bytes] | None) -> str:
        assert file is not None
        file.seek(0)
        return file.read().decode("utf-8", "replace")


def install(state: SetupState, log: Callable[[str], object] | None = None, *, progress: bool = False) -> None:
    """Install what a state says is missing into Slicer's own Python; call it after the user has agreed.

    It runs in the thread that calls it, which is the main thread, as pip in Slicer must. No package
    that this process has loaded is replaced. Good ones are held at their versions, except by the extension
    PyTorch, which takes no constraints.

    Parameters
    ----------
    state : SetupState
    log : callable, optional
        Called with a line before each step.
    progress : bool
        Whether Slicer may show a window with the progress of pip.

    Raises
    ------
    SetupError
        When the Python is not Slicer's own, a package is in use, an installer is missing, or an installation
        fails (:class:`~PartialSegSlicer.logic.pip.PipError`).
    """
    say = log or (lambda line: None)
    if not state.own:
        raise SetupError(_("'{python}' is not Slicer's own Python.").format(python=state.python), state.hint)
    broken = [package for package in state.packages if package.problem]
    _refuseLoaded(broken)
    ordinary = [package for package in broken if package.name != _TORCH]
    with pip.explained(), tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        good = [f"{package.name}=={package.version}\n" for package in state.packages if not package.problem]
        constraints.write_text("".join(good), encoding="utf-8")
        if ordinary:
            say(_installing(ordinary))
            _installOrdinary(ordinary, constraints, progress)
        for package in broken:
            if package.name == _TORCH:
                say(_installing([package]))
                _installTorch(package, constraints, progress)


def _package(line: dict[str, str]) -> PackageState:
    """Return what the child says of a package."""
    name, requirement, version = line["name"], line["requirement"], line["version"]
    problem = {
        "": "",
        installation.MISSING: _("not installed"),
        installation.OUTDATED: _("version {version} is not {wanted}").format(
            version=version, wanted=requirement[len(name) :].strip()
        ),
        installation.BROKEN: _("cannot be loaded: {reason}").format(reason=line["reason"]),
    }[line["fault"]]
    return PackageState(name, requirement, version, problem)


def _installing(packages: Sequence[PackageState]) -> str:
    return _("Installing {packages} ...").format(packages=", ".join(package.requirement for package in packages))


def _refuseLoaded(broken: Sequence[PackageState]) -> None:
    """Refuse to replace what this process has loaded, parts of a failed installation included."""
    # Windows replaces no file of a library that is loaded, and nothing loads another one in its place.
    held = [
        package.name
        for package in broken
        if (package.version or package.name == _TORCH) and _loaded(installation.MODULES.get(package.name, package.name))
    ]
    if held:
        raise SetupError(
            _("This Slicer has loaded what would have to be replaced: {packages}. Nothing was installed.").format(
                packages=", ".join(held)
            ),
            _(
                "Restart Slicer, and repair before another module uses it. If Slicer itself does, take a newer Slicer, "
                "or choose another Python for the worker."
            ),
        )


def _installOrdinary(packages: Sequence[PackageState], constraints: Path, progress: bool) -> None:
    """Install packages other than PyTorch."""
    missing = [package.requirement for package in packages if not package.version]
    damaged = [package.requirement for package in packages if package.version]
    if missing:
        pip.ensure(missing, constraints, progress)
    if damaged:
        # What is there and does not load is installed again: pip would take it for good. What it needs comes after.
        pip.install(["--force-reinstall", "--no-deps", *damaged], constraints, progress)
        pip.install(damaged, constraints, progress)


def _installTorch(package: PackageState, constraints: Path, progress: bool) -> None:
    """Install PyTorch through the extension of that name, which chooses the build for this computer."""
    utilities = pip.module("PyTorchUtils")
    if utilities is None:
        raise SetupError(
            _("PyTorch is installed through Slicer's extension PyTorch, which is not there."),
            _("Install it in the Extensions Manager, restart Slicer, and repair again."),
        )
    if not progress and importlib.util.find_spec("light_the_torch") is None:
        # The extension would install its installer itself, and show a window.
        pip.install(["light-the-torch>=0.5"], constraints, progress)
    if package.version:
        # The remains of a broken installation would be taken for a good one.
        util.pip_uninstall("torch torchvision")
    installed = utilities.PyTorchUtilsLogic().installTorch(
        askConfirmation=False, torchVersionRequirement=package.requirement[len(_TORCH) :]
    )
    if installed is None:
        raise SetupError(
            _("The extension PyTorch did not install PyTorch."), _("See Slicer's error log for the reason.")
        )


def _loaded(name: str) -> bool:
    """Whether this process has imported a package, or parts of one that failed to load."""
    return any(module == name or module.startswith(f"{name}.") for module in sys.modules)
