"""The command line: mistakes are one line and exit code 2, and leave everything as it was."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import get_origin, get_type_hints

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from scipy.io import savemat

from relaydet.cli import COMMANDS, main
from relaydet.config import TrainConfig

COCO_FILE = {
    "images": [{"id": 1, "file_name": "1.png", "width": 20, "height": 10}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
    ],
    "categories": [{"id": 1, "name": "person"}],
}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a good source, its COCO file and a results file, to break one thing in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "store").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "images" / "1.png")
    write(tmp_path / "coco.json", COCO_FILE)
    write(tmp_path / "results.json", [])
    write_source(tmp_path)
    return tmp_path


def write(path, value) -> None:
    path.write_text(json.dumps(value))


def write_source(folder, **changes) -> None:
    source = {"name": "a", "format": "coco", "annotations": "coco.json", "images": "images"}
    write(folder / "sources.json", [{**source, **changes}])


def write_mat(folder) -> None:
    (folder / "annotation").mkdir()
    savemat(folder / "annotation" / "Images.mat", {"Other": np.zeros(1)})
    savemat(folder / "annotation" / "pool.mat", {"pool": np.zeros(1)})
    write_source(folder, format="cuhk_sysu", annotations="annotation")


def files_below(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refusal(capsys, folder, command: str) -> str:
    """Run a command that must be refused; the one line that it printed on standard error."""
    before = files_below(folder)
    assert main(command.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("relaydet: ")
    assert "Traceback" not in line
    assert files_below(folder) == before
    return line


MERGE = "merge --sources sources.json --store store"


@pytest.mark.parametrize(
    ("spoil", "command", "message"),
    [
        pytest.param(
            lambda w: (w / "sources.json").unlink(),
            MERGE,
            "sources.json: .*No such",
            id="no sources",
        ),
        pytest.param(
            lambda w: (w / "sources.json").write_text("[{"), MERGE, "sources.json", id="half a list"
        ),
        pytest.param(
            lambda w: write(w / "sources.json", []), MERGE, "sources is empty", id="empty list"
        ),
        pytest.param(
            lambda w: write_source(w, fromat="coco"),
            MERGE,
            "unknown key 'fromat'",
            id="misspelt key",
        ),
        pytest.param(
            lambda w: write_source(w, format="cocoo"), MERGE, "did you mean coco", id="wrong format"
        ),
        pytest.param(
            lambda w: write_source(w, annotations="x.json"), MERGE, "x.json", id="no annotations"
        ),
        pytest.param(
            lambda w: write_source(w, images="nowhere"),
            MERGE,
            "does not exist",
            id="no image folder",
        ),
        pytest.param(
            lambda w: (w / "coco.json").write_text(json.dumps(COCO_FILE)[:90]),
            *(MERGE, "coco.json: not valid JSON"),
            id="truncated JSON",
        ),
        pytest.param(
            lambda w: write(w / "coco.json", {**COCO_FILE, "images": []}),
            *(MERGE, "source a: "),
            id="empty dataset",
        ),
        pytest.param(write_mat, MERGE, "Images.mat: has no variable Img", id="mat without Img"),
        pytest.param(
            lambda w: (w / "images" / "1.png").unlink(),
            MERGE,
            "none of its 1 images",
            id="no image",
        ),
        pytest.param(
            None, f"{MERGE} --categories persn", "did you mean person", id="category not found"
        ),
        pytest.param(None, "merge --store coco.json", "STORE coco.json", id="store is a file"),
        pytest.param(None, "merge --store s3://b/p", "give a folder", id="store is elsewhere"),
        pytest.param(
            None, "train --dataset none --store store", "no dataset 'none'", id="unknown dataset"
        ),
        pytest.param(
            None, "train --model yolo --store store", "no model 'yolo'", id="unknown model"
        ),
        pytest.param(
            None, "train --batch-size 0 --store store", "BATCH_SIZE: 0", id="batch of nothing"
        ),
        pytest.param(
            None, "train --device cuda:99 --store store", "DEVICE cuda:99", id="no such device"
        ),
        pytest.param(
            None,
            "evaluate --dataset none --store store",
            "no dataset 'none'",
            id="evaluate on none",
        ),
        pytest.param(None, "score no.json results.json", "no.json: cannot be read", id="no file"),
        pytest.param(
            lambda w: (w / "results.json").write_text("[{"),
            *("score coco.json results.json", "results.json: not valid JSON"),
            id="truncated results",
        ),
        pytest.param(
            None, "score results.json results.json", "ground truth has no list", id="no truth"
        ),
        pytest.param(None, "score coco.json coco.json", "detections are no list", id="no results"),
        pytest.param(
            None, "score coco.json results.json --engine x", "Engine 'x'", id="unknown engine"
        ),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(workplace, capsys, spoil, command, message):
    if spoil:
        spoil(workplace)
    line = refusal(capsys, workplace, command)
    assert re.search(message, line), line


@pytest.mark.parametrize(
    ("command", "message"),
    [
        pytest.param(
            "train --weights w.safetensors", "w.safetensors", id="weights that fit nothing"
        ),
        pytest.param("train --weights nowhere.pth", "nowhere.pth", id="no such weights"),
        pytest.param("train --include streat", "no source 'streat'", id="unknown source"),
        pytest.param(
            "train --dataset demo_held", "there are demo_heldout, demo; make it", id="dataset"
        ),
        pytest.param("train --image-size 8", "8 pixels is too small", id="tiny images"),
        pytest.param(
            "evaluate --runs none", "'none' has no exported model", id="run without model"
        ),
        pytest.param(
            "compare --runs none --dataset a b", "there is no dataset 'a'", id="compare on none"
        ),
    ],
)
def test_mistakes_about_a_good_dataset(tiny_demo, tmp_path, monkeypatch, capsys, command, message):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_demo.root, tmp_path / "store")
    safetensors.numpy.save_file({"other.weight": np.zeros(3, np.float32)}, "w.safetensors")
    assert message in refusal(capsys, tmp_path, f"{command} --store store")


def test_merging_again_with_a_mistake_keeps_the_dataset(workplace, capsys):
    assert main(MERGE.split()) == 0
    assert (workplace / "store" / "datasets" / "demo" / "annotations.json").is_file()
    (workplace / "images" / "1.png").unlink()
    capsys.readouterr()
    refusal(capsys, workplace, MERGE)


RESULT = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5}


@pytest.mark.parametrize(("results", "ap"), [([RESULT], 1.0), ([], 0.0)], ids=["found", "empty"])
def test_score_prints_json_alone(workplace, capsys, results, ap):
    write(workplace / "results.json", results)
    assert main(["score", "coco.json", "results.json", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["AP"] == pytest.approx(ap)
    assert printed["per_category"]["person"]["AP"] == pytest.approx(ap)
    assert printed["engine"]
    assert (len(printed), printed["findings"]) == (15, [])


def test_score_prints_a_table(workplace, capsys):
    assert main(["score", "coco.json", "results.json", "--verify"]) == 0
    header, row, engine = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["run", "AP"]
    assert row.split()[:2] == ["results", "0.000"]
    assert engine.startswith("engine: ")


def wrong_texts(kind: type) -> list[tuple[str, str]]:
    """For each option that takes no text: its field and something that it is not."""
    hints = get_type_hints(kind)
    of_text = (str, Path, bool, tuple[str, ...])
    return [
        (field.name, text)
        for field in dataclasses.fields(kind)
        if hints[field.name] not in of_text
        for text in ("two", "1.5.1", "nan", "1e999", " ", "0x10", "-x")
    ]


def one_line_and_2(capsys, arguments: list[str]) -> str:
    """What a wrong command line is answered with."""
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    told = capsys.readouterr()
    assert (code, told.out) == (2, ""), arguments
    (line,) = told.err.splitlines()
    assert line.startswith("relaydet: ")
    assert len(line) < 300
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_another_type_is_named(monkeypatch, capsys, command):
    monkeypatch.setattr("relaydet.cli._run", lambda command: pytest.fail(f"ran {command}"))
    kind = COMMANDS[command]
    required = [f for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING]
    start = [command, *("x" for _ in required)]
    for name, text in wrong_texts(kind):
        line = one_line_and_2(capsys, [*start, f"--{name.replace('_', '-')}={text}"])
        assert line.startswith(f"relaydet: {name.upper()}: {text!r} is not "), line
    for field in dataclasses.fields(kind):
        flag, parameter = f"--{field.name.replace('_', '-')}", field.name.upper()
        hint = get_type_hints(kind)[field.name]
        if field in required:
            continue
        if hint is bool:
            for given in ([f"{flag}=yes"], [flag, "yes"], [f"--no-{flag[2:]}", "yes"]):
                expected = f"relaydet: {parameter}: takes no value; write {flag} or --no-{flag[2:]}"
                assert one_line_and_2(capsys, [*start, *given]).startswith(expected)
        elif get_origin(hint) is not tuple:
            expected = f"relaydet: {parameter}: a value is missing; write {flag} VALUE."
            assert one_line_and_2(capsys, [*start, flag]) == expected
        typo = f"{flag}{flag[-1]}"
        answer = one_line_and_2(capsys, [*start, typo, "1"])
        assert answer == f"relaydet: unknown option {typo}; did you mean {flag}?"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train --epochs two", "EPOCHS: 'two' is not a whole number or None."),
        ("merge --max-images ten", "MAX_IMAGES: 'ten' is not a whole number or None."),
        ("merge --duplicates kep", "DUPLICATES: 'kep' is not keep or drop; did you mean keep?"),
        ("bench --batch-sizes 8 x", "BATCH_SIZES: 'x' is not a whole number."),
        ("train --gpus al", "GPUS: 'al' is not a whole number or auto."),
        ("train --epoch 3", "unknown option --epoch; did you mean --epochs?"),
        ("train --EPOCHS 3", "unknown option --EPOCHS; did you mean --epochs?"),
        ("train --max-images 3", "unknown option --max-images; it is one of relaydet merge."),
        ("train -x", "unknown option -x; relaydet train --help lists those there are."),
        ("train first", "'first' is not expected there; options are written --name value."),
        ("score a", "DETECTIONS: not given; relaydet score --help shows how it is called."),
        ("score", "GROUND_TRUTH and DETECTIONS: not given; relaydet score --help"),
        ("score a b c", "'c' is not expected there; options are written --name value."),
        ("trian", "there is no command 'trian'; did you mean train?"),
        ("", "name a command; there are merge, train, evaluate, compare, fleet, study, bench,"),
        ("--epochs 3", "there is no command '--epochs'; there are merge, train"),
        ("doctor --device gpu --precision x --jsn", "unknown option --jsn; did you mean --json?"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(capsys, command, message):
    assert one_line_and_2(capsys, command.split()).startswith(f"relaydet: {message}")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--epochs 3 --learning-rate 1e-3", {"epochs": 3, "learning_rate": 1e-3}),
        (
            "--epochs=3 --take_over --batch_size 4",
            {"epochs": 3, "take_over": True, "batch_size": 4},
        ),
        ("--epochs None --no-take-over", {}),
        ("--include a b --images", {"include": ("a", "b")}),
        (
            '--include ["a","b"] --images {"c":"/d"}',
            {"include": ("a", "b"), "images": ("c=/d",)},
        ),
        ("--include=a --gpus 2", {"include": ("a",), "gpus": 2}),
        ("--seed -1 --run=-x", {"seed": -1, "run": "-x"}),
        ("--epochs 100000.0", {"epochs": 100_000}),
    ],
)
def test_options_become_the_configuration(monkeypatch, options, expected):
    commands = []
    monkeypatch.setattr("relaydet.cli._run", lambda command: commands.append(command) or 0)
    assert main(["train", *options.split()]) == 0
    assert commands == [TrainConfig(**expected)]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option(capsys, command):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    told = capsys.readouterr().out
    assert f"usage: relaydet {command}" in told
    for field in dataclasses.fields(COMMANDS[command]):
        if field.default is not dataclasses.MISSING:
            assert f"--{field.name.replace('_', '-')}" in told


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("--help", 0),
        ("--version", 0),
        ("merge --help", 0),
        ("train --help", 0),
        ("evaluate --help", 0),
        ("score --help", 0),
        ("demo --help", 0),
        ("", 2),
        ("fly", 2),
        ("train --colour red", 2),
        ("train --epochs many", 2),
        ("score coco.json", 2),
    ],
)
def test_help_and_wrong_flags(workplace, command, code):
    before = files_below(workplace)
    with pytest.raises(SystemExit) as stopped:
        main(command.split())
    assert stopped.value.code == code
    assert files_below(workplace) == before


TRAIN = (
    "train --run r --store {} --device cpu --image-size 64 --epochs 1 --batch-size 6 --workers 0"
)


class Gone:
    """Standard output whose reader has gone."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_training_goes_on_when_nobody_reads_it(tiny_demo, tmp_path, monkeypatch):
    store = tmp_path / "store"
    shutil.copytree(tiny_demo.root, store)
    monkeypatch.setattr("sys.stdout", Gone())
    monkeypatch.setattr("sys.stderr", Gone())
    assert main(TRAIN.format(store).split()) == 0
    status = json.loads((store / "runs/r/status.json").read_bytes())
    assert (status["state"], status["step"]) == ("done", 3)
    assert (store / "runs/r/log.jsonl").read_bytes()
    assert main(["status", "--store", str(store)]) == 0


