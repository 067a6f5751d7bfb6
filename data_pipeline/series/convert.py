"""Turns a source into one Arrow file: streamed, checked, standardised, complete or not there at all.

Shapes: T rows, C columns.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.datasets import DatasetSpec
from data_pipeline.errors import NO_SPACE, DataError
from data_pipeline.series.arrow_file import Scratch, write_file
from data_pipeline.series.order import RowOrder
from data_pipeline.series.rounding import Rounding
from data_pipeline.series.scaling import scale, train_statistics
from data_pipeline.series.steps import Step
from data_pipeline.series.timeaxis import TimeAxis
from data_pipeline.series.windows import split_bounds
from data_pipeline.source.generated import GeneratedSource
from data_pipeline.source.pins import pin_file, read_pins
from data_pipeline.source.readers import open_source
from data_pipeline.source.rows import RowSource

SCHEMA_VERSION = 4
PUBLISHED_OR_OWN = "fetch the published file again, or give yours another name and pass its path"
log = logging.getLogger(__name__)


def convert(spec: DatasetSpec, source_path: Path | None, stamp: str | None, target: Path) -> None:
    """Write the series of `spec` to `target` by an atomic rename.

    `stamp` describes the state of the source file (None: its time stamps tell nothing) and is stored in the new file.
    Raises DataError for wrong content, a folder that cannot be written, or a full disk; nothing is left behind then.
    The caller holds the lock of `target`, so folders that a killed process left are removed.
    """
    folder = None
    try:
        for abandoned in target.parent.glob(f".{glob.escape(target.stem)}-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.stem}-", dir=target.parent))
        _convert_in(folder, spec, source_path, stamp, target)
    except OSError as error:
        raise unwritable(target.parent, error) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def unwritable(folder: Path, error: OSError) -> DataError:
    """The error for a cache folder that refuses a file."""
    if error.errno in NO_SPACE:
        return DataError(f"{folder}: no space left for the converted series ({error.strerror}): free some, or choose "
                         "another cache folder")  # fmt: skip
    return DataError(f"{folder}: the converted series cannot be written ({error}): choose a cache folder that you own")


def _convert_in(folder: Path, spec: DatasetSpec, source_path: Path | None, stamp: str | None, target: Path) -> None:
    label = spec.name if source_path is None else str(source_path)
    source: RowSource = GeneratedSource(spec) if source_path is None else open_source(source_path, spec.options)
    _check_columns(spec, label, source.columns)
    scratch = Scratch(folder, len(source.columns))
    try:
        rule, zone = spec.options.step, "UTC" if source.zoned else None
        axis, rounding = TimeAxis(label, rule=rule, zone=zone), Rounding(source.columns)
        order = RowOrder(source.columns, source.faults)
        for read in source.chunks():
            chunk = read if rule == "row" else order.distinct(read)
            axis.add(chunk.timestamps)
            scratch.append(chunk.timestamps, chunk.values)
            rounding.add(chunk.exact, chunk.values)
        source.faults.raise_if_any()
        metadata = _metadata(spec, label, source, scratch, axis, rounding)
        metadata["source_stamp"] = stamp
        metadata["notes"] += [order.note] if order.note else []
        mean, std = np.array(metadata["mean"]), np.array(metadata["std"])
        for block in scratch.values():
            scratch.append_scaled(scale(label, source.columns, block, mean, std))
        partial = folder / "series.arrow"
        write_file(partial, scratch, len(source.columns), metadata)
        os.replace(partial, target)
    finally:
        scratch.close()
    for note in metadata["notes"]:
        log.info("%s: %s", label, note)


def _metadata(
    spec: DatasetSpec, label: str, source: RowSource, scratch: Scratch, axis: TimeAxis, rounding: Rounding
) -> dict[str, Any]:
    """What the file's metadata says of the series.

    Raises DataError for a wrong time axis, too few rows, values that 32 bits do not hold, or another file than `spec`.
    """
    if scratch.rows == 0:
        raise DataError(f"{label}: a header and no data rows: give the complete file")
    axis.check()
    _check_step(spec, label, axis.step)
    try:
        bounds = split_bounds(spec.split, scratch.rows, axis.step.minutes)
    except DataError as error:
        raise DataError(f"{label}: {error}") from error
    _check_rows(spec, label, scratch.rows)
    mean, std = train_statistics(scratch, bounds["train"][1])
    rounding.check(label, std, bounds["train"][1])
    sha256 = source.sha256()
    _check_pin(spec, label, sha256)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": spec.name,
        "source": label,
        "source_sha256": sha256,
        "columns": list(source.columns),
        "step": axis.step.as_json(),
        "split": split_as_json(spec),
        "bounds": bounds,
        "mean": mean.tolist(),
        "std": np.where(std == 0, 1.0, std).tolist(),
        "notes": list(_notes(spec, source, sha256, axis, std)),
    }


def _notes(spec: DatasetSpec, source: RowSource, sha256: str, axis: TimeAxis, std: np.ndarray) -> Iterator[str]:
    """What is unusual in the source and kept."""
    yield from source.notes
    if spec.sha256 not in (None, sha256):
        yield f"not the published file of {spec.name} (sha256 {sha256[:12]}..., expected {spec.sha256[:12]}...)"
    if axis.gaps:
        yield f"{axis.missing_rows} rows missing in {axis.gaps} gaps, whose edges are used as neighbours"
    if constant := [name for name, deviation in zip(source.columns, std, strict=True) if deviation == 0]:
        yield f"constant over the training rows, centred but not scaled: {_few(tuple(constant))}"
    if axis.note is not None:
        yield axis.note
    if source.zoned:
        yield "timestamps converted to UTC"


def _check_columns(spec: DatasetSpec, label: str, columns: tuple[str, ...]) -> None:
    if spec.columns not in (None, columns):
        raise DataError(
            f"{label}: columns {_few(columns)} found, {spec.name} has {_few(spec.columns)}: {PUBLISHED_OR_OWN}"
        )


def _check_step(spec: DatasetSpec, label: str, step: Step) -> None:
    if spec.step_minutes not in (None, step.minutes):
        raise DataError(
            f"{label}: one row per {step.text} found, {spec.name} has one per {spec.step_minutes:g} min: "
            f"{PUBLISHED_OR_OWN}"
        )


def _check_rows(spec: DatasetSpec, label: str, rows: int) -> None:
    if spec.rows not in (None, rows):
        raise DataError(
            f"{label}: {rows:,} data rows found, {spec.name} has {spec.rows:,}: delete it to fetch it again, or give "
            "yours another name and pass its path"
        )


def _check_pin(spec: DatasetSpec, label: str, sha256: str) -> None:
    """Raise DataError if a file without a published sha256 differs from its download, by the pin beside it."""
    if spec.sha256 is not None or not spec.urls:
        return
    file = pin_file(Path(label).parent, spec.file)
    pins = read_pins(file)
    if pins and sha256 not in pins.values():
        raise DataError(
            f"{label}: cut or changed since its download (its sha256 is {sha256[:12]}..., {file.name} has "
            f"{', '.join(f'{pin[:12]}...' for pin in pins.values())}): delete it to fetch it again, or give a file of "
            "your own by its path"
        )


def split_as_json(spec: DatasetSpec) -> dict[str, Any]:
    """The split rule as JSON gives it back, to compare with a file's."""
    return dict(json.loads(json.dumps(asdict(spec.split))))


def _few(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown}, ... ({len(names)})"
