"""The mutants that `make mutation` runs: each is another program, and still a program."""

from pathlib import Path

import pytest
from mutation.__main__ import TESTS
from mutation.mutants import draw, mutants_of

LIB = Path(__file__).resolve().parents[1] / "lib"
SOURCE = """
LIMIT = 3

def pick(values: list[int], most: int = 2) -> bool:
    "Say 5 things."
    for value in values:
        if value < most and not value == 0:
            print(value + 1)
            break
    return len(values) > 0 or True
"""


def test_each_kind_of_change_is_made_once():
    changes = [str(mutant) for mutant in mutants_of("a.py", SOURCE)]
    assert sorted(changes) == sorted(
        [
            "`value < most and not value == 0` -> `((value < most) or (not value == 0))`",
            "`value < most and not value == 0` -> `(not (value < most and not value == 0))`",
            "`value < most` -> `((value) <= (most))`",
            "`not value == 0` -> `((value == 0))`",
            "`value == 0` -> `((value) != (0))`",
            "`0` -> `1`",
            "`print(value + 1)` -> `pass`",
            "`value + 1` -> `((value) - (1))`",
            "`1` -> `2`",
            "`break` -> `continue`",
            "`len(values) > 0 or True` -> `((len(values) > 0) and (True))`",
            "`len(values) > 0` -> `((len(values)) >= (0))`",
            "`0` -> `1`",
            "`True` -> `False`",
        ]
    )


def test_text_that_is_no_ascii_moves_no_change():
    source = 'def f(a, b):\n    return ("é😀", a < b)\n'
    (mutant,) = mutants_of("a.py", source)
    assert mutant.applied(source) == 'def f(a, b):\n    return ("é😀", ((a) <= (b)))\n'


@pytest.mark.parametrize("file", list(TESTS))
def test_every_mutant_of_a_module_compiles_and_differs(file):
    source = (LIB / "relaydet" / file).read_text()
    mutants = mutants_of(file, source)
    assert len(mutants) >= 20
    for mutant in mutants:
        assert mutant.applied(source) != source
        compile(mutant.applied(source), file, "exec")


def test_the_same_seed_draws_the_same_mutants():
    files = ["data/order.py", "storage/lease.py"]
    first = draw(LIB, files, 11, seed=1)
    assert first == draw(LIB, files, 11, seed=1) != draw(LIB, files, 11, seed=2)
    assert [sum(m.file == file for m in first) for file in files] == [6, 5]
