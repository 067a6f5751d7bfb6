"""A sweep may be named by its id, the beginning of one, its name, or `last`; what could be several is never guessed."""

from __future__ import annotations

import pytest

from tune.common.errors import WrongInput
from tune.common.ids import sweep_meant

NEWEST, NAMED, OLDER, OTHER = KNOWN = (
    "pruning-20261130-210156-b96b",
    "patch_size-20261130-090000-aaaa",
    "pruning-20261129-120000-cccc",
    "pruning-mine-20261128-120000-dddd",
)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (OLDER, OLDER),
        ("last", NEWEST),
        ("pruning", NEWEST),
        ("pruning-mine", OTHER),
        ("patch_size", NAMED),
        ("patch", NAMED),
        ("pruning-20261129", OLDER),
        ("prunning", None),
        ("", None),
    ],
)
def test_what_a_word_means(given: str, meant: str | None) -> None:
    assert sweep_meant(given, KNOWN) == meant


def test_an_id_that_begins_another_is_itself() -> None:
    assert sweep_meant(NEWEST, (f"{NEWEST}-2", NEWEST)) == NEWEST


def test_the_beginning_of_several_is_an_error_that_names_them_and_the_ways() -> None:
    with pytest.raises(WrongInput, match=rf"'pruning-2026112' is the beginning of .*{OLDER}.*, or last") as error:
        sweep_meant("pruning-2026112", (*KNOWN, "pruning-20261128-120000-eeee"))
    assert NEWEST not in str(error.value)


def test_without_a_sweep_last_means_none() -> None:
    assert sweep_meant("last", ()) is None
