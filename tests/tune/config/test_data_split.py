"""`data.split` on the command line and in a file: checked before anything is read, its files found from any folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from tune.commands.sweep import parser
from tune.common.errors import WrongInput
from tune.config.request import build_request
from tune.config.values import check_value


def _parsed(*arguments: str) -> argparse.Namespace:
    return parser().parse_args(["--sweep", "custom", "--over", "model.d_model=16", *arguments])


@pytest.mark.parametrize("split", ["0.7/0.2", "0.7/0.2/0.2", "a.csv", "2021-09-01/2021-06-01"])
def test_a_wrong_split_is_one_line_that_names_it_once(split: str, tmp_path: Path) -> None:
    with pytest.raises(WrongInput) as caught:
        build_request(_parsed("--set", f"data.split={split}"))
    line = str(caught.value)
    assert line.startswith(f"data.split={split}: ") and "\n" not in line and line.count(split) == 1
    with pytest.raises(WrongInput, match=f"^data.split={split}: "):
        check_value("data.split", split, given="--set data.split")
    (tmp_path / "x.yaml").write_text(f"sweep: custom\nset: {{data.split: '{split}'}}")
    with pytest.raises(WrongInput, match=f"^--config .*: data.split={split}: "):
        build_request(_parsed("--config", str(tmp_path / "x.yaml")))


def test_the_files_of_a_split_are_those_beside_the_reader(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    request = build_request(_parsed("--set", "data.split=val.csv,sub/test.csv"))
    assert request.overrides["data.split"] == f"{tmp_path}/val.csv,{tmp_path}/sub/test.csv"
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "x.yaml").write_text("sweep: custom\nset: {data.split: 'val.csv,test.csv'}")
    request = build_request(_parsed("--config", str(folder / "x.yaml")))
    assert request.overrides["data.split"] == f"{folder}/val.csv,{folder}/test.csv"


def test_fractions_stay_as_they_were_written() -> None:
    assert build_request(_parsed("--set", "data.split=0.6/0.2/0.2")).overrides["data.split"] == "0.6/0.2/0.2"
