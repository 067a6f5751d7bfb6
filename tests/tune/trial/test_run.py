"""One trial from job to final report, without Ray: exact resuming, pruning rules, honest statuses."""

from __future__ import annotations

import functools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from compiler_kit import path_with_broken, path_without_compilers
from trial_kit import GRADUAL, ONE_CYCLE, Recorder, small_job
from trial_kit import run_small as _run

from model.patchtst import load_model
from tune.commands.main import main
from tune.common.errors import DONE
from tune.machine.code_identity import packages_sha256
from tune.machine.device import node_facts
from tune.trial import session
from tune.trial.job import Host
from tune.trial.report import Report
from tune.trial.run import run_trial
from tune.trial.state import median_after


def test_a_trial_reports_every_epoch_and_then_its_end(tmp_path: Path) -> None:
    done = _run(tmp_path / "a", train__epochs=2)
    assert [report["epoch"] for report in done.epochs] == [1, 2]
    assert (done.final["status"], done.final["reason"]) == ("done", None)
    metrics = done.final["metrics"]
    assert metrics["final/heads"] == 4
    assert metrics["final/val_mse"] == min(report["metrics"]["loss/val_mse"] for report in done.epochs)
    assert metrics["final/naive_last_value_mse"] > 0 and metrics["final/naive_last_day_mse"] > 0
    assert done.final["tags"]["timing_valid"] == "true"
    for name in ("gpu/peak_memory_gib", "gpu/energy_j"):
        assert done.epochs[0]["metrics"][name] is None


def test_a_trial_that_is_not_to_read_the_test_set_reads_none_and_saves_a_model_that_can_be_backtested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits: list[str] = []
    evaluated = session.Session._evaluate

    def evaluate(self: session.Session, split: str, **how: Any) -> dict[str, Any]:
        splits.append(split)
        return evaluated(self, split, **how)

    monkeypatch.setattr(session.Session, "_evaluate", evaluate)
    done = _run(tmp_path / "a", train__epochs=1, train__read_test=False)
    assert splits == ["validation"]
    metrics = done.final["metrics"]
    assert done.final["status"] == "done" and metrics["final/val_mse"] > 0
    assert metrics["final/test_mse"] is metrics["final/test_mae"] is None
    assert not [name for name in metrics if "naive" in name]
    monkeypatch.chdir(tmp_path)
    words = ["predict", str(tmp_path / "a" / "report-2" / "model"), "--backtest", "--json", "out.json"]
    assert main(words) == DONE
    read = _run(tmp_path / "b", train__epochs=1).final["metrics"]
    errors = json.loads((tmp_path / "out.json").read_text())["backtest"]["errors"]
    assert errors["model"]["standardised_mse"] == pytest.approx(read["final/test_mse"], rel=1e-5)


def test_a_checkpoint_leaves_the_trials_scratch_folder_once_it_is_reported(tmp_path: Path) -> None:
    scratch, there = tmp_path / "scratch", []
    scratch.mkdir()

    def report(content: Report, folder: Path | None) -> None:
        there.append([path.name for path in scratch.glob("*/*") if path.is_dir()])
        assert folder is not None
        shutil.rmtree(folder)  # the reporter owns the folder that it is given

    run_trial(small_job(tmp_path, train__epochs=3), report, None, Host(scratch=scratch))
    assert there == [["epoch-1"], ["epoch-2"], ["epoch-3"], ["final"]]
    assert list(scratch.iterdir()) == []


def test_the_learning_rate_of_an_epochs_last_step_is_reported(tmp_path: Path) -> None:
    done = _run(tmp_path / "a", train__epochs=3, train__learning_rate=1e-3, **ONE_CYCLE)
    rates = [report["metrics"]["train/learning_rate"] for report in done.epochs]
    assert rates[0] > rates[1] > rates[2] == pytest.approx(1e-3 / 25 / 1e4)
    assert done.epochs[0]["metrics"]["train/skipped_steps"] is None


