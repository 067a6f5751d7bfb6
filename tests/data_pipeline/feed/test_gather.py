"""Windows gathered by the kernel: compiled for each capability, and on a GPU."""

from __future__ import annotations

import pytest
import torch

from data_pipeline.feed import gather

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


@pytest.mark.parametrize("capability", [80, 86, 89, 90])
def test_the_kernel_compiles_without_spills(capability: int) -> None:
    triton = pytest.importorskip("triton", reason="triton is not installed")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from data_pipeline.feed.gather_kernels import gather_windows

    types = dict.fromkeys(("series", "past", "future"), "*fp32") | {"starts": "*i64", "BLOCK": "constexpr"}
    types |= dict.fromkeys(("channels", "of_past", "both", "chunks"), "i32")
    names = gather_windows.arg_names
    source = ASTSource(gather_windows, {name: types[name] for name in names}, {(names.index("BLOCK"),): gather.BLOCK})
    kernel = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": gather.WARPS, "num_stages": 3}
    )
    assert kernel.metadata.shared == 0
    assert "st.local" not in kernel.asm["ptx"]


def test_bytes_are_counted_once_each_way() -> None:
    assert gather.bytes_moved(24, 862, 336, 96) == 2 * 4 * 24 * 862 * 432


@needs_gpu
@pytest.mark.parametrize(("channels", "windows", "context"), [(7, 128, 512), (862, 24, 336), (862, 1, 512)])
def test_on_the_gpu_the_kernel_gathers_the_same_windows(channels: int, windows: int, context: int) -> None:
    """Prints the bandwidth of both ways."""
    rows = torch.randn(17_544, channels, device="cuda")
    starts = torch.randint(17_544 - context - 96, (windows,), device="cuda")
    ways = {kernel: gather.Windows(rows, context, 96, kernel=kernel) for kernel in (False, True)}
    found = {kernel: way.gather(starts) for kernel, way in ways.items()}
    assert all(torch.equal(one, other) for one, other in zip(found[False], found[True], strict=True))
    for kernel, way in ways.items():
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(50):
            way.gather(starts)
        end.record()
        torch.cuda.synchronize()
        moved = gather.bytes_moved(windows, channels, context, 96)
        rate = 50 * moved / (begin.elapsed_time(end) / 1e3) / 1e9
        print(f"gather {windows} x {channels} x {context}, kernel {kernel}: {rate:.0f} GB/s, launches included")
