"""What a run was started with: its folder, its config.json and its sealed manifests together."""

from __future__ import annotations

from dataclasses import asdict, replace

import msgspec
import pytest

import relaydet
from relaydet.config import TrainConfig
from relaydet.errors import ForeignFileError, RelayError
from relaydet.storage.local import LocalStore
from relaydet.training.checkpoint import Lineage, folder_of, load_newest, pack, publish
from relaydet.training.found import started_config
from relaydet.training.resume import find_start
from relaydet.training.run_files import RunFiles, as_json
from relaydet.training.settings import settle

CONFIG = TrainConfig(run="r", model="small", epochs=2, learning_rate=0.01, image_size=64, seed=0)
"""As a run has it that was started: what a user may leave open is decided."""
WRITTEN = asdict(CONFIG)


class Place:
    """A store with run r, and what was said of it."""

    def __init__(self, folder) -> None:
        self.store = LocalStore(folder / "store")
        self.unsent = folder / "unsent"
        self.cache = folder / "cache"
        self.said: list[str] = []

    def write_config(self, **changes) -> None:
        self.store.write("runs/r/config.json", as_json({**WRITTEN, **changes}))

    def publish(self, step: int, token: int = 1, config: object = WRITTEN, **facts) -> None:
        state = {"model": {}, "optimizer": {}, "step": step}
        facts |= {} if config is None else {"config": config}
        packed = pack(self.cache, step, Lineage(token, "me", 0), state, facts)
        publish(self.store, "r", packed)

    def started(self) -> TrainConfig | None:
        return started_config(self.store, "r", self.said.append)

    def step(self) -> int | None:
        """The step that a session goes on from, by what it finds here."""
        config = settle(self.started(), TrainConfig(run="r", seed=0), "cpu", self.said.append)
        start = find_start(self.store, "r", self.unsent, [], config, self.said.append)
        return start.checkpoint.step if start.checkpoint else None

    def told(self) -> str:
        return "\n".join(self.said)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def other(**changes) -> dict:
    return {**WRITTEN, **changes}


@pytest.mark.parametrize(
    ("config", "published", "expected", "step", "told"),
    [
        pytest.param({}, [WRITTEN], {}, 1, "", id="all say the same"),
        pytest.param({}, [], {}, None, "", id="killed before the first checkpoint"),
        pytest.param({}, [None], {}, 1, "", id="a manifest of a version without config"),
        pytest.param(
            {"seed": 5},
            [WRITTEN],
            {"seed": 0},
            1,
            "config.json says SEED 5 instead of 0, which its checkpoints were made with",
            id="a flipped digit beside one checkpoint",
        ),
        pytest.param(
            {"seed": 5},
            [WRITTEN, WRITTEN],
            {"seed": 0},
            2,
            "config.json says SEED 5 instead of 0",
            id="a flipped digit beside several",
        ),
        pytest.param(
            {},
            [WRITTEN, other(seed=7)],
            {},
            1,
            "with SEED 7 instead of 0",
            id="the newest is another run's of that name",
        ),
        pytest.param(
            {},
            [WRITTEN, other(run="b", seed=7)],
            {},
            1,
            "with SEED 7 instead of 0",
            id="the newest was copied from run b",
        ),
        pytest.param(
            None,
            [WRITTEN, other(run="b", seed=7)],
            {},
            1,
            "taken from its newest checkpoint",
            id="no config.json, and the newest was copied from run b",
        ),
        pytest.param(
            {}, [other(run="b")], {}, 1, "", id="a copied folder that was made a run of its own"
        ),
        pytest.param(
            {"epochs": 3}, [WRITTEN], {"epochs": 3}, 1, "made longer since", id="more epochs"
        ),
        pytest.param(
            {"epochs": 1},
            [WRITTEN],
            {"epochs": 2},
            1,
            "EPOCHS 1 instead of 2",
            id="fewer epochs than the checkpoint was made for",
        ),
        pytest.param(
            {"workers": 3, "device": "cuda", "store": "/x"}, [WRITTEN], {}, 1, "", id="free fields"
        ),
        pytest.param(
            {"weights": "/input/w.pth"},
            [other(weights="/drive/w.pth")],
            {"weights": "/input/w.pth"},
            1,
            "",
            id="the file of weights is elsewhere",
        ),
        pytest.param(
            {},
            [{k: v for k, v in WRITTEN.items() if k not in ("sync_batch_norm", "recompute")}],
            {},
            1,
            "",
            id="an older version's manifest has fewer fields",
        ),
        pytest.param(
            {"sync_batch_norm": True},
            [{k: v for k, v in WRITTEN.items() if k != "sync_batch_norm"}],
            {"sync_batch_norm": False},
            1,
            "SYNC_BATCH_NORM True instead of False",
            id="a field that is missing was at its default then",
        ),
        pytest.param(
            b"\x80", [WRITTEN], {}, 1, "config.json: damaged", id="config.json is damaged"
        ),
        pytest.param(
            {"sEed": 0}, [WRITTEN], {}, 1, "unknown field 'sEed'", id="a flipped letter in a key"
        ),
        pytest.param(
            {"run": "s"}, [WRITTEN], {}, 1, "damaged (run 's')", id="a flipped letter of run"
        ),
        pytest.param(
            {"run": "../../../escaped"}, [WRITTEN], {}, 1, "damaged (run '../", id="no way out"
        ),
        pytest.param(
            {"learning_rate": 1e308}, [WRITTEN], {}, 1, "LEARNING_RATE", id="a number out of range"
        ),
    ],
)
def test_what_a_run_was_started_with(place, config, published, expected, step, told):
    if isinstance(config, bytes):
        place.store.write("runs/r/config.json", config)
    elif config is not None:
        place.write_config(**config)
    for number, written in enumerate(published, start=1):
        place.publish(number, config=written)
    found = place.started()
    free = {"workers": found.workers, "device": found.device, "store": found.store}
    assert found == replace(CONFIG, **{**free, **expected})
    assert place.step() == step
    assert (told in place.told()) if told else "instead of" not in place.told()
    assert not (place.store.root.parent / "escaped").exists()


