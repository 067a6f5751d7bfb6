"""What a fork server learns before it forks, in a Python of its own that believes it has a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
LEARNING = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
os.environ["TORCH_WARM_POOL"] = "0"
from tune.worker import forkserver, learned_once
forkserver.preload()
import torch
from torch.utils import _triton
asked = []
def initialise(*_, **__):
    asked.append(True)
    raise RuntimeError("CUDA would be initialised")
torch.cuda._lazy_init = torch._C._ensureCUDADeviceGuardSet = initialise
torch.cuda.is_available = torch.accelerator.is_available = there = lambda: True
torch.cuda.device_count = lambda: 1
tasks, seed = len(os.listdir("/proc/self/task")), torch.initial_seed()
learned_once.learn()
caches = [f.cache_info().currsize for f in vars(_triton).values() if hasattr(f, "cache_info")]
print(json.dumps({
    "asked": asked, "threads": len(os.listdir("/proc/self/task")) - tasks, "remembered": sum(caches),
    "restored": torch.cuda.is_available is there and torch.accelerator.is_available is there
    and torch._C._ensureCUDADeviceGuardSet is initialise,
    "traced": "torch._dynamo.convert_frame" in sys.modules, "threads_of_torch": torch.get_num_threads(),
    "kernels": "model.fused.encoder" in sys.modules,
}))
"""


@pytest.fixture(scope="module")
def learned() -> dict[str, Any]:
    ran = subprocess.run([sys.executable, "-c", LEARNING, str(ROOT)], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    content: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return content


def test_learning_asks_the_gpu_for_nothing_and_starts_no_thread(learned: dict[str, Any]) -> None:
    assert learned["asked"] == [] and learned["threads"] == 0


def test_what_was_hidden_while_learning_is_back_and_nothing_remembers_that_it_was(learned: dict[str, Any]) -> None:
    assert learned["restored"] and learned["remembered"] == 0


def test_a_model_was_traced_and_our_kernels_are_there(learned: dict[str, Any]) -> None:
    assert learned["traced"] and learned["threads_of_torch"] > 0
    if not learned["kernels"]:
        pytest.importorskip("triton", reason="Triton is not installed")
    assert learned["kernels"]
