"""accelerate(): what it refuses and what it leaves behind."""

from __future__ import annotations

import copy
import importlib
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate_kit import forecasts, plain_model, trainer_losses
from gate_kit import NotANumber, OnePercentOff
from torch import nn
from transformers import AttentionInterface, PatchTSTForClassification, PatchTSTForPrediction
from transformers.models.patchtst.modeling_patchtst import PatchTSTEncoder

import patchtst_sweeps
from model import swap
from model.attention import BACKENDS
from model.attention.eager import Eager
from tune.api.accelerate import (
    CannotAccelerate,
    PartlyAccelerated,
    accelerate,
    register_attention,
    restore,
)

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our attention is one that a CPU computes; our layers stay kernels for a GPU."""
    monkeypatch.setitem(BACKENDS, "patch", Eager())


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is taken for a GPU, for what is refused before anything runs."""
    monkeypatch.setattr(swap, "device_facts", lambda model: ("cuda", (9, 0)))


def _accelerated(**changes: Any) -> Any:
    with pytest.warns(PartlyAccelerated, match="attention yes, layers no: fused layers are Triton kernels for a CUDA"):
        return accelerate(plain_model(**changes), batch_size=4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_on_a_cpu_it_is_refused_with_the_reason_of_each_part_and_the_model_stays() -> None:
    model = plain_model()
    with pytest.raises(CannotAccelerate) as caught:
        accelerate(model)
    assert set(caught.value.reasons) == {"attention", "layers"}
    assert "patch needs a CUDA GPU" in str(caught.value) and "\n" not in str(caught.value)
    _assert_plain(model)


def _assert_plain(model: Any) -> None:
    assert type(model.model.encoder) is PatchTSTEncoder and model.config._attn_implementation == "sdpa"
    assert not hasattr(model, "acceleration")


def _compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")  # compiles nothing before its first call


def _with_attentions(model: Any) -> Any:
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    return model


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PatchTSTForClassification(plain_model().config), "it is a PatchTSTForClassification: only"),
        (
            lambda: plain_model(loss="nll", distribution_output="normal"),
            r"its head gives a distribution \(loss='nll'\)",
        ),
        (lambda: _compiled(plain_model()), "it is wrapped in a OptimizedModule: accelerate the model first"),
        (lambda: plain_model().to(torch.bfloat16), "its weights are bfloat16: keep them in float32"),
        (lambda: _with_attentions(plain_model()), "its config has output_attentions=True"),
    ],
    ids=["head", "distribution", "wrapped", "dtype", "weights of attention"],
)
def test_models_of_which_no_part_can_be_swapped_are_refused_in_one_line(make: Any, says: str) -> None:
    with pytest.raises(CannotAccelerate, match=f"^cannot accelerate: {says}[^\n]*$"):
        accelerate(make())


def test_a_model_that_is_accelerated_already_is_refused(on_cpu: None) -> None:
    model = _accelerated()
    with pytest.raises(CannotAccelerate, match="accelerated already: call restore"):
        accelerate(model)


def _hooked(model: Any) -> Any:
    model.model.encoder.layers[0].ff[0].register_forward_hook(lambda *_: None)
    return model


class Adapter(nn.Linear):
    """As LoRA puts in a Linear's place."""


def _adapted(model: Any) -> Any:
    model.model.encoder.layers[0].self_attn.q_proj = Adapter(16, 16)
    return model


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: plain_model(use_cls_token=True), "no use_cls_token=True"),
        (lambda: plain_model(channel_attention=True), "no channel_attention=True"),
        (lambda: plain_model(bias=False), r"ff\.0 of layer 0 has no bias"),
        (lambda: plain_model(d_model=20), "d_model divisible by 16 of at most 256 and got 20$"),
        (lambda: plain_model(activation_function="silu"), "activations gelu and relu and got silu$"),
        (lambda: _hooked(plain_model()), r"ff\.0 of layer 0 has a hook"),
        (lambda: _adapted(plain_model()), "q_proj of layer 0 is a Adapter, not a Linear"),
    ],
    ids=["class token", "channel attention", "bias", "width", "activation", "hook", "adapter"],
)
def test_layers_that_our_kernels_would_compute_otherwise_have_a_reason_and_attention_has_none(
    make: Any, says: str, on_gpu: None
) -> None:
    model = make()
    assert re.search(says, swap.layers_reason(model, "bf16") or "")
    assert swap.attention_reason(model, "bf16", 8) is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"attention_dropout": 0.1}, "patch has no attention dropout$"),
        ({"context_length": 140, "patch_length": 1, "patch_stride": 1}, "at most 128 patches and got 140$"),
        ({"d_model": 160}, "head_dim of at most 64 and got 80$"),
        ({"num_input_channels": 200, "channel_attention": True}, "at most 128 patches and got 200$"),
    ],
    ids=str,
)
def test_attention_that_our_kernel_does_not_take_has_a_reason(changes: Any, says: str, on_gpu: None) -> None:
    assert re.search(says, swap.attention_reason(plain_model(**changes), "bf16", 8) or "")


def test_layers_take_half_precision_only_and_say_so(on_gpu: None) -> None:
    assert swap.layers_reason(plain_model(), "bf16") is None
    assert "16 bits (bf16 or fp16) and got fp32" in (swap.layers_reason(plain_model(), "fp32") or "")


