"""A known source from a server that breaks connections: only what is missing is asked for."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from webserver import isolate, serve

from relaydet.config import EvaluateConfig, MergeConfig, TrainConfig
from relaydet.data import known
from relaydet.data.demo import write_demo
from relaydet.data.saved import load_dataset, open_sources
from relaydet.errors import RelayError
from relaydet.jobs.evaluate import evaluate
from relaydet.jobs.merge import merge
from relaydet.jobs.train import train
from relaydet.storage.local import LocalStore


def quiet(_line: str) -> None:
    pass


@pytest.fixture
def web(monkeypatch, tmp_path):
    """A server with the demo's street scenes, laid out like COCO's downloads."""
    isolate(monkeypatch, tmp_path)
    street, _, _ = write_demo(tmp_path / "scenes", sizes=(10, 1, 1))
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.write(street.annotations, "annotations/instances.json")
    with serve() as web:
        web.files["/annotations.zip"] = zipped.getvalue()
        for path in Path(street.images).iterdir():
            web.files[f"/photos/{path.name}"] = path.read_bytes()
        source = replace(
            street,
            name="far-street",
            annotations=f"{web.address}/annotations.zip/annotations/instances.json",
            images=f"{web.address}/photos",
            categories=("person",),
        )
        monkeypatch.setitem(known.KNOWN, "far-street", source)
        yield web


def photos_asked(web) -> set[str]:
    return {path for path in web.paths() if path.startswith("/photos/")}


def test_only_what_is_missing_is_fetched(web, tmp_path):
    config = MergeConfig("far", ("far-street",), (), str(tmp_path / "store"), max_images=3)
    web.break_after = [700, 2000, 50, 1500]
    few = merge(config, say=quiet)
    assert len(few.dataset.images) == len(photos_asked(web)) == 3
    assert {c.name for c in few.dataset.categories} == {"person"}
    first = photos_asked(web)

    web.asked.clear()
    everything = merge(replace(config, max_images=None), say=quiet)
    assert len(everything.dataset.images) > 3
    assert not photos_asked(web) & first
    assert "/annotations.zip" not in web.paths()

    web.asked.clear()
    saved = load_dataset(LocalStore(tmp_path / "store"), "far")
    images = open_sources(saved)["far-street"]
    name = saved.dataset.images[0].file_name.split("/", 1)[1]
    assert images.read(name) == web.files[f"/photos/{name}"]
    assert web.paths() == []


SECRETS = ("SEKRETPW", "SEKRETQ", "SEKRETA")


@pytest.fixture
def keyed(web, tmp_path):
    """A source whose addresses hold a password, a signature and a token."""
    source = known.KNOWN["far-street"]
    photos = io.BytesIO()
    with zipfile.ZipFile(photos, "w") as archive:
        for path, data in list(web.files.items()):
            if path.startswith("/photos/"):
                archive.writestr(path.removeprefix("/photos/"), data)
    web.files["/z.zip?X-Goog-Signature=SEKRETQ"] = photos.getvalue()
    web.files["/annotations.zip?token=SEKRETA"] = web.files["/annotations.zip"]
    host = web.address.removeprefix("http://")
    return replace(
        source,
        annotations=f"{source.annotations}?token=SEKRETA",
        images=f"http://user:SEKRETPW@{host}/z.zip?X-Goog-Signature=SEKRETQ",
    )


def written_below(folder: Path) -> bytes:
    """Names and contents of all files, but for the copies of the files that were asked for."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = "\n".join(map(str, files)).encode()
    return names + b"".join(file.read_bytes() for file in files if file.suffix != ".zip")


def test_secrets_in_addresses_are_neither_stored_nor_shown(keyed, web, tmp_path):
    lines: list[str] = []
    store = tmp_path / "store"
    config = MergeConfig("far", (keyed,), (), str(store), max_images=3)
    result = merge(config, say=lines.append)
    assert "address-with-key" in {finding.code for finding in result.findings}
    told = (written_below(store) + written_below(tmp_path / "cache")).decode(errors="replace")
    told += "\n".join(lines)
    assert not [secret for secret in SECRETS if secret in told]
    facts = json.loads((store / "datasets/far/annotations.json").read_text())["info"]["sources"]
    assert facts["far-street"]["images"] == f"{web.address}/z.zip"
    assert facts["far-street"]["annotations"].endswith("/annotations/instances.json")
    assert facts["far-street"]["key_needed"] is True

    saved = load_dataset(LocalStore(store), "far")
    web.asked.clear()
    with pytest.raises(RelayError, match='set IMAGES to "far-street=that address with its key"'):
        open_sources(saved)
    assert web.asked == []
    images = open_sources(saved, {"far-street": keyed.images})["far-street"]
    assert images.exists(saved.dataset.images[0].file_name.split("/", 1)[1])


