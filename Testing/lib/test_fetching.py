"""A download ends in the right file or in none, whatever the server does."""

from __future__ import annotations

from pathlib import Path

import pytest
from fetch_cases import CONTENT, SHA256, get, names
from file_server import Fault, Site, answers, chunked, claims, noise, says_nothing, sends_only, stalls_after, whole

from PartialSegLib.errors import DownloadError
from PartialSegLib.fetching.transfer import Patience
from PartialSegLib.progress import Monitor, Progress

# ---- a good server


def test_a_file_arrives_whole_and_leaves_nothing_beside_it(site: Site, target: Path) -> None:
    assert get(site, target, size=len(CONTENT), sha256=SHA256) == SHA256
    assert target.read_bytes() == CONTENT
    assert names(target) == {"model.zip"}
    (request,) = site.requests
    assert request.path == "/model.zip?token=secret"
    assert request.range is None
    assert request.headers["User-Agent"].startswith("partialseg/")


def test_progress_is_told_in_bytes_of_the_whole(site: Site, target: Path) -> None:
    told: list[Progress] = []
    get(site, target, monitor=Monitor(told.append))
    assert {progress.unit for progress in told} == {"B"}
    download = [progress for progress in told if progress.stage == "download"]
    assert (download[-1].done, download[-1].total) == (len(CONTENT), len(CONTENT))
    assert [progress.done for progress in download] == sorted(progress.done for progress in download)
    assert told[-1].stage == "verify"


def test_a_file_of_unknown_length_arrives(site: Site, target: Path) -> None:
    site.faults = [chunked(CONTENT)]
    assert get(site, target) == SHA256


def test_a_file_that_is_there_already_is_checked_and_not_downloaded(site: Site, target: Path) -> None:
    target.write_bytes(CONTENT)
    said: list[str] = []
    assert get(site, target, sha256=SHA256, say=said.append) == SHA256
    assert said == [f"{target} is there already and is used."]
    target.write_bytes(CONTENT[:-1])
    with pytest.raises(DownloadError, match="has 299999 bytes, but the catalog says 300000"):
        get(site, target, size=len(CONTENT))
    assert site.requests == []
    assert target.exists(), "a file of the user is never deleted"


# ---- bad servers that recover


RECOVERED: dict[str, tuple[Fault, str]] = {
    # What brought the file further is no failure, and is not counted.
    "truncates": (
        sends_only(100_000),
        "The connection to localhost was lost: it was closed too early. Trying again in 0 s.",
    ),
    "truncates chunks": (chunked(CONTENT[:50_000], complete=False), "The connection to localhost was lost: it was c"),
    "says nothing": (says_nothing, "(attempt 2 of 3)."),
    "500": (answers(500), "localhost answers with status 500 (Internal Server Error). Trying again in 0 s (attempt 2"),
    "503": (answers(503, Retry_After="0"), "localhost answers with status 503 (Service Unavailable)."),
    "429": (answers(429), "localhost answers with status 429 (Too Many Requests)."),
    "408": (answers(408), "localhost answers with status 408 (Request Timeout)."),
    "599": (answers(599), "localhost answers with status 599."),
}


@pytest.mark.parametrize(("fault", "line"), RECOVERED.values(), ids=RECOVERED)
def test_what_passes_is_tried_again_and_said(site: Site, target: Path, fault: Fault, line: str) -> None:
    site.faults = [fault, fault]
    said: list[str] = []
    assert get(site, target, say=said.append) == SHA256
    assert len(site.requests) == 3
    assert line in said[0]
    assert " Trying again in 0 s" in said[0]


def test_a_stalled_answer_is_given_up_and_gone_on_with(site: Site, target: Path) -> None:
    site.faults = [stalls_after(100_000)]
    said: list[str] = []
    assert get(site, target, Patience(stall=3.0, attempts=50, wait=0.001), say=said.append) == SHA256
    assert said[0].startswith("localhost does not answer: ")
    assert site.ranges[1] == "bytes=100000-"


