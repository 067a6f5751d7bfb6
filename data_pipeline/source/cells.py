"""Cells of text as numbers: spellings of a missing value, decimal marks and marks between thousands.

Shapes: n rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_WORDS = ("na", "n/a", "#n/a", "#na", "<na>", "nan", "null", "none", "nil", "#n/a n/a", "#nv", "nat", "missing")
MISSING = tuple(
    dict.fromkeys(
        ["", " ", "?", "-", "--", "\u2013", "\u2014", ".", "\\N", "-1.#IND", "1.#IND", "-1.#QNAN", "1.#QNAN"]
        + [form for word in _WORDS for form in (word, word.upper(), word.title(), f"-{word}")]
        + ["NaN", "-NaN", "NaT", "N/a"]
    )
)
"""How people write that a number is missing: pandas' spellings, those of other programs, and marks such as ? and -."""
USUAL_MISSING = ("", "nan", "NaN", "NA", "null", "NULL")
LONGEST_MISSING = max(map(len, MISSING))
_MISSING = frozenset(MISSING)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)", re.IGNORECASE)
_NUMBER = rf"^(?i:{NUMBER.pattern})$"


@dataclass(frozen=True, kw_only=True)
class NumberMarks:
    """The marks in numbers."""

    decimal: str = "."
    thousands: str | None = None
    """Between groups of three digits; None: there is none."""

    def plain(self, text: str) -> str:
        """`text` with a decimal point and without marks between thousands, if its marks are in their places."""
        text = text.strip()
        if self.thousands is not None and self._grouped.fullmatch(text):
            text = text.replace(self.thousands, "")
        elif self.decimal != "." and "." in text:
            return text  # no number with a decimal comma: the caller refuses it
        return text.replace(self.decimal, ".")

    @property
    def _grouped(self) -> re.Pattern[str]:
        thousands, decimal = re.escape(self.thousands or ""), re.escape(self.decimal)
        return re.compile(rf"[+-]?\d{{1,3}}({thousands}\d{{3}})+({decimal}\d*)?")

    def is_number(self, text: str) -> bool:
        """Whether `text` is a number with these marks."""
        text = text.strip()
        if self.decimal != "." and self.thousands != "." and "." in text:
            return False
        plain = self.plain(text)
        return NUMBER.fullmatch(plain) is not None

    def parse(self, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Numbers [n] float64, NaN where a value is missing, and bool [n]: the cells that are none of both."""
        trimmed = pc.utf8_trim_whitespace(texts)
        missing = pc.or_(pc.is_null(trimmed), pc.fill_null(pc.is_in(trimmed, value_set=pa.array(MISSING)), True))
        plain = pc.if_else(missing, None, trimmed)
        alien = None
        if self.thousands is not None:
            grouped = pc.match_substring_regex(plain, f"^{self._grouped.pattern}$")
            plain = pc.if_else(grouped, pc.replace_substring(plain, self.thousands, ""), plain)
        if self.decimal != ".":
            alien = pc.match_substring(plain, ".")
            plain = pc.replace_substring(plain, self.decimal, ".", max_replacements=1)
        good = pc.match_substring_regex(plain, _NUMBER)
        if alien is not None:
            good = pc.and_not(good, alien)
        bad = np.array(pc.fill_null(pc.invert(good), False).to_numpy(zero_copy_only=False))
        numbers = pc.if_else(pc.fill_null(good, False), plain, None).cast(pa.float64())
        return np.array(numbers.to_numpy(zero_copy_only=False)), bad


def is_missing(text: str) -> bool:
    """Whether `text` says that a number is missing."""
    return text.strip() in _MISSING
