"""What is shown on a screen: text that cannot harm it, and writing that cannot end a job.

Names of categories, files and folders come from strangers, and may hold what a terminal obeys. The
screen itself may be gone (a closed terminal, `| head`), know few characters (ascii, cp1252), or be
an object that a notebook put in place of standard output. None of that is a reason to stop.
"""

from __future__ import annotations

import codecs
import errno
import json
import math
import os
import re
import select
import sys
from html import escape
from typing import Any

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1
    "\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"  # direction, line ends, nothing to see
    "\ud800-\udfff]"  # halves of characters: file names that are not UTF-8
)
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)
"""What writing says where nobody will read any more."""
PIECE = 1024
"""Characters that are written at once: a pipe that takes any takes 4,096 bytes."""
STUCK_SECONDS = 5.0
"""How long a stream that takes no text is waited for (Ctrl-S, an ssh that lost its network)."""
_stuck: set[int] = set()
"""Descriptors that were waited for in vain."""


def shown(text: object) -> str:
    r"""Return a text with what a terminal would obey, or cannot show, as codes such as \u001b.

    Newlines and tabs stay. Inside JSON the codes mean the same characters as before.
    """
    return _UNSAFE.sub(lambda match: _codes(match[0]), str(text))


def one_line(text: object) -> str:
    """Return a text as `shown` does, in one line: for an error, or for what stands beside a bar."""
    return shown(" ".join(str(text).splitlines()))


def markup(text: object) -> str:
    """Return a text as `shown` does, for a page of HTML."""
    return escape(shown(text))


def json_text(value: Any) -> str:
    """Return plain data as JSON in ASCII, which any screen shows; not-a-number becomes null."""
    return json.dumps(_finite(value), allow_nan=False)


def say(text: object = "") -> None:
    """Print a text on standard output; where that cannot be written, go on without."""
    _put(sys.stdout, f"{shown(text)}\n")


def complain(text: object) -> None:
    """Print a text on standard error; where that cannot be written, go on without."""
    _put(sys.stderr, f"{shown(text)}\n")


def is_terminal(stream: Any) -> bool:
    """Return whether a stream is a terminal; None, and what does not say, is none."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # None or an object of somebody's; closed
        return False


class Screen:
    """Standard output as a file for progress bars, which write their own control characters."""

    def __init__(self) -> None:
        self._stream = sys.stdout

    @property
    def encoding(self) -> str:
        """What its characters are encoded in."""
        return _encoding(self._stream)

    def write(self, text: str) -> int:
        """Write as much of it as the stream can show."""
        _put(self._stream, text)
        return len(text)

    def flush(self) -> None:
        """Do nothing: each write is flushed."""

    def isatty(self) -> bool:
        """Return whether bars may move."""
        return is_terminal(self._stream)

    def fileno(self) -> int:
        """Return the stream's descriptor, which tells the width of a terminal; may raise."""
        return self._stream.fileno()


def hold_descriptors() -> None:
    """Open what of 0, 1 and 2 is closed: the next file opened would get what is printed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def finish() -> None:
    """Flush both streams: what the interpreter cannot flush at its exit would become its code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            _silence(stream)


def _put(stream: Any, text: str) -> None:
    """Write to a stream of which nothing is known; its errors end here, for no job is about it."""
    for first in range(0, len(text), PIECE):
        if stream is None or not _takes_text(stream):
            return
        _put_piece(stream, text[first : first + PIECE])


def _put_piece(stream: Any, text: str) -> None:
    for encoding in (_encoding(stream), "ascii"):
        try:
            encoded = text.encode(encoding, _HANDLER)
            if not _put_on_terminal(stream, encoded):
                stream.write(encoded.decode(encoding))
                if hasattr(stream, "flush"):
                    stream.flush()
            return
        except UnicodeError:
            continue  # it says nothing of its encoding, or not the truth
        except OSError as error:
            if error.errno in _GONE:
                _silence(stream)
            return
        except Exception:
            # A closed file, an object of somebody's that takes no text, a signal handler that
            # prints while the line before is being written.
            return


def _put_on_terminal(stream: Any, encoded: bytes) -> bool:
    """Write to a terminal without waiting for it; return whether the stream is one.

    A terminal says that it takes text when it takes one character, and then blocks for the rest.
    """
    if not is_terminal(stream):
        return False
    try:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
        terminal = os.open(os.ttyname(stream.fileno()), flags)
    except (OSError, AttributeError):  # its name is of another container; Windows
        return False
    try:
        stream.flush()
        while encoded and _takes_text(stream):
            encoded = encoded[os.write(terminal, encoded) :]
    except BlockingIOError:
        pass  # full: the rest of this piece is lost
    finally:
        os.close(terminal)
    return True


def _takes_text(stream: Any) -> bool:
    """Wait until a stream takes text, for a while: a stuck terminal or pipe must not hold a job.

    What is written meanwhile is lost. Once a stream was waited for in vain, it is only looked at
    until it takes text again.
    """
    try:
        descriptor = stream.fileno()
        patience = 0.0 if descriptor in _stuck else STUCK_SECONDS
        if select.select([], [descriptor], [], patience)[1]:
            _stuck.discard(descriptor)
            return True
    except Exception:  # no descriptor, or one that cannot be waited for: a file, a notebook's cell
        return True
    _stuck.add(descriptor)
    return False


def _silence(stream: Any) -> None:
    """Have nobody read it: what is still in its buffer would fail again, last at the exit."""
    if stream is None or stream not in (sys.__stdout__, sys.__stderr__):
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # it has no descriptor any more
        return


def _encoding(stream: Any) -> str:
    name = getattr(stream, "encoding", None)
    try:
        return codecs.lookup(name).name if isinstance(name, str) else "utf-8"
    except LookupError:
        return "ascii"


def _codes(characters: str) -> str:
    """Return characters as JSON writes them."""
    units = characters.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Stand in for characters that an encoding has not."""
    assert isinstance(error, UnicodeEncodeError)
    return _codes(error.object[error.start : error.end]), error.end


_HANDLER = "relaydet.console"
codecs.register_error(_HANDLER, _escape)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
