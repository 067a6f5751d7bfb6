"""Backends of other packages are called in the package's layout and units, and report an absent package.

The packages need a GPU. Here each is replaced by a stand-in with the same arguments.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AttentionInterface  # before the stand-ins, which transformers' own search must not find

from model.attention import BACKENDS, flash_attention_2, flash_attention_3, flash_attention_4, flex
from model.attention.base import has_module, package_reason
from model.attention.eager import attend as eager

PACKAGES = ["flash_attention_2", "flash_attention_3", "flash_attention_4"]
ATTEND = {
    "flash_attention_2": flash_attention_2.attend,
    "flash_attention_3": flash_attention_3.attend,
    "flash_attention_4": flash_attention_4.attend,
}
S, K, N, E = 6, 2, 5, 16


class Calls(list[dict[str, Any]]):
    """The keyword arguments of every call of a stand-in, and the strides that its tensors came with."""


def _reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention in the packages' layout (S, N, K, E), and the log-sum-exp (S, K, N)."""
    scores = torch.einsum("snke,smke->sknm", q, k) * scale
    return torch.einsum("sknm,smke->snke", scores.softmax(-1), v), scores.logsumexp(-1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Puts the stand-ins where `import` finds them."""
    recorded = Calls()

    def note(*tensors: torch.Tensor, **arguments: Any) -> None:
        if torch.compiler.is_compiling():
            return
        recorded.append(arguments | {"contiguous": all(t.is_contiguous() for t in tensors), "shape": tensors[0].shape})

    def fa2(
        q: Any, k: Any, v: Any, dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False
    ) -> torch.Tensor:
        note(q, k, v, dropout_p=dropout_p, causal=causal)
        assert softmax_scale is not None
        return _reference(q, k, v, softmax_scale)[0]

    def fa3(q: Any, k: Any, v: Any, softmax_scale: float | None = None, causal: bool = False) -> torch.Tensor:
        note(q, k, v, causal=causal)
        assert softmax_scale is not None
        return _reference(q, k, v, softmax_scale)[0]

    def fa4_forward(
        q: Any, k: Any, v: Any, *, softmax_scale: float, causal: bool = False, return_lse: bool = False
    ) -> tuple[Any, ...]:
        note(q, k, v, causal=causal)
        out, lse = _reference(q, k, v, softmax_scale)
        return out.contiguous(), lse if return_lse else None, None, None, None

    def fa4_backward(
        q: Any, k: Any, v: Any, out: Any, dout: Any, lse: Any, *, softmax_scale: float, causal: bool = False,
        dq: torch.Tensor, dk: torch.Tensor, dv: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:  # fmt: skip
        note(q, k, v, out, dout, dq, dk, dv, causal=causal)
        weights = torch.exp(torch.einsum("snke,smke->sknm", q, k) * softmax_scale - lse[..., None])
        d_weights = torch.einsum("snke,smke->sknm", dout, v)
        d_scores = weights * (d_weights - (dout * out).sum(-1).transpose(1, 2)[..., None]) * softmax_scale
        dq.copy_(torch.einsum("sknm,smke->snke", d_scores, k))
        dk.copy_(torch.einsum("sknm,snke->smke", d_scores, q))
        dv.copy_(torch.einsum("sknm,snke->smke", weights, dout))
        return dq, dk, dv

    modules: dict[str, dict[str, Any]] = {
        "flash_attn": {"flash_attn_func": fa2, "__path__": []},
        "flash_attn.flash_attn_interface": {"flash_attn_func": fa2},
        "flash_attn_2_cuda": {},
        "flash_attn_interface": {"flash_attn_func": fa3},
        "flash_attn.cute": {"__path__": []},
        "flash_attn.cute.interface": {"_flash_attn_fwd": fa4_forward, "_flash_attn_bwd": fa4_backward},
    }
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    return recorded


def _leaves() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(S, N, K, E, requires_grad=True) for _ in range(3)]


def _gradients(attend: Any, *, scaling: float | None = 0.2, compiling: bool = False) -> list[torch.Tensor]:
    """The output and the gradients by q, k and v."""
    module = torch.nn.Module().eval()

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        query, key, value = (tensor.transpose(1, 2) for tensor in tensors)
        return attend(module, query, key, value, None, dropout=0.0, scaling=scaling)[0]

    leaves = _leaves()
    if compiling:
        torch._dynamo.reset()
        run = torch.compile(run, backend="aot_eager", fullgraph=True, dynamic=False)
    output = run(*leaves)
    assert output.shape == (S, N, K, E) and output.is_contiguous()
    output.square().sum().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_is_given_its_own_layout_without_a_copy_and_gives_eagers_gradients(name: str, calls: Calls) -> None:
    assert AttentionInterface()[BACKENDS[name].register()].__wrapped__ is ATTEND[name]  # in pieces
    ours, reference = _gradients(ATTEND[name]), _gradients(eager)
    assert len(ours) == len(reference) == 4
    for mine, theirs in zip(ours, reference, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert calls and all(c["contiguous"] and not c["causal"] and c["shape"] == (S, N, K, E) for c in calls)


def test_flash_attention_4_scales_by_the_width_of_a_head_when_none_is_given(calls: Calls) -> None:
    BACKENDS["flash_attention_4"].register()
    ours, reference = _gradients(ATTEND["flash_attention_4"], scaling=None), _gradients(eager, scaling=None)
    torch.testing.assert_close(ours[0], reference[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_compiles_without_a_graph_break(name: str, request: pytest.FixtureRequest) -> None:
    if BACKENDS[name].missing_package(importing=False) is None:  # dynamo sees the real one beside the stand-in
        pytest.skip(f"{name}'s package is installed here: test_backends.py compiles the real one")
    request.getfixturevalue("calls")
    BACKENDS[name].register()
    for ours, theirs in zip(_gradients(ATTEND[name], compiling=True), _gradients(ATTEND[name]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_flash_attention_2_is_given_the_dropout(calls: Calls) -> None:
    query, key, value = (leaf.transpose(1, 2) for leaf in _leaves())
    flash_attention_2.attend(torch.nn.Module(), query, key, value, None, dropout=0.25, scaling=0.2)
    assert [call["dropout_p"] for call in calls] == [0.25]


@pytest.mark.parametrize("attend", [flash_attention_3.attend, flash_attention_4.attend, flex.attend])
def test_a_dropout_that_would_be_ignored_is_an_error(attend: Any) -> None:
    query, key, value = (leaf.transpose(1, 2) for leaf in _leaves())
    with pytest.raises(ValueError, match="has no attention dropout: set model.attention_dropout=0"):
        attend(torch.nn.Module(), query, key, value, None, dropout=0.1, scaling=0.2)


def test_flex_is_the_same_function_and_is_traced_with_the_model() -> None:
    """On CPU it has a forward pass only, plainly computed; the fused kernel needs a GPU."""
    query, key, value = (leaf.detach().transpose(1, 2) for leaf in _leaves())

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        return flex.attend(torch.nn.Module(), *tensors, None, scaling=0.2)[0]

    torch._dynamo.reset()
    output = torch.compile(run, backend="eager", fullgraph=True, dynamic=False)(query, key, value)
    reference, _ = eager(torch.nn.Module(), query, key, value, None, scaling=0.2)
    torch.testing.assert_close(output, reference, rtol=1e-5, atol=1e-5)
    assert output.shape == (S, N, K, E) and output.is_contiguous()


def test_flex_is_compiled_once_for_more_shapes_than_dynamo_allows_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a compiled model, with dynamo's own backend in place of inductor, which takes seconds a shape."""
    compiled: list[Any] = []

    def compile_plainly(function: Any, **options: Any) -> Any:
        compiled.append(options)
        return real(function, backend="eager", **options)

    real = torch.compile
    monkeypatch.setattr(torch, "compile", compile_plainly)
    flex._compiled.cache_clear()
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=8):  # not by monkeypatch: its undoing hides the setting for good
        for heads in range(1, 12):
            query, key, value = (torch.randn(S, heads, N, E) for _ in range(3))
            output, _ = flex.attend(torch.nn.Module(), query, key, value, None, scaling=0.2)
            reference, _ = eager(torch.nn.Module(), query, key, value, None, scaling=0.2)
            torch.testing.assert_close(output, reference, rtol=1e-5, atol=1e-5)
    assert compiled == [{"fullgraph": True, "dynamic": False}]
    flex._compiled.cache_clear()


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("importing", [False, True])
def test_only_backends_of_other_packages_miss_one(name: str, importing: bool) -> None:
    reason = BACKENDS[name].missing_package(importing=importing)
    if name not in PACKAGES:
        assert reason is None
    elif reason is not None:  # absent here, or present on a machine with a GPU
        assert reason.startswith(name) and "`pip install " in reason and "\n" not in reason


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("importing", [False, True])
def test_a_package_that_is_there_is_found(name: str, importing: bool, calls: Calls) -> None:
    assert BACKENDS[name].missing_package(importing=importing) is None


