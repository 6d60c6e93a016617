"""Detectors on one dataset: predicted where that is not done yet, scored, and kept in the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from torchvision.models.detection import FasterRCNN

from relaydet.config import EvaluateConfig
from relaydet.data.loader import Samples
from relaydet.data.saved import SavedDataset
from relaydet.errors import RelayError
from relaydet.evaluation.analysis import Analysis, analyse
from relaydet.evaluation.detectors import Detector
from relaydet.evaluation.predict import Prediction, predict
from relaydet.evaluation.records import Detections, Truth, truth_of
from relaydet.evaluation.results import detections_of
from relaydet.evaluation.score import METRICS, Scores, score, score_per_source
from relaydet.evaluation.shards import Shards
from relaydet.evaluation.significance import Significance, bootstrap
from relaydet.json_file import UNDECODABLE
from relaydet.runtime.detect import detect
from relaydet.runtime.device import choose_device, devices_to_share
from relaydet.storage.store import Store
from relaydet.training.export import facts_name, record_ap
from relaydet.training.run_files import as_json, now

Show = Callable[[str, int], Callable[[Iterable], Iterable]]
"""Makes a wrapper that shows how an iteration comes along, from a label and a total."""


@dataclass(frozen=True, eq=False)
class Evaluated:
    """One detector on one dataset."""

    run: str
    """The detector's name."""
    metrics: dict[str, Any]
    """As in metrics.json."""
    scores: Scores
    found: Detections


@dataclass(frozen=True, eq=False)
class OnDataset:
    """All detectors on one dataset."""

    dataset: str
    sha256: str
    truth: Truth
    samples: Samples
    runs: list[Evaluated]
    significance: Significance | None
    """Intervals and differences; None where none were asked for."""
    analyses: dict[str, Analysis]
    """By detector: what it gets wrong."""


class _Made(msgspec.Struct, frozen=True):
    """What detections were made from, in metrics.json."""

    model_sha256: str
    dataset_sha256: str


def evaluate_on(
    store: Store,
    saved: SavedDataset,
    samples: Samples,
    detectors: Sequence[Detector],
    config: EvaluateConfig,
    show: Show,
    say: Callable[[str], None],
) -> OnDataset:
    """Evaluate all detectors on a dataset, and their differences.

    Args:
        store: where the evaluations of runs are kept.
        saved: the dataset.
        samples: its images.
        detectors: what to evaluate.
        config: how.
        show: shows the progress of what takes long.
        say: takes each line that tells the user what happens.

    Raises:
        RelayError: a detector has no category in common with the dataset, or its results are of
            another one.
    """
    work = _Work(store, saved, samples, truth_of(saved.annotations), config, show, say)
    runs = [_evaluated(work, detector) for detector in detectors]
    significance = None
    if config.draws:
        found = {run.run: run.found for run in runs}
        draws = show(f"bootstrap on {saved.name}", config.draws)
        significance = bootstrap(work.truth, found, draws=config.draws, progress=draws)
    analyses = {run.run: analyse(work.truth, run.found) for run in runs}
    return OnDataset(saved.name, saved.sha256, work.truth, samples, runs, significance, analyses)


@dataclass(frozen=True, eq=False)
class _Work:
    """What is the same for all detectors."""

    store: Store
    saved: SavedDataset
    samples: Samples
    truth: Truth
    config: EvaluateConfig
    show: Show
    say: Callable[[str], None]

    def folder(self, detector: Detector) -> str:
        """Where a detector's evaluation is kept."""
        return f"{detector.home}/evaluations/{self.saved.name}"

    def shards(self, detector: Detector) -> Shards:
        """Where its unfinished detections are; the batch size may reach their last digits."""
        key = f"{detector.sha256} {self.saved.sha256} {self.config.batch_size}"
        return Shards(self.store, f"{self.folder(detector)}/parts", key)


@dataclass(frozen=True)
class _Said:
    """What a detector says of a dataset."""

    results: bytes
    """A COCO results file."""
    unmatched: tuple[str, ...] = ()
    """Sentences on categories that only one side has."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What predicting took; empty where it was done before."""


def _evaluated(work: _Work, detector: Detector) -> Evaluated:
    said = _said(work, detector)
    found = detections_of(said.results, work.truth, detector.name)
    for line in (*said.unmatched, *found.findings):
        work.say(f"run {detector.name!r}: {line}")
    began = time.perf_counter()
    scores = score(work.truth, found, verify=work.config.verify)
    seconds = {**said.seconds, "scoring": time.perf_counter() - began}
    metrics = {
        **scores.metrics,
        "per_category": scores.per_category,
        "per_source": score_per_source(work.truth, found),
        "engine": scores.engine,
        "unmatched_categories": list(said.unmatched),
        "findings": list(found.findings),
        "counts": _counts(work.truth, found),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        **_origin(work.saved, detector),
    }
    _keep(work, detector, said, metrics)
    return Evaluated(detector.name, metrics, scores, found)


