"""An epoch of transformers' PatchTST as it is and after `accelerate(model)`: run on a GPU.

    python benchmarks/accelerated.py                # study and ettm, bf16, batch 128, ETTm1's 33,953 windows an epoch
    python benchmarks/accelerated.py --compile      # each model under torch.compile, which takes minutes more

Rows: `plain`; `attention`, our attention and CUDA graphs; `accelerated`, our layers too, as `accelerate(model)` does;
`no graph`, attention and layers with `cuda_graph=False`. Under torch.compile no row has graphs.

Shapes are ETTm1's: 7 channels, windows of 512 + 96. The training is what a user of transformers writes: autocast, fused
AdamW, eager PyTorch. Windows come from a series on the GPU, so that no loader is timed. `plain` is transformers'
default, with PyTorch's scaled dot product attention. All models run in one process, in turns, each epoch between two
synchronisations; the first turn is not counted. Ratios are those of medians. What is printed ends as JSON in --out.

This file is not called accelerate.py: beside a script, that name would hide the package that transformers imports.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CHANNELS, CONTEXT, HORIZON, ROWS = 7, 512, 96, 34_560  # ROWS: ETTm1's training split, 12 months of 15 minutes
TYPES = {"bf16": "bfloat16", "fp16": "float16"}


def _model(preset: str) -> Any:
    """The preset as transformers builds it, on the GPU."""
    import torch

    from model.patchtst import build_model
    from model.presets import build_fields

    torch.manual_seed(0)
    shape = {"num_channels": CHANNELS, "context_length": CONTEXT, "prediction_length": HORIZON, "attention": "eager"}
    model = build_model(**build_fields(preset) | shape).cuda().train()
    model.set_attn_implementation("sdpa")
    return model


class _Run:
    """A model in training."""

    def __init__(self, name: str, model: Any, series: Any, batch: int, precision: str, compiled: bool) -> None:
        import torch

        self.name, self.model, self._series, self._batch = name, model, series, batch
        self._type = getattr(torch, TYPES[precision])
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        self._scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")
        self._call = torch.compile(model) if compiled else model
        self._offsets = torch.arange(CONTEXT + HORIZON, device="cuda")
        self.seconds: list[float] = []
        self.loss = float("nan")

    def epoch(self, steps: int | None = None) -> float:
        """Seconds of an epoch, or of so many steps of one."""
        import torch

        windows = ROWS - CONTEXT - HORIZON + 1
        order = torch.randperm(windows, generator=torch.Generator().manual_seed(len(self.seconds))).cuda()
        starts = order[: windows // self._batch * self._batch].view(-1, self._batch)[:steps]
        total = torch.zeros((), device="cuda")
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for picked in starts:
            total += self._step(self._series[picked[:, None] + self._offsets])
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
        self.loss = total.item() / len(starts)
        return seconds

    def _step(self, values: Any) -> Any:
        import torch

        with torch.autocast("cuda", dtype=self._type):
            loss = self._call(past_values=values[:, :CONTEXT], future_values=values[:, CONTEXT:]).loss
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def _accelerated(
    preset: str, options: argparse.Namespace, layers: str, *, cuda_graph: bool = True
) -> tuple[Any, float]:
    """The model, and the seconds that accelerating it took."""
    from tune.api.accelerate import PartlyAccelerated, accelerate

    model, begin = _model(preset), time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("always", PartlyAccelerated)  # shown: the figures are then of a part
        accelerate(model, precision=options.precision, layers=layers, batch_size=options.batch, cuda_graph=cuda_graph)
    return model, time.perf_counter() - begin


def _runs(preset: str, series: Any, options: argparse.Namespace) -> tuple[list[_Run], dict[str, Any]]:
    """The rows; and what is told of the check of `accelerated`."""

    def training(name: str, model: Any) -> _Run:
        return _Run(name, model, series, options.batch, options.precision, options.compile)

    attention, _ = _accelerated(preset, options, "transformers")
    everything, seconds = _accelerated(preset, options, "auto")
    print(f"{preset}: accelerated in {seconds:.1f} s: {everything.acceleration}", flush=True)
    models = {"plain": _model(preset), "attention": attention, "accelerated": everything}
    models["no graph"], _ = _accelerated(preset, options, "auto", cuda_graph=False)
    runs = [training(name, model) for name, model in models.items()]
    return runs, {"accelerate_s": seconds, "acceleration": str(everything.acceleration)}


def _series() -> Any:
    """Days, weeks and noise, standardised."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(ROWS)[:, None] / torch.tensor([96.0, 672.0])[:, None, None] * 6.2832
    phases = 6.2832 * torch.rand(2, 1, CHANNELS, generator=generator)
    values = torch.sin(rows + phases).sum(0) + 0.3 * torch.randn(ROWS, CHANNELS, generator=generator)
    return ((values - values.mean(0)) / values.std(0)).cuda()


def _compare(preset: str, series: Any, options: argparse.Namespace) -> dict[str, Any]:
    runs, told = _runs(preset, series, options)
    for run in runs:
        run.epoch(options.warm_up_steps)
    for turn in range(options.rounds):
        for run in runs if turn % 2 == 0 else reversed(runs):
            run.seconds.append(run.epoch())
    median = {run.name: statistics.median(run.seconds) for run in runs}
    for run in runs:
        each = " ".join(f"{seconds:.3f}" for seconds in run.seconds)
        print(
            f"{preset:6} {run.name:12} {median[run.name]:7.3f} s/epoch  {median['plain'] / median[run.name]:5.2f}x  "
            f"loss {run.loss:.4f}  ({each})",
            flush=True,
        )
    return told | {
        "preset": preset,
        "epoch_s": {run.name: run.seconds for run in runs},
        "loss": {run.name: run.loss for run in runs},
        "ratio": {name: median["plain"] / seconds for name, seconds in median.items()},
    }


def _environment() -> dict[str, str | None]:
    import torch
    import transformers
    import triton

    return {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "transformers": transformers.__version__,
        "triton": triton.__version__, "cuda": torch.version.cuda, "python": platform.python_version(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default="study,ettm")
    parser.add_argument("--batch", type=int, default=128, help="windows")
    parser.add_argument("--precision", choices=TYPES, default="bf16")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each model that are timed")
    parser.add_argument("--warm-up-steps", type=int, default=30)
    parser.add_argument("--compile", action="store_true", help="each model under torch.compile")
    parser.add_argument("--out", type=Path, default=Path("accelerated.json"))
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        parser.error("this machine has no CUDA GPU: run it on one")
    environment = _environment()
    print(", ".join(f"{name} {version}" for name, version in environment.items()), flush=True)
    print(
        f"{CHANNELS} channels, {CONTEXT} + {HORIZON} rows, batch {options.batch}, {options.precision}"
        f"{', torch.compile' if options.compile else ''}: median of {options.rounds} epochs in turns",
        flush=True,
    )
    series = _series()
    found = [_compare(preset, series, options) for preset in options.presets.split(",")]
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    options.out.write_text(json.dumps({"environment": environment, "options": settings, "presets": found}, indent=1))


if __name__ == "__main__":
    main()
