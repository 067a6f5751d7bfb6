"""The gate: what passes, what does not, what a verdict is kept under, and that nothing of it reaches the training."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from capture_kit import RecordingCapture

from model.attention import BACKENDS
from model.attention.base import Workload
from model.attention.eager import Eager, attend
from tune import gate, numerics
from tune.engines import ENGINES
from tune.errors import GateFailed
from tune.graph import GraphStepper
from tune.numerics import Errors, Measured, Subject, measure

CPU = torch.device("cpu")
MODEL = {
    "num_channels": 3,
    "context_length": 48,
    "prediction_length": 24,
    "patch_length": 8,
    "patch_stride": 8,
    "d_model": 32,
    "num_heads": 4,
    "num_layers": 2,
    "ffn_dim": 32,
    "dropout": 0.3,
    "head_dropout": 0.1,
    "attention_dropout": 0.1,
    "norm_type": "batchnorm",
    "pre_norm": False,
    "attention": "eager",
}
SUBJECT = Subject(model=MODEL, heads=4, engine="eager", precision="fp32", batch_size=8)
GOOD = Measured(
    arm=Errors(predictions=1e-7, gradients=2e-7), eager=Errors(predictions=1e-7, gradients=2e-7), batch_size=8
)
BAD = replace(GOOD, arm=Errors(predictions=3.1e-2, gradients=2e-7), eager=Errors(predictions=1.2e-3, gradients=2e-7))


@dataclass(frozen=True)
class OnePercentOff(Eager):
    """eager with its scores scaled by 1 % too much."""

    name: str = "one_percent_off"

    def register(self) -> str:
        from transformers import AttentionInterface

        def scaled(*tensors: Any, scaling: float, **options: Any) -> Any:
            return attend(*tensors, scaling=1.01 * scaling, **options)

        AttentionInterface.register(self.name, scaled)
        return self.name


@dataclass(frozen=True)
class NotANumber(Eager):
    """eager with NaN in one place of its output."""

    name: str = "not_a_number"

    def register(self) -> str:
        from transformers import AttentionInterface

        def broken(*tensors: Any, **options: Any) -> Any:
            output, weights = attend(*tensors, **options)
            return output.masked_fill(torch.arange(output.numel()).view(output.shape) == 5, torch.nan), weights

        AttentionInterface.register(self.name, broken)
        return self.name


def _with(attention: str, **changes: Any) -> Subject:
    return replace(SUBJECT, model=MODEL | {"attention": attention}, **changes)


def _workload(precision: str) -> Workload:
    return Workload(
        device_type="cpu", capability=None, precision=precision, head_dim=8, attention_dropout=0.0, sequences=24,
        patches=6, num_heads=4,
    )  # fmt: skip


@pytest.mark.parametrize("heads", [4, 1])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("attention", BACKENDS)
def test_every_backend_passes_at_every_precision_with_all_of_its_heads_and_with_one(
    attention: str, precision: str, heads: int
) -> None:
    if reason := BACKENDS[attention].unsupported_reason(_workload(precision)):
        pytest.skip(reason)
    verdict = gate.require(_with(attention, precision=precision, heads=heads), CPU, None)
    assert 0 < verdict.measured.arm.predictions <= verdict.prediction_limit
    assert 0 < verdict.measured.arm.gradients <= verdict.gradient_limit


def test_the_reference_is_fp64_and_the_precision_shows_in_the_yardstick() -> None:
    errors = {precision: measure(replace(SUBJECT, precision=precision), CPU).eager for precision in ("fp32", "bf16")}
    assert 1e-9 < errors["fp32"].predictions < 1e-5 < 1e-4 < errors["bf16"].predictions < 0.1
    assert 1e-9 < errors["fp32"].gradients < 1e-5 < 1e-4 < errors["bf16"].gradients < 0.1


def test_scores_scaled_by_one_percent_too_much_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "one_percent_off", OnePercentOff())
    with pytest.raises(GateFailed, match=r"predictions differ from the fp64 reference by .*, allowed 2 x .* \+ 1e-06"):
        gate.require(_with("one_percent_off"), CPU, None)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_is_not_finite_does_not_pass(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setitem(BACKENDS, "not_a_number", NotANumber())
    with pytest.raises(GateFailed, match="predictions are not finite; gradients are not finite"):
        gate.require(_with("not_a_number", precision=precision), CPU, None)


def test_an_infinite_yardstick_lets_nothing_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    infinite = Errors(predictions=float("inf"), gradients=float("inf"))
    monkeypatch.setattr(gate, "measure", lambda *_: replace(GOOD, arm=infinite, eager=infinite))
    with pytest.raises(GateFailed, match="of the eager arm itself are not finite"):
        gate.require(SUBJECT, CPU, None)


def test_the_gradient_that_is_rounding_alone_does_not_count() -> None:
    model = numerics._build(MODEL, 4)
    recorder = numerics._Recorder(model)
    every = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert recorder.gradients().numel() == every - MODEL["num_layers"] * MODEL["d_model"]  # type: ignore[operator]


def test_a_step_that_gives_no_gradient_leaves_none_of_the_step_before() -> None:
    model = torch.nn.Linear(2, 1)
    recorder = numerics._Recorder(model)
    model(torch.ones(1, 2)).sum().backward()
    recorder.step()
    assert torch.equal(recorder.gradients(), torch.ones(3, dtype=torch.float64))
    assert recorder.gradients().isnan().all()


def test_a_batch_that_does_not_fit_is_gated_smaller_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure(SUBJECT, CPU).batch_size == 8
    monkeypatch.setattr(numerics, "CPU_MEMORY", 2**20)
    smaller = measure(SUBJECT, CPU).batch_size
    assert 1 <= smaller < 8
    monkeypatch.setattr(gate, "measure", lambda *_: replace(BAD, batch_size=smaller))
    assert (gate.judge(SUBJECT, CPU, None).problem or "").endswith(f", gated at batch {smaller}")


def test_the_gate_leaves_random_state_and_settings_as_they_were() -> None:
    torch.manual_seed(5)
    torch.set_float32_matmul_precision("high")
    try:
        before = torch.get_rng_state()
        measure(SUBJECT, CPU)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_its_own_batches_and_weights_do_not_depend_on_the_random_state_around_it() -> None:
    torch.manual_seed(1)
    first = measure(SUBJECT, CPU)
    torch.manual_seed(2)
    assert measure(SUBJECT, CPU) == first


def test_the_graph_engine_is_gated_as_it_replays_its_captured_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tape of operators stands for the CUDA graph."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    built: list[GraphStepper] = []

    def build(model: Any, optimizer: Any, **options: Any) -> GraphStepper:
        built.append(GraphStepper(model, optimizer, capture=RecordingCapture(), **options))
        return built[-1]

    monkeypatch.setattr(ENGINES["graph"], "build", build)
    for attention in ("eager", "sdpa_flash"):
        assert gate.require(_with(attention, engine="graph"), CPU, None).relative_error <= 1
    assert len(built) == 2
    assert all(stepper.next_step == numerics.BATCHES for stepper in built)


# The verdict on disk


class Counted:
    """Stands in for `measure` and counts."""

    def __init__(self, answer: Measured) -> None:
        self.answer, self.calls = answer, 0

    def __call__(self, *_: Any) -> Measured:
        self.calls += 1
        return self.answer


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counter = Counted(GOOD)
    monkeypatch.setattr(gate, "measure", counter)
    return counter


def test_a_verdict_is_measured_once_and_read_afterwards(tmp_path: Path, counted: Counted) -> None:
    first, again = (gate.judge(SUBJECT, CPU, tmp_path / "gate") for _ in range(2))
    assert counted.calls == 1
    assert (first.cached, again.cached) == (False, True)
    assert first.measured == again.measured == GOOD
    assert (tmp_path / "gate").stat().st_mode & 0o777 == 0o700


CHANGES: dict[str, Any] = {
    "attention": _with("sdpa_flash"),
    "engine": replace(SUBJECT, engine="compile"),
    "precision": replace(SUBJECT, precision="bf16"),
    "batch": replace(SUBJECT, batch_size=9),
    "heads": replace(SUBJECT, heads=3),
    **{
        name: replace(SUBJECT, model=MODEL | {name: 16})
        for name in ("num_channels", "context_length", "patch_length", "patch_stride", "d_model", "prediction_length")
    },
}


@pytest.mark.parametrize("part", CHANGES)
def test_another_arm_has_another_verdict(tmp_path: Path, counted: Counted, part: str) -> None:
    gate.judge(SUBJECT, CPU, tmp_path / "gate")
    assert not gate.judge(CHANGES[part], CPU, tmp_path / "gate").cached
    assert counted.calls == 2


@pytest.mark.parametrize("part", ["torch", "triton", "transformers", "flash-attn", "device", "sources", "setting"])
def test_another_version_device_or_source_asks_for_a_new_verdict(
    tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    gate.judge(SUBJECT, CPU, tmp_path / "gate")
    installed, facts = gate.versions(), gate.node_facts(use_gpu=False)
    if part == "device":
        monkeypatch.setattr(gate, "node_facts", lambda **_: replace(facts, name="another CPU"))
    elif part == "sources":
        monkeypatch.setattr(gate, "_sources_sha256", lambda: "0" * 64)
    elif part == "setting":
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    else:
        monkeypatch.setattr(gate, "versions", lambda: installed | {part: "0.0"})
    assert not gate.judge(SUBJECT, CPU, tmp_path / "gate").cached


def test_the_sources_that_decide_a_verdict_are_part_of_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each package on its own, as Ray ships them to a worker that does not share the driver's disk."""
    found = {
        f"{package}/{path.relative_to(gate.package_dir(package))}"
        for package, pattern in gate.SOURCES
        for path in gate.package_dir(package).glob(pattern)
    }
    assert {"model/attention/eager.py", "model/patchtst.py", "tune/step.py", "tune/engines.py", "tune/gate.py"} <= found
    here = gate._sources_sha256()
    for package in ("model", "tune"):
        shutil.copytree(gate.package_dir(package), tmp_path / f"shipped-{package}" / package)
    monkeypatch.setattr(gate, "package_dir", lambda package: tmp_path / f"shipped-{package}" / package)
    assert gate._sources_sha256() == here
    (tmp_path / "shipped-model" / "model" / "attention" / "eager.py").write_text("changed")
    assert gate._sources_sha256() != here
    shutil.rmtree(tmp_path / "shipped-model" / "model")
    with pytest.raises(RuntimeError, match=r"has no \*\*/\*.py, on which the gate's verdicts depend"):
        gate._sources_sha256()


