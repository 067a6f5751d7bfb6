"""The fused layers in Triton's interpreter, on a CPU: run by tests/test_interpreted.py in its own process."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.flops import StepShape
from model.fused import encoder, launch, norm_kernels
from model.fused.dropout import Rates, attention_site, dropout_mask, dropout_seed, feed_forward_site
from model.fused.encoder import fuse
from model.heads import attention_layers
from model.memory import Execution, step_memory
from model.patchtst import build_model
from model.pruning.surgery import remove_heads

FIELDS: dict[str, Any] = {
    "num_channels": 3, "context_length": 48, "prediction_length": 8, "patch_length": 12, "patch_stride": 6,
    "d_model": 32, "num_heads": 4, "num_layers": 2, "ffn_dim": 96, "dropout": 0.0, "head_dropout": 0.0,
    "attention_dropout": 0.0, "norm_type": "batchnorm", "pre_norm": True, "attention": "eager",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes its time for each program."""
    monkeypatch.setattr(launch, "SUM_COLUMNS", 1024)


def _pair(activation: str = "gelu", **changes: Any) -> tuple[Any, Any]:
    """The same model plain and fused, with scales and shifts that are not 1 and 0."""
    torch.manual_seed(0)
    plain = build_model(**FIELDS | changes)
    if activation == "relu":
        plain.config.activation_function = activation
        for layer in plain.model.encoder.layers:
            layer.ff[1] = nn.ReLU()
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter)) if "norm" in name else parameter.mul_(2.0)
    return plain, fuse(copy.deepcopy(plain))


BATCH = 4  # 2 blocks of rows, the last one not full


