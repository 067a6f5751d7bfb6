"""The gate's results on disk: measured once, read afterwards, and never believed if they are damaged."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gate_kit import ARM, BAD, CPU, GOOD, MODEL, SMALL, with_attention

from tune.common.errors import GateFailed
from tune.gate import check, identity
from tune.gate.numerics import Measurement


class Counted:
    """Stands in for `measure` and counts."""

    def __init__(self, answer: Measurement) -> None:
        self.answer, self.calls = answer, 0

    def __call__(self, *_: Any) -> Measurement:
        self.calls += 1
        return self.answer


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counter = Counted(GOOD)
    monkeypatch.setattr(check, "measure", counter)
    return counter


def test_an_arm_is_measured_once_and_read_afterwards(tmp_path: Path, counted: Counted) -> None:
    first, again = (check.check_arm(ARM, CPU, tmp_path / "gate") for _ in range(2))
    assert counted.calls == 1
    assert (first.cached, again.cached) == (False, True)
    assert first.measured == again.measured == GOOD
    assert (tmp_path / "gate").stat().st_mode & 0o777 == 0o700


CHANGES: dict[str, Any] = {
    "attention": with_attention("sdpa_flash"),
    "engine": replace(ARM, engine="compile"),
    "precision": replace(ARM, precision="bf16"),
    "batch": replace(ARM, batch_size=9),
    "heads": replace(ARM, heads=3),
    **{
        name: replace(ARM, model=MODEL | {name: 16})
        for name in ("num_channels", "context_length", "patch_length", "patch_stride", "d_model", "prediction_length")
    },
}


@pytest.mark.parametrize("part", CHANGES)
def test_another_arm_is_measured_anew(tmp_path: Path, counted: Counted, part: str) -> None:
    check.check_arm(ARM, CPU, tmp_path / "gate")
    assert not check.check_arm(CHANGES[part], CPU, tmp_path / "gate").cached
    assert counted.calls == 2


@pytest.mark.parametrize("part", ["torch", "triton", "transformers", "flash-attn", "device", "sources", "setting"])
def test_another_version_device_or_source_is_measured_anew(
    tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    check.check_arm(ARM, CPU, tmp_path / "gate")
    installed, facts = identity.versions(), identity.node_facts(use_gpu=False)
    if part == "device":
        monkeypatch.setattr(identity, "node_facts", lambda **_: replace(facts, name="another CPU"))
    elif part == "sources":
        monkeypatch.setattr(identity, "_sources_sha256", lambda: "0" * 64)
    elif part == "setting":
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    else:
        monkeypatch.setattr(identity, "versions", lambda: installed | {part: "0.0"})
    assert not check.check_arm(ARM, CPU, tmp_path / "gate").cached


def test_the_sources_that_decide_a_result_are_part_of_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each package on its own, as Ray ships them to a worker that does not share the driver's disk."""
    hashed = {
        f"{package}/{path.relative_to(identity.package_dir(package))}"
        for package, pattern in identity.SOURCES
        for path in identity.package_dir(package).glob(pattern)
    }
    assert {
        "model/attention/eager.py",
        "model/patchtst.py",
        "tune/engine/step.py",
        "tune/engine/__init__.py",
        "tune/gate/check.py",
    } <= hashed
    here = identity._sources_sha256()
    for package in ("model", "tune"):
        shutil.copytree(identity.package_dir(package), tmp_path / f"shipped-{package}" / package)
    monkeypatch.setattr(identity, "package_dir", lambda package: tmp_path / f"shipped-{package}" / package)
    assert identity._sources_sha256() == here
    (tmp_path / "shipped-model" / "model" / "attention" / "eager.py").write_text("changed")
    assert identity._sources_sha256() != here
    shutil.rmtree(tmp_path / "shipped-model" / "model")
    with pytest.raises(RuntimeError, match=r"has no \*\*/\*.py, on which the gate's results depend"):
        identity._sources_sha256()


