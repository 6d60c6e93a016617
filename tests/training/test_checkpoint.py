"""Checkpoints: what is written comes back, what is torn is skipped by name, the newest two stay."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as some

from relaydet.errors import LeaseLostError, StoreError
from relaydet.storage.fenced import Fenced
from relaydet.storage.lease import acquire
from relaydet.storage.local import LocalStore
from relaydet.training.checkpoint import (
    Keep,
    Lineage,
    Packed,
    folder_of,
    load_newest,
    pack,
    publish,
    tidy,
)

RUN = "night"


def state(value: float) -> dict:
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
    return {"model": {"w": torch.full((3, 2), float(value))}, "optimizer": optimizer}


def name_of(step: int, kind: str) -> str:
    return f"{folder_of(RUN)}/step-{step:08d}.{kind}"


def put(store, step: int, token: int = 0, base: int = 0, value: float | None = None) -> Packed:
    """Pack and publish; the weights are the step's number, where nothing else is given."""
    weights = state(step if value is None else value)
    with tempfile.TemporaryDirectory() as folder:
        packed = pack(Path(folder), step, Lineage(token, f"owner {token}", base), weights, {})
        publish(store, RUN, packed)
    return packed


def save(store, step: int, keep: Keep = Keep(), **more) -> dict:  # noqa: B008
    """Pack, publish and tidy, as a saver does; returns the manifest."""
    manifest = put(store, step, **more).manifest
    tidy(store, RUN, manifest, keep)
    return manifest


def steps_in(store) -> list[int]:
    """Steps whose two files are there; fails where one is alone."""
    stems = {
        kind: {Path(name).stem for name in store.names(folder_of(RUN)) if name.endswith(kind)}
        for kind in ("json", "pt")
    }
    assert stems["json"] == stems["pt"]
    return sorted(int(stem.removeprefix("step-")) for stem in stems["pt"])


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


@pytest.fixture
def two(store):
    """A store with checkpoints of steps 10 and 20, whose weights are 10 and 20."""
    for step in (10, 20):
        save(store, step)
    return store


def test_what_was_saved_comes_back(store, tmp_path):
    packed = pack(tmp_path, 7, Lineage(3, "ada", 5), state(0.1), {"dataset_sha256": "abc"})
    publish(store, RUN, packed)
    found, skipped = load_newest(store, RUN)
    assert skipped == []
    assert found.step == 7
    assert found.where == str(store.path(name_of(7, "json")))
    assert found.manifest == packed.manifest == json.loads(store.read(name_of(7, "json")))
    facts = ("token", "owner", "resumed_from", "dataset_sha256")
    assert [found.manifest[fact] for fact in facts] == [3, "ada", 5, "abc"]
    assert torch.equal(found.state["model"]["w"], torch.full((3, 2), 0.1))
    assert found.state["optimizer"]["param_groups"] == [{"lr": 0.1}]


def test_what_is_packed_lies_on_the_disk_until_it_is_removed(tmp_path):
    packed = pack(tmp_path / "deep" / "folder", 7, Lineage(), state(1), {})
    assert packed.file.stat().st_size == packed.manifest["size"]
    assert json.loads(packed.manifest_file.read_bytes()) == packed.manifest
    packed.remove()
    assert list((tmp_path / "deep" / "folder").iterdir()) == []
    packed.remove()


def test_nothing_there(store):
    assert load_newest(store, RUN) == (None, [])


def test_only_the_newest_two_are_kept(store):
    for step in (5, 10, 15, 100_000_000):
        save(store, step)
    assert load_newest(store, RUN)[0].step == 100_000_000
    assert steps_in(store) == [15, 100_000_000]


def test_what_a_killed_save_left_is_cleared_away(two):
    two.write(name_of(15, "pt"), b"no manifest was written")
    save(two, 30)
    assert steps_in(two) == [20, 30]


