"""The Hopper operators on a CPU: what they take, their launches emulated and compared with autograd in fp64."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton", reason="triton is not installed")
import emulated_hopper  # noqa: E402

from model.fused.dropout import level  # noqa: E402
from model.fused.hopper import launch, launch_backward, ops  # noqa: E402
from model.fused.hopper.reason import hopper_reason  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
D = 128
TAKEN: dict[str, Any] = {
    "d_model": 128, "ffn_dim": 512, "head_dim": 8, "norm_type": "batchnorm", "pre_norm": True, "activation": "gelu",
    "dropout": 0.0, "dtype": "bf16", "capability": (9, 0),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"capability": (8, 0)}, "capability 9.0 and this GPU's is 8.0"),
        ({"capability": (10, 0)}, "capability 9.0 and this GPU's is 10.0"),
        ({"capability": None}, "this GPU's is unknown"),
        ({"dtype": "fp16"}, "compute in bf16 and got fp16"),
        ({"d_model": 64}, "d_model of 128 and got 64"),
        ({"ffn_dim": 1024}, "ffn_dim of 128, 256, 384, 512 and got 1024"),
        ({"head_dim": 4}, "width divisible by 8 and got 4"),
        ({"norm_type": "layernorm"}, "batch norm and got layernorm"),
        ({"activation": "relu"}, "compute GELU and got relu"),
        ({"dropout": 0.2}, "drop inside where norms follow the sublayers, and got pre_norm with 0.2"),
    ],
    ids=str,
)
def test_what_they_were_not_written_for_gets_the_reason(change: dict[str, Any], says: str) -> None:
    assert hopper_reason(**TAKEN) is hopper_reason(**TAKEN | {"pre_norm": False, "dropout": 0.2}) is None
    reason = hopper_reason(**TAKEN | change)
    assert reason and says in reason and reason.endswith("plain Triton kernels run instead")


def test_the_plain_kernels_around_them_are_right_in_tritons_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/kits/interpreted_hopper.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout)


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(launch, "run", emulated_hopper.emulate)
    monkeypatch.setattr(launch_backward, "add_up", lambda partial: partial.sum(0))
    for file in (launch, launch_backward):
        monkeypatch.setattr(file, "processors", lambda device: PROCESSORS)
    yield


PROCESSORS = 5  # so that programs have several tiles, and some less than others


OFFICIAL: dict[str, Any] = {"post": True, "rates": (0.2, 0.2, 0.2)}
SEED = torch.tensor([3 << 40 | 12_345])


class Layer(nn.Module):
    """An encoder layer without its attention, which `middle` stands for; W = width of q, k and v.

    post: norms come after the sublayers, as the next ones read. rates: of dropout after attention, after the activation
    and before the residual of the feed-forward, by the masks of SEED.
    """

    def __init__(self, width: int, ffn: int, *, post: bool = False, rates: tuple[float, ...] = (0.0, 0.0, 0.0)) -> None:
        super().__init__()
        self.post, self.levels = post, tuple(level(rate) for rate in rates)
        torch.manual_seed(width + ffn)
        self.norm1, self.norm2 = nn.BatchNorm1d(D), nn.BatchNorm1d(D)
        self.q, self.k, self.v = (nn.Linear(D, width) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(width, D), nn.Linear(D, ffn), nn.Linear(ffn, D)
        for norm in (self.norm1, self.norm2):
            nn.init.normal_(norm.weight, 1.0, 0.3)
            nn.init.normal_(norm.bias, 0.0, 0.3)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)

    @staticmethod
    def middle(qkv: Tensor) -> Tensor:
        q, k, v = qkv.chunk(3, 1)
        return q * torch.sigmoid(k) + v

    def drop(self, x: Tensor, site: int) -> Tensor:
        return x * emulated_hopper.mask(SEED, site, 0, *x.shape, self.levels[site - 4])

    def forward(self, x: Tensor) -> Tensor:
        xn = self.norm1(x)
        middle = self.middle(torch.cat([self.q(xn), self.k(xn), self.v(xn)], 1))
        x = (xn if self.post else x) + self.drop(self.out(middle), 4)
        xn = self.norm2(x)
        wide = self.drop(nn.functional.gelu(self.up(xn)), 5)
        return (xn if self.post else x) + self.drop(self.down(wide), 6)


def hopper_layer(layer: Layer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y, and the statistics of both sublayers' outputs."""
    n1, n2, training = layer.norm1, layer.norm2, layer.training
    weights = [part.weight for part in (layer.q, layer.k, layer.v)]
    biases = [part.bias for part in (layer.q, layer.k, layer.v)]
    with torch.no_grad():
        packed = launch.Packed(
            *ops.pack(
                *weights, *biases, n1.weight, n1.bias, layer.out.weight, layer.up.weight, layer.up.bias, n2.weight,
                n2.bias, layer.down.weight, x.dtype,
            )
        )  # fmt: skip
    post, seed, levels = layer.post, SEED if any(layer.levels) else None, layer.levels
    qkv, residual, sums = ops.NormLinear.apply(
        x, *_statistics(n1, x), n1.weight, n1.bias, *weights, *biases, packed.qkv, packed.qkv_bias, n1.eps, training,
        True, post,
    )  # fmt: skip
    affine = (n1.weight, n1.bias, sums) if post else (None, None, None)
    y, first = ops.linear_add(
        layer.middle(qkv), layer.out.weight, layer.out.bias, packed.out, residual, *affine, seed, 4, levels[0], training
    )
    z, second, _ = ops.feed_forward(
        y, *_statistics(n2, y), n2.weight, n2.bias, layer.up.weight, layer.up.bias, layer.down.weight, layer.down.bias,
        packed.up, packed.up_bias, packed.down, seed, n2.eps, post, 5, *levels[1:], training, True, training,
    )  # fmt: skip
    return z, first, second


