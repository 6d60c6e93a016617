"""What is fuzzed: by name, a function that writes good files and says how to read a bad one.

Each takes an empty folder and returns the bytes of good files and a function that reads bytes as
the product would; it may raise RelayError and nothing else.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from relaydet.config import SourceConfig, load_sources
from relaydet.data.checks.boxes import check_boxes
from relaydet.data.checks.likeness import thumbnail_of
from relaydet.data.checks.structure import check_structure
from relaydet.data.dataset import Dataset
from relaydet.data.demo import write_demo
from relaydet.data.formats import coco, crowdhuman, read_source, write_format
from relaydet.data.images import decode_rgb, header_of
from relaydet.data.merge import Part, merge
from relaydet.data.saved import load_dataset, open_sources
from relaydet.evaluation.records import truth_of
from relaydet.evaluation.results import detections_of
from relaydet.evaluation.score import score
from relaydet.storage.local import LocalStore
from relaydet.storage.zips import find_name, folders_to_try, open_zip, read_zipped

Read = Callable[[bytes], object]
Reader = Callable[[Path], tuple[Sequence[bytes], Read]]

PICTURE = {"id": 1, "file_name": "a.jpg", "width": 64, "height": 48, "license": 1}
OBJECT = {
    "id": 1,
    "image_id": 1,
    "category_id": 1,
    "bbox": [1, 2, 20, 20],
    "area": 400,
    "iscrowd": 0,
    "segmentation": [[1, 1, 20, 1, 20, 20]],
}
COCO = {
    "info": {"description": "d"},
    "licenses": [{"id": 1, "name": "by"}],
    "images": [PICTURE, {**PICTURE, "id": 7, "file_name": "b.jpg", "new": [1]}],
    "annotations": [OBJECT, {**OBJECT, "id": 2, "image_id": 7, "iscrowd": 1, "note": {"a": 1}}],
    "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car", "supercategory": "x"}],
}
RESULTS = [
    {"image_id": 1, "category_id": 1, "bbox": [1, 2, 20, 20], "score": 0.9},
    {"image_id": 7, "category_id": 3, "bbox": [1, 2, 20, 20.5], "score": 1},
]


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _use(dataset: Dataset, name: str = "s") -> None:
    """What a merge does with a source, but for its image files."""
    dataset, _ = check_structure(dataset, name)
    for image in dataset.images:  # as a look at the image file tells
        image.width, image.height = image.width or 64, image.height or 48
    dataset, _ = check_boxes(dataset, name)
    source = SourceConfig(name, "coco", "a.json", "images")
    merged, _ = merge([Part(source, dataset, "sha")])
    coco.encode(merged)
    for form in ("yolo", "voc"):
        write_format(form, merged, lambda path, data: None)


def coco_files(folder: Path) -> tuple[Sequence[bytes], Read]:
    """COCO annotations, through the checks, the merge and all writers."""
    street, _, _ = write_demo(folder, sizes=(1, 1, 1))
    demo = Path(street.annotations).read_bytes()
    return [_json(COCO), demo], lambda data: _use(coco.decode(data, "s", "file.json")[0])


def saved_datasets(folder: Path) -> tuple[Sequence[bytes], Read]:
    """annotations.json of a store, and the images that it names."""
    store = LocalStore(folder)
    (folder / "images").mkdir()
    Image.new("RGB", (64, 48)).save(folder / "images/a.jpg")
    dataset, _ = coco.decode(_json({**COCO, "images": [PICTURE]}), "s", "file.json")
    dataset, _ = check_structure(dataset, "s")
    source = SourceConfig("s", "coco", "a.json", "images")
    good = coco.encode(merge([Part(source, dataset, "sha")])[0])

    def read(data: bytes) -> None:
        store.write("datasets/d/annotations.json", data)
        saved = load_dataset(store, "d")
        for source, images in open_sources(saved).items():
            for image in saved.dataset.images:
                if image.source == source:
                    images.read(image.file_name.split("/", 1)[1])

    return [good], read


def crowdhuman_files(folder: Path) -> tuple[Sequence[bytes], Read]:
    """CrowdHuman's .odgt lines."""
    box = {"tag": "person", "fbox": [1, 2, 30, 40], "vbox": [1, 2, 3, 4], "hbox": [1, 2, 3, 4]}
    ignored = {**box, "tag": "mask", "extra": {"ignore": 1}}
    line = _json({"ID": "a,1", "gtboxes": [box, ignored]})
    return [line + b"\n" + line.replace(b"a,1", b"b,2")], lambda data: _use(
        crowdhuman.decode(data, "s", "f.odgt")[0]
    )


def _in_folder(source: SourceConfig, path: Path) -> Read:
    def read(data: bytes) -> None:
        path.write_bytes(data)
        _use(read_source(source)[0])

    return read


