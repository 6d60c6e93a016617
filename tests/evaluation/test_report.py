"""The table and the page: every number in its place, nothing of the data becomes markup."""

from __future__ import annotations

import base64
import re

import pytest

from relaydet.evaluation.report import (
    SHOWN,
    Section,
    differences_table,
    intervals_table,
    metrics_table,
    report_page,
)
from relaydet.evaluation.significance import Difference, Interval, Significance

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


def significance(*names: str) -> Significance:
    interval = Interval(0.1, 0.05, 0.2)
    first, *others = names
    return Significance(
        {name: {"AP50": interval} for name in names},
        [
            Difference(first, other, "AP50", Interval(0.02, 0.01, 0.034), "better")
            for other in others
        ],
        draws=1000,
        images=2345,
    )


def page(name="night", facts=None, pictures=(), found=None, title="runs") -> str:
    section = Section(title, [(name, METRICS)], found, facts or {}, list(pictures))
    return report_page(title, [section])


def test_the_page_shows_the_numbers():
    html = page(facts={"Engine": "pycocotools 2"})
    assert re.findall("<td>([^<]*)</td>", html) == ["night", *CELLS]
    assert re.findall("<th>([^<]*)</th>", html) == ["run", *SHOWN]
    assert "<li>Engine: pycocotools 2</li>" in html
    assert "Which is better" not in html


def test_the_page_shows_intervals_and_which_is_better():
    html = page(found=significance("night", "day"))
    assert "<td>0.100<small>0.050 to 0.200</small></td>" in html
    assert "<td>day</td><td>night</td><td>AP50</td><td>+0.020 [+0.010, +0.034]</td>" in html
    assert '<td class="better">day is better</td>' in html
    assert "2,345 images, 1,000 draws" in html


def test_of_many_differences_ap50_comes_first_and_all_on_demand():
    assert "<details>" not in page(found=significance(*"abcdefgh"))
    few = significance(*"abcdefgh")
    other = [Difference("a", d.second, "AP", d.delta, d.verdict) for d in few.differences]
    many = Significance(few.intervals, [*few.differences, *other], 1000, 2345)
    first, _, rest = page(found=many).partition("<details>")
    assert first.count("<td>AP50</td>") == 7
    assert "<td>AP</td>" not in first
    assert rest.count("<td>AP50</td>") == rest.count("<td>AP</td>") == 7


def test_the_tables_of_a_terminal():
    found = significance("night", "day")
    assert intervals_table(found).splitlines() == [
        "run    AP50",
        "night  0.100 [0.050, 0.200]",
        "day    0.100 [0.050, 0.200]",
    ]
    assert differences_table(found).splitlines() == [
        "difference   of    with 95 % interval       verdict",
        "day - night  AP50  +0.020 [+0.010, +0.034]  day is better",
    ]
    assert differences_table(significance("alone")) == ""


def test_every_name_is_escaped():
    html = page(EVIL, {EVIL: EVIL}, [(EVIL, b"png")], significance(EVIL, "x"), EVIL)
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#x27;") == 9


def test_the_page_opens_offline():
    html = page(pictures=[("a chart", b"\x89PNG bytes")], found=significance("night", "day"))
    assert base64.b64encode(b"\x89PNG bytes").decode() in html
    sources = re.findall(r'(?:src|href)="([^"]{0,22})', html)
    assert sources == ["data:image/png;base64,"]
    photo = page(pictures=[("a photo", b"\xff\xd8JPEG bytes")])
    assert "data:image/jpeg;base64," in photo
    assert "http" not in html
    assert "url(" not in html
    assert html.startswith("<!doctype html>")
