"""Where a run goes on: the newest checkpoint of the store, this machine and earlier stores."""

from __future__ import annotations

import errno
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

from relaydet.config import TrainConfig
from relaydet.errors import RelayError, StoreError
from relaydet.runtime.detect import Runtime
from relaydet.storage.local import LocalStore
from relaydet.training.checkpoint import Lineage, folder_of, pack, publish
from relaydet.training.resume import (
    earlier_outputs,
    find_start,
    forget_unsent,
    highest_token,
    leave_alone,
    unsent_folder,
)

RUN = "night"
KAGGLE = Runtime("kaggle", "by the test")
STORE, UNSENT, EARLIER, OTHER = 1.0, 2.0, 3.0, 4.0
"""The weights tell where a checkpoint was put."""


class Places:
    """The places that a run may be in, all empty."""

    def __init__(self, folder: Path) -> None:
        self.store = LocalStore(folder / "store")
        self.unsent = folder / "unsent"
        self.earlier = [LocalStore(folder / "earlier"), LocalStore(folder / "other")]
        self.said: list[str] = []

    def put(self, where: float, step: int, token: int = 1, **facts) -> Path:
        """Put a checkpoint somewhere; returns its .pt file."""
        store = {STORE: self.store, EARLIER: self.earlier[0], OTHER: self.earlier[1]}.get(where)
        store = store or LocalStore(self.unsent / str(token))
        with tempfile.TemporaryDirectory() as folder:
            weights = {"model": {"w": torch.full((1,), where)}}
            publish(store, RUN, pack(Path(folder), step, Lineage(token), weights, facts))
        return store.path(f"{folder_of(RUN)}/step-{step:08d}.pt")

    def start(self):
        say = self.said.append
        return find_start(self.store, RUN, self.unsent, self.earlier, TrainConfig(), say)


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path)


@pytest.mark.parametrize(
    "there",
    [
        pytest.param("config.json", id="its configuration"),
        pytest.param("lease.json", id="its lease"),
        pytest.param("leases/00000001.json", id="a token"),
        pytest.param("checkpoints/step-00000001.json", id="a checkpoint"),
        pytest.param("", id="nothing"),
        pytest.param("status.json", id="only what says nothing"),
    ],
)
def test_what_is_here_of_a_run_that_was_deleted_is_put_aside(places, there):
    places.put(UNSENT, 3, token=9)
    file = places.put(UNSENT, 5, token=10)
    if there:
        places.store.write(f"runs/{RUN}/{there}", b"{}")
    leave_alone(places.store, RUN, places.unsent, places.said.append)
    if there not in ("", "status.json"):
        assert (file.exists(), places.said) == (True, [])
        return
    aside = places.unsent.with_name("unsent.1")
    assert not places.unsent.exists()
    assert (aside / file.relative_to(places.unsent)).exists()
    (line,) = places.said
    assert f"left alone, in {aside}; to take them, stop, delete" in line
    assert f"copy {aside}/10/runs/{RUN} in its place" in line
    assert places.start().checkpoint is None
    assert highest_token(places.store, RUN, places.unsent) == 0
    # The remedy works, and a second time is put beside the first.
    copied = Path(places.store.location) / "runs" / RUN
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(aside / "10" / "runs" / RUN, copied)
    leave_alone(places.store, RUN, places.unsent, places.said.append)
    start = places.start()
    assert (start.checkpoint.step, start.in_store) == (5, True)
    places.put(UNSENT, 7)
    shutil.rmtree(copied)
    leave_alone(places.store, RUN, places.unsent, places.said.append)
    assert places.unsent.with_name("unsent.2").exists()