VOC = b"""<annotation><filename>a.jpg</filename><size><width>64</width><height>48</height>
<depth>3</depth></size><object><name>person</name><pose>Left</pose><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>20</xmax><ymax>21.5</ymax></bndbox>
<part><name>head</name></part></object></annotation>"""
ENTITIES = b"""<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">
<!ENTITY c SYSTEM "file:///etc/hostname">]>"""


def voc_files(folder: Path) -> tuple[Sequence[bytes], Read]:
    """Pascal VOC's XML files."""
    source = SourceConfig("s", "voc", str(folder), str(folder))
    read = _in_folder(source, folder / "a.xml")
    return [VOC, b'<?xml version="1.0" encoding="utf-8"?>' + VOC], read


def voc_entities(folder: Path) -> tuple[Sequence[bytes], Read]:
    """Pascal VOC's XML files with entities, which are never expanded."""
    source = SourceConfig("s", "voc", str(folder), str(folder))
    (folder / "b.xml").write_bytes(VOC.replace(b"a.jpg", b"b.jpg"))
    read = _in_folder(source, folder / "a.xml")
    nested = VOC.replace(b"person", b"&b;&c;")
    return [VOC], lambda data: read(data if data == VOC else ENTITIES + data + nested)


def _yolo(folder: Path, path: str) -> tuple[SourceConfig, Path]:
    for part in ("images", "labels"):
        (folder / part).mkdir()
    Image.new("RGB", (64, 48)).save(folder / "images/a.jpg")
    (folder / "labels/a.txt").write_bytes(b"0 0.5 0.5 0.25 0.25\n")
    (folder / "data.yaml").write_bytes(YAML)
    source = SourceConfig("s", "yolo", str(folder / "data.yaml"), str(folder / "images"))
    return source, folder / path


YAML = b"train: images\nval: images\nnc: 2\nnames:\n  0: person\n  1: 'car'\n"


def yolo_yaml(folder: Path) -> tuple[Sequence[bytes], Read]:
    """YOLO's data.yaml."""
    return [YAML, YAML.replace(b"\n  0: person\n  1: 'car'", b" [person, car]")], _in_folder(
        *_yolo(folder, "data.yaml")
    )


def yolo_labels(folder: Path) -> tuple[Sequence[bytes], Read]:
    """YOLO's label files."""
    lines = b"0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.2 0.1 0.2 0.2\n"
    return [lines], _in_folder(*_yolo(folder, "labels/a.txt"))


def _cuhk(folder: Path, path: str) -> tuple[Sequence[bytes], Read]:
    _, search, _ = write_demo(folder, sizes=(1, 3, 1))
    bad = Path(search.annotations) / path
    return [bad.read_bytes()], _in_folder(search, bad)


def cuhk_images(folder: Path) -> tuple[Sequence[bytes], Read]:
    """CUHK-SYSU's Images.mat."""
    return _cuhk(folder, "Images.mat")


def cuhk_persons(folder: Path) -> tuple[Sequence[bytes], Read]:
    """CUHK-SYSU's Person.mat."""
    return _cuhk(folder, "Person.mat")


def prw_boxes(folder: Path) -> tuple[Sequence[bytes], Read]:
    """PRW's .mat files."""
    from scipy.io import savemat

    (folder / "annotations").mkdir()
    good = []
    for compressed in (False, True):
        buffer = io.BytesIO()
        savemat(buffer, {"box_new": np.array([[4.0, 1, 2, 30, 40]])}, do_compression=compressed)
        good.append(buffer.getvalue())
    source = SourceConfig("s", "prw", str(folder), str(folder))
    return good, _in_folder(source, folder / "annotations/c1s1_000151.jpg.mat")


def zips(folder: Path) -> tuple[Sequence[bytes], Read]:
    """Zips: every file that one lists."""
    good = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name in ("a/1.jpg", "a/2.jpg", "../up.jpg", "/etc/x.jpg", "a/1.jpg", "é.jpg"):
                archive.writestr(name, name.encode() * 20)
            link = zipfile.ZipInfo("a/link.jpg")
            link.external_attr = 0xA1FF << 16
            archive.writestr(link, "/etc/hostname")
        good.append(buffer.getvalue())
    path = folder / "a.zip"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        index = open_zip(path)
        folders = folders_to_try(index)
        for name in index.places:
            assert ".." not in name.split("/"), name
            assert not name.startswith("/"), name
            find_name(index, name, folders)
        for name in list(index.places)[:20]:
            read_zipped(index, name)

    return good, read


