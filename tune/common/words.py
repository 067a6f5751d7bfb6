"""Grammar of numbers."""

from __future__ import annotations


def counted(count: int | str, noun: str) -> str:
    """1 pair; 2,000 pairs. A text, such as "(swept)", stands as it is: (swept) pairs."""
    number = f"{count:,}" if isinstance(count, int) else count
    return f"{number} {noun}{'' if number == '1' else 's'}"
