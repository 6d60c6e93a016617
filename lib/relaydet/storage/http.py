"""Files over HTTP: gone on with after a break, tried a few times, and whole or absent.

Two ways in: `download` for one large file, which a later process goes on with, and `fetch_files`
for many small ones.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from relaydet.addresses import shown
from relaydet.bars import Advance, OpenBar, no_bar
from relaydet.errors import RelayError
from relaydet.storage.bodies import StoppedError
from relaydet.storage.cache import DISK_ERRORS, disk_trouble, locked, remove_stale
from relaydet.storage.limits import IMAGE
from relaydet.storage.parts import Checksum, Part, check, read_note
from relaydet.storage.servers import THREADS, Server, refuse_unreachable
from relaydet.storage.tries import Errand, NotThereError, receive, refuse_page

BATCH = 1024
PAGE_START_BYTES = 1024


def download(
    server: Server,
    url: str,
    target: Path,
    bar: OpenBar = no_bar,
    expected: Checksum | None = None,
    newest: bool = False,
) -> Path:
    """Bring one file here, or the rest of it; does nothing where it is here.

    Beside it lie, while it is under way, its bytes so far (.part) and what they belong to (.json),
    and once it is here what the server said of it (.facts). These are two notes, because an update
    that is broken off says nothing of the file that is here.

    Args:
        server: whom to ask.
        url: its address.
        target: where it goes; its folder is made.
        bar: shows the bytes.
        expected: checksum that the file must have.
        newest: ask whether a file that is here has changed since.

    Raises:
        NotThereError: there is no such file.
        RelayError: the server cannot be reached, keeps failing, or sends something else; the disk
            is full.
    """
    with disk_trouble(target.parent), locked(target):
        if target.is_file() and not newest:
            return target
        part = Part(_beside(target, "part"), _beside(target, "json"))
        if not part.is_whole():
            refuse_unreachable(url)
            with _byte_bar(
                bar, f"downloading {target.name} from {urlsplit(url).hostname}"
            ) as arrived:
                errand = Errand(server, url, arrived=arrived)
                if not receive(errand, part, _known(target)):
                    return target
        _publish(part, target, url, expected, bar)
    return target


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(f"{target.name}.{ending}")


def _known(target: Path) -> dict[str, str]:
    """Headers that ask for the file only where it is not the one that is here."""
    facts = read_note(_beside(target, "facts")) if target.is_file() else None
    if facts is None:
        return {}
    known = {"If-None-Match": facts.etag, "If-Modified-Since": facts.modified}
    return {header: value for header, value in known.items() if value}


def _publish(part: Part, target: Path, url: str, expected: Checksum | None, bar: OpenBar) -> None:
    """Check a whole file and give it its name."""
    stated = part.facts.checksum if part.facts else None
    for checksum in filter(None, (expected, stated)):
        with bar(f"checking {target.name}", part.size(), "B") as advance:
            wrong = check(part.path, checksum, advance)
        if wrong:
            part.forget()
            raise RelayError(
                f"{shown(url)}: what came is not the right file ({wrong}); it was thrown away. Run"
                " again, or check the address."
            )
    part.publish(target, _beside(target, "facts"))


@contextmanager
def _byte_bar(bar: OpenBar, label: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar that opens with the first bytes, when the total is known, and never goes back."""
    with ExitStack() as stack:
        advance: Advance | None = None
        most = 0

        def arrived(size: int, total: int | None) -> None:
            nonlocal advance, most
            if advance is None:
                advance = stack.enter_context(bar(label, total or 0, "B"))
            advance(max(0, size - most))
            most = max(size, most)

        yield arrived


def fetch_files(
    server: Server,
    wanted: Sequence[tuple[str, Path]],
    parts: Path,
    label: str,
    bar: OpenBar = no_bar,
) -> None:
    """Bring many images here at once; each is whole or absent.

    Left out are files that the server does not have, files whose name the disk cannot hold, and
    files that would have to be a folder of others.

    Args:
        server: whom to ask.
        wanted: address and path of each file.
        parts: folder, on the same disk, of what is under way.
        label: what to call them all on the bar.
        bar: shows the files.

    Raises:
        RelayError: the server cannot be reached, keeps failing, or sends web pages; the disk is
            full.
    """
    if not wanted:
        return
    stop = threading.Event()

    def fetch(file: tuple[str, Path]) -> None:
        try:
            _fetch_one(server, *file, parts, stop)
        except BaseException:
            stop.set()  # at once: the others may be waiting to try again
            raise

    with disk_trouble(parts):
        parts.mkdir(parents=True, exist_ok=True)
        remove_stale(parts)
        refuse_unreachable(wanted[0][0])
        with ThreadPoolExecutor(THREADS) as pool, bar(label, len(wanted), "file") as advance:
            try:
                # In batches: a hundred thousand waiting calls would take much memory.
                for start in range(0, len(wanted), BATCH):
                    for _ in pool.map(fetch, wanted[start : start + BATCH]):
                        advance(1)
            finally:
                stop.set()


def _fetch_one(server: Server, url: str, path: Path, parts: Path, stop: threading.Event) -> None:
    with tempfile.NamedTemporaryFile(dir=parts, delete=False) as file:
        part = Part(Path(file.name))
    try:
        if not stop.is_set() and _can_hold(path):
            receive(Errand(server, url, IMAGE, pages=False, stop=stop), part, {})
            _refuse_page_in(part.path, url)
            _publish(part, path, url, None, no_bar)
    except (NotThereError, StoppedError, IsADirectoryError, NotADirectoryError):
        return
    finally:
        part.path.unlink(missing_ok=True)


def _refuse_page_in(path: Path, url: str) -> None:
    with path.open("rb") as file:
        refuse_page(url, "", file.read(PAGE_START_BYTES))


def _can_hold(path: Path) -> bool:
    """Whether the file system takes a file of that name: not too long, no folder in its place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return not path.exists()
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise
        return False
