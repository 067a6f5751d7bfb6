"""Compilers are tried where trials compile; devices, backends and engines follow from the same facts as a plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compiler_kit import BROKEN, path_with_broken

from model.presets import PRESETS
from tune.doctor import compute
from tune.doctor.finding import Place
from tune.machine.device import DeviceFacts


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    compute._facts.cache_clear()
    yield Place(data_dir=tmp_path, storage=tmp_path / "runs", tracking_uri="sqlite:///x.db")
    compute._facts.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU it is Triton's C compiler")
@pytest.mark.parametrize("what", [*BROKEN, None])
def test_a_compiler_works_if_pytorchs_own_builder_can_use_it(
    what: str | None, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    if what is not None:
        monkeypatch.setenv("PATH", str(path_with_broken(tmp_path / "bin", what)))
    (finding,) = compute.compiler(place)
    (engine,) = [each for each in compute.engines(place) if each.name == "compile"]
    assert finding.works is engine.works is (what is None), (finding, engine)
    assert [path.name for path in tmp_path.iterdir() if path.name != "bin"] == []


def test_a_compiler_that_only_pytorchs_builder_cannot_use_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import cpp_builder

    def refuses() -> str:
        raise RuntimeError("first words\nerror: no luck")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", refuses)
    assert "torch cannot build a C++ file" in str(compute._through_inductor(place.data_dir))


def test_sources_that_every_process_would_compile_are_named(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert torch.__spec__ is not None
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(torch.__spec__, "cached", str(tmp_path / "file"))
    assert [finding.works for finding in compute.bytecode(place)] == [True]
    monkeypatch.setattr(torch.__spec__, "cached", str(tmp_path / "none.pyc"))
    (finding,) = compute.bytecode(place)
    folder = Path(torch.__file__).parents[1]
    assert not finding.works and finding.found.endswith(f"or run: python -m compileall -q {folder}")
    monkeypatch.setattr(torch, "__spec__", None)
    assert [finding.works for finding in compute.bytecode(place)] == [None]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_each_gpu_computes_and_triton_compiles_a_kernel(place: Place, tmp_path: Path) -> None:
    devices, (kernel,) = list(compute.devices(place)), compute.triton(place)
    assert len(devices) == torch.cuda.device_count() and all(finding.works for finding in [*devices, kernel])
    assert list(tmp_path.iterdir()) == []


def test_it_says_who_computes_the_layers_here_and_why_the_hopper_kernels_do_not(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(facts: DeviceFacts) -> list[tuple[bool, str]]:
        monkeypatch.setattr(compute, "_facts", lambda _: facts)
        return [(finding.works, finding.found) for finding in compute.layers(place)]

    cpu = DeviceFacts(device_type="cpu", name="AMD EPYC", cpus=2)
    (_, layers), (works, why) = found(cpu)
    assert layers == "transformers layers compute the default model"
    assert not works and "Triton kernels for a CUDA GPU" in why
    ampere = DeviceFacts(device_type="cuda", name="NVIDIA A100", gpus=1, cpus=8, capability=(8, 0), memory_gib=79.0)
    (_, layers), (works, why), (_, residual) = found(ampere)
    assert layers == "fused layers compute the default model"
    assert residual.startswith("eager attention only; fused layers hand no scores")
    assert not works and "capability 9.0 and this GPU's is 8.0: plain Triton kernels run instead" in why
    hopper = replace(ampere, name="NVIDIA H200", capability=(9, 0))
    assert found(hopper)[1] == (True, "compute the fused layers")


def test_each_presets_layers_are_named_with_the_reason_where_a_gpu_cannot_take_the_fused_ones(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = DeviceFacts(device_type="cuda", name="Tesla T4", gpus=1, cpus=8, capability=(7, 5), memory_gib=15.0)
    monkeypatch.setattr(compute, "_facts", lambda place: gpu)
    found = {finding.name: finding for finding in compute.presets(place)}
    assert set(found) == set(PRESETS)
    assert all("compute capability 8.0" in finding.found and finding.works is False for finding in found.values())
    monkeypatch.setattr(compute, "_facts", lambda place: replace(gpu, capability=(9, 0)))
    hopper = {finding.name: finding for finding in compute.presets(place)}
    assert hopper["study"].works
    for preset, kernels in (("study", "Hopper"), ("ettm", "Hopper"), ("traffic", "Hopper"), ("etth", "plain Triton")):
        assert hopper[preset].found == f"auto takes the fused layers, by {kernels} kernels"
    monkeypatch.setattr(compute, "_facts", lambda place: replace(gpu, device_type="cpu", capability=None))
    assert [finding.works for finding in compute.presets(place)] == [None]
