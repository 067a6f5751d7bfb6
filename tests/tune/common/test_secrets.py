"""Which variables look like secrets, and that what is started without them never has them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from secret_kit import PLANTED

from tune.common.secrets import hidden, looks_secret, secret_names, without_secrets


@pytest.mark.parametrize("name", PLANTED)
def test_secrets_as_people_have_them_are_known(name: str) -> None:
    assert looks_secret(name, PLANTED[name])


@pytest.mark.parametrize(
    "name",
    [
        "mlflow_tracking_password",
        "MLFLOW_TRACKING_USERNAME",
        "REDISCLI_AUTH",
        "MYSQL_PWD",
        "NPM_CONFIG__AUTH",
        "APP.KEY",
    ]
    + ["VAULT_TOKEN", "SSHPASS", "accessToken", "KAGGLE_KEY", "STRIPE_PRIVATE", "SESSION_COOKIE", "AWS_PROFILE"],
)
def test_a_name_alone_can_give_a_secret_away(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize(
    "value",
    [
        "redis://:pw@h:1/0",
        "https://x-access-token@host/r.git",
        "https://h/a?x=1&api_key=abc",
        "-----BEGIN PRIVATE KEY--",
    ]
    + [
        "Server=h;Password=abc;",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
        "glpat-0123456789abc",
        "AKIA0123456789ABCDEF",
    ],
)
def test_a_value_alone_can_give_a_secret_away(value: str) -> None:
    assert looks_secret("HARMLESS", value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PWD", "/home/ann"), ("OLDPWD", "/"), ("PATH", "/usr/bin:/bin"), ("HOME", "/home/ann"),
        ("TOKENIZERS_PARALLELISM", "false"), ("RAY_AUTH_MODE", "token"), ("RAY_AUTH_TOKEN_PATH", "/home/ann/token"),
        ("CUDA_VISIBLE_DEVICES", "0"), ("LD_LIBRARY_PATH", "/usr/local/cuda/lib64"), ("PYTHONPATH", "/a:/b"),
        ("TORCH_COMPILE_CACHE_KEY_TAG", "x"), ("TORCHINDUCTOR_POST_GRAD_PASS", "1"), ("http_proxy", "http://proxy:3128"),
        ("OMP_NUM_THREADS", "1"), ("KEYBOARD_LAYOUT", "de"), ("SLURM_JOB_ID", "1"), ("LANG", "de_DE.UTF-8@euro"),
        ("HF_HOME", "/cache"), ("XDG_RUNTIME_DIR", "/run/user/1"), ("TRITON_CACHE_DIR", "/c"), ("TMPDIR", "/tmp"),
    ],
)  # fmt: skip
def test_what_processes_need_to_run_is_no_secret(name: str, value: str) -> None:
    assert not looks_secret(name, value)
    assert without_secrets({name: value}) == {name: value}


def test_what_is_started_while_secrets_are_hidden_lacks_them_and_this_process_has_them_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KEPT", "kept")
    with hidden(secret_names(os.environ)):
        shown = subprocess.run([sys.executable, "-c", "import os; print(dict(os.environ))"], capture_output=True)
    assert b"canary" not in shown.stdout and b"kept" in shown.stdout
    assert {name: os.environ[name] for name in PLANTED} == PLANTED


def test_hidden_variables_are_back_after_an_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "x")
    with pytest.raises(KeyboardInterrupt), hidden(["A_TOKEN", "NOT_THERE"]):
        raise KeyboardInterrupt
    assert os.environ["A_TOKEN"] == "x" and "NOT_THERE" not in os.environ
