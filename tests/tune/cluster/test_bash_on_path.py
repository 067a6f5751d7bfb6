"""Ray's workers find bash where PATH does not lead to it, and nothing else that the user left out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from compiler_kit import path_with

from tune.cluster import bash_on_path as module
from tune.cluster.bash_on_path import bash_on_path
from tune.common.errors import WrongInput


def test_a_path_that_leads_to_bash_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(path_with(tmp_path / "bin", "bash")))
    with bash_on_path(tmp_path / "links"):
        assert os.environ["PATH"] == str(tmp_path / "bin")
    assert not (tmp_path / "links").exists()


@pytest.mark.parametrize("programs", [("git", "sh", "env"), ()])
def test_without_bash_on_path_only_bash_is_added_for_what_is_started_inside(
    programs: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = str(path_with(tmp_path / "bin", *programs))
    monkeypatch.setenv("PATH", given)
    for _ in range(2):  # the link of an earlier sweep is there
        with bash_on_path(tmp_path / "links"):
            assert Path(str(shutil.which("bash"))).parent == tmp_path / "links"
            assert os.spawnlp(os.P_WAIT, "bash", "bash", "-c", "exit 7") == 7
            assert shutil.which("g++") is None
        assert os.environ["PATH"] == given
    assert [path.name for path in (tmp_path / "links").iterdir()] == ["bash"]


def test_a_machine_without_bash_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "ELSEWHERE", str(tmp_path))
    with pytest.raises(WrongInput, match="apt-get install bash"), bash_on_path(tmp_path / "links"):
        pass
