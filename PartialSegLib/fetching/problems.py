"""What went wrong with a connection: worth another attempt, or a problem that the user must know.

Used by :mod:`PartialSegLib.fetching.transfer`. Nothing here shows what an address may keep secret,
nor what a server or proxy wrote into its page.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import IncompleteRead
from urllib.error import HTTPError, URLError

from PartialSegLib.errors import DownloadError
from PartialSegLib.fetching.addresses import MIRROR_VARIABLE, host, shown

#: States of a server that pass; all of 500 and more too.
_PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
#: The server has no such bytes: the file has become shorter. The next attempt starts anew.
_NO_SUCH_RANGE = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
_TUNNEL = re.compile(r"Tunnel connection failed: (\d+)")

_BY_HAND = "or get the file elsewhere and run 'partialseg import FILE'"
_OFFLINE = (
    f"Is this computer online? Behind a proxy, set HTTPS_PROXY. Without internet, set {MIRROR_VARIABLE}, {_BY_HAND}."
)
_ELSEWHERE = (
    f"It may have moved: see the page of the model ('partialseg models --json'), set {MIRROR_VARIABLE}, {_BY_HAND}."
)
_REFUSED = f"See the page of the model ('partialseg models --json') for who may have it, {_BY_HAND}."


def permanent(error: Exception, address: str, *, started: bool) -> DownloadError | None:
    """Return what to tell the user, or ``None`` when another attempt may help.

    Parameters
    ----------
    error : Exception
        What a :class:`~PartialSegLib.fetching.connection.Connection` raised.
    address : str
        What was asked for.
    started : bool
        Whether this run has received anything: a computer that was online will be so again.
    """
    if isinstance(error, HTTPError):
        return _of_status(error.code, address)
    reason = _reason(error)
    tunnel = _TUNNEL.match(str(reason))
    if isinstance(reason, ssl.SSLCertVerificationError):
        return DownloadError(
            f"The certificate of {host(address)} is not trusted: {reason.verify_message}.",
            "Where a proxy of your institution looks into connections, set SSL_CERT_FILE to its certificate.",
        )
    if tunnel and int(tunnel[1]) < 500:
        return DownloadError(
            f"The proxy refuses the way to {host(address)} (status {tunnel[1]}).",
            f"Check HTTPS_PROXY and its password, set {MIRROR_VARIABLE}, {_BY_HAND}.",
        )
    unreachable = isinstance(reason, socket.gaierror) or getattr(reason, "errno", None) in _UNREACHABLE
    if unreachable and not started:
        return DownloadError(as_text(error, address), _OFFLINE)
    return None


def as_text(error: Exception, address: str) -> str:
    """Return an error of a connection as a sentence."""
    reason, name = _reason(error), host(address)
    if isinstance(error, HTTPError):
        return f"{name} answers with status {error.code}{_phrase(error.code)}."
    if isinstance(reason, socket.gaierror):
        return f"{name} cannot be reached: its name is not known here."
    if isinstance(reason, TimeoutError):
        return f"{name} does not answer: {_plain(reason) or 'timed out'}."
    if isinstance(reason, IncompleteRead):
        return f"The connection to {name} was lost: it was closed too early."
    if getattr(reason, "errno", None) in (*_UNREACHABLE, errno.ECONNREFUSED):
        return f"{name} cannot be reached: {_plain(reason)}."
    return f"The connection to {name} was lost: {_plain(reason)}."


def requested_wait(error: Exception) -> float:
    """Return the seconds that the server asks to wait (``Retry-After``), 0 when it does not."""
    text = error.headers.get("Retry-After", "").strip() if isinstance(error, HTTPError) and error.headers else ""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _of_status(code: int, address: str) -> DownloadError | None:
    if code >= 500 or code in _PASSING or code == _NO_SUCH_RANGE:
        return None
    hint = "Try again later, or use a mirror."
    if code in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return DownloadError(f"There is no file at {shown(address)} (status {code}).", _ELSEWHERE)
    if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return DownloadError(f"{host(address)} does not give {shown(address)} to us (status {code}).", _REFUSED)
    if code == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        hint = "The proxy asks for a password: set HTTPS_PROXY to http://USER:PASSWORD@HOST:PORT."
    return DownloadError(f"{shown(address)} answers with status {code}{_phrase(code)}.", hint)


def _reason(error: Exception) -> BaseException:
    """Return what :mod:`urllib` wrapped."""
    if isinstance(error, URLError) and isinstance(error.reason, BaseException):
        return error.reason
    return error


def _plain(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:].rstrip(".")


def _phrase(code: int) -> str:
    try:
        return f" ({HTTPStatus(code).phrase})"
    except ValueError:
        return ""
