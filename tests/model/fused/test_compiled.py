"""The plain Triton kernels of the fused layers, compiled on a CPU for the GPUs that the table of tiles knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from compile_kit import Recorder, compile_call

pytest.importorskip("triton", reason="triton is not installed")

from model.fused import feed_forward_kernels, launch, linear_kernels, norm_kernels, tiles
from model.fused.launch import Drop, Norm

ETTH, ETTM, WIDE = (16, 128), (128, 256), (256, 1024)  # d_model, ffn_dim
OFTEN = [((8, 0), ETTH), ((8, 6), WIDE), ((8, 9), ETTH), ((9, 0), ETTM)]
SELDOM = [(capability, sizes) for capability in tiles.TABLE for sizes in (ETTH, ETTM, WIDE)]
CASES = [*OFTEN, *(pytest.param(*case, marks=pytest.mark.soak_only) for case in SELDOM if case not in OFTEN)]
MOST_SPILLED = 1024  # bytes of a thread; more means that a tile does not fit


def _launch_a_layer(d: int, f: int) -> None:
    """Forward and backward pass of one layer with every dropout: batch norm after, or in a wide model layer norm."""
    x, wide = torch.empty(4096, d, dtype=torch.bfloat16, device="meta"), torch.empty(3 * d, d, device="meta")
    one, up, down = wide[0], torch.empty(f, d, device="meta"), torch.empty(d, f, device="meta")
    kind, post = ("layer", False) if d > tiles.NARROW else ("batch", True)
    norm = Norm(kind=kind, mean=one, var=one, gamma=one, beta=one, eps=1e-5)
    drop = Drop(seed=torch.empty(1, dtype=torch.int64, device="meta"), site=2, levels=(13107, 13107))
    _, xn, _ = launch.linear(x, wide, wide[:, 0], norm, keep=post)
    launch.linear(x, wide[:d], one, residual=x, drop=drop, statistics=kind == "batch")
    launch.linear_backward(x.new_empty(4096, 3 * d), wide, x, norm, x, xn=xn if post else None)
    launch.linear_backward(x, wide[:d], x, drop=drop)
    options: dict[str, Any] = {"activation": "gelu", "post": post}
    launch.feed_forward(x, norm, up, up[:, 0], down, one, drop, statistics=kind == "batch", **options)
    launch.feed_forward_backward(x, x, norm, up, up[:, 0], down, drop, training=True, **options)
    launch.normalise(x, norm)
    launch.normalise_backward(x, x, norm, training=True)
    launch.unite(launch.partials(x), len(x), one, one, torch.empty((), dtype=torch.int64, device="meta"), 0.1)


@pytest.mark.parametrize(("capability", "sizes"), CASES, ids=str)
def test_every_tile_fits_into_its_gpu(
    capability: tuple[int, int], sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(launch, "choose", lambda kernel, width, x: tiles.tile(kernel, width, capability))
    recorders = []
    for module in (linear_kernels, feed_forward_kernels, norm_kernels):
        for name in [name for name in vars(module) if name.startswith("fused_")]:
            recorders.append(Recorder(getattr(module, name)))
            monkeypatch.setattr(module, name, recorders[-1])
    _launch_a_layer(*sizes)
    assert [len(recorder.calls) for recorder in recorders[:4]] == [2, 2, 1, 1]
    assert all(recorder.calls for recorder in recorders if sizes != WIDE)  # layer norm needs fewer
    number = 10 * capability[0] + capability[1]
    for recorder in recorders:
        for arguments, options in recorder.calls:
            made = compile_call(recorder.kernel, arguments, options, number, tmp_path)
            about = f"{recorder.kernel.__name__} {options} shared {made.shared} spilled {made.spilled}"
            assert made.shared <= tiles.SHARED[capability] and made.spilled <= MOST_SPILLED, about
            if recorder in recorders[:4]:
                assert ("wgmma" if number == 90 else "mma.sync") in made.ptx, about


def test_a_gpu_between_two_rows_of_the_table_takes_the_earlier_ones_tiles() -> None:
    assert tiles.tile("linear", 128, (8, 7)) == tiles.TABLE[8, 6]["linear", tiles.NARROW]
    assert tiles.tile("linear", 144, (12, 0)) == tiles.TABLE[9, 0]["linear", tiles.WIDE]
    assert set(tiles.TABLE) == set(tiles.SHARED)
