"""The HTML report on a real MLflow store: what it shows, that it needs nothing else, that it escapes what it shows."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_kit import timed
from tracking_kit import EXPERIMENT, MakeTracker, end, opened_fixture, settle, shared_store_fixture, sweep_id_fixture

from tune.commands import report
from tune.commands.report import parser as report_parser
from tune.common.errors import WrongInput
from tune.console import output
from tune.measure.bottleneck import PARTS
from tune.report.arms import COLUMNS, arm_rows
from tune.report.charts import FRONT_PX, POINT_PX, pareto_front
from tune.report.render import page as report_html
from tune.report.render.page import html_page, script_json
from tune.tracking.reader import SweepRecord, read_sweep
from tune.tracking.tracker import Tracker

__all__ = ["opened_fixture", "shared_store_fixture", "sweep_id_fixture"]
ROOT = Path(__file__).resolve().parents[4]
EVIL = "</script><script>alert(1)</script>"
EPOCHS = 4
ENVIRONMENT = {"device": {"name": f"GPU {EVIL}"}, "versions": {"torch": "2.11.0"}, "host_cpus": 8}


def _begin(tracker: Tracker, sweep_id: str, baseline: str = "none") -> None:
    tags = {"sweep": "pruning", "baseline": baseline, "question": "How <b>fast</b>?", "arms": f"{baseline},fast"}
    tags |= {"device": "NVIDIA H100", "environment": json.dumps(ENVIRONMENT)}
    tracker.begin_sweep(sweep_id=sweep_id, name=sweep_id, tags=tags, params={"trials": 2}, files={})


def _plan(tracker: Tracker, arm: str, seed: int) -> str:
    trial_id = f"pruning-{'evil' if EVIL in arm else arm}-s{seed}"
    tags = {"arm": arm, "seed": str(seed)}
    tracker.plan_trial(trial_id=trial_id, run_name=trial_id, params={"train.epochs": EPOCHS}, tags=tags)
    return trial_id


def _ran(tracker: Tracker, arm: str, seed: int, s: float, val_mse: float) -> None:
    trial_id = _plan(tracker, arm, seed)
    for epoch in range(1, EPOCHS + 1):
        metrics = {f"time/{part}_s": 99.0 if epoch == 1 else s / len(PARTS) for part in PARTS}
        metrics |= {"loss/val_mse": val_mse + 1 / epoch, "loss/train_mse": 1 / epoch}
        tracker.log_epoch(trial_id=trial_id, epoch=epoch, metrics=metrics, timestamp_ms=1_700_000_000_000 + epoch)
    final = {**timed(s), "final/val_mse": val_mse, "final/test_mse": 0.4}
    tags = {"timing_valid": "true", "gpu_uuid": "GPU-a", "device": "NVIDIA H100"}
    end(tracker, trial_id, metrics=final, tags=tags)


@pytest.fixture(name="record")
def record_fixture(opened: MakeTracker, shared_store: str, sweep_id: str) -> SweepRecord:
    """Three pairs of two arms, a trial without a partner, and failed trials, one of them named like a script."""
    tracker = opened(begin=False)
    _begin(tracker, sweep_id)
    for seed in (1, 2, 3):
        _ran(tracker, "none", seed, 2.0 + seed / 100, 0.3)
        _ran(tracker, "fast", seed, 1.0 + seed / 50, 0.4)
    _ran(tracker, EVIL, 1, 3.0, 0.5)
    end(tracker, _plan(tracker, EVIL, 2), "failed", reason=f"it said {EVIL}")
    end(tracker, _plan(tracker, "flash", 1), "unsupported", reason="needs the package 'flash_attn' & a GPU")
    settle(tracker)
    return read_sweep(shared_store, EXPERIMENT, sweep_id)


@pytest.fixture(name="page")
def page_fixture(record: SweepRecord) -> str:
    return html_page(record)


class _Elements(HTMLParser):
    """What a browser sees: the elements, and the text inside each script."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.text += data


def _charts(page: str) -> dict[str, dict[str, Any]]:
    return {chart["key"]: chart for chart in json.loads(_Elements(page).scripts[0])}


def test_the_page_holds_every_cell_of_the_table_each_reason_and_the_environment(record: SweepRecord, page: str) -> None:
    for row in arm_rows(record):
        for _, cell in COLUMNS:
            assert f">{escape(cell(row))}</td>".replace(" %", "\u00a0%") in page
    text = _Elements(page).text
    for trial in record.trials:
        assert trial.reason in text
        if trial.status != "done":
            assert trial.trial_id in text
    for text_shown in ("How <b>fast</b>?", "versions.torch", "2.11.0", "host_cpus", f"GPU {EVIL}"):
        assert text_shown in text


