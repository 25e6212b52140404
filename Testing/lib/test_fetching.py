"""A download ends in the right file or in none, whatever the server, the network and the disk do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from file_server import (
    Fault,
    Site,
    answers,
    chunked,
    claims,
    noise,
    says_nothing,
    sends_only,
    serving,
    stalls_after,
    whole,
)

from PartialSegLib.errors import CancelledError, DownloadError
from PartialSegLib.fetching import addresses
from PartialSegLib.fetching.lock import locked
from PartialSegLib.fetching.partfile import CHECKPOINT
from PartialSegLib.fetching.transfer import Patience, delete, fetch
from PartialSegLib.progress import Monitor, Progress

CONTENT = noise(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
#: Waits so short that a test is fast, and a stall so long that a busy machine is not taken for one.
BRISK = Patience(stall=60.0, attempts=3, wait=0.001)
ONE_TRY = Patience(stall=60.0, attempts=1)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(CONTENT) as site:
        yield site


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model.zip"


def get(site: Site, target: Path, patience: Patience = BRISK, **options: Any) -> str:
    return fetch(f"{site.address}/model.zip?token=secret", target, patience=patience, **options)


def leave_a_beginning(site: Site, target: Path) -> None:
    """Let a download end after 100,000 bytes."""
    site.faults = [sends_only(100_000), answers(404)]
    with pytest.raises(DownloadError):
        get(site, target)


def names(target: Path) -> set[str]:
    return {item.name for item in target.parent.iterdir()}


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
    assert get(site, target, Patience(stall=0.5, attempts=50, wait=0.001), say=said.append) == SHA256
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
    get(site, target, Patience(stall=0.5, attempts=50, wait=0.001))
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


# ---- redirects


def test_a_redirect_is_followed_with_the_range(site: Site, target: Path) -> None:
    site.faults = [
        sends_only(100_000),
        answers(302, Location="/stored/elsewhere?signature=secret"),
    ]
    assert get(site, target) == SHA256
    assert site.requests[2].path == "/stored/elsewhere?signature=secret"
    assert site.ranges[2] == "bytes=100000-"


def test_redirects_in_a_loop_end(site: Site, target: Path) -> None:
    site.faults = [answers(302, Location="/model.zip")] * 99
    with pytest.raises(DownloadError, match=r"keeps redirecting http://localhost:\d+/model\.zip \(5 times\)"):
        get(site, target)
    assert len(site.requests) == 6


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://localhost/model.zip", "data:,model"])
def test_a_redirect_leads_to_no_other_scheme(site: Site, target: Path, place: str) -> None:
    site.faults = [answers(302, Location=place)]
    with pytest.raises(DownloadError):
        get(site, target)
    assert names(target) == set()


# ---- encryption


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[tuple[Site, Path]]:
    """An HTTPS server, and its certificate, which nobody vouches for."""
    if shutil.which("openssl") is None:
        pytest.skip("certificates are made with the openssl command")
    folder = tmp_path / "certificate"
    folder.mkdir()
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    words = [*made.split(), "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *words], check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(CONTENT, lambda sock: context.wrap_socket(sock, server_side=True)) as site:
        yield site, certificate


def test_a_certificate_is_trusted_only_when_somebody_vouches_for_it(
    encrypted: tuple[Site, Path], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, certificate = encrypted
    with pytest.raises(DownloadError, match="The certificate of localhost is not trusted: self-signed certificate"):
        get(site, target)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert get(site, target) == SHA256


def test_no_redirect_leaves_encryption(
    encrypted: tuple[Site, Path], site: Site, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safe, certificate = encrypted
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    safe.faults = [answers(302, Location=f"{site.address}/model.zip?token=secret")]
    with pytest.raises(DownloadError, match=r"redirects to http://localhost:\d+/model\.zip, which is not encrypted"):
        get(safe, target)
    assert site.requests == []


# ---- offline, proxies and secrets


def test_a_computer_that_is_offline_is_told_so_at_once(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: Any, **options: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    # The tests must not ask a real name server.
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(DownloadError) as raised:
        fetch("https://zenodo.org/model.zip", target, patience=BRISK, say=pytest.fail)
    assert raised.value.message == "zenodo.org cannot be reached: its name is not known here."
    assert raised.value.hint.startswith("Is this computer online? Behind a proxy, set HTTPS_PROXY.")


def test_a_connection_that_is_lost_in_the_middle_is_waited_for(
    site: Site, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def unplugged_once(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        if len(asked) == 2:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return original(*arguments, **options)

    original = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", unplugged_once)
    site.faults = [sends_only(100_000)]
    assert get(site, target) == SHA256
    assert len(asked) == 3


def test_a_server_that_is_down_is_named(target: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1 cannot be reached: connection refused\. Attempts"):
        fetch(f"http://127.0.0.1:{port}/model.zip", target, patience=ONE_TRY)


def test_a_proxy_of_the_environment_is_used_and_its_password_told_to_nobody_else(
    site: Site, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(b"") as proxy:
        port = proxy.address.rpartition(":")[2]
        monkeypatch.setenv("http_proxy", f"http://user:hunter2@127.0.0.1:{port}")
        monkeypatch.setenv("no_proxy", "localhost")
        proxy.faults = [answers(302, Location=f"{site.address}/model.zip")]
        assert fetch("http://files.example/model.zip", target, patience=BRISK) == SHA256
    assert proxy.requests[0].path == "http://files.example/model.zip"
    assert proxy.requests[0].headers["Proxy-Authorization"].startswith("Basic ")
    assert "Proxy-Authorization" not in site.requests[0].headers


def test_a_proxy_that_refuses_is_named_without_its_password(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

    with listening(refuse) as port:
        monkeypatch.setenv("https_proxy", f"http://user:hunter2@127.0.0.1:{port}")
        with pytest.raises(DownloadError, match=r"The proxy refuses the way to files.example \(status 407\)") as raised:
            fetch("https://files.example/model.zip", target, patience=BRISK)
    assert "hunter2" not in str(raised.value)


@contextlib.contextmanager
def listening(answer: Any) -> Iterator[int]:
    """Answer one connection to a free port, and close it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def test_no_secret_of_an_address_is_kept_on_disk(site: Site, target: Path) -> None:
    leave_a_beginning(site, target)
    state = target.with_name("model.zip.part.json").read_text()
    assert f'"{site.address}/model.zip"' in state
    assert "secret" not in state