def test_dropout_is_no_part_of_the_key_for_the_gate_has_none(tmp_path: Path, counted: Counted) -> None:
    gate.judge(SUBJECT, CPU, tmp_path / "gate")
    assert gate.judge(replace(SUBJECT, model=MODEL | {"dropout": 0.0}), CPU, tmp_path / "gate").cached


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
        lambda content: json.dumps(
            content | {"measured": content["measured"] | {"arm": {"predictions": -1.0, "gradients": 0.0}}}
        ),
        lambda content: json.dumps(
            content | {"measured": content["measured"] | {"arm": {"predictions": "0", "gradients": 0.0}}}
        ),
    ],
)
def test_a_damaged_verdict_is_measured_again_with_a_line_that_says_so(
    tmp_path: Path, counted: Counted, capfd: pytest.CaptureFixture[str], damage: Any
) -> None:
    file = gate.judge(SUBJECT, CPU, tmp_path / "gate").file
    assert file is not None
    file.write_text(damage(json.loads(file.read_text())))
    assert not gate.judge(SUBJECT, CPU, tmp_path / "gate").cached
    assert f"{file} is damaged" in capfd.readouterr().err
    assert gate.judge(SUBJECT, CPU, tmp_path / "gate").cached


def test_bytes_that_are_no_text_are_a_damaged_verdict(tmp_path: Path, counted: Counted) -> None:
    file = gate.judge(SUBJECT, CPU, tmp_path / "gate").file
    assert file is not None
    file.write_bytes(b"\xff\xfe\x00")
    assert not gate.judge(SUBJECT, CPU, tmp_path / "gate").cached


