"""Parameters come back from their texts as they were, and stay readable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune.storage import open_sweep
from tune.storage.outbox import Outbox
from tune.storage.params import FORMAT, format_of, from_text, param_texts, stored_params, to_text
from tune.storage.trial_log import OutboxIndex
from tune.tracking.tracker import Tracker

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=5,
)


@given(JSON)
def test_any_json_value_is_read_back_as_it_was(value: Any) -> None:
    again = from_text(to_text(value))
    assert again == value and type(again) is type(value)


@given(JSON)
def test_a_string_that_looks_like_a_value_is_read_back_as_a_string(value: Any) -> None:
    assert from_text(to_text(to_text(value))) == to_text(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("patch", "patch"),
        ("/data/a b.csv", "/data/a b.csv"),
        ("", ""),
        ("12", '"12"'),
        ("true", '"true"'),
        ("null", '"null"'),
        ("NaN", '"NaN"'),
        ('"quoted"', '"\\"quoted\\""'),
        ("[" * 100_000, "[" * 100_000),
        (1e-5, "1e-05"),
        (64, "64"),
        (True, "true"),
        ([4, 8], "[4, 8]"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_string_is_quoted_only_where_it_would_be_read_as_another_value(value: Any, text: str) -> None:
    assert to_text(value) == text
    assert from_text(text) == value


def test_an_outbox_record_holds_values_and_mlflow_gets_no_none() -> None:
    params = {"train.patience": None, "model.pre_norm": True, "data.timestamp_column": "2024", "pruning.heads": [4]}
    record = {"format": FORMAT, "params": stored_params(params, FORMAT)}
    assert record["params"] == params
    assert param_texts(record) == {"model.pre_norm": "true", "data.timestamp_column": '"2024"', "pruning.heads": "[4]"}


def test_a_record_without_a_format_holds_texts_of_the_first_one() -> None:
    params = stored_params({"train.patience": None, "model.pre_norm": True, "pruning.heads": [4]}, 1)
    assert params == {"model.pre_norm": "True", "pruning.heads": "[4]"}
    assert format_of({"params": params}) == 1
    assert param_texts({"params": params}) == params


def _tracker(path: Path, uri: str) -> Tracker:
    return Tracker(outbox_path=path, tracking_uri=uri, experiment="e", artifact_root=None)


@pytest.mark.parametrize(("began_in", "stored"), [(1, "True"), (2, True)])
def test_a_sweep_goes_on_in_the_format_in_which_it_began(
    began_in: int, stored: Any, tmp_path: Path, new_store: str
) -> None:
    given: dict[str, Any] = {"sweep_id": "s", "name": "s", "tags": {}, "files": {}, "params": {"model.pre_norm": True}}
    for versions in ({"version": began_in}, {}):  # the second time without a choice
        with _tracker(tmp_path / "outbox.jsonl", new_store) as tracker:
            tracker.begin_sweep(**given, **versions)
    outbox = Outbox(tmp_path / "outbox.jsonl")
    records = [record for record, _ in outbox.read()]
    outbox.close()
    assert [(record.get("format"), record["params"]["model.pre_norm"]) for record in records] == [
        (None if began_in == 1 else began_in, stored)
    ] * 2
    index = OutboxIndex()
    index.absorb(records[0])
    assert index.format == began_in


def test_a_new_sweep_says_its_format_and_one_that_says_none_has_the_first(tmp_path: Path) -> None:
    sweep = open_sweep.create(tmp_path, "pruning", {"key": "k", "created_s": 1.0, "code": {}})
    assert sweep.read()["format"] == sweep.format == FORMAT
    content = sweep.read()
    del content["format"]
    sweep.path.joinpath("sweep.json").write_text(json.dumps(content))
    assert sweep.format == 1


def test_a_sweep_of_a_later_format_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = open_sweep.create(tmp_path, "pruning", {"key": "k", "created_s": 1.0, "code": {}})
    sweep.update(format=FORMAT + 1)
    assert open_sweep.every(tmp_path) == []
    assert f"its format is {FORMAT + 1}, of a later version" in capsys.readouterr().err
