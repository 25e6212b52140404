"""A whole download: attempts until the file is complete, the checks of it, and its final name.

Called by :mod:`PartialSegLib.downloads`. An attempt asks for what is missing, under the condition
that the file is still the one of which the beginning lies here (``If-Range``, RFC 9110, section
13.1.5); a server that has another one by now, or knows no ranges, sends it whole, and the beginning
is thrown away. Attempts that bring the file no further are counted; one that does starts the count anew.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from email.message import Message
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from PartialSegLib.errors import DownloadError
from PartialSegLib.fetching.addresses import host, shown
from PartialSegLib.fetching.connection import Answer, Connection
from PartialSegLib.fetching.lock import locked
from PartialSegLib.fetching.partfile import PartFile, discard
from PartialSegLib.fetching.problems import as_text, permanent, requested_wait
from PartialSegLib.progress import Monitor
from PartialSegLib.sizes import readable

#: Seconds between two looks at whether the user wants to stop, and between two reports of progress.
_GLANCE, _REPORT = 0.2, 0.1
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True)
class Patience:
    """How long a bad connection is put up with.

    Parameters
    ----------
    stall : float
        Seconds without a byte after which an attempt is given up.
    attempts : int
        Attempts in a row that may bring the file no further.
    wait : float
        Seconds before the second attempt; doubled before each further one.
    longest : float
        Seconds that are waited at most, also when the server asks for more.
    """

    stall: float = 30.0
    attempts: int = 6
    wait: float = 1.0
    longest: float = 60.0


def fetch(
    address: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    monitor: Monitor | None = None,
    say: Callable[[str], None] = lambda line: None,
    patience: Patience | None = None,
) -> str:
    """Download one file; it appears complete and checked, or not at all.

    Parameters
    ----------
    address : str
        Checked by :func:`PartialSegLib.fetching.addresses.check`.
    target : Path
        Name of the file. Its folder must exist. A file that is there already is checked instead.
    size : int, optional
        Bytes that it must have.
    sha256 : str, optional
        Checksum that it must have, as hexadecimal digits.
    monitor : Monitor, optional
        Gets the stages ``download`` and ``verify``, in bytes; cancelling stops within a second.
    say : callable, optional
        Gets a line for the user when something is tried again.
    patience : Patience, optional
        How long a bad connection is put up with.

    Returns
    -------
    str
        SHA-256 of the file.

    Raises
    ------
    DownloadError
        When the file cannot be had, is not the one that was asked for, or cannot be written. What was
        received of the right file is kept for the next call.
    CancelledError
        When the monitor was cancelled; what was received is kept for the next call.
    """
    monitor = monitor or Monitor()
    with _alone(target):
        if target.exists():
            say(f"{target} is there already and is used.")
            return _verified(target, size, sha256, monitor)
        part = PartFile(target, shown(address))
        _Transfer(address, part, size, monitor, say, patience or Patience()).run()
        try:
            digest = _verified(part.path, size, sha256, monitor)
        except DownloadError:
            part.forget()
            raise
        part.finish()
        return digest


def delete(target: Path) -> None:
    """Delete what is left of a download: the complete file, or the unfinished one.

    Raises
    ------
    DownloadError
        When another process is downloading it, or it cannot be deleted.
    """
    with _alone(target):
        try:
            discard(target)
            target.unlink(missing_ok=True)
        except OSError as error:
            raise DownloadError(
                f"{target} could not be deleted: {error.strerror or error}.", "Mend the permissions of its folder."
            ) from error


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Let no two processes work on one file."""
    with ExitStack() as stack:
        try:
            alone = stack.enter_context(locked(target.with_name(f".{target.name}.lock")))
        except OSError as error:
            raise DownloadError(
                f"{target.parent} cannot be written: {error.strerror or error}.",
                "Mend its permissions, or choose another folder.",
            ) from error
        if not alone:
            raise DownloadError(
                f"Another process is downloading this file already: {target}.",
                "Wait for it, or stop it; then try again.",
            )
        yield


