"""Images in a zip: read in place, also by forked workers, threads and other processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from relaydet.data.images import open_images
from relaydet.data.locations import read_bytes
from relaydet.errors import RelayError

FILES = {f"{n:03}.jpg": os.urandom(3000 + n) for n in range(60)}


@pytest.fixture
def zipped(tmp_path):
    """Write a zip of those files below a folder in it."""

    def write(folder: str = "", method=zipfile.ZIP_DEFLATED) -> str:
        path = tmp_path / "photos.zip"
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in FILES.items():
                archive.writestr(folder + name, data)
        return str(path)

    return write


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_images_are_read_in_place(method, zipped, tmp_path):
    location = zipped(method=method)
    images = pickle.loads(pickle.dumps(open_images(location)))
    assert {name: images.read(name) for name in FILES} == FILES
    assert images.exists("000.jpg")
    assert not images.exists("none.jpg")
    assert images.describe() == f"zip {location}"
    assert images.fetch(["none.jpg"]) is None
    assert os.listdir(tmp_path) == ["photos.zip"]  # noqa: PTH208


def test_what_is_sent_to_a_worker_is_small(zipped):
    assert len(pickle.dumps(open_images(zipped()))) < 1000


@pytest.mark.parametrize(
    ("folder", "location", "said"),
    [
        ("train/", "", "all of it is in train/"),
        ("train/", "/train", "folder train/"),
        ("data/train/", "/data", "folder data/ (all of it is in data/train/"),
        ("data/train/", "", "all of it is in data/train/"),
    ],
)
def test_the_folder_that_holds_all_may_be_left_out(folder, location, said, zipped):
    images = open_images(zipped(folder) + location)
    assert images.read("007.jpg") == FILES["007.jpg"]
    assert said in images.describe()
    deepest = folder.strip("/").split("/")[-1]
    assert images.exists(f"{deepest}/007.jpg") is (location != "/train")


def test_a_folder_below_the_one_that_holds_all_is_found(tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("top/images/a.jpg", b"a")
        archive.writestr("top/all.json", b"{}")
    for folder in ("images", "top/images"):
        assert open_images(f"{path}/{folder}").read("a.jpg") == read_bytes(f"{path}/images/a.jpg")


@pytest.mark.parametrize("name", ["../a.jpg", "a/../../b", "..\\b", "/etc/hosts", "", "a\0b"])
def test_names_stay_inside_the_zip(name, zipped):
    images = open_images(zipped())
    for method in (images.read, images.exists):
        with pytest.raises(RelayError, match="does not stay inside"):
            method(name)


def test_a_missing_image_is_named(zipped):
    with pytest.raises(RelayError, match=r"none\.jpg: the image cannot be read \(no such file"):
        open_images(zipped()).read("none.jpg")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("photos.zip/nowhere", "no file in a folder 'nowhere'"),
        ("cut.zip", "not a whole zip"),
        ("text.txt", "is a file, not a folder"),
        ("text.txt/train", "is a file, not a folder"),
        ("none.zip", "does not exist"),
        ("a.tar.gz", "unpack it"),
    ],
)
def test_what_is_no_zip_is_told(location, message, zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = Path(zipped()).read_bytes()
    Path("cut.zip").write_bytes(data[:-500])
    Path("text.txt").write_bytes(b"text")
    with pytest.raises(RelayError, match=message):
        open_images(location)


def test_a_folder_called_like_an_archive_is_a_folder(tmp_path):
    for name in ("a.zip", "a.tar"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpg").write_bytes(b"x")
        assert open_images(str(tmp_path / name)).read("x.jpg") == b"x"


def _read_all(images, names, wrong) -> None:
    for _ in range(20):
        for name in names:
            if images.read(name) != FILES[name]:
                wrong.put(name)
    wrong.put(None)


def test_forked_processes_do_not_disturb_each_other(zipped):
    images = open_images(zipped())
    images.read("000.jpg")
    context = multiprocessing.get_context("fork")
    wrong = context.Queue()
    names = list(FILES)
    workers = [
        context.Process(target=_read_all, args=(images, names[n::4] + names, wrong))
        for n in range(4)
    ]
    for worker in workers:
        worker.start()
    assert [wrong.get(timeout=60) for _ in workers] == [None] * 4
    for worker in workers:
        worker.join()


class _Photos(torch.utils.data.Dataset):
    def __init__(self, images) -> None:
        self.images = images
        self.names = sorted(FILES)

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return self.names[index], self.images.read(self.names[index])


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_loader_workers_read_the_right_bytes(start, zipped):
    loader = torch.utils.data.DataLoader(
        _Photos(open_images(zipped("train/"))),
        batch_size=None,
        num_workers=2,
        multiprocessing_context=start,
    )
    assert dict(iter(loader)) == FILES


def test_threads_read_the_right_bytes(zipped):
    images = open_images(zipped())
    with ThreadPoolExecutor(8) as pool:
        names = list(FILES) * 10
        assert list(pool.map(images.read, names)) == [FILES[name] for name in names]