def test_numbers_are_aligned_right(page: str) -> None:
    assert '<td class="number">0.3000</td>' in page and ">fast</td>" in page


def test_a_column_of_long_texts_gets_room_and_a_number_keeps_its_percent_sign(page: str) -> None:
    (accuracy,) = {cell for cell in re.findall(r"<td[^>]*>[^<]*</td>", page) if "worse" in cell and "at least" in cell}
    assert accuracy.startswith('<td class="long">worse (+33\u00a0%, at least +33\u00a0%)')
    assert "td.long { min-width: 13rem; }" in page and '<td class="long">done</td>' not in page


def test_every_text_of_the_store_is_escaped_in_the_page(page: str) -> None:
    assert EVIL not in page and "alert(1)</script" not in page and "<b>" not in page.replace(_plotly(), "")
    assert len(_Elements(page).scripts) == 3  # the data, plotly.js, what draws


def test_what_plotly_would_read_as_html_is_escaped_once_more(page: str) -> None:
    names = {trace["name"] for chart in _charts(page).values() for trace in chart["data"]}
    assert escape(EVIL) in names and not any("<" in name for name in names)


def test_json_in_a_script_holds_no_character_that_ends_it() -> None:
    content = {"name": f"{EVIL}<!--&lt;", "x": [1.5, None]}
    assert not set("<>&") & set(script_json(content))
    assert json.loads(script_json(content)) == content


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def test_the_page_is_self_contained_and_may_load_nothing(page: str) -> None:
    assert page.count(_plotly()) == 1
    elements = _Elements(page).elements
    assert not [(tag, given) for tag, given in elements if {"src", "href"} & given.keys() or tag == "link"]
    assert not re.search(r"https?:|@import|url\(", page.replace(_plotly(), ""))
    policy = next(given["content"] for tag, given in elements if "http-equiv" in given)
    assert policy is not None and policy.startswith("default-src 'none';") and "http" not in policy


def test_plotly_accepts_every_chart(page: str) -> None:
    import plotly.graph_objects as go

    for chart in _charts(page).values():
        go.Figure({"data": chart["data"], "layout": chart["layout"]})  # raises for a property that it does not know


@pytest.mark.parametrize(("key", "first"), [("curves", 1.3), ("training", 1.0)])
def test_a_curve_has_a_point_an_epoch(page: str, key: str, first: float) -> None:
    data = _charts(page)[key]["data"]
    assert len(data) == 7 and data[0]["y"][0] == pytest.approx(first)
    assert all(trace["x"] == list(range(1, EPOCHS + 1)) and len(trace["y"]) == EPOCHS for trace in data)
    assert [trace["name"] for trace in data if trace["showlegend"]] == ["none", "fast", escape(EVIL)]
    assert len({trace["line"]["color"] for trace in data if trace["name"] == "fast"}) == 1


def test_a_speed_up_has_the_tables_interval_and_none_under_three_pairs(record: SweepRecord, page: str) -> None:
    traces = {trace["name"]: trace for trace in _charts(page)["speed"]["data"]}
    assert traces.keys() == {"fast", escape(EVIL)}
    compared = next(row.comparison for row in arm_rows(record) if row.arm == "fast")
    assert compared is not None and compared.interval is not None
    (ratio,), error = traces["fast"]["x"], traces["fast"]["error_x"]
    assert ratio == compared.ratio
    assert (ratio - error["arrayminus"][0], ratio + error["array"][0]) == pytest.approx(compared.interval)
    assert "error_x" not in traces[escape(EVIL)]


def test_the_front_is_marked_and_no_axis_of_the_scatter_is_reversed(page: str) -> None:
    chart = _charts(page)["pareto"]
    sizes = {trace["name"]: trace["marker"]["size"] for trace in chart["data"] if "marker" in trace}
    assert sizes == {"none": FRONT_PX, "fast": FRONT_PX, escape(EVIL): POINT_PX} and FRONT_PX > POINT_PX
    line = next(trace for trace in chart["data"] if trace["name"] == "Pareto front")
    assert [*line["x"], *line["y"]] == pytest.approx([1.04, 2.02, 0.4, 0.3])
    assert all("autorange" not in chart["layout"][axis] for axis in ("xaxis", "yaxis"))


def test_the_front_keeps_equal_points_and_drops_what_is_only_as_good_in_one() -> None:
    points = {"a": (1.0, 0.5), "same": (1.0, 0.5), "slower": (2.0, 0.5), "worse": (1.0, 0.6), "b": (3.0, 0.1)}
    assert pareto_front(points) == ["a", "same", "b"]
    assert pareto_front({}) == []


