"""Whether a file is the data set that it is given as."""

from __future__ import annotations

from pathlib import Path

from data_pipeline.datasets import DatasetSpec
from data_pipeline.errors import DataError
from data_pipeline.series.groups import few
from data_pipeline.series.steps import Step
from data_pipeline.source.pins import pin_file, read_pins

PUBLISHED_OR_OWN = "fetch the published file again, or give yours another name and pass its path"


def check_columns(spec: DatasetSpec, label: str, columns: tuple[str, ...]) -> None:
    """Raise DataError if the file's columns are not the data set's."""
    if spec.columns not in (None, columns):
        raise DataError(
            f"{label}: columns {few(columns)} found, {spec.name} has {few(spec.columns)}: {PUBLISHED_OR_OWN}"
        )


def check_step(spec: DatasetSpec, label: str, step: Step) -> None:
    """Raise DataError if the file's step is not the data set's."""
    if spec.step_minutes not in (None, step.minutes):
        raise DataError(
            f"{label}: one row per {step.text} found, {spec.name} has one per {spec.step_minutes:g} min: "
            f"{PUBLISHED_OR_OWN}"
        )


def check_rows(spec: DatasetSpec, label: str, rows: int) -> None:
    """Raise DataError if the file's rows are not as many as the data set's."""
    if spec.rows not in (None, rows):
        raise DataError(
            f"{label}: {rows:,} data rows found, {spec.name} has {spec.rows:,}: delete it to fetch it again, or give "
            "yours another name and pass its path"
        )


def check_pin(spec: DatasetSpec, label: str, sha256: str) -> None:
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


def other_content(spec: DatasetSpec, sha256: str) -> str | None:
    """A note if the data set has a published sha256 and the file another."""
    if spec.sha256 in (None, sha256):
        return None
    return f"not the published file of {spec.name} (sha256 {sha256[:12]}..., expected {spec.sha256[:12]}...)"
