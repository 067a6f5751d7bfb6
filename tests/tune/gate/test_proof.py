"""Whole trials under the gate and the kernel proof; and the kernel proof by itself."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from gate_kit import NotANumber, OnePercentOff
from kernel_kit import KERNELS, OTHERS
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from trial_kit import Recorder, run_small

from model.attention import BACKENDS, eager, sdpa_flash
from model.attention.eager import Eager
from model.attention.sdpa_flash import SdpaFlash
from tune.common.errors import GateFailed
from tune.gate import check, kernel_names, profiled_step
from tune.gate.proof import Proof
from tune.trial import session

RECORDED = sorted(KERNELS.keys() & BACKENDS.keys())  # kernel names as profilers show them


def _register(name: str, attend: Any) -> str:
    from transformers import AttentionInterface

    AttentionInterface.register(name, attend)
    return name


@dataclass(frozen=True)
class FlashInName(SdpaFlash):
    """Says that it is sdpa_flash and computes plain PyTorch."""

    name: str = "fused_in_name"

    def register(self) -> str:
        return _register(self.name, eager.attend)


@dataclass(frozen=True)
class EagerInName(Eager):
    """Says that it is eager and calls PyTorch's kernel."""

    name: str = "eager_in_name"

    def register(self) -> str:
        return _register(self.name, sdpa_flash.attend)


@dataclass(frozen=True)
class Both(Eager):
    """Eager, with another backend's kernel beside its own."""

    name: str = "both"

    def register(self) -> str:
        def attend(*tensors: Any, **options: Any) -> Any:
            ours, theirs = eager.attend(*tensors, **options)[0], sdpa_flash.attend(*tensors, **options)[0]
            return (ours + theirs) / 2, None

        return _register(self.name, attend)


@dataclass(frozen=True)
class Dispatched(SdpaFlash):
    """sdpa_flash by a dispatcher that another's context manager holds, as inductor's cache may reuse it."""

    name: str = "dispatched"

    def register(self) -> str:
        def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **_: Any) -> Any:
            with sdpa_kernel(SDPBackend.MATH):
                return scaled_dot_product_attention(query, key, value, scale=scaling).transpose(1, 2).contiguous(), None

        return _register(self.name, attend)


def _run(folder: Path, backend: Any, **fields: Any) -> Recorder:
    fields = {"train__epochs": 1, "model__attention_dropout": 0.0} | fields
    return run_small(folder, model__attention=backend if isinstance(backend, str) else backend.name, **fields)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Any:
    def register(backend: Any) -> Any:
        monkeypatch.setitem(BACKENDS, backend.name, backend)
        return backend

    return register


# Whole trials


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("attention", "operator"),
    [("eager", "aten::_softmax"), ("sdpa_flash", "aten::_scaled_dot_product_flash_attention_for_cpu")],
)
def test_a_trials_tags_name_its_kernels_and_that_the_gate_passed(
    tmp_path: Path, attention: str, operator: str, precision: str
) -> None:
    final = _run(tmp_path / "a", attention, train__precision=precision).final
    assert final["status"] == "done", final
    assert final["tags"]["gate"] == "passed"
    assert {operator, f"{operator}_backward_data" if attention == "eager" else f"{operator}_backward"} <= set(
        json.loads(final["tags"]["kernels"])
    )
    metrics = final["metrics"]
    assert 0 < metrics["gate/prediction_error"] <= metrics["gate/prediction_limit"]
    assert 0 < metrics["gate/gradient_error"] <= metrics["gate/gradient_limit"]
    assert metrics["final/gate_s"] > 0


