"""Numbers as people write them: 64, 1e-4, 1E-4, .5, +3, 1_000, 0x10."""

from __future__ import annotations

import re
from typing import Any

from tune.common.errors import WrongInput, shortened

_DIGITS = r"[0-9](?:_?[0-9])*"
_WHOLE = re.compile(rf"[-+]?(?:{_DIGITS}|0[xX][0-9a-fA-F](?:_?[0-9a-fA-F])*|0[oO][0-7]+|0[bB][01]+)")
_REAL = re.compile(rf"[-+]?(?:{_DIGITS}\.?(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"([-+]?)\.?(?:(inf|infinity)|nan)", re.IGNORECASE)
_AMBIGUOUS = re.compile(r"[-+]?(?:0_?[0-9][0-9_]*|[0-9][0-9_]*(?::[0-5]?[0-9])+)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?")


def number_or_text(text: str) -> int | float | str:
    """The number that a person wrote, or the text itself. Raises WrongInput for 010 and 1:30."""
    if _AMBIGUOUS.fullmatch(text):
        raise WrongInput(
            f"{shortened(text)} is another number in YAML 1.1 than it seems; write it without zeros before it and "
            "without colons"
        )
    try:
        if _WHOLE.fullmatch(text):
            return int(text, 0)
        if _REAL.fullmatch(text):
            return float(text)
    except ValueError:  # thousands of digits
        return text
    if endless := _NOT_FINITE.fullmatch(text):
        return float(endless[1] + ("inf" if endless[2] else "nan"))
    return text


def without_fraction(value: Any) -> Any:
    """1e3 is a whole number."""
    if isinstance(value, list):
        return [without_fraction(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def whole_number(text: str) -> int:
    """The whole number that a person wrote. Raises WrongInput for anything else."""
    value = without_fraction(number_or_text(text.strip()))
    if not isinstance(value, int):
        raise WrongInput(f"{shortened(text)} is not a whole number; give one, such as 3")
    return value


def number(text: str) -> float:
    """The number that a person wrote, finite or not. Raises WrongInput for anything else."""
    value = number_or_text(text.strip())
    if isinstance(value, str):
        raise WrongInput(f"{shortened(text)} is not a number; give one, such as 0.4")
    return float(value)
