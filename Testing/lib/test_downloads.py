"""From the list of published models to an installed one: what is fetched, asked, said, kept and deleted."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from download_cases import call, types, zipped
from file_server import Site, answers, sends_only, serving, stalls_after
from published_files import dodnet, packed, parallel, saved, write_multitalent

from bundles import random_bundle
from PartialSegLib import catalog, downloads
from PartialSegLib.bundle import CARD, WEIGHTS
from PartialSegLib.downloads import Download
from PartialSegLib.errors import DownloadError, LicenseError
from PartialSegLib.fetching import addresses
from PartialSegLib.fetching.transfer import Patience
from PartialSegLib.published import ImportOptions
from PartialSegLib.sizes import folder_size, readable


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``Task100_MultiTalent.zip``, the checkpoint of DoDNet, and the model ``random`` as a zip."""
    folder = tmp_path_factory.mktemp("archives")
    shutil.copy(packed(write_multitalent(folder / "unpacked")), folder / "Task100_MultiTalent.zip")
    saved(folder / "MOTS_DynConv_checkpoint.pth", parallel(dodnet()))
    zipped(random_bundle(folder / "random"), folder / "random.zip", "random/")
    return folder


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of installed models, empty; pauses between attempts are short."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setattr("PartialSegLib.fetching.transfer.Patience", lambda: Patience(wait=0.001))
    monkeypatch.setenv(catalog.FOLDER_VARIABLE, str(folder))
    monkeypatch.delenv(catalog.MODEL_VARIABLE, raising=False)
    monkeypatch.delenv(addresses.MIRROR_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def mirror(archives: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A mirror in the own network, which serves ``Task100_MultiTalent.zip`` under every name."""
    with serving((archives / "Task100_MultiTalent.zip").read_bytes()) as site:
        monkeypatch.setenv(addresses.MIRROR_VARIABLE, f"{site.address}/models/")
        monkeypatch.setenv("NO_PROXY", "localhost")
        yield site


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that opens a connection."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("something was fetched unasked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# ---- the list


def test_every_entry_can_be_had_or_says_how() -> None:
    assert [entry.name for entry in downloads.available()] == ["multitalent-unet", "multitalent-resenc", "dodnet-mots"]
    for entry in downloads.available():
        if entry.address is not None:
            addresses.check(entry.address, http=False)
            assert addresses.shown(entry.address).endswith(entry.file)
        else:
            assert entry.file in (entry.by_hand or "")
        assert len(entry.structures) == {"multitalent": 47, "mots": 11}[entry.label_space]
        assert set(entry.options) <= {field.name for field in fields(ImportOptions)}
        assert "medical device" in entry.license.text


def test_what_is_not_known_is_not_invented() -> None:
    # Nobody of the project has seen the published files: no size, checksum or time can be stated.
    for entry in downloads.available():
        assert (entry.bytes, entry.sha256, entry.measured) == (None, None, None)


def test_the_entry_type_has_exactly_the_fields_of_the_data() -> None:
    names = {field.name for field in fields(Download)} - {"options"} | {"import"}
    schema = json.loads((Path(downloads.__file__).parent / "data" / "models.schema.json").read_text())
    assert names == set(schema["$defs"]["model"]["properties"])


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    with pytest.raises(
        DownloadError, match=r"no model 'MultiTalent-U-Net' to download\. Did you mean multitalent-unet"
    ):
        downloads.find("MultiTalent-U-Net")
    with pytest.raises(DownloadError, match="Known: multitalent-unet, multitalent-resenc, dodnet-mots"):
        downloads.find("qqq")


def test_models_lists_what_is_installed_and_what_can_be_had_without_asking_anybody(
    offline: None, installed: Path, capsys: Any
) -> None:
    bundle = random_bundle(installed / "abdomen")
    assert call("models") == 0
    lines = capsys.readouterr().out.splitlines()
    size = readable(folder_size(bundle.folder))
    assert re.split(r"\s{2,}", lines[2]) == ["abdomen", "1.0.0", "installed", size, "Random weights"]
    rows = [re.split(r"\s{2,}", line) for line in lines]
    terms = "see Zenodo record 8297767"
    assert ["multitalent-unet", "unknown", "47", "not measured", terms, "MultiTalent U-Net"] in rows
    assert ["dodnet-mots", "unknown", "11", "not measured", "not stated", "DoDNet, trained on MOTS"] in rows
    assert "'partialseg download NAME' gets these:" in lines
    assert "Without a public address; 'partialseg download NAME' says how to get these:" in lines


def test_models_as_json_has_everything_that_a_front_end_needs(offline: None, installed: Path, capsys: Any) -> None:
    bundle = random_bundle(installed / "abdomen")
    assert call("models", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    model = next(model for model in document["models"] if model["name"] == "abdomen")
    assert model["bytes"] == folder_size(bundle.folder)
    unet, _, mots = document["downloads"]
    assert unet["license"]["text"].startswith("The weights were published by the authors of MultiTalent")
    assert (unet["installed"], unet["downloaded_bytes"], unet["bytes"]) == (False, 0, None)
    assert len(unet["structures"]) == 47
    assert mots["address"] is None
    assert "1qj8dJ_G1sHiCmJx_IQjACQhjUQnb4flg" in mots["by_hand"]


# ---- downloading


def test_a_model_is_downloaded_imported_listed_and_nothing_else_stays(
    mirror: Site, installed: Path, capsys: Any
) -> None:
    installed.rmdir()
    assert call("download", "multitalent-unet", "--accept-license") == 0
    (request,) = mirror.requests
    assert request.path == "/models/Task100_MultiTalent.zip"
    assert sorted(os.listdir(installed)) == [".downloads", "multitalent-unet"]
    assert os.listdir(installed / ".downloads") == []
    output = capsys.readouterr()
    bundle = catalog.find("multitalent-unet")
    assert output.out == (
        f"Installed {bundle.card.title}: {installed / 'multitalent-unet'}\n"
        "Try: partialseg segment SCAN --model multitalent-unet -o result.seg.nrrd\n"
    )
    assert output.err.startswith(
        "License of MultiTalent U-Net: see Zenodo record 8297767\n\nThe weights were published"
    )
    assert "The catalog knows no checksum of Task100_MultiTalent.zip. The SHA-256 of what came is " in output.err
    assert len(bundle.card.label_space.structures) == 47
    assert bundle.card.network == "MultiTalentUNet"
    assert call("models") == 0
    assert "gets these:\nName" in (shown := capsys.readouterr().out)
    assert "multitalent-unet" not in shown.partition("gets these:")[2]


def test_the_two_models_of_one_file_cost_one_download(mirror: Site, tmp_path: Path) -> None:
    keep = ["--accept-license", "--quiet", "--keep", "kept.zip"]
    assert call("download", "multitalent-unet", *keep) == 0
    assert call("download", "multitalent-resenc", *keep) == 0
    assert len(mirror.requests) == 1
    assert (tmp_path / "kept.zip").read_bytes() == mirror.content
    assert catalog.find("multitalent-resenc").card.network == "MultiTalentResEncUNet"


def test_a_folder_to_keep_the_file_in_gives_it_its_own_name(mirror: Site, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    assert call("download", "multitalent-unet", "--accept-license", "--quiet", "--keep", "archive") == 0
    assert os.listdir(tmp_path / "archive") == ["Task100_MultiTalent.zip"]


def test_a_missing_folder_to_keep_the_file_in_is_named_before_anything_is_fetched(mirror: Site, capsys: Any) -> None:
    assert call("download", "multitalent-unet", "--accept-license", "--quiet", "--keep", "none/kept.zip") == 10
    assert capsys.readouterr().err == (
        "partialseg: error: There is no folder 'none' to keep the file in. Make it first.\n"
    )
    assert mirror.requests == []


def test_the_installed_model_is_printed_as_json(mirror: Site, capsys: Any) -> None:
    assert call("download", "multitalent-unet", "--accept-license", "--quiet", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["name"], document["origin"]) == ("multitalent-unet", "installed")
    assert document["bytes"] > 1000


def test_an_installed_model_is_not_downloaded_again(offline: None, installed: Path, capsys: Any) -> None:
    random_bundle(installed / "multitalent-unet")
    assert call("download", "multitalent-unet") == 0
    output = capsys.readouterr()
    assert output.out.startswith(f"There is Random weights: {installed / 'multitalent-unet'}\n")
    assert output.err == "'multitalent-unet' is installed already.\n"


def test_a_damaged_model_is_downloaded_again(mirror: Site, installed: Path) -> None:
    (random_bundle(installed / "multitalent-unet").folder / WEIGHTS).write_bytes(b"cut off")
    assert call("download", "multitalent-unet", "--accept-license", "--quiet") == 0
    assert catalog.find("multitalent-unet").card.network == "MultiTalentUNet"


def test_a_model_without_a_public_address_says_how_to_get_it(offline: None, capsys: Any) -> None:
    assert call("download", "dodnet-mots", "--accept-license") == 10
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("partialseg: error: 'dodnet-mots' cannot be downloaded: it has no public address.")
    assert line.endswith("When you have it, run 'partialseg import MOTS_DynConv_checkpoint.pth'.")


def test_a_mirror_can_have_what_is_no_longer_public(mirror: Site, archives: Path) -> None:
    mirror.content = (archives / "MOTS_DynConv_checkpoint.pth").read_bytes()
    assert call("download", "dodnet-mots", "--accept-license", "--quiet") == 0
    assert mirror.requests[0].path == "/models/MOTS_DynConv_checkpoint.pth"
    assert catalog.find("dodnet-mots").card.network == "DoDNet"


def test_a_file_that_cannot_be_imported_is_kept_and_named(mirror: Site, installed: Path, capsys: Any) -> None:
    mirror.content = b"This is a letter, not a model."
    assert call("download", "multitalent-unet", "--accept-license", "--quiet") == 6
    (line,) = capsys.readouterr().err.splitlines()
    file = installed / ".downloads" / "Task100_MultiTalent.zip"
    assert line.endswith(f" {file} is kept: the next download uses it, unless you delete it.")
    assert call("download", "multitalent-unet", "--accept-license", "--quiet") == 6
    assert len(mirror.requests) == 1
    assert call("remove", "multitalent-unet", "--yes") == 0
    assert not file.exists()


# ---- the license


def test_nothing_is_fetched_before_the_license_is_accepted(
    mirror: Site, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    types(monkeypatch, "n\n")
    assert call("download", "multitalent-unet") == 10
    output = capsys.readouterr()
    assert "some of them might not allow comercial usage" in output.err.replace("\n", " ")
    assert output.err.endswith(
        "Do you accept it? [y/N] "
        "partialseg: error: The license of 'multitalent-unet' was not accepted. Nothing was downloaded.\n"
    )
    with pytest.raises(LicenseError, match="add --accept-license if you agree"):
        downloads.download("multitalent-unet", license_accepted=False)
    assert mirror.requests == []
    assert os.listdir(catalog.model_folder()) == []


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_script_must_say_that_it_accepts_the_license(mirror: Site, words: list[str], capsys: Any) -> None:
    assert call("download", "multitalent-unet", *words) == 10
    output = capsys.readouterr()
    assert output.err.splitlines()[-1] == (
        "partialseg: error: The license of 'multitalent-unet' must be accepted, and there is nobody to ask. "
        "Read it above, and add --accept-license if you agree."
    )
    if words:
        assert json.loads(output.out)["error"]["code"] == "license"
    assert mirror.requests == []


def test_the_users_yes_starts_the_download(mirror: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    types(monkeypatch, "Yes\n")
    assert call("download", "multitalent-unet") == 0
    assert len(mirror.requests) == 1


# ---- trouble on the way


def test_what_is_tried_again_is_said(mirror: Site, capsys: Any) -> None:
    mirror.faults = [sends_only(2000), answers(503)]
    assert call("download", "multitalent-unet", "--accept-license") == 0
    lines = capsys.readouterr().err.splitlines()
    assert "The connection to localhost was lost: it was closed too early. Trying again in 0 s." in lines
    assert "localhost answers with status 503 (Service Unavailable). Trying again in 0 s (attempt 2 of 6)." in lines


def test_ctrl_c_stops_a_download_that_goes_on_later(mirror: Site, installed: Path, capsys: Any) -> None:
    mirror.faults = [stalls_after(2000, then=lambda: os.kill(os.getpid(), signal.SIGINT))]
    assert call("download", "multitalent-unet", "--accept-license", "--quiet") == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("partialseg: error: Stopped by the user during 'download' (")
    assert call("download", "multitalent-unet", "--accept-license", "--quiet") == 0
    assert catalog.find("multitalent-unet").card.network == "MultiTalentUNet"


def test_an_unfinished_download_is_listed_and_can_be_deleted(mirror: Site, installed: Path, capsys: Any) -> None:
    mirror.faults = [sends_only(2000), answers(404)]
    assert call("download", "multitalent-resenc", "--accept-license", "--quiet") == 10
    assert call("models") == 0
    assert (
        "Not finished: Task100_MultiTalent.zip, 2.0 kB. 'partialseg download multitalent-unet' goes on, "
        "'partialseg remove multitalent-unet' deletes it.\n"
    ) in capsys.readouterr().out
    assert call("remove", "multitalent-resenc", "--yes") == 0
    assert capsys.readouterr().out == "Deleted the download of Task100_MultiTalent.zip (2.0 kB).\n"
    assert os.listdir(installed / ".downloads") == []


def test_a_model_folder_that_cannot_be_made_is_named(
    mirror: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(catalog.FOLDER_VARIABLE, str(tmp_path / "file" / "models"))
    assert call("download", "multitalent-unet", "--accept-license", "--quiet") == 10
    assert "models/.downloads cannot be made: Not a directory." in capsys.readouterr().err
    assert mirror.requests == []


def test_a_mirror_that_is_no_address_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv(addresses.MIRROR_VARIABLE, "/mnt/models")
    assert call("download", "multitalent-unet", "--accept-license") == 10
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("partialseg: error: PARTIALSEG_MIRROR: '/mnt/models' is no address of a web server.")


# ---- a model folder packed as one zip


@pytest.fixture
def bundled_download(archives: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A catalog whose only entry is the model ``random``, packed as a zip of its folder."""
    content = (archives / "random.zip").read_bytes()
    entry = replace(
        downloads.find("dodnet-mots"), name="random", format="bundle", file="random.zip", bytes=len(content)
    )
    monkeypatch.setattr(downloads, "available", lambda: (entry,))
    with serving(content) as site:
        monkeypatch.setenv(addresses.MIRROR_VARIABLE, site.address)
        monkeypatch.setenv("NO_PROXY", "localhost")
        yield site


def test_a_zip_of_a_model_folder_is_installed_as_it_is(bundled_download: Site, archives: Path, installed: Path) -> None:
    assert call("download", "random", "--accept-license", "--quiet") == 0
    for name in (CARD, WEIGHTS):
        assert (installed / "random" / name).read_bytes() == (archives / "random" / name).read_bytes()
    assert catalog.find("random").load_network() is not None
