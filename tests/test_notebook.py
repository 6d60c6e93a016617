"""What a notebook hands over: its parameters as a configuration, its mistakes as one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from relaydet import notebook
from relaydet.config import EvaluateConfig, MergeConfig, SourceConfig, StudyConfig, TrainConfig
from relaydet.errors import RelayError
from relaydet.parameters import listing
from relaydet.viewing.pictures import Picture

SOURCE = {"name": "a", "format": "coco", "annotations": "a.json", "images": "a"}


@pytest.fixture
def handed_over(monkeypatch):
    """The configurations that reach the jobs."""
    configs = []
    for job in ("merge", "train", "evaluate", "study"):
        monkeypatch.setattr(
            f"relaydet.jobs.{job}.{job}", lambda config, say: configs.append(config)
        )
    return configs


@pytest.mark.parametrize(
    ("sources", "given", "expected"),
    [
        pytest.param("demo", {}, {}, id="nothing"),
        pytest.param(
            "demo",
            {"categories": [], "split": {}, "images": {}, "include": ""},
            {},
            id="everything empty",
        ),
        pytest.param(
            "demo", {"categories": ["a", "b"]}, {"categories": ("a", "b")}, id="categories, a list"
        ),
        pytest.param(
            "demo",
            {"categories": {"ped": "person", "car": None, "*": "*"}},
            {"categories": ("ped=person", "car=", "*")},
            id="categories, a mapping",
        ),
        pytest.param("demo", {"split": {"val": 0.1}}, {"split": ("val=0.1",)}, id="split"),
        pytest.param("demo", {"images": {"a": "/b"}}, {"images": ("a=/b",)}, id="images"),
        pytest.param(
            "demo",
            {"categories": '["a", "b, c"]', "split": '{"val": 0.2}', "include": "[001, 'x']"},
            {"categories": ("a", "b, c"), "split": ("val=0.2",), "include": ("001", "x")},
            id="lists and mappings as text",
        ),
        pytest.param(
            "demo",
            {"categories": "{ped: person, car: null, '*': '*'}", "images": "{}", "held_out": "[]"},
            {"categories": ("ped=person", "car=", "*")},
            id="a mapping of YAML as text",
        ),
        pytest.param(
            "demo", {"categories": "[left over"}, {"categories": ("[left over",)}, id="a name"
        ),
        pytest.param(
            "demo",
            {"strict": "true", "seed": "7", "max_images": "None", "near_duplicates": 0},
            {"strict": True, "seed": 7},
            id="texts for other types",
        ),
        pytest.param(
            "demo",
            {"max_images": 100000.0, "seed": "1e5"},
            {"max_images": 100_000, "seed": 100_000},
            id="whole numbers with a point",
        ),
        pytest.param(
            json.dumps([SOURCE, "known"]),
            {},
            {"sources": (SourceConfig(**SOURCE), "known")},
            id="a list of sources as text",
        ),
        pytest.param("demo", {"formats": "yolo"}, {"formats": ("yolo",)}, id="one format"),
        pytest.param([SOURCE], {}, {"sources": (SourceConfig(**SOURCE),)}, id="a list of sources"),
        pytest.param("known", {}, {"sources": ("known",)}, id="a name"),
        pytest.param(
            [SOURCE, "known"],
            {},
            {"sources": (SourceConfig(**SOURCE), "known")},
            id="a list with a name",
        ),
    ],
)
def test_merge_parameters(handed_over, sources, given, expected):
    notebook.merge(sources, dataset="people", **given)
    assert handed_over == [MergeConfig("people", **expected)]
    assert hash(handed_over[0]), "no list is left in it"


@pytest.mark.parametrize(
    ("job", "given", "expected"),
    [
        pytest.param("train", {}, TrainConfig(), id="train, nothing"),
        pytest.param(
            "train",
            {"include": ["a", "b"], "epochs": 3},
            TrainConfig(include=("a", "b"), epochs=3),
            id="train, a list",
        ),
        pytest.param(
            "train",
            {"epochs": "4", "learning_rate": "1e-3", "max_minutes": "null", "gpus": "2"},
            TrainConfig(epochs=4, learning_rate=1e-3, gpus=2),
            id="train, numbers as text",
        ),
        pytest.param(
            "train",
            {"store": Path("work"), "seed": np.int64(3), "resume_from": None},
            TrainConfig(store="work", seed=3),
            id="train, a path and a number of NumPy",
        ),
        pytest.param(
            "study",
            {"dataset": "a", "batch_sizes": "[4, 8]"},
            StudyConfig(dataset="a", batch_sizes=(4, 8)),
            id="study, a list of numbers as text",
        ),
        pytest.param("train", {"include": "a"}, TrainConfig(include=("a",)), id="train, one name"),
        pytest.param("train", {"include": []}, TrainConfig(), id="train, an empty list"),
        pytest.param(
            "evaluate", {"runs": ["a", "b"]}, EvaluateConfig(runs=("a", "b")), id="evaluate, a list"
        ),
        pytest.param("evaluate", {"runs": "ab"}, EvaluateConfig(runs=("ab",)), id="evaluate, one"),
        pytest.param(
            "evaluate", {"dataset": "a"}, EvaluateConfig(dataset=("a",)), id="evaluate on one"
        ),
        pytest.param(
            "study",
            {"dataset": "a", "batch_sizes": [4]},
            StudyConfig(dataset="a", batch_sizes=(4,)),
            id="study",
        ),
    ],
)
def test_the_parameters_of_the_other_jobs(handed_over, job, given, expected):
    getattr(notebook, job)(**given)
    assert handed_over == [expected]
    assert hash(handed_over[0]) == hash(expected), "no list is left in it"


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ("nowhere.json", "nowhere.json: the list of sources cannot be read"),
        ([], "the list of sources is empty"),
        ([{"name": "a"}], "not a list of sources"),
        ([{**SOURCE, "fromat": "coco"}], "unknown key 'fromat'"),
        ([{**SOURCE, "offset": "one"}], "not a list of sources"),
        ({"a": SOURCE}, "not a list of sources"),
        ([SOURCE, 3], "not a list of sources"),
        (None, "not a list of sources"),
    ],
    ids=str,
)
def test_mistakes_in_sources_are_explained(handed_over, sources, message):
    with pytest.raises(RelayError, match=message) as caught:
        notebook.merge(sources)
    assert caught.value._render_traceback_() == [f"RelayError: {caught.value}"]
    assert "\n" not in str(caught.value)
    assert handed_over == []


@pytest.mark.parametrize(
    ("call", "parameters", "message"),
    [
        ("train", {"epochs": "three"}, "^EPOCHS: 'three' is not a whole number or None.$"),
        ("train", {"epochs": 1.5}, "^EPOCHS: 1.5 is not a whole number or None.$"),
        ("train", {"epochs": True}, "^EPOCHS: True is not a whole number or None.$"),
        ("train", {"take_over": "maybe"}, "^TAKE_OVER: 'maybe' is not true or false.$"),
        ("train", {"gpus": "all"}, "^GPUS: 'all' is not a whole number or auto.$"),
        ("train", {"include": [1]}, '^INCLUDE: 1 is a number, not text; write it in quotes, "1"'),
        ("train", {"run": 1}, '^RUN: 1 is a number, .*papermill: -r RUN TEXT .*-y .RUN: "TEXT".'),
        ("train", {"run": ["a"]}, r"^RUN: \['a'\] is not text."),
        ("train", {"run": None}, "^RUN: None is not text."),
        ("train", {"run": "caf\udce9"}, r"^RUN: 'caf\\udce9' is not valid UTF-8 text"),
        ("evaluate", {"runs": 3}, "^RUNS: 3 is a number"),
        ("merge", {"sources": "demo", "duplicates": "kep"}, "^DUPLICATES: .*did you mean keep"),
        ("merge", {"sources": "demo", "split": [0.1]}, "^SPLIT: 0.1 is a number"),
        ("merge", {"sources": "demo", "split": {"val": [1]}}, "^SPLIT: .* is not a list"),
        ("merge", {"sources": "demo", "catagories": []}, "^CATAGORIES: .*did you mean CATEGORIES"),
        ("train", {"lerning_rate": 1}, "^LERNING_RATE: .*did you mean LEARNING_RATE"),
    ],
)
def test_parameters_of_another_type_are_named(handed_over, call, parameters, message):
    with pytest.raises(RelayError, match=message):
        getattr(notebook, call)(**parameters)
    assert handed_over == []


def test_missing_packages_are_named(monkeypatch, handed_over):
    monkeypatch.setattr(notebook, "missing", lambda: ["tyro>=0.9"])
    with pytest.raises(
        RelayError, match=r"missing or too old: tyro>=0\.9; run the notebook's first"
    ):
        notebook.train()
    assert handed_over == []


def test_ipython_shows_the_sentence_alone(capsys):
    shell_module = pytest.importorskip("IPython.core.interactiveshell")
    shell = shell_module.InteractiveShell()
    shell.run_cell("from relaydet.errors import RelayError\nraise RelayError('STORE x: mend it.')")
    assert capsys.readouterr().out.splitlines() == ["RelayError: STORE x: mend it."]


def test_pictures_are_shown_with_their_captions(monkeypatch, capsys):
    display = pytest.importorskip("IPython.display")
    shown = []
    monkeypatch.setattr(display, "display", shown.append)

    class Result:
        pictures = {"loss": Picture(b"1", "the loss"), "sizes": Picture(b"2", "the sizes")}  # noqa: RUF012

    notebook.show(Result())
    assert shown == list(Result.pictures.values())
    assert capsys.readouterr().out.splitlines() == ["the loss", "the sizes"]


def test_without_a_study_nothing_is_trained(handed_over, capsys):
    assert notebook.study(store="x") is None
    assert "no study is made" in capsys.readouterr().out
    notebook.show(None)
    assert handed_over == []


PARAMETERS_CELL = "RUNS = ['a']\nDATASET = 'd'\nSTORE = 'auto'\nSTUDY = ''\n"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        pytest.param([PARAMETERS_CELL], "", id="nothing injected"),
        pytest.param([PARAMETERS_CELL, "# Parameters\nRUNS = 'b'\nSTUDY = 'd'\n"], "", id="known"),
        pytest.param(["TAG = 1", PARAMETERS_CELL, "SEED = 1; EPOCH = 4"], "", id="one's own names"),
        pytest.param(
            ["", PARAMETERS_CELL, "# Parameters\nRUNS = 'b'\nDATASETS = 'x'\n"],
            "^DATASETS: this notebook has no such parameter; did you mean DATASET\\?$",
            id="close to one",
        ),
        pytest.param(
            [PARAMETERS_CELL, '# Parameters\nstore = "x"\n'],
            "^store: .*mean STORE",
            id="lower case",
        ),
        pytest.param(
            [PARAMETERS_CELL, "# Parameters\nXYZ = 3\n"],
            "^XYZ: .*there are DATASET, RUNS, STORE, STUDY.$",
            id="close to none",
        ),
        pytest.param(
            [PARAMETERS_CELL, "# Parameters\nDRAWS = 3\n"],
            "^DRAWS: .*add draws=DRAWS to the call",
            id="one that the job takes",
        ),
        pytest.param(
            [PARAMETERS_CELL, "# Parameters\nX = 3\n", PARAMETERS_CELL], "", id="run again by hand"
        ),
    ],
)
def test_a_parameter_that_papermill_set_in_vain_is_refused(
    monkeypatch, handed_over, cells, message
):
    shell = SimpleNamespace(user_ns={"In": cells})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))

    def evaluate():
        notebook.evaluate(runs=["a"], dataset="d", store="auto")

    if not message:
        evaluate()
        assert len(handed_over) == 1
        return
    with pytest.raises(RelayError, match=message):
        evaluate()
    assert handed_over == []


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("peple", ["cars", "people", "zoo"], "there are people, cars, zoo"),
        ("PEOPLE", ["cars", "people"], "there are people, cars"),
        ("x", [str(n) for n in range(10)], "there are 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"),
        ("x", [], "there is none yet"),
    ],
)
def test_what_there_is_instead_is_listed_with_likely_names_first(name, known, expected):
    assert listing(name, known) == expected
