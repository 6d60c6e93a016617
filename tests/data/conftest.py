"""What the tests of data share: small COCO files, and real sources."""

from __future__ import annotations

import json

import pytest

from relaydet.config import SourceConfig
from relaydet.data.formats import coco


@pytest.fixture
def coco_dict():
    """A small COCO file as a dict, with other images, annotations, categories on demand."""

    def make(**sections) -> dict:
        return {
            "images": [{"id": 7, "file_name": "a.jpg", "width": 100, "height": 80}],
            "annotations": [
                {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 9.5}
            ],
            "categories": [{"id": 3, "name": "person"}],
            **sections,
        }

    return make


@pytest.fixture
def read_coco():
    """Read a dict, text or bytes as a COCO file of source "src"."""

    def read(file):
        data = file if isinstance(file, bytes) else json.dumps(file).encode()
        return coco.decode(data, "src", "file.json")

    return read


@pytest.fixture
def real_source(shared):
    """A source of COCO photos from the shared folder."""

    def make(folder: str, split: str = "train2017") -> SourceConfig:
        annotations = shared(folder, "annotations", f"instances_{split}.json")
        return SourceConfig(folder, "coco", str(annotations), str(shared(folder, split)))

    return make
