"""The kernels of the embedding: compiled for GPUs that are absent, and on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from compile_kit import Recorder, compile_call
from torch import Tensor, nn

from model.patchtst import build_model
from model.presets import build_fields

pytest.importorskip("triton", reason="triton is not installed")
from model.fused import drop_kernels, embedding, embedding_kernels, embedding_launch, launch
from model.fused.dropout import POSITION_SITE, dropout_mask, level
from model.fused.embedding import embed_patches, embedding_reason

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
# B, C, N, P and D: study, etth, Traffic's channels, the longest patches, the widest model.
STUDY, ETTH = (128, 7, 42, 12, 128), (128, 7, 41, 16, 16)
WIDE = (2, 862, 5, 192, 256)


@pytest.mark.parametrize(("target", "shape"), [(80, STUDY), (86, WIDE), (89, ETTH), (90, STUDY), (90, WIDE)], ids=str)
def test_every_launch_fits_into_its_gpu(
    target: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recorders = []
    for module in (embedding_kernels, drop_kernels):
        for name in [name for name in vars(module) if name.startswith("fused_")]:
            recorders.append(Recorder(getattr(module, name)))
            monkeypatch.setattr(module, name, recorders[-1])
    monkeypatch.setattr(launch, "add_up", lambda partial: partial[0])
    b, c, n, p, d = shape

    def empty(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    patches, seed, rate = empty(b, c, n, p), empty(1, dtype=torch.int64), level(0.2)
    for drop_level in (0, rate):
        y, _ = embedding_launch.embedding(
            patches, empty(d, p), empty(d), empty(n, d), seed, drop_level, torch.bfloat16, statistics=True
        )
    embedding_launch.embedding_backward(y, patches)
    embedding_launch.drop(y, seed, POSITION_SITE, rate)
    assert [len(recorder.calls) for recorder in recorders] == [2, 1, 1]
    for recorder in recorders:
        for arguments, options in recorder.calls:
            made = compile_call(recorder.kernel, arguments, options, target, tmp_path)
            about = f"{recorder.kernel.__name__} {options} shared {made.shared} spilled {made.spilled}"
            assert made.shared <= 99 * 1024 and made.spilled <= 64, about


def _model(**changes: Any) -> Any:
    fields = build_fields("study") | {"num_channels": 7, "prediction_length": 96, "attention": "eager"}
    return build_model(**fields | {"layers": "fused"} | changes)


def test_what_the_kernels_were_not_written_for_is_computed_by_pytorch_and_says_why() -> None:
    encoder = _model().model.encoder
    assert embedding_reason(encoder) is None
    encoder.positional_encoder.use_cls_token = True
    assert "class token" in str(embedding_reason(encoder))
    encoder.embedder.input_embedding = nn.ModuleList()
    assert "every channel" in str(embedding_reason(encoder))
    for change in ({"pre_norm": False}, {"norm_type": "layernorm"}):
        assert "no batch norm reads the rows first" in str(embedding_reason(_model(**change).model.encoder))


def _error(ours: Tensor, true: Tensor) -> float:
    return ((ours.double() - true).norm() / true.norm()).item()


def _embedding_parts(shape: tuple[int, ...]) -> list[Tensor]:
    b, c, n, p, d = shape
    generator = torch.Generator("cuda").manual_seed(0)
    sizes = ((b, c, n, p), (d, p), (d,), (n, d), (b * c * n, d))
    return [torch.randn(size, generator=generator, device="cuda") for size in sizes]


@needs_gpu
@pytest.mark.parametrize("rate", [0.0, 0.2])
@pytest.mark.parametrize("shape", [STUDY, ETTH, (7, 1, 21, 100, 144)], ids=str)
def test_on_the_gpu_the_embedding_is_exact_with_the_mask_given(shape: tuple[int, ...], rate: float) -> None:
    patches, weight, bias, positions, grad = _embedding_parts(shape)
    seed, dtype = (torch.tensor([12345678901], device="cuda") if rate else None), torch.bfloat16
    mask = 1.0 if seed is None else dropout_mask(seed, POSITION_SITE, rate, len(grad), shape[4]).double()
    leaves = [part.double().requires_grad_() for part in (weight, bias, positions)]
    rows = (patches.double() @ leaves[0].T + leaves[1] + leaves[2]).flatten(0, 2) * mask
    exact = [rows.detach(), *torch.autograd.grad(rows, leaves, grad.double())]
    runs = []
    for _ in range(2):
        own = [part.clone().requires_grad_() for part in (weight, bias, positions)]
        y, parts = embed_patches(patches, *own, seed, level(rate), dtype, True)
        runs.append([y.detach(), *torch.autograd.grad(y, own, grad.to(dtype)), parts])
    errors = [_error(mine, true) for mine, true in zip(runs[0], exact, strict=False)]
    assert max(errors) < 8e-3, f"relative errors of rows and gradients of weight, bias and positions: {errors}"
    means = runs[0][0].double()[: 64 * (len(grad) // 64)].view(-1, 64, shape[4]).mean(1)
    assert _error(runs[0][4][: len(means), 0], means) < 1e-4, "the statistics are not those of the rows"
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True)), "two runs differ"


@needs_gpu
@pytest.mark.parametrize("preset", ["study", "etth"])
def test_on_the_gpu_a_compiled_model_trains_with_it_and_draws_a_new_mask_each_step(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {}
    for ours in (False, True):
        monkeypatch.setattr(embedding, "embedding_reason", lambda _, ours=ours: None if ours else "PyTorch's")
        torch.manual_seed(0)
        fields = build_fields(preset) | {"head_dropout": 0.2, "attention": "patch", "context_length": 512}
        model = _model(**fields).cuda()
        compiled = torch.compile(model, fullgraph=True, dynamic=False)
        torch.manual_seed(1)
        past, future = torch.randn(32, 512, 7, device="cuda"), torch.randn(32, 96, 7, device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            steps = [compiled(past_values=past, future_values=future).loss for _ in range(2)]
        steps[1].backward()
        assert steps[0].item() != steps[1].item(), "two steps drew one mask"
        found = [p.grad for name, p in model.named_parameters() if p.requires_grad and "k_proj.bias" not in name]
        assert all(grad is not None and grad.isfinite().all() for grad in found)
        losses[ours] = steps[0].item()
    assert abs(losses[True] - losses[False]) < 0.1 * losses[False], losses
