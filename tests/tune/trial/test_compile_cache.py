"""Where compiled code is kept: apart for what may differ, and never where others can write."""

from __future__ import annotations

import os
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
    compile_cache.use(folder, config, CPU, isolated=isolated)
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
    about = compile_cache.identity(small_config(), CPU)
    assert about["versions"]["torch"].startswith("2.") and {"cuda", "triton"} <= about["versions"].keys()
    assert about["device"] and len(about["sources_sha256"]) == 64


def test_every_folder_is_its_owners_only(tmp_path: Path) -> None:
    _used(tmp_path / "compile")
    folders = [tmp_path / "compile", *(path for path in (tmp_path / "compile").rglob("*") if path.is_dir())]
    assert len(folders) == 4
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
