"""Errors of a store reach the user as our one line, not as tracebacks of the libraries below MLflow."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sweep_kit
from answering_kit import EXPERIMENT, Answering

PROGRAM = """
import sys, warnings
warnings.simplefilter("ignore")
from tune.common.address import one_line
from tune.common.process_setup import prepare_process
prepare_process()
from tune.tracking.store import open_client
for uri in sys.argv[1:]:
    client = open_client(uri)
    print("opened", flush=True)
    sys.stdin.readline()  # now it breaks
    try:
        client.create_experiment("x")
    except Exception as error:
        print(one_line(error), flush=True)
"""


def test_a_store_that_breaks_writes_nothing_to_stderr_and_its_error_is_one_short_line(new_store: str) -> None:
    file = new_store.partition(":///")[2]
    with Answering(text=EXPERIMENT) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, new_store, server.uri], cwd=sweep_kit.ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"},
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "opened\n"
        with closing(sqlite3.connect(file)) as database, database:
            database.execute("ALTER TABLE experiments RENAME TO gone")
        process.stdin.write("\n")
        process.stdin.flush()
        broken = process.stdout.readline()
        assert process.stdout.readline() == "opened\n"
    out, err = process.communicate("\n", timeout=120)
    assert broken == "MlflowException: (sqlite3.OperationalError) no such table: experiments\n"
    assert "refused" in out and len(out.splitlines()) == 1
    assert err == ""


@pytest.mark.soak_only
def test_a_sweep_beside_a_locked_store_shows_one_line_about_it(tmp_path: Path, empty_store: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        ran = sweep_kit.run(
            tmp_path, "--sweep", "custom", "--over", "train.batch_size=32,64", "--dataset", "demo", "--epochs", "1",
            "--repeats", "1",
        )  # fmt: skip
    assert ran.code == 130
    assert "Traceback" not in ran.err and len(ran.err.splitlines()) < 40
    assert ran.err.count("cannot be written") == 2  # when it happens, and at the end