def _gradients(model: Any, batch: int = BATCH, dtype: torch.dtype | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(1)
    past, future = torch.randn(batch, 48, 3), torch.randn(batch, 8, 3)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        output = model(past_values=past, future_values=future)
    output.loss.backward()
    return output.prediction_outputs.detach().double(), {
        name: parameter.grad.double() for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def _error(ours: Tensor, true: Tensor) -> float:
    return ((ours - true).norm() / true.norm()).item()


def _assert_same(mine: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    """Biases before batch norm have a true gradient of zero, so a part of the norm of all gradients is allowed."""
    everything = torch.cat([gradient.flatten() for gradient in exact.values()]).norm()
    for name, gradient in exact.items():
        assert (mine[name] - gradient).norm() < 1e-5 * gradient.norm() + 2e-7 * everything, name


@pytest.mark.parametrize(
    ("changes", "heads"),
    [
        ({"positions": "learned", "end_padding": True}, 1),
        ({"d_model": 48, "num_heads": 3, "ffn_dim": 80, "num_layers": 1}, 0),
        ({"pre_norm": False, "positions": "learned", "end_padding": True}, 1),
        ({"norm_type": "layernorm", "num_layers": 1}, 0),
        ({"norm_type": "layernorm", "pre_norm": False, "activation": "relu", "num_layers": 1}, 1),
        ({"pre_norm": False, "d_model": 16, "num_heads": 1, "ffn_dim": 16, "num_layers": 1, "patch_stride": 3}, 0),
        ({"norm_type": "layernorm", "d_model": 144, "num_heads": 9, "ffn_dim": 272, "num_layers": 1}, 0),
        ({"pre_norm": False, "d_model": 256, "num_heads": 16, "ffn_dim": 64, "num_layers": 1}, 0),
    ],
    ids=str,
)
def test_forecasts_gradients_and_running_statistics_are_those_of_transformers(changes: Any, heads: int) -> None:
    plain, fused = _pair(**changes)
    for model in (plain, fused) if heads else ():
        remove_heads(model, None, {layer: {0} for layer in range(len(attention_layers(model)))})
    exact, mine = _gradients(plain), _gradients(fused)
    assert _error(mine[0], exact[0]) < 2e-6
    _assert_same(mine[1], exact[1])
    for (name, expected), computed in zip(plain.named_buffers(), fused.buffers(), strict=True):
        torch.testing.assert_close(expected, computed, msg=name)


@pytest.mark.parametrize("changes", [{}, {"pre_norm": False, "d_model": 80, "num_heads": 5}], ids=str)
def test_in_half_precision_it_is_at_most_twice_as_far_from_fp64_as_transformers(changes: Any) -> None:
    """The wider model's weights are rounded before its kernels, the other's inside them."""
    plain, fused = _pair(num_layers=1, **changes)
    exact = _gradients(copy.deepcopy(plain).double().float())
    theirs, ours = _gradients(plain, dtype=torch.float16), _gradients(fused, dtype=torch.float16)
    assert _error(ours[0], exact[0]) <= 2 * _error(theirs[0], exact[0]) + 1e-6
    names = [name for name in exact[1] if "k_proj.bias" not in name]
    flat = [torch.cat([found[1][name].flatten() for name in names]) for found in (ours, theirs, exact)]
    assert _error(flat[0], flat[2]) <= 2 * _error(flat[1], flat[2]) + 1e-6


def test_statistics_of_more_blocks_than_a_program_holds_at_once_are_united() -> None:
    x = torch.randn(9 * 64 + 5, 16) * 3 + 100
    out, running = [torch.empty(16) for _ in range(2)], [torch.zeros(16), torch.ones(16)]
    norm_kernels.fused_norm_unite[(4,)](
        launch.partials(x), *out, *running, torch.zeros(1), 0.1, len(x),
        PARTS=10, D=16, ROWS=64, COLUMNS=4, BLOCKS=4,
    )  # fmt: skip
    torch.testing.assert_close(out[0], x.mean(0))
    torch.testing.assert_close(out[1], x.var(0, unbiased=False))
    torch.testing.assert_close(running[1], 0.9 + 0.1 * x.var(0))


def test_evaluation_takes_the_running_statistics_and_leaves_them() -> None:
    plain, fused = _pair()
    for model in (plain, fused):
        _gradients(model)
        model.eval()
    before = [buffer.clone() for buffer in fused.buffers()]
    past = torch.randn(2, 48, 3)
    with torch.no_grad():
        torch.testing.assert_close(fused(past_values=past)[0], plain(past_values=past)[0], atol=2e-5, rtol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, fused.buffers(), strict=True))


def test_gradients_in_evaluation_take_the_statistics_as_constants() -> None:
    plain, fused = _pair()
    for model in (plain, fused):
        model.eval()
    exact, mine = _gradients(plain), _gradients(fused)
    _assert_same(mine[1], exact[1])


def test_weights_load_both_ways() -> None:
    plain, fused = _pair()
    plain.load_state_dict(fused.state_dict())
    fused.load_state_dict(plain.state_dict())
    assert list(plain.state_dict()) == list(fused.state_dict())


class _Mask(nn.Module):
    """Multiplies the rows by given factors (M, columns) in training."""

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, rows: Tensor) -> Tensor:
        return rows * self.factors.view(rows.shape).to(rows.dtype) if self.training else rows


def _with_masks(plain: Any, seed: Tensor, rates: Rates, rows: int) -> Any:
    """The plain model with the masks of that seed in place of its dropouts."""
    d, f = plain.config.d_model, plain.config.ffn_dim
    for number, layer in enumerate(plain.model.encoder.layers):
        site = feed_forward_site(number)
        layer.dropout_path1 = _Mask(dropout_mask(seed, attention_site(number), rates.attention, rows, d))
        layer.ff[2] = _Mask(dropout_mask(seed, site, rates.feed_forward, rows, f))
        layer.dropout_path3 = _Mask(dropout_mask(seed, site + 1, rates.feed_forward_path, rows, d))
    return plain


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The seeds that encoders draw."""
    drawn: list[Tensor] = []

    def draw(like: Tensor) -> Tensor:
        drawn.append(dropout_seed(like))
        return drawn[-1]

    monkeypatch.setattr(encoder, "dropout_seed", draw)
    return drawn


RATES = Rates(attention_output=0.1, attention_path=0.2, feed_forward=0.3, feed_forward_path=0.4)


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({"pre_norm": False, "d_model": 48, "num_heads": 3}, RATES),
        ({"ffn_dim": 80, "activation": "relu", "num_layers": 1}, RATES),
        ({"norm_type": "layernorm", "num_layers": 1}, RATES),
        ({"norm_type": "layernorm", "pre_norm": False, "num_layers": 1}, Rates(feed_forward=0.5)),
        ({"pre_norm": False, "num_layers": 1}, Rates(feed_forward_path=0.5)),
        ({"num_layers": 1}, Rates(attention_path=0.5)),
    ],
    ids=str,
)
def test_with_dropout_it_computes_what_transformers_layers_compute_with_the_same_masks(
    changes: Any, rates: Rates, seeds: list[Tensor]
) -> None:
    plain, fused = _pair(**changes)
    fused = fuse(fused, rates)
    mine = _gradients(fused)
    rows = BATCH * 3 * plain.model.encoder.positional_encoder.position_enc.shape[0]
    exact = _gradients(_with_masks(plain, seeds[0], rates, rows))
    assert _error(mine[0], exact[0]) < 2e-6
    _assert_same(mine[1], exact[1])


def test_rates_are_those_of_the_models_config_and_each_step_draws_other_masks(seeds: list[Tensor]) -> None:
    _, fused = _pair(dropout=0.25, num_layers=1)
    path = {"attention_path": 0.25, "feed_forward": 0.25, "feed_forward_path": 0.25}
    assert all(Rates.of(layer) == Rates(**path) for layer in fused.model.encoder.layers)
    fused.model.encoder.positional_encoder.positional_dropout = nn.Identity()
    past = torch.randn(3, 48, 3)
    torch.manual_seed(5)
    first, second = fused(past_values=past)[0], fused(past_values=past)[0]
    torch.manual_seed(5)
    again = fused(past_values=past)[0]
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert len({seed.item() for seed in seeds}) == 2
    fused.eval()
    state = torch.get_rng_state()
    assert torch.equal(fused(past_values=past)[0], fused(past_values=past)[0])
    assert torch.equal(torch.get_rng_state(), state) and len(seeds) == 3


def test_masks_have_their_rate_and_are_independent_of_each_other() -> None:
    seed = torch.tensor([2**61 + 3])
    rows, columns = 1024, 128
    masks = [dropout_mask(seed, site, 0.2, rows, columns) for site in (2, 3)]
    masks.append(dropout_mask(seed + 2**32, 2, 0.2, rows, columns))
    assert masks[0].unique().tolist() == [0.0, pytest.approx(1.25, abs=1e-4)]
    gone = [(mask == 0).double() for mask in masks]
    for one in gone:
        deviation = (0.16 / one.numel()) ** 0.5
        assert abs(one.mean().item() - 0.2) < 5 * deviation
        assert one.mean(0).std().item() == pytest.approx((0.16 / rows) ** 0.5, rel=0.4)
        assert one.mean(1).std().item() == pytest.approx((0.16 / columns) ** 0.5, rel=0.1)
    pairs = [(gone[0], gone[1]), (gone[0], gone[2]), (gone[0][1:], gone[0][:-1]), (gone[0][:, 1:], gone[0][:, :-1])]
    for one, other in [*pairs, (gone[0][:, 8:], gone[0][:, :-8])]:
        assert abs((one * other).mean().item() - 0.04) < 5 * (0.04 * 0.96 / one.numel()) ** 0.5
    assert torch.equal(dropout_mask(seed, 2, 0.2, 77, 40), masks[0][:77, :40])


def test_positions_that_are_learned_get_their_gradient() -> None:
    plain, fused = _pair(pre_norm=False, num_layers=1)
    for model in (plain, fused):
        model.model.encoder.positional_encoder.position_enc.requires_grad_(True)
    name = "model.encoder.positional_encoder.position_enc"
    assert _error(_gradients(fused)[1][name], _gradients(plain)[1][name]) < 1e-5


@pytest.mark.parametrize(
    ("pre_norm", "norm_type", "compiler"),
    [
        (True, "batchnorm", None), (False, "batchnorm", "aot_eager_decomp_partition"), (True, "layernorm", None),
    ],
)  # fmt: skip
def test_layers_that_are_computed_again_have_the_same_bits(
    pre_norm: bool, norm_type: str, compiler: str | None
) -> None:
    """Gradients, and the running statistics, which move once. Dropout draws the same mask again."""
    found = []
    for recompute in ("never", "always"):
        torch.manual_seed(0)
        model = build_model(
            **FIELDS | {"pre_norm": pre_norm, "norm_type": norm_type, "dropout": 0.2}, recompute=recompute
        )
        fused = fuse(model).train()
        _, gradients = _gradients(torch.compile(fused, backend=compiler, fullgraph=True) if compiler else fused)
        found.append([*gradients.values(), *(buffer.double() for buffer in model.buffers())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_layer_keeps_what_the_memory_model_counts(pre_norm: bool) -> None:
    """For the backward pass, in bf16 and with dropout, of which nothing is kept."""
    found = []
    for layers in (2, 3):
        fields = FIELDS | {"pre_norm": pre_norm, "dropout": 0.2, "num_layers": layers}
        model, kept = fuse(build_model(**fields)).train(), {}
        known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}

        def keep(tensor: Tensor, known: set[int] = known, kept: dict[int, int] = kept) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known and tensor.shape[0] not in (32, 96):  # weights, cast or joined
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", dtype=torch.bfloat16),
        ):
            assert model(past_values=torch.randn(3, 48, 3), future_values=torch.randn(3, 8, 3)).loss.requires_grad
        shape = StepShape(
            batch_size=3, num_channels=3, context_length=48, prediction_length=8, patch_length=12, patch_stride=6,
            d_model=32, num_heads=4, num_layers=layers, ffn_dim=96,
        )  # fmt: skip
        how = Execution(
            layers="fused", attention="eager", engine="compile", precision="bf16", norm_type="batchnorm",
            pre_norm=pre_norm, dropout=0.2, head_dropout=0.0,
        )  # fmt: skip
        found.append((sum(kept.values()), step_memory(shape, how).saved))
    (measured_2, modelled_2), (measured_3, modelled_3) = found
    heads, patches, rows = 4, 7, 63  # a CPU's autocast keeps the weights in bf16, a GPU's in fp32: one 2-byte copy less
    assert modelled_3 - modelled_2 - 2 * heads * patches * rows == pytest.approx(measured_3 - measured_2, rel=0.02)