def test_dropout_is_no_part_of_the_key_for_the_gate_has_none(tmp_path: Path, counted: Counted) -> None:
    check.check_arm(ARM, CPU, tmp_path / "gate")
    assert check.check_arm(replace(ARM, model=MODEL | {"dropout": 0.0}), CPU, tmp_path / "gate").cached


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "{",
        lambda content: "null",
        lambda content: "",
        lambda content: json.dumps({"about": content["about"]}),
        lambda content: json.dumps(content | {"about": {"engine": "eager"}}),
        lambda content: json.dumps(content | {"measured": {"passed": True}}),
        lambda content: json.dumps(content | {"measured": content["measured"] | {"batch_size": 0}}),
        lambda content: json.dumps(content | {"measured": content["measured"] | {"attention": {"arm": 0.0}}}),
        lambda content: json.dumps(
            content | {"measured": content["measured"] | {"attention": {"arm": -1.0, "eager": 0.0}}}
        ),
        lambda content: json.dumps(
            content | {"measured": content["measured"] | {"arm": {"predictions": -1.0, "gradients": 0.0}}}
        ),
        lambda content: json.dumps(
            content | {"measured": content["measured"] | {"arm": {"predictions": "0", "gradients": 0.0}}}
        ),
    ],
)
def test_a_damaged_result_is_measured_again_with_a_line_that_says_so(
    tmp_path: Path, counted: Counted, capfd: pytest.CaptureFixture[str], damage: Any
) -> None:
    file = check.check_arm(ARM, CPU, tmp_path / "gate").file
    assert file is not None
    file.write_text(damage(json.loads(file.read_text())))
    assert not check.check_arm(ARM, CPU, tmp_path / "gate").cached
    assert f"{file} is damaged" in capfd.readouterr().err
    assert check.check_arm(ARM, CPU, tmp_path / "gate").cached


def test_bytes_that_are_no_text_are_a_damaged_result(tmp_path: Path, counted: Counted) -> None:
    file = check.check_arm(ARM, CPU, tmp_path / "gate").file
    assert file is not None
    file.write_bytes(b"\xff\xfe\x00")
    assert not check.check_arm(ARM, CPU, tmp_path / "gate").cached


def test_a_failed_result_is_kept_and_says_that_it_comes_from_the_cache(tmp_path: Path, counted: Counted) -> None:
    counted.answer = BAD
    with pytest.raises(GateFailed) as fresh:
        check.require_pass(ARM, CPU, tmp_path / "gate")
    assert str(fresh.value) == "predictions differ from the fp64 reference by 3.1e-02, allowed 2 x 1.2e-03 + 1e-06"
    assert fresh.value.metrics["gate/prediction_error"] == 3.1e-2
    with pytest.raises(GateFailed) as cached:
        check.require_pass(ARM, CPU, tmp_path / "gate")
    assert counted.calls == 1
    key = check.check_arm(ARM, CPU, tmp_path / "gate").key
    file = tmp_path / "gate" / f"{key}.json"
    assert str(cached.value) == f"{fresh.value} (from the cache, key {key}: delete {file} to measure again)"
    file.unlink()
    counted.answer = GOOD
    assert check.require_pass(ARM, CPU, tmp_path / "gate").problem is None


def test_errors_that_are_not_finite_survive_the_disk(tmp_path: Path, counted: Counted) -> None:
    counted.answer = replace(GOOD, arm=replace(SMALL, predictions=float("nan"), gradients=float("inf")))
    for _ in range(2):
        with pytest.raises(GateFailed, match="not finite"):
            check.require_pass(ARM, CPU, tmp_path / "gate")
    assert counted.calls == 1


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, counted: Counted) -> None:
    tmp_path.chmod(0o770)
    with pytest.raises(RuntimeError, match=f"chmod 700 {tmp_path}"):
        check.check_arm(ARM, CPU, tmp_path)


def test_a_result_that_cannot_be_written_is_reported_and_still_holds(
    tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(check, "write_atomically", full)
    assert check.require_pass(ARM, CPU, tmp_path / "gate").problem is None
    assert "No space left on device" in capfd.readouterr().err


def _check_slowly(folder: Path, barrier: Any, answers: Any) -> None:
    """What each of two processes does: measuring takes long enough that both are there."""
    import time

    def slow(*_: Any) -> Measurement:
        time.sleep(1.0)
        return GOOD

    check.measure = slow
    barrier.wait(60)
    answers.put(check.check_arm(ARM, CPU, folder).cached)


def test_two_processes_at_once_measure_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")  # a new one would import torch and transformers for half a minute
    barrier, answers = fork.Barrier(2), fork.Queue()
    processes = [fork.Process(target=_check_slowly, args=(tmp_path / "gate", barrier, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    try:
        assert sorted(answers.get(timeout=120) for _ in processes) == [False, True]
    finally:
        for process in processes:
            process.join(30)


def test_an_arm_that_another_trial_measures_for_too_long_is_measured_here_too(
    tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import filelock

    monkeypatch.setattr(check, "LONGEST_WAIT_S", 0.1)
    key = check.check_arm(ARM, CPU, None).key
    os.makedirs(tmp_path / "gate", mode=0o700)
    with filelock.FileLock(tmp_path / "gate" / f"{key}.lock"):
        assert not check.check_arm(ARM, CPU, tmp_path / "gate").cached
    assert "another trial has been measuring" in capfd.readouterr().err
