"""Fetch files over HTTP into a cache: whole, with the checksum that was promised, or not at all."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import IO

from d2tiny.utils.errors import CheckpointError
from d2tiny.utils.files import open_atomic

__all__ = ["CACHE_VARIABLE", "cache_folder", "fetch_file", "fetch_text", "sha256_of"]

CACHE_VARIABLE = "D2TINY_CACHE"
_CHUNK = 1 << 16  # bytes
_TIMEOUT = 30.0  # seconds without an answer
_LARGEST_TEXT = 4_000_000  # bytes

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder of fetched files: ``$D2TINY_CACHE``, else ``d2tiny`` in the user's cache."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "d2tiny"


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fetch_file(url: str, name: str, sha256: str, size: int) -> Path:
    """Return a file of the cache, fetched where it is not there or damaged.

    Args:
        url: ``http`` or ``https``.
        name: in the cache.
        sha256: hexadecimal digits that the content must have.
        size: bytes that the content must have; more are not read.

    Raises:
        CheckpointError: no network, an answer with an error, another content than promised, or no room in the cache.
            Nothing is left of it.
    """
    path = cache_folder() / name
    try:
        if path.is_file() and sha256_of(path) == sha256:
            return path
        logger.info("Fetching %s (%.1f MB).", url, size / 1e6)
        with closing(_Answer(url)) as answer, open_atomic(path) as file:
            digest, length = hashlib.sha256(), 0
            while chunk := answer.read(min(_CHUNK, size + 1 - length)):
                digest.update(chunk)
                length += len(chunk)
                file.write(chunk)
            _refuse_other(url, (length, digest.hexdigest()), (size, sha256))
    except OSError as err:
        raise CheckpointError(
            f"{path}: cannot write this file of the cache ({err.strerror or err}); set {CACHE_VARIABLE} to a folder "
            "with room."
        ) from err
    return path


def _refuse_other(url: str, found: tuple[int, str], promised: tuple[int, str]) -> None:
    """Raise if size and sha256 are not those that were promised."""
    if found == promised:
        return
    what = f"its sha256 is {found[1][:16]}…, not {promised[1][:16]}…"
    if found[0] != promised[0]:
        what = f"it has {'more than' if found[0] > promised[0] else 'only'} {min(found[0], promised[0]):,} bytes"
        what += "" if found[0] > promised[0] else f" of {promised[0]:,}"
    raise CheckpointError(f"{url}: this is not the promised file: {what}. It was not kept.")


def fetch_text(url: str) -> bytes:
    """Return a small file; where there is no network, as it was when it was last fetched.

    Raises:
        CheckpointError: no network and never fetched before, an answer with an error, or over 4 MB.
    """
    copy = cache_folder() / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{url.rsplit('/', 1)[-1][:100]}"
    try:
        with closing(_Answer(url)) as answer:
            content = answer.read(_LARGEST_TEXT + 1)
    except _UnreachableError as err:
        if not copy.is_file():
            raise
        logger.warning("%s Taking the copy of the last time, %s.", err, copy)
        return copy.read_bytes()
    if len(content) > _LARGEST_TEXT:
        raise CheckpointError(f"{url}: has more than {_LARGEST_TEXT:,} bytes.")
    try:
        with open_atomic(copy) as file:
            file.write(content)
    except OSError as err:  # it is in memory
        logger.warning("%s: cannot keep this copy: %s", copy, err.strerror or err)
    return content


class _UnreachableError(CheckpointError):
    """No network, or nobody at the other end."""


class _Answer:
    """The body of an answer; errors of the network become CheckpointErrors, and so differ from those of the disk."""

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            self._body: IO[bytes] = urllib.request.urlopen(url, timeout=_TIMEOUT)
        except urllib.error.HTTPError as err:
            raise CheckpointError(f"{url}: the server answers {err.code} {err.reason}.") from err
        except OSError as err:
            reason = getattr(err, "reason", None) or err
            raise _UnreachableError(f"{url}: cannot be fetched ({reason}). Is there a network?") from err
        except (ValueError, http.client.HTTPException) as err:
            raise CheckpointError(f"{url}: cannot be fetched ({type(err).__name__}: {err}).") from err

    def read(self, count: int) -> bytes:
        """Return up to ``count`` bytes; none at the end."""
        try:
            return self._body.read(count)
        except (OSError, http.client.HTTPException) as err:
            raise _UnreachableError(f"{self._url}: the connection broke off ({err or type(err).__name__}).") from err

    def close(self) -> None:
        """Close the connection."""
        self._body.close()