STRANGE = "B\u00e4r \u6771 \x1b[2J\u202e"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_names_of_strangers_do_nothing_to_the_terminal(workplace, monkeypatch, encoding):
    strange = {**COCO_FILE, "categories": [{"id": 1, "name": STRANGE}]}
    write(workplace / "coco.json", strange)
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding, newline=""))
    assert main(MERGE.split()) == 0
    text = written.getvalue().decode(encoding)
    assert "\x1b" not in text
    assert "\u202e" not in text
    name = json.loads((workplace / "store/datasets/demo/annotations.json").read_bytes())
    assert name["categories"][0]["name"] == STRANGE, "what is written stays as it came"
    shown = STRANGE.replace("\x1b", r"\u001b").replace("\u202e", r"\u202e")
    expected = {"ascii": shown.replace("\u00e4", r"\u00e4"), "utf-8": shown}.get(encoding, shown)
    if encoding != "utf-8":
        expected = expected.replace("\u6771", r"\u6771")
    assert expected in text


def test_an_error_about_a_strange_name_is_one_harmless_line(workplace, capsys):
    write_source(workplace, format="co\x1b[2Jco\u202e\nx")
    line = refusal(capsys, workplace, MERGE)
    assert r"\u001b[2J" in line or r"\x1b[2J" in line
    assert "\u202e" not in line


