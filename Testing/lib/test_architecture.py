"""The house: arrows point one way, the light rooms stay light, and all data fits its schema."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

ROOT = Path(__file__).parents[2]
LIB, TRAINING, EXTENSION = (
    ROOT / "PartialSegLib",
    ROOT / "Training" / "PartialSegTraining",
    ROOT / "PartialSegExtension",
)
WORKER = EXTENSION / "PartialSegWorker"

#: Top-level modules of the Slicer side: the application's own, and those of the extension.
SLICER_SIDE = {"slicer", "qt", "ctk", "PartialSeg", "PartialSegWorker", "PartialSegSlicer"}
#: The one room that talks to other machines, when the user asks for a download.
FETCHING = LIB / "fetching"
#: Modules that talk to other machines.
NETWORK = {"socket", "http", "urllib", "ftplib", "smtplib", "requests", "httpx", "aiohttp", "openvino_telemetry"}

#: The rooms of the library that need torch. All others are for Slicer's own process too.
NEED_TORCH = (
    "PartialSegLib.networks",
    "PartialSegLib.inference",
    "PartialSegLib.preprocessing",
    "PartialSegLib.published",
    "PartialSegLib.resampling",
)
#: The one file that reads pickles, of which it runs nothing: ``test_published.py`` holds it to that.
RESTRICTED = LIB / "published" / "restricted.py"
#: What is light in them nevertheless.
LIGHT = {"PartialSegLib.inference", "PartialSegLib.inference.presets"}


def sources(room: Path) -> list[Path]:
    return sorted(room.rglob("*.py"))


def everything() -> list[Path]:
    files = [*sources(LIB), *sources(TRAINING), *sources(WORKER)]
    assert len(files) > 50
    return files


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(file: Path) -> set[str]:
    """Return the top-level modules that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively, which this test cannot follow"
            found.add((node.module or "").split(".")[0])
    return found


