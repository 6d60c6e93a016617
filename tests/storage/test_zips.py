"""Files out of a zip: the same as zipfile reads, and one sentence for what is broken or crafted."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import unicodedata
import zipfile
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relaydet.errors import RelayError
from relaydet.storage.limits import IMAGE, TEXT, Limits
from relaydet.storage.zips import find_name, folders_to_try, is_zip, open_zip, read_zipped

PLAIN = {"a.txt": b"first" * 100, "b/c.bin": bytes(range(256)), "empty": b""}


def pack(files: dict[str, bytes], method=zipfile.ZIP_DEFLATED, comment=b"", zip64=False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            with archive.open(name, "w", force_zip64=zip64) as file:
                file.write(data)
        archive.comment = comment
    return buffer.getvalue()


@pytest.fixture
def put(tmp_path):
    def put(data: bytes):
        path = tmp_path / "x.zip"
        path.write_bytes(data)
        return path

    return put


def everything(path) -> dict[str, bytes]:
    index = open_zip(path)
    return {name: read_zipped(index, name) for name in index.places}


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\\\0/.:"), min_size=1)
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map("/".join), st.binary(max_size=3000), max_size=8
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    files=trees,
    method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    comment=st.binary(max_size=100).filter(lambda c: b"PK" not in c),
    before=st.binary(max_size=50),
    zip64=st.booleans(),
)
def test_what_zipfile_wrote_is_read(files, method, comment, before, zip64, put):
    path = put(before + pack(files, method, comment, zip64))
    normal = {unicodedata.normalize("NFC", name): data for name, data in files.items()}
    assert everything(path) == normal
    assert is_zip(path)


def test_a_zip64_directory_is_read(put, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)  # it then writes as for 65536 files
    data = pack(PLAIN)
    assert b"PK\6\6" in data
    for before in (b"", b"#!program\n"):
        assert everything(put(before + data)) == PLAIN


def test_large_offsets_stand_in_the_extra_field(put):
    """As in a zip above 4 GB: the fields full, the values in a zip64 extra field."""
    data = bytearray(pack({"a": b"hello"}, zipfile.ZIP_STORED))
    at = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    entry = bytearray(data[at:end])
    for position in (20, 24, 42):
        entry[position : position + 4] = b"\xff" * 4
    extra = struct.pack("<2H2s2H3Q", 9, 2, b"xx", 1, 24, 5, 5, 0)
    entry[30:32] = struct.pack("<H", len(extra))
    tail = bytearray(data[end:])
    tail[12:16] = struct.pack("<L", len(entry) + len(extra))
    assert everything(put(bytes(data[:at] + entry + extra + tail))) == {"a": b"hello"}


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_is_one_error_and_never_wrong_bytes(data, put):
    good = pack(PLAIN, comment=b"a comment")
    broken = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    keep = data.draw(st.integers(0, len(broken)) | st.just(len(broken)))
    try:
        index = open_zip(put(bytes(broken[:keep])))
    except RelayError:
        return
    for name in index.places:
        try:
            content = read_zipped(index, name)
        except RelayError:
            continue
        assert content in PLAIN.values()


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data, put):
    for crafted in (data, data + b"PK\5\6" + data, b"PK\1\2" + data + b"PK\5\6" + bytes(18)):
        with suppress(RelayError):
            everything(put(crafted))


@pytest.mark.parametrize("keep", [0, 10, -1, -30])
def test_a_cut_zip_is_named(keep, put):
    with pytest.raises(RelayError, match=r"x\.zip: not a whole zip .* copy or download it again"):
        open_zip(put(pack(PLAIN)[:keep]))


def test_a_zip_in_parts_is_refused(put):
    data = bytearray(pack(PLAIN))
    data[-18:-16] = b"\1\0"
    with pytest.raises(RelayError, match="one part of several"):
        open_zip(put(bytes(data)))


def patched(name: str, data: bytes, at: int, value: bytes) -> bytes:
    """A zip of one file, with some bytes of its entry replaced."""
    packed = bytearray(pack({name: data}))
    start = packed.index(b"PK\1\2") + at
    packed[start : start + len(value)] = value
    return bytes(packed)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (8, b"\1\0", "encrypted"),
        (10, b"\x0e\0", "packed by method 14"),
        (10, b"\x63\0", "packed by method 99"),
        (16, b"\0\0\0\0", "checksum is wrong"),
        (20, b"\xf0\xff\xff\x7f", "cannot hold no more than 1000"),
        (20, b"\0\4\0\0", "cut off"),
        (20, b"\1\0\0\0", "does not have the 1000 bytes"),
        (24, b"\xff\xff\xff\x7f", r"says to have \d+ bytes, the limit is 536870912"),
        (24, b"\0\0\0\x10", "more than can be true"),
        (24, b"\x05\0\0\0", "does not have the 5 bytes"),
        (24, b"\0\0\0\0", "does not have the 0 bytes"),
        (24, b"\x50\x50\0\0", "does not have the 20560 bytes"),
        (42, b"\5\0\0\0", "damaged, or changed"),
        (42, b"\xff\xff\xff\0", "cut off"),
    ],
)
def test_what_an_entry_claims_is_checked(at, value, message, put):
    index = open_zip(put(patched("a.jpg", b"x" * 1000, at, value)))
    with pytest.raises(RelayError, match=rf"x\.zip/a\.jpg: cannot be read .*{message}"):
        read_zipped(index, "a.jpg")


@pytest.mark.parametrize("claim", [None, 17 << 20, 1 << 20, 10])
def test_a_bomb_never_takes_more_memory_than_it_says(claim, put):
    bomb = pack({"a.jpg": bytes(64 << 20)})
    if claim is not None:
        at = bomb.index(b"PK\1\2") + 24
        bomb = bomb[:at] + struct.pack("<L", claim) + bomb[at + 4 :]
    index = open_zip(put(bomb))
    tracemalloc.start()
    with pytest.raises(RelayError):
        read_zipped(index, "a.jpg")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


def test_crafted_lists_of_files_stay_within_ten_times_their_size(put):
    entry = bytearray(pack({"aaaa": b""}))
    entry = entry[entry.index(b"PK\1\2") : entry.index(b"PK\5\6")]
    number = 20_000
    listing = b"".join(
        bytes(entry[:28]) + b"\x05\0" + bytes(entry[30:46]) + b"%05x" % n for n in range(number)
    )
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(listing), 0, 0)
    path = put(listing + end)
    tracemalloc.start()
    assert len(open_zip(path).places) == number
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(listing)


@pytest.mark.parametrize(
    "name",
    ["../a", "a/../../b", "/etc/passwd", "\\a", "a\\..\\b", "..\\a", "b\\", "folder/", "..", ""],
)
def test_names_that_lead_elsewhere_are_not_there(name, put):
    data = pack({"N" * max(1, len(name)): b"x", "good": b"y"})
    path = put(data.replace(b"N" * max(1, len(name)), name.encode() or b"\0"))
    assert set(open_zip(path).places) == {"good"}


@pytest.mark.parametrize(
    ("raw", "utf8", "name"),
    [
        ("é.jpg".encode(), True, "é.jpg"),
        ("é.jpg".encode(), False, "é.jpg"),  # macOS sets no flag
        (unicodedata.normalize("NFD", "é.jpg").encode(), False, "é.jpg"),
        ("é.jpg".encode("cp437"), False, "é.jpg"),
        ("é.jpg".encode("cp437"), True, "é.jpg"),  # the flag lies
        ("写真/一.jpg".encode(), True, "写真/一.jpg"),
        (b"./a//b.jpg", False, "a/b.jpg"),
        (b"a\\b\\c.jpg", False, "a/b/c.jpg"),  # .NET
    ],
)
def test_names_of_any_alphabet_are_found(raw, utf8, name, put):
    data = bytearray(pack({"N" * len(raw): b"x"}).replace(b"N" * len(raw), raw))
    at = data.index(b"PK\1\2") + 8
    data[at : at + 2] = struct.pack("<H", 0x800 if utf8 else 0)
    index = open_zip(put(bytes(data)))
    for form in ("NFC", "NFD"):
        found = find_name(index, unicodedata.normalize(form, name), ("",))
        assert found is not None
        assert read_zipped(index, found) == b"x"


def test_of_two_entries_with_one_name_the_last_counts(put):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"old")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", b"new")
    assert everything(put(buffer.getvalue())) == {"a": b"new"}


@pytest.mark.parametrize(
    ("files", "folder", "expected"),
    [
        (["a.jpg", "b/c.jpg"], "", ("",)),
        (["t/a.jpg", "t/b.jpg"], "", ("", "t/")),
        (["t/u/a.jpg", "t/u/b/c.jpg"], "", ("", "t/", "t/u/")),
        (["t/a.jpg", "t-2/b.jpg"], "", ("",)),
        (["t/ab/1", "t/ac/2"], "t", ("t/",)),
        (["t/u/1", "t/u/2", "v/1"], "/t/", ("t/", "t/u/")),
        (["t/a.jpg", "__MACOSX/t/._a.jpg"], "", ("", "t/")),
        (["t/i/a.jpg", "t/an.json"], "i", ("t/i/",)),
        (["t/u/i/b/a.jpg", "t/u/an.json"], "i", ("t/u/i/", "t/u/i/b/")),
        (["t/t/a.jpg", "t/b.jpg"], "t", ("t/",)),
    ],
)
def test_folders_that_names_may_start_from(files, folder, expected, put):
    index = open_zip(put(pack(dict.fromkeys(files, b""))))
    assert folders_to_try(index, folder) == expected


@pytest.mark.parametrize(
    ("files", "folder", "message"),
    [
        (["t/a", "u/b"], "v", "no file in a folder 'v'; at its top are t, u"),
        (["t"], "t", "no file in a folder 't'"),
        ([], "", "no file; give another"),
    ],
)
def test_folders_must_hold_something(files, folder, message, put):
    index = open_zip(put(pack(dict.fromkeys(files, b""))))
    with pytest.raises(RelayError, match=message):
        folders_to_try(index, folder)


def test_a_replaced_zip_is_read_anew(put):
    path = put(pack({"a": b"1"}))
    assert everything(path) == {"a": b"1"}
    put(pack({"b": b"22"}))
    assert everything(path) == {"b": b"22"}


def test_a_limit_is_kept_to(put):
    index = open_zip(put(pack({"a": b"12345"})))
    assert read_zipped(index, "a", Limits(5, 5, 1)) == b"12345"
    with pytest.raises(RelayError, match="the limit is 4"):
        read_zipped(index, "a", Limits(4, 4, 1))


@pytest.mark.parametrize(("megabytes", "image"), [(3, True), (5, False)])
def test_images_may_not_blow_up_as_far_as_text(megabytes, image, put):
    data = b"".join(os.urandom(200) + bytes(5800) for _ in range(megabytes * 175))
    index = open_zip(put(pack({"a": data})))
    assert read_zipped(index, "a", TEXT) == data
    if image:
        assert read_zipped(index, "a", IMAGE) == data
    else:
        with pytest.raises(RelayError, match="more than can be true"):
            read_zipped(index, "a", IMAGE)


def test_no_such_zip(tmp_path):
    with pytest.raises(RelayError, match="No such file"):
        open_zip(tmp_path / "none.zip")