@pytest.mark.parametrize("place", ["ftp://me:SEKRETPW@host/x", "s3://k:SEKRETPW@b/x?a=SEKRETQ"])
@pytest.mark.parametrize("part", ["images", "annotations"])
def test_addresses_of_other_kinds_are_refused_without_their_secrets(place, part, web, tmp_path):
    source = replace(known.KNOWN["far-street"], **{part: place})
    config = MergeConfig("far", (source,), (), str(tmp_path / "store"))
    with pytest.raises(RelayError, match=r"addresses of (ftp|s3): are not read") as caught:
        merge(config, say=quiet)
    assert not [secret for secret in SECRETS if secret in str(caught.value)]


def test_secrets_of_a_place_that_moved_are_not_stored(web, tmp_path):
    source = known.KNOWN["far-street"]
    gone = replace(source, images="ftp://me:SEKRETPW@host/x?a=SEKRETQ")
    store = tmp_path / "store"
    config = MergeConfig("far", (gone,), (), str(store), images=(f"far-street={source.images}",))
    merge(config, say=quiet)
    assert not [secret for secret in SECRETS if secret.encode() in written_below(store)]


@pytest.fixture
def strangers(tiny_demo, web, tmp_path):
    """A dataset that somebody else made, whose file says that its images are on the server."""
    store = LocalStore(tmp_path / "theirs")
    data = json.loads(tiny_demo.read("datasets/demo/annotations.json"))
    for facts in data["info"]["sources"].values():
        facts["images"] = f"{web.address}/latest/meta-data"
    store.write("datasets/demo/annotations.json", json.dumps(data).encode())
    return store


def strange_jobs(store: str) -> list:
    small = {"image_size": 64, "epochs": 1, "model": "small", "batch_size": 4, "device": "cpu"}
    return [
        lambda **images: train(TrainConfig("r", "demo", store=store, **small, **images), quiet),
        lambda **images: evaluate(
            EvaluateConfig((str(Path(store) / "d.json"),), ("demo",), store, **images), quiet
        ),
        lambda **images: merge(
            MergeConfig("n", (known.KNOWN["far-street"],), (), store, held_out=("demo",), **images),
            quiet,
        ),
    ]


@pytest.mark.parametrize("number", range(3))
def test_nothing_is_asked_for_where_only_a_strangers_file_says_so(strangers, web, number):
    store = strangers.place("")
    strangers.write("d.json", b"[]")
    job = strange_jobs(store)[number]
    with pytest.raises(RelayError, match="an address that only the dataset's file names") as caught:
        job()
    assert f"{web.address}/latest/meta-data" in str(caught.value)
    assert not [path for path in web.paths() if path.startswith("/latest")]


def test_an_address_that_the_user_names_once_is_taken_from_then_on(strangers, web, tmp_path):
    saved = load_dataset(strangers, "demo")
    address = f"{web.address}/latest/meta-data"
    for source in saved.locations:
        open_sources(saved, {source: address}, [source])
    asked = len(web.paths())
    assert asked
    open_sources(saved)
    assert len(web.paths()) > asked, "no file is there, so all are asked for again"
    (tmp_path / "cache" / "addresses.json").write_bytes(b"[" * 100_000)
    with pytest.raises(RelayError, match="only the dataset's file names"):
        open_sources(saved)


def test_a_copy_of_a_whole_store_is_a_strangers_on_another_machine(web, tmp_path, monkeypatch):
    monkeypatch.delitem(known.KNOWN, "far-street", raising=True)
    source = replace(
        known.KNOWN["coco2017-val"],
        name="s",
        annotations=f"{web.address}/annotations.zip/annotations/instances.json",
        images=f"{web.address}/photos",
    )
    store = str(tmp_path / "store")
    merge(MergeConfig("far", (source,), (), store, max_images=2), say=quiet)
    saved = load_dataset(LocalStore(store), "far")
    open_sources(saved)
    monkeypatch.setenv("RELAYDET_CACHE", str(tmp_path / "elsewhere"))
    web.asked.clear()
    with pytest.raises(RelayError, match='set IMAGES to "s=http://127'):
        open_sources(saved)
    assert web.asked == []


@pytest.mark.parametrize("images", ["../../etc", "a/../../b", "..\\x"])
def test_a_place_that_leads_out_of_the_store_is_refused(strangers, images):
    data = json.loads(strangers.read("datasets/demo/annotations.json"))
    for facts in data["info"]["sources"].values():
        facts["images"] = images
    strangers.write("datasets/demo/annotations.json", json.dumps(data).encode())
    with pytest.raises(RelayError, match="leads out of the store"):
        load_dataset(strangers, "demo")
