"""What a run is trained with: the recipe's values when new, its own values when it goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relaydet.config import TrainConfig
from relaydet.errors import RelayError
from relaydet.training.settings import settle


def quiet(line: str) -> None:
    pass


@pytest.mark.parametrize(
    ("asked", "device_type", "model", "epochs", "rate", "image_size"),
    [
        pytest.param({}, "cpu", "small", 6, 1e-3, 128, id="auto on a CPU"),
        pytest.param({}, "cuda", "resnet50_fpn", 12, 0.01, 800, id="auto on a GPU"),
        pytest.param(
            {"batch_size": 16}, "cuda", "resnet50_fpn", 12, 0.02, 800, id="rate follows the batch"
        ),
        pytest.param(
            {"epochs": 3, "learning_rate": 0.5, "image_size": 64, "model": "resnet18"},
            *("cpu", "resnet18", 3, 0.5, 64),
            id="as asked",
        ),
    ],
)
def test_a_new_run(asked, device_type, model, epochs, rate, image_size):
    said = []
    config = settle(None, TrainConfig(**asked), device_type, said.append)
    assert (config.model, config.epochs, config.image_size) == (model, epochs, image_size)
    assert config.learning_rate == pytest.approx(rate)
    assert said == [said[0]]
    assert model in said[0]


STARTED = settle(
    None, TrainConfig(run="night", epochs=7, include=("a",), seed=5, batch_size=4), "cpu", quiet
)


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({}, id="nothing given"),
        pytest.param({"epochs": 7, "seed": 5, "model": "small"}, id="the same given again"),
        pytest.param(
            {"include": ("a",), "image_size": 128, "learning_rate": 1e-3}, id="decided ones"
        ),
    ],
)
def test_a_resumed_run_keeps_what_it_was_started_with(asked):
    assert settle(STARTED, TrainConfig(run="night", **asked), "cuda", quiet) == STARTED


@pytest.mark.parametrize(
    "free",
    [
        {"max_minutes": 5.0},
        {"checkpoint_minutes": 1.0},
        {"micro_batch": 2},
        {"workers": 0},
        {"device": "cpu"},
        {"precision": "float32"},
        {"deterministic": True},
        {"store": "elsewhere"},
        {"images": ("a=/mnt/a",)},
        {"take_over": True},
        {"resume_from": "/kaggle/input/night"},
        {"keep_last": 5},
        {"keep_gigabytes": 0.5},
    ],
    ids=lambda free: next(iter(free)),
)
def test_where_and_how_fast_may_change(free):
    resumed = settle(STARTED, TrainConfig(run="night", **free), "cpu", quiet)
    assert resumed == replace(STARTED, **free)
    assert settle(resumed, TrainConfig(run="night"), "cpu", quiet) == STARTED, "for one session"


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 6},
        {"seed": 6},
        {"batch_size": 16},
        {"include": ("b",)},
        {"learning_rate": 0.1},
        {"image_size": 64},
        {"model": "resnet18"},
        {"weights": "none"},
        {"dataset": "other"},
        {"seed": 6, "epochs": 6},
    ],
    ids=lambda change: " and ".join(change),
)
def test_what_is_trained_may_not_change(change):
    with pytest.raises(RelayError, match="'night' was started with another") as caught:
        settle(STARTED, TrainConfig(run="night", **change), "cpu", quiet)
    message = str(caught.value)
    for field, value in change.items():
        assert f"{field.upper()} ({getattr(STARTED, field)!r} then, {value!r} now)" in message


def test_a_run_may_be_made_longer_and_that_is_said():
    said = []
    longer = settle(STARTED, TrainConfig(run="night", epochs=9), "cpu", said.append)
    assert longer == replace(STARTED, epochs=9)
    sentence = said[0]
    assert sentence.startswith("EPOCHS: 7 until now, 9 from here on")
    assert "will differ" in sentence
    assert settle(longer, TrainConfig(run="night"), "cpu", quiet) == longer, "it stays so"
    with pytest.raises(RelayError, match=r"EPOCHS \(9 then, 7 now\)"):
        settle(longer, TrainConfig(run="night", epochs=7), "cpu", quiet)


def test_a_longer_run_may_differ_in_nothing_else():
    with pytest.raises(RelayError, match=r"another SEED \(5 then, 6 now\); set it back"):
        settle(STARTED, TrainConfig(run="night", epochs=9, seed=6), "cpu", quiet)


@pytest.mark.parametrize("started", [None, STARTED], ids=["new", "resumed"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", -1),
        ("batch_size", 0),
        ("batch_size", -8),
        ("learning_rate", 0.0),
        ("learning_rate", -0.1),
        ("learning_rate", float("nan")),
        ("micro_batch", 0),
        ("micro_batch", -1),
        ("workers", -1),
        ("checkpoint_minutes", -1.0),
        ("max_minutes", -1.0),
        ("seed", 2**63),
        ("seed", -1),
        ("keep_last", 1),
        ("keep_last", 0),
        ("keep_gigabytes", 0.0),
        ("keep_gigabytes", -5.0),
    ],
)
def test_numbers_that_make_no_sense_are_refused(started, field, value):
    with pytest.raises(RelayError, match=rf"{field.upper()}.*{value}"):
        settle(started, TrainConfig(run="night", **{field: value}), "cpu", quiet)


@pytest.mark.parametrize(
    ("field", "value"),
    [("workers", 0), ("max_minutes", 0.0), ("checkpoint_minutes", 0.0), ("keep_last", 2)],
)
def test_the_least_that_makes_sense_is_taken(field, value):
    config = settle(None, TrainConfig(run="night", **{field: value}), "cpu", quiet)
    assert getattr(config, field) == value


def test_an_unknown_model_is_refused():
    with pytest.raises(RelayError, match="no model 'yolo'"):
        settle(None, TrainConfig(model="yolo"), "cpu", quiet)
