"""The embedding's kernels in Triton's interpreter: run by tests/test_interpreted.py."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from model.fused import embedding
from model.fused.drop import drop
from model.fused.dropout import POSITION_SITE, dropout_mask, level
from model.fused.embedding import embed, embed_patches
from model.fused.ops import norm_partials
from model.patchtst import build_model

# Batch, channels, patches, patch length, width: a slice of P, several, one patch, widths that are no powers of two.
SHAPES = [(3, 2, 5, 12, 32), (2, 3, 41, 16, 16), (65, 1, 1, 1, 16), (1, 2, 33, 70, 48), (1, 1, 5, 9, 144)]


def _error(ours: Tensor, true: Tensor) -> float:
    return ((ours.double() - true).norm() / true.norm()).item()


def _parts(shape: Any, seed: int = 0) -> list[Tensor]:
    """Patches, weight, bias, positions, and the gradient of the rows."""
    b, c, n, p, d = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = ((b, c, n, p), (d, p), (d,), (n, d), (b * c * n, d))
    return [torch.randn(size, generator=generator) for size in sizes]


def _exact(parts: list[Tensor], mask: Tensor | None) -> list[Tensor]:
    """Rows, and the gradients of weight, bias and positions, in fp64."""
    patches, weight, bias, positions, grad = (part.double() for part in parts)
    leaves = [part.requires_grad_() for part in (weight, bias, positions)]
    rows = (patches @ leaves[0].T + leaves[1] + leaves[2]).flatten(0, 2)
    rows = rows if mask is None else rows * mask
    return [rows.detach(), *torch.autograd.grad(rows, leaves, grad)]


def _ours(parts: list[Tensor], seed: Tensor | None, rate: float, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    patches, *leaves, grad = [part.clone() for part in parts]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    rows, partials = embed_patches(patches, *leaves, seed, level(rate), dtype, True)
    assert rows.dtype == dtype
    return [rows.detach(), *torch.autograd.grad(rows, leaves, grad.to(dtype))], partials


@pytest.mark.parametrize(("shape", "rate"), list(zip(SHAPES, (0.3, 0.0, 0.3, 0.0, 0.3), strict=True)), ids=str)
def test_rows_statistics_and_gradients_of_the_embedding_are_exact_with_the_mask_given(shape: Any, rate: float) -> None:
    parts, seed = _parts(shape), torch.tensor([1234567890123]) if rate else None
    mask = None if seed is None else dropout_mask(seed, POSITION_SITE, rate, len(parts[4]), shape[4]).double()
    ours, partials = _ours(parts, seed, rate, torch.float32)
    for mine, true in zip(ours, _exact(parts, mask), strict=True):
        assert mine.shape == true.shape and _error(mine, true) < 2e-6
    torch.testing.assert_close(partials, norm_partials(ours[0]), atol=1e-5, rtol=1e-5)
    again, _ = _ours(parts, seed, rate, torch.float32)
    assert all(torch.equal(*pair) for pair in zip(ours, again, strict=True))


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_in_half_precision_the_embedding_is_no_further_from_fp64_than_pytorchs(shape: Any) -> None:
    parts = _parts(shape)
    exact, (ours, _) = _exact(parts, None), _ours(parts, None, 0.0, torch.float16)
    patches, weight, bias, positions, _ = parts
    plain = (torch.nn.functional.linear(patches.half(), weight.half(), bias.half()) + positions).half().flatten(0, 2)
    assert _error(ours[0], exact[0]) <= 1.01 * _error(plain, exact[0])
    assert all(_error(mine, true) < 1e-3 for mine, true in zip(ours[1:], exact[1:], strict=True))


def _model(**changes: Any) -> Any:
    torch.manual_seed(0)
    fields: dict[str, Any] = {
        "num_channels": 3, "context_length": 48, "prediction_length": 8, "patch_length": 12, "patch_stride": 6,
        "d_model": 32, "num_heads": 4, "num_layers": 1, "ffn_dim": 48, "dropout": 0.0, "head_dropout": 0.0,
        "attention_dropout": 0.0, "norm_type": "batchnorm", "pre_norm": True, "attention": "eager", "layers": "fused",
    }  # fmt: skip
    return build_model(**fields | changes)


def _step(model: Any) -> list[Tensor]:
    """Forecasts, and gradients of all parameters that take one; dropout masks are of seed 1."""
    torch.manual_seed(1)
    past, future = torch.randn(5, 48, 3), torch.randn(5, 8, 3)
    output = model(past_values=past, future_values=future)
    output.loss.backward()
    gradients = [parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad]
    model.zero_grad()
    return [output.prediction_outputs.detach(), *gradients]


def test_a_fused_model_with_learned_positions_computes_the_same_with_and_without_the_embeddings_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _model()
    model.model.encoder.positional_encoder.position_enc.requires_grad_()
    ours = _step(model)
    monkeypatch.setattr(embedding, "embedding_reason", lambda encoder: "PyTorch's is asked for")
    plain = _step(model)
    assert len(ours) == len(plain)
    total = torch.cat([tensor.flatten() for tensor in plain[1:]]).norm()
    for mine, theirs in zip(ours, plain, strict=True):
        assert (mine - theirs).norm() <= 1e-5 * theirs.norm() + 1e-6 * total


def test_positional_dropout_is_drawn_in_training_only() -> None:
    model = _model(dropout=0.3)
    encoder, patches = model.model.encoder, torch.randn(4, 3, 7, 12)
    seed = torch.tensor([7])
    rows, _ = embed(encoder, patches, statistics=False, seed=seed)
    mask = dropout_mask(seed, POSITION_SITE, 0.3, *rows.shape)
    without, _ = embed(encoder, patches, statistics=False)
    torch.testing.assert_close(rows, without * mask, atol=1e-5, rtol=1e-5)
    model.train()
    past = torch.randn(5, 48, 3)
    for training in (True, False):
        model.train(training)
        assert torch.equal(model(past_values=past)[0], model(past_values=past)[0]) != training


def test_the_embeddings_operator_keeps_pytorchs_rules() -> None:
    patches, weight, bias, positions, _ = _parts((2, 2, 5, 12, 16))
    leaves = [part.requires_grad_() for part in (weight, bias, positions)]
    torch.library.opcheck(embed_patches, (patches, *leaves, None, 0, torch.float32, True))
    torch.library.opcheck(embed_patches, (patches, *leaves, torch.tensor([3]), level(0.2), torch.float32, False))


def test_dropout_keeps_pytorchs_rules() -> None:
    torch.library.opcheck(drop, (torch.randn(20, 48), torch.tensor([3]), POSITION_SITE, level(0.2)))


def test_a_model_with_it_compiles_without_a_graph_break() -> None:
    model = _model(dropout=0.3)
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager_decomp_partition", fullgraph=True, dynamic=False)
    for ours, plain in zip(_step(compiled), _step(model), strict=True):  # both draw their masks from seed 1
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)
