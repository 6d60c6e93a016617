"""Training where a container gives little: almost no shared memory, a long temporary folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import relaydet


def may_mount() -> bool:
    """Whether a process may have mounts of its own here, and unmount nothing of ours."""
    if shutil.which("unshare") is None:
        return False
    tried = ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


def train_in(store: Path, run: str, before: str, workers: int, **environment: str) -> str:
    """Hash of the weights of a run that was trained in a shell of its own, after some commands."""
    flags = f"--run {run} --dataset tiny --store {store} --model small --epochs 1 --batch-size 4"
    flags += f" --image-size 64 --device cpu --precision float32 --workers {workers}"
    done = subprocess.run(
        [
            "unshare",
            "-m",
            "sh",
            "-ec",
            f"{before}; exec {sys.executable} -m relaydet train {flags}",
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(relaydet.__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No space left" not in done.stderr
    assert "AF_UNIX" not in done.stderr
    return json.loads((store / "runs" / run / "model.json").read_bytes())["sha256"]


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="this user may not mount (unshare -m, tmpfs)")
def test_little_shared_memory_and_a_long_temporary_folder_change_no_bit(tiny_store, tmp_path):
    long = tmp_path / ("t" * 120)
    long.mkdir()
    expected = train_in(tiny_store, "roomy", "true", 1)
    tiny = "mount -t tmpfs -o size=8k tmpfs /dev/shm"
    assert train_in(tiny_store, "cramped", tiny, 2, TMPDIR=str(long)) == expected