@pytest.mark.parametrize(
    ("address", "http", "message"),
    [
        ("http://zenodo.org/model.zip", False, "http://zenodo.org/model.zip is not encrypted"),
        ("ftp://zenodo.org/model.zip", True, "'ftp://zenodo.org/model.zip' is no address of a web server"),
        ("file:///etc/passwd", True, "is no address of a web server"),
        ("/mnt/models", True, "'/mnt/models' is no address of a web server"),
        ("https://zenodo.org:port/", True, "is no address of a web server"),
        ("https://user:hunter2@zenodo.org/", True, "address of zenodo.org holds a user name or a password"),
        ("user:hunter2@zenodo.org", True, "'zenodo.org' is no address"),
    ],
)
def test_addresses_that_are_not_safe_are_refused(address: str, http: bool, message: str) -> None:
    with pytest.raises(DownloadError, match=re.escape(message)) as raised:
        addresses.check(address, http=http)
    assert "hunter2" not in str(raised.value)


def test_a_mirror_takes_the_place_of_all_but_the_files_name() -> None:
    assert addresses.mirrored("http://files/models", "model 1.zip") == "http://files/models/model%201.zip"
    assert addresses.mirrored("https://files/models/", "model.zip") == "https://files/models/model.zip"
    for mirror in ("https://files/models?key=hunter2", "models", "https://user:hunter2@files/"):
        with pytest.raises(DownloadError, match="PARTIALSEG_MIRROR") as raised:
            addresses.mirrored(mirror, "model.zip")
        assert "hunter2" not in str(raised.value)


# ---- being stopped


def test_cancelling_stops_while_the_server_says_nothing_and_keeps_what_came(site: Site, target: Path) -> None:
    monitor = Monitor()
    site.faults = [stalls_after(100_000, then=monitor.cancel)]
    with pytest.raises(CancelledError, match="during 'download'"):
        get(site, target, monitor=monitor)
    received = target.with_name("model.zip.part").stat().st_size
    assert get(site, target) == SHA256
    assert site.ranges[1] == (f"bytes={received}-" if received else None)


def test_cancelling_stops_while_another_attempt_is_waited_for(site: Site, target: Path) -> None:
    monitor = Monitor()
    site.faults = [answers(503)]
    with pytest.raises(CancelledError):
        get(site, target, Patience(wait=60.0), monitor=monitor, say=lambda line: monitor.cancel())
    assert len(site.requests) == 1