@pytest.mark.parametrize(
    "left",
    [
        pytest.param({"pt": b"half"}, id="half a .pt"),
        pytest.param({"json": b'{"form', "pt": b"half"}, id="half of both"),
        pytest.param({"json": b"{}"}, id="a manifest alone"),
    ],
)
def test_what_a_killed_session_left_at_the_same_step_is_replaced(two, left):
    for kind, data in left.items():
        two.write(name_of(30, kind), data)
    save(two, 30)
    found, skipped = load_newest(two, RUN)
    assert (found.step, skipped) == (30, [])
    assert steps_in(two) == [20, 30]


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
        pytest.param("json", lambda data: b"\xff\xfe", "manifest is damaged", id="not UTF-8"),
        pytest.param("json", without("sha256"), "manifest is damaged", id="no hash"),
        pytest.param("json", without("step"), "manifest is damaged", id="no step"),
        pytest.param("json", with_fields(step=7), "manifest is damaged", id="other step"),
        pytest.param("json", with_fields(token="x"), "manifest is damaged", id="no number"),
        pytest.param("json", with_fields(token=None), "manifest is damaged", id="no token"),
        pytest.param("json", with_fields(file="a\0b"), "manifest is damaged", id="no file name"),
        pytest.param("json", with_fields(file="../x.pt"), "manifest is damaged", id="outside"),
        pytest.param("json", with_fields(format=2), "format is 2", id="other format"),
        pytest.param("json", with_fields(file="other.pt"), "manifest is damaged", id="other file"),
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


@pytest.mark.parametrize(
    "name", ["notes.txt", "step-00000030.json.bak", "step-newest.json", "step-30", "copy.json"]
)
def test_a_file_of_another_kind_is_no_checkpoint(two, name):
    two.write(f"{folder_of(RUN)}/{name}", b"{}")
    found, skipped = load_newest(two, RUN)
    assert (found.step, skipped) == (20, [])


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
    unsealed = without("seal")(two.read(name_of(20, "json")))
    two.write(name_of(20, "json"), with_fields(**manifest)(unsealed))
    found, (skipped,) = load_newest(two, RUN)
    assert found.step == 10
    assert "cannot be loaded safely" in skipped
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"step": 7}, id="other step"),
        pytest.param({"token": "x"}, id="no number"),
        pytest.param({"token": None}, id="no token"),
        pytest.param({"file": "other.pt"}, id="other file"),
        pytest.param({"file": "../x.pt"}, id="outside"),
        pytest.param({"file": "a\0b"}, id="no file name"),
    ],
)
def test_a_manifest_without_a_seal_must_be_that_of_its_checkpoint(two, fields):
    name = name_of(20, "json")
    two.write(name, with_fields(**fields)(without("seal")(two.read(name))))
    found, (skipped,) = load_newest(two, RUN)
    assert found.step == 10
    assert re.search("manifest is (damaged|of another checkpoint)", skipped)


def test_a_checkpoint_under_another_name_is_refused(two):
    """Renamed by hand, it would go on from a step that its weights have not reached."""
    for kind in ("pt", "json"):
        two.path(name_of(20, kind)).rename(two.path(name_of(30, kind)))
    found, (skipped,) = load_newest(two, RUN)
    assert found.step == 10
    assert "its manifest is of another checkpoint" in skipped


def test_no_bit_of_a_manifest_may_be_another(two):
    """The step, the token and the dataset's hash decide what is done with a checkpoint."""
    name = name_of(20, "json")
    whole = two.read(name)
    for place in range(len(whole)):
        for bit in (0, 5):
            torn = bytearray(whole)
            torn[place] ^= 1 << bit
            two.write(name, bytes(torn))
            found, _ = load_newest(two, RUN)
            assert found.step == 10 or found.manifest["sha256"] == json.loads(whole)["sha256"]
            if found.step != 10:
                ours = {k: v for k, v in found.manifest.items() if "seal" not in k.lower()}
                assert ours.items() >= {("step", 20), ("token", 0), ("resumed_from", 0)}


# Fencing: the token goes before the step.


def test_a_session_that_lost_the_run_counts_until_the_other_has_published(two):
    """Token 1 was stopped, token 2 took the run over, and token 1 still published step 30."""
    put(two, 30, token=1)
    found, passed = load_newest(two, RUN)
    assert (found.step, passed) == (30, [])
    put(two, 25, token=2, base=20)
    found, passed = load_newest(two, RUN)
    assert (found.step, found.manifest["token"]) == (25, 2)
    (sentence,) = passed
    assert "step 30" in sentence
    assert "lost the run" in sentence


def test_the_older_token_stands_in_where_the_newer_is_torn(two):
    put(two, 30, token=1)
    put(two, 25, token=2, base=20)
    two.write(name_of(25, "pt"), b"torn")
    found, (skipped,) = load_newest(two, RUN)
    assert found.step == 30
    assert "step-00000025" in skipped


