"""The HTML report on a real MLflow store: what it shows, that it needs nothing else, that it escapes what it shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_kit import sweep, timed, trial
from tracking_kit import EXPERIMENT, MakeTracker, end, opened_fixture, settle, shared_store_fixture, sweep_id_fixture

from tune.commands import report
from tune.commands.report import parser as report_parser
from tune.common.errors import WrongInput
from tune.console import output
from tune.measure.bottleneck import PARTS
from tune.report.arms import COLUMNS, arm_rows
from tune.report.render.page import html_page
from tune.report.render.theme import THEME
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


@pytest.fixture(scope="module", name="page")
def page_fixture() -> str:
    """The page of the same sweep, made by hand."""
    seeds = (1, 2, 3)
    trials = [trial("none", seed, s=2 + seed / 100, metrics={"final/val_mse": 0.3}) for seed in seeds]
    trials += [trial("fast", seed, s=1 + seed / 50, metrics={"final/val_mse": 0.4}) for seed in seeds]
    trials += [trial(EVIL, 1, s=3.0), trial(EVIL, 2, status="failed", reason=f"it said {EVIL}")]
    trials += [trial("flash", 1, status="unsupported", reason="needs the package 'flash_attn' & a GPU")]
    tags = {"question": "How <b>fast</b>?", "arms": "none,fast", "environment": json.dumps(ENVIRONMENT)}
    return html_page(sweep(*trials, **tags))


class _Elements(HTMLParser):
    """What a browser sees: the elements and the text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_every_cell_of_the_table_each_reason_and_the_environment(record: SweepRecord) -> None:
    page = html_page(record)
    for row in arm_rows(record):
        for _, cell in COLUMNS:
            assert f">{escape(cell(row))}</td>".replace(" %", "\u00a0%") in page
    text = _Elements(page).text
    for each in record.trials:
        assert each.reason in text
        if each.status != "done":
            assert each.trial_id in text
    for text_shown in ("How <b>fast</b>?", "versions.torch", "2.11.0", "host_cpus", f"GPU {EVIL}"):
        assert text_shown in text


def test_question_answer_and_facts_stand_before_the_chart_that_is_the_answer(page: str) -> None:
    head = page.split('<figure id="chart-answer">')[0]
    assert re.findall(r"<h1>(.*?)</h1>", head) == ["How &lt;b&gt;fast&lt;/b&gt;?"]
    assert '<p class="answer">Stay with none: no arm is shown to be faster without a worse validation error.' in head
    assert re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", head) == [
        ("Device", "NVIDIA H100"),
        ("Trials", "8 (3 seeds), 7 done"),
    ]
    assert page.index("chart-answer") < page.index('<table class="arms">') < page.index("<details>")


def test_each_link_of_the_navigation_leads_to_a_part_of_the_page(page: str) -> None:
    elements = _Elements(page).elements
    links = [given["href"] for tag, given in elements if tag == "a"]
    assert len(links) == 6 and {f"#{given['id']}" for _, given in elements if "id" in given} >= set(links)


def test_the_table_says_a_verdict_in_words_with_a_sign_and_draws_its_interval(page: str) -> None:
    table = page.split('<table class="arms">')[1].split("</table>")[0]
    (fast,) = [row for row in table.split("<tr") if ">fast</td>" in row]
    assert '<span class="verdict costly">△ faster, error worse</span>' in fast
    assert fast.count("<svg") == 2 and 'stroke="var(--costly)"' in fast and 'stroke="var(--slow)"' in fast
    (few,) = [row for row in table.split("<tr") if "alert" in row]
    assert "too few pairs (1, 3 needed)" in few and 'fill="var(--page)"' in few  # a ring: no interval
    assert "flash" not in table and "Cannot run here: flash." in page


def test_numbers_are_aligned_right(page: str) -> None:
    assert '<td class="number">0.3000</td>' in page and ">fast</td>" in page


