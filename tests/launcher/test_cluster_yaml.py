"""cluster.yaml, cluster.local.yaml and their image: Ray's loader accepts the files, and all that they name exists."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from system_kit import skip_for_want_of

from launcher.lint import COMMANDS, START_COMMANDS
from tune.commands.sweep import parser as sweep_parser

ROOT = Path(__file__).resolve().parents[2]
FILES = ("cluster.yaml", "cluster.local.yaml")


def loaded(name: str) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((ROOT / name).read_text()))
    validate_config(config)
    return config


@pytest.mark.parametrize("name", FILES)
def test_rays_own_loader_accepts_it_and_a_typo_is_refused(name: str) -> None:
    from ray.autoscaler._private.util import validate_config

    config = loaded(name)
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config({**config, "idle_timeout_minuets": 5})


@pytest.mark.parametrize("name", FILES)
def test_rays_defaults_add_no_command_to_ours(name: str) -> None:
    ours, config = yaml.safe_load((ROOT / name).read_text()), loaded(name)
    for key in START_COMMANDS:
        assert config[key] == ours[key]
    for kind in ("head", "worker"):  # Ray joins the common commands with the kind's own
        assert config[f"{kind}_setup_commands"] == ours["setup_commands"] + ours[f"{kind}_setup_commands"]
    assert set(COMMANDS) <= set(ours)


@pytest.mark.parametrize("name", FILES)
def test_the_commands_in_its_header_run_where_the_whole_folder_is_mounted(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    (command,) = [line for line in lines if line.startswith(f"#   ray exec {name} ") and "experiments.py" in line]
    (inner,) = shlex.split(command.removeprefix(f"#   ray exec {name} "))
    program, *sweep = shlex.split(inner)
    (folder,) = [remote for remote, local in loaded(name)["file_mounts"].items() if local == "."]
    assert (ROOT / program.removeprefix(f"{folder}/")).stat().st_mode & 0o111
    assert sweep[:2] == ["python", "experiments.py"]
    assert sweep_parser().parse_args(sweep[2:]).address == "auto"


@pytest.mark.parametrize("name", FILES)
def test_every_script_and_target_that_it_calls_is_there(name: str) -> None:
    text = (ROOT / name).read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for script in set(re.findall(r"launcher/([\w-]+)", text)):
        assert (ROOT / "launcher" / script).is_file(), script
    assert {target for target in re.findall(r"\bmake (?:-C \S+ )?([a-z-]+)\b(?! ?,)", text)} - {"rsync"} <= targets


def _examples(pattern: str) -> list[str]:
    """Files that a line of .gitignore matches: at the top and, unless the line forbids it, further down."""
    name = pattern.strip("/").replace("*", "-wal")
    file = f"{name}/secret" if pattern.endswith("/") else name
    return [file] if pattern.startswith("/") else [file, f"tune/{file}"]


@pytest.mark.parametrize("name", FILES)
def test_what_git_ignores_is_copied_to_no_node(name: str, tmp_path: Path) -> None:
    """By rsync with Ray's own arguments. The passwords of `make mlflow-server` are among the ignored files."""
    from ray.autoscaler._private.command_runner import SSHCommandRunner

    if shutil.which("rsync") is None:
        skip_for_want_of("no rsync (install rsync)")
    ignored = (ROOT / ".gitignore").read_text().split()
    kept = ["experiments.py", "data_pipeline/data/x.py", "tune/runs/x.py", "docs/mlflow.db.md", ".gitignore"]
    unwanted = [file for pattern in [*ignored, ".git/", ".git"] for file in _examples(pattern)]
    assert "mlflow-server/secret" in unwanted
    for file in [*kept, *unwanted]:
        if not (tmp_path / file).is_dir():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
    shutil.copy(ROOT / ".gitignore", tmp_path)
    config = loaded(name)
    options = {key: config.get(key) for key in ("rsync_exclude", "rsync_filter")}
    filters = SSHCommandRunner._create_rsync_filter_args(None, options)
    command = ["rsync", "-avn", "--out-format=%n", *filters, f"{tmp_path}/", f"{tmp_path}-there/"]
    copied = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert sorted(kept) == sorted(line for line in copied if (tmp_path / line).is_file())


