"""How parameters of trials and sweeps are stored, and the version of that format.

Format 1: `str()` of each value that is not None. Its records name no format.
Format 2: JSON values in the outbox. MLflow keeps texts only and gets one for each value that is not None.

A sweep keeps the format in which it began, as MLflow refuses to replace a parameter's text by another one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

FORMAT = 2  # of new sweeps


def format_of(content: Mapping[str, Any]) -> int:
    """The format of a sweep.json, an outbox record or the tags of a sweep's MLflow run."""
    return int(content.get("format", 1))


def stored_params(params: Mapping[str, Any], version: int) -> dict[str, Any]:
    """The parameters as an outbox record of format `version` holds them."""
    if version == 1:
        return {name: str(value) for name, value in params.items() if value is not None}
    return dict(params)


def param_texts(record: Mapping[str, Any]) -> dict[str, str]:
    """The parameters of an outbox record as MLflow gets them."""
    params: dict[str, Any] = record["params"]
    if format_of(record) == 1:
        return params
    return {name: to_text(value) for name, value in params.items() if value is not None}


def to_text(value: Any) -> str:
    """A JSON value as a readable text: a string is quoted only if it would be read back as another value.

    `patch` stays unquoted, also for searches in MLflow; the strings `12`, `true`, `null` and `[1]` are quoted.
    """
    if not isinstance(value, str):
        return json.dumps(value)
    return json.dumps(value) if _is_json(value) else value


def from_text(text: str) -> Any:
    """The value whose text this is; a text that is not JSON is a string."""
    return json.loads(text) if _is_json(text) else text


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):  # ValueError also of a number with thousands of digits
        return False
    return True
