"""GPU memory before the start: what the plan says, what it refuses, and what all arms then share."""

from __future__ import annotations

from typing import Any

from tune.config.sweeps import Arm, SweepConfig
from tune.machine.device import DeviceFacts
from tune.plan import memory
from tune.plan.data import DataFacts
from tune.plan.plan import Plan, make_plan, plan_rows
from tune.plan.text import plan_lines

BATCHES = SweepConfig(
    name="custom", question="?", baseline="small",
    arms=(Arm(label="small", changes={"train.batch_size": 8}), Arm(label="large", changes={"train.batch_size": 48})),
)  # fmt: skip
TRAFFIC = {
    "data.dataset": "traffic",
    "model.preset": "traffic",
    "model.attention": "patch",
    "model.layers": "transformers",
}


def _plan(memory_gib: float | None, **given: Any) -> Plan:
    device = DeviceFacts(
        device_type="cuda", name="A GPU", capability=(8, 0), gpus=1, memory_gib=memory_gib, missing={}, compilers={}
    )
    return make_plan(BATCHES, overrides=TRAFFIC | given, repeats=1, seed=1, device=device, data=DataFacts(channels=862))


def _of(plan: Plan, arm: str) -> Any:
    return next(trial for trial in plan.trials if trial.arm == arm)


def test_the_plan_says_each_arms_memory() -> None:
    plan = _plan(79.6)
    text = "\n".join(plan_lines(plan))
    sizes = {trial.arm: trial.memory_gib for trial in plan.trials}
    assert 3 < sizes["small"] < 5 and 20 < sizes["large"] < 26
    assert f"memory {sizes['small']:.2f} to {sizes['large']:.2f} GiB of the GPU's 79.6 at the peak" in text
    assert f"custom-large-s1  {sizes['large']:.2f} GiB" in text
    assert {row["arm"]: row["memory_gib"] for row in plan_rows(plan.trials)} == sizes


def test_a_step_that_cannot_fit_is_refused_with_what_to_do() -> None:
    plan = _plan(15.8, **{"model.recompute": "never"})
    assert _of(plan, "small").unsupported is None
    reason = _of(plan, "large").unsupported
    assert reason is not None and "A GPU has 15.8: give a smaller train.batch_size than 48" in reason
    assert "or model.recompute=always, which needs about " in reason and "\n" not in reason


def test_a_step_within_the_error_is_not_refused() -> None:
    never = {"model.recompute": "never"}
    needed = _of(_plan(79.6), "large").memory_gib
    assert _of(_plan(needed, **never), "large").unsupported is None
    assert _of(_plan(0.85 * needed, **never), "large").unsupported is not None


def test_unknown_memory_refuses_nothing_and_a_cpu_has_none() -> None:
    assert {trial.unsupported for trial in _plan(None).trials} == {None}
    cpu = make_plan(
        BATCHES, overrides={"data.dataset": "demo", "model.preset": "tiny"}, repeats=1, seed=1,
        device=DeviceFacts(device_type="cpu", name="cpu"),
    )  # fmt: skip
    assert {trial.memory_gib for trial in cpu.trials} == {None}


def test_recomputing_that_is_asked_for_is_said_and_needs_less() -> None:
    plan = _plan(79.6, **{"model.recompute": "always"})
    assert _of(plan, "large").memory_gib < 0.6 * _of(_plan(79.6), "large").memory_gib
    text = "\n".join(plan_lines(plan))
    assert ", recompute always" in text and "computed again in the backward pass" in text
    assert plan_rows(plan.trials)[0]["params"]["model.recompute"] == "always"


def test_auto_recomputes_in_all_arms_where_one_does_not_fit() -> None:
    assert {trial.config.model.recompute for trial in _plan(15.8).trials} == {"always"}
    assert {trial.unsupported for trial in _plan(15.8).trials} == {None}
    assert {trial.config.model.recompute for trial in _plan(79.6).trials} == {"never"}
    never = _plan(15.8, **{"model.recompute": "never"})
    assert {trial.config.model.recompute for trial in never.trials} == {"never"}
    assert _of(never, "large").unsupported is not None


def test_a_captured_step_that_would_set_the_random_state_is_refused() -> None:
    given = {"model.recompute": "always", "model.attention": "sdpa_efficient"}
    assert "a captured step cannot: use train.engine=compile" in str(_of(_plan(79.6, **given), "small").unsupported)
    compiled = _plan(79.6, **given, **{"train.engine": "compile"})
    assert _of(compiled, "small").unsupported is None


def test_fused_layers_are_computed_again_with_every_engine() -> None:
    given = {"model.recompute": "always", "model.layers": "fused"}
    for engine in ("graph", "compile", "eager"):
        assert _of(_plan(79.6, **given, **{"train.engine": engine}), "small").unsupported is None
    auto = _plan(11.0, **{"model.layers": "fused"})
    assert {trial.config.model.recompute for trial in auto.trials} == {"always"}


def test_an_evaluation_batch_fills_the_gpu_whatever_the_training_batch_is() -> None:
    plan = _plan(79.6)
    sizes = {memory.evaluation_batch(trial.config, plan.device, 862) for trial in plan.trials}
    assert sizes == {4}  # 4 x 862 x 41 = 141,368 rows
    few = {memory.evaluation_batch(trial.config, plan.device, 7) for trial in plan.trials}
    assert few == {512}
    assert memory.evaluation_batch(plan.trials[0].config, _plan(None).device, 7) is None
    small = {memory.evaluation_batch(trial.config, _plan(0.5).device, 862) for trial in plan.trials}
    assert small == {1}