@pytest.mark.parametrize("name", FILES)
def test_every_setting_has_a_comment(name: str) -> None:
    """Of the top level, in its line or inside it. The commands share one comment in front of them."""
    lines = (ROOT / name).read_text().splitlines()
    keys = [at for at, line in enumerate(lines) if re.match(r"[a-z_]+:", line)]
    for at, end in zip(keys, [*keys[1:], len(lines)], strict=True):
        key = lines[at].split(":")[0]
        assert any("#" in line for line in lines[at:end]) or key in (*COMMANDS, *START_COMMANDS), key


def test_workers_start_from_none_on_spot_and_the_head_takes_no_trial() -> None:
    config = loaded("cluster.yaml")
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0, "GPU": 0} and "InstanceMarketOptions" not in head["node_config"]
    for worker in types.values():
        assert worker["min_workers"] == 0 and 1 <= worker["max_workers"] <= config["max_workers"]
        assert worker["resources"]["GPU"] == 1
        assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_on_demand_is_one_comment_away() -> None:
    lines = (ROOT / "cluster.yaml").read_text().splitlines()
    (at,) = [at for at, line in enumerate(lines) if "InstanceMarketOptions:" in line]
    assert "MarketType: spot" in lines[at + 1]
    lines[at : at + 2] = ["#" + line for line in lines[at : at + 2]]
    config = yaml.safe_load("\n".join(lines))
    (worker,) = [node for name, node in config["available_node_types"].items() if name != config["head_node_type"]]
    assert "InstanceMarketOptions" not in worker["node_config"] and "IamInstanceProfile" in worker["node_config"]


def test_the_image_pins_its_base_its_python_and_every_package() -> None:
    """flash-attn takes up to an hour to compile, so this reads the Dockerfile and builds nothing."""
    text = (ROOT / "launcher" / "Dockerfile").read_text()
    assert re.search(r"^ARG CUDA=\d+\.\d+\.\d+$", text, re.M)
    bases = re.findall(r"^FROM (\S+)", text, re.M)
    assert bases and all(re.fullmatch(r"nvidia/cuda:\$\{CUDA\}-(devel|base)-ubuntu24\.04", base) for base in bases)
    assert set(re.findall(r"\bpython3\.\d+", text)) == {"python3.12"}
    for command in re.findall(r"pip install ((?:.|\\\n)*?)(?:&&|$)", text, re.M):
        words = [word for word in command.split() if word not in ("\\",) and not word.startswith("--")]
        files = [after for word, after in zip(words, words[1:], strict=False) if word == "-r"]
        assert all((ROOT / file).is_file() for file in files)
        assert all("==" in word for word in words if word != "-r" and word not in files), command
    assert "requirements-gpu.txt" in text and "FLASH_ATTENTION_FORCE_BUILD=TRUE" in text


def test_the_image_sets_the_home_of_its_user() -> None:
    """Ray takes the home from the image's variables, else /root. `~` in a command is the container's home."""
    stage = (ROOT / "launcher" / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    (user,), (folder,) = re.findall(r"^USER (\S+)$", stage, re.M), re.findall(r"^WORKDIR (\S+)$", stage, re.M)
    homes = re.findall(r"^ENV .*\bHOME=(\S+)", stage, re.M)
    assert homes == [folder] == [f"/home/{user}"]


@pytest.mark.parametrize("file", sorted(ROOT.glob("requirements*.txt")), ids=lambda file: file.name)
def test_every_requirement_is_pinned(file: Path) -> None:
    lines = [line.split("#")[0].strip() for line in file.read_text().splitlines()]
    assert all("==" in line or line.startswith("-r ") for line in lines if line)


def test_the_images_context_holds_the_files_that_it_copies_and_nothing_else() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored == ["*", "!requirements*.txt"]
    copied = re.findall(r"^COPY ((?!--from).*) \./$", (ROOT / "launcher" / "Dockerfile").read_text(), re.M)
    assert copied and all((ROOT / name).match("requirements*.txt") for line in copied for name in line.split())


@pytest.mark.parametrize("script", ["run", "with-mlflow", "mlflow-up"])
def test_the_scripts_are_valid_bash(script: str) -> None:
    done = subprocess.run(["bash", "-n", str(ROOT / "launcher" / script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_with_mlflow_says_where_it_has_to_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ROOT / "launcher" / "with-mlflow"), "true"],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"error: {tmp_path}/.patchtst-sweeps/admin-password is not there: run this on the cluster's head"
    )
