"""Addresses are shown and stored without what may be secret in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaydet.addresses import scheme_of, shown
from relaydet.config import StudyConfig, TrainConfig, parse_images, public
from relaydet.errors import RelayError
from relaydet.storage.cache import cache_folder

SECRET = "SEKRET"
ADDRESSES = {
    "https://me:SEKRET@host:1/a/b.zip": "https://host:1/a/b.zip",
    "https://SEKRET@host/a": "https://host/a",
    "https://me:x@SEKRET@host/a": "https://host/a",
    "https://me:SE/SEKRET@host/a": "https://host/a",
    "HTTPS://host/a?X-Goog-Signature=SEKRET": "HTTPS://host/a",
    "http://host/a?SEKRET": "http://host/a",
    "http://host?SEKRET": "http://host",
    "http://host/a#token=SEKRET": "http://host/a",
    "http://host/a#SEKRET": "http://host/a",
    "http://host/a;x?b=1&c=SEKRET#d": "http://host/a;x",
    "http://host/a?next=http://me:SEKRET@b/": "http://host/a",
    "http:/me:SEKRET@host/a": "http:/host/a",
    "http:\\\\me:SEKRET@host\\a": "http:\\\\host\\a",
    "ftp://me:SEKRET@host/a": "ftp://host/a",
    "ftp://me:SEKRET@host/a?b=1": "ftp://host/a",
    "sftp://me:SEKRET@host/a": "sftp://host/a",
    "s3://KEY:SEKRET@bucket/a": "s3://bucket/a",
    "s3://bucket/a?X-Amz-Signature=SEKRET": "s3://bucket/a",
    "gs://me:SEKRET@bucket/a": "gs://bucket/a",
    "gs://bucket/a.zip?X-Goog-Signature=SEKRET&b": "gs://bucket/a.zip",
    "gs://bucket/a.zip#token=SEKRET": "gs://bucket/a.zip",
    "gs://bucket/d/a.zip/c#1?/d": "gs://bucket/d/a.zip/c#1?/d",
    "https://[::1]:8000/a@b/c": "https://[::1]:8000/a@b/c",
    "http://host/@name/a": "http://host/@name/a",
    "/data/me@work/a?b=1#c": "/data/me@work/a?b=1#c",
    "C:\\data\\a@b?": "C:\\data\\a@b?",
    "relative/a.zip": "relative/a.zip",
    "": "",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_may_be_secret_is_not_shown(address):
    assert shown(address) == ADDRESSES[address]
    assert shown(shown(address)) == shown(address)
    assert SECRET not in cache_folder(address).name


@given(st.text(max_size=60), st.sampled_from(["http://", "gs://", "ftp:/", ""]))
def test_any_text_is_shown_and_once_is_enough(text, scheme):
    assert shown(shown(scheme + text)) == shown(scheme + text)


@given(st.text("ab:@/?#=[]. ", max_size=20), st.text("ab:/?#=", max_size=10))
def test_a_password_is_never_shown_before_a_host(start, end):
    assert SECRET not in shown(f"https://me:{SECRET}@host/{end}")
    assert SECRET not in shown(f"https://host/a?{start}{SECRET}{end}")


@pytest.mark.parametrize(
    ("location", "scheme"),
    [("HTTP://a", "http"), ("s3:/a", "s3"), ("C:/a", ""), ("/a://b", ""), ("a/http://b", "")],
)
def test_schemes(location, scheme):
    assert scheme_of(location) == scheme


@pytest.mark.parametrize(
    "entry", ["http://me:SEKRET@host/a", "http://me:SEKRET@host/a?b=c", "other=http://me:SEKRET@h/"]
)
def test_a_mistake_in_images_does_not_show_them(entry):
    with pytest.raises(RelayError, match="IMAGES") as caught:
        parse_images([entry], ["a"])
    assert SECRET not in str(caught.value)


def test_a_configuration_is_stored_without_them():
    images = ("a=https://me:SEKRET@host/a.zip?b=SEKRET", "b=/data/b", "c")
    kept = ("a=https://host/a.zip", "b=/data/b", "c")
    assert public(TrainConfig(images=images)).images == kept
    assert public(StudyConfig(images=images)).images == kept
    assert public(TrainConfig()) == TrainConfig()
