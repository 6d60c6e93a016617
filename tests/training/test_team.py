"""Ranks that train together, as processes of their own over gloo."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import torch

from relaydet.config import MergeConfig, TrainConfig
from relaydet.data.demo import write_demo
from relaydet.errors import RankLostError, RelayError
from relaydet.jobs.merge import merge
from relaydet.runtime.limits import Deadline
from relaydet.runtime.stop import StopRequest
from relaydet.training import meeting as module
from relaydet.training import team as team_module
from relaydet.training.meeting import is_rank, joined
from relaydet.training.members import share_plan
from relaydet.training.notes import Counts
from relaydet.training.team import Team, _decoded, await_sums, choose_ranks

SCRIPT = Path(__file__).with_name("on_ranks.py")
SECONDS = 300


def on_ranks(
    ranks: int, job: str, folder: Path, *arguments: int, by_torchrun: bool = False
) -> list[dict]:
    """What each rank found."""
    for old in folder.glob(f"{job}-*.json"):
        old.unlink()
    meeting = folder / f"meeting-{uuid4().hex}"
    script = (str(SCRIPT), job, str(folder), *map(str, arguments))
    processes = [
        subprocess.Popen(
            [sys.executable, *(torchrun(ranks) if by_torchrun else ()), *script],
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for variables in ([{}] if by_torchrun or ranks == 1 else met_over(meeting, ranks))
    ]
    try:
        outputs = [process.communicate(timeout=SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    found = sorted(folder.glob(f"{job}-*.json"))
    assert found, outputs
    return [json.loads(path.read_text()) for path in found]


def met_over(file: Path, ranks: int) -> list[dict[str, str]]:
    """The variables of each rank, as `launch` sets them."""
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    shared[module.MEETING_VARIABLE] = str(file)
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def torchrun(ranks: int) -> tuple[str, ...]:
    return "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)


def test_a_team_of_one_has_nobody_to_ask():
    alone = Team()
    assert alone.leads
    assert alone.share_first(lambda: 7) == 7
    assert alone.gather(3) == [3]
    assert (alone.any(True), alone.any(False)) == (True, False)
    assert alone.largest([1, 2]) == alone.total([1, 2]) == [1, 2]
    assert (alone.why_stop("tired"), alone.why_stop(None)) == ("tired", None)


@pytest.mark.parametrize(
    "by_torchrun", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["file", "torchrun"]
)
def test_what_ranks_say_to_each_other(tmp_path, by_torchrun):
    found = on_ranks(3, "words", tmp_path, by_torchrun=by_torchrun)
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
        assert rank["plan"] == ["planned", 7, [1.5, 2.5], 3, "there", None]


class NoStore:
    """Of a torchrun that was killed."""

    def __getattr__(self, _name: str) -> Any:
        raise RuntimeError("Broken pipe")


def test_where_the_store_is_gone_the_others_count_as_lost_and_a_failure_is_told_no_more():
    team = Team(ranks=2, store=NoStore())
    with pytest.raises(RankLostError, match=r"cannot be reached .Broken pipe"):
        team.why_stop("torchrun is gone")
    team.tell_failure("the image is broken")


@pytest.fixture
def waiting(monkeypatch, tmp_path):
    """A team of two whose rank 1 is late, and what it says."""
    monkeypatch.setattr(team_module, "STOP_SECONDS", 0.3)
    monkeypatch.setattr(team_module, "_REASON_SECONDS", 0.1)
    monkeypatch.setattr(team_module, "LINE_SECONDS", 0.2)
    lines: list[str] = []
    counts = Counts(tmp_path / "counts")
    counts.create()
    team = Team(
        ranks=2,
        counts=counts,
        store=torch.distributed.HashStore(),
        stop=StopRequest(),
        say=lines.append,
    )
    team.said = 1
    counts.put(0, 1)
    return team, lines


def test_a_wait_says_whom_for_and_ends_at_its_limit(waiting):
    team, lines = waiting
    with pytest.raises(RuntimeError, match="within 1 s"):
        team._wait([Sum(math.inf)], "add its gradients", 1)
    assert 2 <= len(lines) <= 5
    assert lines[0] == "rank 0 waits for rank 1 to add its gradients: for 0 of 10 min"


@pytest.mark.parametrize("in_step", [True, False])
def test_a_wait_ends_soon_after_a_stop(waiting, in_step):
    team, _ = waiting
    team.stop.ask("stopped by SIGTERM")
    with pytest.raises(RuntimeError, match="no answer within 0 s after the stop: stopped by SIG"):
        team._wait([Sum(math.inf)], "come", in_step=in_step)
    assert team.unfinished
    with pytest.raises(RankLostError, match=r"^Rank 1 does not answer any more \(no answer"):
        raise team._lost(RuntimeError("no answer within 8 s")) from None


def test_time_that_is_over_stops_steps_and_not_what_comes_before_them(waiting):
    team, _ = waiting
    team.stop.deadline = Deadline(time.monotonic() - 1, "MAX_MINUTES=1", 0)
    wait = partial(team._wait, [Sum(math.inf)], "come", 1)
    with pytest.raises(RuntimeError, match="within 1 s"):
        wait(in_step=False)
    with pytest.raises(RuntimeError, match="after the stop: MAX_MINUTES=1 is over"):
        wait(in_step=True)


def test_slow_steps_are_given_twice_their_time_after_a_stop(waiting):
    team, _ = waiting
    team.stop.ask("stopped by SIGTERM")
    team.slowest = 1e6
    with pytest.raises(RuntimeError, match="no sum of the gradients within"):
        team._wait([Sum(math.inf)], "come", 1)


def test_counts_of_ranks_are_their_own_and_start_at_none(tmp_path):
    counts = Counts(tmp_path / "counts")
    counts.create()
    counts.put(2, 2**40)
    counts.create()
    counts.put(0, 7)
    assert counts.of(4) == [7, 0, 2**40, 0]


class Evil:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/relaydet-was-here",)


def tensors_of(what: Any) -> bytes:
    file = io.BytesIO()
    torch.save(what, file)
    return file.getvalue()


HEAD = msgspec.json.encode(
    {"config": asdict(TrainConfig()), "frozen": True, "step": None, "manifest": {}, "where": ""}
)


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(pickle.dumps(Evil()), id="a pickle"),
        pytest.param(HEAD + b"\n" + tensors_of(Evil()), id="code in the tensors' place"),
        pytest.param(b'{"config": 3}\n' + tensors_of({}), id="other fields"),
        pytest.param(HEAD, id="no tensors"),
    ],
)
def test_a_plan_is_values_or_a_sentence(monkeypatch, told):
    ran: list[str] = []
    monkeypatch.setattr(os, "system", ran.append)
    team = Team(rank=1, ranks=2)
    team.share_bytes = lambda _mine: told
    with pytest.raises(RelayError, match="Rank 0 told a plan that is not understood here"):
        share_plan(team, None)
    assert not ran


def test_what_another_rank_tells_is_of_the_type_that_was_meant():
    assert _decoded(b'["host", 3]', tuple[str, int], 1) == ("host", 3)
    with pytest.raises(RelayError, match=r"Rank 1 told something .*install the same version"):
        _decoded(b'["host", "3"]', tuple[str, int], 1)


def test_no_object_is_pickled_between_ranks():
    used = re.compile(r"dist\.\w*_object|\bimport pickle|pickle\.loads?\(")
    files = [*Path(team_module.__file__).parent.glob("*.py")]
    assert len(files) > 10
    assert not [path for path in files if used.search(path.read_text())]


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


ONE_OF_TWO = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1234"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": None}, r"WORLD_SIZE=2, MASTER_ADDR=here, .*but RANK is not set: unset"),
        ({"MASTER_ADDR": None}, r"WORLD_SIZE=2, RANK=0, .*but MASTER_ADDR is not set"),
        ({"MASTER_PORT": None}, r"but MASTER_PORT is not set"),
        ({"MASTER_PORT": ""}, r"but MASTER_PORT is not set"),
        ({"RANK": None, "MASTER_PORT": None}, r"but RANK, MASTER_PORT are not set"),
        ({"WORLD_SIZE": "auto"}, r"WORLD_SIZE is 'auto' where a rank needs 1 and more"),
        ({"WORLD_SIZE": "-2"}, r"WORLD_SIZE is '-2'"),
        ({"WORLD_SIZE": "2.0"}, r"WORLD_SIZE is '2\.0'"),
        ({"RANK": "7"}, r"RANK is '7' where a rank needs 0 to 1"),
        ({"RANK": "-1"}, r"RANK is '-1'"),
        ({"RANK": "first"}, r"RANK is 'first'"),
        ({"MASTER_PORT": "http"}, r"MASTER_PORT is 'http' where a rank needs 1 to 65535"),
        ({"MASTER_PORT": "70000"}, r"MASTER_PORT is '70000'"),
        ({"LOCAL_RANK": "x"}, r"LOCAL_RANK is 'x'"),
        ({"LOCAL_RANK": "2"}, r"LOCAL_RANK is '2' where a rank needs 0 to 1"),
        ({"LOCAL_WORLD_SIZE": "3"}, r"LOCAL_WORLD_SIZE is '3' where a rank needs 1 to 2"),
        ({"LOCAL_WORLD_SIZE": "0"}, r"LOCAL_WORLD_SIZE is '0'"),
    ],
)
def test_variables_that_make_no_rank_are_named(changes, message):
    environment = {n: v for n, v in {**ONE_OF_TWO, **changes}.items() if v is not None}
    with (
        pytest.raises(RelayError, match=message + r".*torchrun\.$"),
        joined(1.0, environment),
    ):
        pass


def test_variables_of_slurm_alone_make_no_rank():
    assert not is_rank({"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"})


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"RANK": "1"}, (1, 2, 1, 2, False)),  # by hand, as many as there are counts as here
        ({"RANK": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}, (1, 2, 0, 1, False)),
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, (0, 2, 1, 2, True)),
    ],
)
def test_where_a_rank_is(environment, place):
    found = module._place({**ONE_OF_TWO, **environment})
    assert (
        *(found.rank, found.ranks, found.local_rank, found.local_ranks, found.one_machine),
    ) == place
    assert found.where == "here:1234"


def never(monkeypatch) -> None:
    """Have torch wait for ranks that do not come."""
    ended = threading.Event()
    monkeypatch.setattr(module.dist, "rendezvous", lambda *_, **__: iter([ended.wait(60)]))


def test_a_rank_that_waits_alone_says_so_and_obeys_a_stop(monkeypatch):
    never(monkeypatch)
    monkeypatch.setattr(module, "FIRST_LINE_SECONDS", 0.1)
    stop, lines = StopRequest(), []

    def say(line: str) -> None:
        lines.append(line)
        stop.ask("stopped by SIGTERM")

    message = r"could not meet at here:1234 \(rank 1 had not come yet when it was stopped by SIGT"
    with (
        pytest.raises(RelayError, match=message),
        joined(1.0, ONE_OF_TWO, stop, say),
    ):
        pass
    assert lines == [
        "waiting for rank 1 of 2 at here:1234, up to 10 min; unset WORLD_SIZE and RANK to train"
        " alone"
    ]


def test_rank_1_that_waits_alone_waits_for_rank_0_and_gives_up(monkeypatch):
    never(monkeypatch)
    monkeypatch.setattr(module, "JOIN_SECONDS", 0.3)
    with (
        pytest.raises(RelayError, match=r"rank 0 did not come within .*RANK .*to train alone"),
        joined(1.0, {**ONE_OF_TWO, "RANK": "1"}),
    ):
        pass


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
