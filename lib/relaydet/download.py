"""Published weights: from torch.hub's cache or the network, never hanging."""

from __future__ import annotations

import re
import socket
import threading
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import torch

CONNECT_SECONDS = 3.0
STALL_SECONDS = 30.0


@dataclass(frozen=True)
class Published:
    """One file of weights that torchvision publishes."""

    url: str
    """Address of the file; its last part is its name in torch.hub's cache."""
    categories: tuple[str, ...] = ()
    """Names of the classifier's rows; of a detector's box predictor with the background first."""
    epsilon_free: bool = False
    """Trained with batch norms that add no epsilon to the variance."""

    @property
    def file_name(self) -> str:
        """Name of the file in torch.hub's cache."""
        return Path(urlparse(self.url).path).name


@dataclass(frozen=True)
class Offer:
    """What is published for a model, and what `auto` makes of it."""

    coco: Published | None = None
    """A whole detector trained on COCO."""
    imagenet: Published | None = None
    """A backbone trained on ImageNet."""
    scratch_reason: str = ""
    """Why `auto` starts this model from scratch; empty where it should not."""


def obtain(published: Published) -> tuple[Path | None, str]:
    """Find a published file in torch.hub's cache, or download it there.

    Without a connection this gives up after CONNECT_SECONDS, and a download that stalls after
    STALL_SECONDS. What was downloaded is checked against the hash in its name.

    Returns:
        Where the file is, or None where it cannot be had; and why.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / published.file_name
    if path.is_file():
        return path, "already downloaded"
    if not _is_reachable(published.url):
        host = urlparse(published.url).hostname
        return None, f"offline: no connection to {host} within {CONNECT_SECONDS:g} s"
    digest = re.search(r"-([0-9a-f]{8,})\.", published.file_name)
    patience = socket.getdefaulttimeout()
    # torch.hub sets no timeout of its own: a stalled download would hold the session for ever.
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(published.url, str(path), digest[1] if digest else None)
    except (OSError, RuntimeError) as error:
        return None, f"the download of {published.url} failed: {error}"
    finally:
        socket.setdefaulttimeout(patience)
    return path, "downloaded"


def _is_reachable(url: str) -> bool:
    """Whether the address's host, or the proxy in front of it, takes a connection soon.

    In a thread of its own, because a name look-up has no timeout and may block for minutes.
    """
    address = urlparse(url)
    proxy = urllib.request.getproxies().get(address.scheme)
    if proxy and not urllib.request.proxy_bypass(address.hostname or ""):
        address = urlparse(proxy if "://" in proxy else f"http://{proxy}")
    port = address.port or (443 if address.scheme == "https" else 80)
    connected = threading.Event()

    def connect() -> None:
        with suppress(OSError):
            socket.create_connection((address.hostname, port), CONNECT_SECONDS).close()
            connected.set()

    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(CONNECT_SECONDS)
    return connected.is_set()