def test_an_epochs_time_is_the_mean_without_the_first_epoch(page: str) -> None:
    data = _charts(page)["times"]["data"]
    assert len(data) == len(PARTS) and all(trace["y"] == ["none", "fast", escape(EVIL)] for trace in data)
    assert [sum(values) for values in zip(*(trace["x"] for trace in data), strict=True)] == pytest.approx(
        [2.02, 1.04, 3]
    )


def test_a_sweep_without_a_done_trial_still_gives_a_page(opened: MakeTracker, shared_store: str, sweep_id: str) -> None:
    tracker = opened(begin=False)
    _begin(tracker, sweep_id)
    end(tracker, _plan(tracker, "none", 1), "oom", reason="no memory left")
    settle(tracker)
    page = html_page(read_sweep(shared_store, EXPERIMENT, sweep_id))
    assert "no memory left" in page and page.count("No data yet.") == 6
    assert _charts(page) == {} and "plotly" not in page


def test_an_error_that_is_no_number_is_a_gap(opened: MakeTracker, shared_store: str, sweep_id: str) -> None:
    tracker = opened(begin=False)
    _begin(tracker, sweep_id)
    trial_id = _plan(tracker, "none", 1)
    for epoch, mse in ((1, 0.5), (2, math.nan), (3, math.inf)):
        tracker.log_epoch(trial_id=trial_id, epoch=epoch, metrics={"loss/val_mse": mse}, timestamp_ms=epoch)
    end(tracker, trial_id, "nan", reason="the loss is not finite")
    settle(tracker)
    (curve,) = _charts(html_page(read_sweep(shared_store, EXPERIMENT, sweep_id)))["curves"]["data"]
    assert (curve["x"], curve["y"]) == ([1, 2, 3], [0.5, None, None])


def test_the_page_as_a_file_of_the_sweep_reaches_the_store_unchanged(
    opened: MakeTracker, shared_store: str, sweep_id: str
) -> None:
    from mlflow import MlflowClient

    tracker = opened(begin=False)
    _begin(tracker, sweep_id)
    _ran(tracker, "none", 1, 2.0, 0.3)
    settle(tracker)
    record = read_sweep(shared_store, EXPERIMENT, sweep_id)
    page = html_page(record)
    tracker.end_sweep(status="done", metrics={}, files={"report.html": page})
    settle(tracker)
    stored = MlflowClient(tracking_uri=shared_store).download_artifacts(record.run_id, "report.html")
    assert Path(stored).read_text(encoding="utf-8") == page


def test_without_plotly_the_page_says_what_to_install(record: SweepRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(WrongInput, match="plotly, which is not installed: pip install -r requirements.txt"):
        report_html.html_page(record)


def _command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(ROOT / "experiments.py"), "report", *arguments]
    return subprocess.run(program, cwd=cwd, capture_output=True, text=True)


def test_the_command_writes_the_page_and_prints_the_table(
    record: SweepRecord, shared_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(report, "PROJECT", EXPERIMENT)
    file = tmp_path / "page.html"
    arguments = report_parser().parse_args([record.sweep_id, "--html", str(file), "--margin-pct", "2"])
    arguments.tracking_uri = shared_store
    assert report.run(arguments) == 0
    printed = capsys.readouterr()
    assert "fast" in printed.out and "<html" not in printed.out and not printed.err
    assert file.read_text(encoding="utf-8") == html_page(record, margin=0.02) != html_page(record)
    assert list(tmp_path.glob("*page.html*")) == [file]


@pytest.mark.parametrize(
    ("target", "json_target", "problem"),
    [
        ("none/x.html", None, "--html none/x.html: there is no folder none"),
        (".", None, "--html .: not a file"),
        ("", None, "not a file"),
        ("-", None, "--html -: name a file"),
        ("x", "./x", "the same file"),
        ("data.csv", None, "--html data.csv: it exists and is no HTML page"),
    ],
)
def test_a_target_that_cannot_be_written_is_wrong_input(
    target: str, json_target: str | None, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data.csv").write_text("date,OT\n")
    with pytest.raises(WrongInput, match=re.escape(problem)):
        output.check_html_target(target, json_target)


def test_a_wrong_folder_is_one_line_and_exit_code_2_before_the_store_is_asked(tmp_path: Path) -> None:
    ran = _command("any", "--html", "none/x.html", "--tracking-uri", "sqlite:///none.db", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.count("\n") == 1 and ran.stderr.startswith("error: --html none/x.html: there is no folder none")


def test_a_page_that_cannot_be_written_in_the_end_is_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="--html .*gone/x.html: No such file"):
        output.write_page(str(tmp_path / "gone" / "x.html"), "page")
