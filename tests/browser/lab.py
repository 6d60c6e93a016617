"""A JupyterLab of its own: settings, kernels and files in one folder, on a free port."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

START_SECONDS = 120
STOP_SECONDS = 30
# It asks once whether to fetch news: a box over the page, and the page must not need a network.
SETTINGS = {
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {
        "fetchNews": "false",
        "checkForUpdates": False,
    }
}


@dataclass(frozen=True)
class Lab:
    """A JupyterLab that answers."""

    url: str
    """http://127.0.0.1:PORT/"""
    token: str
    root: Path
    """The folder that it shows."""

    def address(self, notebook: Path) -> str:
        """Where a browser finds a notebook, in a fresh workspace."""
        path = quote(notebook.relative_to(self.root).as_posix())
        return f"{self.url}lab/tree/{path}?reset&token={self.token}"


@contextmanager
def serve(root: Path, home: Path) -> Iterator[Lab]:
    """Start JupyterLab with this Python, and end it with its kernels.

    Args:
        root: the folder that it shows.
        home: for its settings and its log; nothing of the user's own is read or written.

    Raises:
        RuntimeError: it ended, or does not answer within two minutes.
    """
    token = secrets.token_hex(16)
    with (home / "jupyterlab.log").open("wb") as log:
        process = subprocess.Popen(
            _command(root, token),
            env={**os.environ, **_places(home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield Lab(_wait(process, home, token), token, root)
        finally:
            _end(process)


def _command(root: Path, token: str) -> list[str]:
    return [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={_free_port()}"),
        *(f"--ServerApp.root_dir={root}", f"--IdentityProvider.token={token}"),
    ]


def _free_port() -> int:
    """A port that is free now; where it no longer is, the server takes another and says so."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _places(home: Path) -> dict[str, str]:
    """Environment variables that keep all of Jupyter in one folder."""
    settings = home / "settings"
    for name, values in SETTINGS.items():
        path = settings / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    folders = {
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_DATA_DIR": home / "data",
        "JUPYTER_RUNTIME_DIR": home / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": settings,
        "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
        "IPYTHONDIR": home / "ipython",
    }
    return {name: str(folder) for name, folder in folders.items()}


def _wait(process: subprocess.Popen, home: Path, token: str) -> str:
    """The server's address, as soon as it answers there."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError, ValueError, urllib.error.URLError):  # not yet there, or half written
            info = json.loads((home / f"runtime/jpserver-{process.pid}.json").read_text())
            request = urllib.request.Request(
                f"{info['url']}api/status", headers={"Authorization": f"token {token}"}
            )
            with urllib.request.urlopen(request, timeout=10):
                return info["url"]
        time.sleep(0.2)
    log = (home / "jupyterlab.log").read_text(errors="replace")
    raise RuntimeError(f"JupyterLab does not answer; it said:\n{log[-3000:]}")


def _end(process: subprocess.Popen) -> None:
    """SIGTERM makes it end its kernels, each a session of its own that would stay."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
