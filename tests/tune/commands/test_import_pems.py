"""`data import-pems`: the answer is on stdout, progress on stderr, and wrong input is one line with exit code 2."""

from __future__ import annotations

import pytest
from pems_kit import folder_of, read_back

from tune.commands.import_pems import progress_lines
from tune.commands.main import main


@pytest.fixture(name="folder")
def folder_fixture(tmp_path):
    return folder_of(tmp_path / "raw", "2019-06-04", 2, stations=9)


def test_the_command_writes_the_file_and_says_what_is_in_it(folder, tmp_path, capsys):
    out = tmp_path / "flow.parquet"
    words = ["data", "import-pems", str(folder), "--out", str(out), "--min-observed", "50", "--max-gap", "3"]
    assert main(words) == 0
    answer = capsys.readouterr()
    assert len(read_back(out)) == 576
    assert answer.out.startswith(f"{out}: 576 rows x ") and "vehicles per 5 minutes" in answer.out
    assert "under --min-observed 50 %" in answer.out and "at most 3 rows (--max-gap)" in answer.out
    assert "ETA 0:00" in answer.err.splitlines()[-1]


def test_quiet_leaves_stderr_empty(folder, tmp_path, capsys):
    assert main(["data", "import-pems", str(folder), "--out", str(tmp_path / "a.parquet"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["FOLDER"], "the following arguments are required: --out"),
        (["FOLDER", "--out", "a.parquet", "--measure", "delay"], "--measure delay: give one of flow, occupancy, speed"),
        (["FOLDER", "--out", "a.parquet", "--min-observed", "many"], "--min-observed"),
        (["FOLDER", "--out", "a.parquet", "--min-observd", "5"], "Did you mean '--min-observed'?"),
        (["none", "--out", "a.parquet"], "none: there is no such folder"),
    ],
)
def test_wrong_input_is_one_line(words, message, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [str(folder) if word == "FOLDER" else word for word in words]
    assert main(["data", "import-pems", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ") and message in error
    assert not list(tmp_path.glob("*.parquet"))


def test_progress_has_the_time_left_and_a_line_every_two_seconds(capsys):
    now = iter([0.0, 0.5, 1.0, 3.0, 30.0])
    progress = progress_lines(lambda: next(now))
    for what, share in (("a", 0.1), ("b", 0.2), ("c", 0.25), ("d", 1.0)):
        progress(what, share)
    assert capsys.readouterr().err.splitlines() == [
        "[ 10%] a, ETA 0:04",
        "[ 25%] c, ETA 0:09",
        "[100%] d, ETA 0:00",
    ]
