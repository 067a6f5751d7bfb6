"""How often each arm runs: so many blocks, or `auto`: until looks have seen enough of it (tune/stats/looks.py)."""

from __future__ import annotations

from typing import Final, Literal

from tune.common.errors import WrongInput
from tune.config.written_numbers import whole_number
from tune.stats.looks import FIRST_BLOCKS, MOST_BLOCKS

AUTO: Final = "auto"
Repeats = int | Literal["auto"]  # blocks, each with a seed of its own


def read_repeats(text: str) -> Repeats:
    """What `--repeats` or `repeats:` gives. WrongInput for what is neither a whole number nor `auto`."""
    if text == AUTO:
        return AUTO
    try:
        return whole_number(text)
    except WrongInput as error:
        raise WrongInput(f"{error}, or {AUTO}") from None


def most_blocks(repeats: Repeats) -> int:
    """The blocks that a plan holds: with `auto`, those of the last look."""
    return MOST_BLOCKS if repeats == AUTO else repeats


def blocks_text(repeats: Repeats) -> str:
    """5 blocks; 3 to 10 blocks"""
    if repeats == AUTO:
        return f"{FIRST_BLOCKS} to {MOST_BLOCKS} blocks"
    return f"{repeats} block{'' if repeats == 1 else 's'}"
