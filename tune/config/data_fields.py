"""The types of fields of the data that a person writes in a form of their own."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from data_pipeline.split_rule import checked_split


def _as_names(value: Any) -> Any:
    """Names as a person writes them: `a,b`, or a list. A name may be a number, such as 2024."""
    if isinstance(value, int | str) and not isinstance(value, bool):
        return tuple(name.strip() for name in str(value).split(","))
    return tuple(str(name) for name in value) if isinstance(value, list) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_names)]
Split = Annotated[str | None, AfterValidator(checked_split)]
