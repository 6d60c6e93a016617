"""Ranks that train together, as processes of their own over gloo."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from relaydet.config import MergeConfig
from relaydet.data.demo import write_demo
from relaydet.errors import RankLostError, RelayError
from relaydet.jobs.merge import merge
from relaydet.training import meeting as module
from relaydet.training.meeting import is_rank, joined
from relaydet.training.team import Team, await_sums, choose_ranks

SCRIPT = Path(__file__).with_name("on_ranks.py")
SECONDS = 150


def on_ranks(ranks: int, job: str, folder: Path, *arguments: int) -> list[dict]:
    """What each rank found."""
    for old in folder.glob(f"{job}-*.json"):
        old.unlink()
    command = [sys.executable, *([] if ranks == 1 else torchrun(ranks)), str(SCRIPT), job]
    done = subprocess.run(
        [*command, str(folder), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    found = sorted(folder.glob(f"{job}-*.json"))
    assert found, done.stderr
    return [json.loads(path.read_text()) for path in found]


def torchrun(ranks: int) -> list[str]:
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]


def test_a_team_of_one_has_nobody_to_ask():
    alone = Team()
    assert alone.leads
    assert alone.share_first(lambda: 7) == 7
    assert alone.gather(3) == [3]
    assert (alone.any(True), alone.any(False)) == (True, False)
    assert alone.largest([1, 2]) == alone.total([1, 2]) == [1, 2]
    assert (alone.why_stop("tired"), alone.why_stop(None)) == ("tired", None)


def test_what_ranks_say_to_each_other(tmp_path):
    found = on_ranks(3, "words", tmp_path)
    assert len(found) == 3
    for rank in found:
        assert rank["first"] == "made on 0"
        assert rank["all"] == [0, 10, 20]
        assert rank["any"] == [True, False]
        assert rank["largest"] == [2, 0]
        assert rank["total"] == [3, 3]
        *vectors, convolution = rank["gradients"]
        assert vectors == [[6.0] * 3, [101.0] * 4], "none counts as zero"
        assert convolution == [3.0 * number for number in range(24)], "whatever its layout"
        assert rank["stop"] == ["tired"]


class NoStore:
    """Of a torchrun that was killed."""

    def __getattr__(self, _name: str) -> Any:
        raise RuntimeError("Broken pipe")


def test_where_the_store_is_gone_the_others_count_as_lost_and_a_failure_is_told_no_more():
    team = Team(ranks=2, store=NoStore())
    with pytest.raises(RankLostError, match=r"cannot be reached .Broken pipe"):
        team.why_stop("torchrun is gone")
    team.tell_failure("the image is broken")


class Sum:
    """A sum on a GPU that is there after being looked at so many times."""

    def __init__(self, looks: float) -> None:
        self.looks = looks

    def is_completed(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def test_sums_on_gpus_are_waited_for_so_long():
    sums = [Sum(0), Sum(3)]
    await_sums(sums, 60)
    assert all(one.looks < 0 for one in sums)
    with pytest.raises(RuntimeError, match=r"no sum of the gradients within 0\.01 s"):
        await_sums([Sum(0), Sum(math.inf)], 0.01)


@pytest.mark.parametrize(
    ("job", "message", "told"),
    [
        ("mistake", r"^Rank 1: the image is broken; mend it\.$", True),
        pytest.param(
            *("death", r"^Rank 1 does not answer any more \(", False), marks=pytest.mark.slow
        ),
        pytest.param(
            *("silence", r"^Rank 1 does not answer any more \(.*[Tt]imed out", False),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_rank_that_is_lost_is_named(tmp_path, job, message, told):
    first, other = on_ranks(3, job, tmp_path)
    assert re.search(message, first["lost"]), first
    assert first["told"] == told
    assert other["lost"], "it may be left alone by the first one meanwhile"
    assert max(first["seconds"], other["seconds"]) < 15, "0.1 minutes were given"


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    """A folder with 18 images of two sizes, and what one process makes of six steps."""
    folder = tmp_path_factory.mktemp("ranks")
    street, search, _ = write_demo(folder / "scenes", sizes=(11, 7, 1))
    store = str(folder / "store")
    merge(MergeConfig("few", (street, search), ("person",), store), say=lambda _line: None)
    (found,) = on_ranks(1, "train", folder)
    return folder, found["losses"], weights(folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "state.pt", weights_only=True)["model"]


def same_training(losses: list[float], others: list[float]) -> bool:
    """But for the order of sums, whose small differences AdamW makes larger from step to step."""
    return losses[0] == pytest.approx(others[0], rel=1e-5) and losses == pytest.approx(
        others, rel=1e-2
    )


def test_three_ranks_train_what_one_trains(one_rank):
    """Batches of 8, 8 and 2 images: shares of 3, 3, 2, and one rank without any."""
    folder, losses, alone = one_rank
    found = on_ranks(3, "train", folder)
    assert [rank["losses"] for rank in found] == [found[0]["losses"]] * 3, "all see the same"
    assert same_training(found[0]["losses"], losses)
    together = weights(folder)
    for name, tensor in alone.items():
        assert torch.allclose(together[name], tensor, atol=2e-3), name


@pytest.mark.slow
def test_the_first_loss_is_within_one_per_cent_whatever_shares_a_forward_pass(one_rank):
    """torchvision's losses are means over what was sampled, not over images."""
    folder, losses, _ = one_rank
    found = on_ranks(2, "train", folder, 0, 1, -1, 4)
    assert found[0]["losses"] == pytest.approx(losses[:1], rel=1e-2)


