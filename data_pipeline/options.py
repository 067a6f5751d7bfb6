"""What a user says of a file: how it is read, what happens to its rows. What is not said is found out or refused."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

Missing = Literal["refuse", "interpolate", "ffill", "drop"]
StepRule = Literal["auto", "row"]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The options of one data set. Each is the field `data.NAME` of the same name on the command line."""

    timestamp_column: str | None = None
    """None: searched for."""
    id_column: str | None = None
    """Of a long format (one row per series and time): names the series. None: found for unique_id, ds and y."""
    columns: tuple[str, ...] = ()
    """The columns to read, in this order; empty: all."""
    ignore: tuple[str, ...] = ()
    """Columns to leave out."""
    separator: str | None = None
    """One character, or `tab`. None: found out."""
    decimal: Literal[".", ","] | None = None
    """None: found out."""
    encoding: str | None = None
    """A name that Python knows, such as cp1252. None: found out."""
    time_format: str | None = None
    """As strptime writes it, such as %d.%m.%Y %H:%M, or `s` or `ms` since 1970. None: found out."""
    step: StepRule = "auto"
    """`row`: rows are equidistant, whatever their times say."""
    missing: Missing = "refuse"
    """What happens to cells without a value and to rows that the time axis lacks."""
    max_gap: int | None = None
    """The longest gap in rows that is filled; None: the default of the way of filling."""
    split: str | None = None
    """TRAIN/VALIDATION/TEST as fractions, two dates, or three files. None: the data set's rule."""

    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults, by name."""
        return {name: value for name, value in asdict(self).items() if value != getattr(DEFAULTS, name)}


DEFAULTS = DataOptions()
OPTION_NAMES = tuple(field.name for field in fields(DataOptions))
