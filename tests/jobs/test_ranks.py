"""Runs that several processes train together: stopped, killed, hung, moved, and not lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import relaydet
from relaydet.config import TrainConfig
from relaydet.errors import LeaseLostError, RankLostError, StoreError
from relaydet.jobs import train as module
from relaydet.jobs.train import train

SECONDS = 120
PACKAGE = str(Path(relaydet.__file__).parents[1])
"""The folder that sessions import from, wherever they are started."""
TOTAL = 15

pytestmark = pytest.mark.skipif(
    not hasattr(os, "killpg"), reason="ranks are killed here as POSIX systems do it"
)


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store


@pytest.fixture
def start(store, tmp_path):
    """Starts `relaydet train`; whatever is left of it is killed afterwards."""
    started = []

    def make(
        run: str,
        *flags: str,
        store: Path = store,
        under=(),
        inside=(),
        folder: Path | None = None,
        **environment: str,
    ) -> subprocess.Popen:
        command = [
            *(*inside, sys.executable, *(under or ["-m"]), "relaydet", "train", "--run", run),
            *("--dataset", "tiny", "--store", str(store), "--model", "small", "--epochs", "3"),
            *("--batch-size", "4", "--image-size", "64", "--device", "cpu", "--workers", "0"),
            *("--precision", "float32", "--checkpoint-minutes", "1e-6", *flags),
        ]
        started.append(
            subprocess.Popen(
                command,
                env={
                    **os.environ,
                    "PYTHONPATH": PACKAGE,
                    "RELAYDET_CACHE": str(tmp_path),
                    "OMP_NUM_THREADS": "1",
                    # Else torchrun has the ranks' store, and no machine can be replaced.
                    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
                    **environment,
                },
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield make
    for pid in [pid for _, pid in processes(tmp_path)]:
        kill(pid, signal.SIGKILL)
    for process in started:
        kill(process.pid, signal.SIGKILL)
        process.communicate()


def kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def processes(cache: Path) -> list[tuple[int, int]]:
    """Rank and process id of every rank that was launched, in order."""
    files = cache.glob("ranks/*/events.jsonl")
    events = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    told = [event["started"] for event in events if "started" in event]
    return [(one["rank"], one["pid"]) for one in told]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about in time"
        time.sleep(0.05)


def read(store: Path, run: str, file: str) -> dict:
    path = store / "runs" / run / file
    return msgspec.json.decode(path.read_bytes()) if path.exists() else {}


def is_at(store: Path, run: str, step: int) -> Callable[[], bool]:
    return lambda: read(store, run, "status.json").get("step", 0) >= step


def start_and_see_steps(start: Any, store: Path, run: str, *flags: str) -> subprocess.Popen:
    """A session that has taken steps of its own: one before may have come as far as it likes."""
    before = read(store, run, "status.json").get("step", 0)
    process = start(run, *flags)
    wait_for(is_at(store, run, before + 2))
    return process


def output_of(process: subprocess.Popen) -> str:
    return process.communicate(timeout=SECONDS)[0]


@pytest.fixture(scope="module")
def unbroken(store, tmp_path_factory):
    """Hash of the weights of two ranks that were never interrupted."""
    cache = tmp_path_factory.mktemp("cache")
    command = [
        *(sys.executable, "-m", "relaydet", "train", "--run", "unbroken", "--dataset", "tiny"),
        *("--store", str(store), "--model", "small", "--epochs", "3", "--batch-size", "4"),
        *("--image-size", "64", "--device", "cpu", "--workers", "0", "--gpus", "2"),
        *("--precision", "float32"),
    ]
    environment = {**os.environ, "RELAYDET_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=SECONDS)
    assert not list(cache.glob("ranks/*")), "a channel is removed at the end"
    return read(store, "unbroken", "model.json")["sha256"]


def test_ctrl_c_pauses_all_ranks_and_the_next_call_ends_with_the_same_bits(store, start, unbroken):
    first = start("stopped", "--gpus", "2")
    wait_for(is_at(store, "stopped", 3))
    first.send_signal(signal.SIGINT)
    output = output_of(first)
    assert first.returncode == 0, output
    assert "(stopped by SIGINT). Run it again to go on" in output
    status = read(store, "stopped", "status.json")
    assert (status["state"], status["reason"]) == ("paused", "stopped by SIGINT")
    second = start("stopped", "--gpus", "2")
    output = output_of(second)
    assert f"resuming at step {status['step']} of {TOTAL}" in output
    assert read(store, "stopped", "model.json")["sha256"] == unbroken


def test_when_the_launching_program_is_killed_the_ranks_save_and_none_is_left(
    store, start, tmp_path
):
    process = start("orphans", "--gpus", "2", "--epochs", "50")
    wait_for(is_at(store, "orphans", 3))
    process.kill()
    pids = [pid for _, pid in processes(tmp_path)]
    assert len(pids) == 2
    wait_for(lambda: not any(map(is_alive, pids)), 30)
    status = read(store, "orphans", "status.json")
    assert (status["state"], status["reason"]) == (
        "paused",
        "the program that launched it is gone",
    )
    assert read(store, "orphans", f"checkpoints/step-{status['step']:08d}.json")


@pytest.mark.slow
def test_when_a_torchrun_is_killed_its_ranks_save_and_none_is_left(store, start):
    under = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--")
    process = start("agentless", "--epochs", "50", under=under)
    wait_for(is_at(store, "agentless", 3))
    pids = children(process.pid)
    assert len(pids) == 2
    process.kill()
    wait_for(lambda: not any(map(is_alive, pids)), 60)
    status = read(store, "agentless", "status.json")
    assert (status["state"], status["reason"]) == (
        "paused",
        "the program that launched it is gone",
    )
    assert read(store, "agentless", f"checkpoints/step-{status['step']:08d}.json")


def script() -> tuple[str, str]:
    """Start as an installed `relaydet` does: without the current folder on its path."""
    code = "import sys; sys.path[:1] = filter(None, sys.path[:1]); from relaydet.cli import main; "
    return "-c", f"{code} sys.exit(main(sys.argv[2:]))"


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="sockets are listed in /proc")
def test_ranks_listen_on_loopback_alone_and_import_nothing_of_the_current_folder(
    store, start, tmp_path
):
    folder = tmp_path / "current"
    folder.mkdir()
    for name in ("queue", "socket", "secrets", "relaydet"):
        (folder / f"{name}.py").write_text("raise SystemExit('a file of the user ran')\n")
    foreign = {"GLOO_SOCKET_IFNAME": "eth0", "MASTER_ADDR": "a.b.example", "MASTER_PORT": "x"}
    flags = ("--gpus", "2", "--epochs", "50")
    process = start("alone", *flags, under=script(), folder=folder, **foreign)
    wait_for(lambda: is_at(store, "alone", 3)() or process.poll() is not None)
    assert process.poll() is None, output_of(process)
    pids = [pid for _, pid in processes(tmp_path)]
    heard = {address for pid in [process.pid, *pids] for address in listening(pid)}
    process.send_signal(signal.SIGHUP)  # as where the connection to a machine is lost
    output = output_of(process)
    assert process.returncode == 0, output
    assert len(pids) == 2
    assert heard <= {"127.0.0.1", "::1"}, heard
    assert not any(map(is_alive, pids))
    status = read(store, "alone", "status.json")
    assert (status["state"], status["reason"]) == ("paused", "stopped by SIGHUP")


def listening(pid: int) -> list[str]:
    """Addresses that a process listens on, as the kernel lists them."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(str(link.readlink()))
    found = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                raw = bytes.fromhex(fields[1].partition(":")[0])
                words = [raw[at : at + 4][::-1] for at in range(0, len(raw), 4)]
                found.append(socket.inet_ntop(family, b"".join(words)))
    return found


