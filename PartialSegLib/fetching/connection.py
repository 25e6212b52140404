"""One HTTP answer: proxies, redirects, certificates, and waiting for it that can be stopped.

Used by :mod:`PartialSegLib.fetching.transfer`. A blocking read cannot be cancelled, and neither can
the search for a host or the greeting of a server. They therefore happen in a thread of their own;
whoever waits looks into its queue and is free at any time.

Proxies are those of the environment (``HTTPS_PROXY``, ``HTTP_PROXY``, ``NO_PROXY``) or, on macOS
and Windows, of the system. Certificates are checked against the system's, or ``SSL_CERT_FILE``.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from http.client import HTTPMessage
from typing import IO
from urllib import request as urllib_request
from urllib.error import HTTPError
from urllib.parse import urlsplit

import PartialSegLib
from PartialSegLib.errors import DownloadError
from PartialSegLib.fetching.addresses import shown

#: How many redirects are followed. Archives use one or two.
REDIRECTS = 5
#: Most bytes that one read returns.
CHUNK = 1 << 20


@dataclass(frozen=True)
class Answer:
    """What a server says before the content: status and headers."""

    status: int
    headers: HTTPMessage


class Connection:
    """A request and its answer, read in a thread.

    Parameters
    ----------
    address : str
        Checked by :func:`PartialSegLib.fetching.addresses.check`.
    headers : dict
        Of the request.
    timeout : float
        Seconds that a single wait of the socket may take.
    """

    def __init__(self, address: str, headers: dict[str, str], timeout: float) -> None:
        agent = f"partialseg/{PartialSegLib.__version__}"
        # 'identity': a compressed answer could not be gone on with in its middle.
        fields = {"User-Agent": agent, "Accept-Encoding": "identity", **headers}
        self._request = urllib_request.Request(address, headers=fields)
        self._timeout = timeout
        self._items: queue.Queue[Answer | bytes | Exception] = queue.Queue(maxsize=64)
        self._closed = threading.Event()
        threading.Thread(target=self._read, name="partialseg-download", daemon=True).start()

    def next(self, seconds: float) -> Answer | bytes | None:
        """Return the answer, then its content piece by piece, then ``b""``.

        Parameters
        ----------
        seconds : float
            How long to wait.

        Returns
        -------
        Answer, bytes or None
            ``None`` when nothing came in that time.

        Raises
        ------
        OSError, http.client.HTTPException, DownloadError
            What went wrong; ``urllib.error.HTTPError``, an OSError, for every status of 300 and more.
        """
        try:
            item = self._items.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """Let the thread end after the wait that it is in."""
        self._closed.set()

    def _read(self) -> None:
        try:
            with _opener().open(self._request, timeout=self._timeout) as response:
                self._put(Answer(response.status, response.headers))
                chunk = b" "
                while chunk and not self._closed.is_set():
                    chunk = response.read1(CHUNK)
                    self._put(chunk)
        except HTTPError as error:
            error.close()
            self._put(error)
        except Exception as error:
            # Whoever waits raises it: an error that stayed here would look like a server that says nothing.
            self._put(error)

    def _put(self, item: Answer | bytes | Exception) -> None:
        while not self._closed.is_set():
            try:
                self._items.put(item, timeout=0.2)
                return
            except queue.Full:
                continue


class _Redirects(urllib_request.HTTPRedirectHandler):
    """Follow few redirects, none from HTTPS to anything else, and tell no secret on the way."""

    max_repeats = max_redirections = REDIRECTS

    def redirect_request(
        self, req: urllib_request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib_request.Request | None:
        visited: dict[str, int] = getattr(req, "redirect_dict", {})
        if sum(visited.values()) >= REDIRECTS:
            raise DownloadError(
                f"The server keeps redirecting {shown(req.full_url)} ({REDIRECTS} times).",
                "Try again later, or open the page of the model in a browser.",
            )
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after != "https" and (before, after) != ("http", "http"):
            raise DownloadError(
                f"{shown(req.full_url)} redirects to {shown(newurl)}, which is not encrypted.",
                "Somebody may be tampering with the connection: use another network or a mirror.",
            )
        followed = super().redirect_request(req, fp, code, msg, headers, newurl)
        if followed is not None:
            # The handler of proxies adds it again where the next step goes through the proxy; a server
            # that is reached without it must not see the proxy's password.
            followed.headers.pop("Proxy-authorization", None)
        return followed


def _opener() -> urllib_request.OpenerDirector:
    """Return an opener for HTTP and HTTPS, and for no other scheme that a redirect could name."""
    opener = urllib_request.OpenerDirector()
    for handler in (
        urllib_request.ProxyHandler(),
        urllib_request.HTTPHandler(),
        urllib_request.HTTPSHandler(),
        urllib_request.UnknownHandler(),
        urllib_request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib_request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