def test_only_what_is_missing_is_asked_for_under_the_condition_that_the_file_is_the_same(
    site: Site, target: Path
) -> None:
    site.faults = [sends_only(100_000), sends_only(70_000)]
    assert get(site, target) == SHA256
    assert site.ranges == [None, "bytes=100000-", "bytes=170000-"]
    assert site.requests[1].headers["If-Range"] == '"one"'


def test_attempts_that_bring_the_file_further_are_not_counted(site: Site, target: Path) -> None:
    site.faults = [sends_only(30_000)] * 9
    assert get(site, target, Patience(attempts=2, wait=0.001)) == SHA256
    assert len(site.requests) == 10


def test_a_server_without_ranges_starts_again_and_does_not_go_on_for_ever(site: Site, target: Path) -> None:
    site.faults = [sends_only(100_000), whole]
    said: list[str] = []
    assert get(site, target, say=said.append) == SHA256
    assert "The server sends the file from its beginning: it has changed, or it cannot be sent in parts." in said

    target.unlink()
    site.requests.clear()
    site.headers = {}
    site.faults = [sends_only(100_000)] * 20
    with pytest.raises(DownloadError, match="Attempts that brought nothing more: 3"):
        get(site, target)
    assert site.ranges == [None] * 4, "the first attempt brought something, three more did not bring more"


# ---- the file changes between two requests


def new_version(site: Site) -> bytes:
    site.content, site.headers = noise(250_000, seed=1), {"ETag": '"two"'}
    return site.content


def test_a_changed_file_is_not_glued_to_the_old_beginning(site: Site, target: Path) -> None:
    site.faults = [stalls_after(100_000, then=lambda: new_version(site))]
    get(site, target, Patience(stall=3.0, attempts=50, wait=0.001))
    assert site.ranges[1] == "bytes=100000-"
    assert target.read_bytes() == site.content == noise(250_000, seed=1)


@pytest.mark.parametrize(
    ("tag", "first", "total"),
    [('"two"', 100_000, 300_000), ('"one"', 50_000, 300_000), ('"one"', 100_000, 250_000), ('"one"', 100_000, None)],
)
def test_a_part_that_does_not_fit_is_never_glued(
    site: Site, target: Path, tag: str, first: int, total: int | None
) -> None:
    place = f"bytes {first}-299999/{total}" if total else "nonsense"
    wrong = answers(206, noise(200_000, seed=2), ETag=tag, Content_Range=place)
    site.faults = [sends_only(100_000), wrong]
    assert get(site, target) == SHA256
    assert site.ranges == [None, "bytes=100000-", None]


def test_a_file_that_became_shorter_is_fetched_anew(site: Site, target: Path) -> None:
    site.faults = [sends_only(100_000), answers(416)]
    assert get(site, target) == SHA256
    assert site.ranges == [None, "bytes=100000-", None]


@pytest.mark.parametrize(
    ("headers", "condition"),
    [
        ({"Last-Modified": "Tue, 29 Aug 2023 12:00:00 GMT"}, "Tue, 29 Aug 2023 12:00:00 GMT"),
        ({"Last-Modified": "Tue, 29 Aug 2023 12:00:00 GMT", "ETag": '"one"'}, '"one"'),
        ({"Last-Modified": "Fri, 31 Dec 9999 23:59:59 GMT"}, None),
        ({"Last-Modified": "yesterday"}, None),
        ({"ETag": 'W/"one"'}, None),
        ({}, None),
    ],
)
def test_a_download_goes_on_only_when_the_version_is_named_beyond_doubt(
    site: Site, target: Path, headers: dict[str, str], condition: str | None
) -> None:
    site.headers = headers
    site.faults = [sends_only(100_000)]
    assert get(site, target) == SHA256
    assert site.requests[1].headers.get("If-Range") == condition
    assert site.ranges[1] == (None if condition is None else "bytes=100000-")


