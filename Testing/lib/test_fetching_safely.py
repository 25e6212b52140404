"""A download goes where it may, trusts whom it may, and tells no secret on the way."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fetch_cases import BRISK, CONTENT, SHA256, get, leave_a_beginning, names
from file_server import Site, answers, sends_only, serving

from PartialSegLib.errors import DownloadError
from PartialSegLib.fetching import addresses
from PartialSegLib.fetching.transfer import Patience, fetch

pytestmark = pytest.mark.usefixtures("no_proxy")


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
        fetch(f"http://127.0.0.1:{port}/model.zip", target, patience=Patience(attempts=1))


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