def _origin(saved: SavedDataset, detector: Detector) -> dict[str, Any]:
    """What metrics.json says of where the numbers are from."""
    return {
        "run": detector.name,
        "step": detector.step,
        "dataset": saved.name,
        "dataset_sha256": saved.sha256,
        "model_sha256": detector.sha256,
        "date": now(),
    }


def _keep(work: _Work, detector: Detector, said: _Said, metrics: dict[str, Any]) -> None:
    """Write down what came out, then remove the parts that it was put together from."""
    if detector.home:
        folder = work.folder(detector)
        if said.seconds:
            work.store.write(f"{folder}/detections.json", said.results)
        work.store.write(f"{folder}/metrics.json", as_json(metrics))
        work.shards(detector).clear()
    if detector.of_run and work.store.exists(facts_name(detector.name)):  # else it is attached
        record_ap(work.store, detector.name, work.saved.name, {n: metrics[n] for n in METRICS})


def _said(work: _Work, detector: Detector) -> _Said:
    """Detections: as they were given, as they were kept, or predicted now."""
    if detector.model is None:
        return _Said(detector.results)
    ids = _category_ids(detector, work.saved)
    unmatched = tuple(_unmatched(ids, detector, work.saved))
    kept = _kept(work.store, work.folder(detector), detector, work.saved)
    if kept is not None:
        work.say(f"run {detector.name!r}: detections on {work.saved.name!r} are there already")
        return _Said(kept, unmatched)
    done = _predicted(work, detector, detector.model)
    known = [
        {**d, "category_id": ids[d["category_id"]]}
        for d in done.detections
        if d["category_id"] in ids
    ]
    seconds = {"loading": done.loading_seconds, "inference": done.inference_seconds}
    return _Said(msgspec.json.encode(known), unmatched, seconds)


def _predicted(work: _Work, detector: Detector, model: FasterRCNN) -> Prediction:
    device = choose_device(work.config.device, "float32", detect().name)
    if device.warning:
        work.say(f"WARNING: {device.warning}; {device.remedy}")
    label = f"predicting with {detector.name}"
    return predict(
        model,
        work.samples,
        devices_to_share(device, work.config.device),
        work.config.batch_size,
        workers=0 if device.device.type == "cpu" else 2,
        progress=lambda batches, total: work.show(label, total)(batches),
        say=work.say,
        shards=work.shards(detector),
    )


def _category_ids(detector: Detector, saved: SavedDataset) -> dict[int, int]:
    """The dataset's category id of each of the model's labels, matched by name."""
    ids = {category.name: int(category.id) for category in saved.dataset.categories}
    names = detector.categories or tuple(ids)
    found = {label: ids[name] for label, name in enumerate(names, start=1) if name in ids}
    if not found:
        raise RelayError(
            f"Run {detector.name!r} detects {', '.join(names)} and dataset {saved.name!r} has"
            f" {', '.join(ids)}: nothing to compare; choose another DATASET or merge it with the"
            " model's categories."
        )
    return found


def _unmatched(ids: dict[int, int], detector: Detector, saved: SavedDataset) -> list[str]:
    """A sentence for the categories that only the dataset has, or only the model."""
    known, names = set(ids.values()), detector.categories
    only_data = [c.name for c in saved.dataset.categories if c.id not in known]
    only_model = [name for label, name in enumerate(names, start=1) if label not in ids]
    lines = []
    if only_data:
        lines.append(
            f"it does not know {', '.join(only_data)}, which count as 0 in the averages; see"
            " per_category in metrics.json"
        )
    if only_model:
        more = f" and {len(only_model) - 5} more" if len(only_model) > 5 else ""
        lines.append(
            f"its {', '.join(only_model[:5])}{more} are not in the dataset and are left out"
        )
    return lines


def _kept(store: Store, folder: str, detector: Detector, saved: SavedDataset) -> bytes | None:
    """Detections of an earlier call, where model and dataset are still the same."""
    if not store.exists(f"{folder}/metrics.json") or not store.exists(f"{folder}/detections.json"):
        return None
    try:
        made = msgspec.json.decode(store.read(f"{folder}/metrics.json"), type=_Made)
        data = store.read(f"{folder}/detections.json")
        msgspec.json.decode(data)
    except UNDECODABLE:
        return None  # damaged: predicting again mends it
    return data if made == _Made(detector.sha256, saved.sha256) else None


def _counts(truth: Truth, found: Detections) -> dict[str, int]:
    crowd = int(np.count_nonzero(truth.crowd_N))
    return {
        "images": len(truth.image_ids),
        "objects": len(truth.ids) - crowd,
        "crowd": crowd,
        "detections": len(found),
    }
