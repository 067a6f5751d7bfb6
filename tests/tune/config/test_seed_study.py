"""The sweep seed_study: its plan, its trials without Ray, and what its report says and never says."""

from __future__ import annotations

import io
import json
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gate_kit import ARM, BAD
from published_kit import flash_calls_fixture  # noqa: F401
from report_kit import timed
from trial_kit import Recorder, run_small

from tune.common.errors import WrongInput
from tune.common.published import NOT_ENFORCED, ORDINARY, stored_rules
from tune.config.axes import lay_over
from tune.config.sweeps import get_sweep
from tune.config.trial_config import TrialConfig
from tune.driver.finish import failures
from tune.gate import proof
from tune.gate.check import GateResult
from tune.machine.device import DeviceFacts
from tune.plan.plan import Plan, make_plan
from tune.report.arms import arm_rows
from tune.report.charts import pareto_chart
from tune.report.marks import Points
from tune.report.notes import notes
from tune.report.published import published_notes
from tune.report.render.terminal import print_report
from tune.report.values import as_json
from tune.storage.trial_log import TrialLog
from tune.tracking import find_model
from tune.tracking.reader import SweepRecord, TrialRecord

CPU = DeviceFacts(device_type="cpu", name="some CPU")
H100 = DeviceFacts(device_type="cuda", name="NVIDIA H100 80GB HBM3", capability=(9, 0), memory_gib=80.0, gpus=1)
PUBLISHED = {"vanilla-published", "flash-published", "zeroed-published", "dynamic-published"}
PARTLY = {"flash-fed", "flash-bidirectional", "flash-complete"}
OURS = {"flash", "eager", "static-4-8"}
NEEDS_FLASH = {"flash-published", *PARTLY, "flash"}


def _plan(device: DeviceFacts = H100, **overrides: Any) -> Plan:
    given = {"data.dataset": "demo"} | overrides
    return make_plan(get_sweep("seed_study"), overrides=given, repeats=1, seed=1, device=device)


def _by_arm(plan: Plan) -> dict[str, Any]:
    return {trial.arm: trial for trial in plan.trials}


def test_only_the_studys_arms_have_the_tag_as_published() -> None:
    tags = {arm: trial.config.rules.tags.get("as_published") for arm, trial in _by_arm(_plan()).items()}
    assert tags == dict.fromkeys(PUBLISHED, "true") | dict.fromkeys(PARTLY, "partly") | dict.fromkeys(OURS)
    assert get_sweep("seed_study").baseline in OURS


def test_a_stored_trial_has_the_rules_that_its_arm_was_planned_with() -> None:
    for trial in _plan().trials:
        planned, stored = trial.config.rules, stored_rules(trial.config.rules.tags, trial.config.flat())
        for name in ("gate_enforced", "compared", "keeps_model", "zeroing", "shown_as", "tags"):
            assert getattr(planned, name) == getattr(stored, name)
        assert (planned == ORDINARY) == (trial.arm in OURS)


def test_on_a_gpu_every_arm_runs_the_studys_model_operator_by_operator() -> None:
    for trial in _plan().trials:
        assert trial.unsupported is None
        assert (trial.config.model.preset, trial.config.model.layers) == ("study", "transformers")
        assert trial.config.train.engine == "eager"


def test_without_a_flash_kernel_its_arms_are_unsupported_and_nothing_takes_their_place() -> None:
    absent = H100.__class__(**{**asdict(H100), "missing": {"flash_attention_2": "flash-attn is not installed"}})
    for device, reason in ((CPU, "flash_attention_2 has no CPU kernel"), (absent, "flash-attn is not installed")):
        refused = {arm: trial.unsupported for arm, trial in _by_arm(_plan(device)).items() if trial.unsupported}
        assert refused.keys() == NEEDS_FLASH
        assert all(reason in text for text in refused.values())


# (before, after) -> fields in which the two arms differ, without as_published
STEPS = {
    ("vanilla-published", "flash-published"): {"model.attention"},
    ("flash-published", "flash-fed"): {"data.feed", "data.num_workers"},
    ("flash-fed", "flash-bidirectional"): set(),
    ("flash-bidirectional", "flash-complete"): set(),
    ("flash-complete", "flash"): {"train.precision"},
    ("eager", "flash"): {"model.attention"},
    ("vanilla-published", "zeroed-published"): {"pruning.heads"},
    ("eager", "static-4-8"): {"pruning.score", "pruning.heads"},
}


def test_the_two_arms_of_an_ablation_step_differ_in_one_thing() -> None:
    arms = {arm: trial.config.flat() for arm, trial in _by_arm(_plan()).items()}
    changed = {}
    for step in get_sweep("seed_study").ablation:
        before, after = arms[step.before], arms[step.after]
        fields = {name for name in before if before[name] != after[name]}
        assert fields
        changed[step.before, step.after] = {name for name in fields if not name.endswith("as_published")}
    assert changed == STEPS


