"""The forms in which a time is written, and each as int64 microseconds since 1970.

Shapes: n rows.
"""

from __future__ import annotations

import re
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NO_OFFSET = np.iinfo(np.int32).min
"""In `Parsed.offsets`: the text names no zone."""
DAY_US = 86_400_000_000
UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 0.001}
"""Microseconds of one unit of a count since 1970."""
MOST_US = 253_402_300_800_000_000
"""The end of year 9999."""
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
NAIVE, ZONED = pa.timestamp("us"), pa.timestamp("us", "UTC")

_MONTH = r"(?P<m>\d{1,2}|[A-Za-z]{3,9})"
_ZONE = r"(?:\s*(?P<z>[Zz]|(?:UTC|GMT|utc|gmt)?[+-]\d{1,2}(?::?\d{2})?|UTC|GMT|utc|gmt))?"
_CLOCK = (
    r"(?:(?:\s*T|,?\s+)(?P<H>\d{1,2})(?:[:.](?P<M>\d{1,2})(?:[:.](?P<S>\d{1,2})(?:[.,](?P<f>\d+))?)?)?"
    rf"\s*(?P<p>[AaPp]\.?[Mm]\.?)?{_ZONE})?"
)
_GAP = r"(?:[-/.]|[\s,]+)"
ORDERS = {
    "ymd": rf"^\s*(?P<y>\d{{4}})[-/.]{_MONTH}(?:[-/.](?P<d>\d{{1,2}}))?{_CLOCK}\s*$",
    "dmy": rf"^\s*(?P<d>\d{{1,2}}){_GAP}{_MONTH}{_GAP}(?P<y>\d{{4}}|\d{{2}}){_CLOCK}\s*$",
    "mdy": rf"^\s*{_MONTH}{_GAP}(?P<d>\d{{1,2}}){_GAP}(?P<y>\d{{4}}|\d{{2}}){_CLOCK}\s*$",
    "compact": (
        r"^\s*(?P<y>(?:1[89]|2[01])\d{2})(?P<m>\d{2})(?:(?P<d>\d{2})"
        rf"(?:[T ]?(?P<H>\d{{2}})(?::?(?P<M>\d{{2}})(?::?(?P<S>\d{{2}}))?)?{_ZONE})?)?(?:\.0*)?\s*$"
    ),
    "quarter": r"^\s*(?P<y>\d{4})[-/ ]?[Qq](?P<q>[1-4])\s*$",
    "year": r"^\s*(?P<y>(?:1[5-9]|2[01])\d{2})(?:\.0*)?\s*$",
}
"""Year, month and day in their order, with a time of day."""
_TWO_DIGIT_YEARS_OF_1900 = 69  # as in strptime: 69 is 1969, 68 is 2068


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """n times. Where `ok` is false, the text is none in this form."""

    us: np.ndarray
    """[n] int64 microseconds since 1970, in UTC where the text names a zone."""
    ok: np.ndarray
    """[n] bool"""
    offsets: np.ndarray
    """[n] int32, minutes east of UTC; NO_OFFSET where the text names no zone."""


class TimeForm(ABC):
    """One way of writing times."""

    name: str
    """In notes and as the reading's `time_format`."""

    @abstractmethod
    def parse(self, texts: pa.Array) -> Parsed:
        """The times of `texts` [n], an array of strings without nulls."""

    def written_as(self, text: str) -> str:
        """The form of `text` in the words of strptime, where these have some."""
        return self.name


