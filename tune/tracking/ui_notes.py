"""What the MLflow UI shows of a sweep: the descriptions of experiment and sweep, and a saved view.

A saved view is an experiment tag that the UI's menu `Views` lists: columns, search and grouping under one name.
"""

from __future__ import annotations

import json

from tune.storage.outbox import Record
from tune.tracking.ui_links import runs_path, sweep_path

NOTE = "mlflow.note.content"  # the UI renders it as Markdown
LINKS = "[Arms side by side, mean over seeds]("  # begins the line of links in a sweep's note
RESULT = "\n\n## Result\n\n"  # heads the table in a sweep's note
KIND = ("mlflow.experimentKind", "custom_model_development")  # so that the UI shows training, and no GenAI page
_BLANK_LINE, _NEXT_HEADING = "\n\n", "\n\n## "
_VIEW = "mlflow.sharedViewState."
_RESULTS = ("metrics.`final/val_mse`", "metrics.`final/test_mse`", "metrics.`final/epoch_all_windows_s`")
EXPERIMENT_NOTE = """\
Each run at the top is a **sweep**; its children are its trials, one for each arm and seed. The description of a sweep
says how to compare its arms; the menu **Views** holds a prepared view of each sweep, newest first.
"""


def sweep_note(record: Record, experiment_id: str, run_id: str) -> str:
    """The Markdown description of the sweep that a `begin_sweep` record opens. Links stay within the UI."""
    tags = record["tags"]
    swept = ", ".join(f"`{name}`" for name in tags.get("swept", "").split(",") if name)
    chart, table = (sweep_path(experiment_id, record["sweep_id"], compareRunsMode=mode) for mode in ("CHART", "TABLE"))
    report = runs_path(experiment_id).replace("/runs?", f"/runs/{run_id}/artifacts/report.html?")
    lines = [
        # First, and in one line: the UI folds a description after about four lines.
        f"{LINKS}{chart}) · [Trials as a table]({table}) · [Report]({report}) (once the sweep has ended)\n",
        f"**{tags['question']}**\n" if "question" in tags else "",
        f"Arms differ in {swept}." if swept else "",
        f"They are compared with the baseline `{tags['baseline']}`, trial by trial of equal `train.seed` and device."
        if "baseline" in tags
        else "",
        _data_line(tags.get("data")),
        "To hold single trials against each other, expand this run in the list, tick them and press **Compare**.\n",
        "| here | is |\n|---|---|",
        "| `arm_speedup/ARM` | times the arm trains faster than the baseline; `_low` and `_high` bound it |",
        "| `arm_epoch_s/ARM` | seconds of training an epoch of all training windows, mean over seeds |",
        "| `arm_val_mse/ARM`, `arm_test_mse/ARM` | errors at the best epoch, mean over seeds |",
    ]
    return "\n".join(line for line in lines if line)


def with_result(note: str, report: str) -> str:
    """A sweep's note with the answer of `report.md` before the links, and its table below; an earlier one is replaced.

    A note without the line of links was rewritten by a person: the answer stands below it.
    """
    note = note.partition(RESULT)[0]
    found = note.find(LINKS)
    parts = report.split(_BLANK_LINE, 3)  # title, question, answer, rest
    if found < 0 or len(parts) < 4:
        result = report.split(_BLANK_LINE, 2)[-1]
        return f"{note}{RESULT}{result.partition(_NEXT_HEADING)[0]}"
    _, _, answer, rest = parts
    return f"{answer}{_BLANK_LINE}{note[found:]}{RESULT}{rest.partition(_NEXT_HEADING)[0]}"


def _data_line(tag: str | None) -> str:
    """How the data were split, from the tag that holds their protocol; empty without one."""
    try:
        content = json.loads(tag or "null")
        split, notes = content["split"], content["notes"]
        rows = ", ".join(f"{name} {part['rows']:,}" for name, part in split["parts"].items())
    except (ValueError, TypeError, KeyError):
        return ""
    noted = f"; {len(notes)} notes" if notes else ""
    return f"Data are split {split['rule']}: rows of {rows}{noted}; all of it is in the tag `data`.\n"


def sweep_view(record: Record) -> tuple[str, str]:
    """Key and value of the experiment tag that is this sweep's saved view."""
    swept = [f"params.`{name}`" for name in record["tags"].get("swept", "").split(",") if name]
    columns = [*swept, "params.`train.seed`", *_RESULTS, "tags.`status`"]
    state = {
        "searchFilter": f"tags.sweep_id = '{record['sweep_id']}' and tags.role = 'trial'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "arm"}]},
    }
    made = record["time_ms"]
    view = {"name": record["name"], "createdAt": made, "updatedAt": made, "state": json.dumps(state)}
    return _VIEW + record["sweep_id"], json.dumps(view)
