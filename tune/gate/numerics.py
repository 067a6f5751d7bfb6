"""How far an arm's predictions and gradients are from the fp64 reference, on fixed weights and fixed batches.

The arm runs as in its trial: its backend in its engine's real stepper, at its precision, with every dropout at 0.
Forecasts come from `predict`. Gradients come from a complete training step, whose optimizer records them instead of
updating. They are compared with the errors of the plain arm (backend eager, engine eager) at the same precision: a
rounding error says nothing by itself, twice that of plain PyTorch does.

Shapes: B batch, C channels, L context, H horizon, N patches, D model width, K heads, P all gradients.
"""

from __future__ import annotations

import copy
import gc
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from data_pipeline.feed.batches import Batch
from model.as_published import unread_parameters
from model.patchtst import build_model, cut_to_kept_heads
from tune.config.model_config import PLAIN_MODEL
from tune.engine import ENGINES
from tune.engine.lr import Rates, ScheduleSpan
from tune.engine.precision import set_matmul_precision
from tune.engine.step import Stepper
from tune.gate.attention_error import AttentionErrors, measure_attention
from tune.gate.memory import bytes_of_a_window, patches

BATCHES = 3
SEED = 20_260_101
# A constant added to all keys does not change softmax: the true gradient is zero, and what is measured is rounding.
NO_TRUE_GRADIENT = "k_proj.bias"
DROPOUTS = (
    "dropout", "head_dropout", "attention_dropout", "position_dropout", "attention_output_dropout",
    "attention_residual_dropout", "ffn_dropout", "ffn_residual_dropout",
)  # fmt: skip
SHARPNESS = 1.5  # of queries and keys: scores with a deviation of about 2, so that a wrong softmax shows
MEMORY_SHARE = 0.25  # of a GPU's memory that the fp64 reference may need
CPU_MEMORY = 2 * 2**30  # bytes
MOVING = Rates(schedule="one_cycle", span=ScheduleSpan(learning_rate=1e-4, steps_per_epoch=10, epochs=1))
LARGEST_SCALE = 2.0**16


@dataclass(frozen=True, kw_only=True)
class GatedArm:
    """An arm at one number of heads, as the gate builds it."""

    model: Mapping[str, Any]  # keyword arguments of build_model, attention included; its dropouts are not used
    heads: int  # left in each layer
    engine: str  # a name in ENGINES
    precision: str  # fp32 tf32 bf16 fp16
    batch_size: int  # windows in a training step
    beta1_moves: bool = False  # the trial's schedule changes Adam's beta1; the graph engine then updates outside it
    uses_backend: bool = True  # attention is the function that the backend registers


