"""Text, dates and timestamps of Arrow columns as int64 microseconds."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.errors import DataError

NAIVE = pa.timestamp("us")
ZONED = pa.timestamp("us", "UTC")
HELP = "write ISO 8601, e.g. 2016-07-01 00:00:00"


def to_microseconds(column: pa.Array, *, zoned: bool, source: str, column_name: str, first_row: int) -> np.ndarray:
    """Timestamps [n] int64, microseconds since 1970, in UTC if they are `zoned` (end in Z or an offset).

    Text is ISO 8601, with '-' or '/' and with or without leading zeros (2016/7/1 0:00). Messages number rows from
    `first_row`. Raises DataError for the first value that is no such time.
    """
    kind = column.type
    if column.null_count:
        row = first_row + pc.index(column.is_null(), True).as_py()
        raise DataError(f"{source}: no timestamp in column {column_name!r} at data row {row}: {HELP}")
    try:
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            parsed = _parse(column, zoned)
        elif pa.types.is_timestamp(kind):
            parsed = column.cast(pa.timestamp("us", kind.tz))
        elif pa.types.is_date(kind):
            parsed = column.cast(NAIVE)
        else:
            raise DataError(f"{source}: the timestamp column {column_name!r} holds {kind}: {HELP}")
    except pa.ArrowInvalid as error:
        raise _first_bad(column, zoned, source, column_name, first_row, error) from error
    return parsed.view(pa.int64()).to_numpy(zero_copy_only=True)


def to_microseconds_or_none(text: str) -> int | None:
    """A timestamp in microseconds, or None if `text` is none."""
    try:
        return int(_parse(pa.array([text], pa.string()), has_zone(text)).view(pa.int64())[0].as_py())
    except pa.ArrowInvalid:
        return None


def text_or_none(value: pa.Scalar) -> str | None:
    """A value as text, or None if it has no text: a year past 9999, an unknown zone, bytes that are not UTF-8."""
    try:
        return str(value.as_py())
    except (pa.ArrowException, ValueError, OverflowError):
        return None


def _parse(text: pa.Array, zoned: bool) -> pa.Array:
    kind = ZONED if zoned else NAIVE
    try:
        return text.cast(kind)
    except pa.ArrowInvalid:
        padded = pc.replace_substring_regex(pc.utf8_trim_whitespace(text), r"([-/ T:])(\d)\b", r"\10\2")
        return pc.replace_substring(padded, "/", "-").cast(kind)


def has_zone(text: str) -> bool:
    """Whether a timestamp ends in Z or an offset such as +02:00."""
    time_part = text.strip()[10:]
    return time_part.endswith("Z") or "+" in time_part or "-" in time_part


def _first_bad(column: pa.Array, zoned: bool, source: str, name: str, first_row: int, error: Exception) -> DataError:
    for row, value in enumerate(column, start=first_row):
        text = text_or_none(value)
        if text is None:
            return DataError(
                f"{source}: the value in column {name!r} at data row {row} cannot be read as {column.type} "
                f"(another unit or another encoding?): {HELP}"
            )
        if to_microseconds_or_none(text) is None:
            return DataError(f"{source}: {text[:60]!r} in column {name!r} at data row {row} is no time: {HELP}")
        if has_zone(text) != zoned:
            return DataError(
                f"{source}: some times in column {name!r} have a zone and some have none (data row {row}): "
                "write all in UTC"
            )
    return DataError(f"{source}: column {name!r} cannot be read as time ({error}): {HELP}")
