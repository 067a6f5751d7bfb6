"""--repeats: a number of blocks, or auto."""

from __future__ import annotations

import pytest

from tune.common.errors import WrongInput
from tune.config.repeats import AUTO, blocks_text, most_blocks, read_repeats


@pytest.mark.parametrize(("text", "repeats"), [("auto", AUTO), ("5", 5), ("1e1", 10), ("0", 0)])
def test_a_number_or_auto_is_read(text: str, repeats: int | str) -> None:
    assert read_repeats(text) == repeats


@pytest.mark.parametrize("text", ["Auto", "", "1.5", "auto 5", "010"])
def test_anything_else_is_wrong_and_says_what_is_allowed(text: str) -> None:
    with pytest.raises(WrongInput, match="or auto$"):
        read_repeats(text)


def test_auto_plans_the_blocks_of_the_last_look_and_says_how_few_there_may_be() -> None:
    assert (most_blocks(AUTO), most_blocks(7)) == (10, 7)
    assert [blocks_text(repeats) for repeats in (AUTO, 1, 7)] == ["3 to 10 blocks", "1 block", "7 blocks"]