def test_training_learns(tmp_path: Path) -> None:
    done = _run(tmp_path / "a", train__epochs=3, train__learning_rate=1e-3)
    losses = [report["metrics"]["loss/val_mse"] for report in done.epochs]
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    first, again = _run(tmp_path / "a", train__epochs=1), _run(tmp_path / "b", train__epochs=1)
    ours, theirs = first.weights(1), again.weights(1)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("pruning", "heads"),
    [
        ({"pruning__score": "static", "pruning__heads": [0, 2]}, [2, 2, 2, 2]),
        ({"pruning__score": "magnitude", "pruning__heads_per_layer": 3}, [4, 1, 1, 1]),
        (GRADUAL, [4, 2, 2, 2]),
        ({"pruning__score": "random", "pruning__heads_per_layer": 1}, [4, 3, 3, 3]),
    ],
    ids=["static", "one_shot", "gradual", "random"],
)
def test_heads_leave_when_their_schedule_says_and_stay_out(
    tmp_path: Path, pruning: dict[str, Any], heads: list[int]
) -> None:
    done = _run(tmp_path / "a", train__epochs=4, **pruning)
    assert [report["metrics"]["model/heads"] for report in done.epochs] == heads
    d_model, head_dim = 16, 4
    gone = 4 - heads[-1]
    unpruned = _run(tmp_path / "b", train__epochs=1).final["metrics"]["final/parameters"]
    assert done.final["metrics"]["final/parameters"] == unpruned - gone * (4 * d_model * head_dim + 3 * head_dim)


def test_a_pruned_arms_best_epoch_comes_after_the_last_head_left(tmp_path: Path) -> None:
    done = _run(tmp_path / "a", train__epochs=4, **GRADUAL)
    assert done.final["metrics"]["final/best_epoch"] >= 2
    model = load_model(tmp_path / "a" / f"report-{len(done.reports)}" / "model")
    assert model.state_dict()["model.encoder.layers.0.self_attn.q_proj.weight"].shape == (2 * 4, 16)


def test_the_median_epoch_counts_only_epochs_with_the_final_heads() -> None:
    assert median_after([9.0, 9.0, 1.0, 3.0], last_removal_before_epoch=3) == 2.0
    assert median_after([9.0, 1.0], last_removal_before_epoch=1) == 5.0
    assert median_after([], last_removal_before_epoch=1) is None