@dataclass
class _Transfer:
    """The attempts of one download."""

    address: str
    part: PartFile
    size: int | None
    monitor: Monitor
    say: Callable[[str], None]
    patience: Patience
    reported: float = 0.0

    def run(self) -> None:
        """Try until the file is complete, or until it makes no sense any more."""
        if self.part.resumable:
            self.say(f"Going on after {readable(self.part.position)}.")
        furthest, failures, started = self.part.position, 0, False
        while not self._complete():
            try:
                self._attempt()
                return
            except (OSError, HTTPException) as error:
                started = started or self.part.position > furthest
                reason = permanent(error, self.address, started=started)
                if reason is not None:
                    raise reason from error
                if isinstance(error, HTTPError) and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    # The file became shorter: what lies here is the beginning of another one.
                    self.part.forget()
                failures = 0 if self.part.position > furthest else failures + 1
                furthest = max(furthest, self.part.position)
                self._wait_or_give_up(error, failures)

    def _complete(self) -> bool:
        """Whether the whole file lies here already, as after a kill between its last byte and its name."""
        return self.part.resumable and self.part.position == self.part.total

    def _attempt(self) -> None:
        """Ask for what is missing, and write it."""
        headers = {}
        if self.part.resumable:
            headers = {"Range": f"bytes={self.part.position}-", "If-Range": self.part.validator}
        connection = Connection(self.address, headers, self.patience.stall)
        try:
            answer = self._next(connection)
            assert isinstance(answer, Answer), "a connection yields its answer first"
            self._begin(answer)
            self._check_room()
            while chunk := self._next(connection):
                assert isinstance(chunk, bytes), "a connection yields one answer"
                self.part.write(chunk)
                self._check_excess()
            if self.part.total is not None and self.part.position != self.part.total:
                raise ConnectionError("it was closed too early")
            self._report(last=True)
        finally:
            connection.close()
            self.part.close()

    def _begin(self, answer: Answer) -> None:
        """Read the headers: the rest of our file, the whole of a file, or something else altogether."""
        headers = answer.headers
        if headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise DownloadError(
                f"{shown(self.address)} answers with a web page instead of the file.",
                "It may be the login page of a network or proxy: open a browser, log in, and try again.",
            )
        if headers.get("Content-Encoding", "identity").lower() not in ("identity", ""):
            raise DownloadError(
                f"{host(self.address)} sends the file compressed as {headers['Content-Encoding']}, unasked.",
                "Let the server or proxy send it as it is.",
            )
        if answer.status == 206 and self.part.resumable:
            self._check_rest(headers)
            self.part.go_on()
        elif answer.status == 200:
            if self.part.position:
                self.say("The server sends the file from its beginning: it has changed, or it cannot be sent in parts.")
            total = _count(headers.get("Content-Length"))
            self._check_size(total)
            self.part.start(_validator(headers), total)
        else:
            raise DownloadError(
                f"{shown(self.address)} answers with status {answer.status}.", "Try again later, or use a mirror."
            )

    def _check_rest(self, headers: Message) -> None:
        """Refuse to glue anything to our beginning but its own rest; the next attempt starts anew."""
        part = self.part
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
        tag = headers.get("ETag")
        right = (
            match is not None
            and int(match[1]) == part.position
            and (match[3] == "*" or part.total in (None, int(match[3])))
            and (tag is None or not _is_tag(part.validator) or tag == part.validator)
        )
        if not right:
            part.forget()
            raise ConnectionError("the server sent another part than the one that was asked for")

    def _check_size(self, total: int | None) -> None:
        if None not in (self.size, total) and self.size != total:
            raise DownloadError(
                f"{shown(self.address)} has {total} bytes, but the catalog says {self.size}.",
                "It is another file, or another version of it. Update PartialSeg, or check the mirror.",
            )

    def _check_excess(self) -> None:
        limit = self.part.total or self.size
        if limit is not None and self.part.position > limit:
            self.part.forget()
            raise DownloadError(
                f"{shown(self.address)} sends more than the {limit} bytes that the file has.",
                "Check the mirror or proxy.",
            )

    def _check_room(self) -> None:
        total = self.part.total or self.size
        if total is None:
            return
        needed, free = total - self.part.position, shutil.disk_usage(self.part.path.parent).free
        if needed > free:
            raise DownloadError(
                f"{self.part.target.name} needs {readable(needed)} more, but {self.part.path.parent} has only "
                f"{readable(free)} free.",
                "Free some space, or choose a file on another disk with --keep.",
            )

    def _next(self, connection: Connection) -> Answer | bytes:
        """Wait for the next piece, and see within a second that the user wants to stop."""
        deadline = time.monotonic() + self.patience.stall
        while True:
            self._report()
            item = connection.next(_GLANCE)
            if item is not None:
                return item
            if time.monotonic() >= deadline:
                raise TimeoutError(f"nothing came for {self.patience.stall:g} s")

    def _report(self, *, last: bool = False) -> None:
        """Tell the monitor how far it is: at a pace for people, but notice a cancel at once."""
        now = time.monotonic()
        if last or self.monitor.cancelled or now - self.reported >= _REPORT:
            self.reported = now
            self.monitor.step("download", self.part.position, self.part.total or self.size or 0, unit="B")

    def _wait_or_give_up(self, error: Exception, failures: int) -> None:
        what = as_text(error, self.address)
        if failures >= self.patience.attempts:
            raise DownloadError(
                f"{what} Attempts that brought nothing more: {failures}.", self._kept("Run the command again later")
            ) from error
        wait = self.patience.wait * 2 ** max(failures - 1, 0)
        asked = requested_wait(error)
        if asked > self.patience.longest:
            raise DownloadError(
                f"{what} The server asks for a pause of {asked:.0f} s.", self._kept("Run the command again then")
            ) from error
        wait = max(asked, min(wait, self.patience.longest))
        count = f" (attempt {failures + 1} of {self.patience.attempts})" if failures else ""
        self.say(f"{what} Trying again in {wait:.0f} s{count}.")
        until = time.monotonic() + wait
        while (left := until - time.monotonic()) > 0:
            self._report()
            time.sleep(min(_GLANCE, left))

    def _kept(self, then: str) -> str:
        if not self.part.resumable:
            return f"{then}."
        return f"{then}: it goes on after the {readable(self.part.position)} that are here."


