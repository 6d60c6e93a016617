"""A bad network: a proxy on loopback in front of the emulator of Cloud Storage.

It carries requests on unharmed until `Proxy.weather` is set.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGE = 1 << 20
"""Bodies of so many bytes are of a checkpoint or of the weights."""
_NO_COPY = ("connection", "transfer-encoding", "content-length", "keep-alive")


@dataclass
class Weather:
    """What the network does to requests."""

    kind: str
    """status, reset (before the server sees it), lost (the answer), slow, cut (an upload), or kill
    (its sender, halfway through an upload)."""
    chance: random.Random
    share: float = 1.0
    """Of the requests that it meets."""
    status: int = 503
    skip: int = 0
    """Requests that it lets pass first."""
    hits: int = 0
    act: Callable[[], None] = field(default=lambda: None)
    """What kills the sender."""

    def meets(self, size: int) -> bool:
        """Whether it happens to a request with a body of so many bytes."""
        if self.kind in ("cut", "kill") and size < LARGE:
            return False
        if self.skip:
            self.skip -= 1
            return False
        met = self.chance.random() < self.share
        self.hits += met
        return met


class Proxy:
    """A running proxy."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        """HOST:PORT of the emulator."""
        self.weather: Weather | None = None
        self.address = ""


@contextmanager
def proxy_to(upstream: str) -> Iterator[Proxy]:
    """Start a proxy in front of http://HOST:PORT."""
    proxy = Proxy(upstream.removeprefix("http://"))
    server = _Server(("127.0.0.1", 0), _handler(proxy))
    proxy.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed hang up; that is what all this is for."""


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement

        def log_message(self, *args: object) -> None:
            pass

        def handle_any(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            weather = proxy.weather
            if weather is None or not weather.meets(size):
                return self.answer(*self.ask(self.rfile.read(size)))
            return getattr(self, f"in_{weather.kind}")(weather, size)

        do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = handle_any

        def in_status(self, weather: Weather, size: int) -> None:
            self.rfile.read(size)
            body = b'{"error": {"code": %d, "message": "bad weather"}}' % weather.status
            self.answer(weather.status, [("Content-Type", "application/json")], body)

        def in_reset(self, _weather: Weather, size: int) -> None:
            self.rfile.read(size)
            self.reset()

        def in_lost(self, _weather: Weather, size: int) -> None:
            self.ask(self.rfile.read(size))
            self.reset()

        def in_slow(self, weather: Weather, size: int) -> None:
            time.sleep(weather.chance.uniform(0.05, 0.5))
            self.answer(*self.ask(self.rfile.read(size)))

        def in_cut(self, _weather: Weather, size: int) -> None:
            body = self.rfile.read(size)
            with socket.create_connection(proxy.upstream.split(":")) as upstream:
                lines = [f"{self.command} {self.path} HTTP/1.1"]
                lines += [f"{name}: {value}" for name, value in self.headers.items()]
                upstream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body[: size // 2])
            self.reset()

        def in_kill(self, weather: Weather, size: int) -> None:
            self.rfile.read(size // 2)
            weather.act()
            self.reset()

        def ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            """Carry a request to the emulator, and bring its answer."""
            upstream = http.client.HTTPConnection(proxy.upstream, timeout=30)
            headers = {n: v for n, v in self.headers.items() if n.lower() not in _NO_COPY}
            upstream.request(self.command, self.path, body, headers)
            response = upstream.getresponse()
            answer = response.status, response.getheaders(), response.read()
            upstream.close()
            return answer

        def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in _NO_COPY:
                    # Else the parts of an upload would go to the emulator by a way of their own.
                    self.send_header(name, value.replace(f"http://{proxy.upstream}", proxy.address))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def reset(self) -> None:
            """Close so that the other end sees a reset, and not an end."""
            self.close_connection = True
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

    return Handler
