"""Make mutants: copies of a module that differ in one operator, number, condition or call."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMPARISONS = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
}
OPERATIONS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.FloorDiv: "*", ast.Mod: "//"}


@dataclass(frozen=True)
class Mutant:
    """One change of a source file."""

    file: str
    """Below lib/relaydet."""
    line: int
    before: str
    """The source text that is replaced, on one line or several."""
    after: str
    first: int
    last: int
    """Characters of the source from `first` to `last` are replaced."""

    def applied(self, source: str) -> str:
        """Return the source with the change in it."""
        return source[: self.first] + self.after + source[self.last :]

    def __str__(self) -> str:
        return f"`{' '.join(self.before.split())}` -> `{' '.join(self.after.split())}`"


def mutants_of(file: str, source: str) -> list[Mutant]:
    """Return every mutant of a module, in the order of the source.

    What is said to people (f-strings, arguments of exceptions) is left alone, and so are
    docstrings, annotations and the module's own constants, most of which are durations.
    """
    tree, starts = ast.parse(source), _line_starts(source)
    found = []
    for node in _relevant(tree):
        for part, after in _changes(node, source):
            first, last = _span(part, starts, source)
            found.append(Mutant(file, part.lineno, source[first:last], after, first, last))
    return sorted(found, key=lambda mutant: (mutant.first, mutant.after))


def draw(lib: Path, files: list[str], count: int, seed: int) -> list[Mutant]:
    """Draw mutants of some modules by seed, as many of each module as of the next."""
    drawn = []
    for number, file in enumerate(files):
        share = count // len(files) + (number < count % len(files))
        every = mutants_of(file, (lib / "relaydet" / file).read_text())
        chosen = random.Random(f"{seed}/{file}").sample(every, min(share, len(every)))
        drawn += sorted(chosen, key=lambda mutant: mutant.first)
    return drawn


def _relevant(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes inside functions, without what only makes sentences and types."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for statement in node.body:
                yield from _walk(statement)
        elif isinstance(node, ast.ClassDef):
            yield from _relevant(node)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, (ast.JoinedStr, ast.Raise)):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(child)


def _changes(node: ast.AST, source: str) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    def text(part: ast.AST) -> str:
        return f"({ast.get_source_segment(source, part)})"

    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        sign = COMPARISONS[type(node.ops[0])]
        yield node, f"({text(node.left)} {sign} {text(node.comparators[0])})"
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        yield node, f"({text(node.left)} {OPERATIONS[type(node.op)]} {text(node.right)})"
    elif isinstance(node, ast.BoolOp):
        word = " or " if isinstance(node.op, ast.And) else " and "
        yield node, f"({word.join(text(value) for value in node.values)})"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node, f"({text(node.operand)})"
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield node, str(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield node, str(node.value + 1)
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield node.test, f"(not {text(node.test)})"
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield node, "pass"
    elif isinstance(node, ast.Break):
        yield node, "continue"
    elif isinstance(node, ast.Continue):
        yield node, "break"


def _line_starts(source: str) -> list[int]:
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts


def _span(node: ast.expr | ast.stmt, starts: list[int], source: str) -> tuple[int, int]:
    """Positions in characters; those of `ast` count bytes of UTF-8 within a line."""

    def position(line: int, offset: int) -> int:
        text = source[starts[line - 1] : starts[line]]
        return starts[line - 1] + len(text.encode()[:offset].decode())

    last_line, last = node.end_lineno or node.lineno, node.end_col_offset or 0
    return position(node.lineno, node.col_offset), position(last_line, last)