def _verified(file: Path, size: int | None, sha256: str | None, monitor: Monitor) -> str:
    """Return the SHA-256 of a complete file; refuse one that is not what the catalog says."""
    try:
        total, done, digest = file.stat().st_size, 0, hashlib.sha256()
        if size is not None and total != size:
            raise DownloadError(f"{file} has {total} bytes, but the catalog says {size}.", _other_file(file))
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                monitor.step("verify", done, total, unit="B")
                digest.update(chunk)
                done += len(chunk)
        monitor.step("verify", done, total, unit="B")
    except OSError as error:
        raise DownloadError(f"{file} cannot be read: {error.strerror or error}.", "Mend its permissions.") from error
    found = digest.hexdigest()
    if sha256 is not None and found != sha256:
        raise DownloadError(f"{file} has the SHA-256 {found}, but the catalog says {sha256}.", _other_file(file))
    return found


def _other_file(file: Path) -> str:
    if file.name.endswith(".part"):
        return "What was downloaded is deleted. Try again, and check the mirror or proxy if it stays so."
    return "It is another file, or damaged: move it away, or choose another name."


def _validator(headers: Message) -> str:
    """Return what names this version beyond doubt: a strong entity tag, or a date that is a second old.

    RFC 9110, section 8.8: a weak tag and a date within the second of the answer may stand for several
    versions, and do not suit ``If-Range``.
    """
    tag = headers.get("ETag", "")
    if _is_tag(tag):
        return tag
    try:
        modified, sent = (parsedate_to_datetime(headers[name]) for name in ("Last-Modified", "Date"))
        return headers["Last-Modified"] if sent - modified >= timedelta(seconds=1) else ""
    except (TypeError, ValueError):
        return ""


def _is_tag(text: str) -> bool:
    return len(text) >= 2 and text.startswith('"') and text.endswith('"')


def _count(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
