"""Installing what is missing: by the means that Slicer has, after consent, and with the reason where it fails.

That the worker's Python is asked, and what it says, is tested in ``test_hostile_files.py``. Nothing is
installed here: pip and the extension PyTorch are stand-ins, which note what they are asked.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import pytest
from host import Host

from PartialSegSlicer.logic import setup
from PartialSegSlicer.logic.errors import SettingError, SetupError
from PartialSegSlicer.logic.headless import HeadlessLogic
from PartialSegSlicer.logic.interpreter import ownPython
from PartialSegSlicer.logic.pip import PipError
from PartialSegSlicer.logic.setup import REQUIREMENTS, PackageState, SetupState, install

TORCH = "torch>=2.6,!=2.9.*"
GOOD = PackageState("numpy", "numpy>=2.0", "2.1.0", "")
MISSING = PackageState("scipy", "scipy>=1.13", "", "not installed")
DAMAGED = PackageState("safetensors", "safetensors>=0.5", "0.5.2", "cannot be loaded: OSError: no such DLL")
OUTDATED = PackageState(
    "connected-components-3d", "connected-components-3d>=3.20", "3.10", "version 3.10 is not >=3.20"
)
NO_TORCH = PackageState("torch", TORCH, "", "not installed")
HALF_TORCH = PackageState("torch", TORCH, "2.6.0", "cannot be loaded: OSError: WinError 206")


def state(*packages: PackageState, own: bool = True) -> SetupState:
    return SetupState("/opt/Slicer/bin/PythonSlicer", own, "3.12.10", packages)


@pytest.fixture(autouse=True)
def _no_torch_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Slicer: these tests share a process with others that compute."""
    load(monkeypatch)