def test_layers_that_are_insisted_on_are_refused_where_they_cannot_be_had(on_cpu: None) -> None:
    model = plain_model()
    with pytest.raises(CannotAccelerate, match="layers: fused layers are Triton kernels for a CUDA GPU"):
        accelerate(model, layers="fused")
    _assert_plain(model)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"layers": "fusedd"}, "unknown layers 'fusedd'; allowed: auto, fused, transformers. Did you mean 'fused'"),
        ({"precision": "bfloat16"}, "unknown precision 'bfloat16'; allowed: bf16, fp16, fp32, tf32"),
    ],
    ids=str,
)
def test_an_unknown_option_is_answered_with_the_allowed_ones(given: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        accelerate(plain_model(), **given)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [(OnePercentOff(), "differ from the fp64 reference by"), (NotANumber(), "are not finite")],
    ids=["one percent off", "not a number"],
)
def test_an_attention_that_computes_something_else_does_not_pass_and_the_model_stays(
    wrong: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, "patch", wrong)
    model = plain_model()
    with pytest.raises(CannotAccelerate, match=says):
        accelerate(model, batch_size=4, layers="transformers")
    _assert_plain(model)


@pytest.fixture
def trained(on_cpu: None, tmp_path: Path) -> Iterator[tuple[Any, Path]]:
    """A model that was accelerated, then trained and saved by transformers' Trainer in bf16, and its folder."""
    model = plain_model(head_dropout=0.3)
    with pytest.warns(PartlyAccelerated):
        accelerate(model, precision="bf16", batch_size=4)
    losses = trainer_losses(model, tmp_path, steps=3, batch=4, use_cpu=True, bf16=True)
    assert len(losses) == 3
    yield model, tmp_path


def test_the_trainer_saves_a_plain_checkpoint_that_plain_transformers_loads(trained: tuple[Any, Path]) -> None:
    model, folder = trained
    saved: Any = PatchTSTForPrediction.from_pretrained(folder)
    _assert_plain(saved)
    assert list(saved.state_dict()) == list(model.state_dict()) == list(plain_model().state_dict())
    torch.testing.assert_close(forecasts(restore(model)), forecasts(saved), rtol=1e-5, atol=1e-6)


def test_an_accelerated_model_refuses_another_precision_than_it_was_checked_for(trained: tuple[Any, Path]) -> None:
    model, _ = trained
    with pytest.raises(ValueError, match="accelerated for bf16 on cpu and got float32 on cpu: call it as it was"):
        forecasts(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert forecasts(model).isfinite().all()


def test_the_check_leaves_weights_gradients_mode_and_random_state_alone(on_cpu: None) -> None:
    model = plain_model(positional_dropout=0.2, path_dropout=0.2).train()
    before, parameters = copy.deepcopy(model.state_dict()), list(model.parameters())
    torch.manual_seed(7)
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartlyAccelerated)
        accelerate(model, batch_size=4)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert all(one is other and one.grad is None for one, other in zip(parameters, model.parameters(), strict=True))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.model.encoder.positional_encoder.positional_dropout.p == 0.2


def test_what_was_done_stands_on_the_model_and_restore_takes_it_away(on_cpu: None) -> None:
    model, other = _accelerated(), forecasts(plain_model())
    text = str(model.acceleration)
    assert text.startswith(
        "attention yes; layers no: fused layers are Triton kernels for a CUDA GPU; CUDA graph no. Checked in fp32 on"
    )
    assert "with own weights" in text and "with sharp weights" in text
    torch.testing.assert_close(forecasts(model), other, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="returns no attention weights"):
        model(past_values=torch.zeros(1, 24, 2), output_attentions=True)
    assert restore(model) is model
    _assert_plain(model)
    torch.testing.assert_close(forecasts(model), other, rtol=0, atol=0)
    with pytest.raises(ValueError, match="nothing to restore"):
        restore(model)


def test_a_copy_of_an_accelerated_model_is_accelerated_and_restored_by_itself(on_cpu: None) -> None:
    model = _accelerated()
    twin = restore(copy.deepcopy(model))
    _assert_plain(twin)
    assert model.acceleration.attention and model.config._attn_implementation != "sdpa"


def test_transformers_that_is_imported_after_the_package_takes_attn_implementation_patch(tmp_path: Path) -> None:
    plain_model().save_pretrained(tmp_path)
    code = (
        "import sys, transformers, patchtst_sweeps\n"
        "assert 'torch' not in sys.modules\n"
        "from transformers import PatchTSTForPrediction\n"
        "model = PatchTSTForPrediction.from_pretrained(sys.argv[1], attn_implementation='patch')\n"
        "print(model.config._attn_implementation)\n"
        "model.set_attn_implementation('eager')\n"
        "model.set_attn_implementation('patch')\n"
        "print(model.config._attn_implementation)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "patch\npatch\n", done.stderr


def test_transformers_that_is_there_before_the_package_takes_attn_implementation_patch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_model().save_pretrained(tmp_path)
    monkeypatch.delitem(AttentionInterface._global_mapping, "patch", raising=False)
    importlib.reload(patchtst_sweeps)
    model: Any = PatchTSTForPrediction.from_pretrained(tmp_path, attn_implementation="patch")
    assert model.config._attn_implementation == register_attention() == "patch"
    with pytest.raises(ValueError, match="no attention weights to return"):
        model(past_values=torch.zeros(1, 24, 2), output_attentions=True)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="patch needs a CUDA GPU and got tensors on cpu"):
            forecasts(model)


def test_the_first_sample_of_the_page_runs(on_cpu: None) -> None:
    sample = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "accelerate.md").read_text(), re.DOTALL)[0]
    found: dict[str, Any] = {}
    with pytest.warns(PartlyAccelerated):
        exec(
            sample.replace('"cuda"', '"cpu"').replace("num_input_channels=7, context", "num_hidden_layers=1, context"),
            found,
        )
    _assert_plain(found["restore"](found["model"]))