def test_a_column_of_long_texts_gets_room_and_a_number_keeps_its_percent_sign(page: str) -> None:
    (accuracy,) = {cell for cell in re.findall(r"<td[^>]*>[^<]*</td>", page) if "worse" in cell and "at least" in cell}
    assert accuracy.startswith('<td class="long">worse (+33\u00a0%, at least +33\u00a0%)')
    assert "td.long { min-width: 13rem; }" in page and '<td class="long">done</td>' not in page


def test_every_text_of_the_store_is_escaped_in_the_page_and_in_its_charts(page: str) -> None:
    assert EVIL not in page and "alert(1)</script" not in page and "<b>" not in page
    assert page.count(escape(EVIL)) > 10  # arm, reason, environment, and the words of the charts


def test_the_page_runs_nothing_and_may_load_nothing(page: str) -> None:
    elements = _Elements(page).elements
    assert not [tag for tag, given in elements if tag in ("script", "link", "img", "iframe") or "src" in given]
    assert all(str(given["href"]).startswith("#") for _, given in elements if "href" in given)
    assert not [name for _, given in elements for name in given if name.startswith("on")]
    assert not re.search(r"https?:|@import|javascript:", page)
    policy = next(given["content"] for _, given in elements if "http-equiv" in given)
    assert policy is not None and policy.startswith("default-src 'none';") and "script" not in policy


def test_a_reference_within_a_chart_leads_to_that_chart_alone(page: str) -> None:
    ids = [given["id"] for _, given in _Elements(page).elements if "id" in given]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', page))
    assert used and used <= set(ids)


def test_the_charts_take_their_colours_from_the_page_so_they_follow_its_dark_mode(page: str) -> None:
    charts = "".join(re.findall(r"<figure.*?</figure>", page, re.DOTALL))
    assert "var(--text)" in charts and "var(--costly)" in charts
    assert not any(light in charts for name, (light, _) in THEME.items() if name != "page")
    for name, (light, dark) in THEME.items():
        assert f"--{name}: {light};" in page and f"--{name}: {dark};" in page


def test_nothing_unknown_is_shown_as_null(record: SweepRecord) -> None:
    environment = ENVIRONMENT | {"git_commit": None, "versions": {"flash_attn_3": None, "torch": "2.11.0"}}
    page = html_page(replace(record, tags=record.tags | {"environment": json.dumps(environment)}))
    assert "flash_attn_3" not in page and not re.search(r">\s*(null|None|nan)\s*<", page)


def test_the_page_of_a_large_sweep_stays_under_a_megabyte() -> None:
    curve = {"loss/val_mse": [1 / epoch for epoch in range(1, 61)], "loss/train_mse": [0.5] * 60}
    arms = [f"arm-with-a-long-name-{number}" for number in range(24)]
    trials = [trial(arm, seed, s=1 + seed / 100, history=curve) for arm in arms for seed in range(1, 4)]
    assert len(html_page(sweep(*trials, baseline=arms[0])).encode()) < 1_000_000


def test_a_sweep_without_a_done_trial_still_gives_a_page(opened: MakeTracker, shared_store: str, sweep_id: str) -> None:
    tracker = opened(begin=False)
    _begin(tracker, sweep_id)
    end(tracker, _plan(tracker, "none", 1), "oom", reason="no memory left")
    settle(tracker)
    page = html_page(read_sweep(shared_store, EXPERIMENT, sweep_id))
    assert "no memory left" in page and page.count("no data yet.") == 6
    assert "<figure" not in page and "No answer: no arm has a pair" in page


def test_a_model_that_a_naive_forecast_beats_is_said_before_the_numbers() -> None:
    naive = {"final/naive_last_value_mse": 0.1}
    page = html_page(sweep(*(trial(arm, seed, metrics=naive) for arm in ("none", "fast") for seed in (1, 2, 3))))
    assert "does not beat all of the naive forecasts" in page.split("<dl>")[0]


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


def test_without_matplotlib_the_page_says_what_to_install(record: SweepRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(WrongInput, match="matplotlib, which is not installed: pip install -r requirements.txt"):
        html_page(record)


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
