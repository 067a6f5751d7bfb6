"""Fetches a public data set once: checked, resumed, complete or not there. Offline, the error says what to do."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import filelock

from data_pipeline.datasets import DatasetSpec
from data_pipeline.errors import NO_SPACE, DataError, MissingFile
from data_pipeline.source.content import content_sha256
from data_pipeline.source.http_file import DownloadFailed, Progress, download
from data_pipeline.source.links import HUB, browser_link
from data_pipeline.source.pins import pin_file, read_pins, write_pins

MATRIX_ENDING = ".txt.gz"  # Lai et al.'s layout: a line of comma-separated numbers for each row, no header, no times
XZ = ".xz"
COPY_BYTES = 1 << 20


def fetch(spec: DatasetSpec, data_dir: Path, progress: Progress | None = None) -> Path:
    """The path of the source file of `spec` in `data_dir`, downloaded there first if it is missing.

    A file of `data_dir` in Lai et al.'s layout (electricity.txt.gz), or packed by xz (weather.csv.xz), is read instead
    of downloading one.
    `progress` is called with (bytes so far, bytes in all or None). The content must have the published sha256. If none
    is published, the first download's sha256 is pinned beside the file, and later downloads must equal it. One process
    downloads, and others wait for it. Raises DataError: no source, no network, wrong content, no space.
    """
    if not spec.urls:
        why = "it is generated and needs no file" if spec.generate else "only the data sets with a name have a source"
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
            why = f"cannot be written ({error}): choose a folder that you own"
        raise MissingFile(f"{data_dir}, for {spec.file}: {why}") from error


def _fetch(spec: DatasetSpec, target: Path, progress: Progress) -> Path:
    packed = target.with_name(f"{target.name}{XZ}")
    if packed.exists():
        return _from_own(spec, spec.urls[0], packed, target)
    for url in spec.urls:
        own = target.with_name(url.rsplit("/", 1)[-1])
        if url.endswith(MATRIX_ENDING) and own.exists():
            return _from_own(spec, url, own, target)
    reasons = []
    for url in spec.urls:
        part = target.with_name(f".{target.name}.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part")
        converted = part.with_name(f"{part.name}.csv")
        for _ in range(2):  # content that the network damaged is fetched once more
            try:
                _get(url, part, progress)
                complete = _as_csv(spec, url, part, converted)
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
                converted.unlink(missing_ok=True)
    where = f"get it from {browser_link(spec.urls[0])} and put it into {target.parent} yourself"
    raise MissingFile(
        f"cannot download {spec.file} ({'; '.join(dict.fromkeys(reasons))}): {where}, or use --dataset demo, which "
        "needs no file"
    )


def _from_own(spec: DatasetSpec, url: str, own: Path, target: Path) -> Path:
    """`target`, made of the user's copy of what `url` gives. Raises DataError if it is damaged or was changed."""
    converted = target.with_name(f".{target.name}.own.csv")
    try:
        _as_csv(spec, str(own), own, converted)
        _check(spec, url, converted, target)
        _flush(converted)
        os.replace(converted, target)
        return target
    except _WrongContent as error:
        raise DataError(f"{error}: replace {own} by the published file, or remove it to download one") from error
    finally:
        converted.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Write the file to the disk before it gets its name: after a power loss no cut file may have that name."""
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
        # Of no fixed revision: _check compares its content with the sha256 of the spec or of the first download
        cached = huggingface_hub.hf_hub_download(f"{owner}/{name}", file, repo_type="dataset")  # nosec B615
    except Exception as error:  # the hub's, its HTTP client's (which changes between versions), the system's
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise
        raise DownloadFailed(f"{url}: {type(error).__name__}") from error
    total = os.stat(cached).st_size
    with open(cached, "rb") as source, open(part, "wb") as copy:
        while block := source.read(COPY_BYTES):
            copy.write(block)
            progress(copy.tell(), total)


def _check(spec: DatasetSpec, url: str, complete: Path, target: Path) -> None:
    """Compare with the published sha256, or with the pin of this URL; without either, pin it.

    Raises _WrongContent.
    """
    actual = content_sha256(complete)
    pin = pin_file(target.parent, target.name)
    pins = read_pins(pin)
    expected = spec.sha256 or pins.get(url)
    if expected is None:
        write_pins(pin, {**pins, url: actual})
    elif actual != expected:
        raise _WrongContent(f"{url}: sha256 is {actual[:16]}..., expected {expected[:16]}...")


def _unpacked(packed: Path, target: Path) -> Path:
    """`target` with the content of a file packed by xz. Raises _WrongContent for a damaged one."""
    import lzma
    import shutil

    try:
        with lzma.open(packed) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, COPY_BYTES)
    except (lzma.LZMAError, EOFError) as error:
        raise _WrongContent(f"{packed}: truncated or damaged xz ({error})") from error
    return target


def _as_csv(spec: DatasetSpec, url: str, part: Path, converted: Path) -> Path:
    """`part`, or `converted` for a matrix of numbers: a CSV with the columns and time axis of `spec`.

    Raises _WrongContent for a damaged gzip or xz, and for a line with more or fewer numbers than columns.
    """
    if url.endswith(XZ):
        return _unpacked(part, converted)
    if not url.endswith(MATRIX_ENDING):
        return part
    import gzip
    import zlib

    import numpy as np

    assert spec.columns is not None and spec.step_minutes is not None and spec.first_timestamp is not None
    time, step = np.datetime64(spec.first_timestamp, "s"), np.timedelta64(round(60 * spec.step_minutes), "s")
    try:
        with gzip.open(part, "rt", encoding="ascii") as source, open(converted, "w") as csv:
            csv.write(",".join(["date", *spec.columns]) + "\n")
            for row, line in enumerate(source):
                if line.count(",") != len(spec.columns) - 1:
                    found = line.count(",") + 1
                    raise _WrongContent(f"{url}: line {row + 1} has {found} numbers, expected {len(spec.columns)}")
                csv.write(f"{str(time + row * step).replace('T', ' ')},{line.strip()}\n")
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise _WrongContent(f"{url}: damaged gzip ({error})") from error
    return converted