def test_a_stop_before_the_first_step_ends_all_ranks(store, start, tmp_path):
    process = start("early", "--gpus", "2")
    wait_for(lambda: list(tmp_path.glob("ranks/early-*/output-1.log")))
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output = output_of(process)
    assert time.monotonic() - asked < 60, "10 s, and what a loaded machine makes of it"
    assert process.returncode in (0, 2), output
    if process.returncode == 2:  # where it was so quick as to begin, it pauses
        assert "It was stopped by SIGTERM before the first step; run again to start." in output
    assert "Traceback" not in output
    assert not any(is_alive(pid) for _, pid in processes(tmp_path))


def unshared(*steps: str) -> tuple[str, ...]:
    """Run in a machine of one's own as far as names, network and mounts go."""
    program = ("unshare", "--uts", "--net", "--mount", "--propagation", "private")
    if not shutil.which("unshare") or subprocess.run([*program, "true"]).returncode:
        pytest.skip("unshare is not permitted here")
    if not shutil.which("ip") or not shutil.which("hostname"):
        pytest.skip("ip or hostname is not installed here")
    steps = ("hostname not-in-etc-hosts.example", "ip link set lo up", *steps)
    return (*program, "sh", "-c", f'{" && ".join(steps)} && exec "$@"', "sh")


@pytest.mark.slow
def test_ranks_need_no_network_and_no_host_name(store, start, unbroken):
    process = start("unnamed", "--gpus", "2", inside=unshared())
    output = output_of(process)
    assert process.returncode == 0, output
    assert read(store, "unnamed", "model.json")["sha256"] == unbroken