def test_memory_that_runs_out_on_one_rank_halves_all_and_repeats_the_step(one_rank):
    folder, losses, _ = one_rank
    found = on_ranks(2, "train", folder, 0, 6, 1, 2)
    assert [rank["micro_batch"] for rank in found] == [1, 1]
    assert all("at a time" in rank["said"][0] for rank in found), "both say so; one is shown"
    assert same_training(found[0]["losses"], losses)


@pytest.mark.slow
def test_the_number_of_ranks_may_change_from_step_to_step(one_rank):
    folder, losses, alone = one_rank
    legs = [(1, 0, 1), (2, 1, 3), (4, 3, 4), (3, 4, 5), (1, 5, 6)]
    relay = [on_ranks(ranks, "train", folder, *steps)[0]["losses"] for ranks, *steps in legs]
    assert same_training([loss for leg in relay for loss in leg], losses)
    for name, tensor in weights(folder).items():
        assert torch.allclose(alone[name], tensor, atol=2e-3), name


@pytest.mark.parametrize(
    ("asked", "device", "gpus", "batch", "ranks"),
    [
        ("auto", "auto", 0, 8, 1),
        ("auto", "auto", 1, 8, 1),
        ("auto", "auto", 2, 8, 2),
        ("auto", "cuda", 8, 4, 4),
        ("auto", "cpu", 2, 8, 1),
        ("auto", "cuda:1", 2, 8, 1),
        (1, "auto", 2, 8, 1),
        (2, "auto", 2, 8, 2),
        (3, "cpu", 0, 8, 3),
        (1, "auto", 0, 8, 1),
    ],
)
def test_how_many_ranks(asked, device, gpus, batch, ranks):
    assert choose_ranks(asked, device, gpus, batch)[0] == ranks


@pytest.mark.parametrize(
    ("asked", "device", "gpus", "batch", "message"),
    [
        (3, "auto", 2, 8, "GPUS 3: torch can drive 2 here"),
        (2, "auto", 0, 8, "GPUS 2: torch can drive 0 here.*DEVICE to cpu"),
        (0, "auto", 2, 8, "GPUS 0: take auto, or 1"),
        (-1, "cpu", 0, 8, "GPUS -1"),
        (3, "cpu", 0, 2, "BATCH_SIZE 2: is smaller than the 3 ranks"),
    ],
)
def test_numbers_of_ranks_that_make_no_sense(asked, device, gpus, batch, message):
    with pytest.raises(RelayError, match=message):
        choose_ranks(asked, device, gpus, batch)


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"WORLD_SIZE": "1", "MASTER_ADDR": "here"}, False),
        ({"WORLD_SIZE": "2"}, False),  # of some other program
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "here"}, True),
    ],
)
def test_torchrun_is_known_by_its_variables(environment, several):
    assert is_rank(environment) == several


def test_ranks_that_never_come_are_named(monkeypatch):
    store = torch.distributed.HashStore()
    store.set("hello/2", "of an attempt that failed")
    store.add("hello/2#", 1)
    monkeypatch.setattr(module, "JOIN_SECONDS", 1.0)
    monkeypatch.setattr(module.dist, "rendezvous", lambda *_, **__: iter([(store, 0, 3)]))
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "RANK": "0", "WORLD_SIZE": "3"}
    with (
        pytest.raises(
            RelayError, match=r"The 3 ranks could not meet at .*\(rank 1, 2 did not come"
        ),
        joined(1.0, environment),
    ):
        pass


def test_a_port_that_is_taken(monkeypatch):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0"}
        for name, value in {**environment, "WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        meeting = pytest.raises(RelayError, match=f"could not meet at 127.0.0.1:{port}.*nothing")
        with meeting, joined(1.0):
            pass
