from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from transformers import PatchTSTForPrediction

__all__ = [
    "run",
    "load",
    "forecast",
    "Sweep",
    "accelerate",
    "restore",
    "register_attention",
    "Acceleration",
    "CannotAccelerate",
    "PartlyAccelerated",
    "WrongInput",
    "TrialsFailed",
    "Unfinished",
    "SweepError",
]

def run(
    sweep: str | None = None,
    *,
    dataset: str | Path | None = None,
    epochs: int | None = None,
    set: Mapping[str, Any] | None = None,
    over: Mapping[str, Sequence[Any]] | None = None,
    seed: int | None = None,
    repeats: int | Literal["auto"] | None = None,
    only: str | None = None,
    trials: int | None = None,
    minutes: float | None = None,
    target_val_mse: float | None = None,
    no_test: bool = False,
    config: str | Path | None = None,
    data_dir: str | Path | None = None,
    storage_path: str | Path | None = None,
    tracking_uri: str | None = None,
    address: str | None = None,
    gpu_model: str | None = None,
    gpus_per_trial: float | None = None,
    max_concurrent: int | None = None,
    wait_for_gpus: float | None = None,
    fresh: bool = False,
    resume: str | None = None,
    isolate: bool = False,
    save_forecasts: bool = False,
    quiet: bool = False,
) -> Sweep: ...
def load(sweep: str, *, tracking_uri: str | None = None, margin_pct: float = ...) -> Sweep: ...
def forecast(
    model: str | Path | Sweep,
    frame: pd.DataFrame | str | Path,
    *,
    horizon: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    set: Mapping[str, Any] | None = None,
    storage_path: str | Path = "runs",
    tracking_uri: str | None = None,
) -> pd.DataFrame: ...
def accelerate(
    model: PatchTSTForPrediction,
    *,
    precision: Literal["fp32", "tf32", "bf16", "fp16"] | None = None,
    layers: Literal["auto", "fused", "transformers"] = "auto",
    batch_size: int = 128,
    cuda_graph: bool = True,
) -> PatchTSTForPrediction: ...
def restore(model: PatchTSTForPrediction) -> PatchTSTForPrediction: ...
def register_attention() -> str: ...

@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    sweep_id: str
    name: str
    status: str
    question: str | None
    answer: str | None
    device: str | None
    test_set: str
    tracking_uri: str
    trials: pd.DataFrame
    epochs: pd.DataFrame
    pairs: pd.DataFrame
    verdicts: pd.DataFrame
    margin: float
    record: Any
    def report(self, *, verbose: bool = False) -> str: ...
    def json(self) -> dict[str, Any]: ...

class WrongInput(ValueError): ...

class TrialsFailed(RuntimeError):
    sweep: Sweep
    def __init__(self, message: str, sweep: Sweep) -> None: ...

class Unfinished(RuntimeError): ...
class SweepError(RuntimeError): ...

class CannotAccelerate(WrongInput):
    reasons: dict[str, str]
    def __init__(self, message: str, reasons: Mapping[str, str] | None = None) -> None: ...

class PartlyAccelerated(UserWarning): ...

@dataclass(frozen=True, kw_only=True)
class Acceleration:
    attention: bool
    layers: bool
    reasons: Mapping[str, str]
    precision: str
    device: str
    batch_size: int
    checks: Mapping[str, Any]
    cuda_graph: bool
    former_attention: str