@pytest.mark.parametrize(
    ("backend", "reason"),
    [(OnePercentOff(), "predictions differ from the fp64 reference by"), (NotANumber(), "predictions are not finite")],
    ids=["one_percent_off", "not_a_number"],
)
def test_an_arm_that_is_another_function_fails_before_its_first_epoch(
    tmp_path: Path, registered: Any, backend: Any, reason: str
) -> None:
    done = _run(tmp_path / "a", registered(backend), gate_dir=tmp_path / "gate")
    assert done.epochs == []
    assert done.final["status"] == "failed_gate"
    assert done.final["reason"].startswith(reason)
    assert "\n" not in done.final["reason"]
    again = _run(tmp_path / "b", backend, gate_dir=tmp_path / "gate").final
    assert (again["status"], again["reason"].split(" (from the cache")[0]) == ("failed_gate", done.final["reason"])


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (FlashInName(), r"no kernel .* matches fused_in_name's .*flash_attention_for_cpu.*; seen: aten::softmax"),
        (EagerInName(), r"no kernel .* matches eager_in_name's .*softmax.*; seen: .*flash_attention_for_cpu"),
        (Both(), r"a training step of both ran a kernel of sdpa_flash: aten::_scaled_dot_product_flash_attention"),
        (Dispatched(), r"no kernel .* matches dispatched's .*flash_attention_for_cpu.*; seen: .*dot_product_attention"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_an_arm_that_ran_other_kernels_than_it_says_fails_though_its_numbers_are_right(
    tmp_path: Path, registered: Any, backend: Any, reason: str
) -> None:
    done = _run(tmp_path / "a", registered(backend))
    assert len(done.epochs) == 1
    assert done.final["status"] == "failed_gate", done.final
    assert re.search(reason, done.final["reason"]), done.final["reason"]
    assert done.final["metrics"]["gate/prediction_error"] <= done.final["metrics"]["gate/prediction_limit"]


def _weights_and_errors(done: Recorder) -> tuple[dict[str, torch.Tensor], list[Any]]:
    assert done.final["status"] == "done", done.final
    names = ("loss/train_mse", "loss/val_mse")
    errors = [report["metrics"][name] for report in done.epochs for name in names]
    return done.weights(len(done.reports)), [*errors, done.final["metrics"]["final/test_mse"]]


def test_a_trial_trains_the_same_with_its_gate_measured_cached_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields: dict[str, Any] = {"train__epochs": 3, "pruning__score": "taylor", "pruning__heads_per_layer": 1}
    measured = _run(tmp_path / "a", "eager", gate_dir=tmp_path / "gate", **fields)
    assert measured.final["tags"]["gate_verdict"] == "measured"
    results = sorted((tmp_path / "gate").glob("*.json"))
    cached = _run(tmp_path / "b", "eager", gate_dir=tmp_path / "gate", **fields)
    assert len(results) == 2  # with all heads and with those of the last epoch
    assert sorted((tmp_path / "gate").glob("*.json")) == results
    monkeypatch.setattr(session.Session, "pass_gate", lambda self: None)
    monkeypatch.setattr(session.Session, "prove_kernels", lambda self: None)
    without = _run(tmp_path / "c", "eager", **fields)
    assert "gate" not in without.final["tags"]
    weights, errors = _weights_and_errors(without)
    for other in (measured, cached):
        theirs = _weights_and_errors(other)
        assert theirs[1] == errors
        assert all(torch.equal(theirs[0][name], value) for name, value in weights.items())


def test_the_time_of_the_gate_is_in_no_other_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    real = Proof.pass_gate

    def slow(self: Any, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **options)
        clock[0] += 1000.0

    tick = session.time.perf_counter
    monkeypatch.setattr(session.time, "perf_counter", lambda: tick() + clock[0])
    monkeypatch.setattr(Proof, "pass_gate", slow)
    metrics = _run(tmp_path / "a", "eager").final["metrics"]
    assert metrics["final/gate_s"] > 1000
    assert all(metrics[f"final/{name}_s"] < 1000 for name in ("compile", "startup", "prune", "train_total"))


def test_a_resumed_trial_uses_the_kept_result_and_adds_up_the_gates_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "a", "eager", gate_dir=tmp_path / "gate", stop_after=1, train__epochs=2)

    def fail(*_: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(check, "measure", fail)
    checkpoint = tmp_path / "a" / "report-1"
    done = _run(tmp_path / "b", "eager", gate_dir=tmp_path / "gate", checkpoint=checkpoint, train__epochs=2)
    assert done.final["status"] == "done", done.final
    before_s = torch.load(checkpoint / "state.pt", weights_only=True)["progress"]["gate_s"]
    assert done.final["metrics"]["final/gate_s"] > before_s > 0


def test_a_batch_gated_smaller_is_in_the_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.gate.numerics.CPU_MEMORY", 2**20)
    final = _run(tmp_path / "a", "eager").final
    gated_at = int(final["metrics"]["gate/batch"])
    assert gated_at < 256
    assert final["tags"]["gate"] == f"passed, gated at batch {gated_at} of 256"


def test_the_compile_engine_is_gated_through_the_compiler_and_claims_no_kernel_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []

    def spy(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: real(function, **options, backend=spy))
    compiled_counts: list[int] = []
    passed = Proof.pass_gate

    def counting(self: Any, *arguments: Any, **options: Any) -> None:
        passed(self, *arguments, **options)
        compiled_counts.append(len(compiled))

    monkeypatch.setattr(Proof, "pass_gate", counting)
    final = _run(tmp_path / "a", "eager", train__engine="compile").final
    assert final["status"] == "done", final
    assert compiled_counts == [2]  # the loss and the forecast
    assert final["tags"]["kernels"] == "not visible on CPU with engine compile"


# The kernel proof by itself


@pytest.mark.parametrize("attention", RECORDED)
def test_a_backends_own_gpu_kernels_prove_it(attention: str) -> None:
    proven = kernel_names.check_kernels([*OTHERS, *KERNELS[attention]], attention=attention, device_type="cuda")
    assert proven
    assert set(proven) <= {name[: kernel_names.NAME_LENGTH] for name in KERNELS[attention]}


@pytest.mark.parametrize("attention", RECORDED)
def test_the_kernels_of_another_backend_prove_nothing_whoever_asks(attention: str) -> None:
    for other in set(RECORDED) - {attention}:
        with pytest.raises(GateFailed, match=f"matches {attention}'s"):
            kernel_names.check_kernels(KERNELS[other], attention=attention, device_type="cuda")
        with pytest.raises(GateFailed, match=f"a training step of {attention} ran a kernel of {other}"):
            kernel_names.check_kernels([*KERNELS[attention], *KERNELS[other]], attention=attention, device_type="cuda")


def test_a_step_without_any_kernel_proves_nothing() -> None:
    with pytest.raises(GateFailed, match="seen: none among 0 kernels"):
        kernel_names.check_kernels([], attention="eager", device_type="cuda")


def test_a_backend_that_names_no_operator_is_not_proven_by_running() -> None:
    with pytest.raises(GateFailed, match="flex names no kernel that would prove it on cpu"):
        kernel_names.check_kernels(["aten::softmax"], attention="flex", device_type="cpu")


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (KERNELS["eager"][0], "softmax_warp_forward"),
        (KERNELS["eager"][2], "native::cunn_SoftMaxForward"),
        (KERNELS["sdpa_flash"][0], "pytorch_flash::flash_fwd_kernel"),
        (KERNELS["flash_attention_2"][1], "flash::flash_bwd_dot_do_o_kernel"),
        (KERNELS["flash_attention_3"][0], "flash::FlashAttnFwdSm90"),
        ("aten::_softmax", "aten::_softmax"),
    ],
)
def test_a_short_name_still_says_which_kernel_it_is(name: str, short: str) -> None:
    assert kernel_names.short(name) == short