def module_name(file: Path, room: Path) -> str:
    parts = file.relative_to(room.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# ---- arrows


def test_the_library_knows_nothing_of_training_and_slicer() -> None:
    assert {
        file: bad for file in sources(LIB) if (bad := imported(file) & (SLICER_SIDE | {"PartialSegTraining"}))
    } == {}


def test_training_knows_nothing_of_slicer() -> None:
    assert {file: bad for file in sources(TRAINING) if (bad := imported(file) & SLICER_SIDE)} == {}


def test_the_worker_and_its_client_know_nothing_of_slicer() -> None:
    assert len(sources(WORKER)) > 5
    known = SLICER_SIDE - {"PartialSegWorker"}
    assert {file: bad for file in sources(WORKER) if (bad := imported(file) & known)} == {}


def test_only_the_work_of_requests_calls_the_heavy_rooms() -> None:
    heavy = {
        file.name for file in sources(WORKER) if any(f"from {room}" in file.read_text("utf-8") for room in NEED_TORCH)
    }
    assert heavy == {"answers.py", "engine.py", "modelwork.py"}
    training = {file.name for file in sources(WORKER) if "PartialSegTraining" in imported(file)}
    assert training == {"finetunework.py", "phantomwork.py"}


def test_nothing_calls_other_machines_but_the_room_that_fetches() -> None:
    calling = {file: bad for file in everything() if (bad := imported(file) & NETWORK)}
    assert {file for file in calling if FETCHING not in file.parents} == set()
    assert set().union(*calling.values()) == {"socket", "http", "urllib"}


def test_only_a_download_enters_the_room_that_fetches() -> None:
    outside = [file for file in everything() if FETCHING not in file.parents]
    assert [file.name for file in outside if "PartialSegLib.fetching" in file.read_text("utf-8")] == ["downloads.py"]
    code = (
        "import sys, PartialSegLib.downloads, PartialSegLib.commands.models\n"
        "assert not {'PartialSegLib.fetching', 'urllib.request', 'http.client'} & set(sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr


def test_no_file_that_is_read_can_run_code() -> None:
    for file in everything():
        for node in ast.walk(tree(file)):
            if not isinstance(node, ast.Call):
                continue
            name, words = ast.unparse(node.func), [ast.unparse(word) for word in node.keywords]
            where = f"{file}:{node.lineno}"
            assert name not in ("eval", "exec"), where
            assert not name.endswith(("pickle.load", "pickle.loads", "Unpickler", "marshal.load")), where
            # NumPy refuses pickles unless told otherwise; torch has to be told, because older ones did not.
            assert "allow_pickle=True" not in words, where
            assert name != "torch.load" or "weights_only=True" in words, where


def test_one_file_alone_reads_pickles() -> None:
    readers = {"pickle.load", "pickle.loads", "pickle.Unpickler"}
    named = {
        file: {ast.unparse(node) for node in ast.walk(tree(file)) if isinstance(node, ast.Attribute)}
        for file in everything()
    }
    assert [file for file, names in named.items() if names & readers] == [RESTRICTED]
    for file in everything():
        from_pickle = [node for node in ast.walk(tree(file)) if isinstance(node, ast.ImportFrom)]
        assert not any(node.module in ("pickle", "_pickle") for node in from_pickle), file


def test_every_module_says_what_it_decides() -> None:
    assert [file for file in everything() if not ast.get_docstring(tree(file))] == []


# ---- weight


def light_modules() -> list[str]:
    names = [module_name(file, LIB) for file in sources(LIB) if file.stem != "__main__"]
    return [name for name in names if name in LIGHT or not name.startswith(NEED_TORCH)]


def test_the_light_rooms_import_without_torch() -> None:
    # VTK is no part of the library's own dependencies; the files that draw with it are not imported here.
    names = [name for name in light_modules() if not name.startswith("PartialSegLib.rendering.")]
    assert {"PartialSegLib.images", "PartialSegLib.bundle", "PartialSegLib.cli"} <= set(names)
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, f'{name} imports torch'\n"
        "assert not {'PartialSegTraining', 'openvino', 'vtk', 'highdicom'} & set(sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr


def test_structures_cards_and_catalog_import_without_numpy() -> None:
    code = (
        "import sys\n"
        "import PartialSegLib.structures, PartialSegLib.card, PartialSegLib.bundle, PartialSegLib.catalog\n"
        "import PartialSegLib.errors, PartialSegLib.progress, PartialSegLib.inference.presets\n"
        "import PartialSegLib.downloads, PartialSegLib.bundlearchive, PartialSegLib.fetching.transfer\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_client_of_the_worker_imports_nothing_but_the_standard_library_and_ours() -> None:
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(EXTENSION)!r})\n"
        "import PartialSegWorker\n"
        "foreign = {'torch', 'numpy', 'SimpleITK', 'psutil', 'scipy', 'vtk', 'slicer', 'qt'}\n"
        "assert not foreign & set(sys.modules), foreign & set(sys.modules)\n"
        # The server as well, until the first request that needs it: a worker says hello at once.
        "import PartialSegWorker.server\n"
        "assert not foreign & set(sys.modules), foreign & set(sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr


# ---- data


def documents() -> Iterator[tuple[Path, Path]]:
    """Yield every JSON file of the library with its schema."""
    data = LIB / "data"
    yield data / "structures.json", data / "structures.schema.json"
    yield data / "models.json", data / "models.schema.json"
    for file in sorted((data / "label_spaces").glob("*.json")):
        yield file, data / "label_space.schema.json"
    for file in sorted((LIB / "models").glob("*/card.json")):
        yield file, data / "card.schema.json"


@pytest.fixture(scope="module")
def registry() -> Registry[Any]:
    files = (LIB / "data").glob("*.schema.json")
    return Registry().with_resources((file.name, Resource.from_contents(read(file))) for file in files)


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("schema", sorted((LIB / "data").glob("*.schema.json")), ids=lambda file: file.stem)
def test_every_schema_is_one(schema: Path) -> None:
    Draft202012Validator.check_schema(read(schema))


@pytest.mark.parametrize(("file", "schema"), list(documents()), ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_data_fits_its_schema(file: Path, schema: Path, registry: Registry[Any]) -> None:
    Draft202012Validator(read(schema), registry=registry).validate(read(file))


def test_every_json_file_of_the_library_has_a_schema() -> None:
    checked = {file for file, _ in documents()}
    assert {file for file in LIB.rglob("*.json") if not file.name.endswith(".schema.json")} == checked


def test_a_file_names_the_schema_that_it_fits() -> None:
    named = [(file, schema) for file, schema in documents() if "$schema" in read(file)]
    assert named
    for file, schema in named:
        assert (file.parent / read(file)["$schema"]).resolve() == schema


@pytest.mark.parametrize(("package", "folder"), [("PartialSegLib", LIB), ("PartialSegTraining", TRAINING)])
def test_data_is_part_of_the_package(package: str, folder: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"][package]
    packed = {file for pattern in patterns for file in folder.glob(pattern)}
    data = {file for file in folder.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert data
    assert data <= packed