class Calendar(TimeForm):
    """Year, month and day in one of ORDERS, and a time of day: 24:00, AM and PM, fractions and zones included."""

    def __init__(self, order: str) -> None:
        self.order = order
        self.name = {
            "ymd": "ISO 8601",
            "dmy": "day first",
            "mdy": "month first",
            "compact": "digits only",
            "year": "years",
            "quarter": "quarters",
        }[order]

    def parse(self, texts: pa.Array) -> Parsed:
        """The times of `texts` [n]. ISO 8601 takes the short way through Arrow's own parser."""
        return (_parse_iso(texts) if self.order == "ymd" else None) or self._parse(texts)

    def _parse(self, texts: pa.Array) -> Parsed:
        fields = pc.extract_regex(texts, pattern=ORDERS[self.order])
        matched = fields.is_valid().to_numpy(zero_copy_only=False)
        names = [field.name for field in fields.type]
        text = {name: pc.fill_null(column, "") for name, column in zip(names, fields.flatten(), strict=True)}
        none = pa.array([""] * len(texts), pa.string())
        year, day = _number(text["y"], 1970), _number(text.get("d", none), 1)
        if self.order in ("dmy", "mdy"):
            short = pc.equal(pc.utf8_length(text["y"]), 2).to_numpy(zero_copy_only=False)
            year = np.where(short, year + np.where(year < _TWO_DIGIT_YEARS_OF_1900, 2000, 1900), year)
        month = 3 * _number(text["q"], 1) - 2 if "q" in text else _month(text.get("m", none))
        days = _days(year, month, day)
        clock_us, clock_ok = _clock(text, len(texts))
        offsets = _offsets(text.get("z", none))
        us = days * DAY_US + clock_us - np.where(offsets == NO_OFFSET, 0, offsets).astype(np.int64) * 60_000_000
        ok = matched & clock_ok & (month >= 1) & (month <= 12) & (day >= 1) & _same_month(days, year, month)
        return Parsed(us=us, ok=ok, offsets=offsets)

    def written_as(self, text: str) -> str:
        """The form of `text` in the words of strptime."""
        match = re.match(ORDERS[self.order], text)
        if match is None or self.order == "quarter":  # strptime has no word for quarters
            return self.name
        half = bool(match.groupdict().get("p"))
        words = {"y": "%Y", "m": "%m", "d": "%d", "H": "%I" if half else "%H", "M": "%M", "S": "%S", "f": "%f",
                 "p": "%p", "z": "%z"}  # fmt: skip
        if len(match["y"]) == 2:
            words["y"] = "%y"
        if match.groupdict().get("m", "").isalpha():
            words["m"] = "%b" if len(match["m"]) == 3 else "%B"
        spans = sorted((match.span(name), name) for name, found in match.groupdict().items() if found)
        written, at = "", 0
        for (start, stop), name in spans:
            written, at = written + text[at:start] + words[name], stop
        return (written + text[at:]).strip()


class Count(TimeForm):
    """Seconds, milliseconds, microseconds or nanoseconds since 1970, in UTC."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self.name = unit

    def parse(self, texts: pa.Array) -> Parsed:
        """The times of `texts` [n]; a fraction finer than a microsecond is no time."""
        fields = pc.extract_regex(texts, pattern=r"^\s*(?P<i>[+-]?(?:\d{1,18}|[1-8]\d{18}))(?:\.(?P<f>\d*))?\s*$")
        ok = fields.is_valid().to_numpy(zero_copy_only=False)
        whole, fraction = (pc.fill_null(column, "") for column in fields.flatten())
        counts = _number(pc.replace_substring_regex(whole, r"^\+", ""), 0)
        if self.unit == "ns":
            us, ok = counts // 1000, ok & (counts % 1000 == 0) & (_number(pc.utf8_rtrim(fraction, "0"), 0) == 0)
        else:
            factor = int(UNITS[self.unit])
            digits = len(str(factor)) - 1
            rest = pc.utf8_rtrim(fraction, "0")
            ok = ok & (pc.utf8_length(rest).to_numpy(zero_copy_only=False) <= digits)
            part = _number(pc.utf8_rpad(pc.utf8_slice_codeunits(rest, 0, digits), digits, "0"), 0) if digits else 0
            with np.errstate(over="ignore"):
                us = counts * factor + np.where(counts < 0, -1, 1) * part
            ok = ok & (np.abs(counts) < MOST_US // factor)
        return Parsed(us=us, ok=ok, offsets=np.zeros(len(texts), np.int32))


class Strptime(TimeForm):
    """A format of strptime, parsed by pandas."""

    def __init__(self, written: str) -> None:
        self.name = written

    def parse(self, texts: pa.Array) -> Parsed:
        """The times of `texts` [n]. Raises ValueError if the format is none."""
        import pandas

        zoned = "%z" in self.name or "%Z" in self.name
        ends_day = pc.match_substring_regex(texts, r"\b24:00(:00)?\b").to_numpy(zero_copy_only=False)
        texts = pc.replace_substring_regex(texts, r"\b24:00(:00)?\b", r"00:00\1")
        texts = pc.replace_substring_regex(pc.utf8_trim_whitespace(texts), r"(\.\d{6})0+\b", r"\1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            times = pandas.to_datetime(texts.to_pandas(), format=self.name, errors="coerce", utc=zoned, exact=True)
        ok = times.notna().to_numpy()
        naive = times.dt.tz_localize(None) if zoned else times
        us = naive.to_numpy().astype("datetime64[us]").view(np.int64)
        us = np.where(ok, us, 0) + np.where(ends_day, DAY_US, 0)
        return Parsed(us=us, ok=ok, offsets=self._offsets(texts, zoned))

    def _offsets(self, texts: pa.Array, zoned: bool) -> np.ndarray:
        if not zoned:
            return np.full(len(texts), NO_OFFSET, np.int32)
        zones = pc.extract_regex(texts, pattern=r"(?P<z>[+-]\d{2}:?\d{2})$")
        offsets = _offsets(pc.fill_null(zones.flatten()[0], ""))
        return np.where(offsets == NO_OFFSET, 0, offsets).astype(np.int32)

    def written_as(self, text: str) -> str:
        """The format as it was given."""
        return self.name


ISO = Calendar("ymd")
CALENDARS = (ISO, Calendar("dmy"), Calendar("mdy"), Calendar("quarter"))
COUNTS = tuple(Count(unit) for unit in UNITS)
COMPACT, YEAR = Calendar("compact"), Calendar("year")


def _parse_iso(texts: pa.Array) -> Parsed | None:
    """ISO 8601 by Arrow's own parser; None if one of the texts is not in its form."""
    try:
        us = texts.cast(NAIVE).view(pa.int64()).to_numpy(zero_copy_only=True)
        return Parsed(us=us, ok=np.ones(len(us), bool), offsets=np.full(len(us), NO_OFFSET, np.int32))
    except pa.ArrowInvalid:
        pass
    try:
        us = texts.cast(ZONED).view(pa.int64()).to_numpy(zero_copy_only=True)
    except pa.ArrowInvalid:
        return None
    zones = pc.extract_regex(texts, pattern=r"(?P<z>[Zz]|[+-]\d{2}(?::?\d{2})?)\s*$").flatten()[0]
    return Parsed(us=us, ok=np.ones(len(us), bool), offsets=_offsets(pc.fill_null(zones, "Z")))