def test_what_cannot_be_put_aside_is_named(places, monkeypatch):
    places.put(UNSENT, 3)

    def fail(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(RelayError, match=r"unsent: .*put aside \(Read-only file system\)"):
        leave_alone(places.store, RUN, places.unsent, places.said.append)
    leave_alone(places.store, "other", places.unsent, places.said.append)
    assert places.said == []


def test_a_new_run_starts_from_nothing(places):
    start = places.start()
    assert (start.checkpoint, start.in_store, places.said) == (None, False, [])


@pytest.mark.parametrize(
    ("put", "expected"),
    [
        pytest.param([(STORE, 10)], (STORE, 10), id="the store alone"),
        pytest.param([(UNSENT, 10)], (UNSENT, 10), id="this machine alone"),
        pytest.param([(EARLIER, 10)], (EARLIER, 10), id="an earlier store alone"),
        pytest.param([(STORE, 10), (UNSENT, 20)], (UNSENT, 20), id="not carried over yet"),
        pytest.param([(STORE, 20), (UNSENT, 10)], (STORE, 20), id="left from long ago"),
        pytest.param([(STORE, 20), (UNSENT, 20)], (STORE, 20), id="both have it"),
        pytest.param([(STORE, 15, 2), (UNSENT, 20, 1)], (STORE, 15), id="fenced off here"),
        pytest.param([(STORE, 20, 1), (UNSENT, 15, 2)], (UNSENT, 15), id="fenced off there"),
        pytest.param(
            [(UNSENT, 30, 9), (UNSENT, 20, 10)], (UNSENT, 20), id="two sessions here, 10 after 9"
        ),
        pytest.param([(STORE, 10), (EARLIER, 20)], (EARLIER, 20), id="trained further before"),
        pytest.param([(STORE, 20), (EARLIER, 10)], (STORE, 20), id="trained further since"),
        pytest.param([(STORE, 20), (EARLIER, 20)], (STORE, 20), id="copied into the store"),
        pytest.param(
            [(STORE, 20, 1), (EARLIER, 10, 7)],
            (STORE, 20),
            id="tokens of another store say nothing",
        ),
        pytest.param([(EARLIER, 10), (OTHER, 20)], (OTHER, 20), id="the newer of two outputs"),
        pytest.param([(EARLIER, 20), (OTHER, 10)], (EARLIER, 20), id="the older mounted last"),
        pytest.param(
            [(STORE, 10), (UNSENT, 20), (EARLIER, 20)], (UNSENT, 20), id="this machine first"
        ),
        pytest.param([(STORE, 10), (UNSENT, 20), (EARLIER, 30)], (EARLIER, 30), id="all three"),
        pytest.param([(STORE, 0), (EARLIER, 30)], (EARLIER, 30), id="begun anew by mistake"),
    ],
)
def test_the_newest_of_all_places_is_taken(places, put, expected):
    for where, step, *token in put:
        places.put(where, step, *token)
    start = places.start()
    where, step = expected
    assert start.checkpoint.step == step
    assert start.checkpoint.state["model"]["w"].item() == where
    assert start.in_store == (where == STORE)
    told = f"going on from {start.checkpoint.where}"
    assert (told in places.said) == (where != STORE)


@pytest.mark.parametrize("torn", [STORE, UNSENT, EARLIER])
def test_what_is_damaged_in_one_place_may_be_good_in_another(places, torn):
    for where in (STORE, UNSENT, EARLIER):
        path = places.put(where, 20)
        if where == torn:
            path.write_bytes(b"torn")
            name = str(path.with_suffix(".json"))
    start = places.start()
    assert start.checkpoint.step == 20
    assert start.checkpoint.state["model"]["w"].item() != torn
    assert start.in_store == (torn != STORE)
    assert any(name in sentence for sentence in places.said)


def test_an_older_good_one_goes_before_a_newer_damaged_one(places):
    places.put(STORE, 10)
    for where in (UNSENT, EARLIER):
        places.put(where, 20).write_bytes(b"torn")
    start = places.start()
    assert (start.checkpoint.step, start.in_store) == (10, True)
    assert len(places.said) == 2


@pytest.mark.parametrize("where", [(STORE,), (UNSENT,), (EARLIER,), (STORE, UNSENT, OTHER)])
def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(places, where):
    for place in where:
        places.put(place, 20).write_bytes(b"torn")
    with pytest.raises(RelayError, match=r"'night' has checkpoints and none can be used \(skipped"):
        places.start()
    assert len(places.said) == len(where), "each is named"


def test_a_store_that_is_away_is_no_reason_to_start_elsewhere(places):
    places.put(STORE, 20)
    places.put(UNSENT, 10)
    places.store.root.rename(places.store.root.with_name("away"))
    with pytest.raises(StoreError):
        places.start()


# Earlier stores.


def make_run(folder: Path, run: str = RUN) -> Path:
    config = folder / "runs" / run / "config.json"
    config.parent.mkdir(parents=True)
    config.write_bytes(b"{}")
    return folder


def roots(stores) -> list[Path]:
    return [store.root for store in stores]


@pytest.mark.parametrize("name", ["local", "colab", "kaggle"])
def test_the_store_that_the_user_names_is_taken(tmp_path, name):
    named, attached = make_run(tmp_path / "named"), tmp_path / "input"
    make_run(attached / "output")
    found = earlier_outputs(RUN, str(named), Runtime(name, ""), attached)
    assert roots(found) == [named]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda folder: make_run(folder, "day"), id="another run"),
        pytest.param(lambda folder: folder.mkdir(), id="an empty folder"),
        pytest.param(lambda folder: make_run(folder / "work"), id="the folder above it"),
        pytest.param(lambda folder: None, id="no folder"),
    ],
)
def test_a_named_store_without_the_run_is_refused(tmp_path, make):
    named = tmp_path / "named"
    make(named)
    with pytest.raises(RelayError, match=rf"^RESUME_FROM {named}: there is no run 'night'.*RUN"):
        earlier_outputs(RUN, str(named), KAGGLE, tmp_path)


