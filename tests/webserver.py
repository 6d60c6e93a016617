"""A web server for tests: files from a dict, with ranges, and whatever trouble a test asks for."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

BLOCK = 1000


class Web:
    """What is served and how badly, and what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.address = ""
        self.asked: list[tuple[str, str | None]] = []
        """Path and Range of each request, in order."""
        self.sent: Counter[str] = Counter()
        """Bytes of each path that left here."""
        self.answers: dict[str, list[int]] = {}
        """Statuses to answer with first."""
        self.headers: dict[str, str] = {}
        """Headers to add to every answer."""
        self.break_after: list[int] = []
        """After how many bytes to break the next connections that send something."""
        self.ranges = True
        self.if_range = True
        """Whether a condition on a range is looked at."""
        self.skew = 0
        """How far behind its place a range begins."""
        self.etags = True
        self.weak = ""
        """What to put before an ETag: W/ makes it weak."""
        self.lengths = True
        self.chunked = False
        """Whether files come in chunks, which have an end, instead of with a length."""
        self.pauses: dict[str, float] = {}
        """Seconds to wait after each byte of a path."""
        self.ports: set[int] = set()
        """The other ends of the connections that something was asked for on."""
        self.google_hashes = False
        self.before = lambda path: None
        """Called with the path before a file is sent."""

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def etag(self, data: bytes) -> str:
        return f'{self.weak}"{hashlib.md5(data).hexdigest()}"'


def _handler(web: Web) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            path = unquote(self.path)
            web.ports.add(self.client_address[1])
            web.asked.append((path, self.headers.get("Range")))
            web.before(path)
            if web.answers.get(path):
                return self.answer(web.answers[path].pop(0), b"")
            if path not in web.files:
                return self.answer(404, b"")
            data = web.files[path]
            if web.etags and self.headers.get("If-None-Match") == web.etag(data):
                return self.answer(304, b"")
            return self.send_file(path, data, self.first_byte(data))

        def first_byte(self, data: bytes) -> int:
            if not web.ranges or "Range" not in self.headers:
                return 0
            wanted = self.headers.get("If-Range", web.etag(data))
            if web.if_range and wanted != web.etag(data):
                return 0
            return int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) + web.skew

        def send_file(self, path: str, data: bytes, start: int) -> None:
            if start >= len(data) > 0:
                return self.answer(416, b"")
            headers = {}
            if web.etags:
                headers["ETag"] = web.etag(data)
            if web.google_hashes:
                digest = base64.b64encode(hashlib.md5(data).digest()).decode()
                headers["x-goog-hash"] = f"crc32c=AAAAAA==,md5={digest}"
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.answer(206 if start else 200, data[start:], headers, path)

        def answer(self, status: int, body: bytes, headers=None, path: str = "") -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), **web.headers}.items():
                self.send_header(name, value)
            chunked = web.chunked and status == 200
            if chunked:
                self.send_header("Transfer-Encoding", "chunked")
                body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            elif web.lengths or status != 200:
                self.send_header("Content-Length", str(len(body)))
            broken = bool(body) and bool(web.break_after)
            if broken:
                body = body[: web.break_after.pop(0)]
            self.end_headers()
            self.send_body(body, path)
            self.close_connection = broken or not web.lengths

        def send_body(self, body: bytes, path: str) -> None:
            step = 1 if path in web.pauses else max(1, len(body))
            for start in range(0, len(body), step):
                part = body[start : start + step]
                web.sent[path] += len(part)  # before: the client may be done with it at once
                self.wfile.write(part)
                time.sleep(web.pauses.get(path, 0))

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # with the usual 5, a burst of connections waits a second

    def handle_error(self, request, client_address):
        """A client that hangs up early is part of many tests."""


@contextmanager
def serve():
    """A running server on this machine."""
    web = Web()
    server = _Server(("127.0.0.1", 0), _handler(web))
    web.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()


def isolate(monkeypatch, tmp_path) -> None:
    """A cache of the test's own, no proxy in front of this machine, and no long waits."""
    from relaydet.storage import bodies, tries

    monkeypatch.setenv("RELAYDET_CACHE", str(tmp_path / "cache"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(bodies, "READ_BYTES", BLOCK)
    monkeypatch.setattr(tries, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(tries, "LONGEST_WAIT_SECONDS", 0.01)
