"""Where compiled code is kept: apart for what may differ, never where others can write, and never cut."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from trial_kit import run_small, small_config

from tune.trial import compile_cache

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in compile_cache.FOLDERS:
        monkeypatch.setenv(variable, "before")


def _used(folder: Path, isolated: bool = False, **fields: str) -> str:
    config = small_config(**{name.replace("__", "."): value for name, value in fields.items()})
    with compile_cache.use(folder, config, CPU, isolated=isolated):
        return os.environ["TORCHINDUCTOR_CACHE_DIR"]


@pytest.mark.parametrize(
    "fields", [{"model__attention": "flex"}, {"train__engine": "compile"}, {"train__precision": "bf16"}]
)
def test_backends_engines_and_precisions_have_folders_of_their_own(tmp_path: Path, fields: dict[str, str]) -> None:
    first = _used(tmp_path)
    assert _used(tmp_path, **fields) != first
    assert _used(tmp_path) == first


def test_learning_rates_share_the_folder(tmp_path: Path) -> None:
    assert _used(tmp_path, train__learning_rate="0.1") == _used(tmp_path)


@pytest.mark.parametrize(("variable", "value"), [("TORCHINDUCTOR_MAX_AUTOTUNE", "1"), ("NVIDIA_TF32_OVERRIDE", "0")])
def test_a_setting_of_the_compiler_makes_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    before = _used(tmp_path)
    monkeypatch.setenv(variable, value)
    assert _used(tmp_path) != before


def test_versions_device_and_sources_are_part_of_what_the_folder_is_for() -> None:
    about = compile_cache.compiled_for(small_config(), CPU)
    assert about["versions"]["torch"].startswith("2.") and {"cuda", "triton"} <= about["versions"].keys()
    assert about["device"] and len(about["sources_sha256"]) == 64


def test_every_folder_is_its_owners_only(tmp_path: Path) -> None:
    _used(tmp_path / "compile")
    folders = [tmp_path / "compile", *(path for path in (tmp_path / "compile").rglob("*") if path.is_dir())]
    assert len(folders) == 5
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}


def test_a_folder_that_others_can_write_fails_the_trial_in_one_line(tmp_path: Path) -> None:
    shared = tmp_path / "compile"
    shared.mkdir()
    shared.chmod(0o777)
    trial = run_small(tmp_path / "t", compile_dir=shared, train__epochs=1)
    assert trial.final["status"] == "failed"
    assert trial.final["reason"].endswith(f"so its compiled programs are not trusted: chmod 700 {shared}")
    assert "\n" not in trial.final["reason"]
    assert list(shared.iterdir()) == []


def test_compiled_code_lands_in_the_folder_and_the_trial_says_that_it_is_shared(tmp_path: Path) -> None:
    trial = run_small(tmp_path / "t", compile_dir=tmp_path / "compile", train__epochs=1, train__engine="compile")
    assert trial.final["status"] == "done", trial.final
    assert trial.final["tags"]["compile_cache"] == "shared"
    assert list((tmp_path / "compile").glob("*/inductor/fxgraph/*"))


def _compile(compile_dir: Path) -> dict[str, int]:
    """Compile a small function, forward and backward, as a process would that has compiled nothing yet.

    Returns PyTorch's counts of what its caches held and lacked.
    """
    from torch._dynamo.utils import counters
    from torch._inductor.utils import clear_caches

    torch._dynamo.reset()
    clear_caches()
    counters.clear()
    for name in [name for name in sys.modules if name.endswith(".kernel")]:  # libraries that are loaded
        del sys.modules[name]
    with compile_cache.use(compile_dir, small_config(**{"train.engine": "compile"}), CPU, isolated=False):
        compiled = torch.compile(lambda x: (x.sin() * x).sum(), dynamic=False, fullgraph=True)
        x = torch.linspace(0, 1, 64, requires_grad=True)
        compiled(x).backward()
    exact = x.detach().clone().requires_grad_()
    (exact.sin() * exact).sum().backward()
    assert torch.allclose(x.grad, exact.grad)  # type: ignore[arg-type]
    return dict(counters["inductor"])


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that a process has compiled the small function into."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in compile_cache.FOLDERS:
            patch.setenv(variable, "before")
        _compile(folder := tmp_path_factory.mktemp("compiled") / "compile")
        yield folder


def _copied(compiled: Path, folder: Path) -> Path:
    """A copy in which the 120 MB of a precompiled header are a link."""

    def copy(source: str, target: str) -> None:
        os.link(source, target) if source.endswith(".gch") else shutil.copy2(source, target)

    return Path(shutil.copytree(compiled, folder / "compile", copy_function=copy))


KINDS = {  # name -> pattern below compile_dir
    "generated Python": "*/inductor/*/*.py",
    "generated C++": "*/inductor/*/*.main.cpp",
    "library": "*/inductor/*/*.main.so",
    "FX graph": "*/inductor/fxgraph/*/*/*",
    "AOTAutograd entry": "*/inductor/aotautograd/*/*",
    "header": "headers/inductor/*.h",
    "precompiled header": "headers/inductor/*.gch",
}
CUTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "garbage": lambda content: b"#" * len(content),
}


def test_a_second_process_finds_all_that_the_first_has_compiled(compiled: Path, tmp_path: Path) -> None:
    folder = _copied(compiled, tmp_path)
    counts = _compile(folder)
    assert counts["fxgraph_cache_hit"] > 0 and not counts.get("fxgraph_cache_miss", 0)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "precompiled header"])  # 10 s each
def test_a_cut_file_is_compiled_anew(kind: str, cut: str, compiled: Path, tmp_path: Path) -> None:
    folder = _copied(compiled, tmp_path)
    files = _cut(folder, kind, cut)
    _compile(folder)
    assert not [file for file, content in files.items() if file.exists() and file.read_bytes() == content]


def _cut(folder: Path, kind: str, cut: str) -> dict[Path, bytes]:
    """Cut all files of a kind. Returns what each holds now."""
    files = {file: CUTS[cut](file.read_bytes()) for file in folder.glob(KINDS[kind])}
    assert files
    for file, content in files.items():
        file.unlink()  # it may be a link
        file.write_bytes(content)
    return files


def test_a_cut_precompiled_header_is_compiled_anew(compiled: Path, tmp_path: Path) -> None:
    folder = _copied(compiled, tmp_path)
    _cut(folder, "generated Python", "empty")  # else nothing is compiled
    _cut(folder, "library", "empty")
    files = _cut(folder, "precompiled header", "half")
    _compile(folder)
    assert all(file.stat().st_size > len(content) for file, content in files.items())


def test_without_the_search_a_cut_library_fails_for_good(
    compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _copied(compiled, tmp_path)
    monkeypatch.setattr(compile_cache.CacheGuard, "_remove_unvouched", lambda guard: None)
    _cut(folder, "library", "empty")
    for _ in range(2):
        with pytest.raises(Exception, match="file too short"):
            _compile(folder)


def test_a_trial_that_fails_makes_the_next_one_compile_anew(compiled: Path, tmp_path: Path) -> None:
    folder = _copied(compiled, tmp_path)
    config = small_config(**{"train.engine": "compile"})
    with pytest.raises(ValueError), compile_cache.use(folder, config, CPU, isolated=False):
        raise ValueError
    assert _used(folder, train__engine="compile")
    assert not [path for path in folder.glob("*/inductor/*/*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), OSError(28, os.strerror(28))])
def test_a_full_memory_or_disk_costs_only_what_it_may_have_cut(
    error: Exception, compiled: Path, tmp_path: Path
) -> None:
    folder = _copied(compiled, tmp_path)
    before = sorted(folder.glob("*/inductor/*/*"))
    config = small_config(**{"train.engine": "compile"})
    with pytest.raises(type(error)), compile_cache.use(folder, config, CPU, isolated=False):
        (before[0].parent / "new.so").touch()
        raise error
    _used(folder, train__engine="compile")
    assert sorted(folder.glob("*/inductor/*/*")) == before