def test_a_lower_step_of_the_older_token_is_nothing_to_speak_of(two):
    put(two, 25, token=2, base=20)
    assert load_newest(two, RUN)[1] == []


class VanishesOnce(LocalStore):
    """Another session removes a file after its name was listed."""

    def names(self, prefix):
        found = super().names(prefix)
        super().delete(name_of(20, "json"))
        return found


class VanishesWhenRead(LocalStore):
    """Another session removes a checkpoint once its manifest was read."""

    def read(self, name):
        data = super().read(name)
        if name == name_of(20, "json"):
            super().delete(name)
            super().delete(name_of(20, "pt"))
        return data


@pytest.mark.parametrize("vanishing", [VanishesOnce, VanishesWhenRead])
def test_what_is_removed_meanwhile_is_passed_over(two, vanishing):
    assert load_newest(vanishing(two.root), RUN)[0].step == 10


def test_a_store_that_is_away_is_not_an_empty_one(two):
    two.root.rename(two.root.with_name("elsewhere"))
    with pytest.raises(StoreError):
        load_newest(two, RUN)


# Tidying.


def test_the_newest_the_best_and_the_last_stay(store):
    for step in range(1, 8):
        put(store, step)
    tidy(store, RUN, json.loads(store.read(name_of(7, "json"))), Keep(last=3, best=2))
    assert steps_in(store) == [2, 5, 6, 7]


@pytest.mark.parametrize(
    ("keep", "sizes", "stay"),
    [
        pytest.param(Keep(last=4), None, [4, 5, 6, 7], id="no limit"),
        pytest.param(Keep(last=100), None, [1, 2, 3, 4, 5, 6, 7], id="more than there are"),
        pytest.param(Keep(last=2, best=7), None, [6, 7], id="the newest is the best"),
        pytest.param(Keep(last=2, best=6), None, [6, 7], id="the second is the best"),
        pytest.param(Keep(last=2, best=99), None, [6, 7], id="the best is gone"),
        pytest.param(Keep(last=1), None, [6, 7], id="never below two"),
        pytest.param(Keep(last=5, size=4), 1, [4, 5, 6, 7], id="four fit"),
        pytest.param(Keep(last=5, size=0), 1, [6, 7], id="two, whatever they take"),
        pytest.param(Keep(last=5, best=1, size=3), 1, [1, 6, 7], id="the best goes first"),
        pytest.param(Keep(last=5, best=1, size=2.5), 1, [6, 7], id="the best does not fit"),
    ],
)
def test_what_stays(store, keep, sizes, stay):
    """The size is given in checkpoints here."""
    for step in range(1, 8):
        newest = put(store, step).manifest
    limit = keep.size * newest["size"] if sizes else keep.size
    tidy(store, RUN, newest, Keep(keep.last, keep.best, limit))
    assert steps_in(store) == stay


def test_a_smaller_one_may_stay_where_a_larger_one_does_not_fit(store):
    newest = [put(store, step).manifest for step in (1, 2, 3, 4)][-1]
    name = name_of(2, "json")
    store.write(name, with_fields(size=10**9)(store.read(name)))
    tidy(store, RUN, newest, Keep(last=4, size=3 * newest["size"]))
    assert steps_in(store) == [1, 3, 4]


@pytest.mark.parametrize(
    "rejected",
    [
        pytest.param({30: b"torn"}, id="a torn .pt"),
        pytest.param({30: b"torn", 40: b"torn"}, id="two of them"),
    ],
)
def test_rejected_ones_are_not_among_the_two_that_stay(two, rejected):
    """Session 2 starts from step 20, since all beyond are torn, and publishes step 25."""
    for step, data in rejected.items():
        put(two, step, token=1)
        two.write(name_of(step, "pt"), data)
    save(two, 25, token=2, base=20)
    assert steps_in(two) == [20, 25]
    found, passed = load_newest(two, RUN)
    assert (found.step, passed) == (25, [])


def test_a_damaged_manifest_is_not_among_the_two_that_stay(two):
    two.write(name_of(20, "json"), b"{")
    save(two, 12, token=2, base=10)
    assert steps_in(two) == [10, 12]


@pytest.mark.parametrize("token", [0, 1])
def test_rejected_ones_beyond_do_not_push_out_the_new_one(two, token):
    for step in (10, 20):
        two.path(name_of(step, "pt")).write_bytes(b"torn")
    save(two, 3, token=token)
    found, skipped = load_newest(two, RUN)
    assert found.step == 3
    assert skipped == []
    assert steps_in(two) == [3]


