"""Downloads one URL to one file, with retries that resume. The file is complete, or an error says why not."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

Progress = Callable[[int, int | None], None]
"""Called with the bytes on disk and the bytes in all (None: unknown)."""

ATTEMPTS = 6
FIRST_PAUSE_S = 0.5
TIMEOUT_S = 30.0
BLOCK_BYTES = 1 << 18
PERMANENT = (400, 401, 403, 404, 405, 410, 451)


class DownloadFailed(Exception):
    """A URL gave no file. The message is the reason."""


def download(url: str, part: Path, progress: Progress) -> None:
    """Fetch `url` into `part`. Bytes already there are kept if the server still has the same version.

    Raises DownloadFailed after ATTEMPTS attempts, or at once for an answer in PERMANENT, and OSError if `part` cannot
    be written.
    """
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
        try:
            if _attempt(url, part, progress):
                _version_file(part).unlink(missing_ok=True)
                return
            reason = f"the connection ended after {part.stat().st_size} bytes"
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"HTTP {error.code} {error.reason}"
            if error.code == 416:  # the bytes in `part` are no beginning of the server's file
                part.unlink(missing_ok=True)
            if error.code in PERMANENT:
                break
        except _Network as error:
            reason = str(error)
    raise DownloadFailed(f"{url}: {reason}")


class _Network(Exception):
    pass


def _attempt(url: str, part: Path, progress: Progress) -> bool:
    """Download the rest of the file, once. Returns whether it is complete. Raises _Network."""
    request = urllib.request.Request(url, headers={"User-Agent": "patchtst-sweeps", "Accept-Encoding": "identity"})
    size, version = _downloaded(part)
    if size:
        request.add_header("Range", f"bytes={size}-")
        request.add_header("If-Range", version)
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # URLs of DATASETS, all https  # nosec B310
    except urllib.error.HTTPError:  # an OSError too, but one that `download` looks into
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Network(f"{type(error).__name__}: {error}") from error
    with answer:
        if answer.status != 206:
            size = 0
        length = answer.headers.get("Content-Length")
        total = size + int(length) if length and length.isdigit() else None
        _version_file(part).write_text(_version(answer.headers))
        with open(part, "ab" if size else "wb") as file:
            while True:
                try:
                    block = answer.read(BLOCK_BYTES)
                except (OSError, http.client.HTTPException) as error:
                    raise _Network(f"{type(error).__name__}: {error}") from error
                if not block:
                    break
                file.write(block)
                size += len(block)
                progress(size, total)
    return total is None or size == total


def _downloaded(part: Path) -> tuple[int, str]:
    """The size of `part` and the server's version that it belongs to; 0 if that version is unknown."""
    try:
        version = _version_file(part).read_text()
        return (part.stat().st_size, version) if version else (0, "")
    except OSError:
        return 0, ""


def _version(headers: http.client.HTTPMessage) -> str:
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")
