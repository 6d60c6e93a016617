import json
from dataclasses import replace

import pytest
from PIL import Image

from relaydet.config import MergeConfig
from relaydet.data.demo import write_demo
from relaydet.errors import RelayError
from relaydet.jobs.merge import merge


def quiet(_line: str) -> None:
    pass


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("scenes"), sizes=(8, 4, 2))


@pytest.fixture
def config(sources, tmp_path):
    street, search, _ = sources
    return MergeConfig("people", (street, search), ("person",), str(tmp_path / "store"))


def test_writes_a_dataset_a_report_and_pictures(config, tmp_path):
    result = merge(config, say=quiet)
    folder = tmp_path / "store/datasets/people"
    data = json.loads((folder / "annotations.json").read_text())
    report = json.loads((folder / "report.json").read_text())
    assert [i["id"] for i in data["images"]] == list(range(1, len(data["images"]) + 1))
    assert report["merged"]["images"] == len(data["images"])
    assert {i["source"] for i in data["images"]} == {"street", "search"} == set(report["sources"])
    assert {f["code"] for f in report["findings"]} == {f.code for f in result.findings}
    assert any(f["code"] == "box-empty" for f in report["findings"])
    for name in ("samples_street", "samples_search", "object_sizes"):
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.width > 200


def test_the_same_input_gives_the_same_bytes(config, tmp_path):
    written = []
    for name in ("a", "b"):
        merge(replace(config, store=str(tmp_path / name)), say=quiet)
        written.append((tmp_path / name / "datasets/people/annotations.json").read_bytes())
    assert written[0] == written[1]


def test_a_failed_merge_leaves_what_was_there(config, sources, tmp_path):
    merge(config, say=quiet)
    annotations = tmp_path / "store/datasets/people/annotations.json"
    before = annotations.read_bytes()
    broken = replace(sources[0], annotations=str(tmp_path / "missing.json"))
    with pytest.raises(RelayError, match=r"missing\.json"):
        merge(replace(config, sources=(sources[1], broken)), say=quiet)
    assert annotations.read_bytes() == before
    assert {path.name for path in annotations.parent.parent.iterdir()} == {"people"}


def test_a_source_inside_the_store_is_recorded_relative_to_it(tmp_path):
    street, _, _ = write_demo(tmp_path / "store/scenes", sizes=(3, 1, 1))
    result = merge(MergeConfig("d", (street,), (), str(tmp_path / "store")), say=quiet)
    assert result.dataset.info["sources"]["street"]["images"] == "scenes/street/images"