def test_a_failed_verdict_is_kept_and_says_that_it_comes_from_the_cache(tmp_path: Path, counted: Counted) -> None:
    counted.answer = BAD
    with pytest.raises(GateFailed) as fresh:
        gate.require(SUBJECT, CPU, tmp_path / "gate")
    assert str(fresh.value) == "predictions differ from the fp64 reference by 3.1e-02, allowed 2 x 1.2e-03 + 1e-06"
    assert fresh.value.metrics["gate/prediction_error"] == 3.1e-2
    with pytest.raises(GateFailed) as cached:
        gate.require(SUBJECT, CPU, tmp_path / "gate")
    assert counted.calls == 1
    key = gate.judge(SUBJECT, CPU, tmp_path / "gate").key
    file = tmp_path / "gate" / f"{key}.json"
    assert str(cached.value) == f"{fresh.value} (from the cache, key {key}: delete {file} to measure again)"
    file.unlink()
    counted.answer = GOOD
    assert gate.require(SUBJECT, CPU, tmp_path / "gate").problem is None


def test_errors_that_are_not_finite_survive_the_disk(tmp_path: Path, counted: Counted) -> None:
    counted.answer = replace(GOOD, arm=Errors(predictions=float("nan"), gradients=float("inf")))
    for _ in range(2):
        with pytest.raises(GateFailed, match="not finite"):
            gate.require(SUBJECT, CPU, tmp_path / "gate")
    assert counted.calls == 1


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, counted: Counted) -> None:
    tmp_path.chmod(0o770)
    with pytest.raises(RuntimeError, match=f"chmod 700 {tmp_path}"):
        gate.judge(SUBJECT, CPU, tmp_path)