def _statistics(norm: nn.BatchNorm1d, x: Tensor) -> tuple[Tensor, Tensor]:
    if not norm.training:
        return norm.running_mean, norm.running_var
    with torch.no_grad():
        exact = x.double()
        return exact.mean(0).float(), exact.var(0, unbiased=False).float()


def _error(ours: Tensor, true: Tensor) -> float:
    return ((ours.double() - true).norm() / true.norm()).item()


def _compare(
    rows: int, width: int, ffn: int, *, training: bool = True, dtype: Any = torch.float32, far: float = 0.0,
    post: bool = False, rates: tuple[float, ...] = (0.0, 0.0, 0.0),
) -> Any:  # fmt: skip
    """Errors by name: of y, dx and every gradient."""
    layer = Layer(width, ffn, post=post, rates=rates).train(training)
    x = (torch.randn(rows, D) * torch.linspace(0.5, 2.0, D) + far).to(dtype)
    seed = torch.randn(rows, D).to(dtype)
    found: list[dict[str, Tensor]] = []
    for exact in (True, False):
        layer = layer.double() if exact else layer.float()
        layer.zero_grad()
        start = (x.double() if exact else x.clone()).requires_grad_()
        y = layer(start) if exact else hopper_layer(layer, start)[0]
        y.backward(seed.double() if exact else seed)
        grads = {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}
        found.append({"y - x": y.detach().double() - x.double(), "dx": start.grad} | grads)
    exactly, ours = found
    return {name: _error(ours[name], value) for name, value in exactly.items() if value.norm() > 1e-9}


@pytest.mark.parametrize("rows", [64, 63, 65, 700])
@pytest.mark.parametrize(("width", "ffn"), [(128, 512), (88, 256)])
def test_forward_and_every_gradient_are_autograds(rows: int, width: int, ffn: int) -> None:
    for given in ({}, OFFICIAL):
        errors = _compare(rows, width, ffn, **given)
        assert max(errors.values()) < 2e-5, errors


@pytest.mark.parametrize(
    ("post", "rates"),
    [(False, (0.2, 0.2, 0.2)), (True, (0.0, 0.0, 0.0)), (True, (0.1, 0.0, 0.3)), (True, (0.0, 0.2, 0.0))],
)
def test_norms_after_the_sublayers_and_each_dropout_do_without_the_others(post: bool, rates: Any) -> None:
    for training in (True, False):
        errors = _compare(70, 128, 128, post=post, rates=rates, training=training)
        assert max(errors.values()) < 2e-5, errors


@pytest.mark.parametrize("width", [120, 104, 64, 40, 8])
def test_heads_may_be_missing(width: int) -> None:
    errors = _compare(130, width, 128)
    assert max(errors.values()) < 2e-5, errors


def test_in_evaluation_the_statistics_are_constants() -> None:
    for rows in (1, 65):
        errors = _compare(rows, 88, 384, training=False)
        assert max(errors.values()) < 2e-5, errors


def test_nothing_cancels_where_the_mean_is_a_thousand_standard_deviations() -> None:
    errors = _compare(700, 120, 256, far=1000.0)
    assert max(errors.values()) < 1e-2, errors  # x itself has 1e-4 of a standard deviation left in fp32


def test_in_half_precision_the_errors_are_those_of_rounding() -> None:
    for given in ({}, OFFICIAL):
        errors = _compare(700, 128, 512, dtype=torch.bfloat16, **given)
        assert max(errors.values()) < 1.2e-2, errors


def test_statistics_come_by_blocks_of_64_rows() -> None:
    layer, x = Layer(128, 128), torch.randn(130, D)
    z, first, second = hopper_layer(layer, x)
    assert first.shape == second.shape == (3, 2, D)
    for block, rows in enumerate(z.detach().split(64)):
        torch.testing.assert_close(second[block, 0], rows.mean(0), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(second[block, 1], ((rows - rows.mean(0)) ** 2).sum(0), atol=1e-4, rtol=1e-4)


def test_a_layers_shapes_are_known_without_running_it() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    for given in ({}, {"post": True}):
        real = hopper_layer(Layer(88, 256, **given), torch.randn(70, D))
        with FakeTensorMode():
            fake = hopper_layer(Layer(88, 256, **given), torch.randn(70, D))
        assert [tuple(tensor.shape) for tensor in real] == [tuple(tensor.shape) for tensor in fake]
