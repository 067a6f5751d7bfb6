"""What was done to the data of a sweep, from the tag of its run: for the tables, the notes and the JSON.

The driver writes the tag when the sweep begins. Sweeps of earlier versions have none: then nothing is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from data_pipeline.series.protocol import how_lines, part_text, shape_text
from tune.plan.placement import TAG as PLACEMENT
from tune.plan.placement import USUAL
from tune.tracking.reader import SweepRecord

TAG = "data"
FILE = "data.json"  # of the sweep's run: the protocol as a whole
MOST_LETTERS = 4800  # of a tag, which MLflow's databases cut at 5000
CAN_BE_LEFT_OUT = ("notes", "windows")  # in this order, where a tag is too long


def protocol_tag(protocol: Mapping[str, Any]) -> str:
    """The protocol as the text of a tag: its last notes, then its windows are left out if it is too long."""
    content = json.loads(json.dumps(protocol))
    for name in CAN_BE_LEFT_OUT:
        every = list(content[name])
        for kept in range(len(every), -1, -1):
            left_out = len(every) - kept
            content[name] = every[:kept]
            if name == "notes" and left_out:
                content[name].append(f"{left_out} notes more are in the sweep's file {FILE}")
            text = json.dumps(content)
            if len(text) <= MOST_LETTERS:
                return text
    return json.dumps(content)


def protocol_params(protocol: Mapping[str, Any]) -> dict[str, str]:
    """Params of the sweep's run: how its data were split and scaled."""
    split = protocol["split"]
    parts = {f"data.split.{name}": part_text(name, part, ()) for name, part in split["parts"].items()}
    zone = {} if protocol["zone"] is None else {"data.zone": protocol["zone"]}
    return {
        "data.split.rule": split["rule"],
        **parts,
        "data.one_row_per": protocol["step"],
        "data.scaling": protocol["scaling"],
        **zone,
    }


def protocol_of_sweep(record: SweepRecord) -> dict[str, Any] | None:
    """The protocol that the sweep recorded; None if it recorded none, or not as a whole."""
    return _protocol(record.tags.get(TAG))


def _protocol(text: str | None) -> dict[str, Any] | None:
    try:
        content = json.loads(text or "null")
    except ValueError:
        return None
    return content if isinstance(content, dict) and "split" in content else None


def protocols_of_sweep(record: SweepRecord) -> list[dict[str, Any]]:
    """That of the sweep, or of each data set of a table."""
    every = [TAG, *sorted(name for name in record.tags if name.startswith(f"{TAG}."))]
    return [content for name in every if (content := _protocol(record.tags.get(name))) is not None]


def data_notes(record: SweepRecord) -> list[str]:
    """How the data were read, split and scaled, in one line, and a line for each thing noted."""
    protocol = protocol_of_sweep(record)
    if protocol is None:
        return _placement_note(record)
    windows = protocol["windows"] if len(protocol["windows"]) == 1 else ()
    named = [f"{name} {part_text(name, part, windows)}" for name, part in protocol["split"]["parts"].items()]
    rule, *others = how_lines({**protocol, "reading": {}})
    return [
        f"Data: {shape_text(protocol)}; {rule}: {'; '.join(named)}; {others[0]}.",
        *(f"Data, {line}." for line in others[1:]),
        *_placement_note(record),
    ]


def _placement_note(record: SweepRecord) -> list[str]:
    """The feed that was chosen by measuring and why, unless it is the usual one."""
    text = record.tags.get(PLACEMENT, "")
    return [f"Feed {text}."] if text and not text.startswith(f"{USUAL}:") else []
