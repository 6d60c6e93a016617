"""Published weights: taken from the cache, downloaded and checked, or given up soon."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from relaydet import download
from relaydet.download import Published, obtain

CONTENT = b"weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()[:8]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    """Folder of an empty cache; only this machine is reached, and without a proxy."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    return Path(torch.hub.get_dir()) / "checkpoints"


@pytest.fixture
def server(tmp_path):
    """A web server of a folder, and the folder."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    yield folder, f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


@pytest.mark.parametrize(
    ("name", "served", "reason"),
    [
        (f"resnet-{DIGEST}.pth", True, "downloaded"),
        ("resnet.pth", True, "downloaded"),  # no hash in the name: nothing to check
        ("resnet-00000000.pth", True, "the download of .* failed: invalid hash value"),
        (f"resnet-{DIGEST}.pth", False, "the download of .* failed: HTTP Error 404"),
    ],
)
def test_a_download_is_checked(name, served, reason, server, cache):
    folder, address = server
    if served:
        (folder / name).write_bytes(CONTENT)
    path, why = obtain(Published(f"{address}/{name}"))
    assert re.fullmatch(f"{reason}.*", why)
    left = [file for file in cache.iterdir() if file.is_file()]
    if reason == "downloaded":
        assert left == [path]
        assert path.read_bytes() == CONTENT
        assert obtain(Published(f"{address}/{name}")) == (path, "already downloaded")
    else:
        assert path is None
        assert left == [], "nothing broken stays in the cache"


@pytest.mark.parametrize("proxy", [False, True])
def test_offline_is_noticed(proxy, monkeypatch):
    nobody = "http://127.0.0.1:9"
    if proxy:
        monkeypatch.setenv("http_proxy", nobody)
    path, why = obtain(Published(f"{'http://weights.invalid' if proxy else nobody}/a.pth"))
    assert path is None
    assert why.startswith("offline: no connection to")


def test_a_look_up_that_never_ends_is_not_waited_for(monkeypatch):
    over = threading.Event()

    def look_up(*_):
        over.wait(60)
        raise OSError

    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.05)
    monkeypatch.setattr(download.socket, "create_connection", look_up)
    start = time.monotonic()
    path, why = obtain(Published("http://127.0.0.1:9/a.pth"))
    over.set()
    assert path is None
    assert why == "offline: no connection to 127.0.0.1 within 0.05 s"
    assert time.monotonic() - start < 10
