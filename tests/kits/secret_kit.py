"""Variables with secrets as people have them in their environment, each with a value that is found nowhere else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

# Name -> how the value looks; {} is the part to search for
_SHAPES = {
    "AWS_ACCESS_KEY_ID": "AKIA{}", "AWS_SECRET_ACCESS_KEY": "{}", "AWS_SESSION_TOKEN": "{}", "AWS_SECURITY_TOKEN": "{}",
    "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/{}.json", "GCP_SERVICE_ACCOUNT_JSON": '{{"private_key": "{}"}}',
    "AZURE_CLIENT_SECRET": "{}", "AZURE_STORAGE_CONNECTION_STRING": "AccountName=a;AccountKey={};",
    "AZURE_STORAGE_SAS_TOKEN": "?sv=2024&sig={}", "MLFLOW_FLASK_SERVER_SECRET_KEY": "{}", "HF_TOKEN": "hf_{}",
    "HUGGING_FACE_HUB_TOKEN": "hf_{}", "WANDB_API_KEY": "{}", "GITHUB_TOKEN": "ghp_{}", "GH_PAT": "{}",
    "OPENAI_API_KEY": "sk-{}", "ANTHROPIC_APIKEY": "{}", "PGPASSWORD": "{}", "DB_PASS": "{}", "LDAP_PW": "{}",
    "DATABASE_URL": "postgresql://ann:{}@db.example/x", "HTTPS_PROXY": "http://ann:{}@127.0.0.1:9",
    "SENTRY_DSN": "https://{}@sentry.example/1", "SLACK_WEBHOOK_URL": "https://hooks.example/{}",
    "DEPLOYMENT_CREDENTIAL": "{}", "RAY_AUTH_TOKEN": "{}", "RAY_REDIS_PASSWORD": "{}",
}  # fmt: skip
PLANTED = {name: shape.format(f"planted{number:02}canary") for number, (name, shape) in enumerate(_SHAPES.items())}
CANARIES = tuple(f"planted{number:02}canary".encode() for number in range(len(_SHAPES)))


def found_in(content: bytes, canaries: Iterable[bytes] = CANARIES) -> set[str]:
    """The canaries that the content holds."""
    return {canary.decode() for canary in canaries if canary in content}


def files_with(folder: Path, canaries: Iterable[bytes] = CANARIES) -> dict[str, set[str]]:
    """File -> the canaries in it, for every file below the folder that holds one."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    found = {str(file): found_in(file.read_bytes(), canaries) for file in files}
    return {file: names for file, names in found.items() if names}


def environments(processes: Iterable[psutil.Process]) -> Iterator[tuple[str, bytes]]:
    """Command line and environment of each process that is still there."""
    for process in processes:
        try:
            command = " ".join(process.cmdline())
            yield command, Path(f"/proc/{process.pid}/environ").read_bytes()
        except (OSError, psutil.Error):  # it has just ended
            continue


def plant_modules(folder: Path, executed: Path, names: Iterable[str]) -> None:
    """Python files and packages of these names, which write their path into the file `executed` if they are run."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        file = folder / name if name.endswith("__init__.py") else folder / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"open({os.fspath(executed)!r}, 'a').write(__file__ + '\\n')\n")
