"""Rates and shares of an epoch: known where a peak is, from the time that each is of."""

from __future__ import annotations

import pytest

from model.as_published import FLASH
from model.flops import GPU_PEAKS, StepShape, least_step_bytes, train_step_flops
from tune.common.published import rules_for
from tune.config.step_shape import step_shape
from tune.config.sweeps import get_sweep
from tune.machine.device import GIB, DeviceFacts
from tune.measure.metrics import time_metrics
from tune.measure.timer import EpochTimes
from tune.plan.plan import make_plan

SHAPE = StepShape(
    batch_size=128, num_channels=7, context_length=512, prediction_length=96, patch_length=12, patch_stride=12,
    d_model=128, num_heads=16, num_layers=3, ffn_dim=256,
)  # fmt: skip
H100 = "NVIDIA H100 80GB HBM3"
# Two steps of 4 ms in an epoch of 20 ms
TIMES = EpochTimes(
    began_s=0.0, train_s=0.02, feed_host_s=0.0, tail_ms=0.0, start_ms=(2.0, 16.0), step_ms=(4.0, 4.0),
    gap_ms=(2.0, 10.0), wait_ms=(0.0, 1.0), h2d_ms=(0.0, 0.0),
)  # fmt: skip


def _metrics(gpu: str | None, precision: str = "bf16") -> dict[str, float | None]:
    return time_metrics(TIMES, 0.01, SHAPE, gpu=gpu, precision=precision)


def test_mfu_is_of_the_whole_epoch_and_the_roofline_of_the_steps_alone() -> None:
    metrics, peak = _metrics(H100), GPU_PEAKS[H100]
    flops = train_step_flops(SHAPE)
    assert metrics["speed/tflops"] == pytest.approx(2 * flops / 0.02 / 1e12)
    assert metrics["speed/mfu_pct"] == pytest.approx(100 * 2 * flops / 0.02 / peak.flops["bf16"])
    assert metrics["speed/peak_pct"] == pytest.approx(100 * flops / 0.004 / peak.flops["bf16"])
    moved = least_step_bytes(SHAPE, precision="bf16")
    assert metrics["speed/least_gib_per_s"] == pytest.approx(moved / 0.004 / GIB)
    assert metrics["speed/bandwidth_pct"] == pytest.approx(100 * moved / 0.004 / peak.bandwidth)
    shares = [metrics["speed/peak_pct"], metrics["speed/bandwidth_pct"]]
    assert metrics["speed/roofline_pct"] == max(share for share in shares if share is not None)
    assert metrics["time/median_step_ms"] == 4.0


def test_the_shape_of_an_arm_as_published_leaves_out_the_projection_that_its_layers_skip() -> None:
    plan = make_plan(
        get_sweep("seed_study"), overrides={"data.dataset": "demo"}, repeats=1, seed=1, device=DeviceFacts(
            device_type="cuda", name=H100, capability=(9, 0), memory_gib=80.0, gpus=1
        ),
    )  # fmt: skip
    for trial in plan.trials:
        kind = trial.config.model.as_published
        shape = step_shape(trial.config, channels=7, heads=[16, 16, 16])
        assert shape.projections == (4 if kind not in FLASH or FLASH[kind].projects_out else 3)
    for kind, layer in FLASH.items():
        assert rules_for(kind, None, feed="tsfm").projections == (4 if layer.projects_out else 3)


@pytest.mark.parametrize("gpu", [None, "some GPU"])
def test_without_a_peak_no_share_of_it_is_made_up_and_rates_are_known(gpu: str | None) -> None:
    metrics = _metrics(gpu)
    shares = ("mfu_pct", "peak_pct", "bandwidth_pct", "roofline_pct")
    assert {metrics[f"speed/{name}"] for name in shares} == {None}
    assert all(metrics[f"speed/{name}"] for name in ("tflops", "least_gib_per_s", "windows_per_s"))


def test_a_precision_that_the_gpu_has_no_units_for_has_no_roofline_but_a_bandwidth() -> None:
    metrics = _metrics("Tesla V100-SXM2-16GB")
    assert metrics["speed/roofline_pct"] is None and metrics["speed/mfu_pct"] is None
    assert metrics["speed/bandwidth_pct"] is not None
