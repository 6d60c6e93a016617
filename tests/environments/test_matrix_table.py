"""What the matrix says of a generation that could not be tried, or did not do well."""

from __future__ import annotations

from dataclasses import replace

import pytest
from matrix.generations import GENERATIONS, PYTHONS
from matrix.pythons import choose
from matrix.run import Row, rows_of
from matrix.table import as_markdown

OLDEST = GENERATIONS[0]
FINE = Row(OLDEST, OLDEST.name, "3.10", (("torch", "2.0.1"),), "11.7", ("sm_37", "sm_50"), passed=3)


def test_a_generation_without_its_python_is_a_failure_with_a_reason(tmp_path):
    (row,) = rows_of(OLDEST, {"3.13": "python3.13"}, tmp_path, [])
    assert not row.good
    assert row.trouble == "none of Python 3.10, 3.11 is here"


@pytest.mark.parametrize(
    ("change", "good", "line"),
    [
        pytest.param({}, True, "| K80 | sm_37 | 3 | 0 | 0 |", id="fine"),
        pytest.param({"failed": ("test_a",)}, False, "FAILED test_a", id="a failed test"),
        pytest.param({"trouble": "pip: no"}, False, "TROUBLE pip: no", id="trouble"),
        pytest.param({"passed": 0}, False, "| 0 | 0 | 0 |", id="no test ran"),
        pytest.param({"architectures": ("sm_50",)}, False, "| not sm_37 |", id="no kernels"),
    ],
)
def test_a_row_says_what_is_wrong(change, good, line):
    row = replace(FINE, **change)
    assert row.good is good
    assert line in as_markdown([row], {"3.10": "python3.10"}, "abc", "")


def test_the_table_names_the_pythons_that_are_missing_or_were_not_tried():
    table = as_markdown([FINE], {"3.10": "a", "3.12": "b"}, "abc", "")
    assert "- not on this machine: Python 3.11, 3.13" in table
    assert "- not tried: Python 3.12" in table


def test_each_python_occurs_where_all_are_there():
    there = dict.fromkeys(PYTHONS, "python")
    assert {choose(generation.pythons, there) for generation in GENERATIONS} == set(PYTHONS)
