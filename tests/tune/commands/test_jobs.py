"""What is sent to a cluster, what is refused before, and how a job server's answers are shown. The server is a fake."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray

from tune.cluster import job_bundle, job_server
from tune.commands import submit
from tune.commands.main import main
from tune.commands.sweep import parser as sweep_parser
from tune.common.errors import DONE, INTERRUPTED, WRONG_INPUT, WrongInput
from tune.common.process import JOB_CONFIG, ProcessInfo, this_process, user_name
from tune.config.yaml_file import read_config, write_config
from tune.machine.code_identity import IDENTITY_FILE, REPO_ROOT, code_identity

URI = ["--tracking-uri", "http://mlflow:5000"]
SWEEP = ["--sweep", "custom", "--over", "train.learning_rate=0.001,0.002", "--dataset", "demo"]
THERE = ["--storage-path", "/shared/runs"]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", *submit.SECRETS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        yield fake


class FakeServer:
    """Answers as Ray's job server does, from a list of jobs; remembers what was asked of it."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str, bytes]] = []
        self.version: Any = {"ray_version": ray.__version__}
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fake.asked.append((self.command, self.path, body))
                content = json.dumps(fake.reply(self.command, self.path, body)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def reply(self, command: str, path: str, body: bytes) -> Any:
        if path == "/api/version":
            return self.version
        if path.endswith("/stop"):
            self.jobs[-1]["status"] = "STOPPED"
            return {"stopped": True}
        if path == "/api/jobs/" and command == "POST":
            sent = json.loads(body)
            self.add(sent["submission_id"], **{name: sent[name] for name in ("metadata", "entrypoint", "runtime_env")})
            return {"job_id": sent["submission_id"], "submission_id": sent["submission_id"]}
        return self.jobs

    def add(self, job_id: str, status: str = "RUNNING", **more: Any) -> None:
        job = {"type": "SUBMISSION", "submission_id": job_id, "status": status, "entrypoint": "", "start_time": 0}
        self.jobs.append({**job, "metadata": {"user": user_name(), "sweep": "custom"}, **more})

    def __enter__(self) -> FakeServer:
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.http.shutdown()
        self.http.server_close()


def _words(*more: str) -> list[str]:
    return submit.command_there(sweep_parser().parse_args([*SWEEP, "--submit", "http://h:8265", *THERE, *URI, *more]))


def _error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == WRONG_INPUT
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_the_command_on_the_cluster_is_the_same_without_submit() -> None:
    assert _words() == [*SWEEP, *THERE, *URI, "--data-dir", "/shared/runs/data", "--address", "auto"]
    kept = ["--set", "model.d_model=32", "--fresh", "--data-dir=/shared/data"]
    assert _words(*kept) == [*SWEEP, *THERE, *URI, *kept, "--address", "auto"]


def test_a_configuration_file_travels_under_a_name_of_ours_and_its_data_must_be_there(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    write_config(file, {"sweep": "custom", "dataset": "/shared/my.csv", "over": {"model.d_model": [32, 64]}})
    arguments = sweep_parser().parse_args([f"--config={file}", *THERE, *URI, "--submit=http://h:8265"])
    assert submit.command_there(arguments)[:2] == ["--config", job_bundle.CONFIG]
    assert submit.config_there(read_config(file))["over"] == {"model.d_model": [32, 64]}
    write_config(file, {"sweep": "custom", "dataset": "my.csv"})
    with pytest.raises(WrongInput, match="dataset my.csv: the sweep runs elsewhere"):
        submit.config_there(read_config(file))


REFUSED: dict[str, tuple[list[str], dict[str, str], str]] = {
    "a_relative_storage_path": ([*SWEEP, *URI], {}, "--storage-path runs: the sweep runs elsewhere"),
    "a_relative_data_dir": ([*SWEEP, *THERE, *URI, "--data-dir", "data"], {}, "--data-dir data: the sweep runs elsew"),
    "a_relative_data_file": (["--sweep", "custom", "--dataset", "my.csv", *THERE, *URI], {}, "--dataset my.csv: the"),
    "a_plan": ([*SWEEP, *THERE, *URI, "--plan"], {}, "--submit and --plan"),
    "json": ([*SWEEP, *THERE, *URI, "--json", "-"], {}, "report SWEEP_ID --json FILE"),
    "an_address": ([*SWEEP, *THERE, *URI, "--address", "auto"], {}, "--submit and --address"),
    "no_store": ([*SWEEP, *THERE], {}, "--submit without a store"),
    "a_relative_store": ([*SWEEP, *THERE, "--tracking-uri", "sqlite:///m.db"], {}, "write an absolute path"),
    "a_password_in_the_environments_store": (
        [*SWEEP, *THERE], {"MLFLOW_TRACKING_URI": "http://ann:canary@h:5000"}, "http://h:5000 has a user or password",
    ),
    "a_password_in_the_typed_store": (
        [*SWEEP, *THERE, "--tracking-uri", "postgresql://h/x?password=canary"], {}, "would show in the process list",
    ),
    "an_unknown_field": ([*SWEEP, *THERE, *URI, "--set", "model.nope=1"], {}, "model.nope"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_elsewhere_is_refused_before_anything_is_sent(
    name: str, server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, environment, said = REFUSED[name]
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    line = _error([*arguments, "--submit", server.url], capsys)
    assert said in line and "canary" not in line
    assert server.asked == []


def test_nothing_secret_of_the_users_environment_is_sent(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (*submit.SECRETS, "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")  # Ray's client would go there instead
    monkeypatch.setattr(submit, "follow", lambda server, job_id: DONE)
    assert main([*SWEEP, *THERE, "--submit", server.url]) == DONE
    (job,) = server.jobs
    assert job["entrypoint"].startswith("exec python experiments.py --sweep custom ")
    assert job["runtime_env"]["env_vars"] == {
        "MLFLOW_TRACKING_URI": "http://mlflow:5000", "RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "90",
    }  # fmt: skip
    assert job["metadata"] == {"user": user_name(), "sweep": "custom"}
    assert not [path for _, path, body in server.asked if b"canary" in body]
    said = capsys.readouterr().err
    assert "MLFLOW_TRACKING_PASSWORD" in said and "canary" not in said


ANSWERS: dict[str, tuple[Any, str]] = {
    "another_program": ({"name": "x"}, "answers, but is no Ray job server"),
    "a_list": ([], "answers, but is no Ray job server"),
    "another_ray": ({"ray_version": "2.9.0"}, "the cluster runs Ray 2.9.0"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_no_job_server_of_this_ray_is_refused_in_one_line(
    name: str, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.version, said = ANSWERS[name]
    assert said in _error(["status", "--cluster", server.url], capsys)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9", "nothing answers there"), ("head:8265", "write http://HOST:8265"),
        ("http://", "write http://HOST:8265"), ("http://h:99999", "write http://HOST:8265"),
        ("http://ann:canary@h:8265", "shows in the process list"),
    ],
)  # fmt: skip
def test_a_wrong_url_is_refused_in_one_line(url: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = _error(["status", "--cluster", url], capsys)
    assert said in line and "canary" not in line


def test_without_a_cluster_and_without_an_id_the_line_says_what_to_give(
    server: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "give --cluster http://HOST:8265" in _error(["logs"], capsys)
    server.add("theirs", metadata={"user": "somebody else", "sweep": "custom"})
    assert "which job? your running jobs: none" in _error(["stop", "--cluster", server.url], capsys)
    server.add("custom-1")
    server.add("custom-2")
    assert "your running jobs: custom-1, custom-2" in _error(["stop", "--cluster", server.url], capsys)
    assert "Did you mean 'custom-2'" in _error(["logs", "custom-22", "--cluster", server.url], capsys)


def test_a_job_that_has_ended_cannot_be_stopped_and_one_that_runs_can(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.add("custom-1", "SUCCEEDED")
    assert "custom-1 is not running: it is done" in _error(["stop", "custom-1", "--cluster", server.url], capsys)
    server.add("custom-2")
    assert main(["stop", "--cluster", server.url]) == DONE
    assert ("POST", "/api/jobs/custom-2/stop") in [(command, path) for command, path, _ in server.asked]


def test_a_store_that_is_not_there_leaves_the_counts_empty(
    server: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.add("custom-1", "FAILED", driver_exit_code=1)
    arguments = ["status", "--cluster", server.url, "--tracking-uri", f"sqlite:///{tmp_path}/none.db", "--json", "-"]
    assert main(arguments) == DONE
    said = capsys.readouterr()
    (row,) = json.loads(said.out)["jobs"]
    assert (row["job"], row["state"], row["ended"], row["left"]) == ("custom-1", "failed (1)", None, None)
    assert "the progress of the sweeps is not known" in said.err


def test_what_others_have_written_commands_no_terminal(
    server: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    odd = "odd\x1b]0;x\x07\n\x9b31m\u202e"
    server.add(odd, "FAILED", metadata={"user": f"ann{odd}", "sweep": odd}, message=f"no {odd}")
    where = ["--cluster", server.url]
    assert main(["status", *where, "--tracking-uri", f"sqlite:///{tmp_path}/none.db"]) == DONE
    said = capsys.readouterr().out
    head, row = said.splitlines()  # its line breaks begin no line
    assert row.startswith("odd]0;x31m") and "annodd" in row and all(letter.isprintable() for letter in row)
    for arguments in (["logs", "another"], ["stop", odd]):
        line = _error([*arguments, *where], capsys)
        assert "odd]0;x" in line and all(letter.isprintable() for letter in line)
    server.add(odd + "2", metadata={"user": user_name(), "sweep": odd})
    assert main(["stop", *where]) == DONE
    streams = capsys.readouterr()
    assert all(letter.isprintable() or letter == "\n" for letter in streams.out + streams.err)
    assert any(path.startswith("/api/jobs/odd") and path.endswith("2/stop") for _, path, _ in server.asked)


@pytest.mark.parametrize(
    ("state", "exit_code", "expected"),
    [("done", 0, 0), ("done", None, 0), ("failed", 1, 1), ("failed", -9, 137), ("stopped", None, INTERRUPTED)],
)
def test_a_jobs_exit_code_is_its_own(state: str, exit_code: int | None, expected: int) -> None:
    job = job_server.Job(
        job_id="j", user=None, sweep="custom", state=state, exit_code=exit_code, started_ms=None, message="no\nthing"
    )
    assert job.shell_code == expected


def test_a_job_that_never_ran_has_no_exit_code() -> None:
    job = job_server.Job(
        job_id="j", user=None, sweep=None, state="failed", exit_code=None, started_ms=None, message="\nno node\nat all"
    )
    with pytest.raises(WrongInput, match="j did not run to an end: no node$"):
        job.shell_code  # noqa: B018


def test_a_job_bundle_is_our_tracked_sources_and_their_identity(tmp_path: Path) -> None:
    try:
        names = job_bundle.source_files()
    except WrongInput:
        pytest.skip("a source file of this checkout is not tracked, which is refused")
    with job_bundle.packed({"sweep": "custom"}) as folder:
        files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
        assert files == {*names, IDENTITY_FILE, job_bundle.CONFIG}
        assert {name.split("/")[0] for name in names} == {"experiments.py", "tune", "model", "data_pipeline"}
        assert json.loads((folder / IDENTITY_FILE).read_text()) == code_identity()
    assert not folder.exists()


def test_an_untracked_source_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {False: ["experiments.py"], True: ["tune/draft.py", "tune/notes.txt"]}
    monkeypatch.setattr(job_bundle, "tracked_files", lambda entries, others=False: listed[others])
    with pytest.raises(WrongInput, match="tune/draft.py is not tracked"):
        job_bundle.source_files()


def test_outside_git_all_python_files_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_bundle, "tracked_files", lambda entries, others=False: None)
    names = job_bundle.source_files()
    assert "tune/cluster/job_bundle.py" in names and all(
        name.endswith(".py") and (REPO_ROOT / name).is_file() for name in names
    )


def test_more_than_ray_should_keep_in_memory_is_refused_naming_the_largest() -> None:
    job_bundle.check_size({"tune/a.py": 19 * 2**20})
    with pytest.raises(WrongInput, match=r"30 MiB, 20 can be sent; the largest are tune/big.bin \(29.0 MiB\), tune/a"):
        job_bundle.check_size({"tune/a.py": 2**20, "tune/big.bin": 29 * 2**20})


def test_a_process_info_names_who_submitted_the_job_and_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert this_process().user == user_name() and this_process().job is None
    monkeypatch.setenv(JOB_CONFIG, json.dumps({"metadata": {"user": "ann\x1b[31m", "job_submission_id": "pruning-1"}}))
    process = this_process()
    assert (process.user, process.job) == ("ann[31m", "pruning-1")
    assert ProcessInfo.from_json(process.as_json()) == process
    assert f"process {process.pid} on {process.host} of ann[31m since " in str(process)


@pytest.mark.parametrize("text", ["", "123", "[]", '{"pid": "1; rm"}', '{"user": 3}'])
def test_a_process_info_of_another_kind_of_file_is_empty(text: str) -> None:
    assert str(ProcessInfo.from_json(text)) == "another process"