@dataclass(frozen=True, kw_only=True)
class NumericErrors:
    """Relative Frobenius norms of the difference from the fp64 reference, over all batches."""

    predictions: float
    gradients: float  # all concatenated, without k_proj.bias
    # The largest ||difference|| of one series (a window's channel, over the horizon), divided by the root mean square
    # of ||reference||: one entirely wrong series among thousands does not show in a norm over everything.
    worst_series: float


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The errors that the gate compares."""

    arm: NumericErrors
    eager: NumericErrors  # of the plain arm: eager backend and engine, at the arm's precision
    batch_size: int  # windows in each batch that was used
    attention: AttentionErrors | None  # reported only; None where it was not measured


def measure(gated: GatedArm, device: torch.device) -> Measurement:
    """The errors of the arm and of the plain arm on `device`. Random state and settings are restored afterwards.

    Raises whatever the backend raises, torch.OutOfMemoryError included.
    """
    with _restoring_state(device):
        return _measure(gated, device)


def _measure(gated: GatedArm, device: torch.device) -> Measurement:
    plain = {**gated.model, **PLAIN_MODEL}
    weights = fixed_weights(_build(plain, gated.heads))
    reference = _RunningArm(_build(plain, gated.heads), weights, device, "eager", "fp64")
    eager = _RunningArm(_build(plain, gated.heads), weights, device, "eager", gated.precision)
    rate = MOVING if gated.beta1_moves else None
    arm = _RunningArm(_build(gated.model, gated.heads), weights, device, gated.engine, gated.precision, rate)
    batch_size = batch_that_fits(gated.model, gated.heads, gated.batch_size, device)
    of_arm, of_eager = _compare(reference, eager, arm, _batches(gated.model, batch_size, device))
    attention = _attention_alone(gated, batch_size, device)
    return Measurement(arm=of_arm, eager=of_eager, batch_size=batch_size, attention=attention)


def measure_models(
    plain: nn.Module,
    arm: nn.Module,
    weights: dict[str, Tensor],
    *,
    fields: Mapping[str, Any],
    precision: str,
    batch_size: int,
    device: torch.device,
) -> Measurement:
    """The errors of `arm` and of `plain`, two models without dropout that exist already, both with these weights.

    Both are changed: give copies. plain: attention and layers of transformers. fields: arguments of build_model that
    say the shape. Random state and settings are restored afterwards. Raises whatever a model raises.
    """
    with _restoring_state(device):
        reference = _RunningArm(copy.deepcopy(plain), weights, device, "eager", "fp64")
        eager, mine = (_RunningArm(model, weights, device, "eager", precision) for model in (plain, arm))
        of_arm, of_eager = _compare(reference, eager, mine, _batches(fields, batch_size, device))
    return Measurement(arm=of_arm, eager=of_eager, batch_size=batch_size, attention=None)


def _compare(
    reference: _RunningArm, eager: _RunningArm, arm: _RunningArm, batches: Iterator[Batch]
) -> tuple[NumericErrors, NumericErrors]:
    """The errors of the arm and of the plain arm."""
    of_eager, of_arm = _Sums(), _Sums()
    try:
        for batch in batches:
            true = reference.run(batch)
            of_eager.add(eager.run(batch), true)
            of_arm.add(arm.run(batch), true)
    finally:
        arm.close()
    return of_arm.errors(), of_eager.errors()


def _attention_alone(gated: GatedArm, batch_size: int, device: torch.device) -> AttentionErrors | None:
    if not gated.uses_backend:
        return None
    model = gated.model
    sequences, width = batch_size * model["num_channels"], model["d_model"] // model["num_heads"]
    shape_SKNE = (sequences, gated.heads, patches(model), width)
    try:
        return measure_attention(model["attention"], shape_SKNE, gated.precision, device)
    except Exception as error:  # it decides nothing, so it fails no arm
        print(f"gate: attention alone was not measured: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return None


def batch_that_fits(model: Mapping[str, Any], heads: int, batch_size: int, device: torch.device) -> int:
    """The trial's batch size, or the largest whose fp64 step is estimated to fit into the allowed memory.

    model: arguments of build_model.
    """
    if device.type == "cuda":
        allowed = MEMORY_SHARE * torch.cuda.get_device_properties(device).total_memory
    else:
        allowed = CPU_MEMORY
    return max(1, min(batch_size, int(allowed // bytes_of_a_window(model, heads))))


@contextmanager
def _restoring_state(device: torch.device) -> Iterator[None]:
    matmul = torch.get_float32_matmul_precision()
    on_gpu = device.type == "cuda"
    try:
        with torch.random.fork_rng(devices=[device] if on_gpu else []):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        gc.collect()  # a compiled function and its model hold each other
        if on_gpu:
            # cuBLAS keeps a workspace for each stream that it has seen, the captured one's too. It would count as the
            # trial's memory (0.92 GiB after measuring the gate, 0.79 after reading its result, on an H100).
            torch._C._cuda_clearCublasWorkspaces()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)


def _build(fields: Mapping[str, Any], heads: int) -> nn.Module:
    model = build_model(**(dict(fields) | dict.fromkeys(DROPOUTS, 0.0)))
    if heads != fields["num_heads"]:
        config: Any = model.config
        config.kept_heads = [list(range(heads))] * fields["num_layers"]
        cut_to_kept_heads(model)
    return model


def fixed_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights that keep every activation near standard deviation 1, as in a trained model.

    At PatchTST's own initialisation (deviation 0.02) all scores are near zero: softmax is flat and no error shows.
    """
    generator = torch.Generator().manual_seed(SEED)
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:  # the position table
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            gain = SHARPNESS if "q_proj" in name or "k_proj" in name else 1.0
            state[name] = noise * gain / math.sqrt(parameter.shape[-1])
        else:
            state[name] = 0.1 * noise + float(name.endswith("norm.weight"))
    return state


def _batches(model: Mapping[str, Any], batch_size: int, device: torch.device) -> Iterator[Batch]:
    """Windows of a standardised series with a day, a week, a random walk and noise."""
    context, horizon = model["context_length"], model["prediction_length"]
    channels, generator = model["num_channels"], torch.Generator().manual_seed(SEED)
    length = context + horizon + 1024
    hours_T1 = torch.arange(length, dtype=torch.float64)[:, None]
    phases_2C = 2 * math.pi * torch.rand(2, channels, generator=generator, dtype=torch.float64)
    noise_2TC = torch.randn(2, length, channels, generator=generator, dtype=torch.float64)
    series_TC = torch.sin(2 * math.pi * hours_T1 / 24 + phases_2C[0]) + torch.sin(hours_T1 / 26.7 + phases_2C[1])
    series_TC = series_TC + 0.05 * noise_2TC[0].cumsum(0) + 0.3 * noise_2TC[1]
    series_TC = ((series_TC - series_TC.mean(0)) / series_TC.std(0)).float()
    for _ in range(BATCHES):
        starts = torch.randint(1024, (batch_size,), generator=generator)
        windows_BTC = series_TC[starts[:, None] + torch.arange(context + horizon)].to(device)
        past_BLC, future_BHC = windows_BTC[:, :context].contiguous(), windows_BTC[:, context:].contiguous()
        yield Batch(past=past_BLC, future=future_BHC, valid=batch_size)