def test_what_a_newer_token_published_is_never_tidied_away(two):
    """On a mounted Drive a session may learn late that it has lost the run."""
    put(two, 25, token=2, base=20)
    save(two, 30, token=1)
    found, _ = load_newest(two, RUN)
    assert (found.step, found.manifest["token"]) == (25, 2)
    assert torch.equal(found.state["model"]["w"], torch.full((3, 2), 25.0))


def test_a_session_that_lost_its_lease_neither_publishes_nor_tidies(two, tmp_path):
    lease = acquire(two, RUN, "local")
    fenced = Fenced(two, lease)
    newest = put(fenced, 30, token=lease.holder.token).manifest
    put(two, 40)
    other = acquire(two, RUN, "local", take_over=True, say=lambda line: None)
    try:
        before = {path: path.read_bytes() for path in two.path(folder_of(RUN)).iterdir()}
        with pytest.raises(LeaseLostError, match="taken over"):
            put(fenced, 50, token=lease.holder.token)
        with pytest.raises(LeaseLostError, match="taken over"):
            tidy(fenced, RUN, newest, Keep())
        assert before == {path: path.read_bytes() for path in two.path(folder_of(RUN)).iterdir()}
    finally:
        other.release()
        lease.release()


class Forgetful(LocalStore):
    """A mount that loses the end of each .pt file."""

    def create(self, name, data):
        made = super().create(name, data)
        if name.endswith(".pt"):
            os.truncate(self.path(name), self.path(name).stat().st_size - 1)
        return made


class Suspicious(LocalStore):
    """A mount that takes everything, and gives back something else."""

    def differs(self, name, original):
        return "its bytes are others"


class Contested(LocalStore):
    """A store in which another session is always quicker."""

    def create(self, name, data):
        super().create(name, b"the other one's")
        return super().create(name, data)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        pytest.param(Forgetful, r"it has \d+ of \d+ bytes", id="the end is lost"),
        pytest.param(Suspicious, "its bytes are others", id="other bytes"),
        pytest.param(Contested, "another session wrote it", id="another session"),
    ],
)
def test_a_save_that_did_not_arrive_is_an_error_and_the_old_ones_stay(two, kind, message):
    with pytest.raises(StoreError, match=rf"step-00000030\.pt: did not arrive \({message}.*check"):
        save(kind(two.root), 30)
    assert not two.exists(name_of(30, "json")), "it is no checkpoint"
    for step in (10, 20):
        assert two.exists(name_of(step, "json"))
        assert two.exists(name_of(step, "pt"))
    found, skipped = load_newest(two, RUN)
    assert (found.step, skipped) == (20, [])


class Killed(BaseException):
    """The process ends here."""


class DiesAfter(LocalStore):
    """A store whose process is killed after so many changes."""

    changes = 0

    def create(self, name, data):
        self.count()
        return super().create(name, data)

    def delete(self, name):
        self.count()
        super().delete(name)

    def count(self):
        self.changes -= 1
        if self.changes < 0:
            raise Killed


@pytest.mark.parametrize("changes", range(12))
def test_a_kill_between_any_two_changes_leaves_a_checkpoint(two, changes):
    dying = DiesAfter(two.root)
    dying.changes = changes
    try:
        save(dying, 30)
    except Killed:
        found, skipped = load_newest(two, RUN)
        assert found.step in (20, 30)
        assert skipped == []
        for name in two.names(folder_of(RUN)):
            assert two.exists(name.replace(".json", ".pt")), "a manifest goes first, comes last"
    else:
        assert changes >= 4, "publishing makes two files, tidying deletes two"
    save(two, 40, base=load_newest(two, RUN)[0].step)
    assert len(steps_in(two)) == 2
    assert load_newest(two, RUN)[0].step == 40