def load(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Let these modules be what this process has loaded."""
    monkeypatch.setattr(setup, "_loaded", lambda name: name in modules)


@pytest.fixture
def torch_requests(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the extension PyTorch is asked to install."""
    asked: list[dict[str, Any]] = []

    class Logic:
        def installTorch(self, **wanted: Any) -> str:  # noqa: N802
            asked.append(wanted)
            return "torch"

    module = types.ModuleType("PyTorchUtils")
    vars(module)["PyTorchUtilsLogic"] = Logic
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    return asked


def test_only_what_is_missing_is_installed_and_torch_by_the_extension_of_that_name(
    slicer_app: Host, torch_requests: list[dict[str, Any]]
) -> None:
    lines: list[str] = []
    install(state(GOOD, MISSING, NO_TORCH), lines.append, progress=True)
    assert slicer_app.packages.installed == ["scipy>=1.13"]
    assert torch_requests == [{"askConfirmation": False, "torchVersionRequirement": ">=2.6,!=2.9.*"}]
    assert [line.split()[1] for line in lines] == ["scipy>=1.13", TORCH]


def test_a_package_that_is_there_and_does_not_load_is_installed_anew(slicer_app: Host) -> None:
    install(state(GOOD, DAMAGED))
    assert slicer_app.packages.installed == ["--force-reinstall", "--no-deps", "safetensors>=0.5", "safetensors>=0.5"]


def test_the_remains_of_a_half_installed_torch_are_removed_first(
    slicer_app: Host, torch_requests: list[dict[str, Any]]
) -> None:
    install(state(GOOD, HALF_TORCH))
    assert slicer_app.packages.uninstalled == ["torch torchvision"]
    assert len(torch_requests) == 1


@pytest.mark.parametrize("progress", [False, True])
def test_pip_shows_a_window_only_where_it_may(
    slicer_app: Host, torch_requests: list[dict[str, Any]], progress: bool
) -> None:
    install(state(DAMAGED, MISSING, NO_TORCH), progress=progress)
    assert set(slicer_app.packages.windows) == {progress}
    # The extension PyTorch would install this one with a window.
    assert ("light-the-torch>=0.5" in slicer_app.packages.installed) is not progress


def test_what_is_good_keeps_its_version(slicer_app: Host) -> None:
    install(state(GOOD, MISSING, DAMAGED, PackageState("torch", TORCH, "2.8.0+cu128", "")))
    assert slicer_app.packages.constraints == [["numpy==2.1.0", "torch==2.8.0+cu128"]] * 3


@pytest.mark.parametrize(
    ("package", "module"),
    [(HALF_TORCH, "torch"), (NO_TORCH, "torch"), (DAMAGED, "safetensors"), (OUTDATED, "cc3d")],
    ids=["half a torch", "the rest of a torch", "damaged", "outdated"],
)
def test_what_slicer_has_loaded_is_replaced_after_a_restart_only(
    slicer_app: Host,
    torch_requests: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    package: PackageState,
    module: str,
) -> None:
    load(monkeypatch, module, "scipy", "numpy")
    with pytest.raises(SetupError) as raised:
        install(state(GOOD, MISSING, package))
    assert package.name in raised.value.message
    assert "Restart Slicer" in raised.value.hint
    assert (slicer_app.packages.installed, slicer_app.packages.uninstalled, torch_requests) == ([], [], [])
    # Other packages have nothing to do with it.
    install(state(GOOD, MISSING))
    assert slicer_app.packages.installed == ["scipy>=1.13"]


def test_without_the_extension_pytorch_its_place_is_said(slicer_app: Host) -> None:
    with pytest.raises(SetupError) as raised:
        install(state(GOOD, NO_TORCH))
    assert "Extensions Manager" in raised.value.hint
    assert slicer_app.packages.installed == []


def test_an_older_slicer_without_its_packaging_module_uses_what_it_has(
    slicer_app: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def pip_install(requirements: Any) -> None:
        asked.append(requirements)

    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(slicer_app.slicer.util, "pip_install", pip_install)
    install(state(MISSING), progress=True)
    (arguments,) = asked
    assert arguments[:2] == ["scipy>=1.13", "-c"]
    assert not Path(arguments[2]).exists()


#: What pip, or what it calls, prints as it fails; with the reason and a word of the hint that are to be shown.
FAILURES = {
    "disk": (
        "Installing collected packages: scipy\n"
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n",
        "No space left on device",
        "disk is full",
    ),
    "proxy": (
        "WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection "
        "broken by 'ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407 Proxy "
        "Authentication Required'))': /simple/scipy/\n"
        "ERROR: Could not find a version that satisfies the requirement scipy>=1.13 (from versions: none)\n"
        "ERROR: No matching distribution found for scipy>=1.13\n",
        "No matching distribution found",
        "HTTPS_PROXY",
    ),
    "certificate": (
        "Could not fetch URL https://index.example/simple/scipy/: There was a problem confirming the ssl certificate: "
        "HTTPSConnectionPool(host='index.example', port=443): Max retries exceeded with url: /simple/scipy/ (Caused by "
        "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to "
        "get local issuer certificate (_ssl.c:1000)'))) - skipping\n"
        "ERROR: No matching distribution found for scipy>=1.13\n",
        "No matching distribution found",
        "PIP_CERT",
    ),
    "timeout": (
        "pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool(host='index.example', "
        "port=443): Read timed out.\n",
        "exit status 1",
        "without internet",
    ),
    "no wheel": (
        "ERROR: Could not find a version that satisfies the requirement scipy>=1.13 (from versions: 0.8.0, 1.12.0)\n"
        "ERROR: No matching distribution found for scipy>=1.13\n"
        "[notice] A new release of pip is available: 25.0 -> 25.1\n",
        "No matching distribution found",
        "version of Python",
    ),
    "no compiler": (
        "  building 'fastremap' extension\n"
        '  error: Microsoft Visual C++ 14.0 or greater is required. Get it with "Microsoft C++ Build Tools"\n'
        "  [end of output]\n"
        "  note: This error originates from a subprocess, and is likely not a problem with pip.\n"
        "  ERROR: Failed building wheel for fastremap\n"
        "Failed to build fastremap\n"
        "ERROR: Failed to build installable wheels for some pyproject.toml based projects (fastremap)\n",
        "installable wheels",
        "version of Python",
    ),
    "long path": (
        "ERROR: Could not install packages due to an OSError: [Errno 2] No such file or directory: "
        "'C:\\\\Users\\\\a\\\\torch\\\\include\\\\ATen.h'\n"
        "HINT: This error might have occurred since this system does not have Windows Long Path support enabled. "
        "You can find information on how to enable this at https://pip.pypa.io/warnings/enable-long-paths\n",
        "No such file or directory",
        "short path",
    ),
    "in use": (
        "ERROR: Could not install packages due to an OSError: [WinError 5] Zugriff verweigert: "
        "'C:\\\\Slicer\\\\cc3d.cp312-win_amd64.pyd'\n"
        "Consider using the `--user` option or check the permissions.\n",
        "WinError 5",
        "in use",
    ),
    "conflict": (
        "ERROR: Cannot install scipy>=1.13 because these package versions have conflicting dependencies.\n"
        "The conflict is caused by:\n"
        "    scipy 1.17.1 depends on numpy<2.7 and >=1.26.4\n"
        "    The user requested (constraint) numpy==1.25.2\n"
        "ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/en/latest/topics/dependency-resolution/\n",
        "conflicting dependencies",
        "newer Slicer",
    ),
    "unknown": ("Segmentation fault\n", "exit status 1", "error log has the lines of pip"),
}


@pytest.mark.parametrize(("printed", "reason", "hint"), FAILURES.values(), ids=FAILURES)
def test_the_cause_in_the_lines_of_pip_is_shown_with_what_to_do(
    slicer_app: Host, capsys: pytest.CaptureFixture[str], printed: str, reason: str, hint: str
) -> None:
    lines = [*(f"Collecting {number}" for number in range(40)), *printed.splitlines()]
    slicer_app.packages.output = "\n".join(lines)
    slicer_app.packages.failure = subprocess.CalledProcessError(1, "pip install")
    with pytest.raises(PipError) as raised:
        install(state(MISSING))
    assert reason in raised.value.message
    assert hint in raised.value.hint
    assert raised.value.log.splitlines() == lines[-30:]
    # Slicer's console and its log have all of them.
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (subprocess.CalledProcessError(1, "light_the_torch"), "No space left"),
        (OSError("[WinError 126] c10.dll"), "WinError 126"),
    ],
    ids=["pip", "import"],
)
def test_the_lines_of_the_extension_pytorch_are_kept_too(
    slicer_app: Host, monkeypatch: pytest.MonkeyPatch, failure: Exception, reason: str
) -> None:
    class Logic:
        def installTorch(self, **wanted: Any) -> None:  # noqa: N802
            print("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
            print("ERROR: pip's dependency resolver does not currently take into account all the packages")
            raise failure

    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=Logic))
    with pytest.raises(PipError) as raised:
        install(state(GOOD, NO_TORCH))
    assert reason in raised.value.message
    assert "No space left" in raised.value.log
    assert "disk is full" in raised.value.hint


