"""Turns a source into one Arrow file: streamed, checked, standardised, complete or not there at all."""

from __future__ import annotations

import errno
import glob
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_pipeline.datasets import DatasetSpec
from data_pipeline.errors import DataError
from data_pipeline.series.arrow_file import Scratch, write_file
from data_pipeline.series.rounding import Rounding
from data_pipeline.series.timeaxis import MICROSECONDS_PER_MINUTE, TimeAxis
from data_pipeline.series.windows import split_bounds
from data_pipeline.source.pins import pin_file, read_pins
from data_pipeline.source.readers import Chunk, open_source

SCHEMA_VERSION = 3
log = logging.getLogger(__name__)


class RowSource(Protocol):
    """What a series is converted from."""

    columns: tuple[str, ...]
    zoned: bool

    def chunks(self) -> Iterator[Chunk]:
        """Every row, in order."""

    def sha256(self) -> str:
        """Of the content; after `chunks` has been read."""


class GeneratedSource:
    """The rows of a spec's generator."""

    zoned = False

    def __init__(self, spec: DatasetSpec) -> None:
        assert spec.generate is not None and spec.columns is not None
        self._generate, self.columns, self._hash = spec.generate, spec.columns, generator_sha256(spec)

    def chunks(self) -> Iterator[Chunk]:
        """One chunk."""
        timestamps, values = self._generate()
        times = timestamps.astype("datetime64[us]").view(np.int64)
        yield Chunk(timestamps=times, values=values, exact=values.astype(np.float64))

    def sha256(self) -> str:
        """Of the generator's name and version."""
        return self._hash


def generator_sha256(spec: DatasetSpec) -> str:
    """Stands for the content of a generated series."""
    import hashlib

    return hashlib.sha256(f"{spec.name} generator, version {spec.version}".encode()).hexdigest()


