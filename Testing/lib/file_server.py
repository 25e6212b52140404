"""A real HTTP server on this machine that serves one file, well or as badly as a test wants."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

#: How one request is answered; the requests behind the last fault are answered well.
Fault = Callable[["Handler"], None]


@dataclass
class Request:
    """What a client asked for."""

    path: str
    headers: dict[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("Range")


@dataclass
class Site:
    """What the server has, what it does wrong, and what it was asked."""

    content: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    #: Set at the end of a test: stalled answers go on then.
    over: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    @property
    def ranges(self) -> list[str | None]:
        return [request.range for request in self.requests]


class Handler(BaseHTTPRequestHandler):
    """Answers GET for any path with the content of the site."""

    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        self.close_connection = True
        self.site.requests.append(Request(self.path, dict(self.headers)))
        fault = self.site.faults.pop(0) if self.site.faults else serve
        fault(self)

    def start(self, status: int, length: int | None, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Keep the output of the tests clean."""


def serve(handler: Handler) -> None:
    """Answer as RFC 9110 says, ranges and conditions included."""
    start, status, headers = begin(handler)
    body = handler.site.content[start:]
    handler.start(status, len(body), headers)
    handler.wfile.write(body)


def begin(handler: Handler) -> tuple[int, int, dict[str, str]]:
    """Return the first byte that is asked for, the status and the headers."""
    site, asked = handler.site, handler.headers.get("Range")
    condition = handler.headers.get("If-Range")
    if asked is None or condition not in (None, site.headers.get("ETag"), site.headers.get("Last-Modified")):
        return 0, 200, site.headers
    start = int(asked.removeprefix("bytes=").removesuffix("-"))
    total = len(site.content)
    return start, 206, site.headers | {"Content-Range": f"bytes {start}-{total - 1}/{total}"}


def sends_only(count: int) -> Fault:
    """Close the connection after `count` bytes of the answer."""

    def fault(handler: Handler) -> None:
        start, status, headers = begin(handler)
        body = handler.site.content[start:]
        handler.start(status, len(body), headers)
        handler.wfile.write(body[:count])

    return fault


def stalls_after(count: int, then: Callable[[], Any] = lambda: None) -> Fault:
    """Send `count` bytes of the answer and then nothing, without closing; call `then` at that moment."""

    def fault(handler: Handler) -> None:
        start, status, headers = begin(handler)
        body = handler.site.content[start:]
        handler.start(status, len(body), headers)
        handler.wfile.write(body[:count])
        handler.wfile.flush()
        then()
        handler.site.over.wait(60)

    return fault


def says_nothing(handler: Handler) -> None:
    """Close the connection without an answer."""


def answers(status: int, body: bytes = b"", **headers: str) -> Fault:
    """Answer with a status, whatever was asked for."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: (handler.start(status, len(body), named), handler.wfile.write(body), None)[-1]


def whole(handler: Handler) -> None:
    """Send everything, whatever part was asked for."""
    handler.start(200, len(handler.site.content), handler.site.headers)
    handler.wfile.write(handler.site.content)


def claims(length: int) -> Fault:
    """Send everything, and lie about its length."""

    def fault(handler: Handler) -> None:
        handler.start(200, length, handler.site.headers)
        handler.wfile.write(handler.site.content)

    return fault


def chunked(content: bytes, *, complete: bool = True) -> Fault:
    """Send `content` in chunks, with no word about its length."""

    def fault(handler: Handler) -> None:
        handler.start(200, None, handler.site.headers | {"Transfer-Encoding": "chunked"})
        for first in range(0, len(content), 4096):
            piece = content[first : first + 4096]
            handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        if complete:
            handler.wfile.write(b"0\r\n\r\n")

    return fault


def noise(count: int, seed: int = 0) -> bytes:
    """Return bytes that differ from place to place."""
    return np.random.default_rng(seed).bytes(count)


@contextmanager
def serving(content: bytes, wrap: Callable[[Any], Any] = lambda sock: sock) -> Iterator[Site]:
    """Serve `content` on a free port of this machine; `wrap` may encrypt the server's socket."""
    site = Site(content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("SiteHandler", (Handler,), {"site": site}))
    server.daemon_threads = True
    server.handle_error = lambda *arguments: None  # type: ignore[method-assign]  # clients leave in the middle
    plain = server.socket
    server.socket = wrap(plain)
    scheme = "http" if server.socket is plain else "https"
    site.address = f"{scheme}://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        site.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