@pytest.mark.parametrize("present", [False, True])
def test_flash_attn_alone_is_not_flash_attention_4_nor_the_other_way_round(
    present: bool, monkeypatch: pytest.MonkeyPatch, calls: Calls
) -> None:
    """flash-attn 2.8 brings an unfinished flash_attn.cute, and flash-attn-4 a folder flash_attn without the rest."""
    monkeypatch.delitem(sys.modules, "flash_attn.cute.interface" if present else "flash_attn_2_cuda")
    lacking = BACKENDS["flash_attention_4" if present else "flash_attention_2"]
    reason = lacking.missing_package(importing=False)
    if reason is None:
        pytest.skip(f"{lacking.name}'s package is installed here")
    assert "not installed" in reason


def test_asking_for_a_package_imports_nothing_unless_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    assert has_module("this") and package_reason("x", install="pip install x", present=True, module=None) is None
    assert "this" not in sys.modules


def test_a_broken_build_is_a_reason_in_one_line(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "built_for_another_torch.py").write_text("raise ImportError('undefined symbol:\\n _ZN3c10')")
    monkeypatch.syspath_prepend(tmp_path)
    assert has_module("built_for_another_torch")
    reason = package_reason("x", install="pip install x", present=True, module="built_for_another_torch")
    assert reason == (
        "x cannot import built_for_another_torch (ImportError: undefined symbol: _ZN3c10): use `pip install x` to "
        "install it again for this torch, or another attention"
    )
