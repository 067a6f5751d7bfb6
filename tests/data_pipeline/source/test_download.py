"""Downloads against a local server that drops, truncates, corrupts, redirects and refuses."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import lzma
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data_pipeline.datasets import DATASETS, DatasetSpec
from data_pipeline.errors import DataError
from data_pipeline.source import download as download_module
from data_pipeline.source import http_file
from data_pipeline.source.download import fetch
from data_pipeline.split_rule import SplitRule

CONTENT = b"date,a\n" + b"".join(b"2020-01-01 00:%02d:00,%d\n" % (at % 60, at) for at in range(40_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


class Handler(BaseHTTPRequestHandler):
    """Follows the next behaviour of the server's script, and answers properly after its end."""

    def do_GET(self):
        server = self.server
        server.seen.append(self.headers.get("Range"))
        behaviour = server.script.pop(0) if server.script else server.fallback
        if isinstance(behaviour, int):
            self.send_error(behaviour)
        elif behaviour == "redirect":
            self.send_response(302)
            self.send_header("Location", "/moved.csv")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif behaviour == "hang up":
            self.close_connection = True
        else:
            self.send_content(behaviour)

    def send_content(self, behaviour):
        content = server_content = self.server.content
        if behaviour == "corrupt":
            content = content[:100] + b"\x00" + content[101:]
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = 0
        if wanted and behaviour != "no ranges" and self.headers.get("If-Range") == self.server.etag:
            start = int(wanted.group(1))
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("ETag", self.server.etag)
        if behaviour != "no length":
            self.send_header("Content-Length", str(len(server_content) - start))
        self.end_headers()
        stop = {"drop": max(start, HALF), "truncate": len(content) - 1}.get(behaviour, len(content))
        self.wfile.write(content[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(http_file, "FIRST_PAUSE_S", 0.0)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.script, running.seen, running.fallback = [], [], "good"
        running.content, running.etag = CONTENT, '"v1"'
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def spec(server):
    return DatasetSpec(
        name="web",
        file="web.csv",
        split=SplitRule(unit="fraction", parts=(0.7, 0.1, 0.2)),
        urls=(f"http://127.0.0.1:{server.server_port}/web.csv",),
        sha256=SHA256,
    )


def files(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_download_is_complete_checked_and_reported(spec, server, tmp_path):
    calls = []
    path = fetch(spec, tmp_path / "new", lambda done, total: calls.append((done, total)))
    assert path.read_bytes() == CONTENT and files(tmp_path / "new") == ["web.csv"]
    assert calls[-1] == (len(CONTENT), len(CONTENT)) and calls == sorted(calls)


@pytest.mark.parametrize("present", ["web.csv", "web.csv.gz"])
def test_a_file_that_is_there_is_not_fetched(present, spec, server, tmp_path):
    (tmp_path / present).write_bytes(b"mine")
    assert fetch(spec, tmp_path).name == present and server.seen == []


@pytest.mark.parametrize("behaviour", ["drop", "truncate"])
def test_a_broken_connection_is_resumed_where_it_ended(behaviour, spec, server, tmp_path):
    server.script = [behaviour]
    assert fetch(spec, tmp_path).read_bytes() == CONTENT
    sent = HALF if behaviour == "drop" else len(CONTENT) - 1
    assert server.seen == [None, f"bytes={sent}-"]


def test_a_later_call_resumes_too(spec, server, tmp_path, monkeypatch):
    monkeypatch.setattr(http_file, "ATTEMPTS", 1)
    server.script = ["drop"]
    with pytest.raises(DataError, match="ended after"):
        fetch(spec, tmp_path)
    assert "web.csv" not in files(tmp_path)
    fetch(spec, tmp_path)
    assert server.seen == [None, f"bytes={HALF}-"] and files(tmp_path) == ["web.csv"]


def test_a_file_that_changed_between_two_attempts_is_fetched_from_its_start(spec, server, tmp_path, monkeypatch):
    monkeypatch.setattr(http_file, "ATTEMPTS", 1)
    server.script, server.etag, server.content = ["drop"], '"v0"', b"z" * len(CONTENT)
    with pytest.raises(DataError):
        fetch(spec, tmp_path)
    server.etag, server.content = '"v1"', CONTENT
    assert fetch(spec, tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(spec, server, tmp_path):
    server.script = ["drop", "no ranges"]
    assert fetch(spec, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("behaviour", [500, 503, 429, 416, "hang up", "redirect", "no length", "corrupt"])
def test_a_passing_fault_is_retried(behaviour, spec, server, tmp_path):
    server.script = [behaviour]
    assert fetch(spec, tmp_path).read_bytes() == CONTENT and files(tmp_path) == ["web.csv"]


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [(404, "HTTP 404"), (403, "HTTP 403"), (500, "HTTP 500"), ("hang up", "Disconnected"), ("corrupt", "sha256")],
)
def test_a_lasting_fault_is_one_line_and_leaves_no_file(behaviour, message, spec, server, tmp_path):
    server.fallback = behaviour
    with pytest.raises(DataError) as caught:
        fetch(spec, tmp_path)
    line = str(caught.value)
    assert "\n" not in line
    assert all(part in line for part in (message, "web.csv", str(tmp_path), spec.urls[0], "--dataset demo"))
    assert files(tmp_path) == []


def test_a_permanent_refusal_is_not_retried(spec, server, tmp_path):
    server.fallback = 404
    with pytest.raises(DataError):
        fetch(spec, tmp_path)
    assert len(server.seen) == 1


def test_endless_redirects_end(spec, server, tmp_path):
    server.fallback = "redirect"
    with pytest.raises(DataError, match="redirect"):
        fetch(spec, tmp_path)


def test_the_next_source_is_tried(spec, server, tmp_path):
    server.script = [404]
    two = dataclasses.replace(spec, urls=(spec.urls[0], spec.urls[0].replace("web", "mirror")))
    assert fetch(two, tmp_path).read_bytes() == CONTENT


def test_nobody_listening_is_one_line(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(http_file, "ATTEMPTS", 2)
    offline = dataclasses.replace(spec, urls=("http://127.0.0.1:9/web.csv",))
    with pytest.raises(DataError, match="refused.*--dataset demo"):
        fetch(offline, tmp_path)


def test_a_checksum_is_pinned_at_first_use(spec, server, tmp_path):
    unpinned = dataclasses.replace(spec, sha256=None)
    fetch(unpinned, tmp_path).unlink()
    server.content = CONTENT + b"2030-01-01 00:00:00,1\n"
    with pytest.raises(DataError, match="expected " + SHA256[:16]):
        fetch(unpinned, tmp_path)
    assert files(tmp_path) == ["web.csv.sha256"]


@pytest.fixture
def matrix(spec, server):
    server.content = gzip.compress(b"0.1,0.2\n0.3,0.4\n")
    return dataclasses.replace(
        spec,
        urls=(spec.urls[0].replace(".csv", ".txt.gz"),),
        sha256=None,
        columns=("0", "OT"),
        step_minutes=60,
        first_timestamp="2016-07-01T02:00:00",
    )


def test_a_matrix_without_dates_becomes_the_csv(matrix, tmp_path):
    assert fetch(matrix, tmp_path).read_text().splitlines() == [
        "date,0,OT",
        "2016-07-01 02:00:00,0.1,0.2",
        "2016-07-01 03:00:00,0.3,0.4",
    ]
    assert files(tmp_path) == ["web.csv", "web.csv.sha256"]


def test_a_file_packed_by_xz_is_unpacked_instead_of_downloading(spec, server, tmp_path):
    (tmp_path / "web.csv.xz").write_bytes(lzma.compress(CONTENT))
    assert fetch(spec, tmp_path).read_bytes() == CONTENT and server.seen == []
    (tmp_path / "web.csv").unlink()
    (tmp_path / "web.csv.xz").write_bytes(lzma.compress(CONTENT)[:-9])
    with pytest.raises(DataError, match="truncated or damaged xz"):
        fetch(spec, tmp_path)
    assert files(tmp_path) == ["web.csv.xz"]


@pytest.mark.parametrize("damage", ["other", "cut"])
def test_a_rejected_matrix_leaves_no_file(damage, matrix, server, tmp_path):
    server.content = gzip.compress(b"0.1,0.2\n0.3,0.5\n") if damage == "other" else server.content[:-9]
    with pytest.raises(DataError, match="sha256 is" if damage == "other" else "damaged gzip"):
        fetch(dataclasses.replace(matrix, sha256=SHA256), tmp_path)
    assert files(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError("a proxy"), TimeoutError("read"), KeyError("etag")])
def test_after_any_error_of_the_hub_the_next_source_is_tried(error, spec, server, tmp_path, monkeypatch):
    import huggingface_hub

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    two = dataclasses.replace(spec, urls=("hf://datasets/owner/name/web.csv", *spec.urls))
    assert fetch(two, tmp_path / "two").read_bytes() == CONTENT
    with pytest.raises(DataError, match=f"owner/name/web.csv: {type(error).__name__}"):
        fetch(dataclasses.replace(two, urls=two.urls[:1]), tmp_path / "one")
    error = OSError(28, os.strerror(28))
    with pytest.raises(DataError, match="no space left"):
        fetch(two, tmp_path / "full")


def test_traffic_comes_through_the_hub_or_from_lstnet(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def from_cache(repository, file, repo_type):
        asked.append((repository, file, repo_type))
        (tmp_path / "blob").write_bytes(CONTENT)
        return str(tmp_path / "blob")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", from_cache)
    assert fetch(DATASETS["traffic"], tmp_path / "data").read_bytes() == CONTENT
    assert asked == [("thuml/Time-Series-Library", "traffic/traffic.csv", "dataset")]
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: (_ for _ in ()).throw(OSError("offline")))
    tried = []

    def refuse(url, *_):
        tried.append(url)
        raise http_file.DownloadFailed(f"{url}: offline")

    monkeypatch.setattr(download_module, "download", refuse)
    with pytest.raises(DataError, match="traffic.csv"):
        fetch(DATASETS["traffic"], tmp_path / "empty")
    assert tried == [DATASETS["traffic"].urls[1]]


def test_a_generated_set_and_a_users_file_have_no_source(tmp_path):
    with pytest.raises(DataError, match="generated"):
        fetch(DATASETS["demo"], tmp_path)


def test_a_full_disk_is_one_line(spec, server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(download_module, "download", full)
    with pytest.raises(DataError, match="no space left"):
        fetch(spec, tmp_path)


def test_a_folder_that_is_a_file_is_one_line(spec, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        fetch(spec, tmp_path / "file")


def test_processes_that_ask_together_download_once(spec, server, tmp_path):
    threads = [threading.Thread(target=fetch, args=(spec, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.seen == [None] and (tmp_path / "web.csv").read_bytes() == CONTENT
