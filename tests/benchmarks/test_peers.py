"""The peer's model and loop, and the whole comparison at tiny sizes on a CPU."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peer_model import PeerModel, PeerTraining
from benchmarks.peers import ratio, take_turns

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {
    "context_length": 336, "prediction_length": 24, "patch_length": 16, "patch_stride": 8, "d_model": 16,
    "num_heads": 4, "num_layers": 2, "ffn_dim": 32, "dropout": 0.2,
}  # fmt: skip


def test_the_peer_has_42_patches_and_adds_scores_over_its_layers() -> None:
    model = PeerModel(**FIELDS).eval()
    assert model.positions.shape == (42, 16)
    assert model(torch.randn(2, 336, 3)).shape == (2, 24, 3)
    x = torch.randn(5, 42, 16)
    _, first = model.layers[0](x, None)
    _, added = model.layers[0](x, first)
    assert torch.allclose(added, 2 * first)


def test_the_peers_loss_falls_on_a_series_that_can_be_learned() -> None:
    torch.manual_seed(1)
    wave = np.sin(np.arange(900, dtype=np.float32)[:, None] / 5)
    training = PeerTraining(FIELDS | {"dropout": 0.0}, wave, batch_size=16, learning_rate=1e-2, workers=0, device="cpu")
    losses = [training.step().item() for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]


def test_turns_alternate_and_the_first_ones_do_not_count() -> None:
    order: list[str] = []
    seconds = take_turns({name: lambda name=name: order.append(name) for name in "ab"}, 2, 1, lambda: None)
    assert "".join(order) == "baabba"
    assert [len(each) for each in seconds.values()] == [2, 2]


def test_the_ratio_is_the_mean_of_the_turns_logarithms() -> None:
    found = ratio([2.0, 8.0, 4.0], [1.0, 2.0, 1.0])
    assert found["ratio"] == pytest.approx(math.exp((math.log(2) + 2 * math.log(4)) / 3))
    assert found["ratio_low"] < found["ratio"] < found["ratio_high"]


def test_it_compares_both_in_one_run_on_a_cpu(tmp_path: Path) -> None:
    command = [
        sys.executable, "benchmarks/peers.py", "--preset", "etth", "--steps", "1", "--rounds", "3", "--batch", "2",
        "--workers", "0", "--channels", "2", "--rows", "1500", "--json", str(tmp_path / "peers.json"),
    ]  # fmt: skip
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "times as fast (95 %:" in done.stdout
    result = json.loads((tmp_path / "peers.json").read_text())
    assert {name: len(turns) for name, turns in result["turns_s"].items()} == {"peer": 3, "ours": 3}
    assert result["params"]["model.patch_stride"] == 8
