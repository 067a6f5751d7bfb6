"""A new backend, score, data set, feed and sweep are one dict entry each: nothing else has to hear of them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import data_pipeline.datasets
import data_pipeline.feed
import model.attention
import model.pruning
import tune.config.sweeps
from tune.commands.listing import NAMED
from tune.commands.main import main
from tune.config.sweeps import Arm, SweepConfig, get_sweep
from tune.config.trial_config import FIELDS, SEED_STUDY_ONLY
from tune.machine.device import cpu_facts
from tune.plan.plan import make_plan
from tune.trial.job import TrialJob
from tune.trial.report import Report, TrialEnd
from tune.trial.run import run_trial

ROOT = Path(__file__).resolve().parents[1]


def lightest(module: Any, **options: Any) -> Any:
    """Magnitude, and nothing else."""
    return model.pruning.magnitude(module, **options)


def narrow() -> SweepConfig:
    """Two widths."""
    arms = tuple(Arm(label=f"ffn-{width}", changes={"model.ffn_dim": width}) for width in (8, 16))
    return SweepConfig(name="narrow", question="Is a narrow one faster?", baseline="ffn-16", arms=arms)


ENTRIES: list[tuple[dict[str, Any], str, Any]] = [
    (model.attention.BACKENDS, "twin", replace(model.attention.BACKENDS["eager"], name="twin", description="a twin")),
    (model.pruning.SCORES, "lightest", lightest),
    (data_pipeline.datasets.DATASETS, "sample", replace(data_pipeline.datasets.DATASETS["demo"], name="sample")),
    (data_pipeline.feed.FEEDS, "mapped", replace(data_pipeline.feed.FEEDS["arrow"], description="arrow again")),
    (tune.config.sweeps.SWEEPS, "narrow", narrow),
]


def pytest_configure() -> None:
    """What the plugin of the second half does: this file, loaded with -p before anything is collected."""
    for registry, name, entry in ENTRIES:
        registry[name] = entry


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for registry, name, entry in ENTRIES:
        monkeypatch.setitem(registry, name, entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def _said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("added")
def test_the_attention_sweep_and_the_plan_know_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert "twin" in {arm.label for arm in get_sweep("attention").arms}
    planned = _said(capsys, "--sweep", "attention", "--dataset", "sample", "--repeats", "1", "--plan", "--set",
                    "pruning.score=lightest", "--set", "pruning.heads_per_layer=2")  # fmt: skip
    (trial,) = [trial for trial in planned["trials"] if trial["arm"] == "twin"]
    assert trial["unsupported"] is None
    assert (trial["params"]["model.attention"], trial["params"]["data.dataset"]) == ("twin", "sample")
    assert len(_said(capsys, "--sweep", "narrow", "--dataset", "demo", "--repeats", "1", "--plan")["trials"]) == 2
    assert "lightest-2-gradual" in {choice.label for choice in get_sweep("full").space["pruning"]}


@pytest.mark.usefixtures("added")
def test_list_and_doctor_know_them(capsys: pytest.CaptureFixture[str]) -> None:
    listed = _said(capsys, "list")
    assert listed["attention"]["twin"] == "a twin"
    assert listed["feeds"]["mapped"] == "arrow again"
    assert listed["sweeps"]["narrow"] == "Is a narrow one faster?"
    assert listed["pruning scores"]["lightest"] == "Magnitude, and nothing else."
    assert "sample" in listed["data sets"]
    kinds = {kind for kind, _ in NAMED.values()}
    assert kinds <= set(listed) and all(len(listed[kind]) > 0 for kind in kinds)
    checks = {(check["kind"], check["name"]): check for check in _said(capsys, "doctor")["checks"]}
    assert checks["attention", "twin"]["works"] and checks["data set", "sample"]["works"]


def test_list_has_every_field_with_what_it_takes_and_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    fields = _said(capsys, "list")["fields"]
    assert set(fields) == set(FIELDS) - SEED_STUDY_ONLY
    assert fields["data.num_workers"] == "whole number from 0 to 128; 0 if not given"
    assert fields["train.patience"] == "whole number from 1 or none; as the preset, else none if not given"
    assert fields["train.precision"] == "fp32, tf32, bf16, fp16; as suits the device if not given"
    assert fields["model.attention"] == "a name under 'attention', or auto; auto if not given"
    assert fields["model.dropout"] == "number from 0 below 1; as the preset if not given"


@pytest.mark.usefixtures("added")
def test_a_misspelt_one_is_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--sweep", "narow", "--plan"]) == 2
    assert "Did you mean 'narrow'?" in capsys.readouterr().err


@pytest.mark.usefixtures("added")
def test_a_trial_trains_with_them(tmp_path: Path) -> None:
    small = {
        "data.dataset": "sample", "data.feed": "mapped", "data.context_length": 48, "data.prediction_length": 24,
        "model.attention": "twin", "model.d_model": 16, "model.num_heads": 4, "train.batch_size": 512,
        "train.epochs": 1, "pruning.score": "lightest", "pruning.heads_per_layer": 1,
    }  # fmt: skip
    plan = make_plan(get_sweep("narrow"), overrides=small, repeats=1, seed=1, device=cpu_facts())
    job = TrialJob(
        trial_id="t", config=plan.trials[0].config, device_type="cpu", data_dir=str(tmp_path),
        cache_dir=str(tmp_path), cpus=1,
    )  # fmt: skip
    reports: list[Report] = []
    run_trial(job, lambda report, folder: reports.append(report))
    assert isinstance(reports[-1], TrialEnd) and reports[-1].status == "done", reports[-1]
    assert reports[-1].metrics["final/heads"] == 3


def test_every_test_that_goes_over_a_registry_picks_them_up() -> None:
    attention, pruning = "model/attention/test_backends.py", "model/pruning/test_pruning.py"
    planning, request = "tune/plan/test_plan.py", "tune/config/test_request.py"
    feeds = "data_pipeline/feed/test_feeds.py"
    files = [attention, pruning, planning, request, feeds]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "tests.test_registries"]
    done = subprocess.run(
        [*command, *(f"tests/{file}" for file in files)], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cases = done.stdout.splitlines()
    for name, least, file in (
        ("twin", 5, attention), ("twin", 1, planning), ("lightest", 3, pruning), ("lightest", 1, planning),
        ("sample", 1, planning), ("mapped", 10, feeds), ("narrow", 2, planning), ("narrow", 1, request),
    ):  # fmt: skip
        chosen = [line for line in cases if line.startswith(f"tests/{file}") and name in line.partition("[")[2]]
        assert len(chosen) >= least, (name, file, chosen)