def test_patience_stops_and_the_best_weights_are_the_ones_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([3.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    real = session.Session._evaluate

    def scripted(self: Any, split: str, naive: bool = False, saved: Any = None) -> Any:
        measured = real(self, split, naive, saved)
        if split != "validation":
            return measured
        return {"model": type(measured["model"])(mse=next(errors), mae=1.0)}

    monkeypatch.setattr(session.Session, "_evaluate", scripted)
    done = _run(tmp_path / "a", train__epochs=6, train__patience=2)
    assert [report["epoch"] for report in done.epochs] == [1, 2, 3, 4]
    assert done.final["metrics"]["final/best_epoch"] == 2
    best, second = done.weights(len(done.reports)), done.weights(2)
    assert all(torch.equal(best[name], second[name]) for name in best)


def test_a_loss_that_is_not_finite_ends_the_trial_as_nan_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.engine.step.Stepper.take_train_mse", lambda self: math.nan)
    done = _run(tmp_path / "a", train__epochs=3)
    assert len(done.epochs) == 1
    assert done.final["status"] == "nan"
    assert "loss/train_mse became nan; try a smaller train.learning_rate" in done.final["reason"]


@pytest.mark.parametrize(
    ("error", "status"), [(torch.OutOfMemoryError("CUDA out of memory"), "oom"), (RuntimeError("boom\nmore"), "failed")]
)
def test_what_goes_wrong_in_a_trial_is_reported_and_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str
) -> None:
    def fail(self: Any, past: Any, future: Any) -> None:
        raise error

    monkeypatch.setattr("tune.engine.step.Stepper.train_step", fail)
    done = _run(tmp_path / "a", train__epochs=1)
    assert done.final["status"] == status
    reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    if status == "oom":
        peak_gib = done.final["metrics"]["final/host_peak_memory_gib"]
        reason += f"; process memory peak {peak_gib:.2f} GiB; try a smaller train.batch_size or model"
    assert done.final["reason"] == reason
    assert "disk_full" not in done.final["tags"]
    assert "Traceback" in done.final["tags"]["traceback"]
    timeline = json.loads(done.final["tags"]["spans"])  # a failure has its cost, too
    assert timeline["started_ms"] <= timeline["work_ended_ms"] and timeline["earlier_ms"] == 0


def test_a_full_disk_is_reported_as_such_whatever_library_met_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")  # safetensors' words

    monkeypatch.setattr("tune.trial.checkpoint.save_model", full)
    done = _run(tmp_path / "a", train__epochs=1)
    assert done.final["tags"]["disk_full"] == "true"


def test_a_trial_that_cannot_run_on_its_own_device_is_unsupported_and_nothing_else_runs_instead(tmp_path: Path) -> None:
    done = _run(tmp_path / "a", model__attention="sdpa_efficient")
    assert len(done.reports) == 1
    assert (done.final["status"], done.final["metrics"]) == ("unsupported", {})
    assert "no CPU kernel" in done.final["reason"]


@pytest.mark.parametrize("what", ["fails", None])
def test_a_trial_whose_node_compiles_nothing_is_unsupported_with_what_to_do(
    what: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", str(path_with_broken(folder, what) if what else path_without_compilers(folder)))
    job = replace(small_job(tmp_path, train__epochs=1, train__engine="compile"), compile_dir=str(tmp_path / "compile"))
    recorder = Recorder(tmp_path / "out")
    with torch._inductor.config.patch({"cpp.cxx": (None, "g++")}):
        run_trial(job, recorder)
    assert recorder.final["status"] == "unsupported", recorder.final
    assert "the compile engine needs a working C++ compiler" in recorder.final["reason"]
    assert "apt-get install g++" in recorder.final["reason"] and "train.engine=eager" in recorder.final["reason"]


def test_a_feed_that_the_machine_cannot_hold_is_unsupported_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("loading", "arrow"):
        monkeypatch.setattr(f"data_pipeline.feed.{module}.shared_memory_free", lambda: 1 << 20)
    done = _run(tmp_path / "a", data__feed="arrow", data__num_workers=16)
    assert done.final["status"] == "unsupported", done.final
    assert "/dev/shm" in done.final["reason"]


@pytest.mark.parametrize("feed", ["arrow", "tsfm"])
def test_every_feed_trains_to_the_same_weights(tmp_path: Path, feed: str) -> None:
    device, other = _run(tmp_path / "d", train__epochs=1), _run(tmp_path / "o", train__epochs=1, data__feed=feed)
    assert other.final["status"] == "done", other.final
    ours, theirs = other.weights(1), device.weights(1)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_many_stages_of_gradual_pruning_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    gradual = {"pruning__score": "magnitude", "pruning__schedule": "gradual", "pruning__heads_per_layer": 11}
    done = _run(
        tmp_path / "a",
        train__epochs=40,
        train__engine="compile",
        train__batch_size=1024,
        model__num_heads=16,
        **gradual,
    )
    assert done.final["status"] == "done", done.final
    assert len({report["metrics"]["model/heads"] for report in done.epochs}) > 8


def test_data_that_changed_since_planning_fails_the_trial(tmp_path: Path) -> None:
    done = _run(tmp_path / "a", data_sha256="0" * 64)
    assert done.final["status"] == "failed"
    assert "its source has changed since" in done.final["reason"]


def test_whether_neighbours_were_there_is_unknown_if_it_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(self: Any) -> None:
        self.progress.shared = None

    monkeypatch.setattr(session.Session, "_note_neighbours", unknown)
    assert _run(tmp_path / "a", train__epochs=1).final["tags"]["timing_valid"] == "unknown"


def test_the_compile_engine_trains_to_the_eager_engines_result(tmp_path: Path) -> None:
    eager = _run(tmp_path / "e", train__epochs=1, model__head_dropout=0.0)
    compiled = _run(tmp_path / "c", train__epochs=1, model__head_dropout=0.0, train__engine="compile")
    assert compiled.final["status"] == "done", compiled.final
    assert compiled.final["metrics"]["final/compile_s"] > 0
    ours, theirs = (run.final["metrics"]["final/test_mse"] for run in (compiled, eager))
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_worker_with_other_code_than_the_drivers_fails_and_says_so(tmp_path: Path) -> None:
    trial = _run(tmp_path / "t", packages_sha256="0" * 64)
    assert trial.final["status"] == "failed" and not trial.epochs
    assert "imports other code than the driver" in trial.final["reason"]
    same = _run(tmp_path / "s", packages_sha256=packages_sha256(), train__epochs=1)
    assert same.final["status"] == "done"


@pytest.mark.parametrize("same", [True, False])
def test_a_gpu_of_another_model_than_the_plans_is_refused_though_ray_has_one_name_for_both(
    tmp_path: Path, same: bool
) -> None:
    name = node_facts(use_gpu=False).name
    planned = name if same else "NVIDIA H100 PCIe"
    recorder = Recorder(tmp_path)
    run_trial(replace(small_job(tmp_path, train__epochs=1), gpu_name=planned), recorder)
    end = recorder.final
    assert end["status"] == ("done" if same else "failed"), end
    if not same:
        assert f"this GPU is a {name}, the sweep was planned for {planned}" in end["reason"]
        assert "\n" not in end["reason"] and not recorder.epochs