def test_the_profile_has_the_operators_of_a_whole_step_forward_and_backward() -> None:
    weight = torch.randn(4, 4, requires_grad=True)
    names = profiled_step.profiled_names(lambda: torch.softmax(weight, -1).square().sum().backward(), "cpu")
    assert {"aten::_softmax", "aten::_softmax_backward_data"} <= set(names)
    assert not [name for name in names if name.startswith("ProfilerStep")]


def _graph(function: Any) -> str:
    """What dynamo hands to a compiler; inductor's cache on disk knows a graph by it."""
    seen: list[str] = []

    def keep(graph: Any, inputs: Any) -> Any:
        seen.append(graph.code)
        return graph.forward

    torch._dynamo.reset()
    tensors = [torch.randn(2, 4, 6, 8) for _ in range(3)]
    torch.compile(function, backend=keep, fullgraph=True)(*tensors)
    return seen[0]


def test_the_dispatcher_under_two_contexts_is_one_graph_and_explicit_operators_are_two() -> None:
    dispatched = []
    for choice in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):
        with sdpa_kernel(choice):
            dispatched.append(_graph(lambda *tensors: scaled_dot_product_attention(*tensors)))
    assert dispatched[0] == dispatched[1]
    module = torch.nn.Module()
    explicit = [
        _graph(lambda *tensors, attend=attend: attend(module, *tensors, None, scaling=0.3)[0])
        for attend in (eager.attend, sdpa_flash.attend)
    ]
    assert explicit[0] != explicit[1]


@pytest.mark.parametrize(
    ("names", "path"),
    [
        (["fused_norm_unite", "hopper_qkv", "patch_attention_forward"], "Hopper kernels"),
        (["fused_norm_unite", "fused_linear_forward"], "plain Triton kernels"),
        (["triton_poi_fused_add_0", "ampere_bf16_s16816gemm"], "PyTorch's"),
    ],
)
def test_a_steps_kernels_say_who_computed_the_layers(names: list[str], path: str) -> None:
    assert kernel_names.layers_path(names) == path