def test_cancelling_stops_the_check_and_the_file_is_not_fetched_again(site: Site, target: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "verify":
            monitor.cancel()

    monitor = Monitor(stop)
    with pytest.raises(CancelledError, match="during 'verify'"):
        get(site, target, monitor=monitor)
    assert get(site, target) == SHA256
    assert len(site.requests) == 1


_CHILD = """\
import sys
from pathlib import Path
from PartialSegLib.errors import DownloadError
from PartialSegLib.fetching.transfer import Patience, fetch
{before}
try:
    fetch(sys.argv[1], Path(sys.argv[2]), patience=Patience(attempts=1))
except DownloadError as error:
    sys.exit(str(error))
"""


def child(site: Site, target: Path, before: str = "") -> subprocess.Popen[str]:
    code = _CHILD.format(before=before)
    words = [sys.executable, "-c", code, f"{site.address}/model.zip?token=secret", str(target)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


def test_a_killed_process_is_gone_on_from_what_was_certainly_on_disk(target: Path) -> None:
    content, stalled = noise(CHECKPOINT * 2 + 500_000), threading.Event()
    with serving(content) as site:
        site.faults = [stalls_after(CHECKPOINT + 400_000, then=stalled.set)]
        process = child(site, target)
        assert stalled.wait(60)
        state = target.with_name("model.zip.part.json")
        while not state.exists() or json.loads(state.read_text())["bytes"] < CHECKPOINT:
            assert process.poll() is None
        with pytest.raises(DownloadError, match="Another process is downloading this"):
            get(site, target)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        # A power cut may leave a file that is longer than what reached the disk.
        with target.with_name("model.zip.part").open("ab") as part:
            part.write(b"\0" * 1000)
        get(site, target)
        assert site.ranges[1] is not None
        assert int(site.ranges[1].removeprefix("bytes=").removesuffix("-")) >= CHECKPOINT
        assert target.read_bytes() == content
        assert names(target) == {"model.zip"}


def test_a_lock_that_a_dead_process_left_holds_nobody_up(site: Site, target: Path) -> None:
    target.with_name(".model.zip.lock").write_text("")
    assert get(site, target) == SHA256


def test_a_lock_is_held_by_one_only_and_deleted_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path) as first, locked(path) as second:
        assert (first, second) == (True, False)
    with locked(path) as again:
        assert again
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "state",
    ["{", "[]", "{}", '{"source": "other", "bytes": 9, "validator": "\\"one\\"", "total": 300000}', None],
)
def test_a_beginning_of_unknown_origin_is_not_gone_on_with(site: Site, target: Path, state: str | None) -> None:
    target.with_name("model.zip.part").write_bytes(noise(1000, seed=3))
    if state is not None:
        target.with_name("model.zip.part.json").write_text(state)
    assert get(site, target) == SHA256
    assert site.ranges == [None]
    assert names(target) == {"model.zip"}


def test_a_beginning_that_is_shorter_than_it_should_be_is_not_gone_on_with(site: Site, target: Path) -> None:
    leave_a_beginning(site, target)
    os.truncate(target.with_name("model.zip.part"), 99_999)
    assert get(site, target) == SHA256
    assert site.ranges[2:] == [None]


def test_a_download_can_be_deleted(site: Site, target: Path) -> None:
    leave_a_beginning(site, target)
    assert names(target) == {"model.zip.part", "model.zip.part.json"}
    delete(target)
    assert names(target) == set()
    delete(target)


# ---- disks


def test_a_full_disk_is_said_and_the_download_goes_on_when_there_is_room(site: Site, target: Path) -> None:
    # A limit on the size of files is the one full disk that a process can have to itself.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))"
    process = child(site, target, before=limit)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "model.zip.part could not be written: File too large. Free some space" in message
    assert not target.exists()
    assert get(site, target) == SHA256
    assert site.ranges == [None, "bytes=200000-"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_file_that_does_not_fit_is_refused_before_it_is_fetched(site: Site, target: Path) -> None:
    site.faults = [claims(10**18)]
    with pytest.raises(DownloadError, match=r"model\.zip needs 1000000 TB more, but .* has only .* free"):
        get(site, target)


def test_a_folder_that_cannot_be_written_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DownloadError, match="file cannot be written: Not a directory"):
        get(site, tmp_path / "file" / "model.zip")
    assert site.requests == []
