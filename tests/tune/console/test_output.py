"""Which files --json replaces: those that it has written, whatever keys they have, and those of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tune.commands.listing import registries
from tune.common.errors import WrongInput
from tune.console.output import FORMAT, check_json_target, write_json

TRIALS = [{"trial_id": "pruning-none-s1", "status": "done", "params": {}, "metrics": {}}]
EARLIER: dict[str, dict[str, Any]] = {
    "a report": {"sweep_id": "pruning-1", "sweep": "pruning", "environment": {}, "trials": TRIALS},
    "a plan": {"sweep": "pruning", "trials": TRIALS},
    "a comparison": {"before": "a", "after": "b", "device": "H100", "slower": [], "less_accurate": [], "arms": {}},
    "status": {"jobs": []},
    "list runs": {"sweeps": []},
    "doctor": {"ready": True, "checks": []},
    "list": registries(),
}
OTHERS: dict[str, Any] = {
    "a sweep's record": {"sweep_id": "pruning-1", "state": "running", "sweep": "pruning", "trials": TRIALS, "key": "k"},
    "a configuration": {"sweep": "full", "trials": 50},
    "jobs of another program": {"jobs": [], "queue": "q"},
    "another program's format": {"format": "other/1", "jobs": []},
    "nothing": {},
    "a list": [],
}


def _file(folder: Path, content: Any) -> str:
    (folder / "x.json").write_text(json.dumps(content))
    return str(folder / "x.json")


def test_a_file_of_ours_says_so_first_and_is_replaced_whatever_keys_it_has(tmp_path: Path) -> None:
    target = str(tmp_path / "x.json")
    write_json(target, {"a key of a later version": 1})
    assert list(json.loads(Path(target).read_text()).items())[0] == ("format", FORMAT)
    check_json_target(target)
    write_json(target, {"jobs": []})


def test_a_file_of_a_later_format_is_ours(tmp_path: Path) -> None:
    check_json_target(_file(tmp_path, {"format": "patchtst-sweeps/2"}))


@pytest.mark.parametrize("name", EARLIER)
def test_a_file_of_a_version_without_the_mark_is_ours(name: str, tmp_path: Path) -> None:
    check_json_target(_file(tmp_path, EARLIER[name]))


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_program_is_left_alone(name: str, tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="it exists and --json did not write it; name another file, or remove it"):
        check_json_target(_file(tmp_path, OTHERS[name]))
