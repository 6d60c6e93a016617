"""The table and the page: every number in its place, nothing of the data becomes markup."""

from __future__ import annotations

import base64
import re

import pytest

from relaydet.evaluation.report import SHOWN, metrics_table, report_page

METRICS = {
    name: -1.0 if name == "APs" else place / 10 for place, name in enumerate((*SHOWN, "ARl"))
}
CELLS = ["-" if name == "APs" else f"{METRICS[name]:.3f}" for name in SHOWN]
EVIL = "<script>alert(1)</script>&\"'"


@pytest.mark.parametrize("names", [["a"], ["a", "a much longer name", "  on street"]], ids=len)
def test_the_table_lines_up(names):
    header, *rows = metrics_table([(name, METRICS) for name in names]).splitlines()
    assert header.split() == ["run", *SHOWN]
    assert [row.startswith(name) for row, name in zip(rows, names, strict=True)] == [True] * len(
        rows
    )
    assert [row.split()[-len(SHOWN) :] for row in rows] == [CELLS] * len(names)
    assert {len(row) for row in rows} == {len(header)}


def test_the_page_shows_the_numbers():
    page = report_page("runs", [("night", METRICS)], {"Engine": "pycocotools 2"}, [])
    assert re.findall("<td>([^<]*)</td>", page) == ["night", *CELLS]
    assert re.findall("<th>([^<]*)</th>", page) == ["run", *SHOWN]
    assert "<li>Engine: pycocotools 2</li>" in page


def test_every_name_is_escaped():
    page = report_page(EVIL, [(EVIL, METRICS)], {EVIL: EVIL}, [(EVIL, b"png")])
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#x27;") == 7


def test_the_page_opens_offline():
    page = report_page("runs", [("night", METRICS)], {}, [("a chart", b"\x89PNG bytes")])
    assert base64.b64encode(b"\x89PNG bytes").decode() in page
    sources = re.findall(r'(?:src|href)="([^"]{0,22})', page)
    assert sources == ["data:image/png;base64,"]
    assert "http" not in page
    assert page.startswith("<!doctype html>")
