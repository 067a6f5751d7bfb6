"""What `--config` can lead to: encodings, pipes, devices, folders, files of any size."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tune.commands.main import main
from tune.common.errors import DONE, WRONG_INPUT, WrongInput
from tune.config import config_text
from tune.config.config_text import LARGEST_BYTES, read_text

REPO_ROOT = Path(__file__).resolve().parents[3]
TEXT = "sweep: custom\ndataset: demo\n# caf\u00e9 \u6ce2 \U0001f30a\nset: {train.epochs: 3}\n"


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_text_is_read_in_every_encoding_that_says_what_it_is(encoding: str, newline: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(TEXT.replace("\n", newline).encode(encoding))
    assert read_text(file) == TEXT.replace("\n", newline)
    assert main(["--config", str(file), "--plan"]) == DONE


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("sweep: custom\n# caf\u00e9".encode("latin-1"), "line 2: byte 0xe9: this is not a text in UTF-8"),
        ("sweep: custom\n# \u20ac".encode("cp1252"), "line 2: byte 0x80: this is not a text in UTF-8"),
        ("sweep: \u6ce2".encode("shift-jis"), "line 1: byte 0x94: this is not a text in UTF-8"),
        (TEXT.encode("utf-16-le"), "is not a text in UTF-8"),
        ("sweep: custom".encode("utf-16-le"), r"line 1: a control character, '\x00'"),
        (b"\xff\xfe\x00", "this is not a text in UTF-16"),
        (b"\x00\x01\x02", r"line 1: a control character, '\x00'"),
        (b"\x7fELF\x02\x01", r"line 1: a control character, '\x7f'"),
        (b"PK\x03\x04", r"line 1: a control character, '\x03'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_bytes_that_are_no_text_are_refused_in_one_line(
    content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    assert main(["--config", str(tmp_path / "x.yaml"), "--plan"]) == WRONG_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full"])
def test_an_endless_device_is_not_read_to_its_end(device: str) -> None:
    with pytest.raises(WrongInput, match="^more than 1 MiB; that is not the configuration of a sweep"):
        read_text(Path(device))


def test_a_file_of_many_megabytes_is_refused_after_the_first(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    with file.open("wb") as sparse:
        sparse.truncate(100 * 2**20)
    with pytest.raises(WrongInput, match="^more than 1 MiB"):
        read_text(file)
    file.write_bytes(b"#" * LARGEST_BYTES)
    assert len(read_text(file)) == LARGEST_BYTES


@pytest.mark.parametrize("name", ["folder", "missing", "folder/missing", "loop", "long" * 100, "nul\0l", ""])
def test_a_path_that_leads_to_no_file_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    assert main(["--config", name, "--plan"]) == WRONG_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert "give a YAML file that can be read" in line


def test_a_file_that_may_not_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    file, root = tmp_path / "x.yaml", os.geteuid() == 0
    file.touch(mode=0)
    if root:  # who may read every file
        os.seteuid(65534)
    try:
        with pytest.raises(WrongInput, match="^Permission denied; give a YAML file that can be read$"):
            read_text(file)
    finally:
        if root:
            os.seteuid(0)


def test_a_file_whose_reading_fails_is_refused_in_one_line() -> None:
    with pytest.raises(WrongInput, match="^Input/output error; give a YAML file that can be read$"):
        read_text(Path("/proc/self/mem"))


def test_a_pipe_that_nobody_writes_to_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config_text.SENDS_WITHIN_S <= 15
    monkeypatch.setattr(config_text, "SENDS_WITHIN_S", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        WrongInput, match="^nothing came for 0.1 s from this pipe or device; give a YAML file that can be read$"
    ):
        read_text(tmp_path / "pipe")


def test_a_pipe_is_read_whole_when_its_writer_comes_later(tmp_path: Path) -> None:
    pipe, text = tmp_path / "pipe", "# a longer text than a pipe holds\n" * 20_000
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(text,))
    writer.start()
    assert read_text(pipe) == text
    writer.join()


def test_a_configuration_comes_from_a_pipe_as_from_a_file() -> None:
    command = [sys.executable, "experiments.py", "--config", "/dev/stdin", "--plan"]
    ran = subprocess.run(command, input=TEXT, capture_output=True, text=True, cwd=REPO_ROOT, timeout=300)
    assert (ran.returncode, ran.stderr) == (DONE, "")
    assert "custom" in ran.stdout
