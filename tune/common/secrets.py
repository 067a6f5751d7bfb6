"""Environment variables that look like secrets, so that they stay in the process that needs them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

# Words of a variable's name, as A_B has the words A and B
_WORDS = frozenset((
    "SECRET", "SECRETS", "TOKEN", "TOKENS", "PASSWORD", "PASSWORDS", "PASSWD", "PASSPHRASE", "PW", "PWD", "APIKEY",
    "CREDENTIAL", "CREDENTIALS", "CREDS", "DSN", "JWT", "BEARER", "COOKIE", "AUTH", "AUTHORIZATION", "PAT", "SAS",
    "WEBHOOK", "PRIVATE",
))  # fmt: skip
_ENDINGS = ("SECRET", "TOKEN", "PASSWORD", "PASSWD", "PWD", "CREDENTIALS")  # of a word, as in PGPASSWORD
_KEYS = ("KEY", "KEYS", "PASS")  # endings too, but in settings of libraries they mean cache keys and compiler passes
_SETTINGS = ("TORCH", "PYTORCH", "TRITON", "CUDA", "NCCL", "RAY_", "TUNE_")
_ACCOUNTS = ("AWS_", "AZURE_", "GOOGLE_", "GCP_", "MLFLOW_TRACKING_", "DATABRICKS_")  # what trials have no use for
_PLAIN = frozenset(("PWD", "OLDPWD", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"))  # folders, a mode, a file's path
_VALUES = re.compile(
    r"://[^/\s]*@"  # an address with a user or a password
    r"|[?&;](?:\w*(?:token|password|passwd|secret|key|sig|signature))=[^&;\s]"
    r"|\b(?:AccountKey|SharedAccessKey|SharedAccessSignature|password|pwd)="  # connection strings
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\beyJ[\w-]{8,}\.eyJ"  # a JSON web token
    r"|\b(?:sk-|gh[opsur]_|github_pat_|glpat-|hf_|xox[abpr]-|AKIA|ASIA)[\w-]{10,}",  # vendors' own beginnings
    re.IGNORECASE,
)


def looks_secret(name: str, value: str = "") -> bool:
    """Whether an environment variable may hold a secret, by its name or its value."""
    upper = name.upper()
    if upper in _PLAIN:
        return False
    words = [word for word in re.split(r"[^A-Z0-9]+", upper) if word]
    if upper.startswith(_ACCOUNTS) or any(word in _WORDS or word.endswith(_ENDINGS) for word in words):
        return True
    named = not upper.startswith(_SETTINGS) and any(word.endswith(_KEYS) for word in words)
    return named or _VALUES.search(value) is not None


def secret_names(variables: Mapping[str, str]) -> list[str]:
    """The names of those variables that look like secrets."""
    return [name for name, value in variables.items() if looks_secret(name, value)]


def without_secrets(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that do not look like secrets."""
    return {name: value for name, value in variables.items() if not looks_secret(name, value)}


@contextmanager
def hidden(names: Iterable[str]) -> Iterator[None]:
    """Inside, this process's environment lacks these variables, and what is started there never gets them."""
    kept = {name: os.environ.pop(name) for name in list(names) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
