"""Named sources, and the checksums of the files that they come in."""

from __future__ import annotations

import re

import pytest

from relaydet.config import check_name
from relaydet.data.known import CHECKSUMS, KNOWN, known_source
from relaydet.errors import RelayError


@pytest.mark.parametrize("name", KNOWN)
def test_known_sources_are_whole(name):
    source = known_source(name)
    check_name("source", source.name)
    assert source.name == name
    assert "CC BY 4.0" in source.licence
    split = "train" if "train" in name else "val"
    assert source.annotations.endswith(f".zip/annotations/instances_{split}2017.json")
    assert source.images.endswith(f"/{split}2017")
    assert source.categories == (("person",) if name.endswith("-person") else ())
    assert source.annotations.partition(".zip")[0] + ".zip" in CHECKSUMS


def test_checksums_have_the_form_of_one():
    for size, algorithm, digest in CHECKSUMS.values():
        assert size > 10**8
        assert algorithm == "sha256"
        assert re.fullmatch("[0-9a-f]{64}", digest)


@pytest.mark.parametrize("name", ["coco", "coco2017-train-persons", ""])
def test_unknown_names_list_the_known(name):
    with pytest.raises(RelayError, match=r"no known source.*known are coco2017-train-person, "):
        known_source(name)
