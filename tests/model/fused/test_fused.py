"""The fused layers: what they take, how they are planned, and their kernels on a GPU."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.fused import INSTEAD, shape_reason, unsupported_reason
from model.patchtst import build_model, load_model, save_model
from model.presets import PRESETS
from tune.config.sweeps import Arm, SweepConfig
from tune.gate.check import check_arm
from tune.gate.numerics import GatedArm
from tune.machine.device import DeviceFacts
from tune.plan.plan import make_plan
from tune.plan.text import plan_lines

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
STUDY = {name.removeprefix("model."): PRESETS["study"][name] for name in PRESETS["study"] if name.startswith("model.")}
SHAPE = {name: STUDY[name] for name in ("d_model", "ffn_dim")}
H100 = DeviceFacts(device_type="cuda", name="NVIDIA H100 80GB HBM3", gpus=1, cpus=8, capability=(9, 0), memory_gib=79.0)
CPU = DeviceFacts(device_type="cpu", name="AMD EPYC", cpus=2)


def _layers(device: DeviceFacts, **given: Any) -> tuple[str, str | None]:
    """Who computes the layers of a planned trial, and why it cannot run."""
    sweep = SweepConfig(name="one", question="", baseline="arm", arms=(Arm(label="arm", changes={}),))
    fields = {"data.dataset": "demo"} | {name.replace("__", "."): value for name, value in given.items()}
    trial = make_plan(sweep, overrides=fields, repeats=1, seed=1, device=device).trials[0]
    return trial.config.model.layers, trial.unsupported


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"d_model": 272}, "d_model divisible by 16 of at most 256 and got 272"),
        ({"d_model": 40}, "d_model divisible by 16 of at most 256 and got 40"),
        ({"ffn_dim": 100}, "ffn_dim divisible by 16 and got 100"),
        ({"activation": "tanh"}, "the activations gelu and relu and got tanh"),
    ],
    ids=str,
)
def test_a_model_that_they_were_not_written_for_gets_the_reason_and_what_to_do(change: Any, says: str) -> None:
    reason = shape_reason(**SHAPE | change)
    assert reason and says in reason and reason.endswith(INSTEAD)


def test_they_take_the_studys_model_on_a_gpu_in_half_precision_only() -> None:
    for precision in ("bf16", "fp16"):
        there = {"precision": precision, "device_type": "cuda", "capability": (9, 0)}
        assert unsupported_reason(**SHAPE, **there) is None  # type: ignore[arg-type]
    for change, says in (
        ({"precision": "fp32"}, "bf16 or fp16"),
        ({"capability": (7, 5)}, "compute capability 8.0"),
        ({"device_type": "cpu"}, "CUDA GPU"),
    ):
        reason = unsupported_reason(**SHAPE, **{**there, **change})  # type: ignore[arg-type]
        assert reason and says in reason


@pytest.mark.parametrize("preset", PRESETS)
def test_they_take_every_preset(preset: str) -> None:
    layers, reason = _layers(H100, model__preset=preset, model__layers="fused")
    assert (layers, reason) == ("fused", None)


@pytest.mark.parametrize(
    "given", [{}, {"model__preset": "ettm"}, {"model__norm_type": "layernorm"}, {"model__d_model": 256}], ids=str
)
def test_auto_takes_every_model_that_they_carry(given: dict[str, Any]) -> None:
    assert _layers(H100, **given) == ("fused", None)


def test_auto_is_resolved_when_planning_and_does_not_depend_on_the_engine() -> None:
    for engine in ("eager", "compile", "graph"):
        assert _layers(H100, train__engine=engine) == ("fused", None)
    assert _layers(H100, train__precision="fp32") == ("transformers", None)
    assert _layers(H100, model__d_model=272) == ("transformers", None)
    assert _layers(CPU) == ("transformers", None)
    assert _layers(H100, model__layers="transformers") == ("transformers", None)


def test_where_auto_would_give_the_arms_of_a_sweep_different_layers_all_get_transformers() -> None:
    arms = tuple(Arm(label=precision, changes={"train.precision": precision}) for precision in ("bf16", "fp16", "fp32"))
    for taken, layers in ((arms, "transformers"), (arms[:2], "fused")):
        sweep = SweepConfig(name="one", question="", baseline="bf16", arms=taken)
        trials = make_plan(sweep, overrides={"data.dataset": "demo"}, repeats=2, seed=1, device=H100).trials
        assert {trial.config.model.layers for trial in trials} == {layers}
        assert len(trials) == 2 * len(taken) and all(trial.unsupported is None for trial in trials)


def test_the_plan_says_why_trials_on_a_gpu_run_through_transformers_layers() -> None:
    sweep = SweepConfig(name="one", question="", baseline="arm", arms=(Arm(label="arm", changes={}),))
    for device, given, says in (
        (H100, {"model.ffn_dim": 100}, "layers transformers: fused layers take an ffn_dim divisible by 16 and got 100"),
        (H100, {}, None),
        (CPU, {}, None),
    ):
        fields = {"data.dataset": "demo"} | given
        lines = list(plan_lines(make_plan(sweep, overrides=fields, repeats=1, seed=1, device=device)))
        assert [line.strip() for line in lines if "layers transformers:" in line] == ([says] if says else [])


def test_fused_layers_that_were_asked_for_are_never_replaced() -> None:
    layers, reason = _layers(H100, model__layers="fused", model__ffn_dim=100)
    assert layers == "fused" and reason and "got 100" in reason
    layers, reason = _layers(CPU, model__layers="fused")
    assert layers == "fused" and reason and "CUDA GPU" in reason


def _model(**changes: Any) -> Any:
    fields = STUDY | {"patch_stride": 12, "num_channels": 7, "context_length": 96, "prediction_length": 24}
    return build_model(**fields | {"attention": "eager"} | changes)


def test_asking_the_model_itself_for_what_they_cannot_do_is_an_error() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    with pytest.raises(ValueError, match=r"got 100: set model.layers=transformers"):
        _model(layers="fused", ffn_dim=100)


def test_saving_and_loading_go_both_ways(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    fused = _model(layers="fused")
    save_model(fused, tmp_path / "model")
    for layers in ("transformers", "fused"):
        again = load_model(tmp_path / "model", layers=layers)
        for (name, value), (other, loaded) in zip(fused.state_dict().items(), again.state_dict().items(), strict=True):
            assert name == other and torch.equal(value, loaded)


EVERY_CASE = itertools.product(
    ["patch", "sdpa_efficient"], ["bf16", "fp16"], [16, 11, 8], ["eager", "compile", "graph"]
)
OTHER_BACKENDS = itertools.product(
    ["eager", "sdpa_cudnn", "sdpa_flash", "flash_attention_2"], ["bf16"], [16], ["graph"]
)


@needs_gpu
@pytest.mark.parametrize(("attention", "precision", "heads", "engine"), [*EVERY_CASE, *OTHER_BACKENDS])
def test_on_the_gpu_they_pass_the_gate(attention: str, precision: str, heads: int, engine: str) -> None:
    if attention == "flash_attention_2":
        pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    model = STUDY | {"patch_stride": 12, "num_channels": 7, "context_length": 512, "prediction_length": 96}
    arm = GatedArm(
        model=model | {"attention": attention, "layers": "fused"},
        heads=heads,
        engine=engine,
        precision=precision,
        batch_size=33,
    )
    assert check_arm(arm, torch.device("cuda"), None).problem is None


@needs_gpu
def test_on_the_gpu_gradients_are_the_same_to_the_last_bit_every_time() -> None:
    model = _model(layers="fused", attention="patch").cuda()
    past, future = torch.randn(64, 96, 7, device="cuda"), torch.randn(64, 24, 7, device="cuda")

    def gradients() -> list[torch.Tensor]:
        again = copy.deepcopy(model)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            again(past_values=past, future_values=future).loss.backward()
        return [parameter.grad for parameter in again.parameters() if parameter.grad is not None]

    torch.manual_seed(0)
    first = gradients()
    torch.manual_seed(0)
    assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))


def test_a_device_of_unknown_capability_is_not_refused() -> None:
    assert _layers(replace(H100, capability=None)) == ("fused", None)
