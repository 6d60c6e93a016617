"""Names that become folders: one function refuses what cannot be one."""

from __future__ import annotations

import pytest

from relaydet.config import StudyConfig, TrainConfig, check_name
from relaydet.data.saved import load_dataset
from relaydet.errors import RelayError
from relaydet.jobs.study import study
from relaydet.jobs.train import train
from relaydet.storage.local import LocalStore

REFUSED = [
    ("", "empty"),
    (".", "dot"),
    ("..", "dot"),
    (".hidden", "dot"),
    ("ends.", "dot"),
    ("a/b", "slash"),
    ("/etc", "slash"),
    ("../escaped", "slash"),
    ("a\\b", "slash"),
    (" a", "blank"),
    ("a ", "blank"),
    ("\u00a0a", "blank"),
    ("a\nb", "cannot be seen"),
    ("a\x00b", "cannot be seen"),
    ("a\x1b[31m", "cannot be seen"),
    ("a\u202eb", "cannot be seen"),
    ("a\u2066b", "cannot be seen"),
    ("a\ufeffb", "cannot be seen"),
    ("a\u2028b", "cannot be seen"),
    ("a\ud800b", "cannot be seen"),
    ("a" * 151, "151 bytes"),
    ("ü" * 76, "152 bytes"),
    ("a" * 100_000, "100000 bytes"),
]
TAKEN = ["demo", "a.b", "run 1", "ü" * 75, "a" * 150, "夜", "می‌خواهم", "~a", "a@b", "-a", "a..b"]


@pytest.mark.parametrize(("name", "why"), REFUSED)
def test_a_name_that_cannot_be_a_folder_is_refused(name, why):
    with pytest.raises(
        RelayError, match=rf"^RUN .*cannot be .* folder \(.*{why}.*\); use"
    ) as found:
        check_name("RUN", name)
    assert len(str(found.value)) < 300
    assert str(found.value).isprintable()


@pytest.mark.parametrize("name", TAKEN)
def test_what_people_call_their_runs_is_taken(name):
    check_name("RUN", name)


@pytest.mark.parametrize("name", ["../x", "a\nb", "ü" * 130])
def test_every_job_that_makes_a_path_of_a_name_refuses_it(tmp_path, name):
    store = str(tmp_path / "store")
    for call in (
        lambda: train(TrainConfig(run=name, store=store), say=lambda line: None),
        lambda: train(TrainConfig(dataset=name, store=store), say=lambda line: None),
        lambda: study(StudyConfig(study=name, store=store), say=lambda line: None),
        lambda: study(StudyConfig(dataset=name, store=store), say=lambda line: None),
        lambda: study(StudyConfig(held_out=name, store=store), say=lambda line: None),
        lambda: load_dataset(LocalStore(store), name),
    ):
        with pytest.raises(RelayError, match="cannot be the name of a folder"):
            call()
    assert [*tmp_path.rglob("*")] == []


@pytest.mark.parametrize(
    "name", ["../x", "runs/../../x", "/etc/x", "a\x00b", "runs/..", "..", "runs/a/../b"]
)
def test_a_store_neither_reads_nor_writes_outside_of_itself(tmp_path, name):
    store = LocalStore(tmp_path / "store")
    store.write("a", b"1")
    for call in (
        lambda: store.read(name),
        lambda: store.write(name, b"2"),
        lambda: store.create(name, b"2"),
        lambda: store.names(name),
        lambda: store.folders(name),
        lambda: store.exists(name),
        lambda: store.delete(name),
    ):
        with pytest.raises(RelayError, match="leads out of the store"):
            call()
    with pytest.raises(RelayError, match="leads out"), store.folder("b") as put:
        put(name, b"2")
    assert [p.name for p in tmp_path.rglob("*")] == ["store", "a"]
