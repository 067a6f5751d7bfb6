"""Downloads one URL to one file: retried, resumed, complete or an error."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

Progress = Callable[[int, int | None], None]
"""Called with bytes on disk and bytes in all (None: not known)."""

ATTEMPTS = 6
FIRST_PAUSE_S = 0.5
TIMEOUT_S = 30.0
BLOCK_BYTES = 1 << 18
PERMANENT = (400, 401, 403, 404, 405, 410, 451)


class DownloadFailed(Exception):
    """Why a URL gave no file."""


def download(url: str, part: Path, progress: Progress) -> None:
    """Fetch `url` into `part`, going on from what lies there if the server still has the same version.

    Raises DownloadFailed after the attempts are used up or at once where the server says never; OSError where `part`
    cannot be written.
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
            if error.code == 416:  # what we have is not a beginning of what they have
                part.unlink(missing_ok=True)
            if error.code in PERMANENT:
                break
        except _Network as error:
            reason = str(error)
    raise DownloadFailed(f"{url}: {reason}")


class _Network(Exception):
    pass


def _attempt(url: str, part: Path, progress: Progress) -> bool:
    """Whether the file is complete now."""
    request = urllib.request.Request(url, headers={"User-Agent": "patchtst-sweeps", "Accept-Encoding": "identity"})
    have, version = _have(part)
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version)
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # URLs of DATASETS, all https  # nosec B310
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Network(f"{type(error).__name__}: {error}") from error
    with answer:
        if answer.status != 206:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdigit() else None
        _version_file(part).write_text(_version(answer.headers))
        with open(part, "ab" if have else "wb") as file:
            while True:
                try:
                    block = answer.read(BLOCK_BYTES)
                except (OSError, http.client.HTTPException) as error:
                    raise _Network(f"{type(error).__name__}: {error}") from error
                if not block:
                    break
                file.write(block)
                have += len(block)
                progress(have, total)
    return total is None or have == total


def _have(part: Path) -> tuple[int, str]:
    """Bytes already there, and the server's version they belong to; none where that version is not known."""
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
