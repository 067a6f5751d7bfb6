"""Every command of README, CONTRIBUTING and docs runs as far as a test can afford, or UNTRIED says why not.

A sweep is planned, another command of ours is parsed, a target of make and a program of ours exist.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from tune.commands.main import load_command, main, split_command
from tune.config.request import build_request

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [page for page in PAGES if page.name != "measurements.md"]  # dated: commands as they were called on that day
PAGES += sorted((ROOT / "docs" / "data").glob("*.md"))
PROGRAMS = ("python", ".venv/bin/python", "make", "ray", "docker", "kubectl", "sbatch", "uv", "pip")
PROGRAMS += ("micromamba", "export", ".", "mlflow", "git", "bash", "patchtst-sweeps")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^ {4}.*\n?)+", re.MULTILINE)
INLINE = re.compile(r"`((?:python )?experiments\.py [^`\n]+|make [^`\n]+)`")
OURS = re.compile(r"^(?:python |\.venv/bin/python )?(?:\S*/)?experiments\.py\s+(.*)$")
PROGRAM_OF_OURS = re.compile(r"^(?:\.venv/bin/)?python ((?:benchmarks|tests|docs)/\S+\.py)(.*)$")

# How a command begins -> why no test runs it.
UNTRIED = {
    ". .venv/bin/activate": "changes the shell that gives it",
    "export ": "changes the shell that gives it; tests/launcher/test_mlflow_server.py starts such a server",
    "BACKEND_STORE_URI=": "needs PostgreSQL and a name; tests/launcher/ starts the server over both stores",
    "pip install": "an hour of compiling, for a GPU",
    "ray ": "brings up a cluster; tests/launcher/ does so with cluster.local.yaml",
    "docker run": "needs Docker and a GPU; tests/end_to_end/test_containers.py runs a like sandbox",
    "kubectl apply": "needs Kubernetes; the manifest is checked by its schema",
    "sbatch ": "needs Slurm; the job's script is checked by tests/launcher/",
    "uv ": "needs the network to install; tests/kits/uv_kit.py runs a sweep under uv",
    ".venv/bin/python -m pytest": "would run tests in a test",
    "micromamba": "needs the network; docs/running.md says that it was not tried",
}


def commands(page: Path) -> Iterator[str]:
    """The commands in a page's code, each in one line without its comment."""
    text = page.read_text()
    blocks = [body for kind, body in FENCED.findall(text) if kind in ("bash", "")]
    bash = [body for kind, body in FENCED.findall(text) if kind == "bash"]
    blocks += [re.sub("^ {4}", "", block, flags=re.MULTILINE) for block in INDENTED.findall(FENCED.sub("", text))]
    for block in blocks:
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            command = re.split(r"\s{2,}#|\s# ", line.strip())[0].strip()
            if command and not command.startswith("#") and (block in bash or command.split()[0] in PROGRAMS):
                yield from command.split(" && ")
    yield from INLINE.findall(FENCED.sub("", text))


COMMANDS = sorted({(page.relative_to(ROOT).as_posix(), command) for page in PAGES for command in commands(page)})
BY_TEXT = {command: page for page, command in reversed(COMMANDS)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the commands name."""
    place = tmp_path_factory.mktemp("commands")
    days = (date(2024, 1, 1) + timedelta(days=number) for number in range(168))
    rows = [f"{day} {hour:02}:00,{hour},{day.day}" for day in days for hour in range(24)]
    (place / "my.csv").write_text("\n".join(["date,load,wind", *rows]) + "\n")
    (sample,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "configuration.md").read_text(), re.DOTALL)
    (place / "sweep.yaml").write_text(sample)
    return place


def untried(command: str) -> str:
    """Why no test runs a command; "" for one that is run."""
    return next((why for start, why in UNTRIED.items() if command.startswith(start)), "")


@pytest.mark.parametrize("command", BY_TEXT, ids=str)
def test_a_command_of_the_documents_is_one_that_works(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("tune.commands.main.prepare_process", lambda: None)
    if ours := OURS.match(command):
        check_ours(shlex.split(ours[1]), capsys)
    elif program := PROGRAM_OF_OURS.match(command):
        source = (ROOT / program[1]).read_text()
        assert [option for option in re.findall(r"(--[\w-]+)", program[2]) if option not in source] == []
    elif command.startswith("make "):
        check_make(command.split()[1:])
    else:
        assert untried(command), f"{BY_TEXT[command]}: say in UNTRIED why no test runs this"


def check_ours(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep is planned, unless it is sent elsewhere; any other command is parsed."""
    words = [re.sub(r"^\[|\]$", "", word) for word in words]
    name, options = split_command(words)
    if "--help" in words or "-h" in words:
        return
    arguments: Any = load_command(name).parser().parse_args(options)
    if name == () and arguments.submit is None and "--address" not in words:
        code = main([*words, *([] if "--plan" in words else ["--plan"])])
        assert code == 0, capsys.readouterr().err
    elif name == ():
        build_request(arguments)


def check_make(words: list[str]) -> None:
    """Its targets exist, and so do its variables, here or in the program that the target starts."""
    makefile = (ROOT / "Makefile").read_text()
    program = (ROOT / "launcher" / "mlflow_server.py").read_text()
    for word in words:
        variable, is_set, _ = word.partition("=")
        if is_set:
            assert re.search(rf"^{variable} [?:]?=", makefile, re.MULTILINE) or variable in program
        else:
            assert re.search(rf"^{re.escape(word)}:", makefile, re.MULTILINE), f"make {word}: no such target"


def test_every_reason_for_not_running_a_command_is_needed() -> None:
    assert [start for start in UNTRIED if not any(command.startswith(start) for command in BY_TEXT)] == []
