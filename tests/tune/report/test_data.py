"""What a report says of the data, from the tag of the sweep's run; nothing of a sweep that has none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from report_kit import sweep, trial

from tune.report.data import MOST_LETTERS, TAG, data_notes, protocol_of_sweep, protocol_params, protocol_tag
from tune.report.render.markdown import markdown
from tune.report.render.page import html_page
from tune.report.tables import closing_tables
from tune.report.values import as_json
from tune.tracking.ui_notes import sweep_note

PARTS = {
    name: {"rows": rows, "first": f"2020-01-0{day} 00:00:00", "last": f"2020-01-0{day} 23:00:00"}
    for day, (name, rows) in enumerate({"train": 8640, "validation": 2880, "test": 2880}.items(), 1)
}


def protocol(**changes: Any) -> dict[str, Any]:
    return {
        "dataset": "x.csv", "source_sha256": "ab", "rows": 17420, "columns": 7, "series": 1, "step": "60 min",
        "zone": None, "split": {"rule": "12/4/4 months of 30 days", "parts": PARTS, "unused_rows": 3020},
        "scaling": "each column to mean 0", "reading": {"separator": "comma"}, "notes": ["constant: a", "2 gaps"],
        "windows": [{"context_length": 24, "prediction_length": 6, "train": 8611, "validation": 2875, "test": None}],
    } | changes  # fmt: skip


def recorded(**changes: Any) -> Any:
    return sweep(trial(), **{TAG: protocol_tag(protocol(**changes))})


def test_the_notes_say_split_scaling_and_each_note() -> None:
    first, *others = data_notes(recorded())
    for said in ("17,420 rows x 7 columns", "split 12/4/4 months of 30 days; 3,020 rows in no split: train 8,640 rows",
                 "8,611 windows of 24 + 6", "scaled: each column to mean 0"):  # fmt: skip
        assert said in first
    assert others == ["Data, note: constant: a.", "Data, note: 2 gaps."]


def test_every_form_of_the_report_has_a_section_on_the_data() -> None:
    record = recorded()
    assert closing_tables(record, None)[0].title == "Data"
    assert as_json(record)["data"] == protocol()
    for text in (markdown(record), html_page(record)):
        assert "<summary>Data</summary>" in text or "## Data" in text
        for said in ("8,640", "2020-01-03 23:00:00", "windows of 24 + 6", "constant: a"):
            assert said in text


@pytest.mark.parametrize("tags", [{}, {TAG: "null"}, {TAG: '{"split": [shortened]'}, {TAG: "[]"}])
def test_nothing_is_said_of_a_sweep_that_recorded_none(tags: dict[str, str]) -> None:
    record = sweep(trial(), **tags)
    assert data_notes(record) == [] and as_json(record)["data"] is None
    assert all(table.title != "Data" for table in closing_tables(record, None))


@pytest.mark.parametrize("notes", [0, 30, 300])
@pytest.mark.parametrize("lengths", [1, 400])
def test_a_tag_is_never_longer_than_the_store_keeps_and_says_what_it_leaves_out(notes: int, lengths: int) -> None:
    many = {"notes": [f"note {at} " + "x" * 90 for at in range(notes)], "windows": protocol()["windows"] * lengths}
    tag = protocol_tag(protocol(**many))
    assert len(tag) <= MOST_LETTERS
    kept = protocol_of_sweep(sweep(trial(), **{TAG: tag}))
    assert kept is not None and kept["split"] == protocol()["split"]
    if len(kept["notes"]) < notes:
        assert "notes more are in the sweep's file data.json" in kept["notes"][-1]


def test_the_params_of_the_sweeps_run_say_the_split() -> None:
    params = protocol_params(protocol(zone="Europe/Berlin"))
    assert params["data.split.rule"] == "12/4/4 months of 30 days" and params["data.zone"] == "Europe/Berlin"
    assert params["data.split.test"] == "2,880 rows, 2020-01-03 00:00:00 to 2020-01-03 23:00:00"
    assert all(isinstance(value, str) and value for value in params.values())


def test_the_description_in_the_ui_says_how_the_data_were_split() -> None:
    record = {"tags": {TAG: protocol_tag(protocol())}, "sweep_id": "s"}
    assert "split 12/4/4 months of 30 days: rows of train 8,640" in sweep_note(record, "1", "2")
    assert "Data" not in sweep_note({"tags": {TAG: json.dumps([])}, "sweep_id": "s"}, "1", "2")