def convert(spec: DatasetSpec, source_path: Path | None, stamp: str | None, target: Path) -> None:
    """Write the series of `spec` to `target` by an atomic rename.

    `stamp` describes the state of the source file when it was last seen to be still, None where it cannot be trusted.
    Raises DataError for wrong content, a folder that cannot be written, or a full disk; nothing is left behind then.
    One at a time may convert to `target`: what an earlier one has left is removed.
    """
    folder = None
    try:
        for left in target.parent.glob(
            f".{glob.escape(target.stem)}-*"
        ):  # by a process that was killed: the caller has the lock
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.stem}-", dir=target.parent))
        _convert_in(folder, spec, source_path, stamp, target)
    except OSError as error:
        raise unwritable(target.parent, error) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def unwritable(folder: Path, error: OSError) -> DataError:
    """The line for a cache folder that refuses a file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DataError(f"{folder}: no space left for the converted series ({error.strerror}): free some, or choose "
                         "another cache folder")  # fmt: skip
    return DataError(f"{folder}: the converted series cannot be written ({error}): choose a cache folder of your own")


def _convert_in(folder: Path, spec: DatasetSpec, source_path: Path | None, stamp: str | None, target: Path) -> None:
    label = spec.name if source_path is None else str(source_path)
    source: RowSource = (
        GeneratedSource(spec) if source_path is None else open_source(source_path, spec.timestamp_column)
    )
    if spec.columns is not None and source.columns != spec.columns:
        raise DataError(
            f"{label}: columns {_few(source.columns)} found, {spec.name} has {_few(spec.columns)}: fetch the "
            "published file again, or give yours another name and pass its path"
        )
    scratch = Scratch(folder, len(source.columns))
    try:
        axis, rounding = TimeAxis(label), Rounding(source.columns)
        for chunk in source.chunks():
            axis.add(chunk.timestamps)
            scratch.append(chunk.timestamps, chunk.values)
            rounding.add(chunk.exact, chunk.values)
        metadata = _describe(spec, label, source, scratch, axis, rounding)
        metadata["source_stamp"] = stamp
        mean, std = np.array(metadata["mean"]), np.array(metadata["std"])
        for block in scratch.values():
            scratch.append_scaled(_scaled(label, source.columns, block, mean, std))
        partial = folder / "series.arrow"
        write_file(partial, scratch, len(source.columns), metadata)
        os.replace(partial, target)
    finally:
        scratch.close()
    for note in metadata["notes"]:
        log.info("%s: %s", label, note)


def _describe(
    spec: DatasetSpec, label: str, source: RowSource, scratch: Scratch, axis: TimeAxis, rounding: Rounding
) -> dict[str, Any]:
    """The metadata of the file. DataError for a wrong time axis, too few rows, values that 32 bits do not hold."""
    if scratch.rows == 0:
        raise DataError(f"{label}: a header and no data rows: give the complete file")
    axis.check()
    step_minutes = axis.step_us / MICROSECONDS_PER_MINUTE
    if spec.step_minutes is not None and step_minutes != spec.step_minutes:
        raise DataError(
            f"{label}: one row per {step_minutes:g} min found, {spec.name} has one per {spec.step_minutes:g}: fetch "
            "the published file again, or give yours another name and pass its path"
        )
    try:
        bounds = split_bounds(spec.split, scratch.rows, step_minutes)
    except DataError as error:
        raise DataError(f"{label}: {error}") from error
    if spec.rows not in (None, scratch.rows):
        raise DataError(
            f"{label}: {scratch.rows:,} data rows found, {spec.name} has {spec.rows:,}: delete it to have it fetched "
            "again, or give yours another name and pass its path"
        )
    mean, std = train_statistics(scratch, bounds["train"][1])
    rounding.check(label, std, bounds["train"][1])
    sha256 = source.sha256()
    _check_pin(spec, label, sha256)
    notes = []
    if spec.sha256 not in (None, sha256):
        notes.append(f"not the published file of {spec.name} (sha256 {sha256[:12]}..., expected {spec.sha256[:12]}...)")
    if axis.gaps:
        notes.append(f"{axis.missing_rows} rows missing in {axis.gaps} gaps, whose edges are used as neighbours")
    constant = [name for name, one in zip(source.columns, std == 0, strict=True) if one]
    if constant:
        notes.append(f"constant over the training rows, centred but not scaled: {_few(tuple(constant))}")
    if source.zoned:
        notes.append("timestamps converted to UTC")
    return {
        "schema_version": SCHEMA_VERSION,
        "name": spec.name,
        "source": label,
        "source_sha256": sha256,
        "columns": list(source.columns),
        "step_minutes": step_minutes,
        "split": split_as_json(spec),
        "bounds": bounds,
        "mean": mean.tolist(),
        "std": np.where(std == 0, 1.0, std).tolist(),
        "notes": notes,
    }


def _check_pin(spec: DatasetSpec, label: str, sha256: str) -> None:
    """DataError where a file without a published sha256 is not what was downloaded, by the pin beside it."""
    if spec.sha256 is not None or not spec.urls:
        return
    pin = pin_file(Path(label).parent, spec.file)
    pins = read_pins(pin)
    if pins and sha256 not in pins.values():
        raise DataError(
            f"{label}: cut or changed since its download (its sha256 is {sha256[:12]}..., {pin.name} has "
            f"{', '.join(f'{known[:12]}...' for known in pins.values())}): delete it to have it fetched again, or pass "
            "a file of your own by its path"
        )


def split_as_json(spec: DatasetSpec) -> dict[str, Any]:
    """The split rule as it reads back from JSON, to compare with a file's."""
    return dict(json.loads(json.dumps(asdict(spec.split))))


def train_statistics(scratch: Scratch, train_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation [C] float64 of rows [0, train_rows), in two passes over blocks.

    Sums are of differences to the first row, so a constant column has a deviation of exactly 0.
    """
    first = next(scratch.values(train_rows))[0].astype(np.float64)
    shift = sum((block - first).sum(axis=0) for block in scratch.values(train_rows)) / train_rows
    squares = sum(np.square(block - first - shift).sum(axis=0) for block in scratch.values(train_rows))
    return first + shift, np.sqrt(squares / train_rows)


def _scaled(label: str, columns: tuple[str, ...], values: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """(values - mean) / std [n, C], computed in float64, rounded once to float32."""
    with np.errstate(over="ignore"):
        scaled = ((values - mean) / std).astype(np.float32)
    finite = np.isfinite(scaled).all(axis=0)
    if not finite.all():
        name = columns[int(np.argmin(finite))]
        raise DataError(
            f"{label}: column {name!r} varies so little over the training rows that later values, standardised, do not "
            "fit 32-bit floats: drop it or rescale it"
        )
    return scaled


def _few(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown}, ... ({len(names)})"
