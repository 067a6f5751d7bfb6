"""Evaluation in larger batches than training's: the same errors under every engine."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from capture_kit import RecordingCapture

from data_pipeline.feed import open_feed
from data_pipeline.series.store import Series, open_series
from model.patchtst import build_model
from tune.engine.compiled import CompiledStepper
from tune.engine.graph import CudaCapture, GraphStepper
from tune.engine.optimizer import make_optimizer
from tune.engine.step import Stepper
from tune.measure.accuracy import evaluate

B, L, H, C = 16, 96, 24, 7
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch._inductor")


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    folder = tmp_path_factory.mktemp("data")
    return open_series("demo", folder, folder / "cache")


def _errors(series: Series, device: str, engine: str, eval_batch: int | None, layers: str, attention: str) -> Any:
    feed = open_feed(
        "device", series, context_length=L, prediction_length=H, batch_size=B, device=device, seed=1,
        eval_batch_size=eval_batch,
    )  # fmt: skip
    torch.manual_seed(0)
    model = build_model(
        num_channels=C, context_length=L, prediction_length=H, patch_length=12, patch_stride=12, d_model=64,
        num_heads=8, num_layers=2, ffn_dim=64, dropout=0.0, head_dropout=0.0, attention_dropout=0.0,
        norm_type="batchnorm", pre_norm=True, attention=attention, layers=layers,
    ).to(device)  # fmt: skip
    options: dict[str, Any] = {"precision": "bf16" if device == "cuda" else "fp32"}
    if engine == "graph":
        options["capture"] = CudaCapture() if device == "cuda" else RecordingCapture()
    kind = {"eager": Stepper, "compile": CompiledStepper, "graph": GraphStepper}[engine]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(model, learning_rate=1e-3) if device == "cuda" else torch.optim.Adam(trained, fused=True)
    stepper = kind(model, optimizer, **options)
    try:
        stepper.warm_up(
            next(iter(stepper.batches(feed, 1))).arrived(), next(iter(feed.eval_batches("validation"))).arrived().past
        )
        model.eval()
        began_s = time.perf_counter()
        with torch.no_grad():
            found = evaluate({"model": stepper.predict}, feed.eval_batches("test"))["model"]
        took_s = time.perf_counter() - began_s
        print(f"{engine}, {layers}, evaluation batch {eval_batch or B}: mse {found.mse} in {took_s:.3f} s")
    finally:
        stepper.close()
        feed.close()
    return found


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_larger_evaluation_batches_give_the_same_errors(
    series: Series, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    one, other = (_errors(series, "cpu", engine, size, "transformers", "eager") for size in (None, 100))
    assert (other.mse, other.mae) == pytest.approx((one.mse, one.mae), rel=1e-6)


@CUDA
@pytest.mark.parametrize(("engine", "layers"), [("eager", "fused"), ("graph", "fused"), ("graph", "transformers")])
def test_on_the_gpu_larger_evaluation_batches_give_the_same_errors(series: Series, engine: str, layers: str) -> None:
    """Prints errors and times."""
    one, other = (_errors(series, "cuda", engine, size, layers, "patch") for size in (None, 256))
    assert (other.mse, other.mae) == pytest.approx((one.mse, one.mae), rel=1e-4)  # products of another tiling in bf16
