"""--save-config writes paths that hold where the file and its data go together, and reads back as the same sweep."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tune.commands.main import load_command, main
from tune.common.errors import DONE
from tune.config.request import Request, build_request
from tune.config.yaml_file import read_config


@pytest.fixture(name="project")
def project_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    project = tmp_path / "project"
    for file in ("data/my.csv", "data/val.csv", "data/test.csv"):
        (project / file).parent.mkdir(parents=True, exist_ok=True)
        (project / file).write_text("date,load\n2020-01-01 00:00:00,1\n")
    monkeypatch.chdir(project)
    return project


def request(*words: str) -> Request:
    return build_request(load_command(()).parser().parse_args(words))


def saved(target: str, dataset: str, *more: str) -> dict[str, object]:
    words = ["--sweep", "custom", "--dataset", dataset, *more, "--plan", "--save-config", target, "--quiet"]
    assert main(words) == DONE
    return read_config(Path(target)).content


@pytest.mark.parametrize(("target", "written"), [("a.yaml", "data/my.csv"), ("data/a.yaml", "my.csv")])
def test_a_relative_path_is_written_from_the_folder_of_the_file(project: Path, target: str, written: str) -> None:
    assert saved(target, "./data/my.csv")["dataset"] == written
    assert request("--config", target).overrides["data.dataset"] == str(project / "data/my.csv")


def test_a_folder_of_project_and_file_may_move_and_be_used_from_anywhere(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "configs").mkdir()
    split = "data.split=data/val.csv,data/test.csv"
    content = saved("configs/a.yaml", "data/my.csv", "--set", split)
    assert content["dataset"] == "../data/my.csv"
    assert content["set"] == {"data.split": "../data/val.csv,../data/test.csv"}
    moved = tmp_path / "moved"
    shutil.move(project, moved)
    monkeypatch.chdir(tmp_path)
    read = request("--config", str(moved / "configs/a.yaml")).overrides
    assert Path(read["data.dataset"]).resolve() == moved / "data/my.csv"
    assert [Path(file).resolve() for file in read["data.split"].split(",")] == [
        moved / "data/val.csv", moved / "data/test.csv",
    ]  # fmt: skip


def test_a_path_in_full_stays_as_it_was_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project))
    assert saved("a.yaml", str(project / "data/my.csv"))["dataset"] == str(project / "data/my.csv")
    assert saved("b.yaml", "~/data/my.csv")["dataset"] == "~/data/my.csv"
    assert request("--config", "b.yaml").overrides["data.dataset"] == str(project / "data/my.csv")
    assert main(["--config", "b.yaml", "--plan", "--save-config", "data/c.yaml"]) == DONE  # and again
    assert read_config(Path("data/c.yaml")).content["dataset"] == "~/data/my.csv"


def test_a_folder_is_found_from_the_file_though_it_is_not_here_and_though_a_data_set_has_its_name(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("parts", "demo"):
        (project / name).mkdir()
        shutil.copy(project / "data/my.csv", project / name)
    assert request("--sweep", "custom", "--dataset", "parts").as_config(project)["dataset"] == "parts"
    config = request("--sweep", "custom", "--dataset", "./demo").as_config(project)
    assert config["dataset"] == "./demo"
    (project / "a.yaml").write_text("sweep: custom\ndataset: parts\n")
    monkeypatch.chdir(tmp_path)
    assert request("--config", str(project / "a.yaml")).overrides["data.dataset"] == str(project / "parts")
    assert request("--sweep", "custom", "--dataset", "demo").as_config(project)["dataset"] == "demo"


def test_from_a_folder_that_is_a_link_the_path_is_right_or_in_full(project: Path, tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    os.symlink(tmp_path / "deep" / "er", project / "link")
    written = saved("link/a.yaml", "data/my.csv")["dataset"]
    assert written == str(project / "data/my.csv")
    assert request("--config", "link/a.yaml").overrides["data.dataset"] == written