def test_an_axis_leaves_the_ablation_at_its_first_value() -> None:
    sweep = lay_over(get_sweep("seed_study"), {"model.d_model": (64, 128)})
    labels = {arm.label for arm in sweep.arms}
    assert all({step.before, step.after} <= labels for step in sweep.ablation)
    assert {step.after.rpartition("-")[2] for step in sweep.ablation} == {"d_model=64"}


def test_fields_that_an_arm_sets_cannot_be_given_by_hand() -> None:
    for name, value in (("data.feed", "arrow"), ("train.engine", "compile"), ("model.as_published", "flash")):
        with pytest.raises(WrongInput, match=f"{name} is given by hand, but the seed_study sweep sets it"):
            _plan(**{name: value})


@pytest.fixture(name="flash_runs_here")
def flash_runs_here_fixture(flash_calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:  # noqa: F811
    """A stand-in computes flash attention, and nobody asks for the kernels of a GPU."""
    monkeypatch.setattr("tune.trial.data.unsupported_reason", lambda *_: None)
    proven = proof.profiled_step.ProvenStep(kernels=("flash::flash_fwd_kernel",), layers="PyTorch's", busy_ms=None)
    monkeypatch.setattr(proof.profiled_step, "prove", lambda *_, **__: proven)
    return flash_calls


FLASH = {"model__attention": "flash_attention_2", "model__as_published": "flash", "data__feed": "tsfm"}


def _models(recorder: Recorder) -> list[Path]:
    """The models that came with its end: those of epochs are checkpoints."""
    return list(recorder.folder.glob(f"report-{len(recorder.reports)}/model"))


def test_the_gate_is_measured_and_reported_and_stops_no_published_arm(
    tmp_path: Path, flash_runs_here: list[Any]
) -> None:
    done = run_small(tmp_path / "a", train__epochs=2, **FLASH)
    assert (done.final["status"], done.final["reason"]) == ("done", None)
    tags, metrics = done.final["tags"], done.final["metrics"]
    assert tags["as_published"] == "true"
    assert tags["gate"].startswith("not passed, not enforced: predictions differ from the fp64 reference by ")
    assert metrics["gate/prediction_error"] > 100 * metrics["gate/prediction_limit"]
    assert metrics["gate/gradient_limit"] < metrics["gate/gradient_error"] < 10  # and not NaN for what is not read
    assert {call["causal"] for call in flash_runs_here} == {True}
    assert _models(done) == []
    for report in done.epochs:
        times = report["metrics"]
        epoch_s = times["time/train_s"] + times["time/validation_s"]
        assert times["published/epoch_s"] >= epoch_s - 0.05  # two clocks
        assert times["published/compute_s"] == times["published/epoch_s"] - times["published/data_loading_s"]
        assert 0 < times["published/data_loading_s"] < times["time/feed_host_s"]  # of one request, not of all


def test_an_ordinary_arm_that_computes_the_same_is_stopped_by_the_gate(
    tmp_path: Path, flash_runs_here: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrialConfig, "rules", ORDINARY)
    done = run_small(tmp_path / "a", train__epochs=1, **FLASH)
    assert done.final["status"] == "failed_gate"


def test_an_interrupted_flash_arm_goes_on_as_published(tmp_path: Path, flash_runs_here: list[Any]) -> None:
    arm = FLASH | {"data__feed": "device", "train__learning_rate": 1e-2}
    uninterrupted = run_small(tmp_path / "uninterrupted", train__epochs=2, **arm)
    with pytest.raises(KeyboardInterrupt):
        run_small(tmp_path / "part", stop_after=1, train__epochs=2, **arm)
    rest = run_small(tmp_path / "rest", checkpoint=tmp_path / "part" / "report-1", train__epochs=2, **arm)
    assert rest.final["tags"]["as_published"] == "partly"
    assert rest.final["metrics"]["final/test_mse"] == uninterrupted.final["metrics"]["final/test_mse"]


VANILLA = {"model__attention": "eager", "model__as_published": "vanilla"}


def test_the_studys_pruning_trains_with_every_head(tmp_path: Path) -> None:
    done = run_small(tmp_path / "a", train__epochs=1, pruning__as_published="zeroed", pruning__heads=[1, 2], **VANILLA)
    assert (done.final["status"], done.final["tags"]["gate"]) == ("done", "passed")
    assert done.final["metrics"]["final/heads"] == 4
    assert done.epochs[0]["metrics"]["published/epoch_s"] > 0
    assert _models(done) == []


def test_dynamic_pruning_fails_with_the_studys_error_which_is_expected(tmp_path: Path) -> None:
    done = run_small(tmp_path / "a", train__epochs=1, pruning__as_published="dynamic", **VANILLA)
    assert done.epochs == [] and done.final["status"] == "failed"
    assert done.final["reason"].startswith(
        "AttributeError: 'PatchTSTAttention' object has no attribute 'device' (the replaced study's own error, expected"
    )
    assert done.final["tags"]["expected_failure"] == "true"


def test_only_an_expected_failure_is_no_failure_of_the_sweep() -> None:
    logs = {
        "dynamic": TrialLog(status="failed", tags={"expected_failure": "true"}),
        "broken": TrialLog(status="failed"),
        "small": TrialLog(status="oom"),
        "fine": TrialLog(status="done"),
    }
    tracker: Any = SimpleNamespace(trials=logs, ended={name: log.status for name, log in logs.items()})
    assert failures(tracker) == ("broken", "small")


def _trial(arm: str, seed: int, train_s: float, **given: Any) -> TrialRecord:
    tags = {"arm": arm, "seed": str(seed), "timing_valid": "true", "gpu_uuid": "GPU-a", "gate": "passed"}
    history = {"time/train_s": [(1, 9.0), (2, train_s), (3, train_s)], "time/validation_s": [(1, 0.5)],
               "time/data_wait_s": [(1, 0.25)]}  # fmt: skip
    if study_s := given.pop("study_s", None):
        history |= {"published/epoch_s": [(1, study_s)], "published/data_loading_s": [(1, 0.0125)]}
    mse = given.pop("mse", 0.3)
    metrics = {**timed(train_s), "final/val_mse": mse, "final/test_mse": mse}
    values: dict[str, Any] = {
        "trial_id": f"seed_study-{arm}-s{seed}", "run_id": "r", "name": "n", "status": "done", "reason": "",
        "params": {"train.epochs": "3"}, "tags": tags | given.pop("tags", {}), "metrics": metrics, "history": history,
    }  # fmt: skip
    return TrialRecord(**values | given)


def _sweep(seeds: int = 3) -> SweepRecord:
    """The study's flash arm is faster than anything, and its error smaller."""
    trials = []
    for seed in range(1, seeds + 1):
        scatter = 1 + 0.01 * seed
        trials += [
            _trial("eager", seed, 2.0 * scatter),
            _trial("flash", seed, 4.0),
            _trial("vanilla-published", seed, 3.0, study_s=4.0, tags={"as_published": "true"}),
            _trial("flash-published", seed, 1.0, study_s=2.0, mse=0.1,
                   tags={"as_published": "true", "gate": "not passed, not enforced: predictions differ"}),
            _trial("zeroed-published", seed, 3.1, study_s=4.1, tags={"as_published": "true"},
                   params={"train.epochs": "3", "pruning.as_published": "zeroed"}),
            _trial("flash-fed", seed, 0.0, status="unsupported", metrics={}, history={},
                   tags={"as_published": "partly"}),
        ]  # fmt: skip
    ablation = [asdict(step) for step in get_sweep("seed_study").ablation]
    tags = {"sweep": "seed_study", "baseline": "eager", "ladder": json.dumps(ablation)}
    return SweepRecord(
        sweep_id="seed_study-1", run_id="p", name="n", status="done", tags=tags, params={}, metrics={},
        trials=tuple(trials),
    )  # fmt: skip


def _lines(record: SweepRecord) -> list[str]:
    return notes(record, arm_rows(record))


def test_a_published_arm_is_never_faster_however_fast() -> None:
    record = _sweep()
    stream = io.StringIO()
    print_report(record, stream, verbose=True)
    row = next(line for line in stream.getvalue().splitlines() if "│ flash-published" in line)
    assert "as published" in row and "x" not in row.split("│")[8]
    assert {row.arm for row in arm_rows(record) if row.comparison} == {"flash"}
    assert as_json(record)["comparisons"].keys() == {"flash"}
    said = stream.getvalue()
    assert "Answer: the baseline, eager: no arm is shown to be faster." in said
    assert not re.search(r"(?<!the second is )(?<!the arm is )(?<!no arm is shown to be )faster", said)
    assert not any(line.startswith("use this") for line in _lines(record))


def test_a_published_arm_is_not_on_the_pareto_front() -> None:
    marks = pareto_chart(arm_rows(_sweep())).marks
    assert isinstance(marks, Points)
    on_front = {point.name: point.on_front for point in marks.items}
    assert on_front["eager"] and not on_front["flash-published"]
    assert [error for _, error in marks.front] == [0.3]


def test_the_studys_figure_its_gate_and_our_times_stand_side_by_side() -> None:
    lines = _lines(_sweep())
    assert (
        "flash-published (as published; would fail the gate, which is not enforced here: predictions differ): 2.000 s "
        "an epoch by the study's timer, 0.0125 s of it loading data; by ours 1.000 s of training, 0.250 s of it "
        "waiting for data, and 0.500 s of validation."
    ) in lines
    assert any(line.startswith("vanilla-published (as published; passes the gate): 4.000 s") for line in lines)
    assert not any(line.startswith(("eager (", "flash-fed (")) for line in lines)


def test_why_an_arm_fails_the_gate_is_shown_without_the_cache_it_comes_from(tmp_path: Path) -> None:
    result = GateResult(key="k1", arm=ARM, measured=BAD, file=tmp_path / "k1.json", cached=True)
    assert str(tmp_path) in str(result.problem)
    tags = {"as_published": "true", "gate": f"{NOT_ENFORCED}{result.problem}"}
    arms = {"flash-published": [_trial("flash-published", 1, 1.0, study_s=2.0, tags=tags)]}
    line = published_notes(arms)[0]
    assert "by 3.1e-02, allowed 2 x 1.2e-03" in line and "k1" not in line and "cache" not in line


def test_of_the_zeroed_arm_only_the_model_before_zeroing_is_said_to_pass_the_gate() -> None:
    words = "its model before zeroing passes the gate; zeroing itself is not gated"
    assert any(line.startswith(f"zeroed-published (as published; {words}): 4.100 s") for line in _lines(_sweep()))


def test_every_ablation_step_shows_its_ratio_or_why_it_has_none() -> None:
    lines = _lines(_sweep())
    head = "flash as published, the study's claim (vanilla-published -> flash-published): "
    assert f"{head}3.00x (3.00-3.00) in 3 pairs; 2.00x by the study's timer" in lines
    (honest,) = [line for line in lines if line.startswith("flash against eager")]
    assert "(eager -> flash): 0.51x (0.50-0.52) in 3 pairs" in honest and "study's timer" not in honest
    fed = "windows from the device, not one by one (flash-published -> flash-fed): "
    assert f"{fed}not measured; flash-fed is unsupported" in lines
    assert any(line.endswith("(eager -> static-4-8): not measured; static-4-8 is missing") for line in lines)


def test_under_three_pairs_a_step_has_no_interval() -> None:
    lines = _lines(_sweep(seeds=1))
    assert any("flash-published): 3.00x in 1 pair; 2.00x by the study's timer" in line for line in lines)


@pytest.mark.parametrize(
    ("moved", "text"),
    [
        ((2, 3), "3.00x in 1 pair (left out: 2 on different devices); 2.00x by the study's timer"),
        ((1, 2, 3), "not measured; 3 on different devices"),
    ],
)
def test_pairs_on_two_gpus_are_left_out_of_a_step_and_counted(moved: tuple[int, ...], text: str) -> None:
    record = _sweep()
    there = {f"seed_study-flash-published-s{seed}" for seed in moved}
    trials = tuple(
        TrialRecord(**vars(trial) | {"tags": trial.tags | {"gpu_uuid": "GPU-b"}}) if trial.trial_id in there else trial
        for trial in record.trials
    )
    lines = _lines(SweepRecord(**vars(record) | {"trials": trials}))
    assert f"flash as published, the study's claim (vanilla-published -> flash-published): {text}" in lines


def test_a_sweep_without_an_ablation_says_nothing_of_the_study() -> None:
    record = _sweep()
    trials = tuple(trial for trial in record.trials if "as_published" not in trial.tags)
    plain = SweepRecord(**{**vars(record), "tags": {"sweep": "attention", "baseline": "eager"}, "trials": trials})
    assert not any("study" in line or "->" in line for line in _lines(plain))


def _run(arm: str, mse: float, **tags: str) -> Any:
    tags = {"status": "done", "trial_id": arm, "sweep_id": "s", **tags}
    data = SimpleNamespace(tags=tags, metrics={"final/val_mse": mse})
    return SimpleNamespace(data=data, info=SimpleNamespace(run_id="0" * 32, run_name=arm))


def test_no_forecast_comes_from_a_published_arm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ours, theirs = _run("eager", 0.3), _run("flash-published", 0.1, as_published="true")
    assert find_model._winner("s", [theirs, ours])[0] is ours
    monkeypatch.setattr(find_model, "_find_run", lambda *_: (theirs, ""))
    with pytest.raises(WrongInput, match="flash-published of s shows the replaced study and keeps no model; give"):
        find_model._fetch(None, "flash-published", tmp_path, [])  # type: ignore[arg-type]