def write_half(path, data):
    """What a disk that fills up does."""
    with path.open("wb") as file:
        file.write(bytes(data)[: len(data) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("ending", [".pt", ".half"])
def test_a_full_disk_while_packing_leaves_nothing_behind(tmp_path, monkeypatch, ending):
    whole = Path.write_bytes

    def write(path, data):
        return (write_half if path.suffix == ending else whole)(path, data)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(OSError, match="No space left"):
        pack(tmp_path / "unsent", 7, Lineage(), state(1), {})
    assert list((tmp_path / "unsent").iterdir()) == []


PUBLISHED = some.lists(
    some.tuples(some.integers(1, 4), some.integers(0, 40)), min_size=1, max_size=8, unique=True
).map(sorted)
TEARS = some.sampled_from(["truncate", "flip", "zero", "no .pt", "half a manifest", "nothing"])


@settings(max_examples=60, deadline=None)
@given(published=PUBLISHED, keep=some.integers(2, 4), tear=TEARS, victim=some.integers(0, 1))
@example(published=[(1, 10), (1, 20), (2, 15)], keep=2, tear="flip", victim=0)
@example(published=[(1, 10), (2, 10), (3, 10)], keep=2, tear="truncate", victim=0)
def test_whatever_was_published_a_verified_one_is_found(published, keep, tear, victim):
    """Sessions publish in the order of their tokens; then one of the newest two is torn."""
    folder = Path(tempfile.mkdtemp())
    try:
        store = LocalStore(folder / "store")
        base = last_token = 0
        for token, step in published:
            started, _ = load_newest(store, RUN)
            if token != last_token:
                base, last_token = (started.step if started else 0), token
            if step <= base and started:
                continue  # a session goes on from where it starts
            save(store, step, Keep(last=keep), token=token, base=base, value=100 * token + step)
        stored = sorted(
            (
                (json.loads(store.read(name_of(step, "json")))["token"], step)
                for step in steps_in(store)
            ),
            reverse=True,
        )
        torn = stored[min(victim, len(stored) - 1)] if tear != "nothing" else None
        if torn:
            tear_up(store, torn[1], tear)
        sound = [found for found in stored if found != torn]
        found, passed = load_newest(store, RUN)
        if not sound:
            assert found is None
        else:
            token, step = sound[0]
            assert (found.manifest["token"], found.step) == (token, step)
            assert torch.equal(found.state["model"]["w"], state(100 * token + step)["model"]["w"])
        if torn == stored[0]:
            assert f"step-{torn[1]:08d}" in passed[0]
    finally:
        shutil.rmtree(folder)


def tear_up(store: LocalStore, step: int, how: str) -> None:
    path, manifest = store.path(name_of(step, "pt")), store.path(name_of(step, "json"))
    data = path.read_bytes()
    if how == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif how == "flip":
        path.write_bytes(flip_a_bit(data))
    elif how == "zero":
        path.write_bytes(bytes(len(data)))
    elif how == "no .pt":
        path.unlink()
    else:
        manifest.write_bytes(manifest.read_bytes()[:30])


def test_a_damaged_manifest_among_those_that_stay_costs_nothing_but_itself(two):
    """It is torn after session 2 has started, and goes when that publishes."""
    put(two, 30, token=2, base=20)
    two.write(name_of(20, "json"), b"{")
    found, _ = load_newest(two, RUN)
    assert found.step == 30
    save(two, 40, token=2, base=20)
    assert steps_in(two) == [30, 40]


@pytest.mark.parametrize(
    ("rejected", "stays"),
    [
        pytest.param(15, [10, 20], id="between the one resumed from and the new one"),
        pytest.param(20, [10, 20], id="at the step of the new one"),
        pytest.param(25, [10, 20], id="above the new one"),
        pytest.param(10, [10, 20], id="the one resumed from"),
    ],
)
def test_what_was_rejected_at_a_resume_goes_and_the_one_resumed_from_stays(store, rejected, stays):
    put(store, 10, token=1)
    if rejected not in (10, 20):
        put(store, rejected, token=1)
    newest = put(store, 20, token=2, base=10)
    tidy(store, RUN, newest.manifest, Keep())
    assert steps_in(store) == stays
    assert load_newest(store, RUN)[0].step == 20
    store.delete(name_of(20, "json"))
    assert load_newest(store, RUN)[0].step == 10, "what stands in is what the run went on from"


def test_another_runs_checkpoint_is_passed_over_by_what_the_caller_says(two):
    passed = []

    def unfit(manifest):
        passed.append(manifest["step"])
        return "of another run" if manifest["step"] == 20 else ""

    found, told = load_newest(two, RUN, unfit)
    assert (found.step, passed) == (10, [20, 10])
    assert len(told) == 1
    assert told[0].endswith(": of another run")
    assert load_newest(two, RUN, lambda manifest: "no")[0] is None
