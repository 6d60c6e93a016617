"""Checkpoints: what is written comes back, and what is torn is skipped by name."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re

import pytest
import torch

from relaydet.errors import RelayError
from relaydet.storage.local import LocalStore
from relaydet.training.checkpoint import folder_of, load_newest, save_checkpoint

RUN = "night"


def state(value: float) -> dict:
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
    return {"model": {"w": torch.full((3, 2), value)}, "optimizer": optimizer}


def name_of(step: int, kind: str) -> str:
    return f"{folder_of(RUN)}/step-{step:08d}.{kind}"


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path)


@pytest.fixture
def two(store):
    """A store with checkpoints of steps 10 and 20, whose weights are 10 and 20."""
    for step in (10, 20):
        save_checkpoint(store, RUN, step, state(step), {})
    return store


def test_what_was_saved_comes_back(store):
    manifest = save_checkpoint(store, RUN, 7, state(0.1), {"dataset_sha256": "abc"})
    found, skipped = load_newest(store, RUN)
    assert skipped == []
    assert found.step == 7
    assert found.manifest == manifest == json.loads(store.read(name_of(7, "json")))
    assert found.manifest["dataset_sha256"] == "abc"
    assert torch.equal(found.state["model"]["w"], torch.full((3, 2), 0.1))
    assert found.state["optimizer"]["param_groups"] == [{"lr": 0.1}]


def test_nothing_there(store):
    assert load_newest(store, RUN) == (None, [])


def test_only_the_newest_two_are_kept(store):
    for step in (5, 10, 15, 100_000_000):
        save_checkpoint(store, RUN, step, state(step), {})
    assert load_newest(store, RUN)[0].step == 100_000_000
    assert store.names(folder_of(RUN)) == sorted(
        name_of(step, kind) for step in (15, 100_000_000) for kind in ("json", "pt")
    )


def test_what_a_killed_save_left_is_cleared_away(two):
    two.write(name_of(15, "pt"), b"no manifest was written")
    save_checkpoint(two, RUN, 30, state(30), {})
    assert {name.rsplit(".")[0] for name in two.names(folder_of(RUN))} == {
        name_of(step, "").rstrip(".") for step in (20, 30)
    }


def flip_a_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def with_fields(**fields):
    return lambda data: json.dumps({**json.loads(data), **fields}).encode()


def without(field):
    return lambda data: json.dumps(
        {k: v for k, v in json.loads(data).items() if k != field}
    ).encode()


@pytest.mark.parametrize(
    ("kind", "tear", "reason"),
    [
        pytest.param("pt", lambda data: data[:-1], r"has \d+ of \d+ bytes", id="truncated"),
        pytest.param("pt", lambda data: b"", r"has 0 of \d+ bytes", id="empty"),
        pytest.param("pt", lambda data: data + b"\0", r"has \d+ of \d+ bytes", id="longer"),
        pytest.param("pt", flip_a_bit, "SHA-256", id="flipped bit"),
        pytest.param("pt", lambda data: bytes(len(data)), "SHA-256", id="zeroed"),
        pytest.param("pt", None, "missing", id="no .pt"),
        pytest.param("json", lambda data: data[:30], "manifest is damaged", id="half a manifest"),
        pytest.param("json", lambda data: b"", "manifest is damaged", id="empty manifest"),
        pytest.param("json", lambda data: b"[]", "manifest is damaged", id="a list"),
        pytest.param("json", without("sha256"), "manifest is damaged", id="no hash"),
        pytest.param("json", without("step"), "manifest is damaged", id="no step"),
        pytest.param("json", with_fields(format=2), "format is 2", id="other format"),
        pytest.param("json", with_fields(file="other.pt"), "missing", id="other file"),
    ],
)
def test_a_torn_checkpoint_is_skipped_and_named(two, kind, tear, reason):
    name = name_of(20, kind)
    if tear:
        two.write(name, tear(two.read(name)))
    else:
        two.delete(name)
    found, (skipped,) = load_newest(two, RUN)
    assert found.step == 10
    assert torch.equal(found.state["model"]["w"], torch.full((3, 2), 10.0))
    assert "step-00000020.json" in skipped
    assert re.search(reason, skipped)


def test_both_torn_is_as_if_nothing_were_there(two):
    for step in (10, 20):
        two.write(name_of(step, "pt"), b"x")
    found, skipped = load_newest(two, RUN)
    assert found is None
    assert len(skipped) == 2


def test_a_pt_without_a_manifest_is_no_checkpoint(two):
    two.delete(name_of(20, "json"))
    found, skipped = load_newest(two, RUN)
    assert (found.step, skipped) == (10, [])


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def saved_by_torch(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: pickle.dumps(Malice(path), 2), id="malicious pickle"),
        pytest.param(lambda path: saved_by_torch(Malice(path)), id="malicious zip"),
        pytest.param(lambda path: b"", id="nothing"),
        pytest.param(lambda path: b"not a pickle", id="text"),
        pytest.param(lambda path: saved_by_torch(state(1))[:400], id="half a zip"),
        pytest.param(lambda path: pickle.dumps([1, 2], 2)[:-1], id="half a pickle"),
        pytest.param(lambda path: b"\x80\x02.", id="empty pickle"),
        pytest.param(lambda path: bytes(600), id="zeros"),
    ],
)
def test_a_valid_manifest_opens_no_door(two, tmp_path, make):
    """Whoever can write the .pt can write its manifest too."""
    data = make(tmp_path / "owned")
    manifest = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    two.write(name_of(20, "pt"), data)
    two.write(name_of(20, "json"), with_fields(**manifest)(two.read(name_of(20, "json"))))
    found, (skipped,) = load_newest(two, RUN)
    assert found.step == 10
    assert "cannot be loaded safely" in skipped
    assert not (tmp_path / "owned").exists()


class Forgetful(LocalStore):
    """A mount that loses the end of what is written."""

    def write(self, name, data):
        super().write(name, data[:-1] if name.endswith(".pt") else data)


def test_a_save_that_did_not_arrive_is_an_error_and_the_old_ones_stay(two, tmp_path):
    with pytest.raises(RelayError, match=r"step-00000030\.pt: its \.pt file has .* check the disk"):
        save_checkpoint(Forgetful(tmp_path), RUN, 30, state(30), {})
    assert load_newest(two, RUN)[0].step == 20


def test_rejected_ones_beyond_do_not_push_out_the_new_one(two):
    for step in (10, 20):
        two.path(name_of(step, "pt")).write_bytes(b"torn")
    save_checkpoint(two, RUN, 3, state(3), {})
    found, skipped = load_newest(two, RUN)
    assert found.step == 3
    assert skipped == []
