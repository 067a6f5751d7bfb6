"""The Hopper kernels compiled for sm_90 on a CPU, as they are launched: shared memory, registers, instructions."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="triton is not installed")
from gluon_kit import MOST_SHARED, Compiled, a_layer, compiled, recorded

from model.fused.hopper.launch_backward import share

ETTM = (128, 256, True, 0.2)  # width of all heads, FFN width, whether norms come after the sublayers, dropout's rate


def _kernels(
    width: int, ffn: int, *names: str, rows: int = 70, post: bool = False, rate: float = 0.0
) -> list[Compiled]:
    """A layer's kernels in the order of their launches; those of `names` if any are given."""
    with recorded() as launches:
        a_layer(rows, width, ffn, post=post, rate=rate)
    return [compiled(given) for given in launches if not names or given.kernel.__name__ in names]


@pytest.mark.parametrize(
    ("width", "ffn", "post", "rate"), [(128, 512, False, 0.0), (88, 256, False, 0.0), (64, 512, False, 0.0), ETTM]
)
def test_every_kernel_of_a_layer_compiles_for_hopper_and_fits(width: int, ffn: int, post: bool, rate: float) -> None:
    kernels = _kernels(width, ffn, post=post, rate=rate)
    assert len(kernels) == (13 if post else 12)
    for kernel in kernels:
        assert kernel.shared <= MOST_SHARED, kernel.name
        # The feed-forward with dropout saves registers once a tile, none in its loop over slices.
        stack = 160 if rate and kernel.name == "hopper_feed_forward" else 16
        most = 255 if kernel.name == "hopper_residual_gradient" else 168  # two programs of 128 threads have so many
        assert kernel.registers <= most and kernel.stack <= stack, (kernel.name, kernel.registers, kernel.stack)
        if kernel.name.startswith("hopper"):
            products = kernel.name != "hopper_residual_gradient"
            assert ("wgmma.mma_async" in kernel.ptx) == products and "cp.async.bulk.tensor" in kernel.ptx, kernel.name


@pytest.mark.parametrize(
    ("rows", "width", "ffn"), [(1, 128, 512), (1, 40, 128), (37_632, 64, 128), (9_702, 88, 384), (37_632, 120, 512)]
)
def test_gradients_are_added_up_by_code_without_the_fault_that_was_seen(rows: int, width: int, ffn: int) -> None:
    kernels = _kernels(width, ffn, "fused_reduce_weight_gradients", rows=rows)  # which looks for it (ptx_kit.py)
    assert len(kernels) == 3


def test_programs_share_a_gradient_so_that_the_last_one_ends_soonest() -> None:
    assert share(384, 588, 132) == (3, 44, 0)
    assert share(288, 588, 132) == (2, 46, 40)  # 13 tiles of 128 rows, or 15 of 32 that take 0.89 of their time
    assert share(192, 588, 132) == (1, 66, 66)
    assert share(48, 588, 132) == (0, 0, 132)
    for width in range(8, 392, 8):
        for tiles in (1, 2, 37, 588):
            shared = share(width, tiles, 132)
            assert shared.programs <= 132 and max(shared.chunks, shared.rest_chunks) <= tiles
            assert shared.slices * 128 + (128 if shared.rest_chunks else 0) >= width
