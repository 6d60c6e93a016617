"""The time per batch: measured here, kept with what was measured elsewhere, told as a table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from relaydet.config import BenchConfig
from relaydet.errors import RelayError
from relaydet.jobs.bench import FILE, bench, speed_table
from relaydet.viewing.speed_chart import speed_chart


def quiet(_line: str) -> None:
    pass


def line(gpu: str = "Tesla T4", gpus: int = 1, batch_size: int = 8, **changes) -> dict:
    """A line of speed.jsonl."""
    seconds = changes.pop("seconds", 2.0)
    return {
        "gpu": gpu,
        "gpus": gpus,
        "machines": 1,
        "model": "resnet50_fpn",
        "image_size": 800,
        "batch_size": batch_size,
        "precision": "float16",
        "seconds_per_batch": seconds,
        "quartiles": [seconds - 0.1, seconds + 0.2],
        "data_seconds": 0.01,
        "images_per_second": batch_size / seconds,
        "peak_memory": 6_100_000_000,
        "price_per_hour": None,
        **changes,
    }


@pytest.fixture
def config(tmp_path):
    return BenchConfig(
        batch_sizes=(1, 2),
        model="small",
        image_size=64,
        steps=2,
        store=str(tmp_path),
        device="cpu",
        workers=0,
    )


def test_what_is_measured_is_added_to_what_is_there(config, tmp_path):
    file = tmp_path / FILE
    file.parent.mkdir()
    file.write_text(json.dumps(line()) + "\n")
    result = bench(config, say=quiet)
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    assert lines == result.all_rows
    assert lines[0] == line()
    assert [row["batch_size"] for row in lines[1:]] == [1, 2]
    for row in lines[1:]:
        low, high = row["quartiles"]
        assert 0 < low <= row["seconds_per_batch"] <= high
        assert 0 <= row["data_seconds"] < high
        assert row["images_per_second"] == pytest.approx(
            row["batch_size"] / row["seconds_per_batch"]
        )
        assert (row["gpus"], row["steps"], row["model"]) == (1, 2, "small")
        assert row["peak_memory"] is None, "a CPU's is not told"
        assert {"torch", "runtime", "date", "precision", "relaydet"} <= set(row)
    assert result.pictures["speed"].png.startswith(b"\x89PNG")
    assert str(result).endswith(f"All measurements are in {file}")


def test_the_table_tells_what_the_study_would_take_and_cost():
    rows = [
        line(seconds=2.0, price_per_hour=0.35),
        line(batch_size=16, seconds=3.6),
        line(gpus=2, seconds=9.0),
        line(gpus=2, seconds=1.0),
    ]
    head, t4, t4_16, two = (text.split("  ") for text in speed_table(rows).splitlines())
    assert "12 epochs of 82,299" in "  ".join(head)
    # 12 x 82,299 images at 4 a second are 68.6 hours.
    assert t4[0] == "Tesla T4"
    assert "68 h 35 min" in map(str.strip, t4)
    assert "24.00" in map(str.strip, t4)
    assert "1.80" in map(str.strip, t4_16), "twice the batch takes 1.8 times as long"
    assert two[0] == "Tesla T4 x2"
    assert "1.000" in map(str.strip, two), "the last of several"


def test_the_plain_way_is_a_row_of_its_own():
    _, quick, plain = speed_table([line(), line(plain=True, seconds=9.0)]).splitlines()
    assert "plain" not in quick
    assert "float16, plain" in plain
    assert "9.000" in plain


@pytest.mark.parametrize("rows", [[], [line()], [line(gpu="$_name" * 20), line(gpus=8)]])
def test_a_chart_of_any_number_of_machines(rows):
    assert speed_chart(rows).size == (1000, 420)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": ()}, "BATCH_SIZES and STEPS"),
        ({"batch_sizes": (0,)}, "BATCH_SIZES and STEPS"),
        ({"steps": 1}, "BATCH_SIZES and STEPS"),
        ({"dataset": "none"}, "there is no dataset 'none'"),
        ({"model": "resnet"}, "there is no model 'resnet'"),
        ({"gpus": 2}, "BATCH_SIZE 1: is smaller than the 2 ranks"),
    ],
)
def test_mistakes(config, changes, message):
    with pytest.raises(RelayError, match=message):
        bench(replace(config, **changes), say=quiet)


def test_a_damaged_file_is_named_and_left_alone(config, tmp_path):
    file = tmp_path / FILE
    file.parent.mkdir()
    file.write_text(json.dumps(line()) + "\nhalf a li\n")
    before = file.read_bytes()
    with pytest.raises(RelayError, match=r"speed\.jsonl, line 2: damaged"):
        bench(config, say=quiet)
    assert file.read_bytes() == before


@pytest.mark.slow
def test_two_ranks_are_one_row(config):
    result = bench(replace(config, batch_sizes=(2,), gpus=2), say=quiet)
    (row,) = result.rows
    assert (row["gpus"], row["micro_batch"]) == (2, 1)


@pytest.mark.slow
def test_ranks_that_were_started_by_hand_are_one_row_as_well(config, tmp_path):
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "--", "relaydet", "bench", "--batch-sizes", "2", "--device", "cpu"),
        *("--store", str(tmp_path), "--model", "small", "--image-size", "64", "--steps", "2"),
        *("--workers", "0"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    (row,) = map(json.loads, (tmp_path / FILE).read_text().splitlines())
    assert row["gpus"] == 2
    assert done.stdout.count("All measurements are in") == 1
