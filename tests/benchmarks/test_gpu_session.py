"""What only runs where there is a GPU: that it starts, on a CPU and in tiny sizes."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from relaydet.cli import _parsed

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
PARTS = [path.stem for path in sorted(BENCHMARKS.glob("gpu_*.py"))]


class ParsedError(Exception):
    """The command line was understood."""


@pytest.fixture
def session(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_session")


def understands(monkeypatch, module, arguments) -> bool:
    """Whether a program takes a command line."""
    parse = argparse.ArgumentParser.parse_args

    def parsed(self, *given, **named):
        parse(self, *given, **named)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    # Some set what only holds for their own process.
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with pytest.raises(ParsedError):
        module.main()
    return True


@pytest.mark.parametrize("dry", [True, False], ids=["on a CPU", "on a GPU"])
def test_every_part_is_there_and_takes_its_command_line(monkeypatch, session, dry):
    programs = set()
    for part in session.parts(dry, Path("folder")):
        first, *rest = part.command
        if first == "-m" and rest[0] == "relaydet":
            assert _parsed(rest[1:]).steps == (2 if dry else 20)
        elif first == "-m":
            assert rest[0] == "pytest"
            files = [argument for argument in rest if argument.endswith(".py")]
            assert files
            assert [name for name in files if "mark.gpu" not in (ROOT / name).read_text()] == []
        else:
            programs.add(Path(first).stem)
            with monkeypatch.context() as patch:
                assert understands(patch, importlib.import_module(Path(first).stem), rest)
    assert set(PARTS) - {"gpu_session"} <= programs, "each gpu_*.py is part of a session"


def test_all_tests_that_need_a_gpu_are_part_of_a_session(session):
    marked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if "@pytest.mark.gpu" in path.read_text(encoding="utf-8") and path != Path(__file__)
    }
    assert marked == {*session.TESTS, "tests/jobs/test_ranks.py"}


def test_the_parts_of_most_value_fit_into_the_session(session):
    limits = {part.name: part.seconds for part in session.parts(False, Path())}
    assert 470 <= session.TOTAL <= 570
    first = ("facts", "smoke", "speed8", "profile", "tests", "speed2", "speed16")
    assert sum(limits[name] for name in first) <= session.TOTAL + 30


def test_a_part_that_takes_too_long_ends_with_what_it_started(session, tmp_path):
    forks = (
        "import subprocess, sys; print('begun', flush=True);"
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    )
    slow = session.Part("slow", 1, ("-m", "timeit", "-n", "1", "-r", "1", forks))
    assert session.run(slow, 5, dict(os.environ), tmp_path / "slow.txt") is None
    assert "begun" in (tmp_path / "slow.txt").read_text()


def test_wheels_are_used_without_pip(session, tmp_path):
    with zipfile.ZipFile(tmp_path / "some-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some_module_in_a_wheel.py", "ANSWER = 42\n")
    env = session.environment(tmp_path, tmp_path / "unpacked", dry=True)
    code = "import some_module_in_a_wheel as m, train_speed, relaydet; print(m.ANSWER)"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "42", done.stderr


@pytest.mark.parametrize(
    ("variable", "path", "expected"),
    [("abc1234", "", "abc1234"), ("", "/nowhere", "unknown")],
    ids=["as COMMIT says", "without git"],
)
def test_the_commit_is_told_where_git_is_absent(monkeypatch, session, variable, path, expected):
    monkeypatch.setenv("COMMIT", variable)
    monkeypatch.setenv("PATH", path)
    assert importlib.import_module("train_speed").commit() == expected
    assert f"commit {expected}, a card, " in session.heading("a card")


@pytest.mark.slow
def test_the_whole_session_runs_on_a_cpu_without_git_and_pip(tmp_path):
    """From a copy of the tree, as on a machine that has nothing else."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("lib", "benchmarks"):
        (copy / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [
            *(sys.executable, str(copy / "benchmarks" / "gpu_session.py"), "--dry"),
            *("--out", str(tmp_path / "out"), "--files", str(tmp_path / "none")),
            *("--total", "3000"),
        ],
        env={**os.environ, "PATH": "/nowhere", "COMMIT": "abc1234"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert "commit abc1234, CPU, " in tables
    ended = [line.split(" | ") for line in tables.splitlines() if line.count("|") == 4][2:]
    assert {row[0].strip("| "): row[1] for row in ended} == dict.fromkeys(
        [
            *("facts", "smoke", "speed8", "profile", "speed2", "speed16"),
            *("resume", "loader", "inference", "bench"),
        ],
        "done",
    )
    assert tables.count("relaydet, float32") >= 3
