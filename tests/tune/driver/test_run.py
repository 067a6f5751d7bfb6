"""How a sweep ends: it is finished only when MLflow has every record and the summary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tune.cluster.share import Share
from tune.commands import sweep as commands
from tune.common.errors import DONE, INTERRUPTED, TRIAL_FAILED, WrongInput
from tune.config.repeats import AUTO
from tune.config.request import Request
from tune.config.sweeps import get_sweep
from tune.console.progress import Progress
from tune.driver import finish, open
from tune.driver import run as runner
from tune.driver.budget import Budget
from tune.driver.options import Options, Outcome
from tune.machine.device import DeviceFacts
from tune.plan.plan import make_plan
from tune.plan.planner import Planner
from tune.storage import open_sweep, sweep_dir
from tune.storage.moved import Command
from tune.storage.trial_log import TrialLog

EMPTY: Mapping[str, str] = {}
CPU = DeviceFacts(device_type="cpu", name="some CPU")


class FakeTracker:
    """Lacks the given numbers of records at each flush, and records how the sweep was ended."""

    problems: list[str] = []
    outage = "no answer"
    blocked, refused = None, 0

    def __init__(self, ended: Mapping[str, str], lacking: list[int]) -> None:
        self.ended, self._lacking, self.ends = dict(ended), lacking, []
        self.waited_s = 0.0
        self.pending = lacking[0]
        self.trials = {trial: TrialLog(status=status) for trial, status in ended.items()}

    def end_run(self) -> None:
        assert not self.ends, "the report is made after that"

    def flush(self, timeout_s: float) -> int:
        self.waited_s += timeout_s
        self.pending = self._lacking.pop(0)
        return self.pending

    @property
    def unsent(self) -> int:
        return self.pending

    def end_sweep(
        self, *, status: str, metrics: Mapping[str, Any], files: Mapping[str, str], tags: Mapping[str, str] = EMPTY
    ) -> None:
        self.pending += 1
        self.ends.append((status, dict(metrics), sorted(files)))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(finish, "read_sweep", lambda *_: "the record")
    monkeypatch.setattr(finish, "parent_metrics", lambda record: {"test_mse/none": 0.5})
    monkeypatch.setattr(finish, "parent_tags", lambda record: {})
    monkeypatch.setattr(finish, "markdown", lambda record: "table")
    plan = make_plan(get_sweep("pruning"), overrides={"data.dataset": "demo"}, repeats=1, seed=1, device=CPU)
    folder = open_sweep.create(tmp_path, "pruning", {"key": "k", "created_s": 1.0})
    options = Options(storage_path=tmp_path, tracking_uri="sqlite:///m.db", data_dir=tmp_path)
    return runner._Run(plan, folder, SimpleNamespace(budget=Budget()), options)


def _close(run: Any, lacking: list[int], status: str = "done", ended: int | None = None) -> tuple[Outcome, FakeTracker]:
    trials = [trial.trial_id for trial in run.plan.trials][:ended]
    tracker = FakeTracker(dict.fromkeys(trials, status), lacking)
    return run._close(tracker, Progress(total=0, epochs=1)), tracker


@pytest.mark.parametrize(("status", "sweep"), [("done", "done"), ("unsupported", "done"), ("oom", "failed")])
def test_a_sweep_is_finished_once_mlflow_has_its_trials_and_its_summary(run: Any, status: str, sweep: str) -> None:
    outcome, tracker = _close(run, [0, 0], status)
    assert tracker.ends == [(sweep, {"test_mse/none": 0.5}, ["report.html", "report.md"])]
    assert run.folder.read()["state"] == sweep_dir.FINISHED
    assert (outcome.interrupted, outcome.pending) == (False, 0)


def test_a_page_that_cannot_be_made_leaves_no_sweep_open(
    run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise WrongInput("no matplotlib")

    monkeypatch.setattr(finish, "check_can_draw", refuse)
    _, tracker = _close(run, [0, 0])
    assert tracker.ends == [("done", {"test_mse/none": 0.5}, ["report.md"])]
    assert "has no report.html: no matplotlib" in capsys.readouterr().err


def test_while_mlflow_lacks_trials_the_sweep_stays_open_without_a_summary(run: Any) -> None:
    outcome, tracker = _close(run, [9, 7])
    assert tracker.ends == [("interrupted", {}, [])]
    assert run.folder.read()["state"] == sweep_dir.ENDED
    assert outcome.pending == 8  # with the record of this end


def test_the_end_waits_for_a_store_that_does_not_answer_as_long_as_it_says_and_no_longer(
    run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    _, tracker = _close(run, [9, 7])
    assert "MLflow lacks 9 records (no answer): waiting up to 60 s for it to take them" in capsys.readouterr().err
    assert tracker.waited_s == 60


def test_while_mlflow_lacks_the_summary_the_sweep_stays_open(run: Any) -> None:
    outcome, _ = _close(run, [0, 1, 1])
    assert run.folder.read()["state"] == sweep_dir.ENDED
    assert outcome.pending == 1


def test_a_sweep_with_trials_left_is_interrupted(run: Any) -> None:
    outcome, tracker = _close(run, [0, 0], ended=3)
    assert [status for status, _, _ in tracker.ends] == ["interrupted"]
    assert outcome.interrupted and run.folder.read()["state"] == sweep_dir.RUNNING


def test_a_sweep_without_time_for_its_other_trials_says_what_there_is_and_stays_open(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(runner._Run, "_begin", lambda self, tracker: begun.append(self.folder.read()["stopped"]))
    run.launcher.budget = Budget(1.5, clock=iter([0.0, 91.0]).__next__)
    assert not run.launcher.budget.allows()
    outcome, tracker = _close(run, [0, 0], ended=3)
    said = f"stopped after 1.5 minutes: 3 of {len(run.plan.trials)} trials"
    assert outcome.stopped == said and begun == [said]  # the sweep's run is told, before it ends
    assert [status for status, _, _ in tracker.ends] == ["interrupted"]
    assert outcome.interrupted and run.folder.read()["state"] == sweep_dir.RUNNING


def test_a_sweep_whose_last_trial_ended_in_time_is_finished_also_if_something_was_refused(run: Any) -> None:
    run.launcher.budget = Budget(1.0, clock=iter([0.0, 61.0]).__next__)
    assert not run.launcher.budget.allows()
    outcome, _ = _close(run, [0, 0])
    assert outcome.stopped is None and run.folder.read()["state"] == sweep_dir.FINISHED


def test_what_there_is_of_pairs_is_counted_in_blocks() -> None:
    plan = make_plan(get_sweep("engine"), overrides={"data.dataset": "demo"}, repeats=3, seed=1, device=CPU)
    assert plan.in_blocks
    of = {seed: [trial.trial_id for trial in plan.runnable if trial.seed == seed] for seed in (1, 2, 3)}
    ended = dict.fromkeys([*of[1], *of[2][:1]], "done")
    assert runner._what_there_is(plan, plan.trials, ended) == "1 of 3 blocks, 1 in part"
    assert runner._what_there_is(plan, plan.trials, dict.fromkeys([*of[1], *of[2]], "done")) == "2 of 3 blocks"
    by_looks = make_plan(get_sweep("engine"), overrides={"data.dataset": "demo"}, repeats=AUTO, seed=1, device=CPU)
    assert runner._what_there_is(by_looks, by_looks.trials, ended) == "1 of at most 10 blocks, 1 in part"


def test_a_sweep_goes_on_in_another_environment_only_when_resumed_by_name_and_announces_it_with_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open, "code_identity", lambda: {"git_commit": None, "git_dirty": None, "code_sha256": "c"})
    overrides = {"data.dataset": "demo"}
    plan = make_plan(get_sweep("engine"), overrides=overrides, repeats=1, seed=1, device=CPU)
    options = Options(storage_path=tmp_path, tracking_uri="sqlite:///m.db", data_dir=tmp_path, quiet=True)
    first, second = ({"versions": {"torch": version}, "host_cpus": 2} for version in ("2.11.0", "2.12.0"))
    command = Command(key="k", asked="a", tracking_uri=options.tracking_uri)
    folder = open.open_folder(plan, command, first, options)
    assert open.open_folder(plan, command, first, options) == folder
    with pytest.raises(WrongInput, match=f"torch 2.11.0, now 2.12.0.*--fresh.*--resume {folder.sweep_id}"):
        open.open_folder(plan, command, second, options)
    named = replace(options, resume=folder.sweep_id)
    assert open.open_folder(plan, command, second, named) == folder
    announced: dict[str, Any] = {}
    tracker = SimpleNamespace(ended={}, plan_trial=lambda trial_id, tags, **_: announced.update({trial_id: tags}))
    runner._Run(plan, folder, SimpleNamespace(), named)._announce(tracker, plan.runnable)  # type: ignore[arg-type]
    versions = [json.loads(tags["environment"])["versions"]["torch"] for tags in announced.values()]
    assert versions and set(versions) == {"2.12.0"}
    assert [environment["versions"]["torch"] for environment in folder.read()["environments"]] == ["2.11.0", "2.12.0"]


@pytest.mark.parametrize(
    ("overrides", "tag"),
    [({}, "128"), ({"data.context_length": 1405}, "64"), ({"train.batch_size": 512}, None)],
    ids=["usual", "few windows", "named"],
)
def test_the_parent_run_says_which_batch_was_the_default(
    overrides: dict[str, Any], tag: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """demo has 2,240 training rows: 740 windows of 1,405 + 96."""
    given = {"data.dataset": "demo", **overrides}
    plan = make_plan(get_sweep("engine"), overrides=given, repeats=1, seed=1, device=CPU)
    begun: list[dict[str, str]] = []
    tracker = SimpleNamespace(begin_sweep=lambda tags, **_: begun.append(tags))
    options = Options(storage_path=tmp_path, tracking_uri="sqlite:///m.db", data_dir=tmp_path, quiet=True)
    monkeypatch.setattr(open, "code_identity", lambda: {"git_commit": None, "git_dirty": None, "code_sha256": "c"})
    folder = open.open_folder(plan, Command(key="k", asked="a"), {}, options)
    launcher = SimpleNamespace(share=Share(cpus=2, gpus=0, at_a_time=1))
    runner._Run(plan, folder, launcher, options)._begin(tracker)  # type: ignore[arg-type]
    assert [tags.get("default_batch") for tags in begun] == [tag]


@pytest.mark.parametrize(
    ("share", "repeats", "eta"),
    [
        (Share(cpus=2, gpus=1, at_a_time=2), 3, "3:20"),  # two GPUs: one has two blocks of 10 trials
        (Share(cpus=2, gpus=1, at_a_time=9), 3, "1:40"),  # three of them have a block
        (Share(cpus=2, gpus=0.5, at_a_time=2), 3, "2:30"),  # no pairs
        (Share(cpus=2, gpus=1, at_a_time=2), 1, "0:50"),  # no verdict: the trials are spread
        (Share(cpus=2, gpus=0, at_a_time=1), 3, "5:00"),
    ],
)
def test_the_time_left_is_that_of_the_blocks_that_share_a_gpu_or_of_trials_that_are_spread(
    share: Share, repeats: int, eta: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = get_sweep("pruning").arms[:10]
    sweep = replace(get_sweep("pruning"), arms=arms)
    plan = make_plan(sweep, overrides={"data.dataset": "demo"}, repeats=repeats, seed=1, device=CPU)
    folder = open_sweep.create(tmp_path, "pruning", {"key": "k", "created_s": 1.0})
    options = Options(storage_path=tmp_path, tracking_uri="sqlite:///m.db", data_dir=tmp_path)
    progress = Progress(total=0, epochs=1, quiet=True)
    now_s = [0.0]
    monkeypatch.setattr("tune.console.progress.time", SimpleNamespace(monotonic=lambda: now_s[0]))
    runner._Run(plan, folder, SimpleNamespace(share=share), options)._expect(progress, plan.runnable, {})
    assert progress.total == 10 * repeats
    progress.started("an earlier one", seed=1, epochs=1)
    now_s[0] = 10.0
    progress.ended("an earlier one", "done", None)
    assert progress.eta() == eta


@pytest.mark.parametrize(
    ("status", "interrupted", "pending", "unsent", "refused", "stopped", "code"),
    [
        ("done", False, 0, 0, 0, None, DONE),
        ("unsupported", False, 0, 0, 0, None, DONE),
        ("nan", False, 0, 0, 0, None, TRIAL_FAILED),
        ("done", False, 0, 0, 2, None, TRIAL_FAILED),
        ("done", True, 0, 0, 0, None, INTERRUPTED),
        ("done", True, 0, 0, 0, "stopped after 5 minutes: 3 of 5 blocks", DONE),
        ("nan", True, 0, 0, 0, "stopped after 5 minutes: 3 of 5 blocks", TRIAL_FAILED),
        ("done", False, 3, 3, 0, None, INTERRUPTED),
        ("done", False, 3, 0, 0, None, INTERRUPTED),
    ],
)
def test_the_exit_code_says_how_the_sweep_ended_and_a_table_is_shown_once_all_numbers_are_there(
    status: str,
    interrupted: bool,
    pending: int,
    unsent: int,
    refused: int,
    stopped: str | None,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = ("t",) if status == "nan" else ()
    outcome = Outcome(
        sweep_id="s", statuses={"t": status}, failures=failures, interrupted=interrupted, pending=pending,
        unsent=unsent, refused=refused, stopped=stopped,
    )  # fmt: skip
    shown: list[str] = []
    monkeypatch.setattr(runner, "run_sweep", lambda *_, **__: outcome)
    monkeypatch.setattr(commands, "show_report", lambda sweep_id, *_, **__: shown.append(sweep_id))
    arguments = SimpleNamespace(
        storage_path=tmp_path, data_dir=tmp_path, address=None, gpus_per_trial=None, max_concurrent=None,
        gpu_model=None, wait_for_gpus=0.0, save_config=None, fresh=False, resume=None, isolate=False, quiet=True,
        save_forecasts=False,
        json=None, csv=None, verbose=False, words=[],
    )  # fmt: skip
    request = Request(sweep=get_sweep("pruning"), overrides={}, axes={}, repeats=1, seed=1, trials=None)
    returned = commands._run_sweep(
        request, Planner.of(request), arguments, "sqlite:///m.db", SimpleNamespace(write=lambda _: None), Budget(), None
    )
    assert returned == code
    assert shown == ([] if unsent else ["s"])
