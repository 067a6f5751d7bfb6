"""Triton's own cache in front of a pool: who takes from it, and what is compiled once for all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")
from triton import knobs  # noqa: E402
from triton.runtime.cache import get_cache_manager  # noqa: E402

from model.fused import norm_kernels  # noqa: E402
from tune.engine import kernel_pool  # noqa: E402

KEY, META = "ab" * 32, "kernel.json"
HOPPER = triton.backends.compiler.GPUTarget("cuda", 90, 32)


@pytest.fixture
def arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """arm(name): from now on, Triton's cache is this arm's own folder. All arms share a pool."""
    (tmp_path / "pool").mkdir()

    def use(name: str) -> Path:
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / name))
        return tmp_path / name

    with kernel_pool.shared(tmp_path / "pool"):
        yield use
    assert knobs.cache.manager_class is None


def _put(content: bytes) -> None:
    cache = get_cache_manager(KEY)
    assert cache.get_group(META) is None
    group = {name: cache.put(content, name) for name in ("kernel.cubin", META)}
    cache.put_group(META, group)


def _group() -> dict[str, bytes] | None:
    group = get_cache_manager(KEY).get_group(META)
    return None if group is None else {name: Path(path).read_bytes() for name, path in group.items()}


def test_a_kernel_that_one_arm_compiled_is_copied_into_the_cache_of_another(arm: Any) -> None:
    arm("one")
    _put(b"code")
    folder = arm("other")
    assert _group() == {"kernel.cubin": b"code", META: b"code"}
    assert {path.parent.parent for path in folder.rglob("*.cubin")} == {folder}


def test_a_launchers_library_is_shared_too(arm: Any) -> None:
    arm("one")
    get_cache_manager(KEY).put(b"elf", "__triton_launcher.cpython.so")
    arm("other")
    path = get_cache_manager(KEY).get_file("__triton_launcher.cpython.so")
    assert path is not None and Path(path).read_bytes() == b"elf"


def test_a_damaged_file_of_the_pool_is_compiled_again(arm: Any, tmp_path: Path) -> None:
    arm("one")
    _put(b"code")
    (pooled,) = (tmp_path / "pool").glob("*.zip")
    for cut in (b"", pooled.read_bytes()[:-30], pooled.read_bytes().replace(b"code", b"c0de")):
        pooled.write_bytes(cut)
        arm(f"other-{len(cut)}")
        _put(b"code")
        assert _group() == {"kernel.cubin": b"code", META: b"code"}


def test_who_asks_while_another_compiles_waits_for_it(arm: Any) -> None:
    arm("one")
    compiling = get_cache_manager(KEY)
    assert compiling.get_group(META) is None
    arm("other")
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(_group()))
    waiting.start()
    compiling.put_group(META, {META: compiling.put(b"code", META)})
    waiting.join()
    assert found == [{META: b"code"}]


def test_who_fails_to_compile_lets_the_next_one_try(arm: Any) -> None:
    arm("one")
    assert get_cache_manager(KEY).get_group(META) is None  # it is gone, as an error would leave it
    arm("other")
    assert get_cache_manager(KEY).get_group(META) is None


def test_triton_takes_a_real_kernel_from_the_pool_instead_of_compiling_it(arm: Any) -> None:
    kernel = norm_kernels.fused_norm_partials
    types = {name: "*fp32" for name in kernel.arg_names[:2]} | {"M": "i32"}
    types |= dict.fromkeys(kernel.arg_names[3:], "constexpr")
    constants = {"D": 16, "ROWS": 64, "COLUMNS": 16}
    hits: list[bool] = []
    knobs.compilation.listener = lambda *, cache_hit, **_: hits.append(cache_hit)
    try:
        for name in ("one", "other"):
            arm(name)
            source = triton.compiler.ASTSource(kernel, types, constants, {})
            assert "ptx" in triton.compiler.compile(source, target=HOPPER).asm
    finally:
        knobs.compilation.listener = None
    assert hits == [False, True]