def _number(texts: pa.Array, empty: int) -> np.ndarray:
    """Digits as int64; `empty` for an empty text."""
    filled = pc.if_else(pc.equal(texts, ""), str(empty), texts)
    return np.array(filled.cast(pa.int64()).to_numpy(zero_copy_only=False))


def _month(texts: pa.Array) -> np.ndarray:
    """1 to 12, by digits or by the English name; 0 for another word."""
    digits = pc.match_substring_regex(texts, r"^\d*$")
    numbers = _number(pc.if_else(digits, texts, ""), 1)
    names = pc.index_in(pc.utf8_lower(pc.utf8_slice_codeunits(texts, 0, 3)), value_set=pa.array(MONTHS))
    named = pc.fill_null(names, -1).to_numpy(zero_copy_only=False) + 1
    return np.where(digits.to_numpy(zero_copy_only=False), numbers, named)


def _days(year: np.ndarray, month: np.ndarray, day: np.ndarray) -> np.ndarray:
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    return np.asarray(months.astype("datetime64[D]").astype(np.int64) + day - 1)


def _same_month(days: np.ndarray, year: np.ndarray, month: np.ndarray) -> np.ndarray:
    """Whether the day exists in its month."""
    months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    return np.asarray(months == (year - 1970) * 12 + month - 1)


def _clock(text: dict[str, pa.Array], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Microseconds since midnight [n], and whether they are such a time: 24:00 is the end of the day."""
    if "H" not in text:
        return np.zeros(n, np.int64), np.ones(n, bool)
    hour, minute, second = (_number(text[name], 0) for name in "HMS")
    part, ok = np.zeros(n, np.int64), np.ones(n, bool)
    if "f" in text:
        rest = pc.utf8_rtrim(text["f"], "0")
        ok &= pc.utf8_length(rest).to_numpy(zero_copy_only=False) <= 6
        part = _number(pc.utf8_rpad(pc.utf8_slice_codeunits(rest, 0, 6), 6, "0"), 0)
    if "p" in text:
        letter = pc.utf8_lower(pc.utf8_slice_codeunits(text["p"], 0, 1))
        morning, evening = (pc.equal(letter, half).to_numpy(zero_copy_only=False) for half in "ap")
        ok &= ~(morning | evening) | ((hour >= 1) & (hour <= 12))
        hour = np.where(morning | evening, hour % 12 + 12 * evening, hour)
    ends_day = (hour == 24) & (minute == 0) & (second == 0) & (part == 0)
    ok &= ((hour < 24) | ends_day) & (minute < 60) & (second < 60)
    return ((hour * 60 + minute) * 60 + second) * 1_000_000 + part, ok


def _offsets(zones: pa.Array) -> np.ndarray:
    """Minutes east of UTC for Z, UTC, +02, +0200 and +02:00; NO_OFFSET for an empty text."""
    encoded = zones.dictionary_encode()
    known = np.array([_offset(zone) for zone in encoded.dictionary.to_pylist()], np.int32)
    return known[encoded.indices.to_numpy(zero_copy_only=False)] if len(known) else np.zeros(0, np.int32)


def _offset(zone: str) -> int:
    if not zone:
        return NO_OFFSET
    found = re.search(r"([+-])(\d{1,2}):?(\d{2})?$", zone)
    if found is None:
        return 0
    minutes = 60 * int(found[2]) + int(found[3] or 0)
    return -minutes if found[1] == "-" else minutes
