"""Fetches a public data set once: checked, resumable, atomic; offline it says what to do instead."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import filelock

from data_pipeline.datasets import DatasetSpec
from data_pipeline.errors import DataError
from data_pipeline.source.content import content_sha256
from data_pipeline.source.http_file import DownloadFailed, Progress, download
from data_pipeline.source.pins import pin_file, read_pins, write_pins

HUB = "hf://datasets/"
COPY_BYTES = 1 << 20
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def fetch(spec: DatasetSpec, data_dir: Path, progress: Progress | None = None) -> Path:
    """The path of the source file of `spec` in `data_dir`, downloaded there first where it is missing.

    `progress` is called with (bytes so far, bytes in all or None). The content must have the published sha256; where
    none is published, the first download's is kept beside the file and later ones must equal it. One process
    downloads, others wait for it. Raises DataError: no source, no network, wrong content, no room.
    """
    if not spec.urls:
        why = "it is generated, no file is needed" if spec.generate else "only the data sets we name have a source"
        raise DataError(f"{spec.name} cannot be downloaded: {why}")
    target = data_dir / spec.file
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(data_dir / f".{spec.file}.lock"):
            for path in (target, data_dir / f"{spec.file}.gz"):
                if path.exists():
                    return path
            return _fetch(spec, target, progress or (lambda _done, _all: None))
    except OSError as error:
        if error.errno in NO_SPACE:
            why = "no space left: free some, or choose another folder"
        else:
            why = f"cannot be written ({error}): choose a folder of your own"
        raise DataError(f"{data_dir}, for {spec.file}: {why}") from error


def _fetch(spec: DatasetSpec, target: Path, progress: Progress) -> Path:
    reasons = []
    for url in spec.urls:
        part = target.with_name(f".{target.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
        made = part.with_name(f"{part.name}.csv")
        for _ in range(2):  # content damaged on the way is fetched anew, once
            try:
                _get(url, part, progress)
                complete = _as_csv(spec, url, part, made)
                _check(spec, url, complete, target)
                _flush(complete)
                os.replace(complete, target)
                part.unlink(missing_ok=True)
                return target
            except _WrongContent as error:
                part.unlink(missing_ok=True)
                reasons.append(str(error))
                continue
            except DownloadFailed as error:
                reasons.append(str(error))
                break
            finally:
                made.unlink(missing_ok=True)
    raise DataError(
        f"cannot download {spec.file} ({'; '.join(dict.fromkeys(reasons))}): get it from {spec.urls[0]} and put it "
        f"into {target.parent} yourself, or use --dataset demo, which needs no file"
    )


def _flush(path: Path) -> None:
    """To the disk, before it gets its name: a power loss must not leave a cut file under that name."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


class _WrongContent(Exception):
    pass


def _get(url: str, part: Path, progress: Progress) -> None:
    if not url.startswith(HUB):
        download(url, part, progress)
        return
    import huggingface_hub

    owner, name, file = url.removeprefix(HUB).split("/", 2)
    try:
        # Pinned to no revision: _check compares its content with the sha256 of the spec or of the first download
        found = huggingface_hub.hf_hub_download(f"{owner}/{name}", file, repo_type="dataset")  # nosec B615
    except Exception as error:  # the hub's own errors, its HTTP client's (which changed between versions), the system's
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise
        raise DownloadFailed(f"{url}: {type(error).__name__}") from error
    total = os.stat(found).st_size
    with open(found, "rb") as source, open(part, "wb") as copy:
        while block := source.read(COPY_BYTES):
            copy.write(block)
            progress(copy.tell(), total)


def _check(spec: DatasetSpec, url: str, complete: Path, target: Path) -> None:
    """Compare with the published sha256, or with the one of the first download from this URL."""
    got = content_sha256(complete)
    pin = pin_file(target.parent, target.name)
    pins = read_pins(pin)
    want = spec.sha256 or pins.get(url)
    if want is None:
        write_pins(pin, {**pins, url: got})
    elif got != want:
        raise _WrongContent(f"{url}: sha256 is {got[:16]}..., expected {want[:16]}...")


def _as_csv(spec: DatasetSpec, url: str, part: Path, made: Path) -> Path:
    """`part` itself, or for a headerless `.txt.gz` matrix `made`: a CSV with the columns and time axis of `spec`."""
    if not url.endswith(".txt.gz"):
        return part
    import gzip
    import zlib

    import numpy as np

    assert spec.columns is not None and spec.step_minutes is not None and spec.first_timestamp is not None
    time, step = np.datetime64(spec.first_timestamp, "s"), np.timedelta64(round(60 * spec.step_minutes), "s")
    try:
        with gzip.open(part, "rt", encoding="ascii") as source, open(made, "w") as csv:
            csv.write(",".join(["date", *spec.columns]) + "\n")
            for row, line in enumerate(source):
                csv.write(f"{str(time + row * step).replace('T', ' ')},{line.strip()}\n")
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise _WrongContent(f"{url}: damaged gzip ({error})") from error
    return made