def test_a_failure_without_a_word_of_pip_says_what_is_known(slicer_app: Host) -> None:
    slicer_app.packages.failure = RuntimeError("PythonSlicer executable not found")
    with pytest.raises(PipError) as raised:
        install(state(MISSING))
    assert "PythonSlicer executable not found" in raised.value.message
    assert "proxy" in raised.value.hint
    assert raised.value.log == ""


def test_what_pip_says_is_read_from_a_real_pip(slicer_app: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip_install(requirements: list[str]) -> None:
        command = [sys.executable, "-m", "pip", "install", "--no-index", "--dry-run", *requirements]
        print(subprocess.run(command, capture_output=True, text=True, check=False).stderr)
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(slicer_app.slicer.util, "pip_install", pip_install)
    with pytest.raises(PipError) as raised:
        install(state(GOOD, PackageState("no-such", "no-such-package>=1", "", "not installed")))
    assert "No matching distribution found for no-such-package>=1" in raised.value.message
    assert "version of Python" in raised.value.hint


def test_a_python_that_is_not_slicers_is_never_installed_into(slicer_app: Host) -> None:
    other = state(MISSING, NO_TORCH, own=False)
    with pytest.raises(SetupError):
        install(other)
    assert slicer_app.packages.installed == []
    assert other.command == f'"/opt/Slicer/bin/PythonSlicer" -m pip install "scipy>=1.13" "{TORCH}"'
    assert other.command in other.hint


def test_the_worker_runs_in_slicers_python_and_not_in_the_application_itself(
    slicer_app: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "PythonSlicer.exe" if os.name == "nt" else "PythonSlicer"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / name).touch()
    monkeypatch.setattr(slicer_app.slicer, "app", types.SimpleNamespace(slicerHome=str(tmp_path)))
    assert ownPython() == str(tmp_path / "bin" / name)


def test_the_choice_of_another_python_belongs_to_the_computer_and_can_be_taken_back(
    slicer_app: Host, tmp_path: Path
) -> None:
    first = HeadlessLogic()
    assert first.interpreter.own
    first.setPython(sys.executable)
    assert HeadlessLogic().python == sys.executable
    assert not HeadlessLogic().interpreter.own
    first.setPython()
    assert HeadlessLogic().interpreter.own
    with pytest.raises(SettingError, match="is no program"):
        first.setPython(tmp_path / "missing" / "python")
    assert HeadlessLogic().interpreter.own


def test_a_state_says_what_is_missing_in_one_sentence() -> None:
    assert state(GOOD, MISSING, HALF_TORCH).missing == ("scipy>=1.13", TORCH)
    sentence = state(GOOD, MISSING, HALF_TORCH).sentence
    assert "scipy (not installed)" in sentence
    assert "torch (cannot be loaded" in sentence
    good = state(GOOD, PackageState("torch", TORCH, "2.8.0", ""))
    assert good.ready
    assert "PyTorch 2.8.0" in good.sentence


def test_the_requirements_of_the_module_are_those_of_the_library() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [line.split("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines()]
    assert sorted(line for line in lines if line) == sorted(project["dependencies"])