# ---- bad servers that stay bad


REFUSED: dict[str, tuple[Fault, str]] = {
    "404": (answers(404), r"There is no file at http://localhost:\d+/model\.zip \(status 404\)\. It may have moved"),
    "410": (answers(410), r"There is no file at"),
    "401": (answers(401), r"localhost does not give http://localhost:\d+/model\.zip to us \(status 401\)"),
    "403": (answers(403, b"<p>password=hunter2</p>"), r"to us \(status 403\). See the page of the model"),
    "407": (answers(407), r"set HTTPS_PROXY to http://USER:PASSWORD@HOST:PORT"),
    "400": (answers(400), r"answers with status 400 \(Bad Request\)"),
    "204": (answers(204), r"answers with status 204"),
    "login page": (answers(200, b"<html>", Content_Type="text/html; charset=utf-8"), "web page instead of the file"),
    "compressed": (answers(200, b"..", Content_Encoding="gzip"), "sends the file compressed as gzip, unasked"),
    "other size": (answers(200, b"." * 7), r"has 7 bytes, but the catalog says 300000"),
    "endless": (chunked(CONTENT + CONTENT), "sends more than the 300000 bytes that the file has"),
    "part unasked": (answers(206, b"..", Content_Range="bytes 0-1/300000"), "answers with status 206"),
}  # fmt: skip


@pytest.mark.parametrize(("fault", "message"), REFUSED.values(), ids=REFUSED)
def test_what_stays_wrong_ends_at_once_and_leaves_nothing(site: Site, target: Path, fault: Fault, message: str) -> None:
    site.faults = [fault]
    with pytest.raises(DownloadError, match=message) as raised:
        get(site, target, size=len(CONTENT))
    assert len(site.requests) == 1
    assert names(target) == set()
    assert "secret" not in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_wrong_bytes_are_refused_and_never_gone_on_with(site: Site, target: Path) -> None:
    site.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(DownloadError, match=f"but the catalog says {SHA256}. What was downloaded is deleted"):
        get(site, target, sha256=SHA256)
    assert names(target) == set()
    site.content = CONTENT
    assert get(site, target, sha256=SHA256) == SHA256
    assert site.ranges == [None, None]


def test_a_server_that_promises_more_than_it_has_ends_in_an_error(site: Site, target: Path) -> None:
    site.headers = {}
    site.faults = [claims(400_000)] * 4
    with pytest.raises(DownloadError, match=r"closed too early\. Attempts that brought nothing more: 3\."):
        get(site, target)
    assert not target.exists()


def test_a_server_that_promises_less_than_it_has_is_found_by_the_checksum(site: Site, target: Path) -> None:
    site.faults = [claims(200_000)]
    with pytest.raises(DownloadError, match="has the SHA-256"):
        get(site, target, sha256=SHA256)
    assert names(target) == set()


def test_a_server_that_never_recovers_is_left_alone_after_some_attempts(site: Site, target: Path) -> None:
    site.faults = [sends_only(100_000), *[answers(503)] * 9]
    with pytest.raises(DownloadError) as raised:
        get(site, target)
    assert raised.value.message == (
        "localhost answers with status 503 (Service Unavailable). Attempts that brought nothing more: 3."
    )
    assert raised.value.hint == "Run the command again later: it goes on after the 100 kB that are here."
    assert len(site.requests) == 4
    site.faults = []
    said: list[str] = []
    assert get(site, target, say=said.append) == SHA256
    assert said == ["Going on after 100 kB."]


@pytest.mark.parametrize("wish", ["3600", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_long_pause_that_the_server_wants_is_left_to_the_user(site: Site, target: Path, wish: str) -> None:
    site.faults = [answers(503, Retry_After=wish)]
    with pytest.raises(DownloadError, match=r"asks for a pause of \d+ s\. Run the command again then\."):
        get(site, target)
    assert len(site.requests) == 1
