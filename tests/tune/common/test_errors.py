"""The wording of errors."""

from __future__ import annotations

import pytest

from tune.common.errors import first_line


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (ValueError("\n  the node is gone \nTraceback"), "the node is gone"),
        (ValueError(), "ValueError"),
        ("\n\n first \nsecond", "first"),
        ("", ""),
        ("x" * 400, "x" * 300),
    ],
)
def test_the_first_line_is_the_first_that_is_not_empty(message: BaseException | str, line: str) -> None:
    assert first_line(message) == line
