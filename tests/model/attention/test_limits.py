"""Each backend states its limits in one line with a way out and accepts all that runs; `auto` follows them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from model.attention import AUTO_ORDER, BACKENDS, resolve_auto
from model.attention.base import Workload

H100: dict[str, Any] = {
    "device_type": "cuda", "capability": (9, 0), "precision": "bf16", "head_dim": 8, "attention_dropout": 0.0,
    "sequences": 896, "patches": 42, "num_heads": 16,
}  # fmt: skip
WIDE = H100 | {"head_dim": 16, "num_heads": 8}
CPU = H100 | {"device_type": "cpu", "capability": None, "precision": "fp32"}
TF32_WIDE = H100 | {"precision": "tf32", "patches": 97, "head_dim": 33, "num_heads": 4}
B200 = H100 | {"capability": (10, 0)}


@pytest.mark.parametrize(
    ("name", "facts", "says"),
    [
        ("sdpa_efficient", CPU, "no CPU kernel"),
        ("sdpa_efficient", H100 | {"head_dim": 4}, "divisible by 8 in bf16 and got 4"),
        ("sdpa_efficient", H100 | {"head_dim": 6, "precision": "fp32"}, "divisible by 4 in fp32 and got 6"),
        ("sdpa_efficient", H100 | {"capability": (7, 5)}, "8.0 for bf16, this GPU has 7.5"),
        ("sdpa_flash", CPU | {"attention_dropout": 0.1}, "no attention dropout on CPU"),
        ("sdpa_flash", H100 | {"precision": "fp32"}, "bf16 or fp16 on CUDA and got fp32"),
        ("sdpa_flash", H100 | {"precision": "tf32"}, "bf16 or fp16 on CUDA and got tf32"),
        ("sdpa_flash", H100 | {"capability": (7, 5)}, "needs compute capability 8.0"),
        ("sdpa_flash", H100 | {"head_dim": 4}, "divisible by 8"),
        ("sdpa_flash", H100 | {"head_dim": 264}, "at most 256"),
        ("sdpa_flash", H100 | {"head_dim": 200, "capability": (8, 9)}, "cannot train with head_dim 200"),
        ("sdpa_flash", H100 | {"patches": 2**20, "head_dim": 256}, "at most 2,147,483,648 elements"),
        ("sdpa_cudnn", CPU, "no CPU kernel"),
        ("sdpa_cudnn", H100 | {"precision": "fp32"}, "bf16 or fp16 on CUDA and got fp32"),
        ("sdpa_cudnn", H100 | {"capability": (7, 5)}, "needs compute capability 8.0 and this GPU has 7.5"),
        ("sdpa_cudnn", H100 | {"head_dim": 4}, "divisible by 8 and at most 128 and got 4"),
        ("sdpa_cudnn", H100 | {"head_dim": 136}, "at most 128 and got 136"),
        ("sdpa_cudnn", H100 | {"patches": 1}, "at least 2 patches and got 1"),
        ("sdpa_cudnn", H100 | {"attention_dropout": 0.1}, "sixteenths only and got 0.1"),
        ("flash_attention_2", CPU, "no CPU kernel"),
        ("flash_attention_2", H100 | {"precision": "tf32"}, "bf16 or fp16 on CUDA and got tf32"),
        ("flash_attention_2", H100 | {"capability": (7, 5)}, "needs compute capability 8.0"),
        ("flash_attention_2", H100 | {"head_dim": 264}, "from 1 to 256 and got 264"),
        ("flash_attention_2", H100 | {"head_dim": 200, "capability": (12, 0)}, "cannot train with head_dim 200"),
        ("flash_attention_3", CPU, "no CPU kernel"),
        ("flash_attention_3", H100 | {"capability": (8, 0)}, "9.0 .* and this GPU has 8.0"),
        ("flash_attention_3", B200, "9.0 .* and this GPU has 10.0"),
        ("flash_attention_3", H100 | {"precision": "fp32"}, "bf16 or fp16"),
        ("flash_attention_3", H100 | {"head_dim": 4}, "divisible by 8"),
        ("flash_attention_3", H100 | {"attention_dropout": 0.2}, "no attention dropout"),
        ("flash_attention_4", CPU, "no CPU kernel"),
        ("flash_attention_4", H100 | {"capability": (8, 9)}, "9.0 and 10.x and this GPU has 8.9"),
        ("flash_attention_4", H100 | {"capability": (12, 0)}, "9.0 and 10.x and this GPU has 12.0"),
        ("flash_attention_4", H100 | {"precision": "fp32"}, "bf16 or fp16"),
        ("flash_attention_4", H100 | {"head_dim": 4}, "divisible by 8"),
        ("flash_attention_4", B200 | {"head_dim": 192}, "at most 128 and got 192"),
        ("flash_attention_4", H100 | {"attention_dropout": 0.2}, "no attention dropout"),
        ("patch", TF32_WIDE | {"capability": (8, 6)}, "shared memory .* 97 patches of head_dim 33 in tf32"),
        ("patch", TF32_WIDE | {"capability": (8, 9)}, "shared memory"),
        ("patch", TF32_WIDE | {"capability": (12, 0)}, "shared memory"),
        ("flex", CPU | {"head_dim": 16}, "no backward pass on CPU"),
        ("flex", H100, "a head_dim from 16 to 256 and got 8"),
        ("flex", WIDE | {"capability": (7, 5)}, "needs compute capability 8.0"),
        ("flex", WIDE | {"capability": (6, 1), "precision": "fp32"}, "needs compute capability 7.0"),
        ("flex", WIDE | {"attention_dropout": 0.2}, "no attention dropout"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_limit_is_stated_in_one_line_with_a_way_out(name: str, facts: dict[str, Any], says: str) -> None:
    reason = BACKENDS[name].unsupported_reason(Workload(**facts))
    assert reason is not None and re.search(says, reason)
    assert reason.startswith(name) and "\n" not in reason
    assert re.search(r": (use|set|change|lower|raise) ", reason), "no way out is named"


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("sdpa_efficient", H100),
        ("sdpa_efficient", H100 | {"precision": "fp32", "head_dim": 4, "attention_dropout": 0.2}),
        ("sdpa_efficient", H100 | {"precision": "fp16", "capability": (7, 5), "sequences": 10**6}),
        ("sdpa_efficient", H100 | {"capability": None, "num_heads": None}),
        ("sdpa_flash", H100 | {"attention_dropout": 0.2}),
        ("sdpa_flash", H100 | {"sequences": 32_768}),
        ("sdpa_flash", H100 | {"head_dim": 256, "capability": (8, 9)}),
        ("sdpa_flash", CPU | {"head_dim": 4, "precision": "bf16"}),
        ("sdpa_flash", H100 | {"sequences": 16_384, "head_dim": 40}),
        ("sdpa_cudnn", H100 | {"attention_dropout": 0.1875, "sequences": 10**6}),
        ("sdpa_cudnn", H100 | {"capability": None, "precision": "fp16", "patches": 2, "head_dim": 128}),
        ("flash_attention_2", H100 | {"attention_dropout": 0.2, "head_dim": 4}),
        ("flash_attention_2", H100 | {"sequences": 32_768}),
        ("flash_attention_2", H100 | {"capability": None, "num_heads": None, "sequences": 10**6}),
        ("flash_attention_3", H100 | {"sequences": 10**6, "head_dim": 256}),
        ("flash_attention_3", H100 | {"capability": None}),
        ("flash_attention_4", H100 | {"sequences": 10**6, "head_dim": 256}),
        ("flash_attention_4", B200 | {"capability": (10, 3), "head_dim": 128}),
        ("flex", WIDE | {"sequences": 10**6}),
        ("flex", WIDE | {"precision": "fp32", "capability": (7, 5), "head_dim": 24}),
        ("patch", TF32_WIDE),
        ("patch", TF32_WIDE | {"capability": (8, 0)}),
        ("patch", TF32_WIDE | {"capability": (8, 9), "patches": 96, "head_dim": 64}),
        ("patch", TF32_WIDE | {"capability": (8, 9), "patches": 128, "head_dim": 32}),
        ("patch", TF32_WIDE | {"capability": (8, 9), "precision": "fp32"}),
        ("patch", TF32_WIDE | {"capability": None}),
        ("eager", CPU | {"head_dim": 3, "sequences": 10**6}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_runs_is_not_refused(name: str, facts: dict[str, Any]) -> None:
    assert BACKENDS[name].unsupported_reason(Workload(**facts)) is None


def test_auto_is_the_first_of_its_order_that_runs() -> None:
    on_gpu = next(name for name in AUTO_ORDER if name in BACKENDS)
    assert resolve_auto(Workload(**H100)) == on_gpu
    assert resolve_auto(Workload(**CPU)) == "eager"
    assert resolve_auto(Workload(**H100 | {"patches": 129, "head_dim": 3})) == "eager"
    ada = TF32_WIDE | {"capability": (8, 9), "head_dim": 64}
    assert resolve_auto(Workload(**ada)) == "sdpa_efficient"