def _pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8))
    good = []
    for form, mode, options in (
        ("JPEG", "RGB", {}),
        ("JPEG", "RGB", {"progressive": True, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}),
        ("JPEG", "CMYK", {}),
        ("MPO", "RGB", {}),
        ("PNG", "RGB", {}),
        ("PNG", "P", {}),
        ("BMP", "RGB", {}),
        ("GIF", "P", {}),
        ("TIFF", "RGB", {}),
        ("TIFF", "L", {"compression": "tiff_lzw"}),
        ("TIFF", "RGB", {"compression": "jpeg"}),
        ("WEBP", "RGB", {}),
        ("PPM", "RGB", {}),
    ):
        buffer = io.BytesIO()
        noise.convert(mode).save(buffer, form, **options)
        good.append(buffer.getvalue())
    return good


def image_headers(folder: Path) -> tuple[Sequence[bytes], Read]:
    """Headers of image files."""
    return _pictures(), lambda data: header_of(data, "x")


def image_pixels(folder: Path) -> tuple[Sequence[bytes], Read]:
    """Pixels and thumbnails of image files."""
    from relaydet.data.decode import decode

    def read(data: bytes) -> None:
        height, width, _ = decode_rgb(data, "x").shape
        assert decode(data, "x").shape == (height, width, 3)
        thumbnail_of(data, "x")

    return _pictures(), read


def sources_files(folder: Path) -> tuple[Sequence[bytes], Read]:
    """The list of sources that a merge is given."""
    path = folder / "sources.json"
    source = {"name": "s", "format": "coco", "annotations": "a.json", "images": "."}
    good = _json([{**source, "categories": ["a=b"], "max_images": 3, "offset": 0}, "demo"])

    def read(data: bytes) -> None:
        path.write_bytes(data)
        load_sources(str(path))

    return [_json([source]), good.replace(b', "offset": 0', b"")], read


def results_files(folder: Path) -> tuple[Sequence[bytes], Read]:
    """COCO results, scored."""
    truth = truth_of(_json(COCO))
    return [_json(RESULTS)], lambda data: score(truth, detections_of(data, truth, "d.json"))


def ground_truth_files(folder: Path) -> tuple[Sequence[bytes], Read]:
    """COCO ground truth, scored."""

    def read(data: bytes) -> None:
        truth = truth_of(data, "g.json")
        known = set(truth.image_ids)
        found = [result for result in RESULTS if result["image_id"] in known]
        score(truth, detections_of(_json(found), truth, "d.json"), "pycocotools")

    return [_json(COCO)], read


def _weights(folder: Path, suffix: str) -> tuple[Sequence[bytes], Read]:
    import torch
    from safetensors.torch import save_file

    from relaydet import weights

    # Our own files: releases of torch that refuse others' read them as well.
    weights.unsafe_pickles = lambda: ""
    path = folder / f"weights{suffix}"
    state = {f"layer{n}.weight": torch.arange(6.0).reshape(2, 3) for n in range(4)}
    good = []
    for content in (state, {"model": state, "epoch": 3}):
        if suffix == ".safetensors":
            save_file(state, path)
        else:
            torch.save(content, path)
        good.append(path.read_bytes())
    if suffix == ".pth":
        torch.save(state, path, _use_new_zipfile_serialization=False)
        good.append(path.read_bytes())

    def read(data: bytes) -> None:
        path.write_bytes(data)
        weights.read_tensors(path)

    return good, read


def weights_pth(folder: Path) -> tuple[Sequence[bytes], Read]:
    """Weights as torch.save writes them."""
    return _weights(folder, ".pth")


def weights_pickle(folder: Path) -> tuple[Sequence[bytes], Read]:
    """The pickle inside of weights as torch.save writes them, in a zip that is whole."""
    good, read = _weights(folder, ".pth")
    with zipfile.ZipFile(io.BytesIO(good[1])) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    (pickled,) = (name for name in files if name.endswith("data.pkl"))

    def read_pickle(data: bytes) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, data if name == pickled else content)
        read(buffer.getvalue())

    return [files[pickled]], read_pickle


def weights_safetensors(folder: Path) -> tuple[Sequence[bytes], Read]:
    """Weights as safetensors writes them."""
    return _weights(folder, ".safetensors")


def weights_header(folder: Path) -> tuple[Sequence[bytes], Read]:
    """The JSON header of a safetensors file, with the length that it has."""
    good, read = _weights(folder, ".safetensors")
    (length,) = struct.unpack_from("<Q", good[0])
    header, rest = good[0][8 : 8 + length], good[0][8 + length :]
    return [header.rstrip()], lambda data: read(struct.pack("<Q", len(data)) + data + rest)


READERS: dict[str, Reader] = {
    reader.__name__: reader
    for reader in (
        coco_files,
        saved_datasets,
        crowdhuman_files,
        voc_files,
        voc_entities,
        yolo_yaml,
        yolo_labels,
        cuhk_images,
        cuhk_persons,
        prw_boxes,
        zips,
        image_headers,
        image_pixels,
        sources_files,
        results_files,
        ground_truth_files,
        weights_pth,
        weights_pickle,
        weights_safetensors,
        weights_header,
    )
}