class _Recorder(torch.optim.Optimizer):
    """Records gradients and updates nothing. It takes the place of the trial's Adam."""

    _step_supports_amp_scaling = True  # a scaler sets `grad_scale` on it instead of synchronising

    def __init__(self, model: nn.Module) -> None:
        true = {name: value for name, value in model.named_parameters() if not name.endswith(NO_TRUE_GRADIENT)}
        self._recorded = [parameter for parameter in true.values() if parameter.requires_grad]
        super().__init__(model.parameters(), {"lr": 0.0, "betas": (0.0, 0.0), "fused": True})  # keys that engines read
        self._unread = unread_parameters(model)
        for parameter in self._recorded:
            self.state[parameter]["gradient"] = torch.full_like(parameter, math.nan)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        scale: Tensor | None = getattr(self, "grad_scale", None)
        for parameter in self._recorded:
            gradient = self.state[parameter]["gradient"]
            if parameter.grad is None:
                gradient.fill_(0.0 if parameter in self._unread else math.nan)
            else:
                gradient.copy_(parameter.grad if scale is None else parameter.grad / scale)

    def gradients(self) -> Tensor:
        """All gradients of the last step [P], fp64. Each is then NaN until a step writes it again."""
        taken = torch.cat([self.state[parameter]["gradient"].double().flatten() for parameter in self._recorded])
        for parameter in self._recorded:
            self.state[parameter]["gradient"].fill_(math.nan)
        return taken


class _RunningArm:
    """One model on the device, with its engine's stepper."""

    def __init__(
        self,
        model: nn.Module,
        weights: dict[str, Tensor],
        device: torch.device,
        engine: str,
        precision: str,
        rate: Rates | None = None,
    ) -> None:
        model.load_state_dict(weights)
        self._dtype = torch.float64 if precision == "fp64" else torch.float32
        self._model = model.to(device, self._dtype)
        self._recorder = _Recorder(self._model)
        self._engine, self._precision = engine, precision
        self._stepper: Stepper | None = None
        self._rate = rate  # unused by the recorder, which trains nothing

    def run(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Forecasts [B, H, C] and all gradients [P], both in fp64."""
        past_BLC, future_BHC = batch.past.to(self._dtype), batch.future.to(self._dtype)
        batch = Batch(past=past_BLC, future=future_BHC, valid=batch.valid)
        stepper = self._stepper = self._stepper or self._warm_stepper(batch)
        set_matmul_precision(self._precision)  # a setting of the process, which the arms share
        self._model.eval()
        with torch.no_grad():
            forecast_BHC = stepper.predict(past_BLC).double()
        self._model.train()
        stepper.step(batch)
        return forecast_BHC, self._recorder.gradients()

    def _warm_stepper(self, batch: Batch) -> Stepper:
        scale = _loss_scale(self._precision, batch.future.numel())
        scaler = None
        if scale is not None:
            scaler = torch.amp.GradScaler(batch.past.device.type, init_scale=scale, growth_interval=2**31 - 1)
        stepper = ENGINES[self._engine].build(
            self._model, self._recorder, precision=self._precision, scaler=scaler, rate=self._rate
        )
        if self._engine != "eager":
            stepper.warm_up(batch, batch.past)
        else:
            with stepper.preserved():
                stepper.compile_ahead(batch.past, batch.future, batch.past)
        return stepper

    def close(self) -> None:
        """Release what the engine made."""
        if self._stepper is not None:
            self._stepper.close()


def _loss_scale(precision: str, elements: int) -> float | None:
    """fp16 only: a power of two that keeps small gradients from underflowing, the same for all arms."""
    if precision != "fp16":
        return None
    return min(LARGEST_SCALE, 2.0 ** max(0, math.floor(math.log2(elements / 16))))


@dataclass
class _Sums:
    """Sums of squares over the batches: of the difference and of the reference, for predictions and gradients."""

    squares: list[float] = field(default_factory=lambda: [0.0] * 4)
    worst_squares: list[float] = field(default_factory=list)  # of each batch: the largest difference of one series
    series: int = 0

    def add(self, got: tuple[Tensor, Tensor], true: tuple[Tensor, Tensor]) -> None:
        squares_BC = (got[0] - true[0]).square().sum(1)
        self.worst_squares.append(squares_BC.max().item())
        self.series += squares_BC.numel()
        for place, (mine, theirs) in enumerate(zip(got, true, strict=True)):
            self.squares[2 * place] += (mine - theirs).square().sum().item()
            self.squares[2 * place + 1] += theirs.square().sum().item()

    def errors(self) -> NumericErrors:
        ratios = [math.sqrt(self.squares[at] / self.squares[at + 1]) for at in (0, 2)]
        worst = torch.tensor(self.worst_squares, dtype=torch.float64).max().item()  # NaN if any is
        mean_square = self.squares[1] / self.series
        return NumericErrors(predictions=ratios[0], gradients=ratios[1], worst_series=math.sqrt(worst / mean_square))