def test_a_verdict_that_cannot_be_written_is_said_and_still_holds(
    tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gate, "write_atomically", full)
    assert gate.require(SUBJECT, CPU, tmp_path / "gate").problem is None
    assert "No space left on device" in capfd.readouterr().err


def _judge_slowly(folder: Path, barrier: Any, answers: Any) -> None:
    """What each of two processes does: measuring takes long enough that both are there."""
    import time

    def slow(*_: Any) -> Measured:
        time.sleep(1.0)
        return GOOD

    gate.measure = slow
    barrier.wait(60)
    answers.put(gate.judge(SUBJECT, CPU, folder).cached)


def test_two_processes_at_once_measure_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(2), spawn.Queue()
    processes = [spawn.Process(target=_judge_slowly, args=(tmp_path / "gate", barrier, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    try:
        assert sorted(answers.get(timeout=120) for _ in processes) == [False, True]
    finally:
        for process in processes:
            process.join(30)


def test_a_measurement_that_takes_for_ever_elsewhere_is_made_here_too(
    tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import filelock

    monkeypatch.setattr(gate, "LONGEST_WAIT_S", 0.1)
    key = gate.judge(SUBJECT, CPU, None).key
    os.makedirs(tmp_path / "gate", mode=0o700)
    with filelock.FileLock(tmp_path / "gate" / f"{key}.lock"):
        assert not gate.judge(SUBJECT, CPU, tmp_path / "gate").cached
    assert "by another trial; measuring it here too" in capfd.readouterr().err
