"""Which processes are known to be dead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from relaydet.runtime.machine import Process, is_dead, this_process

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
TELL = (
    "import json, dataclasses, sys; from relaydet.runtime.machine import this_process;"
    "print(json.dumps(dataclasses.asdict(this_process())), flush=True); sys.stdin.read()"
)


@pytest.fixture
def child():
    """Another process that lives until its input ends, and how it calls itself."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", TELL], **pipes) as running:
        yield running, Process(**json.loads(running.stdout.readline()))
        running.kill()


def wait_until(met) -> None:
    end = time.monotonic() + 10
    while not met():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_this_process_is_alive():
    assert this_process().pid == os.getpid()
    assert this_process() == this_process()
    assert not is_dead(this_process())


def test_another_process_is_alive_until_it_ends(child):
    running, process = child
    assert process == replace(this_process(), pid=running.pid, born=process.born)
    assert not is_dead(process)
    running.stdin.close()
    running.wait(timeout=10)
    assert is_dead(process)


def test_a_process_that_nobody_has_buried_is_dead(child):
    running, process = child
    running.stdin.close()
    status = Path(f"/proc/{running.pid}/stat")
    wait_until(lambda: ") Z " in status.read_text())
    assert is_dead(process)


def test_a_process_whose_number_another_has_is_dead():
    assert is_dead(replace(this_process(), born="1"))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"machine": "elsewhere/1/2"}, id="another machine"),
        pytest.param({"born": ""}, id="a system that does not tell"),
        pytest.param({"machine": "", "pid": 0, "born": ""}, id="nothing known"),
    ],
)
def test_of_others_nothing_can_be_told(child, changes):
    running, process = child
    running.kill()
    running.wait(timeout=10)
    assert is_dead(process)
    assert not is_dead(replace(process, **changes))


@pytest.mark.parametrize("name", ["a) Z (b", "with space", ")))"])
def test_a_process_may_have_any_name(name):
    code = f"open('/proc/self/comm', 'w').write({name!r});" + TELL
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as running:
        process = Process(**json.loads(running.stdout.readline()))
        assert f"({name})" in Path(f"/proc/{running.pid}/stat").read_text()
        assert not is_dead(process)
        running.stdin.close()
        running.wait(timeout=10)
    assert is_dead(process)


def test_all_fields_are_told():
    assert all(asdict(this_process()).values())