def test_looking_for_a_run_makes_no_folder(tmp_path):
    with pytest.raises(RelayError, match="there is no run"):
        earlier_outputs(RUN, str(tmp_path / "named"), KAGGLE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_attached_on_kaggle_is_found_by_itself(tmp_path):
    inside = ("a", "notebooks/b", "notebooks/user/c")
    wanted = [make_run(tmp_path / folder) for folder in inside]
    make_run(tmp_path / "one/two/three/four")
    make_run(tmp_path / "other", "day")
    make_run(tmp_path)
    assert roots(earlier_outputs(RUN, "", KAGGLE, tmp_path)) == sorted(wanted)


@pytest.mark.parametrize("run", ["night [2]", "night*", "ni?ht"])
def test_a_run_may_have_any_name_that_a_folder_may(tmp_path, run):
    wanted = make_run(tmp_path / "a", run)
    make_run(tmp_path / "b", "night 2")
    make_run(tmp_path / "c", "nights")
    make_run(tmp_path / "d", "night")
    assert roots(earlier_outputs(run, "", KAGGLE, tmp_path)) == [wanted]


@pytest.mark.parametrize(
    "name", ["colab", "colab_enterprise", "gcp_notebook", "vertex_job", "local"]
)
def test_a_folder_of_that_name_elsewhere_is_left_alone(tmp_path, name):
    make_run(tmp_path / "a")
    assert earlier_outputs(RUN, "", Runtime(name, ""), tmp_path) == []


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_nothing_is_attached(tmp_path, make):
    make(tmp_path / "input")
    assert earlier_outputs(RUN, "", KAGGLE, tmp_path / "input") == []


# What this machine keeps.


def test_each_store_and_run_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("RELAYDET_CACHE", str(tmp_path / "cache"))
    stores = [LocalStore(tmp_path / name) for name in ("a", "b")]
    folders = {unsent_folder(store, run) for store in stores for run in ("night", "day")}
    assert len(folders) == 4
    assert {folder.parent for folder in folders} == {tmp_path / "cache" / "unsent"}
    assert unsent_folder(LocalStore(tmp_path / "a"), "night") in folders, "the same next time"


@pytest.mark.parametrize("where", [UNSENT, EARLIER], ids=["this machine", "an earlier store"])
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        pytest.param({"seed": 7}, "SEED 7 instead of 0", id="another seed"),
        pytest.param({"batch_size": 16}, "BATCH_SIZE 16 instead of 8", id="another batch size"),
        pytest.param({"workers": 3, "epochs": 9, "device": "cpu"}, "", id="what may change"),
        pytest.param({}, "", id="the same"),
    ],
)
def test_another_run_of_that_name_is_passed_over(places, where, changed, told):
    places.put(STORE, 10)
    written = msgspec.to_builtins(replace(TrainConfig(), **changed))
    places.put(where, 20, config=written)
    assert places.start().checkpoint.step == (10 if told else 20)
    assert told in places.said[0]


@pytest.mark.parametrize(
    ("put", "token"),
    [
        pytest.param([], 0, id="nothing there"),
        pytest.param([(STORE, 10, 3), (STORE, 20, 5)], 5, id="in the store"),
        pytest.param([(STORE, 10, 3), (UNSENT, 5, 8)], 8, id="on this machine"),
        pytest.param([(EARLIER, 10, 9)], 0, id="those of another store do not count"),
    ],
)
def test_the_highest_token_of_all_checkpoints(places, put, token):
    for one in put:
        places.put(*one)
    assert highest_token(places.store, RUN, places.unsent) == token


def test_what_sessions_up_to_this_one_left_is_removed(places):
    for token in (1, 2, 10):
        places.put(UNSENT, 20, token)
    (places.unsent / "notes").mkdir()
    forget_unsent(places.unsent, 2)
    assert sorted(path.name for path in places.unsent.iterdir()) == ["10", "notes"]
    assert places.start().checkpoint.manifest["token"] == 10


def test_there_may_be_nothing_to_remove(tmp_path):
    forget_unsent(tmp_path / "unsent", 3)
    assert list(tmp_path.iterdir()) == []