@pytest.mark.skipif(os.name == "nt", reason="names are always Unicode there")
def test_json_of_a_run_folder_that_is_not_utf_8(workplace, capsys):
    try:
        (workplace / "store/runs" / os.fsdecode(b"caf\xe9")).mkdir(parents=True)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    (workplace / "store/runs/\x1b[2J").mkdir()
    assert main(["status", "--store", "store", "--json"]) == 0
    names = [run["run"] for run in json.loads(capsys.readouterr().out)]
    assert names == ["\x1b[2J", "caf\udce9"]
    assert main(["status", "--store", "store"]) == 0
    table = capsys.readouterr().out
    assert r"\u001b[2J" in table
    assert r"caf\udce9" in table


@pytest.mark.parametrize("moved", [{"annotations": "coco.json"}, {"images": "images"}])
def test_an_error_says_from_where_relative_paths_count(workplace, monkeypatch, capsys, moved):
    """Beside the list of sources is not in the folder that the command runs in."""
    there = {key: str(workplace / name) for key, name in SOURCE_PATHS.items()}
    write_source(workplace, **{**there, **moved})
    (workplace / "elsewhere").mkdir()
    monkeypatch.chdir(workplace / "elsewhere")
    line = refusal(capsys, workplace, "merge --sources ../sources.json --store ../store")
    (name,) = moved.values()
    cwd = workplace / "elsewhere"
    assert f"relative paths count from the folder that the command runs in, which is {cwd};" in line
    assert line.endswith(f"there is {(workplace / name).resolve()}.")
    write_source(workplace, **{**there, **dict.fromkeys(moved, "nowhere.x")})
    line = refusal(capsys, workplace, "merge --sources ../sources.json --store ../store")
    assert line.endswith(f"the command runs in, which is {cwd}.")
    assert "nowhere.x" in line


SOURCE_PATHS = {"annotations": "coco.json", "images": "images"}