@pytest.mark.slow
def test_two_ranks_in_a_bare_container(tmp_path, store):
    """64 MB of shared memory, no HOME, no name, a folder that cannot be written to."""
    bare = tmp_path / "bare"
    bare.mkdir()
    inside = unshared(
        "mount -t tmpfs -o size=64m shm /dev/shm",
        f"mount -t tmpfs -o ro none {bare}",
        f"cd {bare}",
        "unset HOME",
    )
    command = [
        *(*inside, sys.executable, *script(), "relaydet", "train", "--run", "bare"),
        *("--dataset", "tiny", "--store", str(store), "--model", "small", "--epochs", "2"),
        *("--batch-size", "4", "--image-size", "64", "--device", "cpu", "--workers", "1"),
        *("--gpus", "2"),
    ]
    environment = {n: v for n, v in os.environ.items() if n not in ("HOME", "RELAYDET_CACHE")}
    environment |= {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": PACKAGE}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=2 * SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert read(store, "bare", "status.json")["state"] == "done"


@pytest.mark.parametrize("trouble", [StoreError("away"), LeaseLostError("taken over")])
def test_why_a_run_stopped_is_told_where_its_status_cannot_be_mended(monkeypatch, store, trouble):
    def lost(*_arguments: Any) -> dict:
        raise RankLostError("Rank 1 died of SIGKILL")

    def fails(*_arguments: Any, **_named: Any) -> None:
        raise trouble

    monkeypatch.setattr(module, "launch", lost)
    monkeypatch.setattr(module, "acquire", fails)
    with pytest.raises(RankLostError, match=r"^Rank 1 died of SIGKILL$"):
        train(TrainConfig("x", "tiny", store=str(store), device="cpu", gpus=2), lambda _line: None)


def test_a_rank_that_dies_is_named_and_no_step_is_lost(store, start, tmp_path):
    process = start("dies", "--gpus", "2", "--epochs", "50")
    wait_for(is_at(store, "dies", 3))
    kill(dict(processes(tmp_path))[1], signal.SIGKILL)
    output = output_of(process)
    assert process.returncode == 2
    assert "relaydet: Rank 1 died of SIGKILL; " in output
    assert "Traceback" not in output
    status = read(store, "dies", "status.json")
    assert status["state"] == "paused"
    assert re.match(r"Rank 1 does not answer any more \(", status["reason"])
    assert read(store, "dies", f"checkpoints/step-{status['step']:08d}.json")
    assert not any(is_alive(pid) for _, pid in processes(tmp_path))


@pytest.mark.slow
def test_all_start_again_where_one_died(store, start, unbroken, tmp_path):
    process = start("again", "--gpus", "2", "--max-restarts", "1")
    wait_for(is_at(store, "again", 3))
    kill(dict(processes(tmp_path))[0], signal.SIGKILL)
    output = output_of(process)
    assert process.returncode == 0, output
    assert "all ranks start again (restart 1)" in output
    assert "Run 'again' is done" in output
    assert read(store, "again", "model.json")["sha256"] == unbroken


@pytest.mark.slow
def test_a_rank_that_hangs_counts_as_lost(store, start, tmp_path):
    process = start("hangs", "--gpus", "2", "--epochs", "50", "--answer-minutes", "0.1")
    wait_for(is_at(store, "hangs", 3))
    os.kill(dict(processes(tmp_path))[1], signal.SIGSTOP)
    output = output_of(process)
    assert process.returncode == 2
    assert "Rank 1" in output
    status = read(store, "hangs", "status.json")
    assert status["state"] == "paused"
    assert "imed out" in status["reason"]
    assert not any(is_alive(pid) for _, pid in processes(tmp_path))


@pytest.mark.slow
def test_a_second_ctrl_c_ends_all_at_once(store, start, tmp_path):
    process = start("twice", "--gpus", "2", "--epochs", "50")
    wait_for(is_at(store, "twice", 3))
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output_of(process)
    assert not any(is_alive(pid) for _, pid in processes(tmp_path))
    assert read(store, "twice", "status.json")["state"] == "paused"


@pytest.mark.slow
def test_an_image_that_one_rank_cannot_read(store, start, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(store / "datasets", own / "datasets")
    merged = json.loads((own / "datasets/tiny/annotations.json").read_text())
    sources = {name: tmp_path / name for name in merged["info"]["sources"]}
    for name, folder in sources.items():
        shutil.copytree(Path(images_of(merged, name)), folder)
    broken = merged["images"][7]["file_name"]
    source, name = broken.split("/", 1)
    (sources[source] / name).write_bytes(b"no image")
    flags = [f"{name}={folder}" for name, folder in sources.items()]
    process = start("broken", "--gpus", "2", "--images", *flags, store=own)
    output = output_of(process)
    assert process.returncode == 2
    assert broken in output
    assert "Traceback" not in output


def images_of(merged: dict, source: str) -> str:
    return merged["info"]["sources"][source]["images"]


@pytest.mark.slow
def test_one_run_on_one_two_and_three_ranks_and_back(store, start):
    for ranks in (1, 2, 3):
        process = start_and_see_steps(start, store, "relay", "--gpus", str(ranks))
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0, output_of(process)
    output = output_of(start("relay", "--gpus", "1"))
    assert re.search(r"ranks: 3 until now, 1 from here on; the samples stay the same", output)
    lines = (store / "runs/relay/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, TOTAL + 1))
    assert read(store, "relay", "status.json")["state"] == "done"


@pytest.mark.gpu
def test_a_run_moves_from_a_cpu_to_a_gpu_and_back(store, start):
    for device in ("cpu", "cuda"):
        process = start_and_see_steps(start, store, "moves", "--device", device)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0, output_of(process)
    output = output_of(start("moves"))
    assert re.search(r"device: \S.* until now, CPU, 1 threads from here on", output)
    lines = [json.loads(t) for t in (store / "runs/moves/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, TOTAL + 1))
    assert all(line["loss"] < 10 for line in lines)


@pytest.mark.gpu
@pytest.mark.parametrize("flags", [(), ("--sync-batch-norm",)], ids=["", "batch norms in step"])
def test_two_gpus(store, start, flags):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    process = start(f"two{len(flags)}", "--device", "cuda", "--gpus", "2", *flags)
    output = output_of(process)
    assert process.returncode == 0, output
    assert "ranks: 2 on this machine" in output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--gpus", "5"), "BATCH_SIZE 4: is smaller than the 5 ranks"),
        pytest.param(
            ("--gpus", "2", "--dataset", "none"),
            r"\S*: there is no dataset 'none'",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--gpus", "2", "--answer-minutes", "0"),
            r"ANSWER_MINUTES: 0.0 makes no sense",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_mistakes(start, flags, message):
    process = start("mistakes", *flags)
    output = output_of(process)
    assert process.returncode == 2
    assert re.search(f"relaydet: {message}", output)
    assert "Traceback" not in output


def agent(port: int, *flags: str) -> tuple[str, ...]:
    """torchrun of one of two machines."""
    return (
        *("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--rdzv-backend", "c10d", "--rdzv-id", "test", "--max-restarts", "3"),
        # Without the two dashes torchrun takes --run for a flag of its own.
        *("--rdzv-endpoint", f"localhost:{port}", *flags, "-m", "--"),
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def children(pid: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    )
    return [int(line) for line in listed.stdout.split()]


@pytest.mark.slow
def test_two_machines_and_one_is_lost_and_replaced(store, start):
    port = free_port()
    host, guest = (agent(port, "--rdzv-conf", f"is_host={value}") for value in (1, 0))
    first, second = (start("machines", "--epochs", "50", under=under) for under in (host, guest))
    wait_for(is_at(store, "machines", 3))
    for pid in [second.pid, *children(second.pid)]:
        kill(pid, signal.SIGKILL)
    wait_for(lambda: read(store, "machines", "status.json")["state"] == "paused")
    lost_at = read(store, "machines", "status.json")["step"]
    third = start("machines", "--epochs", "50", under=guest)
    wait_for(is_at(store, "machines", lost_at + 3))
    for pid in children(third.pid):
        os.kill(pid, signal.SIGTERM)  # as a machine that is about to be taken does
    for process in (first, third):
        output_of(process)
    status = read(store, "machines", "status.json")
    assert (status["state"], status["reason"]) == ("paused", "stopped by SIGTERM")
    assert status["step"] > lost_at


@pytest.mark.slow
def test_a_machine_with_another_dataset_is_named(store, start, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(store / "datasets", other / "datasets")
    file = other / "datasets/tiny/annotations.json"
    file.write_bytes(file.read_bytes() + b"\n")
    under = agent(free_port(), "--max-restarts", "0")
    machines = [start("hashes", under=under, store=place) for place in (store, other)]
    outputs = [output_of(machine) for machine in machines]
    assert any(re.search(r"Rank 1 on \S+ differs in the dataset", output) for output in outputs), (
        outputs
    )


@pytest.mark.slow
def test_a_store_that_one_machine_cannot_reach(store, start, tmp_path):
    under = agent(free_port(), "--max-restarts", "0")
    machines = [start("reach", under=under, store=place) for place in (store, tmp_path / "none")]
    outputs = [output_of(machine) for machine in machines]
    assert all("there is no dataset 'tiny'" in output for output in outputs)