@pytest.mark.parametrize(
    ("config", "published", "message"),
    [
        pytest.param(
            {"seed": 5},
            [WRITTEN, other(seed=7)],
            "config.json says SEED 5 instead of 7 of the newest checkpoint",
            id="three say three things",
        ),
        pytest.param(
            {},
            [other(run="b", seed=7)],
            "has checkpoints and none can be used .*SEED 7 instead of 0",
            id="all checkpoints are of run b",
        ),
        pytest.param(
            None, [other(run="b")], "checkpoints of run 'b', and run 'r' has no config", id="alone"
        ),
        pytest.param(
            {"run": "../../../escaped"}, [], r"is of run '\.\./\.\./\.\./escaped'", id="escape"
        ),
        pytest.param(
            {"run": "first"},
            [other(run="first")],
            r"of run 'first' and not of 'r'.*write \"run\": \"r\" into that file",
            id="a copied folder",
        ),
        pytest.param(
            {"augment": "all", "relaydet": "99.1"},
            [],
            r"by relaydet 99\.1 and has 'augment', which .* does not know; update relaydet",
            id="a newer version's config.json",
        ),
        pytest.param(
            None,
            [other(augment="all")],
            r"by relaydet 99\.1 and has 'augment'",
            id="a newer version's configuration in a manifest",
        ),
    ],
)
def test_what_is_of_another_run_or_a_newer_version_is_refused(place, config, published, message):
    if config is not None:
        place.write_config(**config)
    for number, written in enumerate(published, start=1):
        place.publish(number, config=written, relaydet="99.1")
    with pytest.raises(RelayError, match=message):
        place.step()
    assert not (place.store.root.parent / "escaped").exists()


def test_a_newer_versions_checkpoint_is_not_passed_over(place):
    place.publish(1)
    place.publish(2, relaydet="99.1", ema=True)
    with pytest.raises(ForeignFileError, match=r"step-00000002\.json: .*99\.1 and has 'ema'"):
        load_newest(place.store, "r")
    place.publish(2, relaydet=relaydet.__version__, ema=True)
    assert load_newest(place.store, "r")[0].step == 2, "of this version it is a note of somebody's"


def test_config_json_names_the_version_that_wrote_it(place):
    RunFiles(place.store, "r").write_config(CONFIG)
    written = msgspec.json.decode(place.store.read("runs/r/config.json"))
    assert written["relaydet"] == relaydet.__version__
    assert RunFiles(place.store, "r").config() == CONFIG


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 2**70),
        ("seed", -1),
        ("seed", "5x"),
        ("image_size", 10**9),
        ("image_size", 0),
        ("image_size", None),
        ("learning_rate", None),
        ("learning_rate", 1e308),
        ("learning_rate", -0.1),
        ("epochs", -1),
        ("epochs", None),
        ("epochs", 10**12),
        ("batch_size", 0),
        ("batch_size", 10**9),
        ("batch_size", 1.5),
        ("workers", 10**6),
        ("keep_last", 0),
        ("include", "street"),
        ("include", [1]),
        ("include", {}),
        ("model", "auto"),
        ("model", "yolo"),
        ("model", 7),
        ("dataset", "../x"),
        ("dataset", ""),
        ("gpus", "many"),
        ("sync_batch_norm", "perhaps"),
    ],
)
def test_what_config_json_says_is_validated_as_what_a_user_says(place, field, value):
    place.write_config(**{field: value})
    assert place.started() is None
    assert "config.json: damaged (" in place.told()
    assert place.told().endswith("; it counts as absent")
    place.publish(3)
    assert place.started() == CONFIG, "the sealed manifest tells"


def test_a_manifest_that_cannot_be_trained_with_says_nothing(place):
    place.publish(1, config=other(seed=2**70))
    assert place.started() is None
    place.publish(2, config=WRITTEN)
    assert place.started() == CONFIG


def test_weights_are_read_at_the_start_alone(place):
    place.write_config(weights="/drive/w.pth")
    place.publish(1, config=other(weights="/drive/w.pth"))
    asked = TrainConfig(run="r", weights="/input/w.pth")
    config = settle(place.started(), asked, "cpu", place.said.append)
    assert config.weights == "/input/w.pth"
    assert "WEIGHTS: '/drive/w.pth' until now, '/input/w.pth' from here on" in place.told()
    start = find_start(place.store, "r", place.unsent, [], config, place.said.append)
    assert start.checkpoint.step == 1
    for named in ("coco", "none"):
        with pytest.raises(RelayError, match="started with another WEIGHTS"):
            settle(place.started(), replace(asked, weights=named), "cpu", place.said.append)


def test_a_listing_of_manifests_is_newest_first(place):
    for step, token in ((5, 1), (3, 2), (4, 2)):
        place.publish(step, token, config=other(seed=step))
    place.store.delete("runs/r/config.json")
    assert place.started().seed == 4
    assert len(place.store.names(folder_of("r"))) == 6
