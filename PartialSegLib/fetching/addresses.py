"""Which addresses files are fetched from, and how an address may be shown.

Used by :mod:`PartialSegLib.fetching` and :mod:`PartialSegLib.downloads`. An address can carry
secrets, in its user name, password and query; none of them is ever shown or kept on disk.
"""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from PartialSegLib.errors import DownloadError

#: Environment variable that names a folder of a web server to fetch files from instead.
MIRROR_VARIABLE = "PARTIALSEG_MIRROR"


def shown(address: str) -> str:
    """Return an address for messages and files: without user name, password and query."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def host(address: str) -> str:
    """Return the name of the machine that an address leads to."""
    return urlsplit(address).hostname or ""


def check(address: str, *, http: bool) -> None:
    """Refuse an address that files are not fetched from.

    Parameters
    ----------
    address : str
        Absolute.
    http : bool
        Whether plain HTTP will do: the user's own mirror may use it, where nobody listens.

    Raises
    ------
    DownloadError
        When it is no HTTPS address (or HTTP, where that will do), or holds a user name or password.
    """
    try:
        parts = urlsplit(address)
        complete = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        complete = False
    if not complete or parts.scheme not in ("https", "http"):
        raise DownloadError(
            f"'{shown(address) if complete else address.rpartition('@')[2]}' is no address of a web server.",
            "It starts with https://, or with http:// in your own network.",
        )
    if parts.scheme == "http" and not http:
        raise DownloadError(
            f"{shown(address)} is not encrypted, so that anybody on the way could change the file.",
            "Use an address that starts with https://.",
        )
    if "@" in parts.netloc:
        raise DownloadError(
            f"The address of {parts.hostname} holds a user name or a password, which would end up in logs.",
            "Use a server that asks for none, or get the file by hand and run 'partialseg import FILE'.",
        )


def mirrored(mirror: str, file: str) -> str:
    """Return the address of a file on a mirror: ``MIRROR/FILE``.

    The mirror takes the place of everything before the file's name (scheme, host and folders), and
    of what follows it (query). One flat folder of files therefore serves the whole catalog.

    Parameters
    ----------
    mirror : str
        ``$PARTIALSEG_MIRROR``: address of a folder, with or without a slash at its end.
    file : str
        Name of the file in the catalog.

    Raises
    ------
    DownloadError
        When the mirror is no address, holds a user name, a password, a query or a fragment.
    """
    try:
        check(mirror, http=True)
    except DownloadError as error:
        raise DownloadError(f"{MIRROR_VARIABLE}: {error.message}", error.hint) from error
    parts = urlsplit(mirror)
    if parts.query or parts.fragment:
        raise DownloadError(
            f"{MIRROR_VARIABLE} is {shown(mirror)} with a query, but it names a folder.",
            "Leave out what follows '?' or '#'.",
        )
    return f"{mirror.rstrip('/')}/{quote(file)}"
