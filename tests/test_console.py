"""What is shown cannot harm a screen, and what a screen does cannot end a job."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from relaydet import console
from relaydet.errors import RelayError
from relaydet.viewing.progress import bar, progress, step_bar


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bäume 東 Привет 👩‍🚀", "Bäume 東 Привет 👩‍🚀"),
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[2J\x1b]0;title\x07", r"\u001b[2J\u001b]0;title\u0007"),
        ("a\rb\x00\x7f\x85\x9b", r"a\u000db\u0000\u007f\u0085\u009b"),
        ("\u202egnp.exe\u2066\u200f", r"\u202egnp.exe\u2066\u200f"),
        (os.fsdecode(b"caf\xe9"), r"caf\udce9"),
        (r"\u001b", r"\u001b"),
    ],
)
def test_what_a_terminal_obeys_is_shown_as_its_code(text, expected):
    assert console.shown(text) == expected
    assert console.shown(expected) == expected, "twice is as once"
    assert str(RelayError(text)) == expected
    assert json.loads(console.shown(json.dumps(text, ensure_ascii=False))) == text


def test_an_error_is_one_line():
    assert console.one_line("a\nb\x1bc\r\nd") == r"a b\u001bc d"


def test_markup_is_escaped_for_both():
    assert console.markup("<b>\u202e&") == r"&lt;b&gt;\u202e&amp;"


def test_json_has_ascii_alone_and_no_nan():
    value = {"a": [float("nan"), 1.5, "ü\udce9\x1b"], "b": (None, float("inf"))}
    text = console.json_text(value)
    assert text.isascii()
    assert json.loads(text) == {"a": [None, 1.5, "ü\udce9\x1b"], "b": [None, None]}


class Tee:
    """What notebooks put in place of standard output: no isatty, no encoding."""

    def __init__(self, fails=None):
        self.text, self.fails = "", fails

    def write(self, text):
        if self.fails:
            raise self.fails
        self.text += text

    def flush(self):
        pass


class WriteOnly:
    text = ""

    def write(self, text):
        self.text += text


class AsciiInSecret(WriteOnly):
    def write(self, text):
        self.text += text.encode("ascii").decode()


@pytest.mark.parametrize(
    ("stream", "expected"),
    [(Tee(), "ü\n"), (WriteOnly(), "ü\n"), (AsciiInSecret(), "\\u00fc\n")],
)
def test_any_object_with_a_write_will_do(monkeypatch, stream, expected):
    monkeypatch.setattr(sys, "stdout", stream)
    console.say("ü")
    assert stream.text == expected
    assert list(progress("ü")(range(3))) == [0, 1, 2]
    with bar("a\n\x1bb", 3, "B") as advance:
        advance(2)
    with step_bar("training", 3, 1) as shown:
        shown.update()
        shown.refresh()
    assert "\x1bb" not in stream.text


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        closed,
        object,
        lambda: Tee(BrokenPipeError(errno.EPIPE, "Broken pipe")),
        lambda: Tee(OSError(errno.EIO, "Input/output error")),
        lambda: Tee(OSError(errno.ENOSPC, "No space left on device")),
        lambda: Tee(BlockingIOError(errno.EAGAIN, "again")),
        lambda: Tee(RuntimeError("reentrant call")),
        lambda: Tee(TypeError("bytes are needed")),
        lambda: Tee(UnicodeEncodeError("ascii", "x", 0, 1, "no")),
    ],
)
def test_a_screen_that_fails_is_no_reason_to_stop(monkeypatch, make):
    monkeypatch.setattr(sys, "stdout", make())
    monkeypatch.setattr(sys, "stderr", make())
    console.say("a")
    console.complain("a")
    assert list(progress("a", 2)(range(2))) == [0, 1]
    with step_bar("training", 3, 0) as shown:
        shown.update()
        shown.refresh()
    assert not console.is_terminal(sys.stdout)
    console.finish()


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", b"B\\u00e4ume \\u6771 \\ud83c\\udf33\n"),
        ("cp1252", b"B\xe4ume \\u6771 \\ud83c\\udf33\n"),
        ("utf-8", "Bäume 東 🌳\n".encode()),
    ],
)
def test_characters_that_a_stream_lacks_are_replaced(monkeypatch, encoding, expected):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    console.say("Bäume 東 🌳")
    assert written.getvalue().replace(os.linesep.encode(), b"\n") == expected


TALK = """
import sys
from relaydet import console
from relaydet.viewing.progress import step_bar
console.hold_descriptors()
with step_bar("training", 3000, 0) as bar:
    for i in range(3000):
        bar.update()
        bar.refresh()
        console.say(f"line {i}")
        console.complain(f"error {i}")
open(sys.argv[1], "w").write("came to its end")
console.finish()
"""


def talk(tmp_path, **streams) -> tuple[int, str]:
    """How a process ends that prints more than a pipe holds, and what it did."""
    done = tmp_path / "done"
    command = [sys.executable, "-c", TALK, str(done)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = subprocess.run(command, env=environment, timeout=60, check=False, **streams).returncode
    return code, done.read_text()


def gone_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def hung_up_terminal() -> int:
    controller, terminal = os.openpty()
    os.close(controller)
    return terminal


def full_disk() -> int:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is not there")
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.skipif(os.name == "nt", reason="no such streams on Windows")
@pytest.mark.parametrize("make", [gone_pipe, hung_up_terminal, full_disk])
def test_a_process_ends_well_without_its_reader(tmp_path, make):
    out, errors = make(), make()
    try:
        assert talk(tmp_path, stdout=out, stderr=errors) == (0, "came to its end")
    finally:
        os.close(out)
        os.close(errors)


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_a_process_without_streams_writes_into_no_file(tmp_path):
    """What is opened next would else get descriptor 1, and what C code prints."""
    code = (
        "import os, sys; from relaydet.console import hold_descriptors, say; hold_descriptors();"
        f"file = open({str(tmp_path / 'done')!r}, 'wb'); say('x'); os.write(1, b'y'); file.close()"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command],
        env=environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert (tmp_path / "done").read_bytes() == b""


def stuck_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    return writer, reader


def stuck_terminal() -> tuple[int, int]:
    controller, terminal = os.openpty()
    return terminal, controller


@pytest.mark.skipif(os.name == "nt", reason="no such streams on Windows")
@pytest.mark.parametrize("make", [stuck_pipe, stuck_terminal])
def test_a_process_does_not_wait_for_a_reader_that_stands_still(tmp_path, make):
    """Ctrl-S, or an ssh whose network is gone: what is printed is lost, and the job goes on."""
    ours, never_read = make()
    try:
        assert talk(tmp_path, stdout=ours, stderr=ours) == (0, "came to its end")
    finally:
        os.close(ours)
        os.close(never_read)
