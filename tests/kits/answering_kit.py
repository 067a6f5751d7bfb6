"""A web server that answers MLflow's API as a test tells it to: as a login page, another service, a proxy."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

EXPERIMENT = (
    '{"experiment": {"experiment_id": "1", "name": "patchtst-sweeps", "artifact_location": "mlflow-artifacts:/1", '
    '"lifecycle_stage": "active"}}'
)


@dataclass
class Answering:
    """A server that answers /health, and every other call with `status`; None: never."""

    status: int | None = 200
    text: str = "{}"
    headers: dict[str, str] = field(default_factory=dict)
    stranger: tuple[int, str, dict[str, str]] | None = None  # status, text, headers for calls without credentials
    asked: list[str] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Answering:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.asked.append(self.path)
                if self.path != "/health" and fake.status is None:
                    fake.let_go.wait(60)
                status, text, headers = fake.status or 200, fake.text, fake.headers
                if fake.stranger is not None and "Authorization" not in self.headers:
                    status, text, headers = fake.stranger
                self.send_response(200 if self.path == "/health" else status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.let_go.set()
        self.http.shutdown()
        self.http.server_close()
