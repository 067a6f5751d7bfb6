"""Models whose layers the Hopper kernels compute, on a Hopper GPU: the gate, and whole passes timed by both paths.

Run alone: .venv/bin/python -m pytest tests/model/fused/test_hopper_model_gpu.py -q -s -n0
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
from benchmarks.graph_timing import time_in_graph  # noqa: E402
from model.fused.hopper import launch, path  # noqa: E402
from model.patchtst import build_model  # noqa: E402
from model.presets import build_fields  # noqa: E402
from model.pruning.surgery import remove_heads  # noqa: E402
from tune.gate.check import check_arm  # noqa: E402
from tune.gate.numerics import GatedArm  # noqa: E402

HERE = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
pytestmark = pytest.mark.skipif(
    HERE is None or HERE[0] != 9, reason=f"Hopper kernels need compute capability 9.0 and this machine has {HERE}"
)

OURS = ("hopper", "fused", "patch_attention")  # how names of our kernels begin


def _fields(preset: str) -> dict[str, Any]:
    size = {"num_channels": 7, "prediction_length": 96}
    return build_fields(preset) | size | {"attention": "patch", "layers": "fused"}


@pytest.mark.parametrize(
    ("preset", "heads", "engine"),
    [("study", 16, "graph"), ("study", 11, "graph"), ("study", 15, "eager"), ("study", 8, "compile")]
    + [("ettm", 16, "graph"), ("ettm", 11, "eager")],
)
def test_a_model_passes_the_gate(preset: str, heads: int, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _fields(preset)
    arm = GatedArm(model=model, heads=heads, engine=engine, precision="bf16", batch_size=33)
    names: list[str] = []
    run = launch.run
    monkeypatch.setattr(launch, "run", lambda given: (names.append(given.kernel.__name__), run(given)))
    result = check_arm(arm, torch.device("cuda"), None)
    print(f"\n{preset}, {heads} heads, {engine}: {result.metrics}")
    assert result.problem is None
    assert "hopper_feed_forward_backward" in names


@pytest.mark.parametrize(
    ("preset", "missing"), [*(("study", missing) for missing in (0, 1, 4, 5, 8, 12)), ("ettm", 0), ("ettm", 5)]
)
def test_the_time_of_forward_and_backward_by_both_paths(
    preset: str, missing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for enabled in (False, True):
        monkeypatch.setattr(path, "capability", lambda _, enabled=enabled: HERE if enabled else (8, 0))
        torch.manual_seed(0)
        model = build_model(**_fields(preset))
        if missing:
            remove_heads(model, None, {layer: set(range(missing)) for layer in range(3)})
        timing = time_in_graph([_pass(model.cuda())], samples=20, kernels=True)
        own = {name: f"{1e3 * ms:.1f}" for name, ms in timing.kernels.items() if name.startswith(OURS)}
        print(
            f"\nforward and backward of {preset} at batch 128, {16 - missing} heads, "
            f"{'Hopper' if enabled else 'plain'} kernels: {1e3 * timing.median_ms:.1f} us, {own}"
        )
        assert any(name.startswith("hopper_qkv") for name in own) == enabled


def _pass(model: Any) -> Callable[[], None]:
    """A forward and backward pass at batch 128, in eager PyTorch around the layers."""
    context = model.config.context_length
    past, future = torch.randn(128, context, 7, device="cuda"), torch.randn(128, 96, 7, device="cuda")

    def work() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            model(past_values=past, future_values=future).loss.backward()

    return work
